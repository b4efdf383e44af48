"""Macros under attack: what a run, its approval and its parameters must not be talked into."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from schema.errors import ConsoleError
from services.macros import parameters
from tests import factories
from tests.services.bench import Bench
from tests.services.test_macro_drafts import DECIDE, draft
from tests.services.test_macros import (
    AGENT,
    FINANCE,
    LEAD,
    Desk,
    asked,
    desk,
    refused,
    standing,
    vote,
)

REFUND: dict[str, Any] = {**factories.REFUND_STEPS[0]}
NOTE: dict[str, Any] = {**factories.REFUND_STEPS[1]}


async def beside(at: Desk, captured: int, **ledger: Any) -> Desk:
    """Another case that the agent holds, with another order of the same buyer."""
    conn = at.bench.conn
    case_id = await factories.case(conn, kind="REFUND")
    await at.bench.do(AGENT, "claimCase", caseId=case_id)
    buyer = await conn.fetchval("SELECT buyer_id FROM order_ledger WHERE order_id = $1", at.order)
    order = await factories.ledger(conn, captured_minor=captured, **{"buyer_id": buyer, **ledger})
    return Desk(at.bench, await at.bench.row("case_file", case_id), order, at.macro)


# ---------- approval ----------
async def test_two_waiting_runs_do_not_split_a_sum_under_their_voters_ceiling(bench: Bench) -> None:
    at, one = await asked(bench, 12_000)
    other = await beside(at, 12_000)
    two = await other.run(await other.preview(), key="k2")
    await vote(bench, LEAD, one.refs["approvalRequest"])  # 120.00 of the 200.00 that a SUPPORT LEAD approves
    await vote(bench, LEAD, two.refs["approvalRequest"])  # as he was asked it is 120.00; by now it makes 240.00
    assert await standing(at, one) == ("APPROVED", "EXECUTED", "EXECUTED", "RESOLVED")
    assert await standing(other, two) == ("INVALIDATED", "NOT_STARTED", "FAILED", "OPEN")
    assert await bench.conn.fetchval("SELECT sum(amount_minor) FROM refund") == 12_000


async def test_a_voter_whose_ceiling_holds_the_sum_of_both_approves_both(bench: Bench) -> None:
    at, one = await asked(bench, 12_000)
    other = await beside(at, 12_000)
    two = await other.run(await other.preview(), key="k2")
    for done in (one, two):
        await vote(bench, FINANCE, done.refs["approvalRequest"])
    assert await standing(other, two) == ("APPROVED", "EXECUTED", "EXECUTED", "RESOLVED")


async def test_a_step_is_about_the_runs_own_case_whatever_its_template_says(bench: Bench) -> None:
    refund = {**REFUND, "argsTemplate": {**REFUND["argsTemplate"], "caseId": None}}
    at = await desk(bench, 12_000, steps=[refund])
    await factories.grant(bench.conn, AGENT, "SUPPORT", "AGENT", cities=("berlin",))
    await bench.authorizer.stop()
    foreign = await factories.ledger(bench.conn, captured_minor=12_000, city_id="berlin")
    await bench.do(AGENT, "renewLease", caseId=at.case["id"], leaseToken=at.case["lease_token"])  # meets the new grant
    plan = await at.preview(parameters={"orderId": foreign})
    # Without the case, voters of the case's city would approve the money of another.
    assert [(step["verdict"], step["errorCode"]) for step in plan["steps"]] == [("INVALID", "BAD_REQUEST")]
    error = await refused(bench, LEAD, "saveMacro", input=draft(steps=[refund]))
    assert (error.code, error.info["field"]) == ("BAD_REQUEST", "steps.0.argsTemplate.caseId")


# ---------- what a run leaves to read ----------
async def test_a_run_keeps_no_values_of_rows_for_readers_who_may_not_read_them(bench: Bench) -> None:
    at = await desk(bench)
    plan = await at.preview()
    done = await at.run(plan)
    [kept] = await bench.conn.fetch("SELECT steps::text AS steps FROM macro_run WHERE id = $1", done.refs["run"])
    assert "4900" not in kept["steps"]
    assert "reservedMinor" in str(plan["steps"])  # who previews reads the ledger by himself


# ---------- parameters ----------
ANYTHING = {"type": "object", "properties": {"orderId": {"type": "string"}, "x": {}}, "required": ["orderId"]}


@pytest.mark.parametrize("value", [1.5, 1e300, 1.0, {"a": [0.5]}])
async def test_a_fraction_is_refused_where_an_approval_could_not_be_bound_to_it(bench: Bench, value: Any) -> None:
    at = await desk(bench, 12_000, parameters=ANYTHING)
    with pytest.raises(ConsoleError) as caught:
        await at.preview(parameters={"orderId": at.order, "x": value})
    assert (caught.value.code, caught.value.info["field"]) == ("SCHEMA_VIOLATION", "parameters")


async def test_a_value_that_stands_in_a_template_a_thousand_times_is_refused_as_too_long(bench: Bench) -> None:
    bomb = {**NOTE, "argsTemplate": {"body": "{{param.x}}" * 1_400, "internal": True}}
    at = await desk(bench, parameters=ANYTHING, steps=[bomb])
    plan = await at.preview(parameters={"orderId": at.order, "x": "a" * 16_000})
    assert [(step["verdict"], step["errorCode"]) for step in plan["steps"]] == [("INVALID", "LIMIT_EXCEEDED")]


PATTERN = {"pattern": "(?:[ab]?){300}c$"}
ONE_OF = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(6)}


@pytest.mark.parametrize(
    ("schema", "given"),
    [
        ({"items": {"$ref": "#/$defs/d0"}}, ["a"] * 4_000),
        ({"items": {"oneOf": [{"const": n} for n in range(900)]}}, [5] * 4_000),
        ({"items": {"enum": list(range(3_000))}}, [-1] * 4_000),
        ({"items": {"allOf": [{"contains": {"const": n}} for n in range(300)]}}, [[0] * 20] * 300),
        ({"allOf": [{"pattern": f"(?:a?){{300}}(?:a){{30}}{n}$"} for n in range(40)]}, "a" * 15_000),
    ],
)
def test_a_check_that_would_stop_the_process_is_refused_before_it_begins(schema: Any, given: Any) -> None:
    of = {"type": "object", "properties": {"x": schema}, "$defs": {**ONE_OF, "d6": PATTERN}}
    parameters.check_schema(of)
    with pytest.raises(ConsoleError) as caught:
        parameters.check(of, {"x": given})
    assert caught.value.code == "LIMIT_EXCEEDED"


def test_a_schema_of_patterns_is_refused_when_it_is_saved() -> None:
    of = {"type": "object", "properties": {"x": {"allOf": [{"pattern": f"a{n}"} for n in range(300)]}}}
    with pytest.raises(ConsoleError) as caught:
        parameters.check_schema(of)
    assert caught.value.code == "SCHEMA_VIOLATION"


def test_a_choice_of_a_thousand_cities_beside_a_long_text_is_an_ordinary_form() -> None:
    cities = [f"city-{n}" for n in range(900)]
    of = {"type": "object", "properties": {"city": {"enum": cities}, "text": {"type": "string", "maxLength": 4_000}}}
    parameters.check_schema(of)
    parameters.check(of, {"city": "city-7", "text": "a" * 4_000})


# ---------- locks ----------
async def test_no_step_holds_money_while_another_waits_for_the_subject(bench: Bench) -> None:
    at = await desk(bench, steps=[REFUND, DECIDE])
    elsewhere = await bench.app.acquire()
    await elsewhere.execute("BEGIN; SELECT set_config('countersign.cities', '*', true)")
    await elsewhere.execute("SELECT 1 FROM subject WHERE id = $1 FOR UPDATE", at.case["subject_id"])
    planning = asyncio.create_task(at.preview())
    while not await bench.conn.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ):
        await asyncio.sleep(0.01)
    await elsewhere.execute("SELECT 1 FROM order_ledger WHERE order_id = $1 FOR UPDATE NOWAIT", at.order)
    await elsewhere.execute("ROLLBACK")
    await bench.app.release(elsewhere)
    assert [step["verdict"] for step in (await planning)["steps"]] == ["OK", "OK"]
