"""The front of every request, before any of it is understood: host, origin, CORS, size and time of bodies, security headers.

Owns QL-1 to QL-4 and BR-1 to BR-3 of the security contract. A refusal here has run nothing, so it may carry any status.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resolvers import edge_json
from resolvers.edge_errors import JSON_TYPE, RefusalError, coded, malformed

if TYPE_CHECKING:
    from resolvers.limits import Front, Limits

_CREDENTIAL_HEADERS: Final = ("authorization", "x-api-key", "host", "content-type", "origin", "content-length")
# What Amplify sends, nothing else (BR-2).
_ALLOW_HEADERS: Final = b"content-type, authorization, x-api-key, x-amz-user-agent, x-amz-date, x-amz-security-token"
_EXPOSE_HEADERS: Final = b"x-amzn-requestid, x-amzn-errortype, date, x-amz-date, traceresponse"
_PROTECTION: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-site"),
)
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
_LOOPBACK: Final = re.compile(r"localhost|127(?:\.\d{1,3}){3}|\[::1\]")


def headers_of(scope: Scope) -> dict[str, str]:
    """Header names in lower case to values. A header that decides something may come once only."""
    result: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name in result and name in _CREDENTIAL_HEADERS:
            raise malformed(f"The header {name} occurs twice.")
        result[name] = raw_value.decode("latin-1")
    return result


def client_address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "unknown"


def allowed_host(host: str, front: Front) -> bool:
    """Whether a Host value (or the ``host`` of a real-time header) is one of ours, port aside."""
    name = host.lower()
    if not name.endswith("]"):
        name = re.sub(r":\d{1,5}$", "", name)
    return name in front.hosts or (front.loopback and _LOOPBACK.fullmatch(name) is not None)


def allowed_origin(origin: str, scope: Scope, host: str, front: Front) -> bool:
    """Whether a page of ``origin`` may call: our own page, a listed one, or (embedded mode) any loopback page."""
    if origin in front.origins:
        return True
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    if origin in (f"{scheme}://{host}", f"https://{host}"):
        return True
    if not front.loopback:
        return False
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
        return False
    return _LOOPBACK.fullmatch(re.sub(r":\d{1,5}$", "", parts.netloc)) is not None


class Edge:
    """ASGI middleware around everything.

    Puts ``request_id`` into the scope's state and tells it in every answer; ``traceresponse`` too, where a handler put it there.
    """

    def __init__(self, app: ASGIApp, front: Front) -> None:
        self._app = app
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send, request_id)

    async def _http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        origin: str | None = None
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._protect(scope, message, request_id, origin)
            await send(message)

        try:
            headers = headers_of(scope)
            origin = self._admit(scope, headers)
            if scope["method"] == "OPTIONS":
                await respond(guarded, 200, b"", JSON_TYPE, [(b"allow", b"POST, OPTIONS")])
            else:
                await self._app(scope, receive, guarded)
        except RefusalError as refusal:
            await refuse(guarded, refusal)
        except Exception as error:  # noqa: BLE001 - the last place that can keep an exception's text inside (BR-5)
            coded(error, request_id)
            if not started:
                await refuse(
                    guarded,
                    RefusalError(500, "InternalFailure", f"Something went wrong on our side; request {request_id}."),
                )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._admit(scope, headers_of(scope))
        except RefusalError as refusal:
            await refuse_upgrade(scope, receive, send, refusal)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope, headers: Mapping[str, str]) -> str | None:
        host = headers.get("host", "")
        if not allowed_host(host, self._front):
            raise RefusalError(421, "MisdirectedRequestException", "This server does not answer for that host.")
        origin = headers.get("origin")
        # A foreign page is refused even where the browser asks no preflight: nothing here is meant for it.
        if origin is not None and not allowed_origin(origin, scope, host, self._front):
            raise RefusalError(403, "AccessDeniedException", "Requests from this origin are not accepted.")
        return origin

    def _protect(self, scope: Scope, message: Message, request_id: str, origin: str | None) -> None:
        headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
        present = {name.lower() for name, _ in headers}
        headers += [(name, value) for name, value in _PROTECTION if name not in present]
        headers.append((b"x-amzn-requestid", request_id.encode()))
        if (trace := scope["state"].get("traceresponse")) is not None:
            headers.append((b"traceresponse", trace.encode()))
        headers.append((b"vary", b"origin"))
        if scope["scheme"] == "https":
            headers.append(_HSTS)
        if origin is not None:
            headers += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", _EXPOSE_HEADERS),
            ]
            if scope["method"] == "OPTIONS":
                headers += [
                    (b"access-control-allow-methods", b"POST, OPTIONS"),
                    (b"access-control-allow-headers", _ALLOW_HEADERS),
                    (b"access-control-max-age", b"600"),
                ]
        message["headers"] = headers


async def respond(
    send: Send, status: int, body: bytes, content_type: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    start = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *(headers or ())]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refusal: RefusalError) -> None:
    """Answer a refusal as AppSync does. The connection is closed where the rest of a body may still be coming."""
    headers = [(b"x-amzn-errortype", refusal.error_type.encode()), *refusal.headers]
    if refusal.status in (408, 413):
        headers.append((b"connection", b"close"))
    await respond(send, refusal.status, refusal.body(), JSON_TYPE, headers)


async def refuse_upgrade(scope: Scope, receive: Receive, send: Send, refusal: RefusalError) -> None:
    """Refuse a WebSocket before it is accepted: with status and body where the server can, else by its plain 403."""
    await receive()  # websocket.connect
    if "websocket.http.response" in scope.get("extensions", {}):
        body = refusal.body()
        headers = [
            (b"content-type", JSON_TYPE),
            (b"content-length", str(len(body)).encode()),
            (b"x-amzn-errortype", refusal.error_type.encode()),
        ]
        await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": 1008})


class ClientGoneError(Exception):
    """The client hung up before its body was complete; there is nobody to answer."""


@dataclass(frozen=True)
class Body:
    """A GraphQL request as sent: parsed JSON of the right shape, nothing validated yet."""

    query: str
    variables: Mapping[str, Any]
    operation_name: str | None


async def graphql_body(scope: Scope, receive: Receive, headers: Mapping[str, str], limits: Limits) -> Body:
    """Read and parse one GraphQL request (QL-1 to QL-4), or raise ``RefusalError``; ``ClientGoneError`` when it never came."""
    if scope["method"] != "POST":
        raise RefusalError(405, "MethodNotAllowedException", "Use POST.", [(b"allow", b"POST, OPTIONS")])
    _check_type(headers)
    return parse_body(await _read(receive, headers, limits))


def parse_body(raw: bytes) -> Body:
    """The request in ``raw``; also what a real-time ``start`` frame carries in its ``data``."""
    if not raw:
        raise malformed("Request body is empty.")
    try:
        value = edge_json.loads(raw, free_text="query")
    except edge_json.BadJsonError as error:
        raise malformed(f"Unable to parse the request body: {error}.") from error
    if isinstance(value, list):
        raise malformed("Batched requests are not supported.")
    if not isinstance(value, dict):
        raise malformed("The request body is not a JSON object.")
    return body_of(value)


def body_of(value: Mapping[str, Any]) -> Body:
    """The request in a parsed object; unknown keys are ignored."""
    query, variables, name = value.get("query"), value.get("variables"), value.get("operationName")
    if not isinstance(query, str):
        raise malformed("Unable to parse GraphQL query.")
    if variables is not None and not isinstance(variables, dict):
        raise malformed("The variables are not a JSON object.")
    if name is not None and not isinstance(name, str):
        raise malformed("The operationName is not a string.")
    if not isinstance(value.get("extensions"), dict | None):
        raise malformed("The extensions are not a JSON object.")
    return Body(query, variables or {}, name or None)


def _check_type(headers: Mapping[str, str]) -> None:
    media, _, parameters = headers.get("content-type", "").partition(";")
    charset = re.fullmatch(r'\s*(?:charset="?utf-?8"?)?\s*;?\s*', parameters, re.IGNORECASE)
    if media.strip().lower() != "application/json" or charset is None:
        raise RefusalError(415, "UnsupportedMediaTypeException", "Send application/json in UTF-8.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusalError(415, "UnsupportedMediaTypeException", "Send the body without Content-Encoding.")


async def _read(receive: Receive, headers: Mapping[str, str], limits: Limits) -> bytes:
    too_large = RefusalError(413, "RequestEntityTooLargeException", f"The body exceeds {limits.body_bytes} bytes.")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.body_bytes:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > 2 * limits.body_bytes:
                    raise too_large
                if size > limits.body_bytes:
                    # Read a little further, without keeping it: a connection closed on unread bytes is reset, and the
                    # client of a body that is just too big would never see why.
                    chunks.clear()
                else:
                    chunks.append(chunk)
                if not message.get("more_body"):
                    break
    except TimeoutError as error:
        raise RefusalError(408, "RequestTimeoutException", "The body did not arrive in time.") from error
    if size > limits.body_bytes:
        raise too_large
    return b"".join(chunks)
