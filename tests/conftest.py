"""Fixtures of the tests that need Docker. Where no engine answers they fail: nothing is skipped."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from hypothesis import settings

from benchmarks.bench import Quiet
from gemma3build.engine.cache import Cache
from gemma3build.engine.container import Containers
from gemma3build.engine.docker import connect
from gemma3build.engine.executor import Executor, FinishedStep
from gemma3build.engine.images import Images
from gemma3build.engine.runner import CACHE_VARIABLE, cache_dir, source_digests
from gemma3build.pins.config import load_images
from gemma3build.plan.graph import Plan, Step
from tests.support.checkpoint import write_checkpoint

# HYPOTHESIS_PROFILE=long tries forty times as much; that a machine is loaded fails neither.
settings.register_profile("short", max_examples=50, deadline=None)
settings.register_profile("long", max_examples=2_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

# Jobs that a shell put into the background ignore SIGINT and pass that on; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

COMMAND = (sys.executable, "-m", "gemma3build")
SHAPES = ["--prefill-seq-lens", "8", "--kv-cache-max-len", "64"]


@dataclass(frozen=True, slots=True)
class Command:
    """Runs the command as a user does, with its own cache."""

    cache: Path
    folder: Path
    command: tuple[str, ...] = COMMAND

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, CACHE_VARIABLE: str(self.cache)}

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    found = connect()
    yield found
    found.close()


@pytest.fixture(scope="session")
def images(client: docker.DockerClient) -> None:
    """Make the images once, with the wheels in the user's own cache."""
    done = subprocess.run(
        [*COMMAND, "images", "--build"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def warm_cache(images: None, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds every result of the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("warm")
    command = Command(folder / "cache", folder)
    done = command.run("build", "--checkpoint", str(tiny), "--scheme", "all", *SHAPES)
    assert done.returncode == 0, done.stderr
    return folder / "cache"


@pytest.fixture
def warm(warm_cache: Path, tmp_path: Path) -> Command:
    """The command with that cache; tests that damage it work on a copy."""
    return Command(warm_cache, tmp_path)


@pytest.fixture
def cold(images: None, tmp_path: Path) -> Command:
    """The command with an empty cache."""
    return Command(tmp_path / "cache", tmp_path)


@pytest.fixture(scope="session")
def user_cache() -> Path:
    """The cache of the user who runs the tests, with downloads."""
    return cache_dir()


def run_plan(
    client: docker.DockerClient, plan: Plan, cache: Path, materials: Any = None, **limits: Any
) -> dict[str, FinishedStep]:
    """Run a plan as ``run_steps`` does."""
    return run_steps(client, plan.steps, cache, materials, **limits)


def run_steps(
    client: docker.DockerClient,
    steps: tuple[Step, ...],
    cache: Path,
    materials: Any = None,
    **limits: Any,
) -> dict[str, FinishedStep]:
    """Run steps with their own cache; images and wheels are those of the user's cache."""
    config = load_images()
    return Executor(
        cache=Cache(cache),
        images=Images(client, Cache(cache_dir()), config, print),
        containers=Containers(client, epoch=config.source_date_epoch, **limits),
        materials=materials,
        sources=source_digests(),
        reporter=Quiet(),
        memory=0,  # one step at a time needs no room for another
    ).run(steps, jobs=1)
