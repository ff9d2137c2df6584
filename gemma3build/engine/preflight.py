"""Refuse a build that cannot fit before it starts."""

import shutil
import tempfile
from pathlib import Path

from gemma3build.errors import BuildError, ErrorCode, os_errors
from gemma3build.plan.graph import Step
from gemma3build.util.files import existing
from gemma3build.util.text import gibibytes


def check_memory(steps: tuple[Step, ...], available: int) -> None:
    """Refuse steps that need more memory than there is.

    Args:
        steps: those that have to run.
        available: bytes that a container may use.

    Raises:
        BuildError: naming the step and both figures (MEMORY).
    """
    for step in steps:
        if step.memory > available:
            raise BuildError(
                ErrorCode.MEMORY,
                f"There is not enough memory for {step.name}",
                f"it needs about {gibibytes(step.memory)}, {gibibytes(available)} are there",
                "Close other programs, give --memory more, or use a larger machine.",
            )


def check_offline(steps: tuple[Step, ...]) -> None:
    """Refuse steps that need the Hub where HF_HUB_OFFLINE keeps its client from the network.

    Args:
        steps: those that have to run.

    Raises:
        BuildError: naming the first of them (OFFLINE).
    """
    from huggingface_hub.constants import is_offline_mode

    needed = next((step for step in steps if step.network), None)
    if needed is not None and is_offline_mode():
        raise BuildError(
            ErrorCode.OFFLINE,
            f"{needed.name} cannot run",
            "it needs the Hub, HF_HUB_OFFLINE is set, and the cache has no result of it",
            "Unset HF_HUB_OFFLINE for this once; the result is kept.",
        )


def check_disk(needed: int, folder: Path) -> None:
    """Refuse what writes more bytes than the disk of ``folder`` has room for.

    Raises:
        BuildError: naming the place and both figures (DISK).
    """
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise BuildError(
            ErrorCode.DISK,
            "There is not enough disk space",
            f"about {gibibytes(needed)} are to be written below {folder},"
            f" {gibibytes(free)} are free",
            "Free some, run `gemma3build cache prune`, or take another disk: GEMMA3BUILD_CACHE, --output.",
        )


def check_writable(*folders: Path) -> None:
    """Refuse directories that take no new file, by an unnamed one in each.

    Raises:
        BuildError: the disk is full (DISK); saying why (OUTPUT).
    """
    for folder in folders:
        what = f"{folder} cannot be written"
        with os_errors(what), tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\n")


def available_memory() -> int:
    """Return the bytes that new programs can use without swapping: MemAvailable of proc(5)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")
