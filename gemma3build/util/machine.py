"""The machine that a step runs on, recorded with measurements."""

import os
import re
from importlib import metadata
from pathlib import Path

from gemma3build.util.serialize import Record


class Machine(Record):
    """The machine of a measurement.

    Attributes:
        cpu: its model name, as the kernel gives it.
        cores: logical cores that the process could run on.
        memory: of the machine, in bytes.
    """

    cpu: str
    cores: int
    memory: int


CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")


def here() -> Machine:
    """Return this machine, with the cores that this process may use; raises ValueError."""
    return Machine(
        cpu=cpu(CPU_INFO.read_text()), cores=cores(), memory=memory(MEMORY_INFO.read_text())
    )


def cores() -> int:
    """Return how many logical cores this process may use."""
    return len(os.sched_getaffinity(0))


def cpu(text: str) -> str:
    """Return the model name of the first core in the text of /proc/cpuinfo."""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else "unknown"


def memory(text: str) -> int:
    """Return the machine's memory in bytes, from the text of /proc/meminfo; it counts in KiB.

    Raises:
        ValueError: the text has no total.
    """
    found = re.search(r"^MemTotal:\s*(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise ValueError("/proc/meminfo has no MemTotal")
    return int(found[1]) * 1024


def versions(*packages: str) -> dict[str, str]:
    """Return the version of each package of the image, by name."""
    return {name: metadata.version(name) for name in packages}
