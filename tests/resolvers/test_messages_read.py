"""Templates and deliveries of messages as people read them: with their target, and by no other way."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests import factories as f
from tests.conftest import Database
from tests.resolvers.reading import Stage, stage


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def on(shared_database: Database) -> AsyncIterator[Stage]:
    async with stage(shared_database) as made:
        await f.staff(made.conn, "SUPPORT", id="st_lisbon")
        await f.staff(made.conn, "SUPPORT", id="st_berlin", cities=("berlin",))
        await f.staff(made.conn, "FINANCE", "LEAD", id="st_finance")
        await f.staff(made.conn, "AUDITOR", id="st_auditor", cities=("*",))
        case = await f.case(made.conn, id="case_of_note")
        note = await f.note(made.conn, case, "st_lisbon", id="note_sent", internal=False)
        await f.delivery(made.conn, note, target_type="Note", id="dlv_note", port="HelpCenter", state="DEAD")
        refund = await f.refund(made.conn, await f.ledger(made.conn), "st_lisbon")
        await f.delivery(made.conn, refund, id="dlv_refund")
        await f.delivery(made.conn, "note_gone", target_type="Note", id="dlv_orphan")
        yield made


LIST = """query ($type: String) { listDeliveries(filter: { targetType: { eq: $type } }) {
  items { id port targetType targetId state } } }"""


@pytest.mark.contract("AZ-2", "AZ-5")
async def test_a_delivery_of_a_message_is_seen_with_its_case_and_by_nobody_else(on: Stage) -> None:
    seen = {
        who: [one["id"] for one in (await on.data(who, LIST, type="Note"))["listDeliveries"]["items"]]
        for who in ("st_lisbon", "st_berlin", "st_finance", "st_auditor")
    }
    assert seen == {"st_lisbon": ["dlv_note"], "st_berlin": [], "st_finance": [], "st_auditor": ["dlv_note"]}
    one = "query ($id: ID!) { getDelivery(id: $id) { targetId } }"
    assert (await on.data("st_lisbon", one, id="dlv_note"))["getDelivery"] == {"targetId": "note_sent"}
    for who, id_ in (("st_berlin", "dlv_note"), ("st_finance", "dlv_note"), ("st_auditor", "dlv_orphan")):
        assert (await on.data(who, one, id=id_))["getDelivery"] is None
    assert (await on.data("st_finance", LIST, type="Refund"))["listDeliveries"]["items"][0]["id"] == "dlv_refund"


async def test_templates_are_read_by_all_staff_of_every_city(on: Stage) -> None:
    for locale in ("en", "pt"):
        await f.template(on.conn, "hello", locale)
    await f.template(on.conn, "gone", disabled=True)
    text = """{ listTemplates(filter: { name: { eq: "hello" }, disabled: { eq: false } }) {
      items { id name locale subject body variables disabled version } } }"""
    for who in ("st_lisbon", "st_berlin", "st_auditor"):
        items = (await on.data(who, text))["listTemplates"]["items"]
        assert [(one["locale"], one["variables"], one["version"]) for one in items] == [
            ("en", ["caseId", "cityName"], 1),
            ("pt", ["caseId", "cityName"], 1),
        ]
    one = "query ($id: ID!) { getTemplate(id: $id) { name } }"
    assert (await on.data("st_berlin", one, id=items[0]["id"]))["getTemplate"] == {"name": "hello"}
