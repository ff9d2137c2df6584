"""Dataclasses to JSON values and back, strictly.

Decoding refuses unknown keys, missing keys and wrong types, so that a typing error in a file that a
person wrote is an error message and not a default. It runs on the host and in every container, and
so uses the standard library alone.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

DEEPEST = 32  # lists and tables in each other; an evaluation has 7
INTEGERS = range(-(2**63), 2**63)  # what other readers of JSON and TOML hold too


class DecodeError(ValueError):
    """A value does not have the form of the dataclass that it was decoded into."""


def encode(value: object) -> Any:
    """Return a dataclass (or a container of them) as JSON values; fields that are None stay out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: encode(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], value: object, where: str = "") -> T:
    """Return ``value``, made of JSON values, as an instance of the dataclass ``kind``.

    Args:
        kind: a dataclass whose fields are scalars, dataclasses, tuples, mappings or optional.
        value: what ``json.loads`` or ``tomllib.loads`` gave.
        where: names the value in messages, such as ``models.toml: gemma3-270m``.

    Raises:
        DecodeError: naming the place and what was expected there.
    """
    try:
        _require_plain(value, DEEPEST)
    except ValueError as error:
        message = f"{where or 'value'}: {error}"
        raise DecodeError(message) from error
    return typing.cast("T", _decode(kind, value, where))


def decode_json(kind: type[T], text: str | bytes, where: str) -> T:
    """Parse ``text`` as JSON and decode it into ``kind``; ``where`` names the text in messages.

    Raises:
        DecodeError: it is no JSON, which has neither NaN nor infinity, or has another form.
    """
    try:
        value = load_json(text)
    except ValueError as error:
        message = f"{where}: {error}"
        raise DecodeError(message) from error
    return typing.cast("T", _decode(kind, value, where))


def load_json(text: str | bytes) -> Any:
    """Return the value of a JSON text that nobody vouches for.

    What comes back can be written as JSON again, in UTF-8, and every number in it is one for ``float``.

    Raises:
        ValueError: it is no JSON, or has NaN, infinity, an integer of more than 64 bits, half a
            character, or lists and tables too deep in each other.
    """
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        message = f"not JSON: {error}"
        raise ValueError(message) from error
    _require_plain(value, DEEPEST)
    return value


def _require_plain(value: object, levels: int) -> None:
    """Refuse what JSON and TOML can name in Python and no record can hold."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            message = f"{value[:20]!a} has half a character"
            raise ValueError(message) from error
    elif isinstance(value, int) and value not in INTEGERS:
        message = "an integer has more than 64 bits"
        raise ValueError(message)
    elif isinstance(value, Mapping | list | tuple):
        if not levels:
            message = f"more than {DEEPEST} lists and tables are in each other"
            raise ValueError(message)
        if isinstance(value, Mapping):
            for key in value:
                _require_plain(key, levels)
        for item in value.values() if isinstance(value, Mapping) else value:
            _require_plain(item, levels - 1)


def _finite(text: str) -> float:
    """Return a number of a JSON text; Python's parser would take ``NaN``, and ``1e999`` as infinity."""
    value = float(text)
    if not math.isfinite(value):
        message = f"{text} is no finite number"
        raise ValueError(message)
    return value


def _decode(kind: Any, value: object, where: str) -> object:  # noqa: C901, PLR0911 - one case a type
    if kind is Any or kind is object:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        # Not ``in``, for which 4.0 is 4.
        if not any(value == argument and type(value) is type(argument) for argument in arguments):
            _refuse(where, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _decode(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            _refuse(where, "a list", value)
        items = typing.cast("list[object]", value)
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            _refuse(where, "a table", value)
        table = typing.cast("Mapping[str, object]", value)
        return {key: _decode(arguments[1], item, _join(where, key)) for key, item in table.items()}
    # bool is an int to Python but not to JSON; an int is a fine float.
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        _refuse(where, kind.__name__, value)
    # 1 and 1.0 are one number: what is encoded again must be one text.
    return float(typing.cast("float", value)) if kind is float else value


def _decode_dataclass(kind: Any, value: object, where: str) -> object:
    if not isinstance(value, Mapping):
        _refuse(where, "a table", value)
    table = typing.cast("Mapping[str, object]", value)
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(table) - set(fields)):
        known = ", ".join(sorted(fields))
        message = f"{_join(where, unknown[0])}: unknown key; known here: {known}"
        raise DecodeError(message)
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in table:
            message = f"{where or 'value'}: missing key {name!r}"
            raise DecodeError(message)
    found = {name: _decode(hints[name], item, _join(where, name)) for name, item in table.items()}
    try:
        return kind(**found)
    except ValueError as error:  # a __post_init__ that refuses a combination
        message = f"{where or 'value'}: {error}"
        raise DecodeError(message) from error


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _refuse(where: str, expected: str, value: object) -> typing.NoReturn:
    message = f"{where or 'value'}: expected {expected}, found {value!r}"
    raise DecodeError(message)


def canonical_json(value: object) -> bytes:
    """Return ``value`` as canonical JSON.

    Raises:
        ValueError: a float is NaN or infinite.
        TypeError: something in ``value`` has no JSON form, or a key is not a string.
    """
    _require_string_keys(value)
    return json.dumps(
        value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    ).encode()


def pretty_json(value: object) -> bytes:
    """Return ``value`` as the JSON that people read: canonical order, indented, final newline."""
    _require_string_keys(value)
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True)
    return f"{text}\n".encode()


def _require_string_keys(value: object) -> None:
    # json.dumps would turn 1 and True into "1" and "true": two values, one sequence of bytes.
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                message = f"a key of a JSON object must be a string, not {key!r}"
                raise TypeError(message)
            _require_string_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_string_keys(item)
