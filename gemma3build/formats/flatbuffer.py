"""A FlatBuffer, read strictly: every offset is checked against the size of the data.

The encoding of tables, vectors and strings is that of flatbuffers.dev/internals; all numbers are
little-endian. The libraries for FlatBuffers in Python do not check offsets.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class FlatBufferError(ValueError):
    """A FlatBuffer that is cut off or contradicts itself."""


class Span(NamedTuple):
    """A part of a file: offset from its start, and size, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatBuffer:
    """A FlatBuffer in some data.

    Attributes:
        data: the bytes.
        start: where the FlatBuffer begins; nothing in it leads to a place before.
    """

    data: bytes | mmap.mmap
    start: int = 0

    @property
    def root(self) -> int:
        """The offset of the outermost table."""
        return self.pointer(self.start)

    def number(self, kind: str, at: int) -> int:
        """Return a number of a ``struct`` format; that would count a negative place from the end."""
        if not self.start <= at <= len(self.data) - struct.calcsize(kind):
            raise FlatBufferError("an offset leads out of it")
        (value,) = struct.unpack_from(kind, self.data, at)
        return int(value)

    def pointer(self, at: int) -> int:
        """Return the target of the offset at ``at``."""
        return at + self.number("<I", at)

    def field(self, table: int, slot: int) -> int | None:
        """Return the offset of a field of a table; None if the table omits it."""
        vtable = table - self.number("<i", table)
        place = 4 + 2 * slot
        if place + 2 > self.number("<H", vtable):
            return None
        offset = self.number("<H", vtable + place)
        return table + offset if offset else None

    def tables(self, table: int, slot: int, most: int) -> Iterator[int]:
        """Yield the offset of each table in a vector that is a field of a table.

        Raises:
            FlatBufferError: there are more than ``most``, or one is outside.
        """
        vector = self.field(table, slot)
        if vector is None:
            return
        first = self.pointer(vector)
        count = self.number("<I", first)
        if count > most:
            raise FlatBufferError(f"it has a list of {count}")
        for number in range(1, count + 1):
            yield self.pointer(first + 4 * number)

    def content(self, field: int) -> Span:
        """Return the span of the bytes of a string, or of a vector of bytes."""
        start = self.pointer(field)
        size = self.number("<I", start)
        if start + 4 + size > len(self.data):
            raise FlatBufferError("a string leads out of it")
        return Span(offset=start + 4, size=size)
