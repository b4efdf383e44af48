"""Templates and the messages made of them: what is refused, what is kept, and what the subject will read."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from schema.errors import ConsoleError
from services.messages import rules
from services.messages.commands import MessageAnswer
from tests import factories
from tests.services.bench import Bench

TEXT = {"subject": "Order {{orderId}}", "body": "You get {{amount}} {{ currency }} back."}
REASON = {"code": "SEASONAL"}


def saved(**given: Any) -> dict[str, Any]:
    return {"name": "refund_done", "locale": "en", "disabled": False, "reason": REASON, **TEXT, **given}


async def refused(work: Any) -> ConsoleError:
    with pytest.raises(ConsoleError) as caught:
        await work
    return caught.value


@pytest.fixture
async def crew(bench: Bench) -> Bench:
    for role, tier in (("SUPPORT", "AGENT"), ("SUPPORT", "LEAD"), ("CONTENT_EDITOR", "AGENT")):
        await factories.staff(bench.conn, role, tier, id=f"st_{role.lower()}_{tier.lower()}", categories=("SFW",))
    await factories.staff(bench.conn, "ADMIN", id="st_admin")
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id="st_berlin", cities=("berlin",))
    return bench


# ---------- templates ----------
async def test_a_template_is_saved_with_the_variables_of_its_text(crew: Bench) -> None:
    done = await crew.do("st_support_lead", "saveTemplate", input=saved())
    row = await crew.row("template", done.refs["template"])
    assert (row["variables"], row["version"], row["disabled"]) == (["orderId", "amount", "currency"], 1, False)
    changed = saved(id=row["id"], body="Done.", disabled=True, expectedVersion=1)
    await crew.do("st_support_lead", "saveTemplate", input=changed)
    row = await crew.row("template", row["id"])
    assert (row["variables"], row["version"], row["disabled"]) == (["orderId"], 2, True)
    kept = await crew.conn.fetch("SELECT version, body, saved_by_id FROM template_version ORDER BY version")
    assert [tuple(one) for one in kept] == [(1, TEXT["body"], "st_support_lead"), (2, "Done.", "st_support_lead")]
    first, second = await crew.records()
    assert (first["action"], first["object"]["id"], first["object"]["version"]["after"]) == (
        "template.save",
        row["id"],
        1,
    )
    assert second["changed"] == ["body", "variables", "disabled"]
    assert "get" not in str(first), "texts stand in no record"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "Refund done"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"locale": "english"}, "locale"),
        ({"locale": "EN"}, "locale"),
        ({"subject": " "}, "subject"),
        ({"subject": "two\nlines"}, "subject"),
        ({"subject": "Bcc: anybody\r\n"}, "subject"),
        ({"subject": "x" + " " * 200}, "subject"),
        ({"body": "x" + " " * 8_000}, "body"),
        ({"subject": "x" * 201}, "subject"),
        ({"body": ""}, "body"),
        ({"body": "x" * 8_001}, "body"),
        ({"body": "Dear {{subjectDisplayName}}"}, "body"),
        ({"body": "Dear {{}}"}, "body"),
        ({"subject": "{{amount"}, "subject"),
        ({"body": "amount}}"}, "body"),
        ({"body": "{{case.subjectId}}"}, "body"),
        ({"expectedVersion": 1}, "expectedVersion"),
    ],
)
async def test_a_template_that_could_not_be_found_read_or_filled_is_refused(
    crew: Bench, wrong: dict[str, Any], field: str
) -> None:
    error = await refused(crew.do("st_support_lead", "saveTemplate", input=saved(**wrong)))
    assert (error.code, error.info["field"]) == ("BAD_REQUEST", field)
    assert await crew.conn.fetchval("SELECT count(*) FROM template") == 0


async def test_a_refused_variable_is_named(crew: Bench) -> None:
    given = saved(body="{{amount}} for {{email}} and {{phone}}")
    error = await refused(crew.do("st_support_lead", "saveTemplate", input=given))
    assert error.info["unknown"] == ["email", "phone"]


async def test_only_leads_of_the_business_write_templates(crew: Bench) -> None:
    for who in ("st_support_agent", "st_admin"):
        assert (await refused(crew.do(who, "saveTemplate", input=saved()))).code == "Unauthorized"
    assert (await refused(crew.do("st_support_lead", "saveTemplate", input=saved(reason={"code": "SPAM"})))).code == (
        "REASON_INVALID"
    )


async def test_a_lead_of_one_city_writes_for_all_since_a_template_has_none(crew: Bench) -> None:
    assert (await crew.do("st_support_lead", "saveTemplate", input=saved())).outcome == "EXECUTED"


async def test_name_and_locale_are_taken_once_and_never_change(crew: Bench) -> None:
    first = await crew.do("st_support_lead", "saveTemplate", input=saved())
    error = await refused(crew.do("st_support_lead", "saveTemplate", input=saved()))
    assert (error.code, error.info["field"]) == ("BAD_REQUEST", "name")
    await crew.do("st_support_lead", "saveTemplate", input=saved(locale="pt-BR"))
    for other in ({"name": "other"}, {"locale": "de"}):
        given = saved(id=first.refs["template"], expectedVersion=1, **other)
        error = await refused(crew.do("st_support_lead", "saveTemplate", input=given))
        assert (error.code, error.info["field"]) == ("BAD_REQUEST", next(iter(other)))


async def test_a_stale_version_and_an_unknown_id_are_refused(crew: Bench) -> None:
    id_ = (await crew.do("st_support_lead", "saveTemplate", input=saved())).refs["template"]
    error = await refused(crew.do("st_support_lead", "saveTemplate", input=saved(id=id_, expectedVersion=2)))
    assert (error.code, error.info["currentVersion"]) == ("VERSION_CONFLICT", 1)
    error = await refused(crew.do("st_support_lead", "saveTemplate", input=saved(id=id_)))
    assert error.info["field"] == "expectedVersion"
    error = await refused(crew.do("st_support_lead", "saveTemplate", input=saved(id="tpl_none", expectedVersion=1)))
    assert error.code == "NOT_FOUND"


async def test_a_template_saved_twice_or_at_once_is_saved_once(crew: Bench) -> None:
    again = [await crew.do("st_support_lead", "saveTemplate", input=saved(idempotencyKey="k")) for _ in range(2)]
    assert [done.outcome for done in again] == ["EXECUTED", "REPLAYED"]
    id_ = again[0].refs["template"]
    changes = [saved(id=id_, expectedVersion=1, body=f"Body {n}.") for n in range(2)]
    at_once = await asyncio.gather(
        *(crew.do("st_support_lead", "saveTemplate", input=one) for one in changes), return_exceptions=True
    )
    assert sorted(getattr(one, "code", "done") for one in at_once) == ["VERSION_CONFLICT", "done"]
    news = [saved(name="new_one", body=f"Body {n}.") for n in range(2)]
    at_once = await asyncio.gather(
        *(crew.do("st_support_lead", "saveTemplate", input=one) for one in news), return_exceptions=True
    )
    assert sorted(getattr(one, "code", "done") for one in at_once) == ["BAD_REQUEST", "done"]
    assert await crew.conn.fetchval("SELECT count(*) FROM template_version") == 3


# ---------- notes that are messages ----------
async def case_with_refund(bench: Bench, *, city: str = "lisbon", state: str = "SUCCEEDED", **row: Any) -> str:
    case = await factories.case(bench.conn, city_id=city, kind="MODERATION")
    order = await factories.ledger(bench.conn, city_id=city)
    await factories.refund(bench.conn, order, "st_support_agent", amount_minor=4_905, state=state, case_id=case, **row)
    return case


def noted(case: str, template: str | None, **given: Any) -> dict[str, Any]:
    return {"caseId": case, "templateId": template, "body": "", "internal": False, "idempotencyKey": "k", **given}


async def test_a_note_from_a_template_is_its_text_and_a_call_to_the_help_center(crew: Bench) -> None:
    case = await case_with_refund(crew)
    template = await factories.template(
        crew.conn, subject="{{orderId}}", body="{{amount}} {{currency}} ({{reasonLabel}}), {{cityName}}, {{caseId}}"
    )
    await factories.city(crew.conn, "lisbon", "pt", name="Lisboa")
    done = await crew.do("st_support_agent", "addNote", input=noted(case, template))
    note = await crew.row("note", done.refs["note"])
    order = await crew.conn.fetchval("SELECT order_id FROM refund")
    assert note["body"] == f"{order}\n\n49.05 EUR (Service not provided), Lisboa, {case}"
    assert (note["internal"], note["template_id"], note["template_version"]) == (False, template, 1)
    row = await crew.row("outbox", note["id"], column="key")
    assert (row["port"], row["operation"], row["target_type"], row["target_id"], row["lane"]) == (
        "HelpCenter",
        "send",
        "Note",
        note["id"],
        case,
    )
    subject = await crew.row("case_file", case)
    arguments = orjson.loads(row["arguments"])
    assert (arguments["recipient"], arguments["version"], arguments["locale"]) == (subject["subject_id"], 1, "en")
    assert str(row["audit_id"]) == done.audit["id"]
    assert "49.05" not in str(await crew.records()), "the text stands in no record"
    assert (await crew.do("st_support_agent", "addNote", input=noted(case, template))).outcome == "REPLAYED"
    assert await crew.conn.fetchval("SELECT count(*) FROM outbox") == 1


async def test_the_citys_language_is_chosen_where_the_template_has_it(crew: Bench) -> None:
    await factories.city(crew.conn, "lisbon", "pt")
    english = await factories.template(crew.conn, "hello", "en", subject="Hello", body="Hello.")
    await factories.template(crew.conn, "hello", "pt", subject="Olá", body="Olá.")
    await factories.template(crew.conn, "bye", "pt", subject="Adeus", body="Adeus.", disabled=True)
    bye = await factories.template(crew.conn, "bye", "en", subject="Bye", body="Bye.")
    case, elsewhere = await factories.case(crew.conn), await factories.case(crew.conn, city_id="berlin")
    bodies = []
    for who, of, template, key in (
        ("st_support_agent", case, english, "1"),
        ("st_berlin", elsewhere, english, "2"),
        ("st_support_agent", case, bye, "3"),
    ):
        done = await crew.do(who, "addNote", input=noted(of, template, idempotencyKey=key))
        bodies.append((await crew.row("note", done.refs["note"]))["body"])
    assert bodies == ["Olá\n\nOlá.", "Hello\n\nHello.", "Bye\n\nBye."]


async def test_what_makes_no_message_is_refused_at_once(crew: Bench) -> None:
    case = await factories.case(crew.conn)
    plain = await factories.template(crew.conn, "plain", body="Plain.", subject="Plain")
    off = await factories.template(crew.conn, "off", disabled=True)
    money = await factories.template(crew.conn, "money", subject="x", body="{{amount}} {{orderId}} {{caseId}}")
    attempts = (
        (noted(case, plain, internal=True), "BAD_REQUEST", "internal"),
        (noted(case, plain, body="And call me."), "BAD_REQUEST", "body"),
        (noted(case, off), "BAD_REQUEST", "templateId"),
        (noted(case, money), "BAD_REQUEST", "templateId"),
        (noted(case, "tpl_none"), "NOT_FOUND", None),
        (noted(case, None), "BAD_REQUEST", "body"),
    )
    for given, code, field in attempts:
        error = await refused(crew.do("st_support_agent", "addNote", input=given))
        assert (error.code, error.info.get("field")) == (code, field), given
    error = await refused(crew.do("st_support_agent", "addNote", input=noted(case, money)))
    assert error.info["missing"] == ["amount", "orderId"]
    await crew.conn.execute("UPDATE subject SET state = 'DELETED'")
    assert (
        await refused(crew.do("st_support_agent", "addNote", input=noted(case, plain)))
    ).code == "INVALID_TRANSITION"
    assert (await refused(crew.do("st_berlin", "addNote", input=noted(case, plain)))).code == "NOT_FOUND"
    assert await crew.conn.fetchval("SELECT (SELECT count(*) FROM note) + (SELECT count(*) FROM outbox)") == 0


@pytest.mark.parametrize("state", ["PENDING_APPROVAL", "REJECTED", "FAILED"])
async def test_nobody_is_told_of_a_refund_that_is_not_approved(crew: Bench, state: str) -> None:
    case = await case_with_refund(crew, state=state)
    template = await factories.template(crew.conn, body="{{amount}}", subject="x")
    error = await refused(crew.do("st_support_agent", "addNote", input=noted(case, template)))
    assert error.info["missing"] == ["amount"]


async def test_a_template_is_no_way_around_a_policy_row(crew: Bench) -> None:
    """A content editor sees the case and neither refunds nor ledgers."""
    case = await case_with_refund(crew)
    template = await factories.template(crew.conn, body="{{amount}} {{orderId}}", subject="x")
    error = await refused(crew.do("st_content_editor_agent", "addNote", input=noted(case, template)))
    assert (error.code, error.info["missing"]) == ("BAD_REQUEST", ["amount", "orderId"])


async def test_nobody_writes_to_his_own_account(crew: Bench) -> None:
    case = await factories.case(crew.conn)
    await crew.conn.execute("UPDATE subject SET staff_id = 'st_support_agent'")
    template = await factories.template(crew.conn)
    assert (await refused(crew.do("st_support_agent", "addNote", input=noted(case, template)))).code == "SELF_SUBJECT"


@pytest.mark.contract("ID-3")
async def test_the_timeline_tells_what_became_of_a_message(crew: Bench) -> None:
    await crew.anchor_all()
    case = await factories.case(crew.conn)
    template = await factories.template(crew.conn)
    subject = (await crew.row("case_file", case))["subject_id"]
    await crew.do("st_support_agent", "addNote", input=noted(case, template))
    await crew.worker.deliver()
    await crew.conn.execute("INSERT INTO help_sim VALUES ('recipient', $1, 'refuse:BOUNCED')", subject)
    done = await crew.do("st_support_agent", "addNote", input=noted(case, template, idempotencyKey="2"))
    await crew.worker.deliver()
    told = await crew.conn.fetch("SELECT kind, summary, actor_id FROM timeline ORDER BY id")
    assert [(one["kind"], one["summary"]) for one in told if one["kind"] != "note_added"] == [
        ("message_queued", "A message was queued."),
        ("message_delivered", "A message was delivered."),
        ("message_queued", "A message was queued."),
        ("message_failed", "A message could not be delivered."),
    ]
    assert told[-1]["actor_id"] is None
    assert [event["kind"] for event in await crew.events("CaseEvent")][-1] == "message_failed"
    record = (await crew.records())[-1]
    assert (record["kind"], record["action"], record["object"]["type"]) == ("system", "message.settle", "Note")
    assert record["object"]["subject"] is not None
    assert case in record["object"]["parents"]
    row = await crew.row("outbox", done.refs["note"], column="key")
    assert (row["state"], row["attempts"], row["last_error_code"]) == ("DEAD", 1, "BOUNCED")
    [alert] = await crew.alerts("DELIVERY_FAILED")
    assert set(alert["recipient_ids"]) == {"st_support_agent", "st_admin"}
    assert await crew.worker._pipeline.system("message.settle", MessageAnswer(row["id"])) is None, "said twice"


# ---------- rules ----------
def test_placeholders_are_named_once_in_their_order() -> None:
    assert rules.placeholders("{{b}} {{ a }}", "{{a}}{{c}}") == ("b", "a", "c")
    assert rules.render("{{b}}-{{ a }}-{{b}}", {"a": "{{b}}", "b": "2"}) == "2-{{b}}-2"
    assert [rules.amount(minor) for minor in (5, 100, 4_905)] == ["0.05", "1.00", "49.05"]
    assert rules.missing(("a", "b", "c"), {"a": "1", "b": ""}) == ("b", "c")


def test_no_variable_is_personal() -> None:
    assert set(rules.VARIABLES) == {"caseId", "cityName", "orderId", "amount", "currency", "reasonLabel"}
