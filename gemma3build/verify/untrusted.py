"""Reads an untrusted release from disk without following anything out of its folder."""

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from gemma3build.errors import BuildError, ErrorCode, release_error
from gemma3build.util.files import (
    FileDigest,
    TooLargeError,
    read_at_most,
    read_blocks,
    sha256_blocks,
    sha256_span,
)
from gemma3build.util.text import join_names, truncate

THREADS = 2

Advance = Callable[[int], None]  # called with the number of bytes that were read


def ignore(size: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UntrustedFolder:
    """The contents of a directory.

    Attributes:
        path: the directory.
        sizes: of its plain files, in bytes, by name; also of the files in ``remote_digests``.
        others: names of directories, links and devices.
        remote_digests: digests that the Hub states for files that were not downloaded, by name.
    """

    path: Path
    sizes: Mapping[str, int]
    others: tuple[str, ...]
    remote_digests: Mapping[str, FileDigest] = field(default_factory=dict)

    def open(self, name: str) -> BinaryIO:
        """Open a plain file; raises BuildError if it is missing, OSError if it cannot be opened."""
        if name not in self.sizes:
            raise missing([name])
        # Does not follow a link and does not wait for a pipe that replaced the file in the meantime.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.fdopen(os.open(self.path / name, flags), "rb")

    def read(self, name: str) -> bytes:
        """Return the content of a small file; raises BuildError."""
        try:
            with self.open(name) as file:
                return read_at_most(file, name)
        except TooLargeError as error:
            raise release_error(ErrorCode.CHANGED, "A file is too large", str(error)) from error

    def digest(self, name: str, advance: Advance = ignore) -> str:
        """Return the SHA-256 of a file: the stated one, or that of the bytes."""
        if name in self.remote_digests:
            return self.remote_digests[name].sha256
        with self.open(name) as file:
            return sha256_blocks(read_blocks(file), lambda block: advance(len(block)))

    def digest_span(self, name: str, offset: int, size: int, advance: Advance = ignore) -> str:
        """Return the SHA-256 of a part of a file; offset and size are in bytes."""
        with self.open(name) as file:
            return sha256_span(file, offset, size, lambda block: advance(len(block)))

    def digests(self, advance: Advance = ignore) -> dict[str, str]:
        """Return the SHA-256 of every plain file by name, hashing two at a time."""
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(lambda name: self.digest(name, advance), self.sizes)
            return dict(zip(self.sizes, found, strict=True))


def list_folder(path: Path, remote_digests: Iterable[FileDigest] = ()) -> UntrustedFolder:
    """Return the contents of a directory without opening any file.

    Args:
        path: the directory.
        remote_digests: digests of files that were not downloaded.

    Raises:
        BuildError: it is not a readable directory (REQUEST).
    """
    sizes, others = {}, []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    sizes[entry.name] = found.st_size
                else:
                    others.append(entry.name)
    except OSError as error:
        why = f"{path}: {error.strerror}"
        hint = "Give the directory of a release, or build one: gemma3build build"
        raise BuildError(ErrorCode.REQUEST, "The release cannot be verified", why, hint) from error
    elsewhere = {file.path: file for file in remote_digests}
    sizes |= {name: file.size for name, file in elsewhere.items()}
    return UntrustedFolder(
        path=path, sizes=sizes, others=tuple(sorted(others)), remote_digests=elsewhere
    )


def unreadable(error: OSError) -> BuildError:
    """Return the error for a file that cannot be read."""
    why = ": ".join(filter(None, (error.filename and str(error.filename), error.strerror)))
    return release_error(ErrorCode.MISSING, "A file cannot be read", truncate(why))


def missing(names: Iterable[str]) -> BuildError:
    """Return the error for missing files."""
    why = f"{join_names(names)} not there"
    return release_error(ErrorCode.MISSING, "The release is incomplete", why)
