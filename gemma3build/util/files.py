"""Files: digests, bounded reads, and atomic writes."""

import glob
import hashlib
import io
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated

from msgspec import Meta

from gemma3build.util.serialize import Record, matching
from gemma3build.util.text import MEBIBYTE

Sha256 = Annotated[str, matching("[0-9a-f]{64}")]
BLOCK_SIZE = MEBIBYTE  # bytes that are read or copied at a time
LARGEST = 16 * MEBIBYTE  # Gemma's tokenizer has 5, PIQA's questions 4, records less than 1
PARTIAL = ".partial"  # suffix of files and directories that are being written
ABANDONED = 3600  # seconds without a change, after which no process writes it


class FileDigest(Record, order=True):
    """One file of a tree: its POSIX path below the root, size in bytes, and SHA-256 in hex."""

    path: str
    size: Annotated[int, Meta(ge=0)]
    sha256: Sha256


def read_blocks(file: IO[bytes], size: int | None = None) -> Iterator[bytes]:
    """Yield what is left of a file, or its next ``size`` bytes, in blocks."""
    left = size
    while block := file.read(BLOCK_SIZE if left is None else min(left, BLOCK_SIZE)):
        yield block
        left = None if left is None else left - len(block)


def sha256_blocks(blocks: Iterable[bytes], *sinks: Callable[[bytes], object]) -> str:
    """Return the SHA-256 of blocks in hex; each is given to the sinks too, such as a file's ``write``."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
        for sink in sinks:
            sink(block)
    return digest.hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of the file at ``path`` in hex; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_span(file: IO[bytes], offset: int, size: int, *sinks: Callable[[bytes], object]) -> str:
    """Return the SHA-256 of a part of a file in hex; offset and size are in bytes."""
    file.seek(offset)
    return sha256_blocks(read_blocks(file, size), *sinks)


def digest_file(path: Path, name: str) -> FileDigest:
    """Return the digest of the file at ``path`` under the POSIX name ``name``."""
    return FileDigest(path=name, size=path.stat().st_size, sha256=sha256_file(path))


def digest_tree(root: Path) -> tuple[FileDigest, ...]:
    """Return the digests of every regular file below ``root``, ordered by path.

    Raises:
        ValueError: the tree holds a symbolic link or anything else that is neither a file nor a
            directory; following one would let a tree name files outside of itself.
        OSError: something cannot be read.
    """
    return tuple(sorted(digest_file(path, name) for name, path in walk_files(root)))


def walk_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (POSIX name, path) of every regular file below ``root``; rejects links."""
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                yield path.relative_to(root).as_posix(), path
            elif not stat.S_ISDIR(mode):
                raise ValueError(
                    f"{path.relative_to(root).as_posix()} is neither a file nor a directory"
                )


class TooLargeError(ValueError):
    """A file that is larger than any of its kind."""


def read_bounded(path: Path) -> bytes:
    """Return the content of a file; at most ``LARGEST`` bytes are read.

    Raises:
        TooLargeError: it has more.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return read_at_most(file, path.name)


def read_at_most(file: IO[bytes], name: str) -> bytes:
    """Return what is left of an open file, which messages call ``name``; raises as ``read_bounded``."""
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise TooLargeError(f"{name} has more than {LARGEST // MEBIBYTE} MiB")
    return content


def read_bounded_text(path: Path) -> str:
    """Return the text of a file in UTF-8, its lines ended as Python ends them.

    Raises:
        TooLargeError: it has more than ``LARGEST`` bytes.
        UnicodeDecodeError: it is not UTF-8.
        OSError: it cannot be read.
    """
    return io.StringIO(read_bounded(path).decode(), newline=None).read()


def partial_path(path: Path) -> Path:
    """Return a new path next to a file or directory, to write it before it gets its name."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")


def find_partial(path: Path) -> list[Path]:
    """Return the existing paths that ``partial_path`` gave for a path."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}{PARTIAL}"))


@contextmanager
def atomic_file(path: Path, *, outside: bool = False) -> Iterator[Path]:
    """Give a path to write a file that then appears whole; of two writers the last one wins.

    Args:
        path: where the file appears.
        outside: whether that path is next to the directory of the file, which then holds no other file.

    Raises:
        OSError: nothing can be written there.
    """
    place = path.parent.with_name(f"{path.parent.name}.{path.name}") if outside else path
    remove_abandoned(find_partial(place))
    staged = partial_path(place)
    try:
        yield staged
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes, *, outside: bool = False) -> None:
    """Write a file as ``atomic_file`` does; raises OSError."""
    with atomic_file(path, outside=outside) as staged:
        staged.write_bytes(content)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove the partial files of killed writers: those without a change for an hour."""
    for path in paths:
        with suppress(OSError):  # another process removed it, or another user owns it
            if time.time() - path.lstat().st_mtime > ABANDONED:
                path.unlink()


def same_disk(folder: Path, other: Path) -> bool:
    """Return whether two directories, which need not exist yet, are on one disk, so that links work."""
    return existing(folder).stat().st_dev == existing(other).stat().st_dev


def existing(path: Path) -> Path:
    """Return a path, or its nearest parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())
