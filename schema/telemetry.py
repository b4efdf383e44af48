"""What operators can see: the names of spans, metrics and attributes, and the one hook by which every room tells them.

Nothing else leaves as a span, a metric or a log field: what is not listed here is dropped (security-contract PV-1).
Until ``install`` everything is silent and costs a comparison; the SDK behind it is ``countersign/telemetry.py``'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Protocol, Self, get_args

from schema.errors import ConsoleError

Value = str | int | float | bool
Kind = Literal["internal", "server", "client", "producer", "consumer"]

SpanName = Literal[
    "POST /graphql",  # one request, from its first byte to its last
    "authenticate",  # credentials to identity, identity to caller
    "document",  # parsed, limited and validated, or found
    "plan",  # compiled under the caller's rights, or found
    "mutation",  # one root field's unit of work, its repetitions included
    "deed",  # one unit of work of the system's own
    "subscription",  # a start: authorized, recorded
    "audit append",  # one group commit of reads and denials
    "audit seal",  # one batch given its places
    "audit anchor",  # one checkpoint signed and kept
    "events tell",  # one round of the hub
    "delivery",  # one call to another system
]

# Every value is a name of ours, a number, an id of a record, or a document's name and hash. Never a variable, a literal,
# a header, an SQL parameter, the id or a column of an object, or the message of an exception.
Key = Literal[
    "graphql.operation.type",
    "graphql.operation.name",
    "http.request.method",
    "http.route",
    "http.response.status_code",
    "error.type",  # a code of the catalogue, or an exception's class
    "db.system.name",
    "db.operation.name",
    "db.collection.name",
    "db.query.summary",
    "db.response.status_code",  # SQLSTATE
    "db.client.connection.pool.name",
    "db.client.connection.state",
    "countersign.approval.key",
    "countersign.audit.id",
    "countersign.cache",
    "countersign.cached",
    "countersign.decision",
    "countersign.document.hash",
    "countersign.event.count",
    "countersign.field",
    "countersign.finish",
    "countersign.finish.reason",
    "countersign.limit",
    "countersign.listener",
    "countersign.operation",
    "countersign.outcome",
    "countersign.port",
    "countersign.quarantined",
    "countersign.record.count",
    "countersign.record.kind",
    "countersign.request.id",
    "countersign.result",
    "countersign.signal",
    "countersign.state",
    "countersign.subscription.count",
    "countersign.tree.size",
]
Attributes = Mapping[Key, Value]
SPANS: Final[frozenset[str]] = frozenset(get_args(SpanName))
KEYS: Final[frozenset[str]] = frozenset(get_args(Key))


@dataclass(frozen=True)
class Metric:
    """One metric. ``labels`` are all it may carry, each with few values; ``kind`` says how it is told."""

    name: str
    kind: Literal["counter", "histogram", "gauge", "observed counter"]
    unit: str
    meaning: str
    labels: tuple[Key, ...] = ()


def _metric(
    name: str,
    kind: Literal["counter", "histogram", "gauge", "observed counter"],
    unit: str,
    meaning: str,
    *labels: Key,
) -> Metric:
    return Metric(name, kind, unit, meaning, labels)


OPERATIONS: Final = _metric(
    "countersign.operation.duration",
    "histogram",
    "s",
    "From the first byte of a GraphQL request to the last of its answer.",
    "graphql.operation.type",
    "countersign.field",
    "error.type",
)
DECISIONS: Final = _metric(
    "countersign.decisions",
    "counter",
    "{decision}",
    "Reads, writes and attempts as the audit log has them: allowed or denied, by code; replays are an outcome.",
    "countersign.record.kind",
    "countersign.decision",
    "countersign.outcome",
    "error.type",
)
FINISHES: Final = _metric(
    "countersign.finishes",
    "observed counter",
    "{answer}",
    "How answers were made from rows: in the database, or completed here and why.",
    "countersign.finish",
    "countersign.finish.reason",
)
CACHE_ENTRIES: Final = _metric(
    "countersign.cache.entries",
    "gauge",
    "{entry}",
    "What the bounded caches hold: documents, plans, finders.",
    "countersign.cache",
)
CACHE_LOOKUPS: Final = _metric(
    "countersign.cache.lookups",
    "observed counter",
    "{lookup}",
    "Hits and misses of the caches.",
    "countersign.cache",
    "countersign.result",
)
RATE_LIMITED: Final = _metric(
    "countersign.rate_limited", "counter", "{refusal}", "What a rate or a bound refused, by limit.", "countersign.limit"
)
CONNECTIONS: Final = _metric("countersign.realtime.connections", "gauge", "{connection}", "Open WebSockets.")
SUBSCRIPTIONS: Final = _metric("countersign.realtime.subscriptions", "gauge", "{subscription}", "Live subscriptions.")
EVENTS_DELIVERED: Final = _metric(
    "countersign.events.delivered",
    "counter",
    "{event}",
    "Events queued to a subscriber, their record durable.",
    "countersign.field",
)
EVENTS_DROPPED: Final = _metric(
    "countersign.events.dropped",
    "counter",
    "{event}",
    "Events that ended their subscription instead, by code.",
    "countersign.field",
    "error.type",
)
EVENTS_UNNUMBERED: Final = _metric(
    "countersign.events.unnumbered.age", "gauge", "s", "How long the oldest committed event waits for its number."
)
APPROVALS_WAITING: Final = _metric(
    "countersign.approvals.waiting",
    "gauge",
    "{request}",
    "Approval requests that wait for votes.",
    "countersign.approval.key",
)
APPROVALS_OLDEST: Final = _metric(
    "countersign.approvals.oldest.age",
    "gauge",
    "s",
    "How long the oldest of them waits.",
    "countersign.approval.key",
)
OUTBOX_ROWS: Final = _metric(
    "countersign.outbox.rows",
    "gauge",
    "{delivery}",
    "Calls to other systems that are not delivered: PENDING, RETRYING, DEAD.",
    "countersign.port",
    "countersign.state",
)
OUTBOX_OLDEST: Final = _metric(
    "countersign.outbox.oldest.age", "gauge", "s", "How long the oldest open call of a port waits.", "countersign.port"
)
DELIVERIES: Final = _metric(
    "countersign.delivery.duration",
    "histogram",
    "s",
    "One call to another system.",
    "countersign.port",
    "countersign.operation",
    "error.type",
)
BREAKERS: Final = _metric(
    "countersign.breaker.open", "gauge", "1", "1 while calls to a port are held back.", "countersign.port"
)
AUDIT_APPEND: Final = _metric(
    "countersign.audit.append.duration", "histogram", "s", "One append to the log.", "error.type"
)
AUDIT_UNANCHORED: Final = _metric(
    "countersign.audit.unanchored.age", "gauge", "s", "How long the oldest record waits for its anchor."
)
AUDIT_INTAKE: Final = _metric("countersign.audit.intake", "gauge", "{record}", "Records that wait for the sealer.")
AUDIT_SEALED: Final = _metric("countersign.audit.sealed", "counter", "{record}", "Records given their place.")
AUDIT_QUARANTINED: Final = _metric(
    "countersign.audit.quarantined", "counter", "{record}", "Rows of the intake that are no genuine record."
)
JWKS_FAILURES: Final = _metric(
    "countersign.jwks.failures", "counter", "{fetch}", "Fetches of an issuer's keys that failed (FC-4)."
)
LISTEN_LOST: Final = _metric(
    "countersign.listen.lost",
    "counter",
    "{loss}",
    "Notifications that are not heard, so that only the poll is left (FC-10).",
    "countersign.listener",
)
POOL_CONNECTIONS: Final = _metric(
    "db.client.connection.count",
    "gauge",
    "{connection}",
    "Connections of a pool, used and idle.",
    "db.client.connection.pool.name",
    "db.client.connection.state",
)
POOL_MAXIMUM: Final = _metric(
    "db.client.connection.max",
    "gauge",
    "{connection}",
    "The most connections a pool may have.",
    "db.client.connection.pool.name",
)
POOL_WAIT: Final = _metric(
    "db.client.connection.wait_time", "histogram", "s", "Waiting for a connection of a pool.", "error.type"
)
STATEMENTS: Final = _metric(
    "db.client.operation.duration",
    "histogram",
    "s",
    "One statement, from here to the database and back.",
    "db.operation.name",
    "db.collection.name",
    "error.type",
)
DROPPED: Final = _metric(
    "countersign.telemetry.dropped",
    "observed counter",
    "{item}",
    "Spans and log records that the collector never got (FC-12).",
    "countersign.signal",
    "countersign.result",
)
METRICS: Final[tuple[Metric, ...]] = tuple(value for value in list(vars().values()) if isinstance(value, Metric))

Observe = Callable[[], Iterable[tuple[float, Attributes]]]


class Span(Protocol):
    """One piece of work that is being told; a context manager."""

    @property
    def trace_id(self) -> str | None: ...
    @property
    def traceparent(self) -> str | None:
        """The W3C header that names this span, None while nothing is told."""
        ...

    def set(self, key: Key, value: Value) -> None: ...
    def failed(self, code: str) -> None:
        """End with this code; the refusal of a request is no failure of ours, the codes that name one are."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@dataclass(frozen=True)
class Remote:
    """A span of somebody else, as a ``traceparent`` names it."""

    trace_id: str
    span_id: str
    sampled: bool


class Sink(Protocol):
    """Where it goes. Raises nothing and waits for nobody."""

    def span(
        self, name: SpanName, attributes: Attributes, kind: Kind, parent: Remote | None, links: Sequence[object]
    ) -> Span: ...
    def statement(self, attributes: Attributes) -> Span: ...
    def count(self, metric: Metric, amount: float, labels: Attributes) -> None: ...
    def measure(self, metric: Metric, value: float, labels: Attributes) -> None: ...
    def observe(self, metric: Metric, callback: Observe) -> None: ...
    def note(self, key: Key, value: Value) -> None: ...
    def here(self) -> object | None: ...
    def ids(self) -> tuple[str, str] | None: ...


class _Silent:
    """The span of a process that tells nothing."""

    trace_id: str | None = None
    traceparent: str | None = None

    def set(self, key: Key, value: Value) -> None:
        """Nothing."""

    def failed(self, code: str) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


SILENT: Final[Span] = _Silent()
NONE: Final[Attributes] = {}
_sink: Sink | None = None


def install(sink: Sink | None) -> None:
    """Tell ``sink`` from now on; None is silence. One per process, by ``countersign/telemetry.py`` alone."""
    global _sink  # noqa: PLW0603 - one process tells one story; handing it through every room would be noise in each
    _sink = sink


def on() -> bool:
    """Whether anything is told: for what would be costly to find out only to throw it away."""
    return _sink is not None


def span(
    name: SpanName,
    attributes: Attributes = NONE,
    *,
    kind: Kind = "internal",
    parent: Remote | None = None,
    links: Sequence[object | None] = (),
) -> Span:
    """Tell a piece of work; what raises inside ends it with the code or the class, never with the message."""
    if _sink is None:
        return SILENT
    return _sink.span(name, attributes, kind, parent, [link for link in links if link is not None])


def statement(attributes: Attributes) -> Span:
    """Tell one statement: always measured, a span only inside another one, so that idle polls leave no traces."""
    return SILENT if _sink is None else _sink.statement(attributes)


def count(metric: Metric, amount: float = 1, labels: Attributes = NONE) -> None:
    if _sink is not None:
        _sink.count(metric, amount, labels)


def measure(metric: Metric, value: float, labels: Attributes = NONE) -> None:
    if _sink is not None:
        _sink.measure(metric, value, labels)


def observe(metric: Metric, callback: Observe) -> None:
    """Ask ``callback`` whenever metrics are sent; from another thread, so it only reads."""
    if _sink is not None:
        _sink.observe(metric, callback)


def note(key: Key, value: Value) -> None:
    """Say more of the present span."""
    if _sink is not None:
        _sink.note(key, value)


def here() -> object | None:
    """The present span, for a later one to link to."""
    return None if _sink is None else _sink.here()


def ids() -> tuple[str, str] | None:
    """Trace and span id of the present span, for a log line."""
    return None if _sink is None else _sink.ids()


# Refusals that say that something of ours, or behind us, does not work.
FAILURES: Final = frozenset({"INTERNAL", "AUDIT_UNAVAILABLE", "DEPENDENCY_UNAVAILABLE"})


def code_of(error: BaseException) -> str:
    """What a span or a metric says of an error: a code of the catalogue, AppSync's name of a refusal, else its class."""
    if isinstance(error, ConsoleError):
        return error.code
    named = getattr(error, "error_type", None)
    return named if isinstance(named, str) else type(error).__name__


def is_failure(error: BaseException) -> bool:
    """Whether something of ours, or behind us, does not work; the refusal of a request is none, nor is the end of a task."""
    if isinstance(error, ConsoleError):
        return error.code in FAILURES
    return isinstance(error, Exception) and not hasattr(error, "error_type")


_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def remote(traceparent: str | None) -> Remote | None:
    """The caller's span by W3C Trace Context; None for a header that is missing or breaks its rules."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Remote(trace_id, span_id, bool(int(flags, 16) & 1))
