"""The limit: a bare ASGI callable that runs one prepared statement and sends its bytes. No GraphQL, no token, no policy.

With ``audited`` the same durable record is made by the same writer: group commit for reads, in the statement itself for the
mutation. What the product takes beyond that is what it does for its callers.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg

from audit.keys import Keys
from audit.writer import Writer
from authz.caller import Caller, Grant
from authz.enforcer import Snapshot
from authz.policy import Policy
from benchmarks.bare import Bare
from countersign.settings import Settings
from db.unit_of_work import uuid7
from resolvers.context import Request, utc_now
from resolvers.records import wire_record

_AT: Final = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
_CASE: Final = (
    'id, kind, state, subject_id AS "subjectId", queue_id AS "queueId", city_id AS "cityId", priority,'
    f' content_category AS "contentCategory", version, {_AT.format("created_at")} AS "createdAt"'
)
_Q1: Final = f"""
SELECT convert_to('{{"data":{{"getCase":' || coalesce((SELECT row_to_json(x)::text FROM
  (SELECT {_CASE} FROM case_file WHERE id = $1) x), 'null') || '}}}}', 'UTF8'), ARRAY[$1::text]
"""  # noqa: S608 - no input in it
_Q2: Final = f"""
WITH page AS MATERIALIZED (SELECT * FROM case_file WHERE queue_id = $1 AND priority < $2 ORDER BY priority DESC, id DESC LIMIT 20)
SELECT convert_to('{{"data":{{"listCasesByPriority":{{"items":' || coalesce(json_agg(row_to_json(x) ORDER BY x.priority DESC, x.id DESC)::text, '[]')
  || '}}}}}}', 'UTF8'), array_agg(x.id)
FROM (SELECT p.id, p.state, p.priority,
        (SELECT row_to_json(s) FROM (SELECT id, kind, state FROM subject WHERE id = p.subject_id) s) AS subject,
        (SELECT row_to_json(a) FROM (SELECT id, display_name AS "displayName" FROM staff WHERE id = p.assignee_id) a) AS assignee,
        (SELECT json_build_object('items', coalesce(json_agg(row_to_json(r)), '[]')) FROM
          (SELECT id, category, {_AT.format("created_at")} AS "createdAt" FROM report WHERE case_id = p.id
           ORDER BY report.created_at DESC, id DESC LIMIT 3) r) AS reports
      FROM page p) x
"""  # noqa: S608 - no input in it
_Q3: Final = f"""
WITH page AS MATERIALIZED (SELECT *, row_number() OVER () AS n FROM (SELECT * FROM case_file WHERE city_id = $1 AND created_at < $2
  ORDER BY created_at DESC, id DESC LIMIT $3 + 1) found)
SELECT convert_to('{{"data":{{"listCases":{{"items":' || coalesce((SELECT json_agg(row_to_json(x))::text FROM
    (SELECT {_CASE}, assignee_id AS "assigneeId", skips FROM page WHERE n <= $3 ORDER BY n) x), '[]')
  || ',"nextToken":' || coalesce((SELECT to_json(encode(convert_to(created_at || id, 'UTF8'), 'base64'))::text FROM page
       WHERE n = $3 AND EXISTS (SELECT 1 FROM page WHERE n > $3)), 'null')
  || '}}}}}}', 'UTF8'), (SELECT array_agg(id) FROM page WHERE n <= $3)
"""  # noqa: S608 - no input in it
_RENEW: Final = """
UPDATE case_file SET lease_expires_at = least(now() + interval '15 minutes', lease_started_at + interval '8 hours')
WHERE id = $1 AND lease_token = $2 AND state = 'CLAIMED' AND lease_expires_at > now() RETURNING lease_token, assignee_id
"""
_RENEWED: Final = """
convert_to('{"data":{"renewLease":{"outcome":"EXECUTED","lease":{"token":' || to_json(lease_token)::text || ',"holder":'
  || (SELECT row_to_json(a)::text FROM (SELECT id, display_name AS "displayName" FROM staff WHERE id = assignee_id) a) || '}}}}', 'UTF8')
"""
_M1: Final = f"WITH done AS ({_RENEW}) SELECT {_RENEWED} FROM done"  # noqa: S608 - as above
_M1_KEPT: Final = f"""
WITH done AS ({_RENEW}), kept AS (SELECT audit.append($3::text[], $4::bytea[], $5::bytea[], $6::text[]) FROM done)
SELECT {_RENEWED} FROM done, kept
"""  # noqa: S608 - no input in it
_ROOTS: Final = {"Q1": "getCase", "Q2": "listCasesByPriority", "Q3": "listCases", "M1": "renewLease"}


class _Named(NamedTuple):
    statement: str
    arguments: tuple[Any, ...]


def _bound(name: str, variables: dict[str, Any]) -> _Named:
    if name == "Q1":
        return _Named(_Q1, (variables["id"],))
    if name == "Q2":
        return _Named(_Q2, (variables["queue"], variables["below"]))
    if name == "Q3":
        return _Named(_Q3, (variables["city"], datetime.fromisoformat(variables["before"]), variables["limit"]))
    return _Named(_M1, (variables["case"], variables["token"]))


class _OneStatement:
    """Stands where the writer expects a connection: what it would append goes into the mutation's own statement."""

    def __init__(self, conn: Any, arguments: Sequence[Any]) -> None:
        self._conn = conn
        self._arguments = arguments
        self.answer: bytes | None = None

    async def execute(self, _: str, *columns: Any, timeout: float) -> None:  # noqa: ASYNC109 - asyncpg's signature
        self.answer = await self._conn.fetchval(_M1_KEPT, *self._arguments, *columns, timeout=timeout)


class Limit(Bare):
    """The ASGI application."""

    def __init__(self, settings: Settings, *, audited: bool) -> None:
        # The owner sees every row without row-level security and may change one without a record: as bare as it gets.
        super().__init__(settings, "cs_owner")
        self._audited = audited
        self._appending: asyncpg.Pool[Any]  # whoever appends has the rights of any serving process
        self._writer: Writer
        self._request: Request

    async def start(self) -> None:
        await super().start()
        if self._audited:
            self._appending = await self.opened("cs_app")
        self._writer = Writer(Keys.open(self.settings.keys_dir), origin=self.settings.audit_origin)
        self.stack.push_async_callback(self._writer.close)
        grant = Grant("bg_0", "TRUST_SAFETY", "AGENT", ("lisbon", "berlin"), ("SFW", "SUGGESTIVE", "NSFW"))
        now = utc_now()
        caller = Caller("bp_0", "bench-0", "Person", (grant,), now, now, now, "0" * 32)
        self._request = Request(
            str(uuid7()), None, caller, Snapshot(1, Policy.shipped(), {}), "Q", "0" * 64, None, "127.0.0.1", None, now
        )

    async def answer(self, document: str, variables: dict[str, Any]) -> bytes:
        name = document.split("(", 1)[0].split()[1]
        statement, arguments = _bound(name, variables)
        if not self._audited:
            async with self.pool.acquire() as conn:
                return bytes((await conn.fetchrow(statement, *arguments))[0])
        if name == "M1":
            async with self._appending.acquire() as conn:
                deed = _OneStatement(conn, arguments)
                await self._writer.append_now(deed, [self._record(name, variables, [variables["case"]])])
                return bytes(deed.answer or b'{"errors":[]}')
        async with self.pool.acquire() as conn:
            answer, ids = await conn.fetchrow(statement, *arguments)
        receipts = await self._writer.reads(self._appending, [self._record(name, variables, ids or [])])
        receipt = f',"extensions":{{"audit":[{{"field":"x","id":"{receipts[0].id}","hash":"{receipts[0].hash}"}}]}}}}'
        return bytes(answer[:-1]) + receipt.encode()

    def _record(self, name: str, variables: dict[str, Any], ids: Sequence[str]) -> dict[str, Any]:
        """A record as the product makes one for this answer: ids, counts, digests, and about as many field names."""
        fields = [f"Case.{chr(97 + n)}ieldOfTheCase" for n in range(12)]
        return wire_record(
            self._request,
            utc_now(),
            kind="mutation" if name == "M1" else "read",
            action="case.renew" if name == "M1" else "case.list",
            field=_ROOTS[name],
            arguments=variables,
            policy_row="0" * 16,
            object_type="Case",
            ids=ids,
            count=len(ids),
            filter_digest=base64.b16encode(name.encode() * 8).decode().lower(),
            outcome="EXECUTED",
            fields={"read": fields, "masked": [], "pii": {}},
        )
