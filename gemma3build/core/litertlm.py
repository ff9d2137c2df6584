"""The header of a ``.litertlm`` file, read strictly.

A file starts with ``LITERTLM``, three uint32 of version, four bytes of padding and a uint64 that says
where the header ends. The header is a FlatBuffer at byte 32, the table ``LiteRTLMMetaData``; sections
follow, each at a multiple of 16 KiB. All numbers are little-endian. The layout is that of
``litertlm_core.py`` and ``litertlm_header_schema_py_generated.py`` in litert-lm-builder 0.18.1, the
encoding of tables, vectors and strings that of flatbuffers.dev/internals.

The reader trusts nothing: what it reads is bounded before it reads it, and offsets are checked against
what was read. The libraries for FlatBuffers in Python do not check them.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"LITERTLM"
MAJOR = 1
BLOCK = 16 * 1024  # bytes: sections start at multiples of it
START = 32  # where the FlatBuffer begins
LARGEST = 4 * BLOCK  # a header of three sections has some 600 bytes
MOST = 64  # elements of a vector: more could be made to cost much time in few bytes
STRING = 9  # VData.StringValue
# AnySectionDataType, from 1 on.
KINDS = (
    "GenericBinaryData",
    "Deprecated",
    "TFLiteModel",
    "SP_Tokenizer",
    "LlmMetadataProto",
    "HF_Tokenizer_Zlib",
    "TFLiteWeights",
    "EmbeddingMetadataProto",
    "ExecutorMetadataProto",
    "TtsMetadataProto",
    "AsrMetadataProto",
)


class LitertlmError(ValueError):
    """A file that is no ``.litertlm``, is cut off, or contradicts itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where something lies in a file: offset from its start, and size, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a header says.

    Attributes:
        data: the file up to where the header ends.
        texts: where the text of each string of the system metadata lies, by its key.
        sections: where each section lies, by its type, in the order of the file.
    """

    data: bytes
    texts: Mapping[str, Span]
    sections: Mapping[str, Span]

    def text(self, key: str) -> str:
        """Return a string of the system metadata; raises LitertlmError if there is none."""
        if key not in self.texts:
            raise LitertlmError(f"the header has no {key}")
        span = self.texts[key]
        return _decode(self.data[span.offset : span.offset + span.size])


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header of a file, and no more of it than 64 KiB.

    Args:
        file: at its start.
        size: of the whole file, in bytes.

    Raises:
        LitertlmError: the header is not whole, or a section is not within the file, alone in its place
            and the only one of its type.
        OSError: the file cannot be read.
    """
    start = file.read(START)
    if len(start) < START or not start.startswith(MAGIC):
        raise LitertlmError("it does not start as a .litertlm file does")
    major, end = struct.unpack_from("<I12xQ", start, len(MAGIC))
    if major != MAJOR:
        raise LitertlmError(f"its format has the version {major}, not {MAJOR}")
    if not START < end <= min(size, LARGEST):
        raise LitertlmError(f"its header ends at byte {end} of {size}")
    data = start + file.read(end - START)
    if len(data) < end:
        raise LitertlmError("its header is cut off")
    root = _pointer(data, START)
    texts = dict(_unique(_texts(data, _field(data, root, 0))))
    sections = dict(_unique(_sections(data, _field(data, root, 1))))
    _check_places(sections, end, size)
    return Header(data=data, texts=texts, sections=sections)


def _check_places(sections: Mapping[str, Span], end: int, size: int) -> None:
    """Require sections in order, aligned, apart from each other, and up to the end of the file."""
    for name, span in sections.items():
        if span.offset % BLOCK or span.offset < end or span.size < 0:
            raise LitertlmError(f"the section {name} is out of place")
        end = span.offset + span.size
    if end != size:
        raise LitertlmError(f"its last section ends at byte {end} of {size}")


def _texts(data: bytes, system: int | None) -> Iterator[tuple[str, Span]]:
    """Yield the strings of a ``SystemMetadata``: key, and where the text lies."""
    for entry in _tables(data, system, 0):
        kind, value = _field(data, entry, 1), _field(data, entry, 2)
        if kind is not None and _number(data, "<B", kind) == STRING and value is not None:
            text = _field(data, _pointer(data, value), 0)
            yield _text(data, _field(data, entry, 0)), _string(data, text)


def _sections(data: bytes, sections: int | None) -> Iterator[tuple[str, Span]]:
    """Yield the objects of a ``SectionMetadata``: type, and where the section lies."""
    for item in _tables(data, sections, 0):
        begin, end, kind = (_field(data, item, slot) for slot in (1, 2, 3))
        if begin is None or end is None or kind is None:
            raise LitertlmError("a section has no place or no type")
        number = _number(data, "<B", kind)
        if not 1 <= number <= len(KINDS):
            raise LitertlmError(f"a section has the unknown type {number}")
        offset = _number(data, "<Q", begin)
        size = _number(data, "<Q", end) - offset
        yield KINDS[number - 1], Span(offset=offset, size=size)


def _unique(pairs: Iterator[tuple[str, Span]]) -> Iterator[tuple[str, Span]]:
    """Pass on what no earlier pair has named."""
    seen = set()
    for name, span in pairs:
        if name in seen:
            raise LitertlmError(f"the header has {name!r} twice")
        seen.add(name)
        yield name, span


def _tables(data: bytes, holder: int | None, slot: int) -> Iterator[int]:
    """Yield where each table lies, of a vector that is a field of a table that is a field."""
    if holder is None:
        return
    vector = _field(data, _pointer(data, holder), slot)
    if vector is None:
        return
    first = _pointer(data, vector)
    count = _number(data, "<I", first)
    if count > MOST:
        raise LitertlmError(f"its header has a list of {count}")
    for number in range(1, count + 1):
        yield _pointer(data, first + 4 * number)


def _field(data: bytes, table: int, slot: int) -> int | None:
    """Return where a field of a table lies; None if the table leaves it out."""
    vtable = table - _number(data, "<i", table)
    place = 4 + 2 * slot
    if place + 2 > _number(data, "<H", vtable):
        return None
    offset = _number(data, "<H", vtable + place)
    return table + offset if offset else None


def _text(data: bytes, field: int | None) -> str:
    span = _string(data, field)
    return _decode(data[span.offset : span.offset + span.size])


def _string(data: bytes, field: int | None) -> Span:
    """Return where the text of a string field lies."""
    if field is None:
        raise LitertlmError("a string is missing in its header")
    start = _pointer(data, field)
    size = _number(data, "<I", start)
    if start + 4 + size > len(data):
        raise LitertlmError("a string leads out of its header")
    return Span(offset=start + 4, size=size)


def _pointer(data: bytes, at: int) -> int:
    """Return where the offset at ``at`` leads to."""
    return at + _number(data, "<I", at)


def _number(data: bytes, kind: str, at: int) -> int:
    """Return a number; ``struct`` would count a negative place from the end."""
    if not START <= at <= len(data) - struct.calcsize(kind):
        raise LitertlmError("an offset leads out of its header")
    (value,) = struct.unpack_from(kind, data, at)
    return int(value)


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise LitertlmError("a string in its header is not UTF-8") from error
