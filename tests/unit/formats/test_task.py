import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gemma3build.formats.task import LARGEST, TaskFileError, read_members
from tests.support.release import members, task

CONTENTS = members("fp16")
GOOD = task(CONTENTS)
# pytest's folder is one for all examples; each writes the file again.
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(folder: Path, data: bytes) -> dict[str, bytes]:
    path = folder / "file.task"
    path.write_bytes(data)
    return {name: data[at : at + size] for name, (at, size) in read_members(path).items()}


def zipped(*names: str, force_zip64: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=force_zip64) as member:
                member.write(b"content")
    return file.getvalue()


def test_members_are_found_where_they_are(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD) == CONTENTS


def test_a_member_whose_sizes_have_64_bits_is_found(tmp_path: Path) -> None:
    assert read(tmp_path, zipped("A", "B", force_zip64=True)) == {"A": b"content", "B": b"content"}


def directory(data: bytes) -> int:
    (at,) = struct.unpack_from("<I", data, len(data) - 6)
    return int(at)


def patched(at: int, value: bytes, data: bytes = GOOD) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def padded(filler: bytes) -> bytes:
    """A file whose directory stands further back than it should."""
    at = directory(GOOD)
    moved = GOOD[:at] + filler + GOOD[at:]
    return patched(len(moved) - 6, struct.pack("<I", at + len(filler)), moved)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match="has the member A twice"):
        read(tmp_path, zipped("A", "A"))


CENTRAL = directory(GOOD)
SECOND = GOOD.index(b"PK\x01\x02", CENTRAL + 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its directory cannot be read"),
        (b"PK", "its directory cannot be read"),
        (GOOD[:-1], "its directory cannot be read"),
        (GOOD[10:], "out of place"),
        (b"#!/bin/sh\n" + GOOD, "out of place"),
        (GOOD + b"more", "something follows its directory"),
        (task(CONTENTS, zipfile.ZIP_DEFLATED), "is compressed"),
        (task({"A": bytes(1 << 20)}, zipfile.ZIP_DEFLATED), "is compressed"),
        (zipped("../A"), "a member has the name '../A'"),
        (zipped("A/"), "a member has the name 'A/'"),
        (zipped("\x1b[2J"), r"a member has the name '\\x1b\[2J'"),
        (zipped(*(f"{n:064}" for n in range(1000))), "its directory is too large"),
        (patched(CENTRAL + 8, b"\x01"), "is encrypted"),
        (patched(CENTRAL + 8, b"\x08"), "is not simply stored"),
        (patched(CENTRAL + 24, struct.pack("<I", 0xFFFFFFF0)), "is not simply stored"),
        (
            patched(CENTRAL + 20, struct.pack("<2I", 1 << 31, 1 << 31)),
            "has two headers that differ",
        ),
        (patched(SECOND + 42, struct.pack("<I", 4)), "overlaps another or is out of place"),
        (patched(CENTRAL + 42, struct.pack("<I", 1 << 30)), "overlaps another or is out of place"),
        (patched(4 + 30, b"X"), "has two headers that differ"),
        (patched(4 + 14, b"\xff\xff\xff\xff"), "has two headers that differ"),
        (patched(0, b"evil"), "belong to none"),
        (patched(len(GOOD) - 12, struct.pack("<H", 2)), "lists 3 members and counts 2"),
        (padded(b"hidden"), "6 bytes belong to no member"),
    ],
)
def test_what_a_bundler_does_not_write_is_rejected(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(TaskFileError, match=message):
        read(tmp_path, data)


def test_two_headers_that_agree_on_too_much_lead_out_of_the_file(tmp_path: Path) -> None:
    sizes = struct.pack("<2I", 1 << 31, 1 << 31)
    with pytest.raises(TaskFileError, match="leads out of it"):
        read(tmp_path, patched(4 + 18, sizes, patched(CENTRAL + 20, sizes)))


def test_a_directory_that_claims_much_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file.task"
    size = 1 << 40
    with path.open("wb") as file:  # a sparse file of a terabyte
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 0xFFFFFFFE, 0, 0))
    with pytest.raises(TaskFileError, match="its directory is too large"):
        read_members(path)
    assert LARGEST < 1 << 20


@FUZZ
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(TaskFileError):
        read(tmp_path, data)


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)), min_size=1, max_size=4)
)
@example([(CENTRAL, 1)])
def test_a_changed_file_is_rejected_or_has_its_members_where_they_were(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(GOOD)
    for place, change in changes:
        data[place] ^= change
    try:
        found = read(tmp_path, bytes(data))
    except TaskFileError:
        return
    assert {name: len(content) for name, content in found.items()} == {
        name: len(content) for name, content in CONTENTS.items()
    }


@FUZZ
@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.binary(max_size=80))
@example(0, 0, b"")
def test_a_spliced_file_raises_nothing_else(
    tmp_path: Path, start: int, end: int, filler: bytes
) -> None:
    try:
        found = read(tmp_path, GOOD[:start] + filler + GOOD[end:])
    except TaskFileError:
        return
    assert list(found) == list(CONTENTS)
