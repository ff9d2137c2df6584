"""What containers are given, and which are removed, with an engine that the test stands for."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import DockerException

from gemma3build.engine.cache import Cache
from gemma3build.engine.container import (
    STAGED_LABEL,
    Containers,
    is_on_loopback,
    network_mode,
    remove_orphans,
)
from gemma3build.engine.runner import network_environment
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.plan.graph import Step
from tests.support.command import run_command
from tests.support.errors import raises

KEY = "k" * 64


class Engine:
    """Lists containers by the directories that they write to, and notes which are removed."""

    def __init__(self, *staged: Path) -> None:
        self.removed: list[Path] = []
        self.containers = SimpleNamespace(list=self.list)
        self._staged = staged

    def list(self, **_: object) -> list[Any]:
        def remover(path: Path) -> Callable[..., None]:
            return lambda *, force: self.removed.append(path) if force else None

        return [
            SimpleNamespace(labels={STAGED_LABEL: str(path)}, remove=remover(path))
            for path in self._staged
        ]


def test_containers_of_killed_builds_and_rebuilds_are_removed_and_no_others(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    gone = Path("staging", "rebuild-0", "store", "staging", KEY)
    left, killed = cache.staged(KEY), cache.root / gone
    other = tmp_path / "other" / gone  # of another store on the same engine
    with cache.scratch("rebuild") as scratch, cache.lock("l" * 64):
        running = scratch / "store" / "staging" / KEY
        building = cache.staged("l" * 64)
        engine: Any = Engine(left, killed, other, running, building)
        remove_orphans(engine, Cache(cache.root))
    assert engine.removed == [left, killed]


def test_an_engine_that_fails_meanwhile_is_an_error(tmp_path: Path) -> None:
    def fail(**_: object) -> None:
        raise DockerException("gone")

    engine: Any = SimpleNamespace(containers=SimpleNamespace(list=fail))
    with raises(ErrorCode.ENGINE, match="Containers of killed builds cannot be removed: gone"):
        remove_orphans(engine, Cache(tmp_path))


@pytest.mark.parametrize("answers", [True, False])
def test_a_prune_removes_containers_where_an_engine_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    cache = Cache(tmp_path)
    half = cache.stage("rebuild-0")
    engine = Engine(half)

    def connect() -> Engine:
        if answers:
            return engine
        raise BuildError(ErrorCode.ENGINE, "No Docker engine answers", "none", "Start it.")

    monkeypatch.setattr("gemma3build.engine.docker.connect", connect)
    monkeypatch.setenv("GEMMA3BUILD_CACHE", str(tmp_path))
    assert run_command("cache", "prune").returncode == 0
    assert engine.removed == ([half] if answers else [])
    assert not half.exists()
    assert [*(tmp_path / "locks").iterdir()] == []


def test_containers_with_a_network_get_the_token_the_endpoint_and_the_proxies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("gemma3build.engine.runner.hub_token", lambda: "hf_secret")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert network_environment() == {"HF_TOKEN": "hf_secret"}
    given = {
        "HTTPS_PROXY": "http://upper:1",
        "http_proxy": "http://lower:1",
        "NO_PROXY": "localhost",
        "other_proxy": "http://other:1",
        "HF_ENDPOINT": "http://hub:1",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert network_environment() == {
        "HF_TOKEN": "hf_secret",
        "HF_ENDPOINT": "http://hub:1",
        "https_proxy": "http://upper:1",
        "http_proxy": "http://lower:1",
        "no_proxy": "localhost",
    }


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:8080", True),
        ("https://127.8.9.10/hub", True),
        ("http://user:word@localhost:3128", True),
        ("http://[::1]:3128", True),
        ("localhost:3128", True),
        ("", False),
        ("http://[", False),
        ("http://hub.invalid/?from=//127.0.0.1", False),
        ("http://127.0.0.1.hub.invalid", False),
        ("http://localhost.hub.invalid", False),
        ("http://128.0.0.1", False),
        ("proxy:3128", False),
    ],
)
def test_an_address_is_on_the_loopback_by_its_host_alone(address: str, expected: object) -> None:
    assert is_on_loopback(address) is expected


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "http_proxy", "https_proxy", "all_proxy"])
def test_a_loopback_of_this_machine_is_reached_by_its_own_network(name: str) -> None:
    elsewhere = {"HF_ENDPOINT": "http://hub", "no_proxy": "localhost", "HF_TOKEN": "127.0.0.1"}
    assert network_mode(elsewhere) == "bridge"
    assert network_mode({**elsewhere, name: "http://127.0.0.1:1"}) == "host"


@pytest.mark.parametrize("network", [True, False])
def test_a_container_without_a_network_gets_nothing_of_the_environment(
    tmp_path: Path, *, network: bool
) -> None:
    created: dict[str, Any] = {}

    def create(*_: object, **given: Any) -> None:
        created.update(given)
        raise DockerException("enough")

    client: Any = SimpleNamespace(containers=SimpleNamespace(create=create))
    environment = {"HF_TOKEN": "hf_secret", "https_proxy": "http://127.0.0.1:1"}
    step = Step(
        name="fetch",
        module="fetch.hub",
        parameters={},
        inputs={},
        memory=0,
        disk=0,
        network=network,
    )
    image: Any = SimpleNamespace(image_id="i")
    with raises(ErrorCode.ENGINE, match="enough"):
        Containers(client, epoch=0, environment=environment).run(
            step, image=image, staged=tmp_path, inputs={}, mounts=[], on_memory=lambda _: None
        )
    assert created["network_mode"] == ("host" if network else "none")
    assert (environment.items() <= created["environment"].items()) is network
    assert ("hf_secret" in str(created)) is network
    assert created["environment"].get("HF_HUB_DISABLE_XET") == ("1" if network else None)
