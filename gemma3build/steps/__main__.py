"""Run one step: ``python -m gemma3build.steps WORK``, with ``WORK/request.json`` written before.

Unless the process is killed, ``WORK/result.json`` tells how the step ended. Standard output and error
go to ``WORK/log.txt``, by file descriptors, because converters print from C++ too, and because a log
outside of the container survives it.
"""

import errno
import importlib
import os
import resource
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemma3build.schema.step import (
    LOG_FILE,
    OUTPUT_DIR,
    REQUEST_FILE,
    RESULT_FILE,
    StepError,
    StepErrorCode,
    StepFailure,
    StepRequest,
    StepResult,
)
from gemma3build.util.serialize import decode_json, pretty_json


def main(work: Path) -> int:
    """Run the step that ``work/request.json`` names; return 0 if it succeeded, else 1."""
    log = os.open(work / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    facts: Mapping[str, Any] = {}
    failure = None
    try:
        request = decode_json(StepRequest, (work / REQUEST_FILE).read_bytes(), REQUEST_FILE)
        output = work / OUTPUT_DIR
        output.mkdir(exist_ok=True)
        module = importlib.import_module(f"gemma3build.steps.{request.step}")
        facts = module.run(request, output)
    except StepError as error:
        failure = error.failure
    except Exception as error:  # noqa: BLE001 - anything else must become a result too
        traceback.print_exc()
        failure = describe(error)
    result = StepResult(
        facts=facts, seconds=seconds_since_start(), peak_memory=peak_memory(), failure=failure
    )
    (work / RESULT_FILE).write_bytes(pretty_json(result))
    sys.stdout.flush()
    return 0 if failure is None else 1


def describe(error: Exception) -> StepFailure:
    """Return an unexpected exception as a failure; a full disk and a lack of memory have codes."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        code, hint = StepErrorCode.DISK, "Free some disk space and run the same command again."
    elif isinstance(error, MemoryError):
        code, hint = StepErrorCode.MEMORY, "Free some memory and run the same command again."
    else:
        code, hint = StepErrorCode.INTERNAL, "The log has the traceback."
    why = f"{type(error).__name__}: {error}".rstrip(": .")
    return StepFailure(code=code.value, what="The step stopped", why=why, hint=hint)


def seconds_since_start() -> float:
    """Return the wall-clock age of this process in seconds, interpreter start included.

    Field 22 of /proc/self/stat is the start time in clock ticks since boot: proc(5).
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 3)


def peak_memory() -> int:
    """Return the largest resident set size so far, in bytes; Linux counts it in KiB: getrusage(2)."""
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(process, children) * 1024


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
