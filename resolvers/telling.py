"""What telemetry hears of one GraphQL request: its span, and how long it took by kind and root field.

Of the document its name and hash, of the caller nothing, of an error its code (security-contract PV-1).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from schema import telemetry
from schema.telemetry import Attributes, Key, Value

if TYPE_CHECKING:
    from resolvers.documents import Operation
    from resolvers.roots import RootField

_NAME_SHOWN: Final = 100  # characters of an operation's name: the client made it up
_UNKNOWN: Final[Attributes] = {"http.request.method": "POST", "http.route": "/graphql"}


class Telling:
    """A context manager around one request, told more as more is known of it."""

    def __init__(self, traceparent: str | None) -> None:
        """``traceparent`` is the client's; a good one is continued, and recorded even where nothing is told."""
        self._parent = telemetry.remote(traceparent)
        self._span = telemetry.span("POST /graphql", _UNKNOWN, kind="server", parent=self._parent)
        self._began = time.perf_counter()
        self._labels: dict[Key, Value] = {"graphql.operation.type": "unknown", "countersign.field": "none"}

    @property
    def traceparent(self) -> str | None:
        """The span of this request, for its answer; None while nothing is told."""
        return self._span.traceparent

    @property
    def trace_id(self) -> str | None:
        """The trace that the request's records name: ours, else the client's."""
        return self._span.trace_id or (None if self._parent is None else self._parent.trace_id)

    def asked(self, operation: Operation, roots: Sequence[RootField], request_id: str) -> None:
        """The document is valid: say what is asked, never how."""
        names = {root.name for root in roots}
        self._labels["graphql.operation.type"] = operation.kind
        self._labels["countersign.field"] = names.pop() if len(names) == 1 else "several"
        self._span.set("graphql.operation.type", operation.kind)
        self._span.set("countersign.document.hash", operation.digest)
        self._span.set("countersign.request.id", request_id)
        self._span.set("countersign.field", self._labels["countersign.field"])
        if operation.name is not None:
            self._span.set("graphql.operation.name", operation.name[:_NAME_SHOWN])

    def answered(self, status: int, errors: Sequence[Mapping[str, Any]]) -> None:
        """There is an envelope; of several errors the first one names it."""
        self._span.set("http.response.status_code", status)
        if errors:
            self._failed(str(errors[0].get("errorType") or "ValidationError"))

    def _failed(self, code: str) -> None:
        self._labels["error.type"] = code
        self._span.failed(code)

    def __enter__(self) -> Self:
        self._span.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if error is not None:
            self._labels["error.type"] = telemetry.code_of(error)
            status = getattr(error, "status", None)
            if isinstance(status, int):
                self._span.set("http.response.status_code", status)
        telemetry.measure(telemetry.OPERATIONS, time.perf_counter() - self._began, self._labels)
        self._span.__exit__(kind, error, trace)
