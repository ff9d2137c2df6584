"""Where a build puts its release, by what the gate says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemma3build.build import Builder
from gemma3build.engine.store import Store
from gemma3build.errors import GateError
from gemma3build.record.release import Release
from tests.bench.bench import Quiet
from tests.unit.test_report import gate, sample, scheme


class Gated(Builder):
    """A builder whose steps have run, and whose gate has said this."""

    def __init__(self, root: Path, *, passed: bool) -> None:
        store = Store(root)
        runner: Any = SimpleNamespace(
            store=store, downloads=store, run=lambda *_: {}, intent=None, say=print
        )
        super().__init__(runner)
        self._passed = passed

    def _recorded(self, release: Release, *_: object) -> Release:
        return release

    def _release(self, *_: object) -> Release:
        found = gate(kl=0.1, text="t", passed=self._passed)
        manifest, evaluation = sample(scheme("dynamic_int8", 9, found))
        return Release(manifest=manifest, evaluation=evaluation, artifacts={})


def build(folder: Path, *, passed: bool) -> None:
    prepared: Any = SimpleNamespace(plan=SimpleNamespace(steps=(), artifacts=()), origin=None)
    Gated(folder.with_name("cache"), passed=passed).build(prepared, folder, 1, Quiet())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"cache"}


def test_a_refused_release_lies_aside_until_one_of_its_name_passes(tmp_path: Path) -> None:
    with pytest.raises(GateError):
        build(tmp_path / "m", passed=False)
    assert names(tmp_path) == {"m.refused"}
    build(tmp_path / "m", passed=True)
    assert names(tmp_path) == {"m"}
    with pytest.raises(GateError):
        build(tmp_path / "m", passed=False)
    assert names(tmp_path) == {"m", "m.refused"}


def test_the_refused_release_of_another_name_stays(tmp_path: Path) -> None:
    with pytest.raises(GateError):
        build(tmp_path / "other", passed=False)
    build(tmp_path / "m", passed=True)
    assert names(tmp_path) == {"m", "other.refused"}
