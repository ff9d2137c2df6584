"""Files that appear whole, among writers that race, fail or are killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemma3build.util.files import (
    ABANDONED,
    atomic_file,
    atomic_write,
    find_partial,
    remove_abandoned,
)

# Writes half of a file, says so, and does not end.
HALF = """
import sys, time
from pathlib import Path
from gemma3build.util.files import atomic_file
with atomic_file(Path(sys.argv[1])) as staged:
    staged.write_bytes(b"half")
    print(flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_all_of_the_new_one_is_written(tmp_path: Path) -> None:
    path = tmp_path / "name"
    atomic_write(path, b"old")
    with atomic_file(path) as staged:
        staged.write_bytes(b"n")
        assert (find_partial(path), path.read_bytes()) == ([staged], b"old")
        staged.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["name"]


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    path = tmp_path / "name"
    atomic_write(path, b"old")

    def fail() -> None:
        with atomic_file(path) as staged:
            staged.write_bytes(b"half")
            raise kind

    with pytest.raises(kind):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["name"]


def test_a_directory_that_must_hold_nothing_else_never_does(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    with atomic_file(folder / "name", outside=True) as staged:
        staged.write_bytes(b"new")
        assert names(folder) == []
        assert (staged.parent, staged.name.startswith(".release.name.")) == (tmp_path, True)
    assert (names(folder), names(tmp_path)) == (["name"], ["release"])


def test_the_last_of_two_writers_wins_and_neither_sees_the_other(tmp_path: Path) -> None:
    path = tmp_path / "name"
    with atomic_file(path) as first:
        first.write_bytes(b"first")
        with atomic_file(path) as second:
            second.write_bytes(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["name"]


def test_what_a_kill_leaves_is_removed_once_it_is_old_and_never_while_it_is_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "name"
    command = [sys.executable, "-c", HALF, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        (place,) = find_partial(path)
        remove_abandoned(find_partial(path))
        atomic_write(path, b"new")
        assert find_partial(path) == [place]
        writer.kill()
    old = time.time() - ABANDONED - 1
    os.utime(place, (old, old))
    other = tmp_path / ".name.more.0123abcd.partial"  # of another file
    other.touch()
    os.utime(other, (old, old))
    atomic_write(path, b"newer")
    assert names(tmp_path) == [other.name, "name"]
    assert path.read_bytes() == b"newer"
