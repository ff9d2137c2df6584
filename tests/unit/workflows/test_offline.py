"""What was fetched once needs no Hub again: plan, steps and store, with containers that the test stands for."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import huggingface_hub.constants
import pytest

from benchmarks.bench import Quiet
from gemma3build.engine import runner as runner_module
from gemma3build.engine.cache import Cache
from gemma3build.engine.inputs import PackagedModel
from gemma3build.engine.runner import Runner
from gemma3build.errors import ErrorCode
from gemma3build.pins.lockfile import LockedModel
from gemma3build.plan.graph import Step, StepOutput
from gemma3build.schema.step import OUTPUT_DIR, StepRequest, StepResult
from gemma3build.steps.fetch import hub as fetch
from gemma3build.workflows.request import BuildRequest, prepare_build
from tests.support.errors import raises
from tests.support.hub import Hub
from tests.support.pinned import TINY, pin_tiny

pytestmark = pytest.mark.usefixtures("model")

IMAGE = SimpleNamespace(digest="0" * 64)


class Containers:
    """Fetches as the container does; of every other step it writes the files that later ones read."""

    ran: list[str]
    files: dict[str, set[str]]

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def run(self, step: Step, *, staged: Path, **_: object) -> StepResult:
        self.ran.append(step.name)
        output = staged / OUTPUT_DIR
        facts: dict[str, Any] = {}
        if step.module == "fetch.hub":
            asked = StepRequest(step=step.module, parameters=step.parameters, inputs={})
            facts = fetch.run(asked, output)
        else:
            assert not step.network
            for name in self.files[step.name]:
                (output / name).write_text(f"{step.name} {name}")
        return StepResult(facts=facts, seconds=1.0, peak_memory=1)

    def check_stopped(self) -> None: ...

    def remove_orphans(self, staged: Path) -> None: ...

    def stop(self) -> None: ...


@pytest.fixture
def model(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gated model on the Hub that is pinned and locked, and images that are there."""
    pin_tiny(hub, tmp_path / "tiny", monkeypatch)
    images = SimpleNamespace(ensure=lambda _: IMAGE, find=lambda _: IMAGE)
    monkeypatch.setattr(runner_module, "Images", lambda *_, **__: images)
    monkeypatch.setattr(runner_module, "Containers", Containers)


def run(folder: Path, *schemes: str) -> tuple[list[str], dict[str, bool]]:
    """Plan and run a build; return the names of the steps that ran, and what was kept from before."""
    prepared = prepare_build(BuildRequest(model=TINY, schemes=schemes))
    plan = prepared.plan
    read = [item for step in plan.steps for item in step.inputs.values()]
    read += [artifact.source for artifact in plan.artifacts]
    Containers.ran, Containers.files = [], defaultdict(set)
    for item in read:
        if isinstance(item, StepOutput) and item.path:
            Containers.files[item.step].add(item.path)
    cache = Cache(folder)
    runner = Runner(cast("Any", None), cache, print)
    locked = cast("LockedModel", prepared.origin)
    materials = PackagedModel(cache, locked, runner.config, print)
    done = runner.run(plan.steps, materials, 1, Quiet())
    return Containers.ran, {name: item.cached for name, item in done.items()}


@pytest.fixture
def go_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def go() -> None:
        hub.__exit__(None, None, None)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.delenv("HF_TOKEN")

    return go


def test_what_was_fetched_once_is_built_again_and_otherwise_without_the_hub(
    hub: Hub, tmp_path: Path, go_offline: Callable[[], None]
) -> None:
    ran, _ = run(tmp_path / "cache")
    assert ran[:2] == ["fetch", "check"]
    go_offline()
    asked = len(hub.requests)
    ran, kept = run(tmp_path / "cache")
    assert ran == []
    assert set(kept.values()) == {True}
    # Another build of the same checkpoint: its new steps need no Hub.
    ran, kept = run(tmp_path / "cache", "fp16")
    assert {"fetch", "check", "export"} <= {name for name, cached in kept.items() if cached}
    assert "quantize-fp16" in ran
    assert len(hub.requests) == asked


def test_what_was_fetched_counts_though_an_image_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, go_offline: Callable[[], None]
) -> None:
    run(tmp_path / "cache")
    go_offline()
    images = SimpleNamespace(
        ensure=lambda _: IMAGE, find=lambda name: None if name == "litertlm" else IMAGE
    )
    monkeypatch.setattr(runner_module, "Images", lambda *_, **__: images)
    plan = prepare_build(BuildRequest(model=TINY)).plan
    runner = Runner(cast("Any", None), Cache(tmp_path / "cache"), print)
    found = runner.found(plan.steps)
    lacking = {step.name for step in plan.steps if step.image == "litertlm"}
    assert lacking
    assert {"fetch", "check", "export"} <= found.keys()
    assert not lacking & found.keys()
    assert {step.name for step in runner.fitting(plan.steps)} == (
        {step.name for step in plan.steps} - found.keys()
    )
    run(tmp_path / "cache")  # nothing says that the Hub is needed


def test_what_is_not_there_is_refused_offline_before_anything_runs(
    tmp_path: Path, go_offline: Callable[[], None]
) -> None:
    go_offline()
    with raises(ErrorCode.OFFLINE, match="fetch cannot run: it needs the Hub") as caught:
        run(tmp_path / "cache")
    assert "Unset HF_HUB_OFFLINE" in caught.value.hint
    assert Containers.ran == []
    assert not (tmp_path / "cache" / "steps").exists()


def test_a_fetched_file_that_was_damaged_is_not_used_offline(
    tmp_path: Path, go_offline: Callable[[], None]
) -> None:
    run(tmp_path / "cache")
    (stored,) = (tmp_path / "cache" / "steps").glob("*/output/model.safetensors")
    stored.chmod(0o644)
    stored.write_bytes(b"damaged")
    go_offline()
    with raises(ErrorCode.OFFLINE):
        run(tmp_path / "cache")
    assert Containers.ran == []
