"""Hints: every offered command, asked by everybody of rows in every state, says what the attempt hears (AZ-10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from authz.caller import Caller
from resolvers import hints, performing
from resolvers.deed_records import Sight
from resolvers.documents import Documents
from resolvers.registry import COMMANDS
from schema.build import console
from schema.cases import CaseState
from schema.errors import ConsoleError
from services.command import Act, Command, NotOffered, Offer
from tests import factories as f
from tests.services.bench import Bench, bench

__all__ = ["bench"]
PEOPLE = {
    "support": ("SUPPORT", "AGENT"),
    "senior": ("SUPPORT", "SENIOR"),
    "trust": ("TRUST_SAFETY", "AGENT"),
    "trust_lead": ("TRUST_SAFETY", "LEAD"),
    "finance": ("FINANCE", "AGENT"),
    "auditor": ("AUDITOR", "LEAD"),
    "elsewhere": ("SUPPORT", "LEAD"),
}


@dataclass
class Asking:
    """One person on one console."""

    bench: Bench
    caller: Caller
    snapshot: Any

    async def hints(self, root: str, key: str, id_: str) -> dict[str, tuple[str | None, bool]]:
        """Action -> (why not, needs approval); empty where the object is out of reach."""
        text = f"query($id: ID!) {{ {root}({key}: $id) {{ allowedActions {{ action deniedCode needsApproval }} }} }}"
        operation = Documents(console().core).operation(text)
        bound = operation.bind(console().core, {"id": id_})
        answer = await self.bench.reader.query(self.caller, self.snapshot, operation, bound)
        assert not answer.errors
        found = (answer.data or {})[root]
        return (
            {}
            if found is None
            else {one["action"]: (one["deniedCode"], one["needsApproval"]) for one in found["allowedActions"]}
        )

    async def attempt(self, name: str, type_name: str, id_: str) -> tuple[str | None, bool]:
        """The same of the attempt: the real steps in the real transaction, which is undone."""
        command, rule = COMMANDS[name], console().rules["Mutation", name]
        assert isinstance(command.offered, Offer)
        offer = command.offered

        async def work(act: Act[Any]) -> tuple[str | None, bool]:
            row = await _as_read(act, type_name, id_)
            arguments = performing.coerced(
                name, offer.mildest(hints.TARGETS[type_name](row, act.caller.id), act.caller.id)
            )
            wanted = performing.typed(command, arguments)
            mine = replace(act, input=wanted, reason=performing.reason_of(wanted))
            try:
                target = await performing.meet(mine, rule, command, Sight())
                command.validate(mine, target)
                target, verdict = await performing.lock(mine, rule, command, target, Sight())
                weighed = await performing.weigh(mine, rule, command, target, verdict)
            except ConsoleError as error:
                return error.code, False
            return None, weighed.requirement is not None

        return await self.bench.pipeline.rehearse(self.caller, self.snapshot, work)


async def _as_read(act: Act[Any], type_name: str, id_: str) -> dict[str, Any]:
    """A row with what a hint reads beside it."""
    row = dict(await act.find(type_name, id_))
    beside: dict[str, Any] = {"now": act.uow.now, "subject_staff_id": None, "subject_tags": [], "buyer_staff_id": None}
    return {**row, **beside, "buyer_protected": False}


async def asking(bench: Bench, who: str) -> Asking:
    snapshot = await bench.authorizer.current()
    return Asking(bench, f.caller(snapshot, who), snapshot)


async def cases_of(bench: Bench, people: dict[str, str]) -> list[str]:
    """Cases of a city in every state, of every kind of holder, queue and subject."""
    made = []
    agent = people["trust"]
    for state in CaseState:
        held = {"assignee_id": agent} if state.value == "CLAIMED" else {}
        done = {"resolved_at": f.NOW} if state.value in ("RESOLVED", "CLOSED") else {}
        made.append(await f.case(bench.conn, city_id="bath", state=state.value, **held, **done))
    over = {"lease_expires_at": f.NOW - timedelta(days=1)}
    made.append(await f.case(bench.conn, city_id="bath", state="CLAIMED", assignee_id=agent, **over))
    made.append(await f.case(bench.conn, city_id="bath", state="RESOLVED", resolved_at=f.NOW - timedelta(days=60)))
    hiding = await f.queue(bench.conn, city_ids=("bath",), hidden_actions=["claimCase", "addNote", "decideCase"])
    made.append(await f.case(bench.conn, city_id="bath", queue_id=hiding))
    own = await f.subject(bench.conn, city_id="bath", staff_id=people["support"], protected_tags=["HIGH_PROFILE"])
    made.append(await f.case(bench.conn, city_id="bath", subject_id=own))
    made.append(await f.case(bench.conn, city_id="bath", kind="REFUND"))
    return made


@pytest.mark.contract("AZ-10")
async def test_every_hint_on_a_case_says_what_the_attempt_hears(bench: Bench) -> None:
    people = {
        name: await f.staff(bench.conn, role, tier, cities=("rome" if name == "elsewhere" else "bath",))
        for name, (role, tier) in PEOPLE.items()
    }
    cases = await cases_of(bench, people)
    for _ in range(5):  # trust_lead holds all the leases he may
        await f.case(
            bench.conn,
            city_id="bath",
            state="CLAIMED",
            assignee_id=people["trust_lead"],
            lease_expires_at=f.NOW + timedelta(days=9999),
        )
    compared, codes = 0, set[str | None]()
    for name, who in people.items():
        one, before = await asking(bench, who), compared
        for case in cases:
            told = await one.hints("getCase", "id", case)
            offers = hints.offered_on("Case") if told else ()
            assert [console().rules["Mutation", mutation].record_action for mutation, *_ in offers] == list(told)
            for mutation, *_ in offers:
                hint = told[console().rules["Mutation", mutation].record_action]
                assert hint == await one.attempt(mutation, "Case", case), (name, mutation, case)
                compared, codes = compared + 1, codes | {hint[0]}
        assert (compared == before) == (name == "elsewhere"), name
    assert compared > 400
    assert codes >= {
        None,
        "Unauthorized",
        "INVALID_TRANSITION",
        "CASE_CLAIMED",
        "LEASE_REQUIRED",
        "LEASE_LIMIT",
        "SELF_SUBJECT",
    }


@pytest.mark.contract("AZ-10")
async def test_every_hint_on_an_order_says_what_the_attempt_hears(bench: Bench) -> None:
    codes = set[str | None]()
    people = [await f.staff(bench.conn, role, tier, cities=("bath",)) for role, tier in PEOPLE.values()]
    own = await f.subject(bench.conn, city_id="rome", staff_id=people[0])
    protected = await f.subject(bench.conn, city_id="rome", protected_tags=["HIGH_PROFILE"])
    orders = [
        await f.ledger(bench.conn, city_id="bath", **given)
        for given in (
            {"captured_minor": 5_000},
            {"captured_minor": 100, "reserved_minor": 100},
            {"captured_minor": 100, "disputed_minor": 50, "charge_refundable": False},
            {"captured_minor": 5_000, "buyer_id": own},
            {"captured_minor": 5_000, "buyer_id": protected},
        )
    ]
    for who in people:
        one = await asking(bench, who)
        for order in orders:
            told = await one.hints("getOrderLedger", "orderId", order)
            for mutation, *_ in hints.offered_on("OrderLedger") if told else ():
                hint = told[console().rules["Mutation", mutation].record_action]
                assert hint == await one.attempt(mutation, "OrderLedger", order), (mutation, order)
                codes |= {hint[0], str(hint[1])}
    assert codes >= {None, "SELF_SUBJECT", "REFUND_EXCEEDS_REFUNDABLE", "DISPUTE_OPEN", "Unauthorized", "True", "False"}


@pytest.mark.contract("AZ-10")
async def test_whoever_has_several_grants_is_told_by_the_one_that_carries_the_attempt(bench: Bench) -> None:
    people = {name: await f.staff(bench.conn, role, tier, cities=("bath",)) for name, (role, tier) in PEOPLE.items()}
    await f.grant(bench.conn, people["support"], "TRUST_SAFETY", "LEAD", cities=("rome",))
    await f.grant(bench.conn, people["support"], "FINANCE", cities=("bath",))
    await f.grant(bench.conn, people["trust"], "SUPPORT", "LEAD", cities=("bath",), categories=("SFW",))
    await f.grant(bench.conn, people["finance"], "CONTENT_EDITOR", "LEAD", cities=("*",), categories=("SFW",))
    asked = [("Case", "getCase", "id", case) for case in await cases_of(bench, people)]
    for category in ("SUGGESTIVE", "NSFW", "PROHIBITED"):
        for state, kind in (("OPEN", "MODERATION"), ("CLAIMED", "VERIFICATION"), ("ESCALATED", "DISPUTE")):
            held = {"assignee_id": people["trust"]} if state == "CLAIMED" else {}
            about = await f.subject(bench.conn, city_id="bath", content_category=category)
            row = {"content_category": category, "state": state, "kind": kind, "subject_id": about, **held}
            asked.append(("Case", "getCase", "id", await f.case(bench.conn, city_id="bath", **row)))
    for city in ("bath", "rome"):
        asked.append(("OrderLedger", "getOrderLedger", "orderId", await f.ledger(bench.conn, city_id=city)))
    compared = 0
    for name in ("support", "trust", "finance"):
        one = await asking(bench, people[name])
        for type_name, root, key, id_ in asked:
            told = await one.hints(root, key, id_)
            for mutation, *_ in hints.offered_on(type_name) if told else ():
                hint = told[console().rules["Mutation", mutation].record_action]
                assert hint == await one.attempt(mutation, type_name, id_), (name, mutation, id_)
                compared += 1
    assert compared > 200


async def test_a_page_says_of_each_case_what_is_said_of_it_alone(bench: Bench) -> None:
    people = {name: await f.staff(bench.conn, role, tier, cities=("bath",)) for name, (role, tier) in PEOPLE.items()}
    cases = await cases_of(bench, people) + await cases_of(bench, people)  # each twice: the second is not tried again
    text = "{ listCases(limit: 100) { items { id allowedActions { action deniedCode needsApproval } } } }"
    operation = Documents(console().core).operation(text)
    for who in people.values():
        one = await asking(bench, who)
        answer = await bench.reader.query(one.caller, one.snapshot, operation, operation.bind(console().core, {}))
        page = {
            item["id"]: {said["action"]: (said["deniedCode"], said["needsApproval"]) for said in item["allowedActions"]}
            for item in (answer.data or {})["listCases"]["items"]
        }
        assert page == {case: alone for case in cases if (alone := await one.hints("getCase", "id", case))}


# ---------- the declaration ----------
def claim(offered: Offer | NotOffered | None) -> dict[str, Command[Any]]:
    command = type("Claim", (type(COMMANDS["claimCase"]),), {"offered": offered})()
    return {"claimCase": command}


def test_every_command_of_the_console_offers_itself_or_says_why_not() -> None:
    assert list(hints.misfits(console())) == []


@pytest.mark.parametrize(
    ("offered", "complaint"),
    [
        (None, "Mutation.claimCase: allowedActions of Case neither offer it nor is it said why not"),
        (Offer("Queue", lambda *_: {}), "Mutation.claimCase: offered on Queue, which has no allowedActions"),
        (
            Offer("Subject", lambda *_: {}),
            "Mutation.claimCase: offered on Subject, whose rows resolvers/hints.py cannot show to a command",
        ),
    ],
)
def test_a_forgotten_or_misplaced_offer_is_named_at_start(offered: Offer | None, complaint: str) -> None:
    assert list(hints.misfits(console(), claim(offered))) == [complaint]
    assert list(hints.misfits(console(), claim(NotOffered("because")))) == []


def test_a_mutation_that_names_no_hinted_type_owes_nothing() -> None:
    assert COMMANDS["acknowledgeAlert"].offered is None
