"""What containers are given, and which are removed, with an engine that the test stands for."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import DockerException

from gemma3build.engine.container import STAGED_LABEL, remove_orphans
from gemma3build.engine.store import Store
from gemma3build.errors import EngineError
from tests.command import run_command

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
    store = Store(tmp_path / "cache")
    gone = Path("staging", "rebuild-0", "store", "staging", KEY)
    left, killed = store.staged(KEY), store.root / gone
    other = tmp_path / "other" / gone  # of another store on the same engine
    with store.scratch("rebuild") as scratch, store.lock("l" * 64):
        running = scratch / "store" / "staging" / KEY
        building = store.staged("l" * 64)
        engine: Any = Engine(left, killed, other, running, building)
        remove_orphans(engine, Store(store.root))
    assert engine.removed == [left, killed]


def test_an_engine_that_fails_meanwhile_is_an_error(tmp_path: Path) -> None:
    def fail(**_: object) -> None:
        raise DockerException("gone")

    engine: Any = SimpleNamespace(containers=SimpleNamespace(list=fail))
    with pytest.raises(EngineError, match="Containers of killed builds cannot be removed: gone"):
        remove_orphans(engine, Store(tmp_path))


@pytest.mark.parametrize("answers", [True, False])
def test_a_prune_removes_containers_where_an_engine_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    store = Store(tmp_path)
    half = store.stage("rebuild-0")
    engine = Engine(half)

    def connect() -> Engine:
        if answers:
            return engine
        raise EngineError("No Docker engine answers", "none", "Start it.")

    monkeypatch.setattr("gemma3build.engine.docker.connect", connect)
    monkeypatch.setenv("GEMMA3BUILD_CACHE", str(tmp_path))
    assert run_command("cache", "prune").returncode == 0
    assert engine.removed == ([half] if answers else [])
    assert not half.exists()
    assert [*(tmp_path / "locks").iterdir()] == []
