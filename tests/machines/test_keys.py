"""Idempotency keys as a state machine: repeated, reused, raced, broken off half-way, forgotten; one effect per key and no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from db import idempotency
from tests import factories
from tests.machines.conftest import RunMachine
from tests.machines.world import Said, World, ask_refund, hire

DAY = 86_400
TOO_MUCH = 30_000_000  # beyond anybody's ceiling: refused, and no key is used up by it
MINE = ("requestRefund", "addNote")
callers = st.integers(0, 1)
names = st.sampled_from(MINE)
keys = st.sampled_from(("k1", "k2", "k3"))
contents = st.sampled_from((100, 200))


class KilledError(BaseException):
    """The process is gone: nothing of it runs any more, so nothing records an attempt either."""


class Keys(RuleBasedStateMachine):
    """The model: what stands under each key of each caller and mutation, since when, and how many effects there were."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.stored: dict[tuple[int, str, str], tuple[int, str, int]] = {}  # -> content, object made, at
        self.effects: dict[str, int] = dict.fromkeys(MINE, 0)

    @initialize()
    def open_office(self) -> None:
        self.city = f"keys{next(self.world.cities)}"
        self.people = self.world.run(hire(self.world, self.city, ("FINANCE", "LEAD"), ("FINANCE", "LEAD")))
        self.world.run(self._open())

    async def _open(self) -> None:
        conn = self.world.bench.conn
        self.order = await factories.ledger(conn, city_id=self.city, captured_minor=40_000_000, buyer_id=self.city)
        self.case = await factories.case(conn, city_id=self.city, kind="REFUND")

    # ---------- one attempt ----------
    def _given(self, name: str, key: str, content: int) -> dict[str, Any]:
        if name == "requestRefund":
            return ask_refund(self.order, content, key)
        return {"caseId": self.case, "body": f"Note {content}", "internal": True, "idempotencyKey": key}

    async def _ask(self, who: int, name: str, key: str, content: int, **more: Any) -> Said:
        return await self.world.ask(self.people[who], name, input=self._given(name, key, content), **more)

    @staticmethod
    def _made(said: Said) -> str:
        assert said.done is not None
        return str(said.done.refs.get("refund") or said.done.refs["note"])

    def _fresh(self, who: int, name: str, key: str) -> tuple[int, str, int] | None:
        """What the model holds under a key, unless its week is over."""
        found = self.stored.get((who, name, key))
        return found if found is not None and self.world.clock - found[2] < 7 * DAY else None

    def _executed(self, who: int, name: str, key: str, content: int, said: Said) -> None:
        assert said.outcome == "EXECUTED", said
        self.stored[who, name, key] = (content, self._made(said), self.world.clock)
        self.effects[name] += 1

    def _judge(self, who: int, name: str, key: str, content: int, said: Said) -> None:
        """What one attempt must have heard by the model, and what the model is afterwards."""
        held = self._fresh(who, name, key)
        if held is None:
            self._executed(who, name, key, content, said)
        elif held[0] == content:
            assert (said.outcome, self._made(said)) == ("REPLAYED", held[1])
        else:
            assert said.outcome == "IDEMPOTENCY_KEY_REUSED", said

    # ---------- steps ----------
    @rule(who=callers, name=names, key=keys, content=contents)
    def use(self, who: int, name: str, key: str, content: int) -> None:
        self._judge(who, name, key, content, self.world.run(self._ask(who, name, key, content)))

    @rule(who=callers, name=names, key=keys, one=contents, other=contents)
    def use_twice_at_once(self, who: int, name: str, key: str, one: int, other: int) -> None:
        """The second waits for the first and hears what the first left; which is first is nobody's to say."""
        said = self.world.at_once(self._ask(who, name, key, one), self._ask(who, name, key, other))
        attempts = sorted(zip((one, other), said, strict=True), key=lambda attempt: attempt[1].outcome != "EXECUTED")
        for content, heard in attempts:
            self._judge(who, name, key, content, heard)

    @rule(name=names, key=keys, content=contents)
    def two_people_use_the_same_key_at_once(self, name: str, key: str, content: int) -> None:
        said = self.world.at_once(self._ask(0, name, key, content), self._ask(1, name, key, content))
        for who, heard in enumerate(said):
            self._judge(who, name, key, content, heard)

    @rule(who=callers, key=keys, content=contents)
    def use_for_two_mutations_at_once(self, who: int, key: str, content: int) -> None:
        said = self.world.at_once(*(self._ask(who, name, key, content) for name in MINE))
        for name, heard in zip(MINE, said, strict=True):
            self._judge(who, name, key, content, heard)

    @rule(who=callers, key=keys)
    def be_refused(self, who: int, key: str) -> None:
        """A refusal by a rule leaves the key as it was; the right is asked before the key, so also where that is taken."""
        assert self.world.run(self._ask(who, "requestRefund", key, TOO_MUCH)).outcome == "AMOUNT_CEILING_EXCEEDED"

    @rule(who=callers, name=names, key=keys, content=contents, point=st.sampled_from(("before_commit", "after_commit")))
    def die(self, who: int, name: str, key: str, content: int, point: str) -> None:
        """The process ends around the commit, having told nothing; the repeat by key settles what became of it."""
        held, before = self._fresh(who, name, key), self.world.attempts
        faults = self.world.bench.faults
        faults.armed[point] = KilledError()
        try:
            said = self.world.run(self._ask(who, name, key, content))
        except KilledError:
            committed = point == "after_commit"
            self.world.attempts = before + committed
            if held is None and committed:
                # Done, and nobody knows: the model learns by the repeat what it is.
                again = self.world.run(self._ask(who, name, key, content))
                assert again.outcome == "REPLAYED", again
                self.stored[who, name, key] = (content, self._made(again), self.world.clock)
                self.effects[name] += 1
            return
        finally:
            faults.armed.clear()
        assert held is not None, "only what is refused does not come as far as the commit"
        self._judge(who, name, key, content, said)

    @rule(days=st.sampled_from((1, 3, 8)), cleaned=st.booleans())
    def days_pass(self, days: int, cleaned: bool) -> None:
        """A week ends a key whether or not somebody has swept."""
        self.world.tick(days * DAY)
        if cleaned:
            self.world.run(self._sweep())

    async def _sweep(self) -> None:
        async with self.world.bench.background.acquire() as conn:
            await idempotency.forget(conn)

    @precondition(lambda self: self.stored)
    @rule(which=st.integers(0, 30))
    def lose_the_right(self, which: int) -> None:
        """Who lost it may not even repeat what he did: the key is no right."""
        who, name, key = sorted(self.stored)[which % len(self.stored)]
        self.world.run(self._without_right(who, name, key))

    async def _without_right(self, who: int, name: str, key: str) -> None:
        conn, person = self.world.bench.conn, self.people[who]
        await conn.execute("DELETE FROM staff_grant WHERE staff_id = $1", person)
        said = await self._ask(who, name, key, self.stored[who, name, key][0])
        assert said.outcome in ("Unauthorized", "NOT_FOUND"), said
        await factories.grant(conn, person, "FINANCE", "LEAD", cities=(self.city,))

    # ---------- what must hold ----------
    @invariant()
    def each_effect_once(self) -> None:
        if hasattr(self, "order"):
            self.world.run(self._holds())

    async def _holds(self) -> None:
        (found,) = await self.world.look(
            "SELECT (SELECT count(*) FROM refund WHERE city_id = $1) AS refunds, (SELECT count(*) FROM note WHERE city_id = $1) AS notes,"
            " (SELECT count(*) FROM idempotency WHERE result IS NULL) AS half,"
            " (SELECT coalesce(sum(amount_minor), 0) FROM refund WHERE city_id = $1) AS spent, reserved_minor AS reserved"
            " FROM order_ledger WHERE city_id = $1",
            self.city,
        )
        assert (found["refunds"], found["notes"]) == (self.effects["requestRefund"], self.effects["addNote"])
        assert found["half"] == 0, "a key without its result was committed"
        assert found["spent"] == found["reserved"]

    def teardown(self) -> None:
        self.world.run(self.world.check_log())


@pytest.mark.contract("PT-1", "ID-1", "ID-2")
def test_a_key_is_one_effect_whatever_happens_to_it(run_machine: RunMachine) -> None:
    run_machine(Keys, 12, 20)
