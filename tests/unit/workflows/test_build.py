"""The folder of a release, by the result of the quality gate."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.bench import Quiet
from gemma3build.cli.build import build as build_command
from gemma3build.engine.cache import Cache
from gemma3build.engine.runner import CACHE_VARIABLE
from gemma3build.errors import ErrorCode
from gemma3build.release.checksums import PROVENANCE
from gemma3build.release.directory import Release
from gemma3build.release.provenance import read_revision
from gemma3build.schema.packages import Packages
from gemma3build.util.git import GitRevision
from gemma3build.workflows.build import Builder, clean_revision
from gemma3build.workflows.request import BuildRequest, prepare_build
from tests.support.command import run_command
from tests.support.errors import raises
from tests.unit.report.test_report import gate, sample, scheme


class Gated(Builder):
    """A builder whose steps have run, and whose quality gate has this result."""

    def __init__(self, root: Path, *, passed: bool, source: GitRevision | None = None) -> None:
        cache = Cache(root)
        runner: Any = SimpleNamespace(
            cache=cache,
            downloads=cache,
            run=lambda *_: {},
            found=lambda *_: {},
            images=lambda *_: {},
            packages=lambda *_: {"convert": Packages(wheels=(), debian=())},
            config=SimpleNamespace(source_date_epoch=0),
            say=print,
        )
        super().__init__(runner, source)
        self._passed = passed

    def _release(self, *_: object) -> Release:
        found = gate(kl=0.1, text="t", passed=self._passed)
        manifest, evaluation = sample(scheme("dynamic_int8", 9, found))
        return Release(manifest=manifest, evaluation=evaluation, artifacts={})


PREPARED: Any = SimpleNamespace(plan=SimpleNamespace(steps=(), artifacts=()), origin=None)
CLEAN = GitRevision(commit="c" * 40, dirty=False)
DIRTY = GitRevision(commit="c" * 40, dirty=True)
LATER = GitRevision(commit="d" * 40, dirty=False)


def build(folder: Path, *, passed: bool) -> None:
    Gated(folder.with_name("cache"), passed=passed).build(PREPARED, folder, 1, Quiet())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"cache"}


def test_a_rejected_release_stays_until_one_of_its_name_passes(tmp_path: Path) -> None:
    with raises(ErrorCode.GATE):
        build(tmp_path / "m", passed=False)
    assert names(tmp_path) == {"m.refused"}
    build(tmp_path / "m", passed=True)
    assert names(tmp_path) == {"m"}
    with raises(ErrorCode.GATE):
        build(tmp_path / "m", passed=False)
    assert names(tmp_path) == {"m", "m.refused"}


def test_the_refused_release_of_another_name_stays(tmp_path: Path) -> None:
    with raises(ErrorCode.GATE):
        build(tmp_path / "other", passed=False)
    build(tmp_path / "m", passed=True)
    assert names(tmp_path) == {"m", "other.refused"}


@pytest.mark.parametrize(
    ("source", "message"), [(None, "a checkout that git can read"), (DIRTY, "not what commit cccc")]
)
def test_a_release_is_refused_from_what_no_commit_has_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: GitRevision | None, message: str
) -> None:
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: source)
    with raises(ErrorCode.SOURCE, match=message):
        build_command(release=True, checkpoint=tmp_path / "not there")


def test_a_build_says_from_which_source_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: DIRTY)
    build(tmp_path / "m", passed=True)
    assert read_revision(tmp_path / "m" / PROVENANCE) == DIRTY
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: CLEAN)
    assert clean_revision() == CLEAN


@pytest.mark.parametrize("written", [DIRTY, LATER])
def test_a_release_from_another_source_is_written_anew_where_the_source_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: GitRevision
) -> None:
    folder = tmp_path / "m"
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: written)
    build(folder, passed=True)
    assert Gated(tmp_path / "cache", passed=True).find(PREPARED, folder) is not None
    strict = Gated(tmp_path / "cache", passed=True, source=CLEAN)
    assert strict.find(PREPARED, folder) is None
    strict.build(PREPARED, folder, 1, Quiet())
    assert read_revision(folder / PROVENANCE) == CLEAN
    assert strict.find(PREPARED, folder) is not None


@pytest.mark.parametrize("idle", [True, False])
def test_a_path_is_printed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, idle: bool
) -> None:
    def ensure(builder: Builder, _: object, folder: Path, *__: object) -> SimpleNamespace:
        builder._runner.say(f"Writing {folder}")
        manifest = SimpleNamespace(artifacts=())
        artifacts = {artifact.source.step: "" for artifact in prepare_build(request).plan.artifacts}
        done = dict.fromkeys(artifacts, SimpleNamespace(cached=True))
        return SimpleNamespace(manifest=manifest, folder=folder, done=done, idle=idle)

    request = BuildRequest(model="gemma3-270m")
    monkeypatch.setattr("gemma3build.engine.docker.connect", lambda: None)
    monkeypatch.setattr(Builder, "ensure", ensure)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    name = "a [/b] :cat: " + "long " * 50
    done = run_command("build", "--output", name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / name) in done.stdout
    assert f"Writing {tmp_path / name}" in done.stderr
