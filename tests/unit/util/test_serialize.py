import contextlib
import json
import math
import os
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma3build.schema.scheme import Group
from gemma3build.util.files import FileDigest, digest_tree, sha256_bytes
from gemma3build.util.serialize import (
    DEEPEST,
    DecodeError,
    Record,
    canonical_json,
    decode,
    decode_json,
    encode,
    load_json,
    pretty_json,
)

integers = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Leaf(Record):
    size: int
    kind: Literal["a", "b"] = "a"


class Tree(Record):
    name: str
    leaves: tuple[Leaf, ...] = ()
    ratio: float = 1.0
    note: str | None = None
    extra: dict[str, int] = msgspec.field(default_factory=dict)


@given(json_values)
def test_canonical_json_is_json_and_a_fixed_point(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert json.loads(pretty_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_canonical_json_ignores_the_order_of_keys(value: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": [float("-inf")]}])
def test_canonical_json_rejects_what_is_no_number(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1: 2}, [{"a": {True: 1}}], ({None: 1},)])
def test_canonical_json_rejects_keys_that_are_no_strings(value: object) -> None:
    with pytest.raises(TypeError, match="must be a string"):
        canonical_json(value)


@given(
    st.builds(
        Tree,
        name=st.text(),
        leaves=st.lists(st.builds(Leaf, size=integers, kind=st.sampled_from("ab"))).map(tuple),
        ratio=st.floats(allow_nan=False, allow_infinity=False),
        note=st.none() | st.text(),
        extra=st.dictionaries(st.text(), integers),
    )
)
def test_what_is_encoded_is_decoded(tree: Tree) -> None:
    assert decode(Tree, encode(tree)) == tree


@given(json_values)
def test_decoding_anything_gives_a_tree_or_a_decode_error(value: object) -> None:
    with contextlib.suppress(DecodeError):
        assert isinstance(decode(Tree, value), Tree)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "x", "colour": 1}, "file.colour: unknown key; known here: extra, leaves"),
        ({}, "file: missing key 'name'"),
        ({"name": 1}, "file.name: expected str, found int"),
        (
            {"name": "x", "leaves": [{"size": True}]},
            r"file.leaves\[0\].size: expected int, found bool",
        ),
        ({"name": "x", "leaves": [{"size": 1, "kind": "c"}]}, "kind: expected one of a, b"),
        ({"name": "x", "leaves": [{"size": 1, "kind": ["a"]}]}, "kind: expected one of a, b"),
        ({"name": "x", "leaves": "abc"}, "file.leaves: expected a list"),
        ({"name": "x", "extra": {"a": 2**63}}, "file: an integer has more than 64 bits"),
        ({"name": "x", "ratio": math.nan}, "file: nan is not a finite number"),
        ({"name": "x", "extra": {"a": "b"}}, r"file.extra\[...\]: expected int, found str"),
        ({"name": "x", "a` - at `$.b[0].c": 1}, "unknown key"),
        ({"name": "x", "leaves": [{"size": 1, "a` - at `$[...]": 1}]}, "unknown key"),
        ([], "file: expected a table, found a list"),
    ],
)
def test_decoding_names_the_place(value: object, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(Tree, value, "file")


def test_decoding_text_that_is_no_json_names_the_file() -> None:
    with pytest.raises(DecodeError, match="lock.json: not JSON"):
        decode_json(Tree, b"{", "lock.json")
    with pytest.raises(DecodeError, match="lock.json: not JSON"):
        decode_json(Tree, b"[" * 100_000, "lock.json")


def test_a_literal_is_of_its_own_type() -> None:
    with pytest.raises(DecodeError, match="file.bits: expected one of 4, 8, 16, found float"):
        decode(Group, {"bits": 4.0}, "file")


def test_a_number_has_one_form_however_it_was_written() -> None:
    texts = [canonical_json(decode(Tree, {"name": "x", "ratio": n})) for n in (1, 1.0)]
    assert texts[0] == texts[1]


def test_what_is_too_deep_is_rejected() -> None:
    def nested(levels: int) -> bytes:
        return b"[" * levels + b"]" * levels

    assert load_json(nested(DEEPEST))
    with pytest.raises(ValueError, match="more than 32 lists and tables are in each other"):
        load_json(nested(DEEPEST + 1))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_decoding_rejects_what_is_no_finite_number(number: str) -> None:
    for text in (
        f'{{"name": "x", "ratio": {number}}}',
        f'{{"name": "x", "extra": {{"a": {number}}}}}',
    ):
        with pytest.raises(DecodeError, match="file: not JSON: "):
            decode_json(Tree, text, "file")


@pytest.mark.parametrize("half", [r"\ud800", r"\udfff", r"\ud83d\ud83d"])
def test_decoding_rejects_half_a_character(half: str) -> None:
    for text in (f'{{"name": "{half} and more"}}', f'{{"{half} and more": "x"}}'):
        with pytest.raises(DecodeError, match="file: not JSON: .* surrogate pair"):
            decode_json(Tree, text, "file")


def test_a_tree_is_digested_by_posix_path_and_content(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"1")
    (tmp_path / "a").write_bytes(b"")
    found = digest_tree(tmp_path)
    assert found == (
        FileDigest(path="a", size=0, sha256=sha256_bytes(b"")),
        FileDigest(path="b/x", size=1, sha256=sha256_bytes(b"1")),
    )


@pytest.mark.parametrize("kind", ["symlink", "dangling", "directory", "fifo"])
def test_a_tree_with_a_link_or_a_device_is_rejected(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tree" / "odd"
    path.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(
            "nowhere" if kind == "dangling" else "/etc" if kind == "directory" else "/etc/passwd"
        )
    with pytest.raises(ValueError, match="odd is neither a file nor a directory"):
        digest_tree(path.parent)
