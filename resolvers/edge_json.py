"""Strict JSON of untrusted bodies and frames (security-contract QL-4): one document, one meaning, bounded work.

Python's parser takes duplicate keys, NaN, numbers of any length, UTF-16 and lone surrogates; each of these has been the
start of an attack or of a 500 elsewhere (Postgres refuses NUL, orjson refuses surrogates), so they are refused here.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

NESTING: Final = 32
KEYS: Final = 200
STRING_BYTES: Final = 64 * 1024
VALUES: Final = (
    20_000  # of a whole body: a thousand list items of twenty fields; keeps the walk below a few milliseconds
)
_INT64: Final = 1 << 63
_INT_DIGITS: Final = 20


class BadJsonError(ValueError):
    """The text is not JSON as this service takes it; the message never repeats the text."""


def loads(raw: bytes, *, free_text: str | None = None, string_bytes: int = STRING_BYTES) -> Any:
    """Parse one UTF-8 JSON text. ``free_text`` names a top-level key whose string may be longer (``query``: QL-5 judges it)."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadJsonError("not UTF-8") from error
    try:
        value = _DECODER.decode(text)
    except BadJsonError:
        raise
    except RecursionError as error:  # the C scanner guards its stack; NESTING would have refused it anyway
        raise BadJsonError("nested too deeply") from error
    except ValueError as error:
        raise BadJsonError("not JSON") from error
    _walk(value, free_text, string_bytes)
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > KEYS:
        raise BadJsonError("too many keys in an object")
    result = dict(pairs)
    if len(result) != len(pairs):
        raise BadJsonError("a key occurs twice in an object")
    return result


def _integer(digits: str) -> int:
    if len(digits) > _INT_DIGITS:
        raise BadJsonError("an integer exceeds 64 bits")
    value = int(digits)
    if not -_INT64 <= value < _INT64:
        raise BadJsonError("an integer exceeds 64 bits")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise BadJsonError("a number is out of range")
    return value


def _constant(_: str) -> NoReturn:
    raise BadJsonError("NaN and Infinity are not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant
)


def _walk(root: Any, free_text: str | None, string_bytes: int) -> None:
    """Bound depth, strings and the number of values, level by level (no recursion of our own)."""
    seen = 0
    level: list[Any] = [root]
    depth = 0
    while level:
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _text(value, string_bytes)
            elif isinstance(value, dict):
                for key, item in value.items():
                    _text(key, string_bytes)
                    if depth == 0 and key == free_text and isinstance(item, str):
                        _characters(item)
                    else:
                        below.append(item)
            elif isinstance(value, list):
                below.extend(value)
        seen += len(below)
        if seen > VALUES:
            raise BadJsonError("too many values")
        depth += 1
        if depth > NESTING + 1 and below:
            raise BadJsonError("nested too deeply")
        level = below


def _text(value: str, string_bytes: int) -> None:
    # A character is at least one byte, so the length settles most strings without encoding them.
    if len(value) > string_bytes:
        raise BadJsonError("a string is too long")
    _characters(value)
    if not value.isascii() and len(value.encode()) > string_bytes:
        raise BadJsonError("a string is too long")


def _characters(value: str) -> None:
    if "\x00" in value:
        raise BadJsonError("a string contains NUL")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadJsonError("a string contains a lone surrogate") from error
