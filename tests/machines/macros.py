"""Macro runs as the machines drive them: what a run leaves, told apart by the words of its reason, and what must hold of it.

A run's reason note is its mark: the steps copy it into the rows they make, so a row says which run it is of.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from resolvers import macro_preview
from resolvers.computed import Call
from schema.errors import ConsoleError
from tests import factories
from tests.machines.world import LARGE, Said, World

PARAMETERS = {
    "type": "object",
    "properties": {
        "orderId": {"type": "string"},
        "amountMinor": {"type": "integer", "minimum": 0},
        "resolve": {"type": "boolean"},
    },
    "required": ["orderId", "amountMinor", "resolve"],
    "additionalProperties": False,
}
_STEPS: Any = factories.REFUND_STEPS
_REFUND, _NOTE, _RESOLVE = _STEPS


def steps(version: int) -> list[dict[str, Any]]:
    """The steps of a version: refund where there is something to refund, note it, resolve where that is wanted."""
    amount = {"amountMinor": "{{param.amountMinor}}", "currency": "{{order.currency}}"}
    body = f"{{{{reason.note}}}} of version {version}"
    return [
        {**_REFUND, "argsTemplate": {**_REFUND["argsTemplate"], "amount": amount}, "when": "param.amountMinor"},
        {**_NOTE, "argsTemplate": {"body": body, "internal": True}},
        {**_RESOLVE, "when": "param.resolve"},
    ]


_RUNS = """
SELECT r.*, c.state AS case_state, c.approval_request_id AS case_request, c.lease_token, c.lease_expires_at,
  a.state AS request, a.execution, a.execute_by, a.executed_at, a.approve_by, a.closed_at, a.approvals_needed,
  a.window_sum_minor, a.reason_note,
  (SELECT count(*) FROM approval_execution e WHERE e.request_id = a.id) AS executions,
  ARRAY (SELECT v.voter_id FROM approval_vote v WHERE v.request_id = a.id AND v.vote = 'APPROVE'
    AND v.counts AND v.withdrawn_at IS NULL) AS quorum
FROM macro_run r JOIN case_file c ON c.id = r.case_id LEFT JOIN approval_request a ON a.id = r.approval_request_id
WHERE r.city_id = $1 ORDER BY r.created_at, r.id
"""
_REFUNDS = """
SELECT r.*, (SELECT count(*) FROM outbox o WHERE o.key = r.id) AS departures,
  (SELECT sum(e.amount_minor) FROM refund e WHERE e.requester_id = r.requester_id AND e.buyer_id = r.buyer_id
    AND e.state NOT IN ('FAILED', 'CANCELED', 'REJECTED') AND e.created_at > r.created_at - interval '24 hours'
    AND e.created_at <= r.created_at) AS lately
FROM refund r
WHERE r.city_id = $1 AND r.reason_note IS NOT NULL
"""
_NOTES = "SELECT case_id, body FROM note WHERE city_id = $1"
_CASES = "SELECT * FROM case_file WHERE city_id = $1"
# Every table that a step could leave something in, row by row.
_PRINT = """
SELECT md5(string_agg(t, ',' ORDER BY t)) FROM (
  SELECT x::text AS t FROM case_file x UNION ALL SELECT x::text FROM order_ledger x UNION ALL SELECT x::text FROM refund x
  UNION ALL SELECT x::text FROM note x UNION ALL SELECT x::text FROM macro_run x UNION ALL SELECT x::text FROM macro x
  UNION ALL SELECT x::text FROM outbox x UNION ALL SELECT x::text FROM approval_request x
  UNION ALL SELECT x::text FROM alert x UNION ALL SELECT x::text FROM idempotency x
  UNION ALL SELECT count(*)::text FROM event UNION ALL SELECT count(*)::text FROM timeline
  UNION ALL SELECT count(*)::text FROM audit.intake) AS every
"""
ENDED = {"REJECTED": "REJECTED", "CANCELED": "REJECTED", "EXPIRED": "EXPIRED", "INVALIDATED": "FAILED"}
WAITING = ("PENDING", "APPROVED")


@dataclass(frozen=True)
class Shown:
    """A plan that somebody was shown: by whom, of what, when."""

    who: str
    given: Mapping[str, Any]
    plan: Mapping[str, Any]
    at: int  # the world's clock


@dataclass
class Macros:
    """A macro of one city's example, its plans and its runs."""

    world: World
    city: str
    macro: str
    may_approve: Mapping[str, int] = field(default_factory=dict)  # by person, where the machine knows it
    plans: list[Shown] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)  # run -> the mark of its rows
    executed: set[str] = field(default_factory=set)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def lease(self, who: str, case: str) -> str:
        """The lease of a case, claimed where it is nobody's."""
        await self.world.ask(who, "claimCase", caseId=case)
        row = await self.world.bench.row("case_file", case)
        return str(row["lease_token"] if row["assignee_id"] == who else "none")

    async def preview(self, who: str, case: str, *, order: str, amount: int, resolve: bool) -> Shown | None:
        """Look at a plan. Nothing of it stays behind."""
        world = self.world
        given = {
            "macroId": self.macro,
            "caseId": case,
            "leaseToken": await self.lease(who, case),
            "parameters": {"orderId": order, "amountMinor": amount, "resolve": resolve},
        }
        snapshot = await world.bench.authorizer.current(
            await world.bench.conn.fetchval("SELECT version FROM authz_version")
        )
        answer = macro_preview.functions(lambda: world.bench.pipeline)["previewMacro"]
        before = await world.bench.conn.fetchval(_PRINT)
        try:
            plan = await answer(Call(factories.caller(snapshot, who), snapshot, {"input": given}))
        except ConsoleError as error:
            if error.code == "INTERNAL":
                raise
            return None
        finally:
            assert await world.bench.conn.fetchval(_PRINT) == before, "something of a preview stayed behind"
        shown = Shown(who, given, plan, world.clock)
        self.plans.append(shown)
        return shown

    async def run(self, shown: Shown, *, key: str | None = None) -> Said:
        """Run a plan as it was shown."""
        number = next(self.numbers)
        mark = f"{self.city} run {number}"
        reason = {"code": "CANCELED_BY_STUDIO", "note": mark}
        given = {**shown.given, "planHash": shown.plan["planHash"], "reason": reason}
        said = await self.world.ask(shown.who, "runMacro", input={**given, "idempotencyKey": key or mark})
        if said.done is not None and said.outcome != "REPLAYED":
            assert self.world.clock - shown.at <= 600, "a plan of more than ten minutes ago was good for a run"
            assert shown.plan["executable"]
            assert (said.outcome == "PENDING_APPROVAL") == shown.plan["needsApproval"]
            self.marks[said.done.refs["run"]] = mark
            if said.outcome == "PENDING_APPROVAL":
                self.requests.append(said.done.refs["approvalRequest"])
        return said

    # ---------- what must hold ----------
    async def check(self) -> list[Any]:
        """All steps of a run or none, once, as it was planned; the runs that were executed since the last look."""
        refunds = await self.world.look(_REFUNDS, self.city)
        notes = await self.world.look(_NOTES, self.city)
        rows = await self.world.look(_RUNS, self.city)
        assert {row["id"] for row in rows} == self.marks.keys(), "a run that nobody heard of"
        left = 0
        for row in rows:
            mark = self.marks[row["id"]]
            of_it = [refund for refund in refunds if refund["reason_note"] == mark]
            noted = [note for note in notes if note["body"].startswith(f"{mark} of ")]
            left += len(of_it) + len(noted)
            self._check_run(row, of_it, noted)
        assert left == len(refunds) + len(notes), "a step's row without its run"
        for case in await self.world.look(_CASES, self.city):
            leased = case["lease_token"] is not None
            assert (case["state"] == "CLAIMED") == leased == (case["lease_expires_at"] is not None), case
            assert (case["state"] == "PENDING_APPROVAL") == (case["approval_request_id"] is not None), case
        fresh = [row for row in rows if row["state"] == "EXECUTED" and row["id"] not in self.executed]
        self.executed |= {row["id"] for row in fresh}
        return fresh

    def _check_run(self, row: Any, refunds: Sequence[Any], notes: Sequence[Any]) -> None:
        planned = {step["key"]: step["verdict"] for step in orjson.loads(row["steps"])}
        done = row["state"] == "EXECUTED"
        assert len(refunds) == (done and planned["refund"] != "NO_OP"), row
        assert len(notes) == (done and planned["note"] != "NO_OP"), row
        gated = "NEEDS_APPROVAL" in planned.values()
        assert gated == (row["approval_request_id"] is not None), row
        for refund in refunds:
            assert (refund["case_id"], refund["requester_id"]) == (row["case_id"], row["requester_id"]), row
            assert refund["departures"] == 1, refund
        for note in notes:
            assert (note["case_id"], note["body"]) == (
                row["case_id"],
                f"{self.marks[row['id']]} of version {row['macro_version']}",
            )
        if done and planned["resolve"] == "OK":
            assert row["case_state"] == "RESOLVED", row
        if gated:
            self._check_approved(row, refunds)
        else:
            assert done, row
            assert all(refund["approved_by_ids"] == [] for refund in refunds), row

    def _check_approved(self, row: Any, refunds: Sequence[Any]) -> None:
        """Executed once, in time, by enough people without the requester; while it waits, the case waits for it and nothing else."""
        done = row["state"] == "EXECUTED"
        assert row["executions"] == done == (row["execution"] == "EXECUTED"), row
        assert row["reason_note"] == self.marks[row["id"]], row
        if row["execution"] == "EXPIRED":
            assert row["state"] == "EXPIRED", row
        elif not done:
            assert row["state"] == ENDED.get(row["request"], "PENDING_APPROVAL"), row
        if row["state"] == "PENDING_APPROVAL":
            assert row["request"] in WAITING, row
            assert (row["case_state"], row["case_request"]) == ("PENDING_APPROVAL", row["approval_request_id"]), row
        else:
            assert row["case_request"] != row["approval_request_id"], row
        if done:
            approved_by = set(refunds[0]["approved_by_ids"])
            needed = 2 if row["window_sum_minor"] > LARGE else 1
            assert len(approved_by) >= max(needed, row["approvals_needed"]), row
            assert row["requester_id"] not in approved_by, row
            assert approved_by <= set(row["quorum"]), row
            for person in approved_by & self.may_approve.keys():
                assert self.may_approve[person] >= refunds[0]["lately"], ("approved beyond the ceiling", row, refunds)
            assert row["created_at"] <= row["executed_at"] < row["execute_by"], row
            assert row["closed_at"] < row["approve_by"], row
