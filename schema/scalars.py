"""AppSync's scalars. Input is checked against AppSync's forms and kept as written; output passes through.

A value that does not fit raises ``GraphQLError``, so it is refused with the argument's position before anything runs.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Final, NewType
from urllib.parse import urlsplit

import orjson
import strawberry
from graphql import GraphQLError
from strawberry.types.scalar import ScalarDefinition

AWSDate = NewType("AWSDate", str)
AWSDateTime = NewType("AWSDateTime", str)
AWSEmail = NewType("AWSEmail", str)
AWSJSON = NewType("AWSJSON", str)
AWSURL = NewType("AWSURL", str)

_OFFSET: Final = r"(?:Z|[+-](?:0\d|1[0-8]):[0-5]\d(?::[0-5]\d)?)"
_DAY: Final = r"(?P<day>\d{4}-\d{2}-\d{2})"
_DATE: Final = re.compile(rf"{_DAY}{_OFFSET}?")
# Seconds and up to nine fraction digits are optional, the offset is not: a local time is no instant.
_DATE_TIME: Final = re.compile(rf"{_DAY}T(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{{1,9}})?)?{_OFFSET}")
_JSON_LEVELS: Final = 32  # as deep as a request's body may nest
_JSON_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # PostgreSQL's text holds none
_EMAIL_CHARACTERS: Final = 254  # RFC 5321, 4.5.3.1.3
_EMAIL: Final = re.compile(
    r"[^\s@<>\",;:\\()\[\]]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+"
)


def _refused(scalar: str, value: object) -> GraphQLError:
    kind = "a string of another form" if isinstance(value, str) else type(value).__name__
    return GraphQLError(f"Expected type '{scalar}', found {kind}.")  # never the value: it may be personal


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:  # 2026-02-30 has the form of a day and is none
        return False
    return True


def parse_date(value: object) -> AWSDate:
    """Accept ``2026-11-23`` with or without an offset."""
    if isinstance(value, str) and (found := _DATE.fullmatch(value)) and _is_day(found["day"]):
        return AWSDate(value)
    raise _refused("AWSDate", value)


def parse_date_time(value: object) -> AWSDateTime:
    """Accept an ISO 8601 instant; the offset is required."""
    if isinstance(value, str) and (found := _DATE_TIME.fullmatch(value)) and _is_day(found["day"]):
        return AWSDateTime(value)
    raise _refused("AWSDateTime", value)


def parse_email(value: object) -> AWSEmail:
    """Accept ``local@domain`` of at most 254 characters."""
    if isinstance(value, str) and len(value) <= _EMAIL_CHARACTERS and _EMAIL.fullmatch(value):
        return AWSEmail(value)
    raise _refused("AWSEmail", value)


def parse_json(value: object) -> Any:
    """Accept a string of JSON, nested no deeper than a body may be and without NUL, and return what it says."""
    if isinstance(value, str) and not _JSON_NUL.search(value):
        try:
            found = orjson.loads(value)
        except orjson.JSONDecodeError:
            pass  # answered below, like any other value that does not fit
        else:
            if not _deeper(found, _JSON_LEVELS):
                return found
    raise _refused("AWSJSON", value)


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects stand in each other beyond so many levels."""
    below = [value]
    for _ in range(levels + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in below if isinstance(one, dict | list)]
        if not inner:
            return False
        below = [item for items in inner for item in items]
    return True


def write_json(value: Any) -> str:
    """Return JSON as a string; a string is taken to be JSON already."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def parse_url(value: object) -> AWSURL:
    """Accept an absolute URL; AppSync refuses two slashes in the path."""
    if isinstance(value, str) and not re.search(r"\s", value):
        try:
            parts = urlsplit(value)
        except ValueError:  # a broken IPv6 host
            raise _refused("AWSURL", value) from None
        if parts.scheme and (parts.netloc or parts.path) and "//" not in parts.path and not value.endswith("://"):
            return AWSURL(value)
    raise _refused("AWSURL", value)


SCALARS: Final[dict[object, ScalarDefinition]] = {
    AWSDate: strawberry.scalar(name="AWSDate", parse_value=parse_date),
    AWSDateTime: strawberry.scalar(name="AWSDateTime", parse_value=parse_date_time),
    AWSEmail: strawberry.scalar(name="AWSEmail", parse_value=parse_email),
    AWSJSON: strawberry.scalar(name="AWSJSON", parse_value=parse_json, serialize=write_json),
    AWSURL: strawberry.scalar(name="AWSURL", parse_value=parse_url),
}
