"""Files that appear whole, among writers that wait, fail or are killed."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gemma3build.util.files import atomic_file, atomic_write, remove_partial

PLACE = ".name.partial"
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
        assert (staged.name, path.read_bytes()) == (PLACE, b"old")
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
        assert (names(folder), names(tmp_path)) == ([], [".release.name.partial", "release"])
    assert (names(folder), names(tmp_path)) == (["name"], ["release"])


def test_two_writers_write_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "name"
    seen: list[str] = []

    def second() -> None:
        with atomic_file(path) as staged:
            seen.append("second starts")
            staged.write_bytes(b"second")

    other = threading.Thread(target=second)
    with atomic_file(path) as staged:
        other.start()
        other.join(0.1)
        staged.write_bytes(b"first")
        seen.append("first ends")
    other.join(10)
    assert seen == ["first ends", "second starts"]
    assert path.read_bytes() == b"second"
    assert names(tmp_path) == ["name"]


def test_what_a_kill_leaves_is_taken_over_or_removed_and_never_while_it_is_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "name"
    command = [sys.executable, "-c", HALF, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        remove_partial(tmp_path)
        assert names(tmp_path) == [PLACE]
        writer.kill()
    assert names(tmp_path) == [PLACE]
    atomic_write(path, b"new")
    assert names(tmp_path) == ["name"]
    (tmp_path / PLACE).write_bytes(b"half")
    remove_partial(tmp_path)
    assert names(tmp_path) == ["name"]
    assert path.read_bytes() == b"new"
