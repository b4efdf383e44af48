"""Error bodies in AppSync's shapes: whole-request refusals (status, ``x-amzn-errortype``) and errors of one field.

Only coded errors leave the process (security-contract BR-5); everything else becomes ``INTERNAL`` here, once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson

from schema.errors import ConsoleError, NotAuthorizedError, described

logger = logging.getLogger("countersign.wire")

E = TypeVar("E", bound=BaseException)

JSON_TYPE: Final = b"application/json;charset=UTF-8"
GRAPHQL_TYPE: Final = b"application/graphql-response+json;charset=UTF-8"


@dataclass
class RefusalError(Exception):
    """The whole request is refused before any of it ran; ``error_type`` is what Amplify shows as the error's name."""

    status: int
    error_type: str
    message: str
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def body(self) -> bytes:
        """AppSync's body; ``message`` and ``__type`` once more at the top, where Amplify looks when CORS hides the header."""
        error = {"errorType": self.error_type, "message": self.message}
        return orjson.dumps({"errors": [error], "message": self.message, "__type": self.error_type})


def malformed(message: str) -> RefusalError:
    return RefusalError(400, "MalformedHttpRequestException", message)


def field_error(
    error: ConsoleError, path: Sequence[str | int] | None, locations: Sequence[tuple[int, int]] | None = None
) -> dict[str, Any]:
    """An error of one field with all of AppSync's keys, in its order."""
    return {
        "path": list(path) if path is not None else None,
        "data": None,
        "errorType": error.code,
        "errorInfo": None if isinstance(error, NotAuthorizedError) else error.error_info,
        "locations": source_locations(locations),
        "message": error.message,
    }


def again(error: E) -> E:
    """The same refusal as a new exception: one that is kept gathers the frames of everybody it is raised for."""
    made = type(error).__new__(type(error), *error.args)
    made.__dict__.update(error.__dict__)
    return made


def source_locations(locations: Sequence[tuple[int, int]] | None) -> list[dict[str, Any]] | None:
    """Lines and columns of the document, as AppSync writes them."""
    return [{"line": line, "column": column, "sourceName": None} for line, column in locations or ()] or None


def coded(error: BaseException, request_id: str) -> ConsoleError:
    """The error as it may leave: a ``ConsoleError`` as it is, anything else as INTERNAL with the request's id."""
    if isinstance(error, ConsoleError):
        return error
    logger.error("internal error request=%s: %s", request_id, described(error))
    return ConsoleError("INTERNAL", requestId=request_id)
