"""The header of a GGUF file, checked strictly before the library for GGUF reads it.

A file starts with ``GGUF``, a uint32 of version, and the numbers of tensors and of metadata entries, two
uint64. Each entry is a key, a uint32 of type and a value; each tensor a name, a uint32 of dimensions, a
uint64 for each of them, a uint32 of type and the uint64 offset of its data, which follow
at the next multiple of the alignment. A string is a uint64 of length and as many bytes of UTF-8. All
numbers are little-endian. The layout is that of ``gguf.md`` in github.com/ggml-org/ggml.

The library believes the counts in the header: where a file ends early it goes on with empty values, and
an array that claims to be long fills the memory of the machine.
"""

import math
import os
import struct
from collections.abc import Iterable
from typing import BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # that lay a file out in this way
# Bounds on what a header may claim; the 27B Gemma 3 has 808 tensors and some 50 entries.
MOST_ENTRIES = 1 << 10
MOST_TENSORS = 1 << 14
MOST_ELEMENTS = 1 << 20  # a vocabulary of Gemma 3 has 262,144 pieces
LONGEST = 1 << 20  # bytes of a string
MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
LEAST_BITS = 1  # for a weight, in any type of ggml
STRING, ARRAY = 8, 9
BOOL = 7
# Bytes of a value of each other type: gguf_metadata_value_type.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, BOOL: 1, 10: 8, 11: 8, 12: 8}


class GgufError(ValueError):
    """A file that is no GGUF, is cut off, or claims more than it can hold."""


def check_header(file: BinaryIO) -> None:
    """Read a header to its end, in small pieces.

    Args:
        file: on disk, at its start.

    Raises:
        GgufError: the header is not whole, claims more than the file or any model has, or names
            something twice.
        OSError: the file cannot be read.
    """
    _Header(file).check()


class _Header:
    """A header that is being read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def check(self) -> None:
        if self._read(len(MAGIC)) != MAGIC:
            raise GgufError("it does not start as a GGUF file does")
        if (version := self._number("<I")) not in VERSIONS:
            raise GgufError(f"its format has the version {version}, not {VERSIONS[-1]}")
        tensors = self._count("<Q", MOST_TENSORS, "tensors")
        entries = self._count("<Q", MOST_ENTRIES, "metadata entries")
        _require_unique(self._entry() for _ in range(entries))
        _require_unique(self._tensor() for _ in range(tensors))

    def _entry(self) -> str:
        """Skip an entry of the metadata; return its key."""
        key = self._string()
        kind = self._number("<I")
        if kind == ARRAY:
            self._array(key)
        else:
            self._values(kind, 1, key)
        return key

    def _array(self, key: str) -> None:
        kind = self._number("<I")
        self._values(kind, self._count("<Q", MOST_ELEMENTS, f"elements of {key!a}"), key)

    def _values(self, kind: int, count: int, key: str) -> None:
        if kind == STRING:
            for _ in range(count):
                self._string()
        elif kind in SIZES:
            values = self._read(count * SIZES[kind])
            if kind == BOOL and values.strip(b"\0\1"):
                raise GgufError(f"{key!a} is neither true nor false")
        else:
            raise GgufError(f"{key!a} has the unknown type {kind}")

    def _tensor(self) -> str:
        """Check the entry of a tensor; return its name."""
        name = self._string()
        dimensions = self._count("<I", MOST_DIMENSIONS, f"dimensions of {name!a}")
        shape = [self._number("<Q") for _ in range(dimensions)]
        self._number("<I")  # its type: the library knows them
        offset = self._number("<Q")
        if not all(shape) or math.prod(shape) * LEAST_BITS > 8 * self._size or offset > self._size:
            raise GgufError(f"the tensor {name!a} does not fit into it")
        return name

    def _string(self) -> str:
        text = self._read(self._count("<Q", LONGEST, "bytes in a string"))
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise GgufError("a string in its header is not UTF-8") from error

    def _count(self, kind: str, most: int, what: str) -> int:
        count = self._number(kind)
        if count > most:
            raise GgufError(f"its header claims {count} {what}")
        return count

    def _number(self, kind: str) -> int:
        (value,) = struct.unpack(kind, self._read(struct.calcsize(kind)))
        return int(value)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise GgufError("its header is cut off")
        return data


def _require_unique(names: Iterable[str]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise GgufError(f"its header has {name!a} twice")
        seen.add(name)
