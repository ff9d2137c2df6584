import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from msgspec import structs

from gemma3build.release.provenance import BuildRun, make_provenance, read_revision
from gemma3build.schema.packages import Packages
from gemma3build.util.files import FileDigest
from gemma3build.util.git import GitRevision, find_revision, would_change
from tests.support.release import make_manifest

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "provenance.md"
WHEEL = FileDigest(path="numpy-2.4.6-cp311-cp311-manylinux.whl", size=1, sha256="5" * 64)
GGUF = FileDigest(path="part1-1.0-py3-none-any.whl", size=1, sha256="6" * 64)
PACKAGES = {
    "bundle": Packages(wheels=(), debian=()),
    "convert": Packages(wheels=(WHEEL,), debian=()),
}
SUMS = {"SHA256SUMS": "1" * 64, "m.task": "2" * 64}
SOURCE = GitRevision(commit="c" * 40, dirty=False)


def statement(*, source: GitRevision | None = SOURCE, started: float = 1.5) -> bytes:
    manifest = make_manifest({"m_fp16.tflite": b"model"}, {})
    fetched = structs.replace(manifest.checkpoint, fetched=(GGUF,))
    return make_provenance(
        structs.replace(manifest, checkpoint=fetched),
        SUMS,
        PACKAGES,
        source=source,
        epoch=1_700_000_000,
        run=BuildRun(started=started, finished=started + 60),
    )


def test_it_is_one_line_about_all_files_with_slsas_predicate() -> None:
    text = statement()
    assert text.count(b"\n") == 1
    found = json.loads(text)
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {item["name"]: item["digest"]["sha256"] for item in found["subject"]} == SUMS


def test_everything_that_a_release_was_made_from_is_named_by_digest() -> None:
    found = json.loads(statement())["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert all(item["digest"] for item in found)
    assert {item["name"] for item in found} == {
        "gemma3build",
        f"fetched/{GGUF.path}",
        "checkpoint/tokenizer.model",
        "base/debian",
        "image/bundle",
        "image/convert",
        f"wheel/{WHEEL.path}",
    }
    assert found[0] == {
        "name": "gemma3build",
        "digest": {"gitCommit": "c" * 40},
        "annotations": {"dirty": False},
    }


def test_only_the_metadata_of_the_run_depends_on_the_clock() -> None:
    one, two = json.loads(statement()), json.loads(statement(started=9e8))
    assert one.pop("predicate")["runDetails"]["metadata"] == {
        "invocationId": json.loads(statement())["predicate"]["runDetails"]["metadata"][
            "invocationId"
        ],
        "startedOn": "1970-01-01T00:00:01Z",
        "finishedOn": "1970-01-01T00:01:01Z",
    }
    other = two.pop("predicate")
    first = json.loads(statement())["predicate"]
    assert one == two
    assert first["buildDefinition"] == other["buildDefinition"]
    assert first["runDetails"].pop("metadata") != other["runDetails"].pop("metadata")
    assert first["runDetails"] == other["runDetails"]


def test_whole_numbers_stay_whole() -> None:
    parameters = json.loads(statement())["predicate"]["buildDefinition"]["externalParameters"]
    assert parameters["parameters"]["kv_cache_max_len"] == 64
    assert ".0" not in json.dumps(parameters["parameters"])


def documented(section: str) -> set[str]:
    """The names in the first column of a section's table."""
    text = DOCUMENT.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w.]+)", row)}


def test_the_document_has_the_fields_that_are_written_and_no_others() -> None:
    predicate = json.loads(statement())["predicate"]
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert set(definition["externalParameters"]) == documented("External parameters")
    assert set(definition["internalParameters"]) == documented("Internal parameters")
    names = {item["name"].partition("/")[0] for item in definition["resolvedDependencies"]}
    assert names == documented("Resolved dependencies")
    fields = {f"{part}.{name}" for part, found in details.items() for name in found}
    assert fields == documented("Run details")
    assert definition["buildType"] in DOCUMENT.read_text()


@pytest.mark.parametrize("source", [SOURCE, GitRevision(commit="d" * 40, dirty=True), None])
def test_the_source_is_read_back(tmp_path: Path, source: GitRevision | None) -> None:
    path = tmp_path / "provenance.intoto.jsonl"
    path.write_bytes(statement(source=source))
    assert read_revision(path) == source


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"predicate": 3}', b"\xff", b"[" * 100_000])
def test_another_file_is_no_provenance(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "provenance.intoto.jsonl"
    path.write_bytes(text)
    assert read_revision(path) is None


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    command = ["git", "-C", str(folder), *names, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_checkout_says_which_commit_it_is_of_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert find_revision(package) is None
    git(tmp_path, "init", "--quiet")
    assert find_revision(package) is None
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "--quiet", "--message=one")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert find_revision(package) == GitRevision(commit=commit, dirty=False)
    (tmp_path / os.fsdecode(b"untracked\xff")).write_text("")
    git(tmp_path, "config", "status.showUntrackedFiles", "no")
    git(tmp_path, "config", "core.quotePath", "false")
    assert find_revision(package) == GitRevision(commit=commit, dirty=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of-a-hook"))
    assert find_revision(package) == GitRevision(commit=commit, dirty=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_revision(package) is None


def test_a_package_that_is_not_of_the_checkout_around_it_has_no_source(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=one")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    assert find_revision(installed) is None


def test_a_new_file_changes_a_checkout_unless_git_ignores_it(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    package = checkout / "package"
    package.mkdir(parents=True)
    (checkout / "link").symlink_to(tmp_path)
    assert not would_change(checkout / "out" / "file", package)
    git(checkout, "init", "--quiet")
    (checkout / ".gitignore").write_text("/artifacts/*\n!/artifacts/README.md\n/built/\n")
    for path in ("out/file", "file", "artifacts/README.md", "package/../out/file"):
        assert would_change(checkout / path, package), path
    for path in ("artifacts/file", "artifacts/v1/file", "built/v1/file", "link/file", "../file"):
        assert not would_change(checkout / path, package), path
