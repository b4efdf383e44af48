"""The front over real HTTP: methods, types, sizes, time, hosts, origins, and the headers of every answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from resolvers.edge import Edge, graphql_body, headers_of, respond
from resolvers.edge_errors import JSON_TYPE
from resolvers.limits import Front, Limits
from tests.api.serving import served

LIMITS = Limits(body_bytes=2000, body_seconds=0.4)
JSON = {"content-type": "application/json; charset=UTF-8"}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        return
    if scope["path"] == "/bug":
        raise RuntimeError("marker-8d1f in an exception")
    body = await graphql_body(scope, receive, headers_of(scope), LIMITS)
    await respond(send, 200, orjson.dumps({"data": {"query": body.query}}), JSON_TYPE)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def address() -> AsyncIterator[str]:
    async with served(
        Edge(echo, Front(hosts=frozenset({"console.example"}), origins=frozenset({"https://desk.example"})))
    ) as where:
        yield where


async def call(address: str, method: str = "POST", path: str = "/graphql", **options: Any) -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.request(method, f"http://{address}{path}", **options)


@pytest.mark.contract("QL-1", "BR-1")
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
async def test_only_post_runs_anything(address: str, method: str) -> None:
    answer = await call(address, method)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST, OPTIONS"


@pytest.mark.contract("QL-1")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/graphql"},
        {**JSON, "content-encoding": "gzip"},
    ],
)
async def test_other_types_and_encodings_are_415(address: str, headers: Mapping[str, str]) -> None:
    answer = await call(address, headers=headers, content=b'{"query":"{a}"}')
    assert answer.status_code == 415
    assert answer.headers["x-amzn-errortype"] == "UnsupportedMediaTypeException"


async def test_json_in_utf8_is_taken_however_it_is_named(address: str) -> None:
    for kind in (
        "application/json",
        "application/json;charset=utf-8",
        'application/json; charset="UTF-8"',
        "Application/JSON",
    ):
        answer = await call(address, headers={"content-type": kind}, content=b'{"query":"{a}"}')
        assert (answer.status_code, answer.json()) == (200, {"data": {"query": "{a}"}})


async def test_an_error_body_has_amplifys_four_places(address: str) -> None:
    answer = await call(address, headers=JSON, content=b"")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json;charset=UTF-8"
    assert answer.headers["x-amzn-errortype"] == "MalformedHttpRequestException"
    assert answer.json() == {
        "errors": [{"errorType": "MalformedHttpRequestException", "message": "Request body is empty."}],
        "message": "Request body is empty.",
        "__type": "MalformedHttpRequestException",
    }


@pytest.mark.contract("QL-2")
async def test_a_large_body_is_413_also_without_a_length_and_the_connection_closes(address: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    for content in (b"x" * 2001, endless()):
        answer = await call(address, headers=JSON, content=content)
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-amzn-errortype"] == "RequestEntityTooLargeException"


@pytest.mark.contract("QL-3")
async def test_a_body_that_does_not_arrive_is_408(address: str) -> None:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /graphql HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{{".encode()
    )
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"RequestTimeoutException" in answer
    writer.close()


@pytest.mark.contract("BR-3")
async def test_every_answer_carries_the_protective_headers(address: str) -> None:
    for answer in (
        await call(address, headers=JSON, content=b'{"query":"{a}"}'),
        await call(address, "GET"),
        await call(address, path="/bug"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == "same-site"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert len(answer.headers["x-amzn-requestid"]) == 36
        assert "date" in answer.headers
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers
        assert "strict-transport-security" not in answer.headers, "not over plain HTTP"


@pytest.mark.contract("BR-2")
@pytest.mark.parametrize(
    "origin", ["https://desk.example", "http://localhost:5173", "https://127.0.0.1:8443", "http://[::1]:3000"]
)
async def test_a_listed_or_loopback_origin_is_answered_by_name(address: str, origin: str) -> None:
    answer = await call(address, headers={**JSON, "origin": origin}, content=b'{"query":"{a}"}')
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert {"x-amzn-requestid", "x-amzn-errortype"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    assert "access-control-allow-credentials" not in answer.headers
    assert "origin" in answer.headers["vary"]
    preflight = await call(address, "OPTIONS", headers={"origin": origin, "access-control-request-method": "POST"})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert preflight.headers["access-control-allow-methods"] == "POST, OPTIONS"
    allowed = set(preflight.headers["access-control-allow-headers"].split(", "))
    assert allowed == {
        "content-type",
        "authorization",
        "x-api-key",
        "x-amz-user-agent",
        "x-amz-date",
        "x-amz-security-token",
    }


@pytest.mark.contract("BR-2")
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "*",
        "https://desk.example.evil.example",
        "https://desk.example/",
        "http://desk.example",
        "http://localhost.evil.example",
        "file://localhost",
        "http://127.0.0.1.evil",
    ],
)
async def test_a_foreign_origin_is_refused_even_without_a_preflight(address: str, origin: str) -> None:
    answer = await call(address, headers={**JSON, "origin": origin}, content=b'{"query":"{a}"}')
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{address}/graphql/realtime", additional_headers={"origin": origin}):
            pass
    assert refused.value.response.status_code == 403


@pytest.mark.contract("BR-2")
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("console.example", 200),
        ("console.example:8443", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("", 421),
        ("localhost.evil", 421),
    ],
)
async def test_the_host_is_one_of_a_list(address: str, host: str, status: int) -> None:
    answer = await call(address, headers={**JSON, "host": host}, content=b'{"query":"{a}"}')
    assert answer.status_code == status


async def test_a_header_that_decides_something_may_come_once_only(address: str) -> None:
    answer = await call(
        address,
        headers=[("content-type", "application/json"), ("authorization", "a"), ("authorization", "b")],
        content=b'{"query":"{a}"}',
    )
    assert answer.status_code == 400


@pytest.mark.contract("BR-5")
async def test_a_bug_leaves_as_a_500_with_the_request_id_and_nothing_else(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await call(address, path="/bug")
    assert answer.status_code == 500
    assert answer.headers["x-amzn-errortype"] == "InternalFailure"
    assert answer.headers["x-amzn-requestid"] in answer.json()["message"]
    assert "marker-8d1f" not in answer.text + caplog.text
    assert "RuntimeError" not in answer.text
    assert "RuntimeError" in caplog.text, "the log names the class and the frames"
