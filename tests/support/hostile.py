"""What somebody who means harm, or a bad disk, makes of a good file."""

import copy
import json
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

# Lengths, counts and offsets that no file has.
CLAIMS = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, 1 << 60, (1 << 63) - 1, (1 << 64) - 1)
# JSON texts in the place of a value. Those that begin with a digit are too much for a float.
ODD = (
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "NaN",
    "-Infinity",
    "1e999",
    "9223372036854775808",
    "1" + "0" * 400,
    "1" + "0" * 5000,
    '""',
    '"x"',
    '"NaN"',
    '"../x"',
    r'"\ud800"',
    r'"\u001b[2J"',
    "[]",
    "[[]]",
    "{}",
    '{"x": 1}',
    "[" * 500 + "]" * 500,
    "[" * 100_000,
)
MARK = "the place of an odd value"


def damaged(good: bytes, header: int | None = None) -> SearchStrategy[bytes]:
    """Return bytes like ``good``: bits flipped, lengths replaced, spliced or cut off; or any bytes.

    Args:
        good: a valid file.
        header: changes are in as many bytes from its start; None for all of it.
    """
    size = len(good) if header is None else header
    place = st.integers(0, size - 1)
    bits = st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=4)
    numbers = st.tuples(place, st.sampled_from(CLAIMS), st.sampled_from((4, 8)))
    splices = st.tuples(place, place, st.binary(max_size=40))
    return st.one_of(
        bits.map(lambda changes: _flipped(good, changes)),
        numbers.map(lambda change: _claiming(good, *change)),
        splices.map(lambda change: good[: change[0]] + change[2] + good[change[1] :]),
        place.map(lambda end: good[:end]),
        st.binary(max_size=200),
    )


def odd_json(good: bytes) -> SearchStrategy[bytes]:
    """Return a JSON text like ``good`` with something odd in the place of one value."""
    value = json.loads(good)
    paths = st.sampled_from(list(_paths(value)))
    return st.tuples(paths, st.sampled_from(ODD)).map(lambda change: _odd(value, *change))


def _flipped(good: bytes, changes: list[tuple[int, int]]) -> bytes:
    data = bytearray(good)
    for place, change in changes:
        data[place] ^= change
    return bytes(data)


def _claiming(good: bytes, place: int, number: int, size: int) -> bytes:
    return good[:place] + struct.pack("<Q", number)[:size] + good[place + size :]


def _paths(value: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    yield above
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(item, *above, key)


def _odd(value: Any, path: tuple[Any, ...], text: str) -> bytes:
    holder = [copy.deepcopy(value)]
    place: Any = holder
    *above, last = (0, *path)
    for key in above:
        place = place[key]
    place[last] = MARK
    return json.dumps(holder[0]).replace(f'"{MARK}"', text).encode()
