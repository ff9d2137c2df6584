"""``.litertlm`` files: find their sections, and replace their random uuid and their clock.

A file starts with ``LITERTLM``, three uint32 of version, four bytes of padding and a uint64, the
end of the header. The header is a FlatBuffer at byte 32, the table ``LiteRTLMMetaData``; sections
follow, each at a multiple of 16 KiB. All numbers are little-endian. The layout is that of
``litertlm_core.py`` and ``litertlm_header_schema_py_generated.py`` in litert-lm-builder 0.18.1.

The files are untrusted: every size is bounded before it is read, and every offset is checked.
"""

import datetime
import mmap
import struct
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gemma3build.formats.flatbuffer import FlatBuffer, FlatBufferError, Span
from gemma3build.util.files import sha256_span
from gemma3build.util.serialize import canonical_json

MAGIC = b"LITERTLM"
MAJOR = 1
ALIGNMENT = 16 * 1024  # bytes: sections start at multiples of it
START = 32  # where the FlatBuffer begins
LARGEST = 64 * 1024  # a header of three sections has some 600 bytes
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
UUID, TIME = "uuid", "creation_timestamp"  # keys of the system metadata
# A namespace of this project, drawn once at random: RFC 9562, 6.6.
NAMESPACE = uuid.UUID("aad80869-8fe7-48d0-9af3-93abe1ce70fd")


class LitertlmError(ValueError):
    """A file that is no ``.litertlm``, is cut off, or contradicts itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The content of a header.

    Attributes:
        data: the file up to where the header ends.
        texts: the span of each string of the system metadata, by its key.
        sections: the span of each section, by its type, in the order of the file.
    """

    data: bytes
    texts: Mapping[str, Span]
    sections: Mapping[str, Span]

    def text(self, key: str) -> str:
        """Return a string of the system metadata; raises LitertlmError if there is none."""
        if key not in self.texts:
            raise LitertlmError(f"the header has no {key}")
        return _decode(self.data, self.texts[key])


def read_sections(path: Path) -> dict[str, Span]:
    """Return the span of each section, by its type such as ``TFLiteModel``.

    Raises:
        LitertlmError: the file is no ``.litertlm``, is cut off, or contradicts itself.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return dict(read_header(file, path.stat().st_size).sections)


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
    buffer = FlatBuffer(data=data, start=START)
    try:
        texts, sections = _unique(_texts(buffer)), _unique(_sections(buffer))
    except FlatBufferError as error:
        raise LitertlmError(f"its header cannot be read: {error}") from error
    for name, span in sections.items():
        if span.offset % ALIGNMENT or span.offset < end or span.size < 0:
            raise LitertlmError(f"the section {name} is out of place")
        end = span.offset + span.size
    if end != size:
        raise LitertlmError(f"its last section ends at byte {end} of {size}")
    return Header(data=data, texts=texts, sections=sections)


def _texts(buffer: FlatBuffer) -> Iterator[tuple[str, Span]]:
    """Yield the strings of the ``SystemMetadata``: key, and span of the text."""
    for entry in _tables(buffer, 0):
        key, kind, value = (buffer.field(entry, slot) for slot in (0, 1, 2))
        if kind is not None and buffer.number("<B", kind) == STRING and value is not None:
            text = buffer.field(buffer.pointer(value), 0)
            if key is None or text is None:
                raise LitertlmError("a string is missing in its header")
            yield _decode(buffer.data, buffer.content(key)), buffer.content(text)


def _sections(buffer: FlatBuffer) -> Iterator[tuple[str, Span]]:
    """Yield the objects of the ``SectionMetadata``: type, and span of the section."""
    for item in _tables(buffer, 1):
        begin, end, kind = (buffer.field(item, slot) for slot in (1, 2, 3))
        if begin is None or end is None or kind is None:
            raise LitertlmError("a section has no place or no type")
        number = buffer.number("<B", kind)
        if not 1 <= number <= len(KINDS):
            raise LitertlmError(f"a section has the unknown type {number}")
        offset = buffer.number("<Q", begin)
        yield KINDS[number - 1], Span(offset=offset, size=buffer.number("<Q", end) - offset)


def _tables(buffer: FlatBuffer, slot: int) -> Iterator[int]:
    """Yield the offsets of the tables in the one vector of a table that a field of the root holds."""
    holder = buffer.field(buffer.root, slot)
    return iter(()) if holder is None else buffer.tables(buffer.pointer(holder), 0, MOST)


def _unique(pairs: Iterator[tuple[str, Span]]) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    for name, span in pairs:
        if name in spans:
            raise LitertlmError(f"the header has {name!r} twice")
        spans[name] = span
    return spans


def _decode(data: bytes | mmap.mmap, span: Span) -> str:
    try:
        return data[span.offset : span.offset + span.size].decode()
    except UnicodeDecodeError as error:
        raise LitertlmError("a string in its header is not UTF-8") from error


def stabilize(path: Path, epoch: int) -> dict[str, str]:
    """Give a file the uuid of its content and one fixed time, in place.

    Args:
        path: of the file.
        epoch: SOURCE_DATE_EPOCH, in seconds.

    Returns:
        SHA-256 of each section, by its type.

    Raises:
        LitertlmError: the file is no ``.litertlm``, or has no such strings.
        ValueError: its strings have other lengths.
    """
    with path.open("r+b") as file:
        header = read_header(file, path.stat().st_size)
        digests = {name: sha256_span(file, *span) for name, span in header.sections.items()}
        content = replace(header, {UUID: stable_uuid(digests), TIME: stable_time(epoch)})
        file.seek(0)
        file.write(content)
    return digests


def stable_uuid(digests: Mapping[str, str]) -> str:
    """Return a uuid of the content, given by the SHA-256 of each section."""
    return str(uuid.uuid5(NAMESPACE, canonical_json(dict(digests)).decode()))


def stable_time(epoch: int) -> str:
    """Return SOURCE_DATE_EPOCH, in seconds, as the builder writes a time, to the microsecond."""
    return datetime.datetime.fromtimestamp(epoch, datetime.UTC).isoformat(timespec="microseconds")


def replace(header: Header, values: Mapping[str, str]) -> bytes:
    """Return the bytes of a header with other strings in its system metadata.

    Raises:
        LitertlmError: the header has no such string.
        ValueError: a string has another length than the one that is there.
    """
    data = bytearray(header.data)
    for key, value in values.items():
        if len(value.encode()) != len(header.text(key).encode()):
            raise ValueError(f"{value} is not as long as {header.text(key)}")
        offset, size = header.texts[key]
        data[offset : offset + size] = value.encode()
    return bytes(data)
