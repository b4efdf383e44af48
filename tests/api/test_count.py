"""The count equation itself: what it counts, and that a record too few or too many does not escape it.

That the equation holds over a whole session is asked at its end (conftest).
"""

from __future__ import annotations

from collections import Counter

import asyncpg
import pytest

from tests.api.stage import KEY, Stage
from tests.api.tally import TALLY, Exchange, differences, left

pytestmark = pytest.mark.contract("AU-7")
OWED = {
    "{ a: me { policyVersion } b: me { policyVersion } ...F @include(if: true) } fragment F on Query { reasonCodes { code } }": 3,
    "{ listRefunds { items { id } } me { policyVersion } __typename }": 2,
    '{ getCase(id: "nobody\'s") { id } }': 1,
    "{ nothing }": 0,
    'mutation { one: withdrawVote(requestId: "x") { outcome } two: withdrawVote(requestId: "x") { outcome } }': 1,
    "subscription { onAlert { id } }": 0,
    "{ __schema { queryType { name } } }": 0,
}


async def said(stage: Stage) -> list[Exchange]:
    """Each of them once, by somebody who may read no refund."""
    for text in OWED:
        await stage.ask("st_city", text)
    return TALLY.exchanges[stage.database.name]


async def test_each_root_field_that_was_answered_or_refused_owes_one_record_and_leaves_it(stage: Stage) -> None:
    exchanges = await said(stage)
    assert [(exchange.owed.least, exchange.owed.most) for exchange in exchanges] == [(n, n) for n in OWED.values()]
    records = await left(stage.database)
    assert sum(records.values()) == sum(OWED.values())
    assert list(differences(exchanges, records)) == []


async def test_what_an_api_key_may_not_open_owes_its_refusal_and_nothing_else(stage: Stage) -> None:
    await stage.ask(None, "{ me { policyVersion } reasonCodes { code } }", headers={"x-api-key": KEY})
    (exchange,) = TALLY.exchanges[stage.database.name]
    assert (exchange.owed.least, exchange.owed.most) == (1, 1)


async def test_a_record_that_is_missing_doubled_or_of_nobody_is_a_difference(stage: Stage) -> None:
    exchanges = await said(stage)
    whole = await left(stage.database)
    someone = exchanges[0].request_id
    for found in (whole - Counter({someone: 1}), whole + Counter({someone: 1})):
        (text,) = differences(exchanges, found)
        assert "records where 3 to 3 are due" in text
    assert list(differences(exchanges, whole + Counter({"r-1": 1}))) == ["a record of request r-1, which nobody sent"]
    conn = await asyncpg.connect(**stage.database.superuser)
    try:
        await conn.execute("ALTER TABLE audit.intake DISABLE TRIGGER USER")
        await conn.execute("DELETE FROM audit.intake WHERE n = (SELECT min(n) FROM audit.intake)")
        assert len(list(differences(exchanges, await left(stage.database)))) == 1
        await conn.execute("ALTER TABLE audit.intake ENABLE TRIGGER USER")
    finally:
        await conn.close()
    exchanges.clear()  # the session's own count shall not stumble over what was taken here
