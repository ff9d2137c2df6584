"""Small files, read without trust in how large they are."""

from pathlib import Path
from typing import AnyStr

from gemma3build.core.units import MEBIBYTE

LARGEST = 16 * MEBIBYTE  # Gemma's tokenizer has 5, PIQA's questions 4, records less than 1


class TooLargeError(ValueError):
    """A file that is larger than any of its kind."""


def read_small(path: Path) -> bytes:
    """Return the content of a file; no more than ``LARGEST`` bytes are read, whatever it has.

    Raises:
        TooLargeError: it has more.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _bounded(path, file.read(LARGEST + 1))


def read_small_text(path: Path) -> str:
    """Return the text of a file in UTF-8, its lines ended as Python ends them.

    Raises:
        TooLargeError: it has more than ``LARGEST`` characters.
        UnicodeDecodeError: it is not UTF-8.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8") as file:
        return _bounded(path, file.read(LARGEST + 1))


def _bounded(path: Path, content: AnyStr) -> AnyStr:
    if len(content) > LARGEST:
        raise TooLargeError(f"{path.name} has more than {LARGEST // MEBIBYTE} Mi characters")
    return content
