"""OpenTelemetry behind ``schema.telemetry``: the only module that knows the SDK, and loaded only when ``OTEL_*`` asks for it.

Owns the way out: what is not in the catalogue is dropped here, exceptions leave as a code or a class, never as a message
(PV-1). A collector that is slow or down costs a bounded buffer and a counter, never a request (FC-12).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Literal, Self

from opentelemetry import context, trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from countersign.logs import fields_of
from countersign.settings import Exporter, Telemetry
from countersign.telemetry_buffer import Buffer
from schema import telemetry as told
from schema.telemetry import Attributes, Key, Kind, Metric, Observe, Remote, Span, SpanName, Value

STOP_SECONDS: Final = 2.0
_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
# From a cached plan to a request that is given up (QL-13).
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SEVERITIES: Final = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
)
_VALUE_CHARACTERS: Final = 200


def _allowed(attributes: Mapping[Any, Value], keys: Iterable[str] = told.KEYS) -> dict[str, Value]:
    return {
        str(key): value[:_VALUE_CHARACTERS] if isinstance(value, str) else value
        for key, value in attributes.items()
        if key in keys
    }


class _Told:
    """A span of the SDK as the rooms see it."""

    __slots__ = ("_measure", "_span", "_token")

    def __init__(self, span: trace.Span | None, measure: Callable[[str | None], None] | None = None) -> None:
        self._span = span
        self._measure = measure
        self._token: Any = None

    @property
    def trace_id(self) -> str | None:
        return None if self._span is None else trace.format_trace_id(self._span.get_span_context().trace_id)

    @property
    def traceparent(self) -> str | None:
        if self._span is None:
            return None
        known = self._span.get_span_context()
        span_id = trace.format_span_id(known.span_id)
        return f"00-{trace.format_trace_id(known.trace_id)}-{span_id}-{int(known.trace_flags):02x}"

    def set(self, key: Key, value: Value) -> None:
        if self._span is not None:
            self._span.set_attributes(_allowed({key: value}))

    def failed(self, code: str) -> None:
        if self._span is not None:
            self._span.set_attribute("error.type", code)
            if code in told.FAILURES:
                self._span.set_status(Status(StatusCode.ERROR))

    def __enter__(self) -> Self:
        if self._span is not None:
            self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None, /
    ) -> None:
        code = None if error is None else told.code_of(error)
        if self._measure is not None:
            self._measure(code)
        if self._span is None:
            return
        context.detach(self._token)
        if error is not None and code is not None:
            self._span.set_attribute("error.type", code)
            state = getattr(error, "sqlstate", None)
            if isinstance(state, str):
                self._span.set_attribute("db.response.status_code", state)
            if told.is_failure(error):
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class _Spans(SpanProcessor):
    """Ended spans into their buffer."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            for buffer in self._buffers:
                buffer.put(span)


class _Records(LogRecordProcessor):
    """Log records into their buffer."""

    def __init__(self, buffers: Sequence[Buffer], resource: Resource) -> None:
        self._buffers = buffers
        self._resource = resource

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        record = ReadableLogRecord(log_record.log_record, self._resource, log_record.instrumentation_scope)
        for buffer in self._buffers:
            buffer.put(record)

    def shutdown(self) -> None:
        """Nothing: the buffers are stopped by themselves."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class _Handler(logging.Handler):
    """Log lines as OpenTelemetry has them, by the same fields as those on stderr."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._logger = provider.get_logger("countersign")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = fields_of(record)["message"]
            self._logger.emit(
                LogRecord(
                    timestamp=int(record.created * 1e9),
                    observed_timestamp=time.time_ns(),
                    context=context.get_current(),
                    severity_text=record.levelname,
                    severity_number=next(
                        (number for level, number in _SEVERITIES if record.levelno >= level), SeverityNumber.DEBUG
                    ),
                    body=message,
                    attributes={"logger.name": record.name},
                )
            )
        except Exception:  # noqa: BLE001 - a line that cannot be told is none the worse on stderr
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Nothing: logging's own would print the record, traceback and all."""


class OpenTelemetry:
    """The sink of one process. ``stop`` within two seconds."""

    def __init__(self, settings: Telemetry, role: Literal["serve", "work"]) -> None:
        self._resource = Resource.create(
            {
                "service.name": settings.service_name,
                "service.instance.id": str(uuid.uuid4()),
                "process.pid": os.getpid(),
                "countersign.role": role,
            }
        )
        self._settings = settings
        self._closing: list[Callable[[], object]] = []
        self._spans = [self._span_buffer(name) for name in settings.traces]
        self._records = [self._record_buffer(name) for name in settings.logs]
        tracing = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        tracing.add_span_processor(_Spans(self._spans))
        self._tracer = tracing.get_tracer("countersign") if self._spans else None
        self._readers = [
            PeriodicExportingMetricReader(
                self._metric_exporter(name),
                export_interval_millis=settings.metric_export_interval,
                export_timeout_millis=settings.metric_export_timeout,
            )
            for name in settings.metrics
        ]
        self._meters = MeterProvider(self._readers, self._resource, shutdown_on_exit=False)
        self._meter = self._meters.get_meter("countersign")
        self._instruments: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._handler: _Handler | None = None
        if self._records:
            logging_ = LoggerProvider(resource=self._resource, shutdown_on_exit=False)
            logging_.add_log_record_processor(_Records(self._records, self._resource))
            self._handler = _Handler(logging_)
            logging.getLogger().addHandler(self._handler)
        self.observe(told.DROPPED, self._dropped)

    # ---------- what the rooms say ----------
    def span(
        self, name: SpanName, attributes: Attributes, kind: Kind, parent: Remote | None, links: Sequence[object]
    ) -> Span:
        if self._tracer is None or name not in told.SPANS:
            return told.SILENT
        around = context.get_current() if parent is None else trace.set_span_in_context(_remote(parent))
        span = self._tracer.start_span(
            name,
            context=around,
            kind=_KINDS[kind],
            attributes=_allowed(attributes),
            links=[Link(link) for link in links if isinstance(link, SpanContext)],
            record_exception=False,
            set_status_on_exception=False,
        )
        return _Told(span)

    def statement(self, attributes: Attributes) -> Span:
        began = time.perf_counter()

        def measure(code: str | None) -> None:
            labels: dict[Key, Value] = dict(attributes)
            if code is not None:
                labels["error.type"] = code
            self.measure(told.STATEMENTS, time.perf_counter() - began, labels)

        if self._tracer is None or not trace.get_current_span().is_recording():
            return _Told(None, measure)
        span = self._tracer.start_span(
            str(attributes["db.query.summary"]),
            kind=SpanKind.CLIENT,
            attributes=_allowed(attributes),
            record_exception=False,
            set_status_on_exception=False,
        )
        return _Told(span, measure)

    def count(self, metric: Metric, amount: float, labels: Attributes) -> None:
        if self._readers:
            self._instrument(metric).add(amount, _allowed(labels, metric.labels))

    def measure(self, metric: Metric, value: float, labels: Attributes) -> None:
        if self._readers:
            self._instrument(metric).record(value, _allowed(labels, metric.labels))

    def observe(self, metric: Metric, callback: Observe) -> None:
        if not self._readers or metric not in told.METRICS:
            return

        def asked(_: CallbackOptions) -> list[Observation]:
            return [Observation(value, _allowed(labels, metric.labels)) for value, labels in callback()]

        make = self._meter.create_observable_gauge if metric.kind == "gauge" else self._meter.create_observable_counter
        make(metric.name, callbacks=[asked], unit=metric.unit, description=metric.meaning)

    def note(self, key: Key, value: Value) -> None:
        trace.get_current_span().set_attributes(_allowed({key: value}))

    def here(self) -> object | None:
        found = trace.get_current_span().get_span_context()
        return found if found.is_valid else None

    def ids(self) -> tuple[str, str] | None:
        found = trace.get_current_span().get_span_context()
        if not found.is_valid:
            return None
        return trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id)

    def _instrument(self, metric: Metric) -> Any:
        found = self._instruments.get(metric.name)
        if found is None:
            with self._lock:
                found = self._instruments.get(metric.name) or self._made(metric)
                self._instruments[metric.name] = found
        return found

    def _made(self, metric: Metric) -> Any:
        if metric.kind == "counter":
            return self._meter.create_counter(metric.name, metric.unit, metric.meaning)
        return self._meter.create_histogram(
            metric.name, metric.unit, metric.meaning, explicit_bucket_boundaries_advisory=_BUCKETS
        )

    def _dropped(self) -> Iterable[tuple[float, Attributes]]:
        for buffer in (*self._spans, *self._records):
            for result, lost in buffer.lost.items():
                yield lost, {"countersign.signal": buffer.signal, "countersign.result": result}

    # ---------- where it goes ----------
    def _span_buffer(self, name: Exporter) -> Buffer:
        exporter: SpanExporter
        if name == "console":
            exporter = ConsoleSpanExporter(out=sys.stdout, formatter=lambda span: f"{span.to_json(indent=None)}\n")
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        self._closing.append(exporter.shutdown)
        return Buffer(
            "spans",
            lambda spans: exporter.export(spans) is SpanExportResult.SUCCESS,
            capacity=self._settings.bsp_max_queue_size,
            batch=self._settings.bsp_max_export_batch_size,
            delay_seconds=self._settings.bsp_schedule_delay / 1000,
        )

    def _record_buffer(self, name: Exporter) -> Buffer:
        exporter: LogRecordExporter
        if name == "console":
            exporter = ConsoleLogRecordExporter(
                out=sys.stdout, formatter=lambda record: f"{record.to_json(indent=None)}\n"
            )
        else:
            from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

            exporter = OTLPLogExporter()
        self._closing.append(exporter.shutdown)
        return Buffer(
            "log records",
            lambda records: exporter.export(records) is LogRecordExportResult.SUCCESS,
            capacity=self._settings.blrp_max_queue_size,
            batch=self._settings.blrp_max_export_batch_size,
            delay_seconds=self._settings.blrp_schedule_delay / 1000,
        )

    @staticmethod
    def _metric_exporter(name: Exporter) -> MetricExporter:
        if name == "console":
            return ConsoleMetricExporter(out=sys.stdout, formatter=lambda metrics: f"{metrics.to_json(indent=None)}\n")
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter()

    def stop(self) -> None:
        """Send what waits, all signals at once, for two seconds at most; then cut what is under way."""
        deadline = time.monotonic() + STOP_SECONDS
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
        ends: list[Callable[[], object]] = [
            *(lambda buffer=buffer: buffer.stop(deadline) for buffer in (*self._spans, *self._records)),
            *(lambda one=one: one.shutdown(timeout_millis=STOP_SECONDS * 1000) for one in self._readers),
        ]
        threads = [threading.Thread(target=end, daemon=True) for end in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for close in self._closing:
            close()


def _remote(parent: Remote) -> trace.Span:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    return NonRecordingSpan(
        SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    )


@asynccontextmanager
async def running(settings: Telemetry, role: Literal["serve", "work"]) -> AsyncGenerator[None, None]:
    """Tell everything inside, as ``settings`` say."""
    for name in ("opentelemetry", "urllib3", "requests"):
        # One warning a batch, with the collector's words in it; the buffer says it once and in its own.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sink = OpenTelemetry(settings, role)
    told.install(sink)
    try:
        yield
    finally:
        told.install(None)
        await asyncio.to_thread(sink.stop)
