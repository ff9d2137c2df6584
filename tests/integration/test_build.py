import json
import shutil
import subprocess
import time
from pathlib import Path

import docker
import jsonschema
import pytest

from gemma3build.formats.litertlm import read_sections
from gemma3build.release.manifest import term_files
from gemma3build.schema.manifest import schema
from gemma3build.util.files import sha256_bytes
from tests.conftest import SHAPES, Command

pytestmark = pytest.mark.integration

SUFFIXES = (
    "f32",
    "q8",
    "q8_wo",
    "fp16",
    "q4_block32",
    "q4_block128",
    "upstream_q8",
    "upstream_q4_block32",
    "upstream_q4_block128",
)
KINDS = ("tflite", "task", "litertlm")
FILES = {f"tiny_{suffix}_ekv64.{kind}" for suffix in SUFFIXES for kind in KINDS}


def build(tiny: Path, *arguments: str) -> tuple[str, ...]:
    return ("build", "--checkpoint", str(tiny), *SHAPES, *arguments)


def test_all_schemes_make_a_release_that_sha256sum_accepts(warm: Command, tiny: Path) -> None:
    outcome = warm.json(*build(tiny, "--scheme", "all"))
    release = Path(outcome["release"])
    assert release == warm.folder / "artifacts" / "tiny"
    names = {path.name for path in release.iterdir()}
    unlisted = {"SHA256SUMS", "evaluation.json", "report.html", "provenance.intoto.jsonl"}
    assert names == FILES | {"manifest.json", "sbom.cdx.json", *unlisted, *term_files()}
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release, check=True)
    listed = {line.split("  ")[1] for line in (release / "SHA256SUMS").read_text().splitlines()}
    assert listed == names - unlisted


def test_the_manifest_fits_its_schema_and_tells_no_clock_host_or_path(
    warm: Command, tiny: Path
) -> None:
    release = Path(warm.json(*build(tiny, "--scheme", "all"))["release"])
    text = (release / "manifest.json").read_text()
    manifest = json.loads(text)
    jsonschema.validate(manifest, schema())
    assert str(tiny.parent) not in text
    assert str(warm.cache) not in text
    found = {item["path"]: item for item in manifest["artifacts"]}
    for suffix in SUFFIXES:
        model, task, litertlm = (found[f"tiny_{suffix}_ekv64.{kind}"] for kind in KINDS)
        assert task["facts"]["members"]["TF_LITE_PREFILL_DECODE"] == model["sha256"]
        path = release / litertlm["path"]
        sections = {
            name: sha256_bytes(path.read_bytes()[offset : offset + size])
            for name, (offset, size) in read_sections(path).items()
        }
        assert litertlm["facts"]["sections"] == sections
        assert sections["TFLiteModel"] == model["sha256"]
    weights = found["tiny_q4_block32_ekv64.tflite"]["facts"]["weights"]
    assert weights["embedding"] == {"block_size": 0, "tensors": 1, "type": "INT8"}
    assert weights["attention"] == {"block_size": 32, "tensors": 2, "type": "INT4"}
    assert weights["qkv"] == {"block_size": 0, "tensors": 2, "type": "INT8"}
    assert weights["feed_forward"] == {"block_size": 32, "tensors": 6, "type": "INT4"}


def test_a_build_with_nothing_to_do_starts_no_container(
    warm: Command, tiny: Path, client: docker.DockerClient
) -> None:
    first = warm.json(*build(tiny, "--scheme", "all"))
    assert not first["idle"]
    started = int(time.time())
    second = warm.json(*build(tiny, "--scheme", "all"))
    events = client.api.events(since=started, until=int(time.time()) + 1, decode=True)
    kinds = {event["Type"] for event in events}
    assert "container" not in kinds
    assert second["idle"]
    assert second["seconds"] < 1.5


def test_another_tokenizer_bundles_again_but_does_not_export_again(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    cache = shutil.copytree(warm.cache, tmp_path / "cache")
    other = tmp_path / "other.model"
    content = (tiny / "tokenizer.model").read_bytes()
    other.write_bytes(content.replace(b"<filler500>", b"<FILLER500>"))
    arguments = build(tiny, "--scheme", "dynamic_int8", "--tokenizer", str(other))
    done = Command(cache, tmp_path).run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "export  kept from before" in done.stderr
    assert "bundle-dynamic_int8 …" in done.stderr
    assert "package-dynamic_int8 …" in done.stderr


def test_a_chat_template_packages_again_and_nothing_else(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    cache = shutil.copytree(warm.cache, tmp_path / "cache")
    checkpoint = shutil.copytree(tiny, tmp_path / "tiny")
    template = "{% for m in messages %}<start_of_turn>{{ m.content[0].text }}{% endfor %}"
    (checkpoint / "chat_template.jinja").write_text(template)
    done = Command(cache, tmp_path).run(*build(checkpoint, "--scheme", "dynamic_int8"))
    assert done.returncode == 0, done.stderr
    assert "bundle-dynamic_int8  kept from before" in done.stderr
    assert "reference  kept from before" in done.stderr
    assert "package-dynamic_int8 …" in done.stderr
    (path,) = (tmp_path / "artifacts" / "tiny").glob("*.litertlm")
    offset, size = read_sections(path)["LlmMetadataProto"]
    assert template.encode() in path.read_bytes()[offset : offset + size]


def test_a_users_scheme_leaves_a_group_in_float(warm: Command, tiny: Path, tmp_path: Path) -> None:
    scheme = tmp_path / "mixed.toml"
    scheme.write_text(
        'name = "mixed"\nsuffix = "mixed"\nsummary = "attention in float"\n'
        "[embedding]\nbits = 8\n"
        '[feed_forward]\nbits = 4\ngranularity = "blockwise_64"\n'
    )
    cache = shutil.copytree(warm.cache, tmp_path / "cache")
    release = Path(Command(cache, tmp_path).json(*build(tiny, "--scheme", str(scheme)))["release"])
    manifest = json.loads((release / "manifest.json").read_text())
    (record,) = (a for a in manifest["artifacts"] if a["path"] == "tiny_mixed_ekv64.tflite")
    types = {name: weight["type"] for name, weight in record["facts"]["weights"].items()}
    assert types == {"attention": "FLOAT32", "embedding": "INT8", "feed_forward": "INT4"}


def test_a_release_is_replaced_whole(warm: Command, tiny: Path) -> None:
    release = Path(warm.json(*build(tiny, "--scheme", "all"))["release"])
    stray = release / "stray.txt"
    stray.write_text("left by hand")
    warm.json(*build(tiny, "--scheme", "dynamic_int8"))
    assert not stray.exists()
    assert {path.name for path in release.glob("*.tflite")} == {"tiny_q8_ekv64.tflite"}
    assert [path.name for path in release.parent.iterdir()] == ["tiny"]


def test_a_hub_cache_full_of_links_can_be_built(warm: Command, tiny: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "tiny"
    snapshot.mkdir(parents=True)
    for path in tiny.iterdir():
        (snapshot / path.name).symlink_to(path)
    done = warm.run(*build(snapshot, "--scheme", "all"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("kept from before") == 39
