"""Money as a state machine: refunds asked, voted on, called off, and answered by the kernel late, twice or first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from schema.errors import ConsoleError
from tests import factories
from tests.machines.conftest import RunMachine
from tests.machines.world import World, ask_refund, ballot, check_alone, check_requests, check_sums, hire
from tests.services.bench import Bench, bench

__all__ = ["bench"]

SIMS = ("succeed", "fail:declined", "pending:60", "pending:60:fail:late", "requires_action")
AMOUNTS = (700, 2_400, 4_900, 5_100, 12_000, 19_000, 60_000, 210_000)
CEILINGS = (5_000, 20_000)  # alone, of the two who ask (console domain, section 4)
indices = st.integers(0, 30)
_KERNEL = """
SELECT k.state AS theirs, r.state AS ours, k.notified_at, audit.anchored(o.audit_id) AS anchored
FROM kernel_refund k JOIN refund r ON r.id = k.key JOIN outbox o ON o.key = k.key WHERE r.city_id = $1
"""


class Money(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.refunds: list[str] = []
        self.requests: list[str] = []
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []  # who, input, refund

    @initialize(first=st.sampled_from(SIMS), second=st.sampled_from(SIMS))
    def open_orders(self, first: str, second: str) -> None:
        world = self.world
        self.city = f"money{next(world.cities)}"
        self.people = world.run(
            hire(
                world,
                self.city,
                ("SUPPORT", "AGENT"),
                ("FINANCE", "AGENT"),
                ("FINANCE", "SENIOR"),
                ("FINANCE", "SENIOR"),
                ("FINANCE", "LEAD"),
                ("SUPPORT", "LEAD"),
            )
        )
        self.orders = [world.run(self._order(sim, captured)) for sim, captured in ((first, 30_000), (second, 400_000))]

    async def _order(self, sim: str, captured: int) -> str:
        conn = self.world.bench.conn
        buyer = f"buyer_{self.city}"
        order = await factories.ledger(conn, city_id=self.city, captured_minor=captured, buyer_id=buyer)
        await conn.execute("INSERT INTO kernel_order (order_id, sim) VALUES ($1, $2)", order, sim)
        return order

    # ---------- people ----------
    async def _request(self, who: int, order: int, amount: int) -> None:
        person, key = self.people[who], f"k{len(self.asked)}"
        given = ask_refund(self.orders[order], amount, key)
        self.asked.append((person, given, None))
        place = len(self.asked) - 1
        said = await self.world.ask(person, "requestRefund", input=given)
        if said.done is None:
            return
        self.refunds.append(said.done.refs["refund"])
        self.asked[place] = (person, given, said.done.refs["refund"])
        if said.outcome == "PENDING_APPROVAL":
            self.requests.append(said.done.refs["approvalRequest"])
        else:
            assert amount <= CEILINGS[who]

    @rule(who=st.integers(0, 1), order=st.integers(0, 1), amount=st.sampled_from(AMOUNTS))
    def request(self, who: int, order: int, amount: int) -> None:
        self.world.run(self._request(who, order, amount))

    @rule(
        pair=st.tuples(*[st.integers(0, 1)] * 2),
        same=st.booleans(),
        amounts=st.tuples(*[st.sampled_from(AMOUNTS[:5])] * 2),
    )
    def request_two_at_once(self, pair: tuple[int, int], same: bool, amounts: tuple[int, int]) -> None:
        self.world.at_once(self._request(pair[0], 0, amounts[0]), self._request(pair[1], 0 if same else 1, amounts[1]))

    @precondition(lambda self: self.asked)
    @rule(which=indices, more=st.booleans())
    def say_it_again(self, which: int, more: bool) -> None:
        """The same key replays what it did; with another amount it is refused."""
        person, given, refund = self.asked[which % len(self.asked)]
        if refund is None:
            return
        amount = {**given["amount"], "amountMinor": given["amount"]["amountMinor"] + more}
        said = self.world.run(self.world.ask(person, "requestRefund", input={**given, "amount": amount}))
        if more:
            assert said.outcome in ("IDEMPOTENCY_KEY_REUSED", "AMOUNT_CEILING_EXCEEDED")
        else:
            assert (said.outcome, said.done and said.done.refs["refund"]) == ("REPLAYED", refund)

    @precondition(lambda self: self.requests)
    @rule(which=indices, who=st.integers(0, 5), vote=st.sampled_from(("APPROVE", "APPROVE", "APPROVE", "REJECT")))
    def vote(self, which: int, who: int, vote: str) -> None:
        self.world.run(ballot(self.world, self.people[who], self.requests[which % len(self.requests)], vote))

    @precondition(lambda self: self.requests)
    @rule(which=indices, pair=st.sampled_from(((2, 3), (2, 4), (3, 4))), second=st.sampled_from(("APPROVE", "REJECT")))
    def vote_at_once(self, which: int, pair: tuple[int, int], second: str) -> None:
        request = self.requests[which % len(self.requests)]
        first, other = (self.people[who] for who in pair)
        self.world.at_once(ballot(self.world, first, request, "APPROVE"), ballot(self.world, other, request, second))

    @precondition(lambda self: self.refunds)
    @rule(which=indices, racing=st.booleans())
    def call_off(self, which: int, racing: bool) -> None:
        """By the requester; racing: while somebody votes for it."""
        self.world.run(self._call_off(self.refunds[which % len(self.refunds)], racing))

    async def _call_off(self, refund_id: str, racing: bool) -> None:
        row = await self.world.bench.row("refund", refund_id)
        given = {"refundId": refund_id, "expectedVersion": row["version"], "reason": {"code": "DUPLICATE"}}
        canceling = self.world.ask(row["requester_id"], "cancelRefund", input=given)
        if racing and row["approval_request_id"] is not None:
            vote = ballot(self.world, self.people[4], row["approval_request_id"], "APPROVE")
            await asyncio.gather(canceling, vote)
        else:
            await canceling

    # ---------- the kernel and the clock ----------
    @rule(crash=st.booleans())
    def deliver(self, crash: bool) -> None:
        self.world.run(self.world.seal())
        self.world.run(self.world.deliver(crash=crash))

    @rule()
    def deliver_what_is_not_anchored(self) -> None:
        self.world.run(self.world.deliver())

    @rule(twice=st.booleans())
    def hear_the_kernel(self, twice: bool) -> None:
        """Its own word, also before our note of the call; ``twice``: all of it once more."""
        if twice:
            self.world.run(self.world.bench.conn.execute("UPDATE kernel_refund SET notified_at = NULL"))
        self.world.run(self.world.bench.worker.settle())

    @precondition(lambda self: self.refunds)
    @rule(which=indices, state=st.sampled_from(("SUCCEEDED", "FAILED", "CANCELED")))
    def bank_decides(self, which: int, state: str) -> None:
        self.world.run(self.world.bench.kernel.move(self.refunds[which % len(self.refunds)], state))

    @rule(seconds=st.sampled_from((35, 70, 70, 3_700, 90_000)))
    def time_passes(self, seconds: int) -> None:
        self.world.tick(seconds)

    @rule()
    def timers(self) -> None:
        self.world.timers()

    # ---------- what must hold ----------
    @invariant()
    def holds(self) -> None:
        if hasattr(self, "orders"):
            self.world.run(self._holds())

    async def _holds(self) -> None:
        await check_sums(self.world, self.city)
        await check_requests(self.world, self.city)
        await check_alone(self.world, self.city, dict(zip(self.people, CEILINGS, strict=False)))
        for row in await self.world.look(_KERNEL, self.city):
            assert row["anchored"], row
            if row["notified_at"] is not None and row["theirs"] in ("SUCCEEDED", "FAILED", "CANCELED"):
                assert row["ours"] == row["theirs"], row

    def teardown(self) -> None:
        self.world.run(self.world.check_log())


@pytest.mark.contract("PT-1", "ID-1", "DC-5")
def test_money_is_never_negative_and_moves_once_whatever_happens(run_machine: RunMachine) -> None:
    run_machine(Money, 25, 25)


@pytest.mark.contract("PT-1", "DB-5")
async def test_two_people_at_once_never_refund_more_than_is_left(bench: Bench) -> None:
    """What one of the two hears is a refusal by rule, never the database's constraint behind it."""
    for who in ("st_one", "st_two"):
        await factories.staff(bench.conn, "FINANCE", "AGENT", id=who)

    async def ask(who: str, order: str) -> str:
        try:
            return (await bench.do(who, "requestRefund", input=ask_refund(order, 6_000, order))).outcome
        except ConsoleError as error:
            return error.code

    for _ in range(10):
        order = await factories.ledger(bench.conn, captured_minor=10_000, buyer_id=f"b{factories.number()}")
        answers = await asyncio.gather(ask("st_one", order), ask("st_two", order))
        assert sorted(answers) == ["EXECUTED", "REFUND_EXCEEDS_REFUNDABLE"]
