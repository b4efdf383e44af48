"""The audit's own root fields: who may verify and prove what, and pages of checkpoints."""

from __future__ import annotations

import base64
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from audit.record import staff_actor
from audit.writer import Limits
from resolvers import audit_roots
from resolvers.computed import Call
from schema.errors import ConsoleError, NotAuthorizedError
from tests import factories as f
from tests.audit.conftest import Log, log

__all__ = ["log"]


async def asked(log: Log, staff_id: str, field: str, **arguments: Any) -> Any:
    conn = await asyncpg.connect(**log.database.superuser)
    try:
        snapshot = await f.snapshot(conn)
    finally:
        await conn.close()
    functions = audit_roots.functions(log.reader, log.trust, Limits(), worm=False)
    return await functions[field](Call(f.caller(snapshot, staff_id), snapshot, arguments))


async def people(log: Log) -> None:
    conn = await asyncpg.connect(**log.database.superuser)
    try:
        await f.staff(conn, "SUPPORT", id="st_agent")
        await f.staff(conn, "AUDITOR", id="st_auditor", cities=("*",))
    finally:
        await conn.close()


async def test_one_proves_his_own_records_and_an_auditor_all_of_them(log: Log) -> None:
    await people(log)
    [own] = await log.append(actor=staff_actor("st_agent", ["SUPPORT"], session="s1", client="web"))
    [other] = await log.append()
    await log.seal()
    assert (await asked(log, "st_agent", "getAuditProof", id=own))["recordId"] == own
    assert (await asked(log, "st_auditor", "getAuditProof", id=other))["recordId"] == other
    # Another's, none at all and no id at all answer alike.
    for absent in (other, str(uuid4()), "rec_1", ""):
        assert await asked(log, "st_agent", "getAuditProof", id=absent) is None


async def test_verification_and_health_are_the_auditors(log: Log) -> None:
    await people(log)
    await log.append(3)
    await log.seal()
    assert (await asked(log, "st_auditor", "verifyAudit"))["checked"] == 3
    assert (await asked(log, "st_auditor", "auditHealth"))["failClosed"] is False
    for field in ("verifyAudit", "auditHealth"):
        with pytest.raises(NotAuthorizedError, match=f"Not Authorized to access {field} on type Query"):
            await asked(log, "st_agent", field)


async def test_checkpoints_come_in_pages_and_a_token_of_ones_own_is_refused(log: Log) -> None:
    await people(log)
    for _ in range(3):
        await log.append()
        await log.seal()
    first = await asked(log, "st_auditor", "listAuditCheckpoints", limit=2)
    rest = await asked(log, "st_auditor", "listAuditCheckpoints", limit=2, nextToken=first["nextToken"])
    assert [item["size"] for item in (*first["items"], *rest["items"])] == [3.0, 2.0, 1.0]
    assert rest["nextToken"] is None
    for text in ("checkpoint:", "checkpoint:-1", f"checkpoint:{2**63}", "page:1", "\xff"):
        with pytest.raises(ConsoleError) as caught:
            token = base64.urlsafe_b64encode(text.encode("latin-1")).decode()
            await asked(log, "st_auditor", "listAuditCheckpoints", nextToken=token)
        assert caught.value.code == "INVALID_NEXT_TOKEN"
