"""One tree of errors. Each says what failed, why, and what to do next, and has its own exit code."""

import enum
import errno
from collections.abc import Mapping
from pathlib import Path

from gemma3build.schema.evaluation import Check
from gemma3build.schema.step import Refusal, StepFailure

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # what the system says of a disk with no room


class BuildError(Exception):
    """Something that a person can do something about.

    Attributes:
        log_file: where the whole log of the failed step is kept, if a step failed.
        what: what failed, a sentence without its full stop.
        why: the cause.
        hint: what to do next, a sentence or a command.
        exit_code: what the process ends with; docs/exit-codes.md lists them.
    """

    exit_code = 1
    log_file: Path | None = None

    def __init__(self, what: str, why: str, hint: str) -> None:
        super().__init__(f"{what}: {why}. {hint}")
        self.what, self.why, self.hint = what, why, hint


class ConfigError(BuildError):
    """A file that people edit has an unknown key, a wrong type, or no valid syntax."""

    exit_code = 3


class UnknownNameError(BuildError):
    """No model, scheme or image has this name."""

    exit_code = 4


class DriftError(BuildError):
    """A lock does not say what the file that people edit says."""

    exit_code = 5


class RequestError(BuildError):
    """The parts of a request do not go together."""

    exit_code = 6


class DirtyError(BuildError):
    """The source is not that of a commit."""

    exit_code = 7


class EngineError(BuildError):
    """No Docker engine answers, or it failed."""

    exit_code = 10


class ImageError(BuildError):
    """An image could not be built."""

    exit_code = 11


class DownloadError(BuildError):
    """Wheels or packages could not be downloaded."""

    exit_code = 12


class NoMemoryError(BuildError):
    """Too little memory, or the kernel ended a container for it."""

    exit_code = 20


class NoSpaceError(BuildError):
    """Too little disk space, or the disk is full."""

    exit_code = 21


class OutputError(BuildError):
    """The release cannot be written where it was asked for."""

    exit_code = 22


class ChangedError(BuildError):
    """An input changed while the build read it."""

    exit_code = 23


class InUseError(BuildError):
    """A build needs what was to be removed."""

    exit_code = 24


class DamagedError(BuildError):
    """A stored result is not what it was."""

    exit_code = 42


class SigningError(BuildError):
    """A key cannot be used, or no signature can be made with it."""

    exit_code = 63


class NotIdenticalError(BuildError):
    """A rebuilt release has other bytes, and the same once what is known to vary is taken out."""

    exit_code = 70


class DifferentError(BuildError):
    """A rebuilt release is another one."""

    exit_code = 71


class ArchiveError(BuildError):
    """An archive cannot be made, or is not whole and safe to unpack."""

    exit_code = 72


class OfflineError(BuildError):
    """HF_HUB_OFFLINE is set, and something on the Hub is needed."""

    exit_code = 83


class RefusedPublicationError(BuildError):
    """A release does not hold to a rule of publishing, or its card is not one."""

    exit_code = 84


class LostRaceError(BuildError):
    """Someone else moved the branch before the commit."""

    exit_code = 85


class ReadBackError(BuildError):
    """What the Hub states after an upload is not what was uploaded."""

    exit_code = 86


class StalePullRequestError(BuildError):
    """A pull request is open that stands on an older commit of the branch."""

    exit_code = 87


class InterruptedBuildError(BuildError):
    """The build was stopped by a signal."""

    exit_code = 130


def stopped_error(what: str) -> InterruptedBuildError:
    """Return the error of something that a signal stopped."""
    why, hint = "it got a signal", "The same command goes on: finished steps are kept."
    return InterruptedBuildError(f"{what} was stopped", why, hint)


def from_os_error(what: str, error: OSError) -> BuildError:
    """Return an error of the host's file system as one of this tree; a full disk has its own."""
    kind = NoSpaceError if error.errno in FULL else OutputError
    why = ": ".join(filter(None, (error.filename, error.strerror))) or str(error)
    return kind(
        what, why, "Mend the cause and run the same command again; finished steps are kept."
    )


class GateError(BuildError):
    """An artifact is not faithful to its checkpoint.

    Attributes:
        checks: those that failed, by scheme.
    """

    exit_code = 43

    def __init__(self, checks: Mapping[str, tuple[Check, ...]], folder: Path) -> None:
        super().__init__(
            f"The release was refused: {', '.join(checks)} differ from the checkpoint",
            "the table above has what was measured and what is allowed",
            f"The files are in {folder} to look at. Use another scheme, or one of your own with "
            "wider limits if you know what you lose.",
        )
        self.checks = checks


class Flaw(enum.StrEnum):
    """What is wrong with a release; each has an exit code of its own."""

    CHANGED = "changed"
    MISSING = "missing"
    EXTRA = "extra"
    CHECKSUMS = "checksums"
    MANIFEST = "manifest"
    SWAPPED = "swapped"
    UNSAFE = "unsafe"
    BUNDLE = "bundle"
    EVALUATION = "evaluation"
    PROVENANCE = "provenance"
    BILL = "bill"
    KEY = "key"
    SIGNATURE = "signature"
    UNSIGNED = "unsigned"


FLAW_EXIT_CODES = {
    Flaw.CHANGED: 50,
    Flaw.MISSING: 51,
    Flaw.EXTRA: 52,
    Flaw.CHECKSUMS: 53,
    Flaw.MANIFEST: 54,
    Flaw.SWAPPED: 55,
    Flaw.UNSAFE: 56,
    Flaw.BUNDLE: 57,
    Flaw.EVALUATION: 58,
    Flaw.PROVENANCE: 59,
    Flaw.BILL: 64,
    Flaw.KEY: 60,
    Flaw.SIGNATURE: 61,
    Flaw.UNSIGNED: 62,
}


class VerificationError(BuildError):
    """A release is not what it says.

    Attributes:
        flaw: what is wrong.
    """

    def __init__(self, flaw: Flaw, what: str, why: str, hint: str = "") -> None:
        super().__init__(what, why, hint or "Get the release again, or build it: nox -s build")
        self.flaw = flaw
        self.exit_code = FLAW_EXIT_CODES[flaw]


# What each refusal of a step becomes.
REFUSAL_EXIT_CODES = {
    Refusal.DIGEST: 30,
    Refusal.NETWORK: 31,
    Refusal.ACCESS: 32,
    Refusal.ARCHITECTURE: 33,
    Refusal.CONFIG: 34,
    Refusal.PICKLE: 35,
    Refusal.TENSORS: 36,
    Refusal.TRUNCATED: 37,
    Refusal.VALUES: 38,
    Refusal.TOKENIZER: 39,
    Refusal.QUANTIZATION: 40,
    Refusal.OTHER_WEIGHTS: 44,
    Refusal.ROUNDING: 45,
    Refusal.LOGIN: 80,
    Refusal.UNKNOWN: 81,
    Refusal.MOVED: 82,
    Refusal.NO_SPACE: NoSpaceError.exit_code,
    Refusal.NO_MEMORY: NoMemoryError.exit_code,
    Refusal.INTERNAL: 41,
}


class HubError(BuildError):
    """The Hub refused something, or cannot be reached, while the host talked to it.

    Attributes:
        refusal: which of its refusals it is.
    """

    def __init__(self, failure: StepFailure) -> None:
        super().__init__(failure.what, failure.why, failure.hint)
        self.refusal = Refusal(failure.code)
        self.exit_code = REFUSAL_EXIT_CODES[self.refusal]


class StepFailedError(BuildError):
    """A step refused its input or stopped.

    Attributes:
        step: name of the step.
        log: the last lines of the step's log; empty where the refusal says it all.
    """

    def __init__(self, step: str, failure: StepFailure, log: str = "") -> None:
        super().__init__(failure.what, failure.why, failure.hint)
        self.step, self.log = step, log
        self.exit_code = REFUSAL_EXIT_CODES[Refusal(failure.code)]
