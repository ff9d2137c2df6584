"""Files that appear whole or not at all: each is written under another name, and takes its own at the end."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"


@contextmanager
def whole(path: Path, *, outside: bool = False) -> Iterator[Path]:
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


def write_whole(path: Path, content: bytes, *, outside: bool = False) -> None:
    """Write a file as ``whole`` does; raises OSError."""
    with whole(path, outside=outside) as staged:
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
