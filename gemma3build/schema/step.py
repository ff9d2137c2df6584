"""The files that the host and a step's container exchange.

The host writes ``request.json``; the step writes ``result.json`` and its files below ``output/``.
"""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gemma3build.util.serialize import Record

REQUEST_FILE = "request.json"
RESULT_FILE = "result.json"
LOG_FILE = "log.txt"
OUTPUT_DIR = "output"


class StepErrorCode(enum.StrEnum):
    """Why a step rejected its input; ``errors.ErrorCode`` has a code of the same name for each."""

    ARCHITECTURE = "architecture"
    CHECKPOINT_CONFIG = "checkpoint_config"
    DIGEST = "digest"
    NETWORK = "network"
    PICKLE = "pickle"
    TENSORS = "tensors"
    TOKENIZER = "tokenizer"
    TRUNCATED = "truncated"
    VALUES = "values"
    OTHER_WEIGHTS = "other_weights"
    ROUNDING = "rounding"
    ACCESS = "access"
    LOGIN = "login"
    NOT_FOUND = "not_found"
    MOVED = "moved"
    QUANTIZATION = "quantization"
    DISK = "disk"
    MEMORY = "memory"
    INTERNAL = "internal"


class StepError(Exception):
    """A step cannot go on: what failed, why, and what to do next."""

    def __init__(self, code: StepErrorCode, what: str, why: str, hint: str) -> None:
        super().__init__(f"{what}: {why}. {hint}")
        self.failure = StepFailure(code=code.value, what=what, why=why, hint=hint)


class StepFailure(Record):
    """A ``StepError`` in ``result.json``."""

    code: str
    what: str
    why: str
    hint: str


class StepRequest(Record):
    """The work of a step.

    Attributes:
        step: a module of ``gemma3build.steps``.
        parameters: JSON values whose names and meaning the step's docstring gives.
        inputs: the name of each input to its directory in the container.
    """

    step: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]

    def only_file(self, name: str) -> Path:
        """Return the one file of an input."""
        (path,) = Path(self.inputs[name]).iterdir()
        return path


class StepResult(Record):
    """The result of a step.

    Attributes:
        facts: JSON values about its input or output; the same input gives the same facts.
        seconds: wall-clock time from the start of the process.
        peak_memory: largest resident set size of the process and its children, in bytes.
        failure: set when the step failed.
    """

    facts: Mapping[str, Any] = msgspec.field(default_factory=dict)
    seconds: float
    peak_memory: int
    failure: StepFailure | None = None
