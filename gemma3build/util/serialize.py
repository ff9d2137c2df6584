"""Records to JSON values and back, strictly.

Decoding rejects unknown keys, missing keys and wrong types, so that a typing error in a user's file gives
an error message and not a default. It runs on the host and in every container.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

import msgspec
from msgspec import inspect, structs

T = TypeVar("T")

DEEPEST = 32  # lists and tables in each other; an evaluation has 7
INTEGERS = range(-(2**63), 2**63)  # what other readers of JSON and TOML hold too
# How msgspec ends a message with its place: " - at `$.files[0].size`", or " - at `key` in `$.files`".
PLACE = re.compile(r" - at (?:`key` in )?`\$((?:\.\w+|\[[\d.]+\])*)`$")
UNKNOWN, MISSING, EXPECTED = (
    "Object contains unknown field ",
    "Object missing required field ",
    "Expected",
)
WORDS = {  # of messages that start with EXPECTED
    EXPECTED: "expected",
    ", got ": ", found ",
    " | null": "",
    "`array`": "a list",
    "`object`": "a table",
    "`": "",
    "str matching regex '^(?:": "text of the form ",
    ")$(?!\\\\n)'": "",
}


class _RecordMeta(msgspec.StructMeta):
    """Makes every record strict; msgspec needs that for each class."""

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any
    ) -> Any:
        config |= {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}
        return super().__new__(mcs, name, bases, namespace, **config)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, metaclass=_RecordMeta, frozen=True):
    """A record that is written as JSON: frozen, its fields by keyword; a subclass adds the fields."""


def matching(pattern: str) -> msgspec.Meta:
    """Return the constraint that a pattern matches all of a text, in Python and in JSON Schema."""
    return msgspec.Meta(pattern=rf"^(?:{pattern})$(?!\n)")  # Python's $ stops before a last newline


class DecodeError(ValueError):
    """A value does not have the form of the record that it was decoded into."""


def encode(value: object) -> Any:
    """Return a record (or a container of them) as JSON values; fields that are None stay out.

    Raises:
        TypeError: a key is not a string; ``json.dumps`` would write 1 and "1" as one.
    """
    if isinstance(value, msgspec.Struct):
        fields = structs.asdict(value)
        return {name: encode(item) for name, item in fields.items() if item is not None}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a key of a JSON object must be a string, not {key!r}")
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], value: object, where: str = "") -> T:
    """Return ``value``, made of JSON values, as an instance of ``kind``, such as a record.

    Args:
        kind: a type, such as a record.
        value: from ``load_json`` or ``tomllib.loads``.
        where: names the value in messages, such as ``models.toml: gemma3-270m``.

    Raises:
        DecodeError: naming the place and the expected type.
    """
    try:
        _require_bounded(value, DEEPEST)
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DecodeError(_explain(kind, str(error), where)) from error
    except ValueError as error:
        raise DecodeError(f"{where or 'value'}: {error}") from error


def decode_json(kind: type[T], text: str | bytes, where: str) -> T:
    """Parse ``text`` as JSON and decode it into ``kind``; ``where`` names the text in messages.

    Raises:
        DecodeError: it is not JSON, or has another form.
    """
    try:
        value = load_json(text)
    except ValueError as error:
        raise DecodeError(f"{where}: {error}") from error
    return decode(kind, value, where)


def load_json(text: str | bytes) -> Any:
    """Return the value of untrusted JSON.

    The value can be written as JSON again, in UTF-8, and ``float`` holds every number in it.

    Raises:
        ValueError: it is not JSON, or has NaN, infinity, an integer of more than 64 bits, half a
            character, or lists and tables too deep in each other.
    """
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        what = str(error).removeprefix("JSON is malformed: ")
        raise ValueError(f"not JSON: {what}") from error
    _require_bounded(value, DEEPEST)
    return value


def canonical_json(value: object) -> bytes:
    """Return ``value``, encoded, as canonical JSON.

    Raises:
        ValueError: a float is NaN or infinite.
        TypeError: something in ``value`` has no JSON form, or a key is not a string.
    """
    return _json(value, separators=(",", ":")).encode()


def pretty_json(value: object) -> bytes:
    """Return ``value``, encoded, as JSON for people: canonical order, indented, final newline."""
    return f"{_json(value, indent=2)}\n".encode()


def _json(value: object, **layout: Any) -> str:
    # By the standard library: msgspec writes NaN as null, and floats in another form.
    plain = encode(value)
    return json.dumps(plain, allow_nan=False, ensure_ascii=False, sort_keys=True, **layout)


def _require_bounded(value: object, levels: int) -> None:
    """Reject numbers and depths that other readers of JSON and TOML cannot hold."""
    if isinstance(value, int) and value not in INTEGERS:
        raise ValueError("an integer has more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if isinstance(value, Mapping | list | tuple):
        if not levels:
            raise ValueError(f"more than {DEEPEST} lists and tables are in each other")
        for item in value.values() if isinstance(value, Mapping) else value:
            _require_bounded(item, levels - 1)


def _explain(kind: Any, message: str, where: str) -> str:
    """Return a message of msgspec in plain words, its place first."""
    text, path, _ = (*PLACE.split(message), "", "")[:3]
    node = _type_at(kind, path)
    if text.startswith(UNKNOWN):
        path += "." + text.removeprefix(UNKNOWN).strip("`")
        known = ", ".join(sorted(field.name for field in getattr(node, "fields", ())))
        text = f"unknown key; known here: {known}"
    elif text.startswith(MISSING):
        text = f"missing key {text.removeprefix(MISSING).strip('`')!r}"
    elif isinstance(node, inspect.LiteralType):
        found = re.split("Invalid enum value |, got ", text)[-1].strip("`")
        text = f"expected one of {', '.join(map(str, node.values))}, found {found}"
    elif text.startswith(EXPECTED):
        for theirs, ours in WORDS.items():
            text = text.replace(theirs, ours)
    place = f"{where}{path}" if where else path.removeprefix(".")
    return f"{place or 'value'}: {text}"


def _type_at(kind: Any, path: str) -> Any:
    """Return the type at a place; None if there is none: a key can look like the end of a message."""
    node: Any = inspect.type_info(kind)
    for name in re.findall(r"\.(\w+)|\[", path):
        fields = {field.name: field.type for field in getattr(node, "fields", ())}
        items = getattr(node, "item_type", None) or getattr(node, "value_type", None)
        node = fields.get(name) if name else items
        if isinstance(node, inspect.UnionType):
            node = node.types[0]  # the other one is None
    return node
