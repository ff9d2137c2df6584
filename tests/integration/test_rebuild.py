import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import docker
import pytest

from gemma3build.engine.cache import Cache
from gemma3build.engine.images import Images
from gemma3build.engine.runner import CACHE_VARIABLE
from gemma3build.errors import ErrorCode
from gemma3build.pins import lockfile
from gemma3build.pins.config import load_images
from gemma3build.rebuild.archive import unpack
from gemma3build.rebuild.attestation import attestation_path
from tests.conftest import COMMAND, SHAPES, Command

pytestmark = pytest.mark.integration

INT8 = "tiny_q8_ekv64"
CLOSED = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}


@pytest.fixture
def release(warm: Command, tiny: Path) -> Path:
    arguments = ("--checkpoint", str(tiny), "--scheme", "dynamic_int8", "--scheme", "fp16")
    return Path(warm.json("build", *arguments, *SHAPES)["release"])


def own_copy(path: Path, content: bytes) -> None:
    """Replace a file that is a link into the cache."""
    path.unlink()
    path.write_bytes(content)


def with_clock(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        members, central = archive.infolist(), archive.start_dir
    data = bytearray(path.read_bytes())
    for member in members:
        data[member.header_offset + 10 : member.header_offset + 14] = b"\x01\x23\xb1\x5c"
        data[central + 12 : central + 16] = b"\x01\x23\xb1\x5c"
        central += 46 + len(member.orig_filename) + len(member.extra)
    return bytes(data)


def test_a_release_is_rebuilt_and_every_way_to_differ_has_its_verdict(
    warm: Command, tiny: Path, release: Path
) -> None:
    arguments = ("rebuild", str(release), "--checkpoint", str(tiny))
    steps = {path.name for path in (warm.cache / "steps").iterdir()}
    found = warm.json(*arguments)
    assert {item["verdict"] for item in found["files"]} == {"identical"}
    names = {item["path"] for item in found["files"]}
    assert {f"{INT8}.task", f"{INT8}.litertlm", "manifest.json", "SHA256SUMS"} <= names
    assert found["unlike"] == []
    assert {path.name for path in (warm.cache / "steps").iterdir()} == steps
    assert not list((warm.cache / "staging").glob("rebuild-*"))
    statement = json.loads(attestation_path(release).read_bytes())
    assert statement["predicate"]["verdict"] == "identical"
    assert len(statement["subject"]) == 6

    bundle, other = (release / f"{INT8}.{kind}" for kind in ("task", "litertlm"))
    own_copy(bundle, with_clock(bundle))
    done = warm.run(*arguments)
    assert done.returncode == ErrorCode.NOT_IDENTICAL.exit_code, done.stderr
    assert "equivalent once stabilized" in done.stdout
    assert "clock of the zip members" in done.stdout

    own_copy(other, other.read_bytes().replace(b"<filler500>", b"<FILLER500>"))
    done = warm.run(*arguments, "--json")
    assert done.returncode == ErrorCode.DIFFERENT.exit_code, done.stderr
    files = {item["path"]: item for item in json.loads(done.stdout)["files"]}
    assert files[bundle.name]["verdict"] == "equivalent once stabilized"
    (difference,) = files[other.name]["differences"]
    assert difference["part"] == "section SP_Tokenizer"
    assert difference["released"] != difference["rebuilt"]


def test_a_checkpoint_that_was_changed_is_refused_before_the_work(
    warm: Command, tiny: Path, release: Path, tmp_path: Path
) -> None:
    done = warm.run("rebuild", str(release))
    assert (done.returncode, "--checkpoint DIR" in done.stderr) == (6, True)
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    done = warm.run("rebuild", str(release), "--checkpoint", str(other))
    assert done.returncode == ErrorCode.REQUEST.exit_code
    assert "is not the checkpoint in its manifest" in done.stderr


def test_an_archive_has_all_that_an_image_and_a_rebuild_need(
    warm: Command,
    tiny: Path,
    release: Path,
    tmp_path: Path,
    user_cache: Path,
    client: docker.DockerClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(user_cache / "wheels", tmp_path / "cache" / "wheels", copy_function=os.link)
    done = Command(tmp_path / "cache", tmp_path).run("archive", str(release), "-o", "a.tar")
    assert done.returncode == 0, done.stderr
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    index = unpack(tmp_path / "a.tar", unpacked)
    assert not index.complete
    assert not list(unpacked.glob("checkpoint/*"))

    # From here on nothing can be fetched.
    for name, value in CLOSED.items():
        monkeypatch.setenv(name, value)
    images = Images(client, Cache(unpacked), load_images(), print, archived=unpacked / "base")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(lockfile, "CONTAINERS_DIR", unpacked / "source" / "containers")
            found = images.ensure("fetch")
        engines = Images(client, Cache(user_cache), load_images(), print).find("fetch")
        assert engines is not None
        assert found.digest == engines.digest
        assert found.tag != engines.tag
    finally:
        images.forget()
    tags = [tag for image in client.images.list() for tag in image.tags]
    assert found.tag not in tags
    assert engines.tag in tags

    done = subprocess.run(
        [*COMMAND, "rebuild", str(release), "--checkpoint", str(tiny), "--json"],
        cwd=unpacked / "source",
        env={
            **os.environ,
            CACHE_VARIABLE: str(tmp_path / "empty"),
            "PYTHONPATH": str(unpacked / "source"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {item["verdict"] for item in json.loads(done.stdout)["files"]} == {"identical"}


def test_a_local_checkpoint_is_not_archived(warm: Command, release: Path) -> None:
    done = warm.run("archive", str(release), "--with-checkpoint")
    assert done.returncode == ErrorCode.REQUEST.exit_code
    assert "its checkpoint is not that of a pinned model" in done.stderr
