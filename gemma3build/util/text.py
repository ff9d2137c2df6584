"""Format texts and figures for people, in messages, tables and pages; HTML is elsewhere."""

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

MEGABYTE = 1_000_000
MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30

EXACT = 1000  # from here on, no digits after the point
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LONGEST = 200  # characters of a message about a file's content, or of a server
SHOWN = 3  # names in a message
# Gemma's tokens, which pages show unlike other text.
TOKENS = re.compile(
    r"<(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn|start_of_image|end_of_image"
    r"|unused\d{1,5}|0x[0-9A-F]{2})>"
)
# Hindi, Persian and emoji need joiners; line breaks and tabs stay as they are.
KEPT = frozenset("\n\t\u200c\u200d")
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})  # categories of Unicode
CONTROL_PICTURES = 0x2400  # U+2400 pictures U+0000, and so on for the 32 of them
CONTROLS = 0x20


def megabytes(size: float) -> str:
    """Return a size in bytes as MB of 10^6 bytes."""
    return f"{decimal(size / MEGABYTE)} MB"


def gibibytes(size: float) -> str:
    """Return a size in bytes as GiB of 2^30 bytes."""
    return f"{decimal(size / GIBIBYTE)} GiB"


def decimal(value: float) -> str:
    """Return a figure with one digit after the point, or with none where it is large."""
    return f"{value:,.0f}" if abs(value) >= EXACT else f"{value:,.1f}"


def significant(value: float) -> str:
    """Return a figure of any size to two digits, such as ``0.012`` or ``3.1·10⁻⁷``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    if -4 <= int(exponent) <= 2:  # noqa: PLR2004 - beyond these, zeros have to be counted
        return f"{float(f'{value:.1e}'):.{max(1 - int(exponent), 0)}f}"
    return f"{mantissa}·{power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    """Return a power of ten for a tick of an axis."""
    return {0: "1", 1: "10"}.get(exponent, f"10{str(exponent).translate(SUPERSCRIPTS)}")


def truncate(text: str) -> str:
    """Return an untrusted text, short and without control characters."""
    shown = printable(text)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def join_names(names: Iterable[str]) -> str:
    """Return names for a message, at most the first few, with their verb."""
    ordered = sorted(names)
    shown = [printable(name) for name in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        shown.append(f"{len(ordered) - SHOWN} more")
    return f"{', '.join(shown)} {'is' if len(ordered) == 1 else 'are'}"


def printable(text: str) -> str:
    """Return a text, with escapes of Python for all of it that is not ASCII if some cannot be printed."""
    return text if text.isprintable() else ascii(text)


def escape_control_chars(text: str) -> str:
    """Return ``text`` with every invisible or direction-changing character shown by name."""
    return "".join(escape_char(character) for character in text)


def escape_char(character: str) -> str:
    """Return a character, or its escape: ``␀`` for U+0000, ``U+202E`` for an override."""
    if character in KEPT or unicodedata.category(character) not in UNSEEN:
        return character
    code = ord(character)
    return chr(CONTROL_PICTURES + code) if code < CONTROLS else f"U+{code:04X}"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text: plain, or a token or an unseen character that is shown by name."""

    text: str
    special: bool


def pieces(text: str) -> tuple[Piece, ...]:
    """Return ``text`` cut where it turns from plain to special and back."""
    found: list[Piece] = []
    end = 0
    for token in TOKENS.finditer(text):
        found += _by_character(text[end : token.start()])
        found.append(Piece(token[0], special=True))
        end = token.end()
    return (*found, *_by_character(text[end:]))


def _by_character(text: str) -> list[Piece]:
    found: list[Piece] = []
    plain = ""
    for character in text:
        name = escape_char(character)
        if name == character:
            plain += character
            continue
        if plain:
            found.append(Piece(plain, special=False))
        found.append(Piece(name, special=True))
        plain = ""
    return [*found, Piece(plain, special=False)] if plain else found


def shared_start(text: str, other: str) -> tuple[str, str]:
    """Return ``text`` in two: what it begins with as ``other`` does, and the rest."""
    same = zip(text, other, strict=False)
    end = next((i for i, (a, b) in enumerate(same) if a != b), min(len(text), len(other)))
    return text[:end], text[end:]
