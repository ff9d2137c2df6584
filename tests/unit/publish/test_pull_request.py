"""Publishing by pull requests, against a hub on loopback."""

from pathlib import Path
from typing import Any

import pytest

from gemma3build.errors import ErrorCode
from gemma3build.schema.evaluation import EVALUATION
from tests.support.hub import Hub, Pull, User
from tests.support.publishing import (
    MEASURED,
    REPO,
    TOKEN,
    failed,
    head,
    measure,
    publish,
    run,
)
from tests.support.release import (
    TASK,
)


@pytest.mark.usefixtures("writer")
def test_a_pull_request_leaves_the_branch_as_it_is(hub: Hub, release: Path) -> None:
    hub.add(REPO, {"README.md": b"old"})
    before = head(hub)
    done = publish(release, "--create-pr")
    assert done["pull_request"] == f"{hub.address}/{REPO}/discussions/1"
    assert head(hub) == before
    assert head(hub, "refs/pr/1").files[TASK] == (release / TASK).read_bytes()
    error = failed("publish", str(release), "--repo", REPO, "--create-pr", "--tag", "v1")
    assert error.code is ErrorCode.REQUEST


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
    assert f"Nothing to do: {done['pull_request']} has all files" in said
    assert writes(hub) == []
    # No matter who opened it, and what became of the branch.
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
    assert error.code is ErrorCode.BRANCH_MOVED
    assert "colleague moved refs/pr/4 meanwhile" in error.why


def test_a_pull_request_on_an_older_commit_of_the_branch_is_left_alone(
    hub: Hub, release: Path, opened: Any
) -> None:
    hub.repos[REPO].commit({"README.md": b"new"}, "second", "someone")
    measure_again(release)
    hub.requests.clear()
    error = failed("publish", str(release), "--repo", REPO, "--create-pr")
    assert error.code is ErrorCode.PULL_REQUEST
    assert error.why.startswith(f"{opened['pull_request']} is open and based on an older commit")
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
