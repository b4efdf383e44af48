"""Masks of personal data as SQL expressions: the clear value never leaves the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import ColumnElement, Text, case, func, literal_column, null

_EMAIL: Final = r"[[:alnum:]._%+-]+@[[:alnum:].-]+\.[[:alpha:]]{2,}"
# Seven digits or more with the separators of phone, card and account numbers between them.
_NUMBER: Final = r"\+?\d(?:[ ()./-]{0,2}\d){6,}"
HASH_CHARACTERS: Final = 12


def _constant(text: str) -> ColumnElement[str]:
    return literal_column("'" + text.replace("'", "''") + "'", Text)


def _replaced(value: ColumnElement[Any], pattern: str, by: str) -> ColumnElement[Any]:
    return func.regexp_replace(value, _constant(pattern), _constant(by), _constant("g"))


def initials(value: ColumnElement[Any], _: ColumnElement[Any]) -> ColumnElement[Any]:
    """``Ana Souza`` becomes ``A. S.``."""
    return func.rtrim(_replaced(func.trim(value), r"(\S)\S*\s*", r"\1. "))


def hashed(value: ColumnElement[Any], salt: ColumnElement[Any]) -> ColumnElement[Any]:
    """A stable pseudonym: twelve hex digits of SHA-256 over the deployment's salt and the value; ``anonymous`` for none."""
    digest = func.encode(func.sha256(func.convert_to(salt.concat(value), _constant("UTF8"))), _constant("hex"))
    return case(
        (value.is_(None), _constant("anonymous")), else_=func.left(digest, literal_column(str(HASH_CHARACTERS)))
    )


def redacted(value: ColumnElement[Any], _: ColumnElement[Any]) -> ColumnElement[Any]:
    """Free text without its e-mail addresses and long numbers."""
    return _replaced(_replaced(value, _EMAIL, "[email]"), _NUMBER, "[number]")


def last4(value: ColumnElement[Any], _: ColumnElement[Any]) -> ColumnElement[Any]:
    """The last four characters of anything longer than eight, else nothing of it."""
    return case(
        (func.length(value) > literal_column("8"), _constant("…").concat(func.right(value, literal_column("4")))),
        else_=_constant("…"),
    )


def hidden(_: ColumnElement[Any], __: ColumnElement[Any]) -> ColumnElement[Any]:
    return null()


MASKS: Final[Mapping[str, Callable[[ColumnElement[Any], ColumnElement[Any]], ColumnElement[Any]]]] = MappingProxyType(
    {"INITIALS": initials, "HASH": hashed, "REDACT": redacted, "LAST4": last4, "HIDDEN": hidden}
)
