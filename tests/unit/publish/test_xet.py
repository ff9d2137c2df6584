"""Xet by its own client, in processes of their own, against a store on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from gemma3build.errors import ErrorCode
from tests.support.hub import Hub, User
from tests.support.publishing import REPO, TOKEN, head, measured_release
from tests.support.release import TASK
from tests.support.xet import ACCESS, POLICY
from tests.unit.steps.test_fetch import FILES, commit, fetch

__all__ = ["commit"]  # fixtures

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return measured_release(tmp_path / "release")


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """Run the command as a user does who has the client as it comes."""
    hub.xet = True
    hub.users[TOKEN] = User("publisher", write=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        **POLICY,
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
    }

    def run(*arguments: str, **given: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "gemma3build", *arguments],
            env={**environment, **given},
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert not any(secret in said for secret in (TOKEN, ACCESS, "/v1/", "/xorbs/"))
        return done

    return run


def sent(hub: Hub, start: str) -> int:
    return sum(request.startswith(start) for request in hub.requests)


def test_a_release_goes_to_the_hub_and_comes_back_by_xet(
    hub: Hub, release: Path, run: Run, tmp_path: Path
) -> None:
    done = run("publish", str(release), "--repo", REPO, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"] == head(hub).id
    for path in release.iterdir():
        assert head(hub).files[path.name] == path.read_bytes()
    assert sent(hub, "POST /v1/xorbs/")
    assert sent(hub, "POST /v1/shards") == 1
    assert not sent(hub, "PUT /lfs/")
    done = run("verify", "--full", f"hf://{REPO}")
    assert done.returncode == 0, done.stderr
    assert sent(hub, "GET /v1/reconstructions/") == 4
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("home" in path.parts for path in kept)  # the client's notes and logs
    assert not any(TOKEN.encode() in path.read_bytes() for path in kept)
    assert not sent(hub, "GET /lfs/")


def test_where_xet_fails_the_classic_way_is_named_and_works(
    hub: Hub, release: Path, run: Run
) -> None:
    hub.fail("/v1/xorbs/", status=403, times=100)
    done = run("publish", str(release), "--repo", REPO)
    assert done.returncode == ErrorCode.NETWORK.exit_code
    assert "Xet failed: " in done.stderr
    assert "HF_HUB_DISABLE_XET=1" in done.stderr
    assert head(hub).title == "first"  # the Hub's own, of a repository that was made
    done = run("publish", str(release), "--repo", REPO, HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    assert head(hub).files[TASK] == (release / TASK).read_bytes()
    hub.fail("/xorbs/", status=403, times=100)
    done = run("verify", "--full", f"hf://{REPO}")
    assert done.returncode == ErrorCode.NETWORK.exit_code, done.stderr
    assert "HF_HUB_DISABLE_XET=1" in done.stderr
    done = run("verify", "--full", f"hf://{REPO}", HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_that_is_in_xets_store_is_fetched_the_classic_way(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    hub.xet = True
    assert huggingface_hub.constants.HF_HUB_DISABLE_XET  # as in the container
    fetch(commit, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == FILES
    assert sent(hub, "GET /lfs/") == 2
    assert not any("/v1/" in request or "xet" in request for request in hub.requests)
