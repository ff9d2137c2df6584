"""SHA-256 digests of files and directory trees."""

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, AnyStr, BinaryIO

from msgspec import Meta

from gemma3build.util.serialize import Record, matching
from gemma3build.util.text import MEBIBYTE

Sha256 = Annotated[str, matching("[0-9a-f]{64}")]


class FileDigest(Record, order=True):
    """One file of a tree: its POSIX path below the root, size in bytes, and SHA-256 in hex."""

    path: str
    size: Annotated[int, Meta(ge=0)]
    sha256: Sha256


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of the file at ``path`` in hex, reading it in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """Yield (POSIX name, path) of every regular file below ``root``; links are refused."""
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                yield path.relative_to(root).as_posix(), path
            elif not stat.S_ISDIR(mode):
                message = f"{path.relative_to(root).as_posix()} is neither a file nor a directory"
                raise ValueError(message)


LARGEST = 16 * MEBIBYTE  # Gemma's tokenizer has 5, PIQA's questions 4, records less than 1


class TooLargeError(ValueError):
    """A file that is larger than any of its kind."""


def read_bounded(path: Path) -> bytes:
    """Return the content of a file; no more than ``LARGEST`` bytes are read, whatever it has.

    Raises:
        TooLargeError: it has more.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _bounded(path, file.read(LARGEST + 1))


def read_bounded_text(path: Path) -> str:
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


PARTIAL = ".partial"


@contextmanager
def atomic_file(path: Path, *, outside: bool = False) -> Iterator[Path]:
    """Give the place where a file is written that then appears whole.

    Each file has one such place, and a lock on it: a second writer waits. The lock ends with its process,
    so that the next writer takes over what a kill leaves.

    Args:
        path: where the file appears.
        outside: whether the place is beside the directory of the file, which never holds anything else.

    Raises:
        OSError: nothing can be written there.
    """
    folder, name = path.parent, path.name
    if outside:
        folder, name = folder.parent, f"{folder.name}.{name}"
    staged = folder / f".{name}{PARTIAL}"
    with _hold(staged):
        try:
            yield staged
            staged.replace(path)
        except BaseException:  # Ctrl-C, too
            staged.unlink(missing_ok=True)
            raise


def atomic_write(path: Path, content: bytes, *, outside: bool = False) -> None:
    """Write a file as ``atomic_file`` does; raises OSError."""
    with atomic_file(path, outside=outside) as staged:
        staged.write_bytes(content)


def remove_partial(folder: Path) -> None:
    """Remove what killed writers left below a directory; what is being written stays."""
    for staged in folder.rglob(f".*{PARTIAL}"):
        with suppress(OSError), staged.open("rb") as file:  # it is gone, or held
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            staged.unlink()


def _hold(staged: Path) -> BinaryIO:
    """Return a file, made where it is not there, that is locked until it is closed."""
    while True:
        file = staged.open("ab")
        with suppress(OSError):  # a file system may have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), staged.stat()):
                return file
        file.close()  # while we waited, its writer gave it its own name


def same_disk(folder: Path, other: Path) -> bool:
    """Return whether a file of one can be a link to a file of the other, which need not be there yet."""
    return existing(folder).stat().st_dev == existing(other).stat().st_dev


def existing(path: Path) -> Path:
    """Return a path, or what is nearest above it and there."""
    return next(place for place in (path, *path.parents) if place.exists())
