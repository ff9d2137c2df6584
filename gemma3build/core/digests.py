"""SHA-256 digests of files and directory trees."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class FileDigest:
    """One file of a tree: its POSIX path below the root, size in bytes, and SHA-256 in hex."""

    path: str
    size: int
    sha256: str


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
