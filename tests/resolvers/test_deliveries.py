"""The outbox for every port: one effect whatever fails and when, order, back-off, circuits, and what people take up again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from db import outbox
from resolvers.deliveries import Breaker, Deliveries
from resolvers.routes import Route, messages, refunds
from resolvers.worker import Worker
from schema.errors import ConsoleError
from services.adapters.help_center_embedded import EmbeddedHelpCenter
from services.adapters.kernel_embedded import EmbeddedKernel
from services.ports import PortRefusedError, PortUnavailableError
from tests import factories
from tests.services.bench import Bench, CrashError, bench

__all__ = ["bench"]

# What the console's clock says, for every connection at once.
_CLOCK = """
CREATE OR REPLACE FUNCTION console_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT transaction_timestamp() + interval '{} seconds' $$
"""
LEAD = "st_lead"  # of finance: retries refunds


async def people(bench: Bench) -> None:
    if not await bench.conn.fetchval("SELECT EXISTS (SELECT FROM staff)"):
        await factories.staff(bench.conn, "SUPPORT", "AGENT", id="st_agent")
        await factories.staff(bench.conn, "FINANCE", "LEAD", id=LEAD)
        await factories.staff(bench.conn, "TRUST_SAFETY", "LEAD", id="st_ts_lead")
        await factories.template(bench.conn)


async def refund(bench: Bench, key: str = "k") -> str:
    """A refund that was approved and waits in the outbox."""
    await people(bench)
    order = await factories.ledger(bench.conn)
    money = {"amountMinor": 1_000, "currency": "EUR"}
    given = {"orderId": order, "amount": money, "idempotencyKey": key, "reason": {"code": "QUALITY_ISSUE"}}
    return str((await bench.do("st_agent", "requestRefund", input=given)).refs["refund"])


async def message(bench: Bench, key: str = "k", *, case: str | None = None) -> str:
    """A note from a template that waits in the outbox."""
    await people(bench)
    case = case or await factories.case(bench.conn)
    template = await bench.conn.fetchval("SELECT id FROM template")
    given = {"caseId": case, "body": "", "internal": False, "templateId": template, "idempotencyKey": key}
    return str((await bench.do("st_agent", "addNote", input=given)).refs["note"])


@dataclass
class Flaky:
    """A real adapter whose calls fail as told: before they take effect, or after."""

    real: Any
    before: list[BaseException] = field(default_factory=list)
    after: list[BaseException] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    most: int = 0
    hold: asyncio.Event | None = None

    async def _call(self, name: str, key: str, given: dict[str, Any]) -> Any:
        self.made.append(key)
        self.running.append(key)
        self.most = max(self.most, len(self.running))
        try:
            if self.hold is not None:
                await self.hold.wait()
            if self.before:
                raise self.before.pop(0)
            answer = await getattr(self.real, name)(key=key, **given)
            await asyncio.sleep(0.02)
        finally:
            self.running.remove(key)
        if self.after:
            raise self.after.pop(0)
        return answer

    async def submit_refund(self, *, key: str, **given: Any) -> Any:
        return await self._call("submit_refund", key, given)

    async def send(self, *, key: str, **given: Any) -> Any:
        return await self._call("send", key, given)

    async def get_refund(self, key: str) -> Any:
        return await self.real.get_refund(key)

    async def get_message(self, key: str) -> Any:
        return await self.real.get_message(key)

    async def changes(self, limit: int) -> Any:
        return await self.real.changes(limit)

    async def acknowledge(self, refunds: Any) -> None:
        await self.real.acknowledge(refunds)


@dataclass(frozen=True)
class Side:
    """One port, as these tests use it."""

    queue: Callable[..., Awaitable[str]]
    route: Callable[[Any], Route]
    real: Callable[[Any], Any]
    effects: str
    done: str  # what must be true of the target once the answer is noted
    settle: str
    retries: str  # who may take it up again


SIDES = {
    "OrdersRefundKernel": Side(
        refund,
        refunds,
        EmbeddedKernel,
        "SELECT count(*) FROM kernel_refund",
        "SELECT state = 'SUCCEEDED' FROM refund",
        "refund.settle",
        LEAD,
    ),
    "HelpCenter": Side(
        message,
        messages,
        EmbeddedHelpCenter,
        "SELECT count(*) FROM help_message",
        "SELECT count(*) = 1 FROM timeline WHERE kind = 'message_delivered'",
        "message.settle",
        "st_ts_lead",
    ),
}
BOTH = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)


def flaky(bench: Bench, side: Side, **faults: Any) -> Flaky:
    return Flaky(side.real(bench.background), **faults)


def deliveries(bench: Bench, *routes: Route, breaker: Callable[[], Breaker] | None = None) -> Deliveries:
    return Deliveries(
        bench.background,
        bench.worker._pipeline,
        routes,
        fault=bench.faults,
        call_seconds=2.0,
        breaker=breaker or (lambda: Breaker(limit=99)),
    )


async def delivery(bench: Bench, key: str) -> Any:
    return await bench.row("outbox", key, column="key")


async def clock(bench: Bench, seconds: float) -> None:
    await bench.conn.execute(_CLOCK.format(seconds))


async def due(bench: Bench) -> None:
    await bench.conn.execute("UPDATE outbox SET next_attempt_at = console_now() WHERE next_attempt_at IS NOT NULL")


async def dead(bench: Bench, side: Side, code: str = "BOUNCED") -> tuple[str, Any]:
    """A delivery that was given up at once; its key and row."""
    await bench.anchor_all()
    key = await side.queue(bench)
    port = flaky(bench, side, before=[PortRefusedError(code)])
    await deliveries(bench, side.route(port)).run_once()
    row = await delivery(bench, key)
    assert (row["state"], row["last_error_code"]) == ("DEAD", code)
    return key, row


async def once(bench: Bench, side: Side, key: str) -> None:
    """It happened once, it is noted once, and the delivery says so."""
    assert await bench.conn.fetchval(side.effects) == 1
    assert await bench.conn.fetchval(side.done)
    row = await delivery(bench, key)
    assert (row["state"], row["last_error_code"], row["delivered_at"] is not None) == ("DELIVERED", None, True)
    assert [record["action"] for record in await bench.records()].count(side.settle) == 1


# ---------- the fault table: at each external step, before, after, and the process with it ----------
FAULTS = {
    "fails before it takes effect": {"before": [PortUnavailableError("AWAY")]},
    "fails after it took effect": {"after": [PortUnavailableError("LOST")]},
    "times out before it takes effect": {"before": [TimeoutError()]},
    "times out after it took effect": {"after": [TimeoutError()]},
    "breaks by a mistake": {"before": [KeyError("orderId")]},
}


@pytest.mark.contract("ID-3")
@BOTH
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_call_that_fails_is_repeated_and_the_effect_happens_once(
    bench: Bench, side: Side, fault: dict[str, Any]
) -> None:
    await bench.anchor_all()
    key = await side.queue(bench)
    port = flaky(bench, side, **{when: list(errors) for when, errors in fault.items()})
    outgoing = deliveries(bench, side.route(port))
    await outgoing.run_once()
    row = await delivery(bench, key)
    assert (row["state"], row["attempts"], row["last_error_code"] is not None) == ("RETRYING", 1, True)
    assert await outgoing.run_once() == 0, "not before its time"
    await due(bench)
    assert await outgoing.run_once() == 1
    assert port.made == [key, key], "the same key both times"
    await once(bench, side, key)


@pytest.mark.contract("ID-3", "RL-2")
@BOTH
async def test_a_process_that_dies_right_after_the_effect_leaves_it_to_the_next_start(bench: Bench, side: Side) -> None:
    await bench.anchor_all()
    key = await side.queue(bench)
    port = flaky(bench, side)
    route = side.route(port)
    bench.faults.armed[route.point] = CrashError()
    with pytest.raises(CrashError):
        await deliveries(bench, route).run_once()
    assert await bench.conn.fetchval(side.effects) == 1
    assert not await bench.conn.fetchval(side.done)
    started_again = deliveries(bench, side.route(port))
    assert await started_again.run_once() == 0, "the claim of the dead one still stands"
    await clock(bench, 31)
    assert await started_again.run_once() == 1
    assert port.made == [key, key]
    await once(bench, side, key)


@pytest.mark.contract("ID-3", "RL-2")
@BOTH
async def test_a_process_that_dies_before_its_note_commits_leaves_it_to_the_next_start(
    bench: Bench, side: Side
) -> None:
    await bench.anchor_all()
    key = await side.queue(bench)
    bench.faults.armed["before_commit"] = CrashError()
    with pytest.raises(CrashError):
        await deliveries(bench, side.route(flaky(bench, side))).run_once()
    assert (await delivery(bench, key))["state"] == "RETRYING"
    await clock(bench, 31)
    await deliveries(bench, side.route(flaky(bench, side))).run_once()
    await once(bench, side, key)


@BOTH
async def test_a_call_that_nobody_survives_is_given_up_in_the_end(bench: Bench, side: Side) -> None:
    await bench.anchor_all()
    key = await side.queue(bench)
    await bench.conn.execute("UPDATE outbox SET state = 'RETRYING', attempts = $1", outbox.ATTEMPTS)
    port = flaky(bench, side)
    await deliveries(bench, side.route(port)).run_once()
    row = await delivery(bench, key)
    assert (row["state"], row["last_error_code"], port.made) == ("DEAD", "NEVER_NOTED", [])


@pytest.mark.contract("FC-11")
@BOTH
async def test_each_attempt_waits_longer_and_the_last_one_is_given_up(bench: Bench, side: Side) -> None:
    await bench.anchor_all()
    key = await side.queue(bench)
    port = flaky(bench, side, before=[PortUnavailableError("AWAY")] * outbox.ATTEMPTS)
    outgoing = deliveries(bench, side.route(port))
    passed = 0.0
    for attempt in range(1, outbox.ATTEMPTS):
        before = await bench.conn.fetchval("SELECT console_now()")
        assert await outgoing.run_once() == 1
        row = await delivery(bench, key)
        wait = min(2.0**attempt, 300)
        assert (row["state"], row["attempts"]) == ("RETRYING", attempt)
        assert 0.9 * wait <= (row["next_attempt_at"] - before).total_seconds() <= 1.1 * wait + 1
        passed += 1.1 * wait + 1
        await clock(bench, passed)
    assert await outgoing.run_once() == 1
    assert (await delivery(bench, key))["state"] == "DEAD"
    assert await outgoing.run_once() == 0
    assert len(await bench.alerts("DELIVERY_FAILED")) == 1


# ---------- one port and another ----------
@pytest.mark.contract("FC-11")
async def test_a_port_whose_circuit_is_open_holds_up_nobody_else(bench: Bench) -> None:
    await bench.anchor_all()
    kernel_side, help_side = SIDES["OrdersRefundKernel"], SIDES["HelpCenter"]
    money = await refund(bench)
    kernel = flaky(bench, kernel_side, before=[PortUnavailableError("AWAY")] * 9)
    now = [0.0]
    outgoing = deliveries(
        bench,
        refunds(kernel),
        messages(flaky(bench, help_side)),
        breaker=lambda: Breaker(clock=lambda: now[0], limit=3),
    )
    for _ in range(5):
        await outgoing.run_once()
        await due(bench)
    assert len(kernel.made) == 3
    note = await message(bench)
    assert await outgoing.run_once() == 1
    assert (await delivery(bench, note))["state"] == "DELIVERED"
    assert (await delivery(bench, money))["state"] == "RETRYING"


@pytest.mark.contract("FC-11")
async def test_a_port_that_hangs_holds_up_neither_another_nor_the_timers(bench: Bench) -> None:
    await bench.anchor_all()
    kernel = flaky(bench, SIDES["OrdersRefundKernel"], hold=asyncio.Event())
    outgoing = deliveries(bench, refunds(kernel), messages(flaky(bench, SIDES["HelpCenter"])))
    outgoing._call_seconds = 30.0
    money, note = await refund(bench), await message(bench)
    await factories.case(
        bench.conn,
        state="CLAIMED",
        assignee_id="st_agent",
        lease_expires_at=factories.NOW - timedelta(minutes=1),
    )
    stop = asyncio.Event()
    running = asyncio.create_task(Worker(bench.background, bench.worker._pipeline, outgoing).run(stop))
    async with asyncio.timeout(5):
        while (await delivery(bench, note))["state"] != "DELIVERED":
            await asyncio.sleep(0.05)
        while await bench.conn.fetchval("SELECT count(*) FROM case_file WHERE state = 'CLAIMED'"):
            await asyncio.sleep(0.05)
        later = await message(bench, "later")
        while (await delivery(bench, later))["state"] != "DELIVERED":
            await asyncio.sleep(0.05)
    assert kernel.running == [money]
    assert kernel.hold is not None
    kernel.hold.set()
    stop.set()
    async with asyncio.timeout(5):
        await running
    assert (await delivery(bench, money))["state"] == "DELIVERED"


def test_two_routes_of_one_operation_are_a_mistake() -> None:
    route = messages(Flaky(None))
    with pytest.raises(ValueError, match="two routes of HelpCenter"):
        Deliveries(None, None, (route, route))  # type: ignore[arg-type]


async def test_what_no_route_takes_waits_in_sight(bench: Bench) -> None:
    await bench.anchor_all()
    await people(bench)
    for port, operation in (("HelpCenter", "open_ticket"), ("Promotions", "pause_for")):
        await factories.delivery(
            bench.conn, "x", port=port, operation=operation, next_attempt_at=factories.NOW - timedelta(hours=1)
        )
    assert await bench.worker.deliver() == 0
    assert [row["state"] for row in await bench.conn.fetch("SELECT state FROM outbox")] == ["PENDING", "PENDING"]


# ---------- order ----------
@pytest.mark.contract("FC-11")
async def test_messages_about_one_case_leave_in_their_order_and_those_of_others_beside_them(bench: Bench) -> None:
    await bench.anchor_all()
    await people(bench)
    one, other = await factories.case(bench.conn), await factories.case(bench.conn)
    first, second = await message(bench, "1", case=one), await message(bench, "2", case=one)
    beside = await message(bench, "3", case=other)
    port = flaky(bench, SIDES["HelpCenter"], before=[PortUnavailableError("AWAY")] * 2)
    outgoing = deliveries(bench, messages(port))
    assert await outgoing.run_once() == 2
    assert set(port.made) == {first, beside}
    assert await outgoing.run_once() == 0, "the first is backing off, and the second behind it"
    await due(bench)
    for _ in range(3):
        await outgoing.run_once()
    sent = [row["key"] for row in await bench.conn.fetch("SELECT key FROM help_message ORDER BY created_at")]
    assert [key for key in sent if key != beside] == [first, second]
    assert len(sent) == 3


@pytest.mark.contract("FC-11")
async def test_several_workers_never_call_side_by_side_for_one_case(bench: Bench) -> None:
    await bench.anchor_all()
    await people(bench)
    case = await factories.case(bench.conn)
    notes = [await message(bench, str(n), case=case) for n in range(5)]
    port = flaky(bench, SIDES["HelpCenter"])
    workers = [deliveries(bench, messages(port)) for _ in range(3)]

    async def until_done(worker: Deliveries) -> None:
        while len(port.made) < len(notes):
            if not await worker.run_once():
                await asyncio.sleep(0.01)

    async with asyncio.timeout(20):
        await asyncio.gather(*(until_done(worker) for worker in workers))
    assert (port.most, port.made) == (1, notes)


async def test_calls_of_one_commit_leave_in_the_order_they_were_queued_in(bench: Bench) -> None:
    from db.unit_of_work import Delivery, begin
    from tests.resolvers.test_worker import _record

    await people(bench)
    async with begin(bench.app, bench.writer.recorder, cities="*") as uow:
        for n in range(20):
            uow.enqueue(Delivery("HelpCenter", "send", f"k{n}", ("Note", "n"), None, {}))
        uow.record(_record(uow.audit_id))
        await uow.commit()
    rows = await bench.conn.fetch("SELECT key FROM outbox ORDER BY created_at, id")
    assert [row["key"] for row in rows] == [f"k{n}" for n in range(20)]


@pytest.mark.contract("FC-11")
async def test_what_was_given_up_holds_nobody_up_and_waits_for_what_passed_it(bench: Bench) -> None:
    await bench.anchor_all()
    await people(bench)
    case = await factories.case(bench.conn)
    first, second = await message(bench, "1", case=case), await message(bench, "2", case=case)
    port = flaky(bench, SIDES["HelpCenter"], before=[PortRefusedError("BOUNCED"), PortUnavailableError("AWAY")])
    outgoing = deliveries(bench, messages(port))
    await outgoing.run_once()
    await outgoing.run_once()
    assert port.made == [first, second]
    await bench.do("st_ts_lead", "retryDelivery", id=(await delivery(bench, first))["id"])
    assert await outgoing.run_once() == 0, "the second is under way"
    await due(bench)
    assert await outgoing.run_once() == 1
    assert port.made[2:] == [first], "then the older one goes first"


# ---------- dead letters ----------
@BOTH
async def test_who_can_act_is_told_of_a_dead_letter(bench: Bench, side: Side) -> None:
    await people(bench)
    await factories.staff(bench.conn, "TRUST_SAFETY", "LEAD", id="st_elsewhere", cities=("berlin",))
    await factories.staff(bench.conn, "ADMIN", id="st_admin")
    await factories.staff(bench.conn, "SUPPORT", "LEAD", id="st_support_lead")
    await factories.staff(bench.conn, "TRUST_SAFETY", "LEAD", id="st_concerned")
    await factories.subject(bench.conn, id="buyer_1", staff_id="st_concerned")
    _, row = await dead(bench, side)
    [alert] = await bench.alerts("DELIVERY_FAILED")
    assert (alert["target_type"], alert["target_id"], alert["city_id"]) == ("Delivery", row["id"], "lisbon")
    told = {"st_admin", "st_ts_lead"}
    if side.settle == "refund.settle":
        told |= {LEAD}  # and not the lead whose own account the money goes to
    else:  # finance does not see a moderation case, and the author is told what became of his message
        told |= {"st_concerned", "st_agent"}
    assert set(alert["recipient_ids"]) == told


@pytest.mark.contract("ID-3")
@BOTH
async def test_a_dead_letter_is_taken_up_again_under_its_key(bench: Bench, side: Side) -> None:
    key, row = await dead(bench, side)
    done = await bench.do(side.retries, "retryDelivery", id=row["id"])
    assert (done.outcome, done.refs) == ("EXECUTED", {"delivery": row["id"]})
    again = await delivery(bench, key)
    assert (again["state"], again["attempts"], str(again["audit_id"])) == ("PENDING", 0, done.audit["id"])
    assert again["next_attempt_at"] is not None
    record = (await bench.records())[-1]
    assert (record["action"], record["object"]["type"], record["object"]["id"]) == (
        "delivery.retry",
        "Delivery",
        row["id"],
    )
    assert record["object"]["parents"] == [row["target_id"]]
    port = flaky(bench, side)
    assert await deliveries(bench, side.route(port)).run_once() == 1
    assert port.made == [key]
    assert await bench.conn.fetchval(side.effects) == 1
    assert await bench.conn.fetchval(side.done)
    assert (await delivery(bench, key))["state"] == "DELIVERED"


@pytest.mark.contract("ID-3")
@BOTH
async def test_what_took_effect_and_was_given_up_is_one_effect_after_its_retry(bench: Bench, side: Side) -> None:
    await bench.anchor_all()
    key = await side.queue(bench)
    await bench.conn.execute("UPDATE outbox SET attempts = $1", outbox.ATTEMPTS - 1)
    port = flaky(bench, side, after=[PortUnavailableError("LOST")])
    outgoing = deliveries(bench, side.route(port))
    await outgoing.run_once()
    row = await delivery(bench, key)
    assert (row["state"], await bench.conn.fetchval(side.effects)) == ("DEAD", 1)
    await bench.do(side.retries, "retryDelivery", id=row["id"])
    await outgoing.run_once()
    assert await bench.conn.fetchval(side.effects) == 1
    assert await bench.conn.fetchval(side.done)
    assert (await delivery(bench, key))["state"] == "DELIVERED"


@BOTH
async def test_a_retry_said_twice_or_at_once_is_said_once(bench: Bench, side: Side) -> None:
    key, row = await dead(bench, side)
    both = await asyncio.gather(*(bench.do(side.retries, "retryDelivery", id=row["id"]) for _ in range(2)))
    assert sorted(done.outcome for done in both) == ["EXECUTED", "REPLAYED"]
    assert (await bench.do(side.retries, "retryDelivery", id=row["id"])).outcome == "REPLAYED"
    port = flaky(bench, side)
    assert await deliveries(bench, side.route(port)).run_once() == 1
    with pytest.raises(ConsoleError) as caught:
        await bench.do(side.retries, "retryDelivery", id=row["id"])
    assert caught.value.code == "INVALID_TRANSITION"
    assert port.made == [key]


@pytest.mark.contract("AZ-5")
@BOTH
async def test_who_may_not_retry_is_told_nothing_more(bench: Bench, side: Side) -> None:
    await people(bench)
    await factories.staff(bench.conn, "TRUST_SAFETY", "LEAD", id="st_berlin", cities=("berlin",))
    await factories.staff(bench.conn, "TRUST_SAFETY", "SENIOR", id="st_senior")
    await factories.staff(bench.conn, "SUPPORT", "LEAD", id="st_support")
    await factories.staff(bench.conn, "AUDITOR", id="st_auditor")
    _, row = await dead(bench, side)
    for who, code in (
        ("st_berlin", "NOT_FOUND"),
        ("st_senior", "Unauthorized"),
        ("st_support", "Unauthorized"),
        ("st_auditor", "Unauthorized"),
    ):
        with pytest.raises(ConsoleError) as caught:
            await bench.do(who, "retryDelivery", id=row["id"])
        assert caught.value.code == code, who
    with pytest.raises(ConsoleError) as caught:
        await bench.do(side.retries, "retryDelivery", id="dlv_none")
    assert caught.value.code == "NOT_FOUND"


async def test_finance_does_not_retry_a_message_about_a_case_it_cannot_see(bench: Bench) -> None:
    _, row = await dead(bench, SIDES["HelpCenter"])
    with pytest.raises(ConsoleError) as caught:
        await bench.do(LEAD, "retryDelivery", id=row["id"])
    assert caught.value.code == "NOT_FOUND"


async def test_nobody_retries_what_goes_to_his_own_account(bench: Bench) -> None:
    _, row = await dead(bench, SIDES["HelpCenter"])
    await bench.conn.execute("UPDATE subject SET staff_id = 'st_ts_lead'")
    with pytest.raises(ConsoleError) as caught:
        await bench.do("st_ts_lead", "retryDelivery", id=row["id"])
    assert caught.value.code == "SELF_SUBJECT"


async def test_a_retried_call_leaves_only_when_the_record_of_the_retry_is_anchored(bench: Bench) -> None:
    side = SIDES["HelpCenter"]
    _, row = await dead(bench, side)
    done = await bench.do(side.retries, "retryDelivery", id=row["id"])
    await bench.conn.execute(
        "CREATE OR REPLACE FUNCTION audit.anchored(record uuid) RETURNS boolean LANGUAGE sql AS"
        f" $$ SELECT record <> '{done.audit['id']}' $$"
    )
    assert await bench.worker.deliver() == 0
    await bench.anchor_all()
    assert await bench.worker.deliver() == 1


# ---------- what a call was for may end, or come about ----------
ENDED = {
    "OrdersRefundKernel": "UPDATE refund SET state = 'CANCELED'",
    "HelpCenter": "UPDATE subject SET state = 'DELETED'",
}


@pytest.mark.parametrize("name", SIDES)
async def test_what_has_ended_is_not_retried(bench: Bench, name: str) -> None:
    side = SIDES[name]
    _, row = await dead(bench, side)
    await bench.conn.execute(ENDED[name])
    with pytest.raises(ConsoleError) as caught:
        await bench.do(side.retries, "retryDelivery", id=row["id"])
    assert caught.value.code == "INVALID_TRANSITION"


@pytest.mark.parametrize("name", SIDES)
async def test_what_ended_after_it_was_queued_is_never_called(bench: Bench, name: str) -> None:
    side = SIDES[name]
    await bench.anchor_all()
    key = await side.queue(bench)
    await bench.conn.execute(ENDED[name])
    port = flaky(bench, side)
    await deliveries(bench, side.route(port)).run_once()
    row = await delivery(bench, key)
    assert (row["state"], row["last_error_code"], port.made) == ("DEAD", "TARGET_ENDED", [])
    assert await bench.conn.fetchval(side.effects) == 0


async def test_a_message_whose_note_is_gone_does_not_go_round_for_ever(bench: Bench) -> None:
    await bench.anchor_all()
    key = await message(bench)
    await bench.conn.execute("DELETE FROM note")
    port = flaky(bench, SIDES["HelpCenter"])
    await deliveries(bench, messages(port)).run_once()
    row = await delivery(bench, key)
    assert (row["state"], row["last_error_code"], port.made) == ("DEAD", "TARGET_ENDED", [])


async def test_a_refund_that_the_kernel_told_of_by_itself_needs_no_further_call(bench: Bench) -> None:
    side = SIDES["OrdersRefundKernel"]
    await bench.anchor_all()
    key = await refund(bench)
    await bench.conn.execute("UPDATE outbox SET attempts = $1", outbox.ATTEMPTS - 1)
    port = flaky(bench, side, after=[PortUnavailableError("LOST")])
    outgoing = deliveries(bench, refunds(port))
    await outgoing.run_once()
    assert await outgoing.poll_once() == 1
    assert await bench.conn.fetchval(side.done)
    row = await delivery(bench, key)
    assert row["state"] == "DEAD"
    assert (await bench.do(LEAD, "retryDelivery", id=row["id"])).outcome == "EXECUTED"
    await outgoing.run_once()
    assert (await delivery(bench, key))["state"] == "DELIVERED"
    assert port.made == [key]


async def test_an_answer_that_is_unknown_here_is_asked_again(bench: Bench) -> None:
    await bench.anchor_all()
    key = await refund(bench)

    class Odd(EmbeddedKernel):
        async def submit_refund(self, **given: Any) -> Any:
            made = await super().submit_refund(**given)
            return type(made)(made.key, "MYSTERY", made.external_ref)

    await deliveries(bench, refunds(Odd(bench.background))).run_once()
    row = await delivery(bench, key)
    assert (row["state"], row["last_error_code"]) == ("RETRYING", "ANSWER_UNKNOWN")
