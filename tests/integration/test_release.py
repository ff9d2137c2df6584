"""`gemma3build release` from a checkout without changes to a hub, and the same again."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gemma3build.release.checksums import SIGNATURE
from tests.conftest import Command
from tests.integration.test_evaluate import questions
from tests.support.hub import Hub, User
from tests.unit.release.test_provenance import git
from tests.unit.verify.test_signature import write_key

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TOKEN = "hf_secret"
NAMES = ("tiny-64", "tiny-128")
FILE = """
[[release]]
checkpoint = "{checkpoint}"
name = "tiny-64"
schemes = ["dynamic_int8"]
prefill_seq_lens = [8]
kv_cache_max_len = 64

[[release]]
checkpoint = "{checkpoint}"
name = "tiny-128"
schemes = ["dynamic_int8"]
prefill_seq_lens = [16]
kv_cache_max_len = 128
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This project as its own commit: the checkout of the tests may have changes."""
    folder = tmp_path / "checkout"
    for name in ("gemma3build", "containers"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=one")
    return folder


@pytest.fixture
def command(warm_cache: Path, checkout: Path, tmp_path: Path) -> Command:
    """The command of that checkout, which Python finds where it starts."""
    return Command(shutil.copytree(warm_cache, tmp_path / "cache"), checkout)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.users[TOKEN] = User("publisher", write=True)
        yield running


def test_the_line_ends_in_signed_releases_on_the_hub_and_does_nothing_twice(
    command: Command, hub: Hub, tiny: Path, tmp_path: Path
) -> None:
    write_key(tmp_path / "release.key", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "releases.toml").write_text(FILE.format(checkpoint=tiny))
    folder, asked = tmp_path / "out", questions(tmp_path / "piqa")
    options = ("--output", str(folder), "--key", str(tmp_path / "release.key"))
    what = ("release", str(tmp_path / "releases.toml"), "v1")
    arguments = (*what, *options, "--piqa", str(asked))
    publishing = ("--publish", "--repo", "org/{name}", "--skip", "piqa")
    environment = {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        "PYTHONPATH": str(command.folder),
    }

    def line(*more: str) -> Any:
        done = command.run(*arguments, *more, "--json", **environment)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return json.loads(done.stdout)

    done = command.run(*arguments, "--dry-run", **environment)
    assert done.returncode == 0, done.stderr
    assert not folder.exists()

    first = line()
    assert [item["ran"] for item in first["releases"]] == [["build", "evaluate", "sign"]] * 2
    assert [item["name"] for item in first["releases"]] == list(NAMES)
    commit = git(command.folder, "rev-parse", "HEAD").strip()
    assert json.loads((folder / "index.json").read_text())["commit"] == commit
    assert hub.requests == []
    for name in NAMES:
        done = command.run("verify", str(folder / name), "--key", str(tmp_path / "release.pub"))
        assert done.returncode == 0, done.stderr

    second = line(*publishing)
    assert [item["ran"] for item in second["releases"]] == [["publish"]] * 2
    for name, item in zip(NAMES, second["releases"], strict=True):
        repo = hub.repos[f"org/{name}"]
        assert repo.refs["refs/tags/v1"] == item["published"]["commit"]
        files = repo.commits[item["published"]["commit"]].files
        assert files[SIGNATURE] == (folder / name / SIGNATURE).read_bytes()
        assert f"{name}_q8_ekv{name.removeprefix('tiny-')}.task" in files
        assert item["published"]["url"] in (folder / "index.html").read_text()

    states = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    hub.requests.clear()
    third = line(*publishing)
    assert third["idle"]
    assert [item["ran"] for item in third["releases"]] == [[], []]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == states
    assert not any(request.startswith(("PUT", "POST")) for request in hub.requests)

    (command.folder / "stray.txt").touch()
    done = command.run(*arguments, **environment)
    assert (done.returncode, "not what commit" in done.stderr) == (7, True)
