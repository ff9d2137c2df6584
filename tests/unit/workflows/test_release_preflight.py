"""What the release pipeline rejects before any step runs."""

import functools
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from gemma3build.cli.app import app
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.plan.build import artifacts_size
from gemma3build.plan.evaluation import expect_evaluation
from gemma3build.util.git import GitRevision, would_change
from gemma3build.workflows.release_file import plan_releases
from tests.support.hub import Hub
from tests.support.pipeline import FILE, Works, alone, done, failed

REFUSALS: dict[str, tuple[tuple[str, ...], ErrorCode, str]] = {
    "no signer": ((), ErrorCode.REQUEST, "one of --key, --pkcs11, --sigstore and --unsigned"),
    "two signers": (("--key", "release.key", "--unsigned"), ErrorCode.REQUEST, "one of --key"),
    "no key": (("--key", "gone.key"), ErrorCode.SIGNING, "No such file"),
    "public key": (("--key", "release.pub"), ErrorCode.SIGNING, "has no private key"),
    "identity": (("--unsigned", "--identity", "a@b"), ErrorCode.REQUEST, "go with --sigstore"),
    "memory": (("--unsigned", "--memory", "lots"), ErrorCode.REQUEST, "a size is a number"),
    "more": (("--unsigned", "--model", "gemma4"), ErrorCode.UNKNOWN_NAME, "known are"),
    "twice": (
        ("--unsigned", "--model", "releases.toml"),
        ErrorCode.REQUEST,
        "more than one has the name",
    ),
    "one repo": (
        ("--unsigned", "--repo", "org/one"),
        ErrorCode.REQUEST,
        "would go to one repository",
    ),
    "output": (("--unsigned", "--output", "release.key"), ErrorCode.OUTPUT, "is not a directory"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_can_be_refused_is_refused_before_anything_is_done(
    works: Works, tmp_path: Path, case: str
) -> None:
    arguments, code, message = REFUSALS[case]
    error = failed(*arguments, key=())
    assert (error.code, message in error.why) == (code, True), error
    assert works.ran == []
    assert not (tmp_path / "artifacts").exists()


def test_an_output_that_would_change_the_checkout_is_refused_first(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("/artifacts/*\n")
    find = functools.partial(would_change, package=tmp_path / "gemma3build")
    monkeypatch.setattr("gemma3build.workflows.preflight.would_change", find)
    error = failed("--output", "out")
    assert (error.code, "git does not ignore it" in error.why) == (ErrorCode.OUTPUT, True)
    assert works.ran == []
    done("--output", "artifacts")


def test_what_cannot_be_run_is_refused_before_anything_is_done(works: Works) -> None:
    works.unfit.add("export")
    error = failed()
    assert (error.code, error.__notes__) == (ErrorCode.MEMORY, ["Where: short"])
    works.unfit.clear()
    works.unavailable = True
    assert failed().code is ErrorCode.DOWNLOAD
    assert works.ran == []
    works.unavailable = False
    done()
    works.unavailable = True  # and no release needs it
    assert done()["idle"]


def set_free(monkeypatch: pytest.MonkeyPatch, sizes: dict[Path, int]) -> None:
    """Make disks report this free space."""

    def usage(path: Path) -> Any:
        return SimpleNamespace(free=next(sizes[top] for top in sizes if path.is_relative_to(top)))

    monkeypatch.setattr("gemma3build.engine.preflight.shutil.disk_usage", usage)


def test_releases_that_fit_one_at_a_time_and_not_together_are_refused_first(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_releases(["releases.toml"])[0].prepared.plan
    size = {step.name: step.disk for step in (*plan.steps, *expect_evaluation(plan))}
    one = sum(size.values())
    # Both share the steps of the checkpoint; the space to measure speed is free again.
    again = ("export", "quantize-dynamic", "bundle-", "package-", "gate-", "piqa-")
    both = one + sum(
        size[name] for name in size if name.startswith(again) and name != "export-score"
    )
    assert both < 2 * one
    for free in (one, both - 1):
        set_free(monkeypatch, {tmp_path: free})
        assert failed().code is ErrorCode.DISK
        assert works.ran == []
    set_free(monkeypatch, {tmp_path: one})
    alone("short", "--output", "other")
    works.there.add("import")
    set_free(monkeypatch, {tmp_path: both - size["import"]})
    done()
    set_free(monkeypatch, {tmp_path: 0})
    works.there |= size.keys()
    assert done()["idle"]


def test_copies_for_another_disk_are_counted_for_all_releases(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma3build.workflows.preflight.same_disk", lambda *_: False)
    works.cache.root.mkdir()
    plan = plan_releases(["releases.toml"])[0].prepared.plan
    size, plenty = artifacts_size(plan), 1 << 50
    set_free(monkeypatch, {tmp_path / "cache": plenty, tmp_path: 2 * size - 1})
    assert failed().code is ErrorCode.DISK
    set_free(monkeypatch, {tmp_path / "cache": plenty, tmp_path: 2 * size})
    done()


@pytest.mark.parametrize("source", [None, GitRevision(commit="c" * 40, dirty=True)])
def test_a_source_that_no_commit_has_is_refused_first(
    works: Works, monkeypatch: pytest.MonkeyPatch, source: GitRevision | None
) -> None:
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: source)
    assert (
        CliRunner().invoke(app, ["release", "gone.toml", "..", "--dry-run"]).exception is not None
    )
    error = failed("--dry-run")
    assert error.code is ErrorCode.SOURCE


def test_a_version_that_is_none_is_refused(works: Works) -> None:
    error = CliRunner().invoke(app, ["release", "releases.toml", "../v1", "--unsigned"]).exception
    assert isinstance(error, BuildError)
    assert (error.code, works.ran) == (ErrorCode.REQUEST, [])


def test_what_the_hub_would_refuse_is_refused_before_the_work(
    writer: Hub, works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "releases.toml").write_text(FILE.replace('repo = "org/long"', ""))
    error = failed("--publish")
    assert (error.code, error.__notes__) == (ErrorCode.REQUEST, ["Where: long"])
    assert "--repo OWNER/NAME" in error.hint
    (tmp_path / "releases.toml").write_text(FILE.replace("org/long", "org/a--b"))
    assert failed("--publish").code is ErrorCode.REQUEST
    (tmp_path / "releases.toml").write_text(FILE)
    first = writer.add("org/long", {"README.md": b"old"})
    assert failed("--publish", "--private").code is ErrorCode.REQUEST
    writer.repos["org/long"].refs["refs/tags/v1"] = first
    writer.repos["org/long"].commit({"README.md": b"new"}, "new", "someone")
    assert "has a tag v1 already" in failed("--publish").why
    monkeypatch.delenv("HF_TOKEN")
    assert failed("--publish").code is ErrorCode.LOGIN
    assert works.ran == []


def test_a_quick_look_is_not_published_before_the_work(writer: Hub, works: Works) -> None:
    assert failed("--publish", "--limit", "10").code is ErrorCode.REQUEST
    works.own = True
    assert "others or fewer" in failed("--publish").why
    assert works.ran == []
    done("--publish", "--limit", "10", "--skip", "piqa")
    # The release has better results now.
    works.own = False
    assert done("--publish", "--limit", "10")["idle"]
