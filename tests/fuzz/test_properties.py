"""What holds for every value, and not for the examples alone."""

import io
import typing
import zipfile
from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Meta
from msgspec.structs import fields

from gemma3build.formats.task import read_members, stabilize
from gemma3build.pins.lockfile import ImagesLock, ModelsLock, read_models_lock, write_lock
from gemma3build.release.checksums import UNLISTED, checksums, parse_checksums
from gemma3build.schema.evaluation import Evaluation
from gemma3build.schema.manifest import Manifest
from gemma3build.schema.scheme import NAME, Group, Limits, Scheme
from gemma3build.schema.step import StepRequest, StepResult
from gemma3build.util.files import FileDigest, digest_file, digest_tree, sha256_bytes
from gemma3build.util.serialize import (
    DecodeError,
    Record,
    canonical_json,
    decode,
    decode_json,
    encode,
    pretty_json,
)
from tests.support.release import AlignedZipFile

names = st.from_regex(NAME, fullmatch=True).filter(lambda name: len(name) < 60)
digests = st.binary(max_size=4).map(sha256_bytes)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
GROUPS = st.sampled_from(
    (
        Group(bits=8),
        Group(bits=4, granularity="blockwise_32", algorithm="importance"),
        Group(bits=16, algorithm="float_casting", compute="float"),
    )
)
SCHEMES = st.builds(
    Scheme,
    name=names,
    suffix=names,
    summary=st.text(),
    embedding=st.none() | st.just(Group(bits=8)),
    attention=st.none() | GROUPS,
    feed_forward=st.none() | GROUPS,
    qkv=st.none() | GROUPS | st.just(Group(bits=8, layers=3)),
    limits=st.builds(
        Limits,
        top1=st.floats(0, 1),
        kl=st.floats(0, allow_infinity=False),
        deviation=st.none() | st.floats(0, allow_infinity=False),
    ),
)
KINDS: Mapping[Any, SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    Any: json_values,
    Scheme: SCHEMES,
    FileDigest: st.builds(FileDigest, path=names, size=st.integers(0, 2**63 - 1), sha256=digests),
}


def of(kind: Any, meta: Meta = Meta()) -> SearchStrategy[Any]:  # noqa: B008, PLR0911 - frozen; one case a type
    """Return values of the type of a field."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return of(*arguments)
    if meta.pattern is not None:
        return st.from_regex(meta.pattern)
    if meta.ge is not None and kind is int:
        return st.integers(int(meta.ge), 2**63 - 1)
    if kind in KINDS:
        return KINDS[kind]
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    least = meta.min_length or 0
    if kind is str:
        return st.text(min_size=least, max_size=5)
    if isinstance(kind, type) and issubclass(kind, Record):
        hints = typing.get_type_hints(kind, include_extras=True)
        return st.builds(kind, **{field.name: of(hints[field.name]) for field in fields(kind)})
    if origin is tuple:
        return st.lists(of(arguments[0]), min_size=least, max_size=2).map(tuple)
    if origin is Mapping:
        keys = st.text(max_size=3)
        return st.dictionaries(keys, of(arguments[1]), min_size=least, max_size=2)
    (inner,) = (argument for argument in arguments if argument is not type(None))
    return st.none() | of(inner)


RECORDS = st.one_of(
    SCHEMES, *map(of, (Manifest, Evaluation, StepRequest, StepResult, ModelsLock, ImagesLock))
)


@given(RECORDS)
def test_a_record_survives_its_text(record: Any) -> None:
    text = pretty_json(record)
    found = decode_json(type(record), text, "file")
    assert found == record
    assert canonical_json(found) == canonical_json(record)
    assert pretty_json(found) == text


@given(RECORDS, st.data())
def test_a_record_with_one_key_more_is_refused_wherever_it_stands(
    record: Any, data: st.DataObject
) -> None:
    value = encode(record)
    places = [(record, value)]
    for part, table in places:
        for field in fields(part):
            inner, there = getattr(part, field.name), table.get(field.name)
            match inner:
                case tuple():
                    pairs = [*zip(inner, there, strict=True)]
                case Mapping():
                    pairs = [(item, there[key]) for key, item in inner.items()]
                case _:
                    pairs = [(inner, there)]
            places += [pair for pair in pairs if isinstance(pair[0], Record)]
    _, table = data.draw(st.sampled_from(places))
    table["colour"] = 1
    with pytest.raises(DecodeError, match="colour: unknown key"):
        decode(type(record), value)


@given(of(ModelsLock))
def test_a_lock_that_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, lock: ModelsLock
) -> None:
    path = tmp_path_factory.getbasetemp() / "models.lock.json"
    write_lock(lock, path)
    assert read_models_lock(path) == lock


@given(st.dictionaries(names, st.binary(max_size=300), max_size=4))
def test_a_digest_is_of_name_and_content_and_of_no_order(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    one, other = (tmp_path_factory.mktemp("tree") for _ in range(2))
    for folder, order in ((one, list(files)), (other, list(reversed(files)))):
        for name in order:
            (folder / name).write_bytes(files[name])
    expected = sorted(
        FileDigest(path=name, size=len(content), sha256=sha256_bytes(content))
        for name, content in files.items()
    )
    assert list(digest_tree(one)) == list(digest_tree(other)) == expected
    assert sorted(digest_file(one / name, name) for name in files) == expected


@given(st.dictionaries(names.filter(lambda name: name not in UNLISTED), digests, min_size=1))
def test_checksums_that_are_written_are_read(files: dict[str, str]) -> None:
    text = checksums(FileDigest(path=name, size=0, sha256=sha) for name, sha in files.items())
    assert parse_checksums(text) == files


LINES = st.tuples(digests, st.sampled_from(("  ", " *", " ")), names | st.text(max_size=5))


@given(st.text() | st.lists(LINES).map(lambda lines: "\n".join("".join(line) for line in lines)))
def test_checksums_that_are_read_are_as_they_are_written(text: str) -> None:
    try:
        found = parse_checksums(text)
    except ValueError:
        return
    assert text == checksums(
        FileDigest(path=name, size=0, sha256=sha) for name, sha in found.items()
    )


CONTENTS = st.dictionaries(names, st.binary(max_size=300), min_size=1, max_size=4)
Time = tuple[int, int, int, int, int, int]
FIRST: Time = (1980, 1, 1, 0, 0, 0)  # what the headers of a zip archive can say
LAST: Time = (2107, 12, 28, 23, 59, 58)
TIMES = st.tuples(*map(st.integers, FIRST, LAST))


@given(CONTENTS, TIMES, TIMES)
def test_a_bundle_loses_its_clock_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes], one: Time, other: Time
) -> None:
    path = tmp_path_factory.getbasetemp() / "m.task"

    def stabilized(data: bytes) -> bytes:
        path.write_bytes(data)
        stabilize(path)
        return path.read_bytes()

    found = stabilized(bundle(contents, one))
    assert found == stabilized(bundle(contents, other)) == stabilized(found)
    assert found == bundle(contents, FIRST)
    spans = read_members(path)
    assert {name: found[at : at + size] for name, (at, size) in spans.items()} == contents


def bundle(contents: Mapping[str, bytes], time: Time) -> bytes:
    file = io.BytesIO()
    with AlignedZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, time), content)
    return file.getvalue()
