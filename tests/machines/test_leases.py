"""Leases as a state machine: claimed, kept, given back, lost by the clock; one per case, five per person."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests import factories
from tests.machines.conftest import RunMachine
from tests.machines.world import Said, World, hire

MOST = 5
CODES = {"releaseCase": "SHIFT_END", "skipCase": "LANGUAGE", "escalateCase": "NEEDS_SENIOR", "resolveCase": "SPAM"}
indices = st.integers(0, 30)
people = st.integers(0, 2)


class Leases(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.given: dict[str, list[tuple[str, str]]] = {}  # case -> (holder, token) of every lease there was, in order

    @initialize(cases=st.integers(3, 9))
    def open_cases(self, cases: int) -> None:
        self.city = f"lease{next(self.world.cities)}"
        ranks = (("TRUST_SAFETY", "AGENT"), ("TRUST_SAFETY", "AGENT"), ("TRUST_SAFETY", "SENIOR"))
        self.people = self.world.run(hire(self.world, self.city, *ranks))
        self.world.run(self._open(cases))

    async def _open(self, cases: int) -> None:
        conn = self.world.bench.conn
        self.queue = await factories.queue(conn, city_ids=(self.city,))
        self.cases = [await factories.case(conn, city_id=self.city, queue_id=self.queue) for _ in range(cases)]

    def _case(self, which: int) -> str:
        return self.cases[which % len(self.cases)]

    # ---------- claims ----------
    async def _claimed(self, who: str, said: Said) -> None:
        if said.outcome != "EXECUTED" or said.done is None or said.done.refs["case"] is None:
            return
        leases = self.given.setdefault(said.done.refs["case"], [])
        token = said.done.values["leaseToken"]
        assert token not in [known for _, known in leases]
        leases.append((who, token))

    async def _claim(self, who: int, case: str) -> Said:
        row = await self.world.bench.row("case_file", case)
        now = await self.world.bench.conn.fetchval("SELECT console_now()")
        said = await self.world.ask(self.people[who], "claimCase", caseId=case)
        if row["state"] == "CLAIMED" and row["lease_expires_at"] > now and row["assignee_id"] != self.people[who]:
            assert not said.ok, "a case that somebody held was claimed"
        await self._claimed(self.people[who], said)
        return said

    async def _next(self, who: int, key: str | None = None) -> Said:
        arguments = {"queueId": self.queue, **({"idempotencyKey": key} if key else {})}
        said = await self.world.ask(self.people[who], "claimNextCase", **arguments)
        await self._claimed(self.people[who], said)
        return said

    @rule(who=people, times=st.integers(1, 4))
    def claim_next(self, who: int, times: int) -> None:
        for _ in range(times):
            self.world.run(self._next(who))

    @rule(who=people, which=indices)
    def claim(self, who: int, which: int) -> None:
        self.world.run(self._claim(who, self._case(which)))

    @rule(which=indices)
    def claim_one_at_once(self, which: int) -> None:
        case = self._case(which)
        one, other = self.world.at_once(
            self.world.ask(self.people[0], "claimCase", caseId=case),
            self.world.ask(self.people[1], "claimCase", caseId=case),
        )
        assert [one.outcome, other.outcome].count("EXECUTED") <= 1
        for who, said in ((self.people[0], one), (self.people[1], other)):
            self.world.run(self._claimed(who, said))

    @rule(who=people, other=people)
    def claim_next_at_once(self, who: int, other: int) -> None:
        first, second = self.world.at_once(self._next(who), self._next(other))
        cases = [said.done.refs["case"] for said in (first, second) if said.done is not None]
        assert len({case for case in cases if case}) == len([case for case in cases if case])

    @rule(who=people, key=st.sampled_from(("a", "b")))
    def claim_next_by_key(self, who: int, key: str) -> None:
        self.world.run(self._next(who, f"{self.city}-{key}"))

    # ---------- with a lease ----------
    def _token(self, case: str, back: int) -> tuple[str, str | None, bool]:
        """A lease of this case: the newest, or one from before. Says whether it is the newest."""
        leases = self.given.get(case) or [(self.people[0], "none")]
        who, token = leases[-1 - back % len(leases)]
        return who, token, token == leases[-1][1]

    @precondition(lambda self: self.given)
    @rule(which=indices, back=st.sampled_from((0, 0, 0, 1, 2)), name=st.sampled_from(sorted(CODES)))
    def step(self, which: int, back: int, name: str) -> None:
        self.world.run(self._step(sorted(self.given)[which % len(self.given)], back, name))

    async def _step(self, case: str, back: int, name: str, **more: Any) -> Said:
        row = await self.world.bench.row("case_file", case)
        now = await self.world.bench.conn.fetchval("SELECT console_now()")
        who, token, newest = self._token(case, back)
        given = {"caseId": case, "leaseToken": token, "expectedVersion": row["version"]}
        said = await self.world.ask(who, name, input={**given, "reason": {"code": CODES.get(name, "SPAM")}, **more})
        live = row["state"] == "CLAIMED" and row["lease_expires_at"] > now
        if said.ok and row["state"] == "CLAIMED":
            assert live and newest, "a lease that had ended, or another's, was good for a step"  # noqa: PT018
        return said

    @precondition(lambda self: self.given)
    @rule(which=indices, back=st.sampled_from((0, 0, 1)))
    def decide(self, which: int, back: int) -> None:
        case = sorted(self.given)[which % len(self.given)]
        more = {"kind": "NO_ACTION", "severity": 0, "idempotencyKey": f"d{self.world.attempts}-{case}"}
        self.world.run(self._step(case, back, "decideCase", **more, reason={"code": "NO_VIOLATION"}))

    @precondition(lambda self: self.given)
    @rule(which=indices, back=st.sampled_from((0, 0, 1)))
    def renew(self, which: int, back: int) -> None:
        self.world.run(self._renew(sorted(self.given)[which % len(self.given)], back))

    async def _renew(self, case: str, back: int) -> None:
        row = await self.world.bench.row("case_file", case)
        now = await self.world.bench.conn.fetchval("SELECT console_now()")
        who, token, newest = self._token(case, back)
        said = await self.world.ask(who, "renewLease", input={"caseId": case, "leaseToken": token})
        if said.ok:
            assert newest
            assert row["lease_expires_at"] > now

    @precondition(lambda self: self.given)
    @rule(which=indices)
    def renew_while_the_timer_comes(self, which: int) -> None:
        case = sorted(self.given)[which % len(self.given)]

        async def timers() -> None:
            self.world.timed += await self.world.bench.worker.run_timers()

        self.world.at_once(self._renew(case, 0), timers())

    @rule(minutes=st.sampled_from((4, 16, 300)))
    def time_passes(self, minutes: int) -> None:
        self.world.tick(minutes * 60)

    @rule()
    def timers(self) -> None:
        self.world.timers()

    # ---------- what must hold ----------
    @invariant()
    def holds(self) -> None:
        if hasattr(self, "cases"):
            self.world.run(self._holds())

    async def _holds(self) -> None:
        rows = await self.world.look("SELECT *, console_now() AS now FROM case_file WHERE city_id = $1", self.city)
        held: dict[str, int] = {}
        for row in rows:
            leased = row["lease_token"] is not None
            assert (row["state"] == "CLAIMED") == leased == (row["lease_expires_at"] is not None), row
            if not leased:
                continue
            assert (row["assignee_id"], row["lease_token"]) == self.given[row["id"]][-1], row
            assert (row["lease_expires_at"] - row["lease_started_at"]).total_seconds() <= 8 * 3600, row
            held[row["assignee_id"]] = held.get(row["assignee_id"], 0) + (row["lease_expires_at"] > row["now"])
        assert max(held.values(), default=0) <= MOST, held

    def teardown(self) -> None:
        self.world.run(self.world.check_log())


@pytest.mark.contract("PT-1")
def test_a_case_never_has_two_leases_and_nobody_more_than_five(run_machine: RunMachine) -> None:
    run_machine(Leases, 25, 25)
