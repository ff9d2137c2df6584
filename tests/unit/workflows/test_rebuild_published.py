"""Rebuild a release on a Hub on loopback; the test writes what the containers would build."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from gemma3build.cli import rebuild as command
from gemma3build.cli.app import app
from gemma3build.engine.cache import Cache
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.pins.lockfile import read_models_lock
from gemma3build.release.checksums import CHECKSUMS
from gemma3build.release.sbom import SBOM
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import sha256_bytes
from gemma3build.util.serialize import encode
from gemma3build.verify.checks import read_record
from gemma3build.verify.untrusted import UntrustedFolder, list_folder
from gemma3build.workflows import rebuild as workflow
from tests.support.checkpoint import write_checkpoint
from tests.support.hub import Hub
from tests.support.release import (
    METADATA,
    TASK,
    TFLITE,
    TOKENIZER,
    edit_json,
    model,
    seal,
    task,
    write_release,
)

REPO = "org/mine-litert"
ADDRESS = f"hf://{REPO}@v1"
ATTESTATION = "mine-litert.rebuild.intoto.jsonl"
# As TASK, in another order: a part of it differs.
OTHER_TASK = task(
    {
        "TF_LITE_PREFILL_DECODE": model("dynamic_int8"),
        "TOKENIZER_MODEL": TOKENIZER,
        "METADATA": METADATA.upper(),
    }
)

Rebuild = Callable[..., Any]


def name_checkpoint(folder: Path, **record: Any) -> None:
    """Name a pinned model, or this, as the checkpoint of a release."""
    locked = read_models_lock().models["gemma3-270m"]
    pinned = {
        "source": locked.source,
        "revision": locked.revision,
        "fetched": encode(tuple(sorted(locked.files))),
    }
    edit_json(folder / MANIFEST, lambda value: value["checkpoint"].update(pinned | record))
    digest = sha256_bytes((folder / MANIFEST).read_bytes())
    edit_json(folder / EVALUATION, lambda value: value.update(manifest=digest))
    seal(folder)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = write_release(tmp_path / "release")
    name_checkpoint(folder)
    return folder


def put(hub: Hub, release: Path) -> None:
    hub.add(REPO, {path.name: path.read_bytes() for path in release.iterdir()})
    hub.repos[REPO].refs["refs/tags/v1"] = hub.repos[REPO].refs["refs/heads/main"]


@pytest.fixture
def rebuild(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rebuild:
    """Run the command in an empty folder; its containers build the release, with changes."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("GEMMA3BUILD_CACHE", str(tmp_path / "cache"))
    runner = SimpleNamespace(
        images=lambda _: {},
        packages=lambda _: {},
        run=lambda *_: {},
        sources={},
        config=SimpleNamespace(source_date_epoch=0),
        downloads=None,
        say=print,
    )
    containers = SimpleNamespace(list=lambda **_: [])
    client = SimpleNamespace(version=lambda: {"Version": "1"}, containers=containers)
    monkeypatch.setattr("gemma3build.engine.docker.connect", lambda: client)
    made = read_record(list_folder(release))
    results: dict[str, Any] = {
        "Runner": runner,
        "keep_checkpoint": None,
        "make_manifest": made,
        "make_sbom": b"",
        "release_texts": {},
    }
    for name, result in results.items():
        monkeypatch.setattr(workflow, name, lambda *_, found=result, **__: found)

    def run(*arguments: str, **changed: bytes) -> Any:
        def lay_out(path: Path, *_: object) -> UntrustedFolder:
            shutil.copytree(release, path)
            for name, content in changed.items():
                (path / {"task": TASK, "tflite": TFLITE}[name]).write_bytes(content)
            return list_folder(path)

        monkeypatch.setattr(workflow, "write_rebuilt", lay_out)
        return CliRunner().invoke(app, ["rebuild", *arguments])

    return run


def differing(done: Any, code: ErrorCode) -> tuple[Any, dict[str, Any]]:
    """Expect this error; return the result of the command, and the compared files by path."""
    assert isinstance(done.exception, BuildError)
    assert done.exception.code is code
    return done, {item["path"]: item for item in done.exception.result["files"]}


def downloads(hub: Hub) -> list[str]:
    return [request for request in hub.requests if request.startswith("GET /lfs/")]


def test_a_published_release_is_rebuilt_from_its_records_and_stated_digests(
    hub: Hub, release: Path, rebuild: Rebuild, tmp_path: Path
) -> None:
    put(hub, release)
    done = rebuild(ADDRESS, "--json")
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert found["release"] == ADDRESS
    assert {item["verdict"] for item in found["files"]} == {"identical"}
    assert {TASK, TFLITE, MANIFEST} <= {item["path"] for item in found["files"]}
    assert downloads(hub) == []
    statement = json.loads(Path(ATTESTATION).read_bytes())
    digests = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    assert digests[TASK] == sha256_bytes((release / TASK).read_bytes())
    assert len(digests) == 4
    assert rebuild(ADDRESS, "--attestation", str(tmp_path / "a.jsonl")).exit_code == 0
    assert (tmp_path / "a.jsonl").read_bytes() == Path(ATTESTATION).read_bytes()


def test_a_rebuild_removes_what_killed_ones_left_and_keeps_the_cache_from_being_emptied(
    release: Path, rebuild: Rebuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def look(_: object, cache: Cache) -> None:
        seen.append(cache.root)
        monkeypatch.setattr(workflow, "environment_differences", prune)

    def prune(*_: object) -> None:
        Cache(seen[0]).prune(everything=True)

    monkeypatch.setattr("gemma3build.engine.container.remove_orphans", look)
    assert rebuild(str(release)).exception.code is ErrorCode.IN_USE
    assert seen == [tmp_path / "cache"]
    prune()


def test_a_file_that_differs_is_downloaded_and_no_other(
    hub: Hub, release: Path, rebuild: Rebuild
) -> None:
    put(hub, release)
    done, files = differing(rebuild(ADDRESS, "--json", task=OTHER_TASK), ErrorCode.DIFFERENT)
    assert [item["part"] for item in files[TASK]["differences"]] == ["member METADATA"]
    assert files[TASK]["released"] == sha256_bytes((release / TASK).read_bytes())
    assert files[TFLITE]["verdict"] == "identical"
    assert downloads(hub) == [f"GET /lfs/{files[TASK]['released']}"]
    assert f"Downloading {TASK}, which differs" in done.stderr


def test_with_full_everything_is_downloaded_before_and_nothing_after(
    hub: Hub, release: Path, rebuild: Rebuild
) -> None:
    # gemma3build then compares the tokenizer in the bundles, too.
    put(hub, release)
    assert rebuild(ADDRESS, "--full", task=OTHER_TASK).exception.code is ErrorCode.DIFFERENT
    assert len(downloads(hub)) == 4


def test_a_clock_in_a_published_bundle_is_told_from_a_difference(
    hub: Hub, release: Path, rebuild: Rebuild, tmp_path: Path
) -> None:
    def clocked(content: bytes) -> bytes:
        # Time and date of the first member, in its own header and in the directory at the end.
        data = bytearray(content)
        for at in (data.index(b"PK\x03\x04") + 10, data.index(b"PK\x01\x02") + 12):
            data[at : at + 4] = b"\x01\x23\xb1\x5c"
        return bytes(data)

    content = clocked((release / TASK).read_bytes())
    released = write_release(tmp_path / "clocked", {TASK: content})
    name_checkpoint(released)
    put(hub, released)
    _, files = differing(rebuild(ADDRESS, "--json"), ErrorCode.NOT_IDENTICAL)
    changed = {name for name, item in files.items() if item["verdict"] != "identical"}
    assert changed == {TASK, SBOM, MANIFEST, CHECKSUMS}
    assert files[TASK]["stabilizer"] == "clock of the zip members"
    assert len(downloads(hub)) == 1


def test_what_does_not_verify_is_not_rebuilt(
    hub: Hub, release: Path, rebuild: Rebuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, release)
    (release / "Notice").write_bytes(b"other")
    hub.repos[REPO].commit(
        {path.name: path.read_bytes() for path in release.iterdir()}, "by hand", "someone"
    )
    monkeypatch.setattr(workflow, "Runner", lambda *_, **__: pytest.fail("nothing is to run"))
    done = rebuild(f"hf://{REPO}")
    assert isinstance(done.exception, BuildError)
    assert (done.exception.code, "✗ digests" in done.stdout) == (ErrorCode.CHANGED, True)
    assert not Path(ATTESTATION).exists()
    assert rebuild("hf://org/gone").exception.code is ErrorCode.NOT_FOUND


def test_a_hub_that_serves_other_bytes_than_it_states_is_told(
    hub: Hub, release: Path, rebuild: Rebuild
) -> None:
    put(hub, release)
    digest = sha256_bytes((release / TASK).read_bytes())

    class Wrong(dict[str, bytes]):
        def __getitem__(self, oid: str) -> bytes:
            data = super().__getitem__(oid)
            return bytes(len(data)) if oid == digest else data

    hub.objects = Wrong()
    done = rebuild(ADDRESS, task=OTHER_TASK)
    assert isinstance(done.exception, BuildError)
    assert (done.exception.code, done.exception.why) == (
        ErrorCode.CHANGED,
        f"{TASK} is not what the Hub states",
    )
    assert not Path(ATTESTATION).exists()


def test_ones_own_checkpoint_is_compared_with_the_published_manifest(
    hub: Hub, release: Path, rebuild: Rebuild, tmp_path: Path
) -> None:
    tiny = write_checkpoint(tmp_path / "tiny")
    given = sorted((path.name, path.read_bytes()) for path in tiny.iterdir())
    files = [{"path": n, "size": len(c), "sha256": sha256_bytes(c)} for n, c in given]
    name_checkpoint(release, files=files)
    put(hub, release)
    done = rebuild(ADDRESS, "--checkpoint", str(tiny))
    assert done.exit_code == 0, done.exception
    (tiny / "config.json").write_bytes((tiny / "config.json").read_bytes() + b"\n")
    done = rebuild(ADDRESS, "--checkpoint", str(tiny))
    assert "is not the checkpoint in its manifest" in str(done.exception)


def test_an_archive_gets_the_published_release_as_a_whole_directory(
    hub: Hub, release: Path, rebuild: Rebuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, release)
    seen: list[tuple[set[str], Path]] = []

    def archived(_: Path, folder: Path, options: dict[str, Path], __: list[str]) -> None:
        seen.append(({path.name for path in folder.iterdir()}, options["--attestation"]))

    monkeypatch.setattr(command, "rebuild_archived", archived)
    assert rebuild(ADDRESS, "--from-archive", "a.tar").exit_code == 0
    assert seen == [({path.name for path in release.iterdir()}, Path(ATTESTATION))]
