"""The wheel in an environment of its own, run in an empty folder: it builds what the checkout builds."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemma3build.engine.runner import source_digests
from gemma3build.errors import ErrorCode
from gemma3build.rebuild.archive import unpack
from gemma3build.util.files import digest_tree
from tests.conftest import SHAPES, Command
from tests.support.checkpoint import CONFIG
from tests.support.hub import Hub

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MODEL = """
[mine]
summary = "a model of a user"
base_model = "me/mine"
prefill_seq_lens = [8]
kv_cache_max_len = 64
context = 256
schemes = ["dynamic_int8"]
hub = {{ repo = "me/mine", revision = "{revision}" }}
[mine.shape]
vocab_size = {vocab_size}
hidden_size = {hidden_size}
intermediate_size = {intermediate_size}
layers = {num_hidden_layers}
heads = {num_attention_heads}
kv_heads = {num_key_value_heads}
head_dim = {head_dim}
"""


def call(*command: object) -> str:
    arguments = [str(argument) for argument in command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what pip installs for it."""
    folder = tmp_path_factory.mktemp("installed")
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"-w{folder}", ROOT)
    (wheel,) = folder.glob("gemma3build-*.whl")
    call(sys.executable, "-m", "venv", folder / "venv")
    call(folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return folder / "venv"


@pytest.fixture(scope="module")
def package(environment: Path) -> Path:
    (found,) = environment.glob("lib/*/site-packages/gemma3build")
    return found


@pytest.fixture(autouse=True)
def unchanged(package: Path) -> Iterator[None]:
    """No test changes a file of the installed package."""
    before = digest_tree(package)
    yield
    assert digest_tree(package) == before


@pytest.fixture
def installed(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The installed command in an empty folder, for a user with an empty cache and no configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "empty").mkdir()
    command = (str(environment / "bin" / "gemma3build"),)
    return Command(tmp_path / "cache", tmp_path / "empty", command)


def test_the_wheel_holds_what_the_checkout_does(
    installed: Command, environment: Path, package: Path, tmp_path: Path
) -> None:
    checkout = Command(tmp_path / "cache", tmp_path)
    for arguments in (("models",), ("schemes",), ("build", "--dry-run")):
        assert installed.json(*arguments) == checkout.json(*arguments)
    text = "import json, gemma3build.engine.runner as r; print(json.dumps(r.source_digests()))"
    assert json.loads(call(environment / "bin" / "python", "-c", text)) == source_digests()
    assert (package / "py.typed").is_file()
    done = installed.run("build", "--release", "--dry-run")
    assert done.returncode == ErrorCode.SOURCE.exit_code
    assert "is not in a checkout" in done.stderr
    assert not list(installed.folder.iterdir())


def test_what_a_user_adds_and_locks_is_in_files_of_the_user(installed: Command) -> None:
    with Hub() as hub:
        commit = hub.add("me/mine", {"config.json": json.dumps(CONFIG).encode()})
        text = MODEL.format(revision=commit, **CONFIG)
        (installed.folder / "models.toml").write_text(text)
        drifted = installed.run("build", "--model", "mine", "--dry-run")
        assert (drifted.returncode, "`gemma3build lock mine`" in drifted.stderr) == (
            ErrorCode.DRIFT.exit_code,
            True,
        )
        done = installed.run("lock", "mine", HF_ENDPOINT=hub.address, HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    locked = json.loads((installed.folder / "models.lock.json").read_text())
    assert locked["models"].keys() == {"mine"}
    assert installed.json("build", "--model", "mine", "--dry-run")["model"] == "mine"
    found = installed.json("models")
    assert found["mine"]["locked"]
    assert found["gemma3-270m"]["locked"]


def test_an_installed_package_builds_archives_and_rebuilds_what_the_checkout_does(
    installed: Command,
    environment: Path,
    warm: Command,
    tiny: Path,
    tmp_path: Path,
    user_cache: Path,
) -> None:
    shutil.copytree(user_cache / "wheels", installed.cache / "wheels", copy_function=os.link)
    arguments = ("build", "--checkpoint", str(tiny), "--scheme", "dynamic_int8", *SHAPES)
    expected, release = (Path(command.json(*arguments)["release"]) for command in (warm, installed))
    assert release == installed.folder / "artifacts" / "tiny"
    assert (release / "SHA256SUMS").read_bytes() == (expected / "SHA256SUMS").read_bytes()
    provenance = json.loads((release / "provenance.intoto.jsonl").read_text())
    assert "gitCommit" not in json.dumps(provenance)
    assert installed.run("verify", str(release)).returncode == 0

    done = installed.run("archive", str(release), "-o", "a.tar")
    assert done.returncode == 0, done.stderr
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    unpack(installed.folder / "a.tar", unpacked)
    source = unpacked / "source"
    assert (source / "gemma3build" / "containers" / "Dockerfile").is_file()
    assert (source / "LICENSE").is_file()
    archived = Command(
        tmp_path / "other", source, (str(environment / "bin" / "python"), "-m", "gemma3build")
    )
    rebuilt = archived.run(
        *("rebuild", str(release), "--checkpoint", str(tiny), "--json"), PYTHONPATH=str(source)
    )
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert {item["verdict"] for item in json.loads(rebuilt.stdout)["files"]} == {"identical"}
