"""Reject a build that cannot succeed on this machine before it starts."""

import shutil
import tempfile
from pathlib import Path

from gemma3build.errors import BuildError, ErrorCode, os_errors
from gemma3build.plan.graph import Step
from gemma3build.util.files import existing
from gemma3build.util.text import gibibytes

MORE_MEMORY = "Close other programs, give --memory more, or use a larger machine."


def check_memory(steps: tuple[Step, ...], available: int) -> None:
    """Reject steps that need more memory than ``available``, in bytes; raises BuildError (MEMORY)."""
    for step in steps:
        if step.memory > available:
            what = f"There is not enough memory for {step.name}"
            why = f"it needs about {gibibytes(step.memory)}, {gibibytes(available)} are available"
            raise BuildError(ErrorCode.MEMORY, what, why, MORE_MEMORY)


def check_offline(steps: tuple[Step, ...]) -> None:
    """Reject steps that need the Hub while HF_HUB_OFFLINE is set; raises BuildError (OFFLINE)."""
    from huggingface_hub.constants import is_offline_mode

    needed = next((step for step in steps if step.network), None)
    if needed is not None and is_offline_mode():
        why = "it needs the Hub, HF_HUB_OFFLINE is set, and the cache has no result of it"
        hint = "Unset HF_HUB_OFFLINE once; gemma3build keeps the result."
        raise BuildError(ErrorCode.OFFLINE, f"{needed.name} cannot run", why, hint)


def check_disk(needed: int, folder: Path) -> None:
    """Reject a build that writes more bytes than the disk of ``folder`` has free; raises BuildError (DISK)."""
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        need = f"gemma3build will write about {gibibytes(needed)} to {folder}"
        hint = "Free some, run `gemma3build cache prune`, or use another disk: GEMMA3BUILD_CACHE, --output."
        why = f"{need}, {gibibytes(free)} are free"
        raise BuildError(ErrorCode.DISK, "There is not enough disk space", why, hint)


def check_writable(*folders: Path) -> None:
    """Reject directories in which no file can be written; raises BuildError (DISK, OUTPUT)."""
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
