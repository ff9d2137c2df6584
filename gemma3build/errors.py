"""The one exception of the host, and the codes that tell one error from another."""

import enum
import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from gemma3build.schema.evaluation import Check
from gemma3build.schema.step import StepErrorCode, StepFailure

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # of a disk with no room
GET_AGAIN = "Download the release again, or build it: gemma3build build"


class ErrorCode(enum.StrEnum):
    """What went wrong: the name that ``--json`` prints, and the exit code of the process.

    Codes share an exit code where a caller would handle them in the same way. docs/reference/exit-codes.md
    lists them. Every ``StepErrorCode`` has a code of the same name here.
    """

    exit_code: int

    def __new__(cls, name: str, exit_code: int) -> Self:
        """Return a member whose value is its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.exit_code = exit_code
        return member

    INTERNAL = "internal", 1

    USAGE = "usage", 2  # the command line's own

    CONFIG = "config", 3
    DRIFT = "drift", 3

    REQUEST = "request", 6
    UNKNOWN_NAME = "unknown_name", 6
    SIGNING = "signing", 6

    SOURCE = "source", 7

    ENGINE = "engine", 10
    IMAGE = "image", 10

    MEMORY = "memory", 20
    DISK = "disk", 20

    OUTPUT = "output", 22
    IN_USE = "in_use", 22

    INPUT_CHANGED = "input_changed", 23
    DIGEST = "digest", 23
    DAMAGED = "damaged", 23

    NETWORK = "network", 31
    DOWNLOAD = "download", 31
    OFFLINE = "offline", 31

    LOGIN = "login", 32
    ACCESS = "access", 32
    NOT_FOUND = "not_found", 32
    MOVED = "moved", 32

    ARCHITECTURE = "architecture", 33
    CHECKPOINT_CONFIG = "checkpoint_config", 33
    PICKLE = "pickle", 33
    TENSORS = "tensors", 33
    TOKENIZER = "tokenizer", 33
    TRUNCATED = "truncated", 33
    VALUES = "values", 33

    GATE = "gate", 43
    QUANTIZATION = "quantization", 43
    ROUNDING = "rounding", 43
    OTHER_WEIGHTS = "other_weights", 43

    CHANGED = "changed", 50
    MISSING = "missing", 50
    EXTRA = "extra", 50
    CHECKSUMS = "checksums", 50
    MANIFEST = "manifest", 50
    SWAPPED = "swapped", 50
    UNSAFE = "unsafe", 50
    BUNDLE = "bundle", 50
    EVALUATION = "evaluation", 50
    PROVENANCE = "provenance", 50
    SBOM = "bill", 50
    ARCHIVE = "archive", 50

    KEY = "key", 60
    SIGNATURE = "signature", 60
    UNSIGNED = "unsigned", 60

    NOT_IDENTICAL = "not_identical", 70
    DIFFERENT = "different", 71

    PUBLICATION = "publication", 84
    BRANCH_MOVED = "branch_moved", 84
    PULL_REQUEST = "pull_request", 84
    READ_BACK = "read_back", 84

    INTERRUPTED = "interrupted", 130


class BuildError(Exception):
    """An error that the user can fix.

    Attributes:
        code: what kind of error it is.
        what: what failed, a sentence without its full stop.
        why: the cause.
        hint: what to do next, a sentence or a command; may be empty.
        log: the last lines of the log of a step that failed unexpectedly.
        log_file: path of the whole log of a failed step.
        checks: the failed checks of the quality gate, by scheme.
        result: what the command found before; ``--json`` prints it with the error.
    """

    def __init__(
        self,
        code: ErrorCode,
        what: str,
        why: str,
        hint: str = "",
        *,
        log: str = "",
        checks: Mapping[str, tuple[Check, ...]] | None = None,
    ) -> None:
        super().__init__(f"{what}: {why}. {hint}".rstrip())
        self.code, self.what, self.why, self.hint = code, what, why, hint
        self.log, self.checks = log, checks or {}
        self.log_file: Path | None = None
        self.result: Mapping[str, Any] = {}


def stopped_error(what: str, *, kept: bool = True) -> BuildError:
    """Return the error of a command that a signal stopped; ``kept``: whether it keeps finished steps."""
    hint = f"Run the same command again{'; finished steps are kept' if kept else ''}."
    return BuildError(ErrorCode.INTERRUPTED, f"{what} was stopped", "it got a signal", hint)


def from_os_error(what: str, error: OSError) -> BuildError:
    """Return an error of the host's file system as a ``BuildError``; a full disk has its own code."""
    code = ErrorCode.DISK if error.errno in FULL else ErrorCode.OUTPUT
    why = ": ".join(filter(None, (error.filename, error.strerror))) or str(error)
    hint = "Fix the cause and run the same command again; finished steps are kept."
    return BuildError(code, what, why, hint)


@contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Raise errors of the host's file system as ``BuildError``."""
    try:
        yield
    except OSError as error:
        raise from_os_error(what, error) from error


def from_step(failure: StepFailure, log: str = "") -> BuildError:
    """Return the failure of a step as a ``BuildError``."""
    code = ErrorCode[StepErrorCode(failure.code).name]
    return BuildError(code, failure.what, failure.why, failure.hint, log=log)


def release_error(code: ErrorCode, what: str, why: str, hint: str = GET_AGAIN) -> BuildError:
    """Return an error that ``verify`` finds in a release."""
    return BuildError(code, what, why, hint)
