"""A collector on loopback: takes OTLP over HTTP, keeps it as sent and decoded. ``down`` refuses, ``slow`` answers late."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_MESSAGES = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


@dataclass(frozen=True)
class Span:
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    role: str
    kind: int
    failed: bool
    message: str
    events: int
    links: tuple[str, ...]  # span ids


@dataclass(frozen=True)
class Point:
    name: str
    labels: dict[str, Any]
    value: float  # of a histogram: how many
    role: str


@dataclass(frozen=True)
class Line:
    body: str
    severity: str
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass
class Collector:
    """What arrived so far."""

    url: str = ""
    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    status: int = 200
    seconds: float = 0.0

    @property
    def raw(self) -> bytes:
        """Every byte that was sent: text stands in it as it is."""
        return b"".join(body for _, body in list(self.bodies))

    def _messages(self, path: str) -> Iterator[Any]:
        for where, body in list(self.bodies):
            if where == path:
                message = _MESSAGES[path]()
                message.ParseFromString(body)
                yield message

    @property
    def spans(self) -> list[Span]:
        return [
            Span(
                one.name,
                one.trace_id.hex(),
                one.span_id.hex(),
                one.parent_span_id.hex(),
                _plain(one.attributes),
                _plain(of.resource.attributes)["countersign.role"],
                one.kind,
                one.status.code == 2,
                one.status.message,
                len(one.events),
                tuple(link.span_id.hex() for link in one.links),
            )
            for message in self._messages("/v1/traces")
            for of in message.resource_spans
            for scope in of.scope_spans
            for one in scope.spans
        ]

    @property
    def points(self) -> list[Point]:
        found = []
        for message in self._messages("/v1/metrics"):
            for of in message.resource_metrics:
                role = _plain(of.resource.attributes)["countersign.role"]
                for scope in of.scope_metrics:
                    for metric in scope.metrics:
                        kind = metric.WhichOneof("data")
                        for point in getattr(metric, kind).data_points:
                            value = point.count if kind == "histogram" else getattr(point, point.WhichOneof("value"))
                            found.append(Point(metric.name, _plain(point.attributes), value, role))
        return found

    @property
    def lines(self) -> list[Line]:
        return [
            Line(
                one.body.string_value,
                one.severity_text,
                one.trace_id.hex(),
                one.span_id.hex(),
                _plain(one.attributes),
            )
            for message in self._messages("/v1/logs")
            for of in message.resource_logs
            for scope in of.scope_logs
            for one in scope.log_records
        ]

    def wait(self, found: Callable[[], Any], seconds: float = 15) -> Any:
        """What ``found`` gives once it is anything; it is asked again while more arrives."""
        deadline = time.monotonic() + seconds
        while not (value := found()):
            assert time.monotonic() < deadline, sorted({span.name for span in self.spans})
            time.sleep(0.05)
        return value


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port, until the end."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            time.sleep(collector.seconds)
            if collector.status == 200:
                collector.bodies.append((self.path, body))
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
