import dataclasses
import os
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from gemma3build.engine import runner as runner_module
from gemma3build.engine.cache import Cache
from gemma3build.engine.images import Image
from gemma3build.engine.inputs import LocalCheckpoint
from gemma3build.engine.runner import Runner
from gemma3build.errors import ErrorCode
from gemma3build.pins.lockfile import LockedModel, read_models_lock
from gemma3build.plan.checkpoint import plan_fetch
from gemma3build.rebuild.compare import compare_releases
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import sha256_bytes
from gemma3build.util.serialize import encode
from gemma3build.verify.checks import read_record
from gemma3build.verify.untrusted import list_folder
from gemma3build.workflows import archive
from gemma3build.workflows.rebuild import (
    environment_differences,
    keep_checkpoint,
    prepare_rebuild,
    require_diffoscope,
    run_diffoscope,
)
from gemma3build.workflows.request import OwnCheckpoint
from tests.support.checkpoint import write_checkpoint
from tests.support.errors import raises
from tests.support.release import TASK, edit_json, write_release

DEFAULT = "gemma3-270m"
NONE = OwnCheckpoint()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of the default model, under another name."""
    folder = write_release(tmp_path / "mine")
    locked = read_models_lock().models[DEFAULT]

    def change(value: Any) -> None:
        value["checkpoint"] |= {
            "model": "mine",
            "source": locked.source,
            "revision": locked.revision,
            "fetched": encode(tuple(sorted(locked.files))),
        }
        value["parameters"] |= {"prefill_seq_lens": [8, 16], "mask_as_input": False}
        value["schemes"]["fp16"]["summary"] = "in words of its own"

    edit_json(folder / MANIFEST, change)
    return folder


def test_the_request_is_that_of_the_manifest(release: Path) -> None:
    found = prepare_rebuild(release, NONE)
    plan = found.prepared.plan
    assert (plan.model, plan.base_model) == ("mine", "google/gemma-3-270m")
    assert plan.parameters.prefill_seq_lens == (8, 16)
    assert not plan.parameters.mask_as_input
    assert [scheme.name for scheme in plan.schemes] == ["dynamic_int8", "fp16"]
    assert plan.schemes[1].summary == "in words of its own"


def test_neither_gate_nor_reference_runs_again(release: Path) -> None:
    steps = {step.name for step in prepare_rebuild(release, NONE).steps}
    kinds = {name.partition("-")[0] for name in steps}
    assert kinds == {"import", "check", "calibrate", "export", "quantize", "bundle", "package"}
    assert {"bundle-fp16", "package-dynamic_int8"} <= steps


def refused(release: Path, own: OwnCheckpoint = NONE) -> str:
    with raises(ErrorCode.REQUEST) as caught:
        prepare_rebuild(release, own)
    return caught.value.why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"revision": "0" * 64}, "no model is pinned to packages"),
        ({"fetched": []}, "names other files of packages than the lock"),
        ({"source": "local"}, "a checkpoint that is not pinned"),
        ({"model": "../x"}, "a name has letters"),
    ],
)
def test_a_checkpoint_that_is_not_the_locks_is_refused(
    release: Path, change: dict[str, Any], why: str
) -> None:
    edit_json(release / MANIFEST, lambda value: value["checkpoint"].update(change))
    assert why in refused(release)


def test_a_scheme_or_a_parameter_that_means_nothing_is_refused(release: Path) -> None:
    edit_json(release / MANIFEST, lambda value: value["parameters"].update(kv_cache_max_len=4))
    assert "the longest prefill (16) would fill it" in refused(release)
    edit_json(release / MANIFEST, lambda value: value["schemes"]["fp16"].update(name="other"))
    assert "'other' under the name 'fp16'" in refused(release)


def test_what_is_no_release_is_refused(tmp_path: Path) -> None:
    with raises(ErrorCode.MISSING, match="manifest.json is not there"):
        prepare_rebuild(tmp_path, NONE)
    assert "No such file" in refused(tmp_path / "nowhere")


def test_a_copy_of_a_pinned_checkpoint_must_be_it(release: Path, tmp_path: Path) -> None:
    tiny = write_checkpoint(tmp_path / "tiny")
    assert "is not the checkpoint in its manifest" in refused(release, OwnCheckpoint(folder=tiny))
    given = tuple(sorted((path.name, path.read_bytes()) for path in tiny.iterdir()))
    files = [{"path": n, "size": len(c), "sha256": sha256_bytes(c)} for n, c in given]
    edit_json(release / MANIFEST, lambda value: value["checkpoint"].update(files=files))
    found = prepare_rebuild(release, OwnCheckpoint(folder=tiny))
    assert found.given is not None
    assert {file.path for file in found.given.material.files} == {name for name, _ in given}


def image(name: str, digest: str) -> Image:
    return Image(name=name, tag="t", image_id="i", digest=digest, parent="p", layers=())


def test_other_images_and_sources_are_said(release: Path) -> None:
    manifest = read_record(list_folder(release))
    here = {name: image(name, "0" * 64) for name in ("bundle", "convert")}
    sources = {"bundle": "0" * 64, "check": "5"}
    assert environment_differences(manifest, here, sources) == ()
    here["convert"] = image("convert", "1" * 64)
    assert environment_differences(
        manifest, here | {"new": image("new", "2")}, {"bundle": "1"}
    ) == (
        "Of the images, convert, new are not those of the release",
        "Of the sources of the steps, bundle is not those of the release",
    )


def test_scratch_is_removed_and_what_a_kill_leaves_is_pruned(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.scratch("rebuild") as folder:
        (folder / "file").write_bytes(b"1")
        cache.prune(everything=False)
        assert (folder / "file").exists()
    assert not folder.exists()
    assert [*(tmp_path / "locks").iterdir()] == []
    folder.mkdir()
    cache.prune(everything=False)
    assert not folder.exists()
    assert [*(tmp_path / "locks").iterdir()] == []


def test_scratch_is_locked_before_a_prune_can_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def prune_after(path: Path, mode: int) -> None:
        make(path, mode)
        if Path(path).name.startswith("rebuild-"):
            Cache(tmp_path).prune(everything=False)

    monkeypatch.setattr(os, "mkdir", prune_after)
    with Cache(tmp_path).scratch("rebuild") as folder:
        assert folder.is_dir()


def test_scratch_in_a_cache_that_cannot_be_written_is_an_error() -> None:
    with (
        raises(ErrorCode.OUTPUT, match="The cache cannot be used: /proc/none"),
        Cache(Path("/proc/none")).scratch("rebuild"),
    ):
        pass


def test_diffoscope_is_asked_about_files_that_differ(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with raises(ErrorCode.REQUEST, match="diffoscope is not installed"):
        require_diffoscope()
    tool = tmp_path / "bin" / "diffoscope"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$3 $4" > "$2"\nexit 1\n')
    tool.chmod(0o755)
    require_diffoscope()
    other = write_release(tmp_path / "rebuilt", {TASK: b"other"})
    folders = list_folder(release), list_folder(other)
    found = [
        item for item in compare_releases(*folders, 0, tmp_path) if item.path in (TASK, "Notice")
    ]
    (report,) = run_diffoscope(*folders, found, tmp_path)
    assert report == tmp_path / f"mine.{TASK}.diffoscope.txt"
    assert report.read_text() == f"{release / TASK} {other / TASK}\n"
    tool.write_text("#!/bin/sh\necho broken >&2\nexit 2\n")
    with raises(ErrorCode.REQUEST, match="broken"):
        run_diffoscope(*folders, found, tmp_path)


class OneImage:
    """Gives the same image for every name."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def ensure(self, name: str) -> Image:
        return image(name, "0" * 64)

    def find(self, name: str) -> Image:
        return self.ensure(name)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(runner_module, "Images", OneImage)
    return Runner(cast("Any", None), Cache(tmp_path / "store"), print)


def test_a_copy_of_a_checkpoint_takes_the_place_of_the_step_that_brings_it(
    release: Path, tmp_path: Path, runner: Runner
) -> None:
    tiny = write_checkpoint(tmp_path / "tiny")
    given = LocalCheckpoint(tiny)
    plan = prepare_rebuild(release, NONE).prepared.plan
    keep_checkpoint(runner, plan, given)
    found = runner.found(plan.steps)
    assert found.keys() == {"import"}
    assert found["import"].entry.digests == given.material.files
    assert all(path.stat().st_mode & 0o200 for path in tiny.iterdir())
    (tiny / "config.json").write_text("{}")
    with raises(ErrorCode.INPUT_CHANGED, match="changed while gemma3build copied it"):
        keep_checkpoint(runner, plan, given)


def test_the_wheels_of_a_packaged_model_are_its_checkpoint(
    release: Path, tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels" / "key"
    wheels.mkdir(parents=True)
    (wheels / "a.whl").touch()
    monkeypatch.setattr(archive, "package_files", lambda *_: wheels)
    found = archive.find_checkpoint(read_record(list_folder(release)), runner)
    assert found == {"wheels/key/a.whl": wheels / "a.whl"}


def test_a_checkpoint_of_the_hub_is_archived_from_the_cache(
    release: Path, tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = write_checkpoint(tmp_path / "tiny")
    files = LocalCheckpoint(tiny).material.files
    locked = LockedModel(source="o/n", revision="0" * 40, files=files)
    manifest = read_record(list_folder(release))
    prepared = prepare_rebuild(release, NONE).prepared
    fetch = plan_fetch(locked)
    plan = structs.replace(prepared.plan, steps=(fetch,))
    again = dataclasses.replace(prepared, plan=plan, origin=locked)
    monkeypatch.setattr(archive, "prepare_again", lambda *_: again)
    with raises(ErrorCode.REQUEST, match="is not in the cache"):
        archive.find_checkpoint(manifest, runner)
    runner.keep(fetch, {path.name: path for path in tiny.iterdir()})
    found = archive.find_checkpoint(manifest, runner)
    assert found.keys() == {f"checkpoint/{file.path}" for file in files}
    assert all(path.read_bytes() == (tiny / path.name).read_bytes() for path in found.values())


def test_another_version_makes_no_archive(release: Path, tmp_path: Path, runner: Runner) -> None:
    manifest = read_record(list_folder(release))
    with raises(ErrorCode.REQUEST, match="sources of the steps, bundle is not those") as caught:
        archive.make_archive(release, manifest, tmp_path / "a.tar", runner, with_checkpoint=False)
    assert "Use the version that built it" in caught.value.hint
