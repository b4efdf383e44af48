"""Approval policies as a state machine: changed by countersignature while requests wait, and none is done by a policy of before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from authz import approval_book
from tests import factories
from tests.machines.conftest import RunMachine
from tests.machines.macros import PARAMETERS, Macros, steps
from tests.machines.world import Said, World, ask_refund, ballot, check_requests, check_sums, hire

HIRED = (
    ("SUPPORT", "AGENT"),
    ("FINANCE", "SENIOR"),
    ("FINANCE", "LEAD"),
    ("FINANCE", "LEAD"),
)
OFFICE = ("ADMIN", "ADMIN", "ADMIN", "AUDITOR")  # of every city, as policies are
ALONE = 5_000  # the ceiling of who asks
AMOUNTS = (1_500, 4_000, 12_000, 25_000)
_OTHER = {"fact": "destination", "op": "eq", "value": "OTHER_INSTRUMENT"}


def above(amount: int) -> dict[str, Any]:
    return {"any": [{"fact": "sum24hMinor", "op": "gt", "value": amount}, _OTHER]}


def refunds(amount: int) -> dict[str, Any]:
    return {
        "id": "refund.request/1",
        "action": "refund.request",
        "condition": above(amount),
        "approvals": 1,
        "approverRoles": ["SUPPORT", "FINANCE"],
        "minTier": "AGENT",
        "mustInclude": [["SUPPORT LEAD", "FINANCE AGENT"]],
        "approveWithinSeconds": 86_400,
        "executeWithinSeconds": 3_600,
        "enabled": True,
    }


def runs(seconds: int) -> dict[str, Any]:
    return {
        "id": "macro.run/1",
        "action": "macro.run",
        "condition": {"fact": "stepApprovals", "op": "gt", "value": 0},
        "approvals": 1,
        "approverRoles": [],
        "minTier": "AGENT",
        "mustInclude": "STEPS",
        "approveWithinSeconds": seconds,
        "executeWithinSeconds": 3_600,
        "enabled": True,
    }


def proposals(seconds: int) -> dict[str, Any]:
    return {
        "id": "approvalPolicy.propose/1",
        "action": "approvalPolicy.propose",
        "condition": None,
        "approvals": 2,
        "approverRoles": ["ADMIN", "AUDITOR"],
        "minTier": "AGENT",
        "mustInclude": [["ADMIN AGENT"], ["AUDITOR AGENT"]],
        "approveWithinSeconds": seconds,
        "executeWithinSeconds": 3_600,
        "enabled": True,
    }


def decisions(seconds: int) -> dict[str, Any]:
    """Of an action that nothing here asks for: whatever waits goes on waiting."""
    return {
        **refunds(0),
        "id": "case.decide/2",
        "action": "case.decide",
        "condition": None,
        "approverRoles": ["TRUST_SAFETY"],
        "minTier": "SENIOR",
        "mustInclude": None,
        "approveWithinSeconds": seconds,
    }


CHANGES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "refunds": tuple(refunds(amount) for amount in (500, 2_000, 3_000)),
    "runs": tuple(runs(seconds) for seconds in (86_400, 100_000)),
    "proposals": tuple(proposals(seconds) for seconds in (86_400, 90_000)),
    "decisions": tuple(decisions(seconds) for seconds in (86_400, 90_000)),
}
changes = st.sampled_from(("refunds", "refunds", "refunds", "runs", "proposals", "decisions"))
MEANWHILE = ("", "vote", "vote", "ask", "propose", "cancel", "lose")

_FRESH = "SELECT n, body FROM audit.intake WHERE n > $1 ORDER BY n"
_LAST = "SELECT coalesce(max(n), 0) FROM audit.intake"
_OPEN = """
SELECT * FROM approval_request
WHERE state = 'PENDING' OR (state = 'APPROVED' AND execution IN ('NOT_STARTED', 'FAILED'))
"""
_EXECUTED = "SELECT * FROM approval_request WHERE execution = 'EXECUTED' AND id = ANY ($1)"
_POLICIES = """
SELECT p.*, a.execution, a.requester_id, a.entity_id, ARRAY (SELECT v.voter_id FROM approval_vote v
  WHERE v.request_id = a.id AND v.vote = 'APPROVE' AND v.counts AND v.withdrawn_at IS NULL) AS quorum
FROM approval_policy p LEFT JOIN approval_request a ON a.id = p.request_id ORDER BY p.id, p.version
"""


def keys_of(request: Any) -> set[str]:
    """The actions whose policies a request rests on: its own, and those of its steps."""
    return {request["action"], *(gate["action"] for gate in orjson.loads(request["gates"]))}


class Policies(RuleBasedStateMachine):
    """Order is that of the authorization version: each record says by which version it was decided."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.lost: set[int] = set()
        self.moving: set[int] = set()
        # Action, and the version that its change was decided by: what it says holds from the next one on.
        self.changed: list[tuple[str, int]] = []

    @initialize()
    def open_office(self) -> None:
        self.city = f"policy{next(self.world.cities)}"
        self.world.run(self._open())

    async def _open(self) -> None:
        conn = self.world.bench.conn
        self.office = [await factories.staff(conn, role, cities=("*",)) for role in OFFICE]
        for tier in ("SENIOR", "LEAD"):  # somebody must be able to fill the seats of a policy of decisions
            self.office.append(await factories.staff(conn, "TRUST_SAFETY", tier, cities=("*",)))
        self.people = await hire(self.world, self.city, *HIRED)
        macro = await factories.macro(conn, self.people[0], parameters=PARAMETERS, steps=steps(1))
        self.macros = Macros(self.world, self.city, macro)
        self.queue = await factories.queue(conn, kind="REFUND", city_ids=(self.city,))
        self.order = await factories.ledger(
            conn, city_id=self.city, captured_minor=9_000_000, buyer_id=f"buyer_{self.city}"
        )
        self.refunds: list[str] = []
        self.proposals: list[str] = []
        self.read = await conn.fetchval(_LAST)

    # ---------- what is asked ----------
    async def _refund(self, amount: int) -> Said:
        before = await self._threshold()
        given = ask_refund(self.order, amount, f"{self.city}{self.world.attempts}")
        said = await self.world.ask(self.people[0], "requestRefund", input=given)
        if said.outcome == "PENDING_APPROVAL" and said.done is not None:
            self.refunds.append(said.done.refs["approvalRequest"])
        elif said.outcome == "EXECUTED":
            assert amount <= max(before, await self._threshold()), "done alone, though a policy in force says otherwise"
        return said

    async def _threshold(self) -> int:
        """What is done alone by the policy in force."""
        sql = "SELECT condition FROM approval_policy WHERE id = 'refund.request/1' AND current"
        value = orjson.loads(await self.world.bench.conn.fetchval(sql))["any"][0]["value"]
        return value if isinstance(value, int) else ALONE

    async def _run(self, amount: int) -> None:
        case = await factories.case(self.world.bench.conn, kind="REFUND", city_id=self.city, queue_id=self.queue)
        shown = await self.macros.preview(self.people[0], case, order=self.order, amount=amount, resolve=True)
        if shown is not None:
            await self.macros.run(shown)

    @rule(amount=st.sampled_from(AMOUNTS), macro=st.booleans())
    def ask(self, amount: int, macro: bool) -> None:
        self.world.run(self._run(amount) if macro else self._refund(amount))

    async def _propose(self, change: str, which: int, who: int = 0) -> None:
        wanted = CHANGES[change][which % len(CHANGES[change])]
        row = await self.world.bench.conn.fetchrow(
            "SELECT version FROM approval_policy WHERE id = $1 AND current", wanted["id"]
        )
        given = {**wanted, "expectedVersion": row["version"], "reason": {"code": "INTERNAL_AUDIT"}}
        said = await self.world.ask(self.office[who], "saveApprovalPolicy", input=given)
        assert said.outcome != "EXECUTED", "a policy was changed by one person"
        if said.done is not None:
            self.proposals.append(said.done.refs["approvalRequest"])

    @rule(change=changes, which=st.integers(0, 2), who=st.integers(0, 1))
    def propose(self, change: str, which: int, who: int) -> None:
        self.world.run(self._propose(change, which, who))

    # ---------- what is approved ----------
    async def _vote(self, request: str, *, office: bool, who: int, vote: str = "APPROVE") -> None:
        person = self.office[who] if office else self.people[who]
        await ballot(self.world, person, request, vote)

    async def _waiting(self, *, macro: bool) -> str | None:
        """The newest request of a refund, or of a macro that refunds; asked for now if it waits no more."""
        requests = self.macros.requests if macro else self.refunds
        if not requests or (await self.world.bench.row("approval_request", requests[-1]))["state"] != "PENDING":
            await (self._run(12_000) if macro else self._refund(12_000))
        return requests[-1] if requests else None

    @rule(macro=st.booleans(), who=st.integers(1, 3), vote=st.sampled_from(("APPROVE",) * 4 + ("REJECT",)))
    def vote(self, macro: bool, who: int, vote: str) -> None:
        request = self.world.run(self._waiting(macro=macro))
        if request is not None:
            self.world.run(self._vote(request, office=False, who=who, vote=vote))

    @rule(who=st.integers(0, 3), vote=st.sampled_from(("APPROVE",) * 4 + ("REJECT",)))
    def vote_on_a_change(self, who: int, vote: str) -> None:
        if self.proposals:
            self.world.run(self._vote(self.proposals[-1], office=True, who=who, vote=vote))

    @rule(change=changes, which=st.integers(0, 2), macro=st.booleans(), meanwhile=st.sampled_from(MEANWHILE))
    def change(self, change: str, which: int, macro: bool, meanwhile: str) -> None:
        """Proposed, agreed to by one, then by the other while somebody asks, votes, proposes, calls off or loses a right."""
        before, other = len(self.proposals), self.world.run(self._waiting(macro=macro))
        self.world.run(self._propose(change, which))
        if len(self.proposals) == before:
            return
        request = self.proposals[-1]
        self.world.run(self._vote(request, office=True, who=1))
        last = self._vote(request, office=True, who=3)
        if meanwhile == "vote" and other is not None:
            self.world.at_once(last, self._vote(other, office=False, who=2))
        elif meanwhile == "ask":
            self.world.at_once(last, self._refund(4_000))
        elif meanwhile == "propose":
            self.world.at_once(last, self._propose("refunds", which + 1, 2))
        elif meanwhile == "cancel":
            self.world.at_once(last, self._cancel(request))
        elif meanwhile == "lose":
            self.moving = set() if 1 in self.lost else {1}
            self.world.at_once(last, self._lose(1))
        else:
            self.world.run(last)

    @rule(one=st.sampled_from(("refunds", "runs")), other=st.sampled_from(("refunds", "proposals", "decisions")))
    def two_changes_at_once(self, one: str, other: str) -> None:
        waiting = []
        for who, change in enumerate((one, other)):
            before = len(self.proposals)
            self.world.run(self._propose(change, who + len(self.changed), who))
            waiting += self.proposals[before:]
        for request in waiting:
            self.world.run(self._vote(request, office=True, who=2))
        self.world.at_once(*(self._vote(request, office=True, who=3) for request in waiting))

    async def _cancel(self, request_id: str) -> None:
        row = await self.world.bench.row("approval_request", request_id)
        given = {"requestId": request_id, "expectedVersion": row["version"], "reason": {"code": "SHIFT_END"}}
        await self.world.ask(row["requester_id"], "cancelApproval", input=given)

    # ---------- rights and the clock ----------
    async def _lose(self, who: int) -> None:
        await self.world.bench.conn.execute("DELETE FROM staff_grant WHERE staff_id = $1", self.office[who])
        self.lost.add(who)

    async def _regain(self) -> None:
        for who in self.lost:
            await factories.grant(self.world.bench.conn, self.office[who], OFFICE[who], cities=("*",))
        self.lost.clear()

    @rule(who=st.integers(0, 3))
    def lose_or_regain(self, who: int) -> None:
        self.world.run(self._regain() if self.lost else self._lose(who))

    @rule(seconds=st.sampled_from((600, 600, 3_700, 90_000)), timers=st.booleans())
    def time_passes(self, seconds: int, timers: bool) -> None:
        self.world.tick(seconds)
        if timers:
            self.world.timers()

    # ---------- what must hold ----------
    @invariant()
    def holds(self) -> None:
        if hasattr(self, "proposals"):
            self.world.run(self._holds())
        self.moving = set()

    async def _fresh(self) -> list[dict[str, Any]]:
        """The records since the last look of approved requests that were executed."""
        rows = await self.world.look(_FRESH, self.read)
        self.read = max((row["n"] for row in rows), default=self.read)
        return [one for row in rows for one in self._executions(orjson.loads(row["body"]))]

    @staticmethod
    def _executions(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if record["decision"]["verdict"] == "ALLOWED" and (record["approval"] or {}).get("step") == "EXECUTED":
            yield record

    async def _holds(self) -> None:
        fresh = await self._fresh()
        by_version = {one["approval"]["request"]: one["policy"]["version"] for one in fresh}
        made = {row["request_id"]: row for row in await self.world.look(_POLICIES)}
        self.changed += [
            (made[request]["action"], version) for request, version in by_version.items() if request in made
        ]
        for request in made.keys() & by_version.keys():
            self._check_rights(made[request])
        executed = await self.world.look(_EXECUTED, list(by_version))
        assert len(executed) == len(by_version)
        for row in executed:
            between = range(row["policy_version"], by_version[row["id"]])
            replaced = [one for one in self.changed if one[0] in keys_of(row) and one[1] in between]
            assert not replaced, ("done by a policy that was replaced", dict(row), replaced)
        for row in await self.world.look(_OPEN):
            late = [one for one in self.changed if one[0] in keys_of(row) and one[1] >= row["policy_version"]]
            assert not late, ("still waits under a policy that was replaced", dict(row), late)
        await self._check_book()
        await check_sums(self.world, self.city)
        await check_requests(self.world, self.city)
        await self.macros.check()

    def _check_rights(self, policy: Any) -> None:
        """Of a version made in this very step: by whom it was asked for and agreed to, by the rights of now or of its beginning."""
        able = set(range(len(OFFICE))) - (self.lost - self.moving)
        who_is = {person: place for place, person in enumerate(self.office)}
        voters = {who_is[person] for person in policy["quorum"]}
        assert voters | {who_is[policy["requester_id"]]} <= able, (policy, able)
        assert {OFFICE[who] for who in voters} == {"ADMIN", "AUDITOR"}, policy

    async def _check_book(self) -> None:
        """The versions of each policy follow one another, one is in force, and two people besides its author agreed to each."""
        seen: dict[str, int] = {}
        current: dict[str, int] = {}
        for row in await self.world.look(_POLICIES):
            seen[row["id"]] = seen.get(row["id"], 0) + 1
            assert row["version"] == seen[row["id"]], row
            current[row["id"]] = current.get(row["id"], 0) + row["current"]
            if row["shipped"]:
                continue
            assert row["execution"] == "EXECUTED", row
            assert row["created_by_id"] == row["requester_id"] not in row["quorum"], row
            assert len(set(row["quorum"])) >= 2, row
        assert set(current.values()) == {1}, current
        async with self.world.bench.background.acquire() as conn:
            await approval_book.stored_book(conn)  # never below the floor

    def teardown(self) -> None:
        if hasattr(self, "office"):  # else they would be asked to vote in the next example's
            self.world.run(
                self.world.bench.conn.execute("DELETE FROM staff_grant WHERE staff_id = ANY ($1)", self.office)
            )
        self.world.run(self.world.check_log())


@pytest.mark.contract("PT-1", "DC-3", "DC-6")
def test_nothing_is_done_by_an_approval_policy_that_was_replaced(run_machine: RunMachine) -> None:
    run_machine(Policies, 10, 16)
