"""Canonical JSON: one value, one sequence of bytes.

Sorted keys, no insignificant white space, UTF-8 without escapes, no NaN or Infinity: the subset of
RFC 8785 that holds for the integers, short decimals and strings of this project's records.
"""

import json


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
