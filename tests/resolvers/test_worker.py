"""The background child: events in commit order, deliveries at least once with one effect, answers late, twice and first."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from db import outbox
from db.unit_of_work import Event, begin
from resolvers.deliveries import Breaker, Deliveries
from resolvers.routes import refunds
from services.money.commands import AnswerInput
from services.ports import KernelRefund, PortRefusedError, PortUnavailableError
from tests import factories
from tests.services.bench import Bench, CrashError, bench

__all__ = ["bench"]

AGENT = "st_agent"


async def approved(bench: Bench, sim: str = "succeed", *, amount: int = 1_000, key: str = "k") -> str:
    """A refund that has just been approved, on an order that the kernel treats so."""
    if not await bench.conn.fetchval("SELECT EXISTS (SELECT FROM staff)"):
        await factories.staff(bench.conn, "SUPPORT", "AGENT", id=AGENT)
        await factories.staff(bench.conn, "FINANCE", "LEAD", id="st_lead")
    order = await factories.ledger(bench.conn)
    await bench.conn.execute("INSERT INTO kernel_order (order_id, sim) VALUES ($1, $2)", order, sim)
    money = {"amountMinor": amount, "currency": "EUR"}
    given = {"orderId": order, "amount": money, "idempotencyKey": key, "reason": {"code": "QUALITY_ISSUE"}}
    return str((await bench.do(AGENT, "requestRefund", input=given)).refs["refund"])


async def stands(bench: Bench, refund_id: str) -> tuple[str, int, int]:
    refund = await bench.row("refund", refund_id)
    ledger = await bench.row("order_ledger", refund["order_id"], column="order_id")
    return refund["state"], ledger["reserved_minor"], ledger["succeeded_minor"]


async def delivery(bench: Bench, refund_id: str) -> Any:
    return await bench.row("outbox", refund_id, column="key")


# ---------- deliveries ----------
async def test_money_leaves_only_when_its_record_is_anchored(bench: Bench) -> None:
    refund_id = await approved(bench)
    assert await bench.worker.deliver() == 0
    assert await bench.conn.fetchval("SELECT count(*) FROM kernel_refund") == 0
    await bench.anchor_all()
    assert await bench.worker.deliver() == 1
    assert await stands(bench, refund_id) == ("SUCCEEDED", 0, 1_000)
    row = await delivery(bench, refund_id)
    assert (row["state"], row["attempts"], row["delivered_at"] is not None) == ("DELIVERED", 1, True)
    assert (await bench.row("refund", refund_id))["external_ref"] == f"kr_{refund_id}"
    assert await bench.worker.deliver() == 0
    record = (await bench.records())[-1]
    assert (record["kind"], record["action"], record["object"]["id"]) == ("system", "refund.settle", refund_id)


@pytest.mark.parametrize(
    ("sim", "state", "reserved"),
    [("fail:declined", "FAILED", 0), ("pending:60", "SUBMITTED", 1_000), ("requires_action", "REQUIRES_ACTION", 1_000)],
)
async def test_the_kernels_answer_settles(bench: Bench, sim: str, state: str, reserved: int) -> None:
    refund_id = await approved(bench, sim)
    await bench.anchor_all()
    await bench.worker.deliver()
    assert await stands(bench, refund_id) == (state, reserved, 0)
    alerts = await bench.alerts("REFUND_FAILED")
    if state == "FAILED":
        assert (await bench.row("refund", refund_id))["failure_reason"] == "declined"
        assert [(a["recipient_ids"], a["target_id"]) for a in alerts] == [([AGENT], refund_id)]
    else:
        assert alerts == []


async def test_an_answer_that_comes_late_settles_then(bench: Bench) -> None:
    refund_id = await approved(bench, "pending:60")
    await bench.anchor_all()
    await bench.worker.deliver()
    assert await bench.worker.settle() == 0
    late = await bench.later(61)
    assert await late.worker.settle() == 1
    assert await stands(bench, refund_id) == ("SUCCEEDED", 0, 1_000)
    assert await late.worker.settle() == 0


@pytest.mark.contract("ID-3")
async def test_an_answer_said_twice_counts_once(bench: Bench) -> None:
    refund_id = await approved(bench)
    await bench.anchor_all()
    await bench.worker.deliver()
    assert await bench.worker.settle() == 1  # refund.updated says it again
    assert await stands(bench, refund_id) == ("SUCCEEDED", 0, 1_000)
    version = (await bench.row("refund", refund_id))["version"]
    answer = AnswerInput(refund_id, "FAILED", failure_code="late")
    assert await bench.worker._pipeline.system("refund.settle", answer) is None
    assert (await bench.row("refund", refund_id))["version"] == version


async def test_an_answer_that_comes_before_our_note_is_noted_and_the_delivery_marked(bench: Bench) -> None:
    refund_id = await approved(bench)
    await bench.anchor_all()
    bench.faults.armed["after_kernel_effect"] = CrashError()
    with pytest.raises(CrashError):
        await bench.worker.deliver()
    assert await stands(bench, refund_id) == ("APPROVED", 1_000, 0)
    assert await bench.worker.settle() == 1
    assert await stands(bench, refund_id) == ("SUCCEEDED", 0, 1_000)
    assert (await delivery(bench, refund_id))["state"] == "RETRYING"
    assert await bench.worker.deliver() == 0  # still claimed by the one who died
    later = await bench.later(31)
    assert await later.worker.deliver() == 1
    assert (await delivery(bench, refund_id))["state"] == "DELIVERED"
    assert await bench.conn.fetchval("SELECT count(*) FROM kernel_refund") == 1
    assert await stands(bench, refund_id) == ("SUCCEEDED", 0, 1_000)


@pytest.mark.contract("ID-3")
async def test_a_crash_between_the_effect_and_our_note_repeats_the_call_and_not_the_effect(bench: Bench) -> None:
    refund_id = await approved(bench)
    await bench.anchor_all()
    bench.faults.armed["after_kernel_effect"] = CrashError()
    with pytest.raises(CrashError):
        await bench.worker.deliver()
    await (await bench.later(31)).worker.deliver()
    assert await stands(bench, refund_id) == ("SUCCEEDED", 0, 1_000)
    assert await bench.conn.fetchval("SELECT count(*) FROM kernel_refund") == 1


@pytest.mark.contract("ID-3")
async def test_two_workers_share_the_outbox_without_meeting(bench: Bench) -> None:
    refunds = [await approved(bench, key=f"k{n}", amount=100) for n in range(6)]
    await bench.anchor_all()
    other = await bench.later(0)
    taken = await asyncio.gather(bench.worker.deliver(), other.worker.deliver())
    assert sum(taken) == 6
    for refund_id in refunds:
        assert (await stands(bench, refund_id))[0] == "SUCCEEDED"
        assert (await delivery(bench, refund_id))["attempts"] == 1


class Kernel:
    """A port that says what a test lets it say."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    async def submit_refund(self, **_: Any) -> KernelRefund:
        self.calls += 1
        raise self.error

    async def get_refund(self, key: str) -> KernelRefund | None:
        return None

    async def changes(self, limit: int) -> list[KernelRefund]:
        return []

    async def acknowledge(self, refunds: object) -> None:
        return None


def with_kernel(bench: Bench, kernel: Kernel, breaker: Breaker | None = None) -> Deliveries:
    routes = (refunds(kernel),)
    return Deliveries(bench.background, bench.worker._pipeline, routes, breaker=lambda: breaker or Breaker(limit=99))


@pytest.mark.contract("FC-11")
async def test_a_port_that_is_away_is_tried_again_later_each_time(bench: Bench) -> None:
    refund_id = await approved(bench)
    await bench.anchor_all()
    await with_kernel(bench, Kernel(PortUnavailableError("AWAY"))).run_once()
    row = await delivery(bench, refund_id)
    assert (row["state"], row["attempts"], row["last_error_code"]) == ("RETRYING", 1, "AWAY")
    assert 0 < (row["next_attempt_at"] - row["created_at"]).total_seconds() < 10
    assert outbox.delay(1) < outbox.delay(4) < outbox.delay(9) <= outbox.LONGEST_DELAY * 1.1
    assert (await stands(bench, refund_id))[0] == "APPROVED"


async def test_after_the_last_attempt_people_are_alerted(bench: Bench) -> None:
    refund_id = await approved(bench)
    await bench.anchor_all()
    await bench.conn.execute("UPDATE outbox SET attempts = $1", outbox.ATTEMPTS - 1)
    await with_kernel(bench, Kernel(PortUnavailableError())).run_once()
    row = await delivery(bench, refund_id)
    assert (row["state"], row["next_attempt_at"]) == ("DEAD", None)
    [alert] = await bench.alerts("DELIVERY_FAILED")
    assert (alert["recipient_ids"], alert["target_id"]) == (["st_lead"], row["id"])
    assert await stands(bench, refund_id) == ("APPROVED", 1_000, 0)


async def test_a_port_that_refuses_is_not_asked_again(bench: Bench) -> None:
    refund_id = await approved(bench)
    await bench.anchor_all()
    await with_kernel(bench, Kernel(PortRefusedError("KEY_REUSED"))).run_once()
    row = await delivery(bench, refund_id)
    assert (row["state"], row["attempts"], row["last_error_code"]) == ("DEAD", 1, "KEY_REUSED")


@pytest.mark.contract("FC-11")
async def test_the_circuit_opens_after_five_failures_and_probes(bench: Bench) -> None:
    await approved(bench)
    await bench.anchor_all()
    now = [0.0]
    kernel, breaker = Kernel(PortUnavailableError()), Breaker(clock=lambda: now[0])
    deliveries = with_kernel(bench, kernel, breaker)
    for _ in range(7):
        await deliveries.run_once()
        await bench.conn.execute("UPDATE outbox SET next_attempt_at = now() - interval '1 second'")
    assert (kernel.calls, breaker.open) == (5, True)
    await approved(bench, key="k2")
    now[0] = 30.0
    assert await deliveries.run_once() == 1  # of the two that are due: one call tries
    assert (kernel.calls, breaker.open) == (6, True)


@pytest.mark.contract("FC-11")
async def test_a_port_that_speaks_but_takes_no_calls_is_held_back_all_the_same(bench: Bench) -> None:
    for number in range(7):
        await approved(bench, key=f"k{number}", amount=100)
    await bench.anchor_all()
    now = [0.0]
    kernel = Kernel(PortUnavailableError())
    made = refunds(kernel)
    deliveries = Deliveries(
        bench.background, bench.worker._pipeline, (made,), breaker=lambda: Breaker(clock=lambda: now[0])
    )
    await deliveries.run_once()
    assert deliveries.held_back == {made.port: True}
    now[0] = 30.0
    await deliveries.poll_once()  # it has nothing to say, and says so
    await bench.conn.execute("UPDATE outbox SET next_attempt_at = now() - interval '1 second'")
    assert await deliveries.run_once() == 1  # still one call tries


async def test_a_word_that_cannot_be_noted_holds_up_none_after_it(bench: Bench) -> None:
    first, second = await approved(bench, amount=100), await approved(bench, key="k2", amount=100)
    await bench.anchor_all()
    bench.faults.armed["after_kernel_effect"] = CrashError()
    with pytest.raises(CrashError):
        await bench.worker.deliver()
    await bench.conn.execute("UPDATE refund SET state = 'APPROVED'")
    await bench.conn.execute("UPDATE order_ledger SET reserved_minor = 100, succeeded_minor = 0")
    await bench.conn.execute(f"ALTER TABLE refund ADD CONSTRAINT spoiled CHECK (state = 'APPROVED' OR id <> '{first}')")
    with pytest.raises(asyncpg.CheckViolationError):
        await bench.worker.settle()
    assert [(await stands(bench, one))[0] for one in (first, second)] == ["APPROVED", "SUCCEEDED"]


async def test_a_timer_that_cannot_be_done_holds_up_none_of_the_others(bench: Bench) -> None:
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id=AGENT)
    spoiled, other = [await factories.case(bench.conn) for _ in range(2)]
    for case in (spoiled, other):
        await bench.do(AGENT, "claimCase", caseId=case)
    await bench.conn.execute(
        f"ALTER TABLE case_file ADD CONSTRAINT spoiled CHECK (state = 'CLAIMED' OR id <> '{spoiled}') NOT VALID"
    )
    late = await bench.later(3_600)
    with pytest.raises(asyncpg.CheckViolationError):
        await late.worker.run_timers()
    assert (await bench.row("case_file", other))["state"] == "OPEN"


# ---------- events ----------
@pytest.mark.contract("ID-3")
async def test_positions_are_given_after_the_commit_without_gaps(bench: Bench) -> None:
    await approved(bench)

    async def publish(topic: str, hold: asyncio.Event | None = None) -> None:
        async with begin(bench.app, bench.writer.recorder, cities="*") as uow:
            uow.publish(Event(topic, None, {}, {}))
            uow.record(_record(uow.audit_id))
            await uow.seal()
            if hold is not None:
                await hold.wait()
            await uow.commit()

    wait = asyncio.Event()
    early = asyncio.create_task(publish("early", wait))
    while not await bench.conn.fetchval("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"):
        await asyncio.sleep(0.01)
    await publish("late")
    assert await bench.worker.number_events() == 1
    wait.set()
    await early
    assert await bench.worker.number_events() == 1
    rows = await bench.conn.fetch("SELECT topic, position FROM event WHERE position IS NOT NULL ORDER BY position")
    assert [(row["topic"], row["position"]) for row in rows] == [("late", 1), ("early", 2)]
    assert await bench.worker.number_events() == 0


def _record(id_: str) -> dict[str, Any]:
    from audit.record import SYSTEM_ACTOR, new_record

    return new_record(
        id=id_, at=factories.NOW, kind="system", action="test.event", field="System.test", actor=SYSTEM_ACTOR,
        request={"id": "r"},
    )  # fmt: skip


@pytest.mark.contract("ID-3")
async def test_two_sequencers_never_number_twice_and_the_hub_hears_the_highest(bench: Bench) -> None:
    heard: list[str] = []
    listener = await asyncpg.connect(**bench.database.as_role("cs_app"))
    await listener.add_listener("countersign_event", lambda *args: heard.append(args[3]))
    await factories.staff(bench.conn, "TRUST_SAFETY", "AGENT", id="st_ts")
    case_id = await factories.case(bench.conn)
    given = {"caseId": case_id, "body": "Seen.", "internal": True}
    for n in range(5):
        await bench.do("st_ts", "addNote", input={**given, "idempotencyKey": str(n)})
    other = await bench.later(0)
    done = await asyncio.gather(bench.worker.number_events(), other.worker.number_events())
    assert sum(done) == 5
    rows = await bench.conn.fetch("SELECT position FROM event ORDER BY id")
    assert [row["position"] for row in rows] == [1, 2, 3, 4, 5]
    await listener.execute("SELECT 1")  # a round trip: what was sent before has come
    await listener.close()
    assert heard == ["5"]


async def test_the_loop_does_it_all_and_ends_when_told(bench: Bench) -> None:
    await bench.anchor_all()
    stop = asyncio.Event()
    running = asyncio.create_task(bench.worker.run(stop))
    refund_id = await approved(bench)
    async with asyncio.timeout(5):
        while (await stands(bench, refund_id))[0] != "SUCCEEDED":
            await asyncio.sleep(0.05)
    stop.set()
    async with asyncio.timeout(3):
        await running
