import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from gemma3build.errors import ErrorCode
from gemma3build.release.checksums import SIGNATURE
from gemma3build.release.directory import Release, evaluation_text, remove, write, write_measured
from gemma3build.release.evaluation import manifest_digest
from gemma3build.release.provenance import PREDICATE_TYPE, statement
from gemma3build.schema.evaluation import EVALUATION, EVALUATION_FORMAT, REPORT, Evaluation
from gemma3build.schema.manifest import (
    MANIFEST_FORMAT,
    ArtifactRecord,
    CheckpointRecord,
    Manifest,
    Parameters,
)
from gemma3build.util.files import partial_path, sha256_bytes
from gemma3build.workflows.assemble import is_written
from tests.support.errors import raises


def release(cache: Path, **contents: bytes) -> Release:
    cache.mkdir(exist_ok=True)
    for name, content in contents.items():
        (cache / name).write_bytes(content)
    artifacts = tuple(
        ArtifactRecord(path=name, scheme="s", size=len(data), sha256=sha256_bytes(data), facts={})
        for name, data in contents.items()
    )
    checkpoint = CheckpointRecord(
        model="m", base_model="", source="local", revision="", parameters=1, files=(), fetched=()
    )
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        checkpoint=checkpoint,
        parameters=Parameters(prefill_seq_lens=(8,), kv_cache_max_len=64),
        schemes={},
        images=(),
        sources={},
        artifacts=artifacts,
        terms=(),
    )
    found = Release(
        manifest=manifest,
        evaluation=Evaluation(
            format=EVALUATION_FORMAT,
            model="m",
            manifest=manifest_digest(manifest),
            reference="transformers",
            schemes=(),
        ),
        artifacts={name: cache / name for name in contents},
        sbom=b"{}\n",
    )
    provenance = statement(found.digests, PREDICATE_TYPE, {"buildDefinition": {}})
    return dataclasses.replace(found, provenance=provenance)


def measured(item: Release) -> dict[str, bytes]:
    return {REPORT: b"<html></html>", EVALUATION: evaluation_text(item.evaluation)}


def put(item: Release, folder: Path) -> None:
    write(item, measured(item), folder)


def test_a_release_is_whole_and_its_checksums_hold(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "m"
    one = release(tmp_path / "store", model=b"bytes")
    assert not is_written(one, folder)
    put(one, folder)
    assert is_written(one, folder)
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True
    )
    assert (folder / "model").samefile(tmp_path / "store" / "model")


def test_a_signature_leaves_a_build_idle_and_goes_with_the_figures(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    one = release(tmp_path / "store", model=b"bytes")
    put(one, folder)
    (folder / SIGNATURE).write_text("{}")
    assert is_written(one, folder)
    write_measured(measured(one), folder)
    assert not (folder / SIGNATURE).exists()
    assert is_written(one, folder)


def test_a_release_is_replaced_whole_and_leftovers_of_killed_builds_go(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    put(release(tmp_path / "store", old=b"1"), folder)
    partial_path(folder).mkdir()
    put(release(tmp_path / "store", new=b"2"), folder)
    assert not (folder / "old").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "store"]


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "sbom.cdx.json",
        "provenance.intoto.jsonl",
        "SHA256SUMS",
        "Notice",
        "model",
        "extra",
    ],
)
def test_any_change_by_hand_is_noticed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    one = release(tmp_path / "store", model=b"bytes")
    put(one, folder)
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(b"other")
    assert not is_written(one, folder)


def test_a_release_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    one = release(tmp_path / "store", model=b"bytes")
    os.unlink(tmp_path / "store" / "model")  # noqa: PTH108 - as another process would
    with raises(ErrorCode.OUTPUT, match="cannot be written"):
        put(one, tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_removed_release_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "m.refused"
    put(release(tmp_path / "store", model=b"bytes"), folder)
    remove(folder)
    with raises(ErrorCode.OUTPUT, match="cannot be removed"):
        remove(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert (tmp_path / "store" / "model").read_bytes() == b"bytes"
