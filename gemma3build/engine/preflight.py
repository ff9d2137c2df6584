"""Refuse a build that cannot fit before it starts."""

import os
import shutil
import tempfile
from pathlib import Path

from gemma3build.core.codec import load_json
from gemma3build.core.manifest import FORMAT, MANIFEST, REFUSED
from gemma3build.core.small import read_small
from gemma3build.core.units import GIBIBYTE
from gemma3build.errors import (
    NoMemoryError,
    NoSpaceError,
    OfflineError,
    OutputError,
    from_os_error,
)
from gemma3build.plan.step import Step


def check_memory(steps: tuple[Step, ...], available: int) -> None:
    """Refuse steps that need more memory than there is.

    Args:
        steps: those that have to run.
        available: bytes that a container may use.

    Raises:
        NoMemoryError: naming the step and both figures.
    """
    for step in steps:
        if step.memory > available:
            raise NoMemoryError(
                f"There is not enough memory for {step.name}",
                f"it needs about {step.memory / GIBIBYTE:.1f} GiB,"
                f" {available / GIBIBYTE:.1f} GiB are there",
                "Close other programs, give --memory more, or use a larger machine.",
            )


def check_offline(steps: tuple[Step, ...]) -> None:
    """Refuse steps that need the Hub where HF_HUB_OFFLINE keeps its client from the network.

    Args:
        steps: those that have to run.

    Raises:
        OfflineError: naming the first of them.
    """
    from huggingface_hub.constants import is_offline_mode

    needed = next((step for step in steps if step.network), None)
    if needed is not None and is_offline_mode():
        raise OfflineError(
            f"{needed.name} cannot run",
            "it needs the Hub, HF_HUB_OFFLINE is set, and the cache has no result of it",
            "Unset HF_HUB_OFFLINE for this once; the result is kept.",
        )


def check_disk(needed: int, folder: Path) -> None:
    """Refuse what writes more bytes than the disk of ``folder`` has room for.

    Raises:
        NoSpaceError: naming the place and both figures.
    """
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise NoSpaceError(
            "There is not enough disk space",
            f"about {needed / GIBIBYTE:.1f} GiB are to be written below {folder},"
            f" {free / GIBIBYTE:.1f} GiB are free",
            "Free some, run `gemma3build cache prune`, or take another disk: GEMMA3BUILD_CACHE, --output.",
        )


def same_disk(folder: Path, other: Path) -> bool:
    """Return whether a file of one can be a link to a file of the other, which need not be there yet."""
    return existing(folder).stat().st_dev == existing(other).stat().st_dev


def existing(path: Path) -> Path:
    """Return a path, or what is nearest above it and there."""
    return next(place for place in (path, *path.parents) if place.exists())


def check_output(folder: Path) -> None:
    """Refuse an output directory that cannot be written, before the long work.

    So must be the one beside it that the release goes to if the gate refuses it.

    Raises:
        OutputError: saying why.
    """
    if folder.name.endswith(REFUSED):
        why = f"{REFUSED} at the end of a name means that the gate refused what is in it"
        raise OutputError(f"{folder} is no place for a release", why, "Give another --output.")
    check_replaceable(folder)
    check_replaceable(folder.with_name(folder.name + REFUSED))
    above = existing(folder.parent)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = f"{above} is {'not writable' if above.is_dir() else 'not a directory'}"
        hint = "Give another --output, or mend the permissions."
        raise OutputError(f"The release cannot be written to {folder}", why, hint)


def check_writable(*folders: Path) -> None:
    """Refuse directories that take no new file, by an unnamed one in each.

    Raises:
        NoSpaceError: the disk is full.
        OutputError: saying why.
    """
    for folder in folders:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\n")
        except OSError as error:
            raise from_os_error(f"{folder} cannot be written", error) from error


def check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but a release or an empty directory: a build replaces it whole.

    Raises:
        OutputError: saying what is in the way.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is in the way", "it is not a directory", "Move it away.")
    if any(folder.iterdir()) and not is_release(folder):
        raise OutputError(
            f"{folder} is in the way",
            "it holds other things than a release, and a release replaces it whole",
            "Give another --output, such as a new directory below it.",
        )


def is_release(folder: Path) -> bool:
    """Return whether a directory has the manifest of a release."""
    try:
        found = load_json(read_small(folder / MANIFEST))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def available_memory() -> int:
    """Return the bytes that new programs can use without swapping: MemAvailable of proc(5)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    message = "/proc/meminfo has no MemAvailable"
    raise OSError(message)
