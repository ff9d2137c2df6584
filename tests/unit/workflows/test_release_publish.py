"""The release pipeline publishes: all releases or none, each once; and the index of several runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma3build.errors import ErrorCode
from gemma3build.release.checksums import SIGNATURE
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.verify.verify import verify
from tests.support.hub import Hub
from tests.support.pipeline import LATER, NAMES, Works, alone, content, done, failed
from tests.support.publishing import name_source
from tests.support.release import TFLITE, edit_json, figures


def test_publishing_goes_on_and_does_nothing_twice(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    found = done("--publish")
    for name, item in zip(NAMES, found["releases"], strict=True):
        repo = writer.repos[f"org/{name}"]
        assert repo.refs["refs/tags/v1"] == item["published"]["commit"]
        files = repo.commits[item["published"]["commit"]].files
        folder = tmp_path / "artifacts" / "v1" / name
        assert {path.name for path in folder.iterdir()} <= files.keys()
        assert item["ran"][-1] == "publish"
    page = (tmp_path / "artifacts" / "v1" / "index.html").read_text()
    assert page.count(f"{writer.address}/org/") == 2
    before = content(tmp_path / "artifacts")
    writer.requests.clear()
    found = done("--publish")
    assert found["idle"]
    assert not any(request.startswith(("PUT", "POST")) for request in writer.requests)
    # The index keeps it without --publish.
    assert done()["releases"][0]["published"]["repo"] == "org/short"
    assert content(tmp_path / "artifacts") == before


def test_a_pattern_names_each_repository(writer: Hub, works: Works) -> None:
    done("--publish", "--repo", "org/{name}-litert", "--private")
    assert set(writer.repos) == {"org/short-litert", "org/long-litert"}
    assert all(repo.private for repo in writer.repos.values())


def test_one_that_cannot_be_published_lets_none_be(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    done()
    folder = tmp_path / "artifacts" / "v1" / "long"
    shutil.copy(folder / EVALUATION, tmp_path)
    name_source(folder, dirty=True)
    error = failed("--publish")
    assert error.code is ErrorCode.PUBLICATION
    assert "Where: long, publish" in error.__notes__[0]
    assert writer.repos == {}
    done("--publish", "--skip", "source")
    assert set(writer.repos) == {"org/short", "org/long"}


def test_a_tag_that_someone_makes_meanwhile_lets_none_be_published(
    writer: Hub, works: Works
) -> None:
    def make_tag() -> None:
        commit = writer.add("org/long", {"README.md": b"theirs"})
        writer.repos["org/long"].refs["refs/tags/v1"] = commit

    works.meanwhile["evaluate long"] = make_tag
    error = failed("--publish")
    assert (error.code, "has a tag v1 already" in error.why) == (ErrorCode.REQUEST, True)
    assert set(writer.repos) == {"org/long"}


def test_a_publication_that_stops_keeps_what_is_published(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    writer.fail("POST /api/models/org/long/commit/", status=403)
    error = failed("--publish")
    assert "Where: long, publish" in error.__notes__[0]
    index = json.loads((tmp_path / "artifacts" / "v1" / "index.json").read_text())
    assert [item.get("published", {}).get("repo") for item in index["releases"]] == [
        "org/short",
        None,
    ]
    found = done("--publish")
    assert [item["ran"] for item in found["releases"]] == [[], ["publish"]]


def test_a_card_that_was_edited_since_is_no_reason_to_publish_again(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    first = done("--publish")["releases"][1]["published"]
    repo = writer.repos["org/long"]
    repo.commit({**repo.commits[first["commit"]].files, "README.md": b"by hand"}, "Edit", "someone")
    found = done("--publish")
    assert found["idle"]
    assert found["releases"][1]["published"] == first
    folder = tmp_path / "artifacts" / "v1" / "long"
    edit_json(folder / EVALUATION, lambda value: value["schemes"][0].update(figures("another")))
    error = failed("--publish")
    assert (error.code, error.hint) == (ErrorCode.REQUEST, "Use another VERSION.")


def indexed(folder: Path) -> dict[str, str]:
    """The index: where each release is published, by its name."""
    found = json.loads((folder / "index.json").read_text())["releases"]
    return {item["name"]: item.get("published", {}).get("repo", "") for item in found}


def test_the_index_keeps_what_another_run_released_and_published(
    writer: Hub, works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artifacts" / "v1"
    alone("short", "--publish")
    assert "no longer" not in alone("long")[1]
    assert indexed(folder) == {"short": "org/short", "long": ""}
    assert 'id="release-2"' in (folder / "index.html").read_text()
    before = content(folder)
    assert alone("short")[0]["idle"]
    assert content(folder) == before
    verified: list[Path] = []

    def look(path: Path, **given: Any) -> Any:
        verified.append(path)
        return verify(path, **given)

    monkeypatch.setattr("gemma3build.report.index.verify", look)
    alone("long", "--publish")
    assert indexed(folder) == {"short": "org/short", "long": "org/long"}
    assert verified == [folder / "short"]  # once, though the index was written twice
    edit_json(folder / "short" / EVALUATION, lambda value: value["schemes"][0].pop("speed"))
    assert "An earlier short is published: " in alone("short")[1]
    assert indexed(folder) == {"short": "", "long": "org/long"}


def test_another_run_that_publishes_meanwhile_is_not_forgotten(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    works.meanwhile["sign long"] = lambda: alone("short", "--publish")
    alone("long")
    assert indexed(tmp_path / "artifacts" / "v1") == {"short": "org/short", "long": ""}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (shutil.rmtree, "No such file"),
        (lambda folder: (folder / TFLITE).write_bytes(b"other"), f"{TFLITE} is not"),
        (lambda folder: (folder / SIGNATURE).unlink(), "not those that the index names"),
        (lambda folder: (folder / EVALUATION).unlink(), "not those that the index names"),
    ],
    ids=["gone", "changed", "unsigned", "unmeasured"],
)
def test_the_index_says_what_it_drops_and_why(
    writer: Hub, works: Works, tmp_path: Path, change: Callable[[Path], object], why: str
) -> None:
    folder = tmp_path / "artifacts" / "v1"
    published = alone("short", "--publish")[0]["releases"][0]["published"]
    change(folder / "short")
    said = " ".join(alone("long")[1].split())
    assert "index.json no longer has short: " in said
    assert why in said
    assert f"An earlier short is published: {published['url']}" in said
    assert indexed(folder) == {"long": ""}


def test_the_index_has_releases_of_one_commit_and_version(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone("short", "--output", "out")
    said = alone("long", "--output", "out", version="v2")[1]
    assert f"index.json no longer has short: it is v1 of commit {'c' * 12}" in said
    alone("short", "--output", "out", version="v2")
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: LATER)
    said = alone("long", "--output", "out", version="v2")[1]
    assert f"index.json no longer has short: it is v2 of commit {'c' * 12}" in said
    assert indexed(tmp_path / "out") == {"long": ""}
    (tmp_path / "out" / "index.json").write_text("{}")
    assert "index.json cannot be read" in alone("long", "--output", "out", version="v2")[1]
