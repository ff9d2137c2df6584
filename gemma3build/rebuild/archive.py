"""The archive of a release: one plain tar of all that a rebuild needs, the same bytes for the same files.

The first member is ``index.json``, which has path, size and SHA-256 of every other, in the order of their
paths. Headers are those of GNU tar (``tar(5)``) with one mode, owner and time. So an archive is a function of its index and
the contents: the reader makes each header from the index and compares, and parses none.
"""

import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from gemma3build.errors import BuildError, ErrorCode, os_errors
from gemma3build.util.files import (
    LARGEST,
    FileDigest,
    atomic_file,
    digest_file,
    read_blocks,
    sha256_blocks,
)
from gemma3build.util.serialize import Record, decode_json, pretty_json
from gemma3build.util.text import truncate
from gemma3build.verify.untrusted import Advance, ignore

FORMAT = "gemma3build.archive/1"
FIRST_MEMBER = "index.json"
SOURCE, WHEELS, BASE, RELEASE, CHECKPOINT = "source", "wheels", "base", "release", "checkpoint"
# One of these folders, and below it names that lead nowhere else and are not hidden.
PATH = re.compile(
    rf"(?:{SOURCE}|{WHEELS}|{BASE}|{RELEASE}|{CHECKPOINT})(?:/[A-Za-z0-9_][A-Za-z0-9_.+!-]{{0,199}}){{1,9}}"
)
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
MODE = 0o644
SIZE = slice(124, 135)  # of a header: octal digits
WHAT = "The archive cannot be used"
HINT = "Get the archive again, or make one: gemma3build archive"


class ArchiveIndex(Record):
    """What an archive holds.

    Attributes:
        format: names this format and its version.
        model: name of the release.
        version: of the archived gemma3build.
        complete: whether it holds what the checkpoint is made of.
        members: path, size and digest of every other member, ordered by path.
    """

    format: str
    model: str
    version: str
    complete: bool
    members: tuple[FileDigest, ...]


def write_archive(
    target: Path, files: Mapping[str, Path], *, model: str, version: str, complete: bool
) -> ArchiveIndex:
    """Write an archive whole or not at all.

    Args:
        target: where.
        files: path of each file on disk, by its path in the archive.
        model: name of the release.
        version: of this gemma3build.
        complete: whether the files have what the checkpoint is made of.

    Raises:
        BuildError: a file has a path that an archive cannot have, or changed meanwhile (ARCHIVE);
            the disk is full (DISK); a file cannot be read, or the archive cannot be written
            (OUTPUT).
    """
    what = "The archive cannot be made"
    with os_errors(what):
        members = tuple(digest_file(path, name) for name, path in sorted(files.items()))
        index = ArchiveIndex(
            format=FORMAT, model=model, version=version, complete=complete, members=members
        )
        if why := _flaw(index):
            raise BuildError(ErrorCode.ARCHIVE, what, why, "Rename or remove the file.")
        text = pretty_json(index)
        with atomic_file(target) as staged, staged.open("wb") as file:
            file.write(header(FIRST_MEMBER, len(text)) + text + _padding(len(text)))
            for member in members:
                file.write(header(member.path, member.size))
                with files[member.path].open("rb") as source:
                    digest = sha256_blocks(read_blocks(source, member.size), file.write)
                if digest != member.sha256:
                    why = f"{member.path} changed while it was read"
                    raise BuildError(ErrorCode.ARCHIVE, what, why, "Run the same command again.")
                file.write(_padding(member.size))
            file.write(END)
    return index


def unpack(path: Path, folder: Path, advance: Advance = ignore) -> ArchiveIndex:
    """Write the members of an untrusted archive into an empty directory.

    Nothing is written but plain files below it, and no more bytes than the archive has.

    Args:
        path: of the archive.
        folder: where.
        advance: is told of bytes that were read.

    Raises:
        BuildError: it is none, is not whole, or holds more or other things than its index says
            (ARCHIVE); the disk is full (DISK); a file cannot be written (OUTPUT).
    """
    with os_errors(WHAT):
        if not path.is_file():
            raise BuildError(ErrorCode.ARCHIVE, WHAT, f"{path} is no file", HINT)
        with path.open("rb") as file:
            index, start = _read_index(file, path.stat().st_size)
            advance(start)
            for member in index.members:
                name = member.path
                _expect(
                    file,
                    header(name, member.size),
                    f"the header of {name} is not as the index says",
                )
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as unpacked:
                    blocks = read_blocks(file, member.size)
                    sinks = (unpacked.write, lambda block: advance(len(block)))
                    if sha256_blocks(blocks, *sinks) != member.sha256:
                        raise _rejected(f"{name} is not what the index says")
                _expect(file, _padding(member.size), f"something follows {name}")
            _expect(file, END, "something follows its last member")
    return index


def header(path: str, size: int) -> bytes:
    """Return the header of a member: a plain file without owner and time."""
    member = tarfile.TarInfo(path)
    member.size, member.mode, member.mtime = size, MODE, 0
    return member.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def _expect(file: BinaryIO, expected: bytes, why: str) -> None:
    if file.read(len(expected)) != expected:
        raise _rejected(why)


def _read_index(file: BinaryIO, size: int) -> tuple[ArchiveIndex, int]:
    """Return the index, and how many bytes it and its header have."""
    first = file.read(BLOCK)
    try:
        length = int(first[SIZE], 8)
    except ValueError:
        length = -1
    if not 0 <= length <= LARGEST or first != header(FIRST_MEMBER, length):
        raise _rejected(f"it does not start with {FIRST_MEMBER}")
    text = file.read(length)
    try:
        index = decode_json(ArchiveIndex, text, FIRST_MEMBER)
    except (ValueError, RecursionError) as error:
        raise _rejected(str(error)) from error
    if pretty_json(index) != text:
        raise _rejected(f"its {FIRST_MEMBER} is not in the form in which it is written")
    if index.format != FORMAT:
        raise _rejected(f"its format is {index.format!r}, not {FORMAT!r}")
    if why := _flaw(index):
        raise _rejected(why)
    _expect(file, _padding(length), f"something follows {FIRST_MEMBER}")
    start = BLOCK + length + -length % BLOCK
    # Of each header the size alone matters here; a huge number would not fit into one.
    extents = (len(header(m.path, 0)) + m.size + -m.size % BLOCK for m in index.members)
    if start + sum(extents) + len(END) != size:
        raise _rejected(f"it has {size} bytes, and its members have others")
    return index, start


def _flaw(index: ArchiveIndex) -> str:
    """Say what is wrong with the members of an index; nothing for a good one."""
    known: set[str] = set()
    last = ""
    for member in index.members:
        path = member.path
        if not PATH.fullmatch(path):
            return f"{path!a} is no path in an archive"
        if path <= last:
            return f"{path} is there twice or out of order"
        if not known.isdisjoint(str(above) for above in Path(path).parents):
            return f"{path} is below a file"
        known.add(path)
        last = path
    return ""


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _rejected(why: str) -> BuildError:
    return BuildError(ErrorCode.ARCHIVE, WHAT, truncate(why), HINT)
