"""Clients that vanish: a reset in the middle of a mutation or of a big read leaves no transaction and no pool slot behind."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from typing import Any

import asyncpg
import pytest

from resolvers.limits import Limits
from tests import factories
from tests.api.conftest import MakeStage
from tests.api.stage import Stage

REFUND = """mutation($order: ID!, $key: ID!) {
  requestRefund(input: {orderId: $order, amount: {amountMinor: 100, currency: "EUR"}, idempotencyKey: $key, reason: {code: "QUALITY_ISSUE"}}) {
    outcome refund { id } } }"""
BIG = "{ listCases(limit: 100) { items { id kind state subject { id displayName } notes(limit: 10) { items { id body } } reports(limit: 5) { items { id } } } } }"
AT_ONCE = 12
UNLIMITED = Limits(query_rate=(10_000.0, 10_000), mutation_rate=(10_000.0, 10_000), operations_at_once=1_000)
_OPEN = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usename = 'cs_app' AND (state <> 'idle' OR xact_start IS NOT NULL)
"""


async def vanish(stage: Stage, person: str, text: str, variables: dict[str, Any], chance: random.Random) -> None:
    """Ask, and be gone: before the body's end, while it is worked at, or while the answer is on its way."""
    body = json.dumps({"query": text, "variables": variables}).encode()
    head = (
        f"POST /graphql HTTP/1.1\r\nhost: {stage.address}\r\ncontent-type: application/json\r\n"
        f"authorization: {stage.token(person)}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    host, port = stage.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
    way = chance.random()
    writer.write(head + body[: chance.randrange(len(body))] if way < 0.2 else head + body)
    await writer.drain()
    if way < 0.8:
        await asyncio.sleep(chance.random() * 0.03)
    else:
        await reader.read(chance.randrange(1, 2_000))
    writer.transport.abort()


@pytest.mark.contract("RL-12", "AU-4")
async def test_vanished_clients_leave_nothing_open(stages: MakeStage, request: pytest.FixtureRequest) -> None:
    clients = 500 if request.config.getoption("--long") else 50
    stage, chance, turn = await stages(UNLIMITED), random.Random(12), asyncio.Semaphore(AT_ONCE)
    conn = await asyncpg.connect(**stage.database.superuser)
    try:
        order = await factories.ledger(conn, captured_minor=50_000_000)
        queue = await factories.queue(conn)
        for _ in range(100):
            case = await factories.case(conn, queue_id=queue)
            for _ in range(5):
                await factories.note(conn, case, "st_ts", body="n" * 500)

        async def client(number: int) -> None:
            async with turn:
                if number % 2:
                    await vanish(stage, "st_ts", BIG, {}, chance)
                else:
                    await vanish(stage, "st_finance", REFUND, {"order": order, "key": f"key {number}"}, chance)

        await asyncio.gather(*(client(number) for number in range(clients)))
        await _quiet(conn, stage)
        assert (await stage.ask("st_finance", REFUND, {"order": order, "key": "last"})).json()["data"] is not None
        await _told_once(conn, order)
    finally:
        await conn.close()


async def _quiet(conn: asyncpg.Connection[Any], stage: Stage) -> None:
    """Soon every connection lies in the pool again, and none has a transaction."""
    pool = stage.parts.app_pool
    async with asyncio.timeout(10):
        while await conn.fetchval(_OPEN) or pool.get_idle_size() != pool.get_size():
            await asyncio.sleep(0.02)
    assert pool.get_size() <= pool.get_max_size()


async def _told_once(conn: asyncpg.Connection[Any], order: str) -> None:
    """What had begun went on to its end: each refund once, on record, and its key remembers it."""
    (found,) = await conn.fetch(
        "SELECT (SELECT count(*) FROM refund WHERE order_id = $1) AS refunds,"
        " (SELECT count(*) FROM idempotency WHERE result IS NOT NULL) AS keys,"
        " (SELECT count(*) FROM audit.intake WHERE body LIKE '%\"Mutation.requestRefund\"%') AS records,"
        " (SELECT reserved_minor / 100 FROM order_ledger WHERE order_id = $1) AS reserved",
        order,
    )
    assert found["refunds"] == found["keys"] == found["records"] == found["reserved"]
    assert found["refunds"] > 10, "some got as far as that"
