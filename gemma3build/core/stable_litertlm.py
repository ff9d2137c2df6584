"""What two runs of LiteRT-LM's builder write differently into a header, and what it becomes.

The builder puts a random uuid and the current time into the system metadata of every file, and drops
those that it is given. Everything else is a function of its input. Both are strings of one length, so
that they are changed in place and no offset moves.
"""

import datetime
import hashlib
import uuid
from collections.abc import Mapping
from pathlib import Path

from gemma3build.core.canonical import canonical_json
from gemma3build.core.flatbuffer import Span
from gemma3build.core.litertlm import Header, read_header

UUID, TIME = "uuid", "creation_timestamp"
# A namespace of this project's own, drawn once at random: RFC 9562, 6.6.
NAMESPACE = uuid.UUID("aad80869-8fe7-48d0-9af3-93abe1ce70fd")
COPY_SIZE = 1 << 20


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
        digests = {name: section_digest(path, span) for name, span in header.sections.items()}
        values = {UUID: stable_uuid(digests), TIME: stable_time(epoch)}
        file.seek(0)
        file.write(replace(header, values))
    return digests


def section_digest(path: Path, span: Span) -> str:
    """Return the SHA-256 of a part of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(span.offset)
        left = span.size
        while block := file.read(min(left, COPY_SIZE)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def stable_uuid(digests: Mapping[str, str]) -> str:
    """Return a uuid of the content.

    Args:
        digests: SHA-256 of each section, by its type.
    """
    return str(uuid.uuid5(NAMESPACE, canonical_json(dict(digests)).decode()))


def stable_time(epoch: int) -> str:
    """Return SOURCE_DATE_EPOCH, in seconds, as the builder writes a time, to the microsecond."""
    return datetime.datetime.fromtimestamp(epoch, datetime.UTC).isoformat(timespec="microseconds")


def replace(header: Header, values: Mapping[str, str]) -> bytes:
    """Return the bytes of a header with other strings in its system metadata.

    Args:
        header: of a file.
        values: new strings by key, as long as those that are there.

    Raises:
        LitertlmError: the header has no such string.
        ValueError: a string has another length.
    """
    data = bytearray(header.data)
    for key, value in values.items():
        if len(value.encode()) != len(header.text(key).encode()):
            raise ValueError(f"{value} is not as long as {header.text(key)}")
        offset = header.texts[key].offset
        data[offset : offset + header.texts[key].size] = value.encode()
    return bytes(data)
