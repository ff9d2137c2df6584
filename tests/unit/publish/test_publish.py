"""A release to the Hub and back, by the Hub's own client, against a hub on loopback."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub.constants
import pytest

from gemma3build.errors import ErrorCode
from gemma3build.publish.diff import Payload, Remote, RemoteFile, diff_release
from gemma3build.release.checksums import CHECKSUMS, SIGNATURE
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import FileDigest, sha256_bytes
from tests.support.hub import MAIN, Hub, User, blob_id
from tests.support.publishing import (
    MEASURED,
    REPO,
    TOKEN,
    content,
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
    assert f"Nothing to do: {REPO} has all files" in said


@pytest.mark.usefixtures("writer")
def test_a_tag_that_failed_is_made_by_the_next_run(hub: Hub, release: Path) -> None:
    hub.fail("POST .*/tag/", status=500)
    error = failed("publish", str(release), "--repo", REPO, "--tag", "v1")
    assert error.code is ErrorCode.NETWORK
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
    assert (error.code, "has a tag v1 already" in error.why) == (ErrorCode.REQUEST, True)
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
    assert error.code is ErrorCode.BRANCH_MOVED
    assert "colleague moved main meanwhile" in error.why
    assert "'Add b'" in error.why
    assert head(hub).title == "Add b"
    assert not publish(release)["idle"]
    assert "b" in head(hub).files


@pytest.mark.usefixtures("writer")
def test_what_the_hub_holds_afterwards_is_read_back(hub: Hub, release: Path) -> None:
    hub.corrupt = lambda data: data.replace(b"model in fp16", b"model in FP16")
    error = failed("publish", str(release), "--repo", REPO)
    assert error.code is ErrorCode.READ_BACK
    assert error.why.startswith("m_fp16.task, m_fp16.tflite are not what was uploaded")


@pytest.mark.usefixtures("writer")
def test_a_dry_run_shows_the_difference_and_the_card_and_writes_nothing(
    hub: Hub, release: Path
) -> None:
    done = run("publish", str(release), "--repo", REPO, "--dry-run")
    assert done.exit_code == 0
    assert f"Publish m to {REPO}, a new repository:" in done.stdout
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
    assert failed("publish", str(release), "--repo", REPO).code is ErrorCode.LOGIN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert failed("publish", str(release), "--repo", REPO).code is ErrorCode.LOGIN
    hub.users[TOKEN] = User("reader")
    error = failed("publish", str(release), "--repo", REPO)
    assert (error.code, "this token has no permission" in error.why) == (ErrorCode.ACCESS, True)
    error = failed("publish", str(release), "--repo", "org/new")
    assert error.code is ErrorCode.ACCESS
    assert head(hub) == before
    assert hub.objects == {}


@pytest.mark.usefixtures("writer")
def test_a_repository_that_moved_is_public_or_has_no_such_name_is_told(
    hub: Hub, release: Path
) -> None:
    hub.add(REPO, {"README.md": b"old"})
    hub.renamed["org/old"] = REPO
    error = failed("publish", str(release), "--repo", "org/old")
    assert (error.code, error.why) == (ErrorCode.MOVED, f"org/old is called {REPO} now")
    error = failed("publish", str(release), "--repo", REPO, "--private")
    assert (error.code, "already exists and is public" in error.why) == (ErrorCode.REQUEST, True)
    for name in ("gemma", "org/a b", "org/a--b", "org/name/more"):
        assert failed("publish", str(release), "--repo", name).code is ErrorCode.REQUEST


def test_offline_nothing_is_published_or_looked_at(
    hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert failed("publish", str(release), "--repo", REPO).code is ErrorCode.OFFLINE
    assert failed("verify", f"hf://{REPO}").code is ErrorCode.OFFLINE
    assert hub.requests == []


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
    assert (error.code, "the Hub answered 500" in error.why) == (ErrorCode.NETWORK, True)


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
    assert (error.code, error.why) == (ErrorCode.INTERRUPTED, f"it got a signal before {left}")
    assert f"{REPO}/commit/{head(hub).id} exists" in error.what
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
        assert (error.code, f"the Hub answered {status}" in error.why) == (ErrorCode.NETWORK, True)
        assert ("Wait a little" in error.hint) == later
    assert not hub.repos[REPO].commits[hub.repos[REPO].refs[MAIN]].parent


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("tag", ["v 1", "../v1", "v1.lock", "-v1", "v1."])
def test_a_tag_that_git_would_refuse_is_refused_before_anything_is_asked(
    hub: Hub, release: Path, tag: str
) -> None:
    error = failed("publish", str(release), "--repo", REPO, f"--tag={tag}")
    assert (error.code, error.what) == (ErrorCode.REQUEST, f"{tag!r} is no tag")
    assert hub.requests == []


@pytest.mark.usefixtures("writer")
def test_a_page_that_wants_a_login_is_not_taken_for_a_refusal_of_the_card(
    hub: Hub, release: Path
) -> None:
    hub.fail("POST .*/preupload/", status=200, body=b"<html>Welcome to the hotel</html>")
    error = failed("publish", str(release), "--repo", REPO)
    assert (error.code, "does not speak as the Hub does" in error.why) == (ErrorCode.NETWORK, True)


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
    found = diff_release(files, remote(there, "left.tflite", "never-there"))
    assert (found.added, found.changed, found.unchanged) == (("new",), ("large",), ("small",))
    assert (found.removed, found.kept, found.nothing) == (("left.tflite",), ("mine.txt",), False)
