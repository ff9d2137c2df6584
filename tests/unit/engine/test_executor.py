"""Which steps the executor starts together, and its errors when an external input changes."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.bench import Quiet
from gemma3build.engine.cache import Cache
from gemma3build.engine.executor import Executor
from gemma3build.engine.inputs import LocalFiles
from gemma3build.engine.runner import Runner
from gemma3build.errors import ErrorCode
from gemma3build.plan.graph import Step
from gemma3build.schema.step import StepResult
from tests.support.errors import raises


class Containers:
    """An engine whose one step changes the host instead."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.ran = 0

    def run(self, *_: object, **__: object) -> StepResult:
        self.ran += 1
        self._act()
        return StepResult(seconds=1.0, peak_memory=1)

    def check_stopped(self) -> None: ...

    def remove_orphans(self, staged: Path) -> None: ...

    def stop(self) -> None: ...


def run(root: Path, questions: LocalFiles, containers: Any) -> None:
    step = Step(
        name="piqa-int8",
        module="harness.piqa",
        parameters={},
        inputs={"data": questions.material},
        memory=0,
        disk=0,
    )
    images: Any = SimpleNamespace(ensure=lambda _: SimpleNamespace(digest="0"))
    Executor(
        cache=Cache(root),
        images=images,
        containers=containers,
        materials=questions,
        sources={"harness.piqa": "0"},
        reporter=Quiet(),
        memory=0,
    ).run((step,), 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "valid.jsonl"
    path.write_text("{}")
    return path


@pytest.fixture
def questions(file: Path) -> LocalFiles:
    return LocalFiles("piqa", {file.name: file})


def change(path: Path) -> None:
    path.write_text("{ }")


@pytest.mark.parametrize("act", [change, Path.unlink])
def test_a_file_that_changes_or_goes_while_a_step_runs_is_named(
    tmp_path: Path, file: Path, questions: LocalFiles, act: Callable[[Path], object]
) -> None:
    containers = Containers(lambda: act(file))
    with raises(
        ErrorCode.INPUT_CHANGED, match="piqa-int8 was discarded: the files of piqa changed"
    ):
        run(tmp_path / "cache", questions, containers)
    assert containers.ran == 1


@pytest.mark.parametrize("act", [change, Path.unlink])
def test_a_file_that_changed_or_went_before_a_step_starts_none(
    tmp_path: Path, file: Path, questions: LocalFiles, act: Callable[[Path], object]
) -> None:
    act(file)
    containers = Containers(lambda: None)
    with raises(ErrorCode.INPUT_CHANGED, match="piqa-int8 cannot start: the files of piqa changed"):
        run(tmp_path / "cache", questions, containers)
    assert containers.ran == 0


class Watched(Containers):
    """Records which steps run together; the first one waits whether the second starts."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.started = {name: threading.Event() for name in ("first", "second", "small", "huge")}
        self.together: set[str] = set()

    def run(self, step: Step, **_: object) -> StepResult:  # type: ignore[override]
        self.started[step.name].set()
        if step.name == "first":
            assert self.started["small"].wait(10)
            self.started["second"].wait(0.3)
            self.together = {name for name, event in self.started.items() if event.is_set()}
        return StepResult(seconds=1.0, peak_memory=1)


def test_steps_run_together_only_where_their_memory_is_there(tmp_path: Path) -> None:
    sizes = {"first": 4, "second": 4, "small": 2, "huge": 100}
    steps = tuple(
        Step(name=n, module="i.m", parameters={"n": n}, inputs={}, memory=size, disk=0)
        for n, size in sizes.items()
    )
    images: Any = SimpleNamespace(ensure=lambda _: SimpleNamespace(digest="0"))
    containers: Any = Watched()
    done = Executor(
        cache=Cache(tmp_path),
        images=images,
        containers=containers,
        materials=LocalFiles("none", {}),
        sources={"i.m": "0"},
        reporter=Quiet(),
        memory=6,
    ).run(steps, 4)
    assert containers.together == {"first", "small"}
    assert done.keys() == sizes.keys()


def test_what_stops_steps_is_not_called_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr(Executor, "run", fail)
    with raises(ErrorCode.OUTPUT) as caught:
        Runner(Any, Cache(tmp_path), print).run((), Any, 1, Quiet())  # type: ignore[arg-type]
    assert "build" not in f"{caught.value.what} {caught.value.hint}"
