"""``.task`` files: find their members, and replace their clock.

A ``.task`` is a zip archive (APPNOTE.TXT, pkware.com) as MediaPipe's bundler writes it: members are stored
and not compressed, one after the other, with at most four zero bytes before each so that a runtime can
map it (``model_asset_bundle_utils.py`` of MediaPipe). The files are untrusted, and the reader rejects any
other archive: it could be read in two ways, or could grow when it is read.
"""

import io
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from gemma3build.formats.flatbuffer import Span
from gemma3build.schema.scheme import NAME

LARGEST = 64 * 1024  # bytes of a directory, and of a comment after it
PADDING = 4  # bytes before a member, at most
# Local header, 4.3.7: signature, version, flags, method, time, date, CRC, both sizes, both lengths.
LOCAL = struct.Struct("<4s5H3I2H")
LOCAL_SIGNATURE = b"PK\x03\x04"
# The record at the end, 4.3.16: signature, number of members, length of the comment.
END = struct.Struct("<4s6xH8xH")
END_SIGNATURE = b"PK\x05\x06"
ENCRYPTED = 1  # a flag: 4.4.4
IN_EXTRA = 0xFFFFFFFF  # a size that stands in the extra field instead: 4.5.3
ZIP64_EXTRA = struct.Struct("<HHQQ")  # kind, length, both sizes
ZIP64 = 1  # the kind
# Where time and date stand in a local and in a central header, and the size of a central one before
# its variable part: 4.3.7 and 4.3.12.
LOCAL_TIME, CENTRAL_TIME, CENTRAL_HEADER = 10, 12, 46
# Midnight of 1 January 1980, the earliest time that a zip archive can hold: 4.4.6.
ZIP_EPOCH = struct.pack("<HH", 0, (0 << 9) | (1 << 5) | 1)


class TaskFileError(ValueError):
    """A file that is no ``.task``, is cut off, contradicts itself, or holds more than it says."""


class _Bounded(io.BufferedReader):
    """A file that reads at most ``LARGEST`` bytes and a record at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        most = LARGEST + END.size
        if size is not None and size > most:
            raise TaskFileError("its directory is too large")
        return super().read(most if size is None or size < 0 else size)


def read_members(path: Path) -> dict[str, Span]:
    """Return the span of each member, by its name such as ``TOKENIZER_MODEL``.

    Members are within the file and do not overlap, and nothing is between them. At most some hundred KiB
    are read from any file.

    Raises:
        TaskFileError: the file is no ``.task``, is cut off, contradicts itself, or holds more than it says.
        OSError: the file cannot be opened.
    """
    with path.open("rb", buffering=0) as raw, _Bounded(raw) as file:
        members, directory = _read_directory(file)
        spans: dict[str, Span] = {}
        end = 0
        for member in members:
            name = member.orig_filename
            if not re.fullmatch(NAME, name):
                raise TaskFileError(f"a member has the name {name!a}")
            if name in spans:
                raise TaskFileError(f"it has the member {name} twice")
            span = spans[name] = _read_member(file, member, end)
            end = span.offset + span.size
            if end > directory:
                raise TaskFileError(f"the member {name} leads out of it")
        if end != directory:
            raise TaskFileError(f"{directory - end} bytes belong to no member")
    return spans


def _read_directory(file: BinaryIO) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the entries of the directory of an archive, and its offset."""
    try:
        with zipfile.ZipFile(file) as archive:
            members, directory = archive.infolist(), archive.start_dir
        file.seek(-END.size, io.SEEK_END)
        signature, count, comment = END.unpack(file.read(END.size))
    except TaskFileError:
        raise
    except Exception as error:
        # zipfile raises a dozen kinds of exceptions for broken directories.
        raise TaskFileError(f"its directory cannot be read: {error}") from error
    if signature != END_SIGNATURE or comment:
        raise TaskFileError("something follows its directory")
    if count != len(members):
        raise TaskFileError(f"its directory lists {len(members)} members and counts {count}")
    return members, directory


def _read_member(file: BinaryIO, member: zipfile.ZipInfo, place: int) -> Span:
    """Return the span of a member after ``place``; its header must agree with the directory."""
    name = f"the member {member.orig_filename}"
    if member.flag_bits & ENCRYPTED:
        raise TaskFileError(f"{name} is encrypted")
    if member.compress_type != zipfile.ZIP_STORED:
        raise TaskFileError(f"{name} is compressed")
    if member.flag_bits or member.compress_size != member.file_size:
        raise TaskFileError(f"{name} is not simply stored")
    if not 0 <= member.header_offset - place <= PADDING:
        raise TaskFileError(f"{name} overlaps another or is out of place")
    file.seek(place)
    if file.read(member.header_offset - place).strip(b"\0"):
        raise TaskFileError(f"bytes before {name} belong to none")
    header = file.read(LOCAL.size)
    if len(header) < LOCAL.size:
        raise TaskFileError(f"{name} is cut off")
    signature, _, flags, method, _, _, crc, *sizes, name_size, extra_size = LOCAL.unpack(header)
    rest = file.read(name_size + extra_size)
    own_name, extra = rest[:name_size], rest[name_size:]
    if sizes == [IN_EXTRA, IN_EXTRA] and extra_size == ZIP64_EXTRA.size == len(extra):
        kind, length, *sizes = ZIP64_EXTRA.unpack(extra)
        extra = b"" if (kind, length) == (ZIP64, ZIP64_EXTRA.size - 4) else extra
    found = (signature, flags, method, crc, sizes, own_name)
    expected = (
        *(LOCAL_SIGNATURE, 0, zipfile.ZIP_STORED, member.CRC),
        *([member.file_size] * 2, member.orig_filename.encode("ascii")),
    )
    if extra or found != expected:
        raise TaskFileError(f"{name} has two headers that differ")
    return Span(offset=member.header_offset + LOCAL.size + len(rest), size=member.file_size)


def stabilize(path: Path) -> None:
    """Give every member of the archive one fixed time, in place.

    The clock in the headers is all that differs between two runs of the bundler: it stores members
    uncompressed, in a fixed order, each aligned to 4 bytes so that a runtime can map it. Changing
    nothing else keeps the archive one that MediaPipe and LiteRT-LM read.
    """
    with zipfile.ZipFile(path) as archive:
        members, central = archive.infolist(), archive.start_dir
    with path.open("r+b") as file:
        for member in members:
            file.seek(member.header_offset + LOCAL_TIME)
            file.write(ZIP_EPOCH)
            file.seek(central + CENTRAL_TIME)
            file.write(ZIP_EPOCH)
            variable = len(member.orig_filename.encode()) + len(member.extra) + len(member.comment)
            central += CENTRAL_HEADER + variable
