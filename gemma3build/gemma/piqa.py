"""The files of PIQA, as published: the host checks them, the container reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemma3build.util.files import read_bounded_text, sha256_bytes

QUESTIONS = "valid.jsonl"
LABELS = "valid-labels.lst"
FIELDS = ("goal", "sol1", "sol2")
FEWEST = 2  # that a standard error can be computed from


def read_data(folder: Path) -> tuple[list[str], list[str]]:
    """Return the lines of the questions and of the labels.

    Raises:
        ValueError: there is not one label for each question, there are too few, or a file is too large.
        OSError: a file cannot be read.
    """
    lines, labels = (
        # Not splitlines, for which some characters of JSON texts end a line.
        read_bounded_text(folder / name).removesuffix("\n").split("\n")
        for name in (QUESTIONS, LABELS)
    )
    if len(lines) != len(labels):
        raise ValueError(
            f"{QUESTIONS} has {len(lines)} questions, {LABELS} has {len(labels)} labels"
        )
    if len(lines) < FEWEST:
        raise ValueError(f"{QUESTIONS} has {len(lines)} questions; a standard error needs {FEWEST}")
    return lines, labels


def make_questions(lines: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the questions as lm-eval's task reads them, the right solution's number in ``label``.

    Raises:
        ValueError: a line is not a question or not a label.
    """
    questions = []
    for number, (line, label) in enumerate(zip(lines, labels, strict=True), 1):
        try:
            question = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} of {QUESTIONS} is not JSON: {error}") from error
        if not isinstance(question, dict) or not all(
            is_text(question.get(name)) for name in FIELDS
        ):
            raise ValueError(f"line {number} of {QUESTIONS} has not the texts {', '.join(FIELDS)}")
        if label not in ("0", "1"):
            raise ValueError(f"line {number} of {LABELS} is {label!r}, not 0 or 1")
        questions.append({**{name: question[name] for name in FIELDS}, "label": int(label)})
    return questions


def data_digest(lines: Sequence[str], labels: Sequence[str]) -> str:
    """Return the SHA-256 of the lines of the questions, then of the labels."""
    return sha256_bytes("".join(f"{line}\n" for line in (*lines, *labels)).encode())


def is_text(value: object) -> bool:
    """Return whether a JSON value is a text that can be written: JSON can name half a character."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)
