"""Write one file with everything that a rebuild needs; rebuild from it without a network."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gemma3build import __version__
from gemma3build.engine.downloads import locked_wheels, package_files
from gemma3build.engine.runner import Runner
from gemma3build.errors import BuildError, ErrorCode, os_errors
from gemma3build.pins.config import CONTAINERS_DIR, INSTALLED, MODELS, MODELS_LOCK, model_dirs
from gemma3build.pins.lockfile import REQUIREMENTS, LockedModel, image_files, image_names
from gemma3build.plan.checkpoint import FETCH
from gemma3build.rebuild.archive import (
    BASE,
    CHECKPOINT,
    RELEASE,
    SOURCE,
    WHEELS,
    ArchiveIndex,
    write_archive,
)
from gemma3build.release.checksums import CHECKSUMS
from gemma3build.release.manifest import LOCAL
from gemma3build.schema.manifest import MANIFEST, Manifest
from gemma3build.util.git import PACKAGE_DIR
from gemma3build.workflows.rebuild import environment_differences
from gemma3build.workflows.request import REBUILD, OwnCheckpoint, prepare_again

LEFT_OUT = (".", "__pycache__")  # prefixes of names that are no source
PROJECT = ("LICENSE", "README.md", "pyproject.toml")  # of a checkout
REFUSAL = "The release cannot be archived"
# Settings of pip that could lead it to a network.
PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")


def make_archive(
    release: Path, manifest: Manifest, target: Path, runner: Runner, *, with_checkpoint: bool
) -> ArchiveIndex:
    """Write the archive of a verified release.

    Args:
        release: its folder.
        manifest: the release's.
        target: path of the archive.
        runner: builds missing images and downloads missing wheels.
        with_checkpoint: whether to include the files that the checkpoint is made from.

    Raises:
        BuildError: this version would build other files, or the checkpoint is not available
            (REQUEST); something failed, and gemma3build removed the archive.
    """
    locked = find_checkpoint(manifest, runner) if with_checkpoint else {}
    names = sorted(image.name for image in manifest.images)
    images = {name: runner.image(name) for name in names if name in image_names()}
    if differences := environment_differences(manifest, images, runner.sources):
        hint = "Use the version that built it, or build it again: gemma3build build"
        raise BuildError(ErrorCode.REQUEST, REFUSAL, "; ".join(differences), hint)
    with os_errors(REFUSAL), runner.cache.scratch("archive") as scratch:
        runner.export_base(scratch)
        files = {f"{BASE}/{path.name}": path for path in scratch.iterdir()}
        files |= dict(source_files())
        files |= {f"{RELEASE}/{name}": release / name for name in (MANIFEST, CHECKSUMS)}
        for name in names:
            text = image_files(name)[REQUIREMENTS].read_text(encoding="utf-8")
            wheels = locked_wheels(runner.downloads, text, runner.config, runner.say)
            files |= wheel_files(wheels)
        runner.say(f"Writing {target}")
        return write_archive(
            target,
            files | locked,
            model=manifest.checkpoint.model,
            version=__version__,
            complete=with_checkpoint,
        )


def wheel_files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder of wheels by their paths in an archive, which are those in a cache."""
    return {f"{WHEELS}/{folder.name}/{path.name}": path for path in folder.iterdir()}


def source_files() -> Iterator[tuple[str, Path]]:
    """Yield the project's source and the user's own pins: path in an archive, and path here."""
    root, folders = PACKAGE_DIR.parent, [PACKAGE_DIR]
    if INSTALLED:
        extra = [*root.glob("gemma3build-*.dist-info/licenses/LICENSE")]
        extra += [
            folder / name for folder in model_dirs()[1:] for name in (MODELS, MODELS_LOCK.name)
        ]
    else:
        folders.append(CONTAINERS_DIR)
        extra = [root / name for name in PROJECT]
    for path in extra:
        if path.is_file():
            yield f"{SOURCE}/{path.name}", path
    for folder in folders:
        for path in folder.rglob("*"):
            inner = path.relative_to(root)
            if path.is_file() and not any(part.startswith(LEFT_OUT) for part in inner.parts):
                yield f"{SOURCE}/{inner.as_posix()}", path


def find_checkpoint(manifest: Manifest, runner: Runner) -> dict[str, Path]:
    """Return the files that the checkpoint of a pinned model is made from, by path in an archive."""
    if manifest.checkpoint.source == LOCAL:
        why = "its checkpoint is not that of a pinned model"
        hint = "Omit --with-checkpoint, and keep the checkpoint with the archive."
        raise BuildError(ErrorCode.REQUEST, REFUSAL, why, hint)
    prepared = prepare_again(manifest, OwnCheckpoint(), REFUSAL)
    locked = prepared.origin
    assert isinstance(locked, LockedModel)  # noqa: S101 - of a pinned model
    if locked.requirements:
        requirements, files = locked.requirements, locked.files
        wheels = package_files(runner.downloads, requirements, files, runner.config, runner.say)
        return wheel_files(wheels)
    found = runner.found(tuple(step for step in prepared.plan.steps if step.name == FETCH))
    if FETCH not in found:
        why = "its checkpoint is not in the cache"
        raise BuildError(ErrorCode.REQUEST, REFUSAL, why, REBUILD)
    folder = runner.cache.output(found[FETCH].key)
    return {f"{CHECKPOINT}/{file.path}": folder / file.path for file in found[FETCH].entry.digests}


def run_archived(unpacked: Path, arguments: Sequence[str]) -> int:
    """Run ``rebuild`` with the source in an unpacked archive and this interpreter; return its exit code.

    gemma3build keeps pip from the network: the archive has every wheel.
    """
    source = unpacked / SOURCE
    environment = {name: value for name, value in os.environ.items() if name not in PIP_SETTINGS}
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH")))),
        "XDG_CONFIG_HOME": str(source),  # the pins in the archive, not the user's
    }
    command = [sys.executable, "-m", "gemma3build", "rebuild", *arguments]
    with subprocess.Popen(
        [*command, "--unpacked", str(unpacked)],
        cwd=source,  # -m searches it first
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # so that it receives Ctrl-C once, from here
    ) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
