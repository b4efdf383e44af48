"""A message to a subject and the demo's dead letter, through an unmodified Amplify client and a started server."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from tests.clients import operations as op
from tests.clients.amplify import Person
from tests.clients.conftest import SignIn


async def delivered(person: Person, note_id: str) -> dict[str, Any]:
    """The note's delivery once the help center has it."""
    found: dict[str, Any] = {}
    for _ in range(100):
        (found,) = (await person.ask(op.MESSAGE_DELIVERIES, note=note_id))["listDeliveries"]["items"]
        if found["state"] == "DELIVERED":
            return found
        await asyncio.sleep(0.2)
    raise AssertionError(f"still {found}")


async def test_a_note_from_a_template_reaches_the_subject_in_the_citys_language(sign_in: SignIn) -> None:
    agent = await sign_in("ts-agent-berlin")
    await agent.subscribe("case", op.LIVE_CASES, caseId="case_001")
    given = {"caseId": "case_001", "body": "", "templateId": "tpl_info_needed_en", "internal": False}
    noted = (await agent.ask(op.ADD_NOTE, input={**given, "idempotencyKey": str(uuid.uuid4())}))["addNote"]
    assert noted["note"]["body"].startswith("Wir brauchen Ihre Hilfe\n\n")
    assert "Ihr Team in Berlin" in noted["note"]["body"]
    assert (await delivered(agent, noted["note"]["id"]))["port"] == "HelpCenter"
    assert (await agent.heard("case", 20, kind="message_delivered"))["caseId"] == "case_001"


async def test_the_demos_dead_letter_is_retried_by_who_may_and_delivered(sign_in: SignIn) -> None:
    agent, lead = await sign_in("ts-agent-berlin"), await sign_in("ts-lead")
    (dead,) = (await agent.ask(op.MESSAGE_DELIVERIES, note="note_019"))["listDeliveries"]["items"]
    assert (dead["state"], dead["attempts"], dead["lastErrorCode"]) == ("DEAD", 10, "UNAVAILABLE")
    refused = await agent.graphql(op.RETRY_DELIVERY, id=dead["id"])
    assert refused["errors"][0]["errorType"] == "Unauthorized"
    retried = (await lead.ask(op.RETRY_DELIVERY, id=dead["id"]))["retryDelivery"]
    assert (retried["outcome"], retried["delivery"]["state"]) == ("EXECUTED", "PENDING")
    assert (await delivered(lead, "note_019"))["attempts"] == 1
