"""Log lines of every process: one JSON object in a pipe, plain text on a terminal, with the trace's ids where there is one.

Lines of ours say codes, classes and our own names. Those of a library are cut to the first line of their template, since
what it fills in (an exception's message, a URL, a frame) may be anything (PV-1).
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, Literal

from schema import telemetry
from schema.errors import described

Format = Literal["auto", "text", "json"]
# Loggers of ours are named for the product, or for the module.
_OURS: Final = frozenset({"countersign", "schema", "db", "audit", "authz", "services", "analytics", "resolvers", "app"})


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """The fields of one line, in their order; an exception as its class and place, never its message."""
    ours = record.name.partition(".")[0] in _OURS
    message = record.getMessage() if ours else str(record.msg).partition("\n")[0]
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        message = f"{message}: {described(error)}"
    fields = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": message,
    }
    ids = telemetry.ids()
    return fields if ids is None else {**fields, "trace_id": ids[0], "span_id": ids[1]}


class Lines(logging.Formatter):
    """Formats by ``fields_of`` alone: neither tracebacks nor what else a record carries."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields = fields_of(record)
        if self._as_json:
            return json.dumps(fields, ensure_ascii=False)
        trace = f" trace={fields['trace_id']}" if "trace_id" in fields else ""
        return f"{fields['time']} {fields['level']} {fields['logger']}{trace}: {fields['message']}"


def to_stderr(form: Format, level: int = logging.WARNING) -> None:
    """Send every logger's lines to stderr, as ``form`` says; ``auto`` looks whether a person reads along."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(as_json=form == "json" or (form == "auto" and not sys.stderr.isatty())))
    logging.basicConfig(level=level, handlers=[handler])
