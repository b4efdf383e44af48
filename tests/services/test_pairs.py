"""Two who keep approving each other: who is told, when, how often, and of what."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests import factories
from tests.services.bench import Bench
from tests.services.test_approvals import AGENT, FINANCE, FINANCE_2, SUPPORT_LEAD, asked, people, vote

pytestmark = pytest.mark.contract("DC-8")
AUDITORS = ["st_auditor", "st_auditor_2"]


async def office(bench: Bench) -> None:
    await people(bench)
    for auditor in AUDITORS:
        await factories.staff(bench.conn, "AUDITOR", id=auditor, cities=("*",))


async def history(
    bench: Bench, friend: int, others: int = 0, *, days: int = 3, city: str = "lisbon", state: str = "APPROVED"
) -> None:
    """Requests of the agent, decided some days ago: by FINANCE, and by somebody else."""
    at = factories.NOW - timedelta(days=days)
    for who, count in ((FINANCE, friend), (FINANCE_2, others)):
        for _ in range(count):
            request = await factories.approval(bench.conn, AGENT, city_id=city, state=state, created_at=at)
            await factories.vote(bench.conn, request, who, at=at)


async def told(bench: Bench) -> list[Any]:
    return await bench.alerts("APPROVAL_PAIR")


async def test_the_tenth_request_of_one_pair_is_told_to_every_auditor_without_a_name(bench: Bench) -> None:
    await office(bench)
    await history(bench, 8)
    await vote(bench, FINANCE, await asked(bench, key="9"))
    assert await told(bench) == [], "nine say nothing yet"
    await vote(bench, FINANCE, await asked(bench, key="10"))
    (alert,) = await told(bench)
    assert (alert["severity"], alert["recipient_ids"], alert["city_id"]) == (2, AUDITORS, "lisbon")
    assert (alert["target_type"], alert["target_id"]) == ("ApprovalPair", f"{AGENT}/{FINANCE}")
    assert alert["summary"] == "One person approved 10 of the 10 requests of another that were decided in 30 days."
    events = [event for event in await bench.events("Alert") if event["kind"] == "APPROVAL_PAIR"]
    assert [event["id"] for event in events] == [alert["id"]]
    for record in await bench.records():
        assert FINANCE not in str(record.get("object")), "the log names who did it, and not whom it is suspected of"


async def test_it_is_told_once_a_week_about_each_pair(bench: Bench) -> None:
    await office(bench)
    await history(bench, 20)
    for key in ("a", "b", "c"):
        await vote(bench, FINANCE, await asked(bench, key=key))
    assert len(await told(bench)) == 1
    await bench.conn.execute("UPDATE alert SET created_at = created_at - interval '6 days 23 hours'")
    await vote(bench, FINANCE, await asked(bench, key="d"))
    assert len(await told(bench)) == 1
    await bench.conn.execute("UPDATE alert SET created_at = created_at - interval '2 hours'")
    await vote(bench, FINANCE, await asked(bench, key="e"))
    assert len(await told(bench)) == 2


async def test_exactly_four_fifths_are_no_alarm_and_one_more_is(bench: Bench) -> None:
    await office(bench)
    await history(bench, 15, 4)
    await vote(bench, FINANCE, await asked(bench, key="16 of 20"))
    assert await told(bench) == []
    await vote(bench, FINANCE, await asked(bench, key="17 of 21"))
    assert [alert["target_id"] for alert in await told(bench)] == [f"{AGENT}/{FINANCE}"]


async def test_a_rejection_by_somebody_else_may_be_what_makes_ten(bench: Bench) -> None:
    await office(bench)
    await history(bench, 9)
    await vote(bench, FINANCE_2, await asked(bench), "REJECT")
    assert [alert["target_id"] for alert in await told(bench)] == [f"{AGENT}/{FINANCE}"]


async def test_what_is_older_than_thirty_days_or_was_never_decided_does_not_count(bench: Bench) -> None:
    await office(bench)
    await history(bench, 20, days=31)
    await history(bench, 20, state="EXPIRED")
    await vote(bench, FINANCE, await asked(bench))
    assert await told(bench) == []


async def test_every_city_counts_whichever_the_voter_sees(bench: Bench) -> None:
    """The voter sees Lisbon only: what others decided in Berlin clears him, and what he did there convicts him."""
    await office(bench)
    await history(bench, 9)
    await history(bench, 0, 5, city="berlin")
    await vote(bench, FINANCE, await asked(bench, key="10 of 15"))
    assert await told(bench) == []
    await history(bench, 30, city="berlin")
    await vote(bench, SUPPORT_LEAD, await asked(bench, key="40 of 46", buyer_id="another"))
    assert [alert["target_id"] for alert in await told(bench)] == [f"{AGENT}/{FINANCE}"]


async def test_two_votes_at_once_tell_it_once(bench: Bench) -> None:
    await office(bench)
    await history(bench, 30)
    requests = [await asked(bench, key=str(number), buyer_id=f"b{number}") for number in range(4)]
    await asyncio.gather(*(vote(bench, FINANCE, request) for request in requests))
    assert len(await told(bench)) == 1


async def test_a_vote_that_is_undone_leaves_no_alert(bench: Bench) -> None:
    await office(bench)
    await history(bench, 30)
    request = await asked(bench)
    bench.faults.armed["before_commit"] = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await vote(bench, FINANCE, request)
    assert await told(bench) == []


async def test_the_figures_are_those_of_approval_metrics(bench: Bench) -> None:
    """One function of the database answers both."""
    await office(bench)
    await history(bench, 12, 2)
    since, until = factories.NOW - timedelta(days=30), factories.NOW + timedelta(days=1)
    (shown,) = await bench.conn.fetch(
        "SELECT * FROM approval_pairs($1, $2) WHERE approver_id = $3", since, until, FINANCE
    )
    (weighed,) = await bench.conn.fetch(
        "SELECT * FROM pairs_of($1, $2, $3, $2) WHERE approver_id = $4", AGENT, since, until, FINANCE
    )
    assert (shown["approved"], shown["rejected"], shown["share"]) == (12, 0, pytest.approx(12 / 14))
    assert (weighed["agreed"], weighed["decided"]) == (shown["agreed"], shown["decided"]) == (12, 14)
