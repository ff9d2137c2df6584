"""A release to the Hub and back, by the Hub's own client, against a hub on loopback."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from typer.testing import CliRunner, Result

from gemma3build.cli import app
from gemma3build.core.digests import FileDigest, sha256_bytes
from gemma3build.core.evaluation import EVALUATION
from gemma3build.core.manifest import MANIFEST
from gemma3build.core.small import LARGEST
from gemma3build.errors import BuildError
from gemma3build.publish.difference import Payload, Remote, RemoteFile, compare
from gemma3build.publish.hub import listed_names
from gemma3build.record.checksums import CHECKSUMS, PROVENANCE, SIGNATURE
from tests.fake_release import (
    TASK,
    TFLITE,
    edit_json,
    figures,
    seal,
    write_provenance,
    write_release,
)
from tests.hub import MAIN, Commit, Hub, Pull, User, blob_id

REPO, TOKEN = "org/gemma", "hf_secret"
MEASURED = figures("Some | processor")


def measure(folder: Path, **changes: Any) -> None:
    def change(evaluation: Any) -> None:
        for scheme in evaluation["schemes"]:
            scheme |= {**MEASURED, **changes}

    edit_json(folder / EVALUATION, change)


def name_source(folder: Path, *, dirty: bool = False) -> None:
    write_provenance(folder)
    statement = json.loads((folder / PROVENANCE).read_text())
    own = {
        "name": "gemma3build",
        "digest": {"gitCommit": "c" * 40},
        "annotations": {"dirty": dirty},
    }
    statement["predicate"] = {"buildDefinition": {"resolvedDependencies": [own]}}
    (folder / PROVENANCE).write_text(json.dumps(statement) + "\n")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = write_release(tmp_path / "release")
    measure(folder)
    name_source(folder)
    return folder


@pytest.fixture
def writer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hub.users[TOKEN] = User("publisher", write=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # By its process, as the command sets it for who runs it.
    yield
    huggingface_hub.utils.enable_progress_bars()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def publish(release: Path, *arguments: str) -> Any:
    done = run("publish", str(release), "--repo", REPO, "--json", *arguments)
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def failed(*arguments: str) -> BuildError:
    error = run(*arguments).exception
    assert isinstance(error, BuildError), repr(error)
    assert TOKEN not in str(error)
    return error


def head(hub: Hub, ref: str = MAIN) -> Commit:
    repo = hub.repos[REPO]
    return repo.commits[repo.refs[ref]]


def content(release: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in release.iterdir()}


@pytest.mark.usefixtures("writer")
def test_a_release_is_published_in_one_commit_with_its_card_and_tag(
    hub: Hub, release: Path
) -> None:
    done = publish(release, "--private", "--tag", "v1")
    commit = head(hub)
    assert (done["commit"], done["idle"], done["skipped"]) == (commit.id, False, [])
    files = dict(commit.files)
    card = files.pop("README.md").decode()
    assert files.pop(".gitattributes")
    assert files == content(release)
    assert "license: gemma" in card
    assert f"gemma3build rebuild hf://{REPO}@v1 " in card
    assert (commit.title, commit.author) == ("Publish m", "publisher")
    assert len(hub.repos[REPO].commits) == 2  # the Hub makes one of its own
    assert hub.repos[REPO].private
    assert hub.repos[REPO].refs["refs/tags/v1"] == commit.id


@pytest.mark.usefixtures("writer")
def test_publishing_again_does_nothing_and_says_so(hub: Hub, release: Path) -> None:
    first = publish(release, "--tag", "v1")
    hub.requests.clear()
    second = publish(release, "--tag", "v1")
    assert (second["idle"], second["commit"]) == (True, first["commit"])
    assert not any(request.startswith(("PUT", "POST")) for request in hub.requests)
    said = run("publish", str(release), "--repo", REPO, "--tag", "v1").stdout
    assert f"Nothing to do: {REPO} has all of it" in said


@pytest.mark.usefixtures("writer")
def test_a_tag_that_failed_is_made_by_the_next_run(hub: Hub, release: Path) -> None:
    hub.fail("POST .*/tag/", status=500)
    error = failed("publish", str(release), "--repo", REPO, "--tag", "v1")
    assert error.exit_code == 31
    assert "v1 could not be made a tag of" in error.what
    done = publish(release, "--tag", "v1")
    assert not done["idle"]
    assert hub.repos[REPO].refs["refs/tags/v1"] == head(hub).id
    assert len(hub.repos[REPO].commits) == 2


@pytest.mark.usefixtures("writer")
def test_a_tag_that_is_taken_is_refused_before_anything_is_written(hub: Hub, release: Path) -> None:
    publish(release, "--tag", "v1")
    before = head(hub)
    measure(release, piqa={**MEASURED["piqa"], "acc": 0.5})
    error = failed("publish", str(release), "--repo", REPO, "--tag", "v1")
    assert (error.exit_code, "has a tag v1 already" in error.why) == (6, True)
    assert head(hub) == before


@pytest.mark.usefixtures("writer")
def test_what_came_after_the_tag_is_no_reason_to_publish_again(hub: Hub, release: Path) -> None:
    first = publish(release, "--tag", "v1")
    hub.repos[REPO].commit({**head(hub).files, "README.md": b"by hand"}, "Edit", "someone")
    done = publish(release, "--tag", "v1")
    assert (done["idle"], done["commit"]) == (True, first["commit"])
    assert head(hub).title == "Edit"
    assert not publish(release, "--tag", "v2")["idle"]


@pytest.mark.usefixtures("writer")
def test_the_next_release_replaces_the_last_one_and_nothing_else(hub: Hub, release: Path) -> None:
    (release / SIGNATURE).write_text("{}")
    publish(release)
    files = {**head(hub).files, "images/a.png": b"png", "USAGE.md": b"by hand"}
    hub.repos[REPO].commit(files, "by hand", "someone")
    (release / SIGNATURE).unlink()
    measure(release, piqa={**MEASURED["piqa"], "acc": 0.5})
    done = publish(release)
    assert done["changed"] == ["README.md", EVALUATION]
    assert done["removed"] == [SIGNATURE]
    assert done["kept"] == [".gitattributes", "USAGE.md", "images/a.png"]
    assert SIGNATURE not in head(hub).files
    assert head(hub).files["USAGE.md"] == b"by hand"


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("manifest", [None, b"{}", b"[", b'{"format": "other/1"}'])
def test_nothing_of_a_repository_that_had_no_release_is_removed(
    hub: Hub, release: Path, manifest: bytes | None
) -> None:
    sums = f"{'0' * 64}  model.safetensors\n".encode()
    theirs = {CHECKSUMS: sums, "model.safetensors": b"weights", SIGNATURE: b"{}"}
    hub.add(REPO, theirs | ({} if manifest is None else {MANIFEST: manifest}))
    done = publish(release)
    assert done["removed"] == []
    assert done["kept"] == ["model.safetensors", SIGNATURE]
    assert head(hub).files["model.safetensors"] == b"weights"


@pytest.mark.usefixtures("writer")
def test_a_lost_race_says_who_moved_the_branch_and_changes_nothing(hub: Hub, release: Path) -> None:
    publish(release)
    measure(release, piqa={**MEASURED["piqa"], "acc": 0.5})

    def race() -> None:
        hub.repos[REPO].commit({**head(hub).files, "b": b""}, "Add b", "colleague")
        hub.before_commit = lambda: None

    hub.before_commit = race
    error = failed("publish", str(release), "--repo", REPO)
    assert error.exit_code == 85
    assert "colleague moved main meanwhile" in error.why
    assert "'Add b'" in error.why
    assert head(hub).title == "Add b"
    assert not publish(release)["idle"]
    assert "b" in head(hub).files


@pytest.mark.usefixtures("writer")
def test_what_the_hub_holds_afterwards_is_read_back(hub: Hub, release: Path) -> None:
    hub.corrupt = lambda data: data.replace(b"model in fp16", b"model in FP16")
    error = failed("publish", str(release), "--repo", REPO)
    assert error.exit_code == 86
    assert error.why.startswith("m_fp16.task, m_fp16.tflite are not what was uploaded")


@pytest.mark.usefixtures("writer")
def test_a_pull_request_leaves_the_branch_as_it_is(hub: Hub, release: Path) -> None:
    hub.add(REPO, {"README.md": b"old"})
    before = head(hub)
    done = publish(release, "--create-pr")
    assert done["pull_request"] == f"{hub.address}/{REPO}/discussions/1"
    assert head(hub) == before
    assert head(hub, "refs/pr/1").files[TASK] == (release / TASK).read_bytes()
    error = failed("publish", str(release), "--repo", REPO, "--create-pr", "--tag", "v1")
    assert error.exit_code == 6


@pytest.fixture
def opened(hub: Hub, release: Path, writer: None) -> Any:
    """What a first publication said that opened a pull request, among others that are older."""
    hub.add(REPO, {"README.md": b"old"})
    titles = (("Publish m", "closed"), ("Publish other", "open"), ("Add b", "open"))
    hub.repos[REPO].pulls = [Pull(title, "publisher", status) for title, status in titles]
    for number in (1, 2, 3):
        hub.repos[REPO].refs[f"refs/pr/{number}"] = head(hub).id
    return publish(release, "--create-pr")


def writes(hub: Hub) -> list[str]:
    return [request for request in hub.requests if request.startswith(("PUT", "POST"))]


def measure_again(release: Path) -> None:
    measure(release, piqa={**MEASURED["piqa"], "acc": 0.5})


def test_a_pull_request_that_has_everything_is_not_opened_again(
    hub: Hub, release: Path, opened: Any
) -> None:
    hub.requests.clear()
    done = publish(release, "--create-pr")
    assert done["idle"]
    assert done["pull_request"] == opened["pull_request"] == f"{hub.address}/{REPO}/discussions/4"
    assert done["commit"] == opened["commit"]
    said = run("publish", str(release), "--repo", REPO, "--create-pr").stdout
    assert f"Nothing to do: {done['pull_request']} has all of it" in said
    assert writes(hub) == []
    # Whoever opened it, and whatever became of the branch.
    hub.users[TOKEN] = User("other", write=True)
    hub.repos[REPO].commit({"README.md": b"new"}, "second", "someone")
    assert publish(release, "--create-pr")["idle"]
    assert len(hub.repos[REPO].pulls) == 4


def test_other_content_goes_to_the_pull_request_that_is_open(
    hub: Hub, release: Path, opened: Any
) -> None:
    before = head(hub)
    measure_again(release)
    assert f"of {opened['pull_request']}" in run(
        "publish", str(release), "--repo", REPO, "--create-pr", "--dry-run"
    ).stdout.replace("\n", "")
    done = publish(release, "--create-pr")
    assert done["pull_request"] == opened["pull_request"]
    assert done["changed"] == ["README.md", EVALUATION]
    commit = head(hub, "refs/pr/4")
    assert (commit.id, commit.parent) == (done["commit"], opened["commit"])
    assert commit.files[EVALUATION] == (release / EVALUATION).read_bytes()
    assert head(hub) == before
    assert len(hub.repos[REPO].pulls) == 4

    def race() -> None:
        hub.repos[REPO].commit(commit.files, "Mend a word", "colleague", "refs/pr/4")
        hub.before_commit = lambda: None

    hub.before_commit = race
    measure(release)
    error = failed("publish", str(release), "--repo", REPO, "--create-pr")
    assert error.exit_code == 85
    assert "colleague moved refs/pr/4 meanwhile" in error.why


def test_a_pull_request_on_an_older_commit_of_the_branch_is_left_alone(
    hub: Hub, release: Path, opened: Any
) -> None:
    hub.repos[REPO].commit({"README.md": b"new"}, "second", "someone")
    measure_again(release)
    hub.requests.clear()
    error = failed("publish", str(release), "--repo", REPO, "--create-pr")
    assert error.exit_code == 87
    assert error.why.startswith(f"{opened['pull_request']} is open, and stands on an older commit")
    assert writes(hub) == []
    hub.repos[REPO].pulls[3].status = "closed"
    done = publish(release, "--create-pr")
    assert done["pull_request"] == f"{hub.address}/{REPO}/discussions/5"


def test_the_pull_request_of_someone_else_with_other_content_is_no_reason_to_open_none(
    hub: Hub, release: Path, opened: Any
) -> None:
    hub.users[TOKEN] = User("other", write=True)
    measure_again(release)
    done = publish(release, "--create-pr")
    assert done["pull_request"] == f"{hub.address}/{REPO}/discussions/5"
    assert head(hub, "refs/pr/4").id == opened["commit"]


@pytest.mark.usefixtures("writer")
def test_a_dry_run_shows_the_difference_and_the_card_and_writes_nothing(
    hub: Hub, release: Path
) -> None:
    done = run("publish", str(release), "--repo", REPO, "--dry-run")
    assert done.exit_code == 0
    assert f"Publish m to {REPO}, which is made:" in done.stdout
    assert f"added  {TASK}" in done.stdout
    assert "pipeline_tag: text-generation" in done.stdout
    assert publish(release, "--dry-run")["added"] == sorted([*content(release), "README.md"])
    assert hub.repos == {}
    assert not any(request.startswith(("PUT", "POST")) for request in hub.requests)


def test_who_is_not_logged_in_or_may_not_write_is_told(
    hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, {"README.md": b"old"})
    before = head(hub)
    assert failed("publish", str(release), "--repo", REPO).exit_code == 80
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert failed("publish", str(release), "--repo", REPO).exit_code == 80
    hub.users[TOKEN] = User("reader")
    error = failed("publish", str(release), "--repo", REPO)
    assert (error.exit_code, "this token has no permission" in error.why) == (32, True)
    error = failed("publish", str(release), "--repo", "org/new")
    assert error.exit_code == 32
    assert head(hub) == before
    assert hub.objects == {}


@pytest.mark.usefixtures("writer")
def test_a_repository_that_moved_is_public_or_has_no_such_name_is_told(
    hub: Hub, release: Path
) -> None:
    hub.add(REPO, {"README.md": b"old"})
    hub.renamed["org/old"] = REPO
    error = failed("publish", str(release), "--repo", "org/old")
    assert (error.exit_code, error.why) == (82, f"org/old is called {REPO} now")
    error = failed("publish", str(release), "--repo", REPO, "--private")
    assert (error.exit_code, "is there already, and public" in error.why) == (6, True)
    for name in ("gemma", "org/a b", "org/a--b", "org/name/more"):
        assert failed("publish", str(release), "--repo", name).exit_code == 6


def test_offline_nothing_is_published_or_looked_at(
    hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert failed("publish", str(release), "--repo", REPO).exit_code == 83
    assert failed("verify", f"hf://{REPO}").exit_code == 83
    assert hub.requests == []


def fail_gate(folder: Path) -> None:
    edit_json(
        folder / EVALUATION,
        lambda found: found["schemes"][1]["gate"]["checks"][0].update(passed=False),
    )


def shorten_notice(folder: Path) -> None:
    (folder / "Notice").write_text("Gemma")
    seal(folder)
    name_source(folder)


def lose_agreement(folder: Path) -> None:
    (folder / "GEMMA_TERMS_OF_USE.md").unlink()
    edit_json(folder / MANIFEST, lambda found: found["terms"].remove("GEMMA_TERMS_OF_USE.md"))
    digest = sha256_bytes((folder / MANIFEST).read_bytes())
    edit_json(folder / EVALUATION, lambda found: found.update(manifest=digest))
    seal(folder)
    name_source(folder)


BROKEN: Mapping[str, tuple[str, Callable[[Path], object], str]] = {
    "gate": ("gate", fail_gate, "the gate refused fp16"),
    "no evaluation": (
        "gate",
        lambda folder: (folder / EVALUATION).unlink(),
        "nothing shows that it is faithful",
    ),
    "piqa": ("piqa", lambda folder: measure(folder, piqa=None), "PIQA of dynamic_int8, fp16"),
    "quick look": (
        "piqa",
        lambda folder: measure(folder, piqa={**MEASURED["piqa"], "questions": 100}),
        "was not measured in full",
    ),
    "own questions": (
        "piqa",
        lambda folder: measure(folder, piqa={**MEASURED["piqa"], "own": True}),
        "was not measured in full",
    ),
    "speed": ("speed", lambda folder: measure(folder, speed=None), "speed of dynamic_int8, fp16"),
    "no provenance": (
        "provenance",
        lambda folder: (folder / PROVENANCE).unlink(),
        "it has no provenance",
    ),
    "no source": ("provenance", write_provenance, "its provenance names no source"),
    "dirty": (
        "source",
        lambda folder: name_source(folder, dirty=True),
        "it was built from changes that commit cccccccccccc does not have",
    ),
    "notice": ("terms", shorten_notice, "Notice lacks the sentence"),
    "agreement": ("terms", lose_agreement, "it lacks GEMMA_TERMS_OF_USE.md"),
}


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("case", BROKEN)
def test_a_rule_that_does_not_hold_is_named_and_skipped_by_its_name_alone(
    hub: Hub, release: Path, case: str
) -> None:
    rule, spoil, why = BROKEN[case]
    spoil(release)
    error = failed("publish", str(release), "--repo", REPO)
    assert error.exit_code == 84
    assert why in error.why
    assert f"--skip {rule}" in error.hint
    assert hub.repos == {}
    other = "speed" if rule != "speed" else "piqa"
    assert failed("publish", str(release), "--repo", REPO, "--skip", other).exit_code == 84
    broken = {"gate", "piqa", "speed"} if case == "no evaluation" else {rule}
    skips = [text for name in sorted(broken) for text in ("--skip", name)]
    assert set(publish(release, *skips)["skipped"]) == broken
    card = head(hub).files["README.md"].decode()
    assert "Published although it does not hold to every rule" in card
    assert f"(`{rule}`)" in card


@pytest.mark.usefixtures("writer")
def test_a_release_that_does_not_verify_is_never_published(hub: Hub, release: Path) -> None:
    (release / TFLITE).write_bytes(b"other")
    error = failed("publish", str(release), "--repo", REPO, "--skip", "gate")
    assert error.exit_code == 50
    assert hub.repos == {}
    assert run("publish", str(release), "--repo", REPO, "--skip", "everything").exit_code == 2


@pytest.mark.usefixtures("writer")
def test_a_busy_hub_is_asked_again_and_a_dead_one_is_told(
    hub: Hub, release: Path, waits: list[float]
) -> None:
    hub.fail("PUT /lfs", status=503, times=2)
    hub.fail("POST .*/preupload/", status=429)
    publish(release)
    assert waits
    measure(release, piqa={**MEASURED["piqa"], "acc": 0.5})
    hub.fail("POST .*/commit/", status=500)
    error = failed("publish", str(release), "--repo", REPO)
    assert (error.exit_code, "the Hub answered 500" in error.why) == (31, True)


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize(
    ("place", "left"),
    [("read_back", "its digests were read back and it was tagged"), ("tag", "it was tagged v1")],
)
def test_a_signal_after_the_commit_says_that_it_is_there_and_what_is_left(
    hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch, place: str, left: str
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr(f"gemma3build.publish.hub.{place}", stop)
        error = failed("publish", str(release), "--repo", REPO, "--tag", "v1")
    assert (error.exit_code, error.why) == (130, f"it got a signal before {left}")
    assert f"{REPO}/commit/{head(hub).id} is there" in error.what
    assert not publish(release, "--tag", "v1")["idle"]
    assert hub.repos[REPO].refs["refs/tags/v1"] == head(hub).id


@pytest.mark.usefixtures("writer")
def test_what_the_hub_will_not_take_later_either_is_told_so(
    hub: Hub, release: Path, waits: list[float]
) -> None:
    for status, later in ((400, False), (422, False), (429, True), (503, True)):
        hub.faults.clear()
        hub.fail("POST .*/commit/", status=status, times=100)
        error = failed("publish", str(release), "--repo", REPO)
        assert (error.exit_code, f"the Hub answered {status}" in error.why) == (31, True)
        assert ("Wait a little" in error.hint) == later
    assert not hub.repos[REPO].commits[hub.repos[REPO].refs[MAIN]].parent


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("tag", ["v 1", "../v1", "v1.lock", "-v1", "v1."])
def test_a_tag_that_git_would_refuse_is_refused_before_anything_is_asked(
    hub: Hub, release: Path, tag: str
) -> None:
    error = failed("publish", str(release), "--repo", REPO, f"--tag={tag}")
    assert (error.exit_code, error.what) == (6, f"{tag!r} is no tag")
    assert hub.requests == []


@pytest.mark.usefixtures("writer")
def test_a_page_that_wants_a_login_is_not_taken_for_a_refusal_of_the_card(
    hub: Hub, release: Path
) -> None:
    hub.fail("POST .*/preupload/", status=200, body=b"<html>Welcome to the hotel</html>")
    error = failed("publish", str(release), "--repo", REPO)
    assert (error.exit_code, "does not speak as the Hub does" in error.why) == (31, True)


@pytest.mark.usefixtures("writer")
def test_a_published_release_is_verified_by_its_records_and_stated_digests(
    hub: Hub, release: Path
) -> None:
    publish(release, "--tag", "v1")
    hub.requests.clear()
    done = run("verify", f"hf://{REPO}@v1")
    assert done.exit_code == 0, done.exception
    assert f"{REPO} at {head(hub).id}; of 4 files the SHA-256 that the Hub states" in done.stdout
    assert "not opened" in done.stdout
    assert not any("/lfs/" in request for request in hub.requests)
    done = run("verify", "--full", f"hf://{REPO}")
    assert done.exit_code == 0, done.exception
    assert "3 members, the model and the tokenizer" in done.stdout
    assert sum("GET /lfs/" in request for request in hub.requests) == 4


@pytest.mark.parametrize(
    ("change", "code", "full"),
    [
        ({TASK: b"other"}, 50, False),
        ({TASK: None}, 51, False),
        ({"Notice": b"other"}, 50, False),
        ({MANIFEST: b"{}"}, 54, False),
        ({CHECKSUMS: None}, 51, False),
        ({CHECKSUMS: b"other"}, 53, False),
        ({"extra.task": b"other"}, 52, False),
        ({"README.md": b"other", "images/a.png": b"", "images/b.task": b""}, 0, False),
        ({"images/a.png": b""}, 0, True),
    ],
)
def test_a_published_release_that_was_changed_is_told(
    hub: Hub, release: Path, change: Mapping[str, bytes | None], code: int, *, full: bool
) -> None:
    files = {**content(release), **change}
    hub.add(REPO, {name: data for name, data in files.items() if data is not None})
    done = run("verify", *(["--full"] if full else []), f"hf://{REPO}")
    error = done.exception if code else None
    assert (error.exit_code if isinstance(error, BuildError) else done.exit_code) == code


def test_what_cannot_be_looked_at_is_told(hub: Hub, tmp_path: Path) -> None:
    assert failed("verify", f"hf://{REPO}").exit_code == 81
    hub.add(REPO, {"README.md": b"nothing"})
    assert failed("verify", f"hf://{REPO}@v9").exit_code == 81
    assert failed("verify", f"hf://{REPO}").exit_code == 51
    assert failed("verify", "hf://gemma").exit_code == 6
    hub.add("org/gated", {CHECKSUMS: b"", TASK: b""}, gated=True)
    assert failed("verify", "hf://org/gated").exit_code == 80


ODD = "images/a\x1b]0;title\x07\n✓ signature  by you.png"


@pytest.mark.usefixtures("writer")
def test_no_name_of_a_file_is_obeyed_by_a_terminal(hub: Hub, release: Path) -> None:
    hub.add(REPO, {**content(release), ODD: b""})
    for command in (("verify", f"hf://{REPO}"), ("publish", str(release), "--repo", REPO)):
        done = run(*command)
        assert done.exit_code == 0, done.exception
        assert r"images/a\x1b]0;title\x07\n\u2713 signature" in done.stdout
        assert not {"\x1b", "\x07"} & set(done.output)
    # The Hub's client shows what it downloads.
    hub.add(REPO, {**content(release), "a\x1b.task": b"other"})
    hub.requests.clear()
    error = failed("verify", "--full", f"hf://{REPO}")
    assert (error.exit_code, error.why) == (52, r"'a\x1b.task' is no name of a release's file")
    assert not any(".task" in request for request in hub.requests)


def test_records_of_a_stranger_are_not_downloaded_or_read_without_a_bound(
    hub: Hub, release: Path, tmp_path: Path
) -> None:
    hub.add(REPO, {**content(release), CHECKSUMS: bytes(LARGEST + 1)})
    error = failed("verify", f"hf://{REPO}")
    assert (error.exit_code, error.why) == (50, f"{CHECKSUMS} is too large for what it should be")
    assert not any(f"/{CHECKSUMS}" in request for request in hub.requests)
    # And a hub that serves more than it stated.
    with (tmp_path / CHECKSUMS).open("wb") as file:
        file.truncate(2**40)
    assert listed_names(tmp_path / CHECKSUMS) == frozenset()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as Xet's client says it
    ],
)
def test_a_disk_that_fills_up_in_mid_download_is_no_dead_network(
    hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    hub.add(REPO, content(release))

    def fill(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("gemma3build.publish.hub.hf_hub_download", fill)
    assert failed("verify", f"hf://{REPO}").exit_code == 21


def test_a_busy_hub_is_told_of_a_file_that_is_downloaded(
    hub: Hub, release: Path, waits: list[float]
) -> None:
    hub.add(REPO, content(release))
    hub.fail("HEAD .*/resolve/", status=503, times=100)
    error = failed("verify", f"hf://{REPO}")
    assert (error.exit_code, error.why) == (31, "the Hub answered 503: on demand")
    assert waits
    hub.faults.clear()
    hub.fail("GET /api/models", status=200, body=b"<html></html>")
    error = failed("verify", f"hf://{REPO}")
    assert (error.exit_code, "does not speak as the Hub does" in error.why) == (31, True)


def test_the_addresses_of_large_files_which_are_signed_are_not_shown(
    hub: Hub, release: Path
) -> None:
    hub.add(REPO, content(release))
    hub.fail("GET /lfs/", after=10)
    done = subprocess.run(
        [sys.executable, "-m", "gemma3build", "verify", "--full", f"hf://{REPO}"],
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sum(request.startswith("GET /lfs/") for request in hub.requests) == 5
    assert hub.storage not in done.stdout + done.stderr


def test_a_signal_in_mid_download_waits_for_no_large_file(hub: Hub, release: Path) -> None:
    hub.add(REPO, content(release))
    asked, serve = threading.Event(), threading.Event()

    class Slow(dict[str, bytes]):
        def __getitem__(self, oid: str) -> bytes:
            asked.set()
            serve.wait()
            return super().__getitem__(oid)

    hub.objects = Slow()
    with subprocess.Popen(
        [sys.executable, "-m", "gemma3build", "verify", "--full", f"hf://{REPO}"],
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=5)  # and the client waits for ten
        finally:
            process.kill()
            serve.set()
    assert (process.returncode, "The download was stopped." in said) == (130, True), said


def test_a_signature_is_checked_on_bytes_alone(hub: Hub, tmp_path: Path) -> None:
    key = tmp_path / "key"
    for command in (
        ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)),
        ("ec", "-in", str(key), "-pubout", "-out", f"{key}.pub"),
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    error = failed("verify", f"hf://{REPO}", "--key", f"{key}.pub")
    assert (error.exit_code, error.hint) == (6, "Add --full.")
    assert hub.requests == []


def test_the_token_is_nowhere_but_in_requests(hub: Hub, release: Path, tmp_path: Path) -> None:
    """Neither in output, nor in what is written or published, nor in any process's arguments."""
    hub.users[TOKEN] = User("publisher", write=True)
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(TOKEN)  # where `hf auth login` saves it
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_VERBOSITY": "debug",
        "TMPDIR": str(tmp_path),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gemma3build", "publish", str(release), "--repo", REPO],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    arguments: set[bytes] = set()
    while process.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments.add(path.read_bytes())
            except OSError:  # it has ended
                continue
        time.sleep(0.01)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert any(b"publish" in found and REPO.encode() in found for found in arguments)
    assert any(request.endswith("with a token") for request in hub.requests)
    assert not any("PUT /lfs" in request and "token" in request for request in hub.requests)
    texts = [output.encode(), *arguments, *head(hub).files.values()]
    texts += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(TOKEN.encode() in text for text in texts) == 1  # where it was saved


def remote(files: Mapping[str, RemoteFile], *listed: str) -> Remote:
    return Remote(
        repo=REPO,
        commit="c" * 40,
        private=False,
        files=files,
        tags={},
        listed=frozenset(listed),
        released=True,
    )


def test_a_difference_trusts_what_git_and_lfs_say_of_content() -> None:
    def payload(name: str, data: bytes) -> Payload:
        digest = FileDigest(path=name, size=len(data), sha256=sha256_bytes(data))
        return Payload(digest=digest, content=data)

    files = [payload("small", b"a"), payload("large", b"b"), payload("new", b"c")]
    there = {
        "small": RemoteFile(size=1, blob_id=blob_id(b"a")),
        "large": RemoteFile(size=1, blob_id=blob_id(b"b"), sha256=sha256_bytes(b"x")),
        "left.tflite": RemoteFile(size=1, blob_id=""),
        "mine.txt": RemoteFile(size=1, blob_id=""),
    }
    found = compare(files, remote(there, "left.tflite", "never-there"))
    assert (found.added, found.changed, found.unchanged) == (("new",), ("large",), ("small",))
    assert (found.removed, found.kept, found.nothing) == (("left.tflite",), ("mine.txt",), False)
