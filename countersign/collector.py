"""Whether a telemetry collector takes what it will be sent: asked with an empty message, which every OTLP receiver accepts."""

from __future__ import annotations

import http.client
import ssl
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from countersign.settings import Signal, Telemetry

_SECONDS: Final = 3.0


def knock(settings: Telemetry, signal: Signal) -> str | None:
    """What is wrong and what to do, to follow the endpoint's name in a sentence; None when it takes the message."""
    parts = urlsplit(settings.endpoint(signal))
    headers = parse_env_headers(settings.exporter_otlp_headers or "", liberal=True)
    try:
        connection = _connection(settings, parts.scheme, parts.hostname or "", parts.port)
        try:
            connection.request("POST", parts.path or "/", b"", {**headers, "Content-Type": "application/x-protobuf"})
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return (
            f" does not answer ({type(error).__name__}): start the collector, or unset the OTEL_ variable that names it;"
            " the console goes on without"
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f" refuses ({status}): see to OTEL_EXPORTER_OTLP_HEADERS"
    if status >= HTTPStatus.MULTIPLE_CHOICES:
        return f" answers {status}: OTEL_EXPORTER_OTLP_ENDPOINT is the collector's base URL for OTLP over HTTP, as a rule on port 4318"
    return None


def _connection(settings: Telemetry, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=_SECONDS)
    context = ssl.create_default_context(cafile=settings.exporter_otlp_certificate)
    if settings.exporter_otlp_client_certificate is not None:
        context.load_cert_chain(settings.exporter_otlp_client_certificate, settings.exporter_otlp_client_key)
    return http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
