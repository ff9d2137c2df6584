"""The fetching step and the lock, by the Hub's own client, against a hub on loopback."""

import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
from msgspec import structs

from gemma3build.engine.cache import Cache
from gemma3build.engine.preflight import check_offline
from gemma3build.engine.runner import hub_token
from gemma3build.errors import ErrorCode
from gemma3build.pins.config import HubSource, ModelConfig, find_model
from gemma3build.pins.lockfile import LockedModel, lock_drift, model_drift
from gemma3build.pins.resolver import resolve_model
from gemma3build.plan.checkpoint import plan_fetch
from gemma3build.schema.step import OUTPUT_DIR, StepError, StepErrorCode, StepRequest
from gemma3build.steps.fetch.hub import run
from gemma3build.util.files import FileDigest, sha256_bytes
from gemma3build.util.serialize import encode
from tests.support.errors import raises
from tests.support.hub import MAIN, Hub, User

REPO, TOKEN = "org/name", "hf_secret"
MEMBER = User("user", access=frozenset({REPO}))
WEIGHTS = bytes(range(256)) * 4000
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.model": b"tokens"}
EXTRA = {"README.md": b"# Gemma", "sub/other.safetensors": b"not of the checkpoint"}


@pytest.fixture
def commit(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """A gated repository that one token opens, which is in the environment."""
    hub.users[TOKEN] = MEMBER
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub.add(REPO, {**FILES, **EXTRA}, gated=True)


def fetch(commit: str, folder: Path, repo: str = REPO, **changed: bytes) -> None:
    content = {**FILES, **{name.replace("_", "."): data for name, data in changed.items()}}
    files = tuple(
        FileDigest(path=name, size=len(data), sha256=sha256_bytes(data))
        for name, data in content.items()
    )
    parameters = {"repo": repo, "revision": commit, "files": encode(files)}
    folder.mkdir(exist_ok=True)
    run(StepRequest(step="fetch.hub", parameters=parameters, inputs={}), folder)


def rejected(
    commit: str, folder: Path, repo: str = REPO, **changed: bytes
) -> tuple[StepErrorCode, str]:
    """Return the code and the message of a failing fetch; only whole files may stay."""
    with pytest.raises(StepError) as caught:
        fetch(commit, folder, repo, **changed)
    for path in folder.iterdir():
        assert path.read_bytes() == FILES[path.name]
    assert TOKEN not in str(caught.value)
    return StepErrorCode(caught.value.failure.code), str(caught.value)


def test_the_files_of_the_lock_are_fetched_and_nothing_else(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    fetch(commit, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == FILES
    # What large files are stored on is another host: the token must not go there.
    stored = [request for request in hub.requests if " /lfs/" in request]
    assert len(stored) == 2
    assert not any("token" in request for request in stored)


@pytest.mark.parametrize(
    ("token", "repo", "code", "messages"),
    [
        (
            User("user"),
            REPO,
            "access",
            ["Accept the terms at {}/org/name with the account of this"],
        ),
        (None, REPO, "login", ["is gated and no token was sent", "hf auth login"]),
        (
            User("user", expired=True),
            REPO,
            "login",
            ["it has expired, was revoked or is mistyped", "{}/settings/tokens"],
        ),
        (
            MEMBER,
            "org/gone",
            "not_found",
            ["no repository org/gone, or hides it from this account"],
        ),
        (MEMBER, "org/old", "moved", ["org/old is called org/name now"]),
    ],
    ids=["no access", "no token", "expired token", "unknown repository", "renamed repository"],
)
def test_what_the_hub_rejects_has_its_own_message(
    hub: Hub,
    commit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: User | None,
    repo: str,
    code: str,
    messages: list[str],
) -> None:
    hub.renamed["org/old"] = REPO
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        hub.users[TOKEN] = token
    found, text = rejected(commit, tmp_path / "out", repo=repo)
    assert found == code
    for message in messages:
        assert message.format(hub.address) in text


def test_an_unknown_revision_or_file(hub: Hub, commit: str, tmp_path: Path) -> None:
    code, text = rejected("f" * 40, tmp_path / "out")
    assert (code, "org/name has no such revision" in text) == (StepErrorCode.NOT_FOUND, True)
    code, text = rejected(commit, tmp_path / "out", gone_json=b"")
    assert code == StepErrorCode.NOT_FOUND
    assert "gone.json of org/name cannot be fetched" in text


def test_another_digest_of_a_large_file_is_told_before_anything_is_downloaded(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    code, text = rejected(commit, tmp_path / "out", model_safetensors=b"other")
    assert (code, "model.safetensors of org/name is not the pinned one" in text) == (
        StepErrorCode.DIGEST,
        True,
    )
    assert not any("GET" in request and "resolve" in request for request in hub.requests)
    code, text = rejected(commit, tmp_path / "out", config_json=b"[]")
    assert (code, sha256_bytes(b"{}") in text) == (StepErrorCode.DIGEST, True)


def test_an_interrupted_download_resumes(
    hub: Hub, commit: str, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # of 10 MiB
    weights = f"GET /lfs/{sha256_bytes(WEIGHTS)}"
    hub.fail(weights, after=100_000)
    hub.fail(weights, after=200_000, reset=True)
    hub.fail(weights, status=503)
    fetch(commit, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == WEIGHTS
    assert waits
    assert 100_000 in hub.starts


@pytest.mark.parametrize(("named", "waited"), [("7", 7), ("9" * 400, 300)])
def test_a_busy_hub_is_asked_again_after_the_time_that_it_names_up_to_a_limit(
    hub: Hub, commit: str, tmp_path: Path, waits: list[float], named: str, waited: float
) -> None:
    hub.fail("GET /api/models", status=429, headers={"Retry-After": named})
    hub.fail("HEAD /org/name", status=502, times=3)
    fetch(commit, tmp_path / "out")
    # Several files come at once, and the locks of the client's cache look again every 0.05 s.
    assert [wait for wait in waits if wait >= 1] == [waited, 1, 2, 4]


def test_a_connection_that_breaks_every_time_is_told_and_leaves_nothing(
    hub: Hub, commit: str, tmp_path: Path, waits: list[float]
) -> None:
    hub.fail("GET /lfs", after=1000, times=10_000, reset=True)
    code, text = rejected(commit, tmp_path / "out")
    assert code == StepErrorCode.NETWORK
    assert "the Hub cannot be reached" in text
    assert set(waits) >= {1, 2, 4, 8, 16}


KILLED = """
import sys
from pathlib import Path
from tests.unit.steps.test_fetch import fetch
fetch(sys.argv[1], Path(sys.argv[2]))
"""


def test_what_a_kill_leaves_of_a_file_is_removed_by_the_next_run_or_a_prune(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    cache, key = Cache(tmp_path / "cache"), "k" * 64
    output = cache.stage(key) / OUTPUT_DIR
    hub.fail("GET /lfs", after=100_000, times=10_000)  # and so it waits, and tries again
    deadline = time.monotonic() + 60
    with subprocess.Popen([sys.executable, "-c", KILLED, commit, str(output)]) as process:
        while not list(output.rglob("*.incomplete")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert list(output.rglob("*.incomplete"))
    hub.faults.clear()
    fetch(commit, cache.stage(key) / OUTPUT_DIR)
    assert {path.name for path in output.iterdir()} == set(FILES)
    (output / ".cache").mkdir()
    cache.prune(everything=False)
    assert not output.exists()


def test_a_hub_that_is_not_there_is_told(
    hub: Hub, commit: str, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, text = rejected(commit, tmp_path / "out")
    assert (code, "the Hub cannot be reached" in text) == (StepErrorCode.NETWORK, True)


def test_a_page_that_wants_a_login_is_not_taken_for_the_hub(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    page = {"status": 200, "body": b"<html>Welcome to the hotel</html>"}
    hub.fail("GET /api/models", **page, times=2)
    code, text = rejected(commit, tmp_path / "out")
    assert (code, f"what answers at {hub.address} does not speak as the Hub" in text) == (
        StepErrorCode.NETWORK,
        True,
    )
    with raises(ErrorCode.NETWORK, match="whether the network wants you to log in"):
        lock(model())


def test_a_hidden_repository_does_not_make_a_token_a_bad_one(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    hub.fail("GET /api/models", status=401, code="RepoNotFound")
    code, text = rejected(commit, tmp_path / "out")
    assert (code, "or hides it from this account" in text) == (StepErrorCode.NOT_FOUND, True)


LOCKED = LockedModel(
    source=REPO,
    revision="a" * 40,
    files=(FileDigest(path="config.json", size=2, sha256=sha256_bytes(b"{}")),),
)


def test_offline_a_fetch_that_has_to_run_is_rejected_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = plan_fetch(LOCKED)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    check_offline((structs.replace(step, network=False),))
    with raises(ErrorCode.OFFLINE, match="HF_HUB_OFFLINE is set"):
        check_offline((step,))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    check_offline((step,))


def test_the_saved_login_is_the_token_of_the_container(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_saved\n")
    code = "from gemma3build.engine.runner import hub_token; print(hub_token())"
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("HF_")}
    for extra, expected in (({}, "hf_saved"), ({"HF_TOKEN": "hf_given"}, "hf_given")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "HF_HOME": str(tmp_path), **extra},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_without_a_login_there_is_no_token(hub: Hub) -> None:
    assert hub_token() is None


def model(repo: str = REPO, revision: str = "main", **sha256: str) -> ModelConfig:
    given = {name.replace("_", "."): digest for name, digest in sha256.items()}
    source = HubSource(repo=repo, revision=revision, sha256=given)
    return structs.replace(find_model("gemma3-1b-it"), hub=source)


def lock(found: ModelConfig) -> LockedModel:
    return resolve_model("m", found, lambda *_: pytest.fail("nothing is in packages"))


def test_a_name_is_locked_to_its_commit_and_the_digests_of_its_files(hub: Hub, commit: str) -> None:
    locked = lock(model())
    assert locked.revision == commit
    assert {file.path: (file.size, file.sha256) for file in locked.files} == {
        name: (len(data), sha256_bytes(data)) for name, data in FILES.items()
    }
    # Only the small one was downloaded.
    assert [r for r in hub.requests if "/resolve/" in r or "/lfs/" in r] == [
        f"GET /{REPO}/resolve/{commit}/config.json with a token"
    ]


def test_a_lock_says_what_changed_since_the_last_one(hub: Hub, commit: str) -> None:
    old = lock(model())
    assert lock_drift("m", old, old) == ()
    new_commit = hub.repos[REPO].commit({**FILES, "config.json": b"[]"}, "second", "someone")
    new = lock(model())
    assert [str(drift) for drift in lock_drift("m", new, old)] == [
        f"m.revision is {new_commit}, the lock says {commit}",
        f"m.files.config.json is {sha256_bytes(b'[]')}, the lock says {sha256_bytes(b'{}')}",
    ]
    # A branch that moved is no drift until it is locked again; a commit that is edited is.
    assert model_drift("m", model(), old) == ()
    assert [drift.field for drift in model_drift("m", model(revision="c" * 40), old)] == [
        "m.revision"
    ]


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (model(repo="org/gone"), ErrorCode.NOT_FOUND, "no repository org/gone"),
        (model(revision="v9"), ErrorCode.NOT_FOUND, "has no such revision"),
        (model(repo="org/old"), ErrorCode.MOVED, "org/old is called org/name now"),
        (
            model(model_safetensors="0" * 64),
            ErrorCode.DOWNLOAD,
            "do not build before you know which",
        ),
    ],
)
def test_what_cannot_be_locked_has_its_own_message(
    hub: Hub, commit: str, found: ModelConfig, code: ErrorCode, said: str
) -> None:
    hub.renamed["org/old"] = REPO
    with raises(code, match=said):
        lock(found)


def test_a_gated_file_and_a_hub_that_fails_cannot_be_locked(
    hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fail("GET /api/models", status=500)
    with raises(ErrorCode.NETWORK, match="the Hub answered 500: on demand"):
        lock(model())
    monkeypatch.delenv("HF_TOKEN")
    with raises(ErrorCode.LOGIN, match="Accept the terms at"):
        lock(model())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with raises(ErrorCode.OFFLINE):
        lock(model())


def test_a_branch_that_moved_keeps_what_was_locked(hub: Hub, commit: str, tmp_path: Path) -> None:
    hub.repos[REPO].commit({"config.json": b"other"}, "second", "someone")
    assert hub.repos[REPO].refs[MAIN] != commit
    fetch(commit, tmp_path / "out")
