"""One plan, several finishes: whatever is asked and whoever asks, they say the same, and the log hears the same of them."""

from __future__ import annotations

import base64
import gc
import random
from collections.abc import AsyncIterator, Iterator
from types import FunctionType, ModuleType
from typing import Any

import orjson
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from graphql import GraphQLEnumType, GraphQLNamedType, GraphQLSchema

from authz.caller import Caller
from authz.enforcer import Snapshot
from resolvers.documents import InvalidDocumentError
from resolvers.read_plan import BYTES, COMPILED, COMPLETED
from resolvers.reader import Answer, Reader
from schema.build import console
from schema.errors import ConsoleError
from tests import factories as f
from tests.conftest import Database
from tests.resolvers.documents import Writer
from tests.resolvers.reading import ELSEWHERE, Stage, stage

ROLES = ("SUPPORT", "TRUST_SAFETY", "FINANCE", "CONTENT_EDITOR", "CITY_OPS", "ADMIN", "AUDITOR")
FINISHES = (BYTES, COMPILED, COMPLETED)
TOKEN_KEY = b"\1" * 32


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def on(shared_database: Database) -> AsyncIterator[Stage]:
    async with stage(shared_database) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def readers(on: Stage) -> dict[str, Reader]:
    """The same reader three times, each with another best finish and plans of its own."""
    pools = on.reader._pools
    functions = dict.fromkeys(ELSEWHERE, _none)
    return {
        best: Reader(
            console(),
            pools["app"],
            pools["audit"],
            on.reader._tokens,
            salt="pepper",
            functions=functions,
            best_finish=best,
        )
        for best in FINISHES
    }


async def _none(_: object) -> None:
    return None


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ids(on: Stage) -> dict[str, list[str]]:
    """Rows of every kind in two cities, some of which no reader of one city may see."""
    conn = on.conn
    people = [await f.staff(conn, role, tier, cities=cities, categories=("SFW",)) for role in ROLES for tier, cities in (("LEAD", ("*",)), ("AGENT", ("lisbon",)))]  # fmt: skip
    found: dict[str, list[str]] = {"id": [], "orderId": [], "queueId": [], "assigneeId": people[:2]}
    for number in range(12):
        city = ("lisbon", "berlin", None)[number % 3] if number % 4 else "lisbon"
        subject = await f.subject(conn, city_id=city, content_category=("SFW", "NSFW")[number % 2])
        queue = await f.queue(conn, city_ids=[city or "lisbon"])
        claimed = number % 3 == 0
        case = await f.case(
            conn,
            subject_id=subject,
            queue_id=queue,
            city_id=city,
            priority=number % 5,
            kind=("MODERATION", "REFUND")[number % 2],
            content_category="SFW",
            state="CLAIMED" if claimed else "OPEN",
            assignee_id=people[number] if claimed else None,
        )
        for _ in range(number % 4):
            await f.report(
                conn, case, subject_id=subject, city_id=city, reporter_accuracy=(None, 1.0, 0.25)[number % 3]
            )
        await f.note(conn, case, people[number % len(people)], city_id=city, mention_ids=people[: number % 3])
        await f.timeline(conn, "Case", case, city_id=city, actor_id=(None, people[0], "nobody")[number % 3])
        decision = await f.decision(conn, case, people[1], subject_id=subject, city_id=city, approved_by_ids=people[: number % 3])  # fmt: skip
        order = await f.ledger(conn, city_id=city or "lisbon")
        refund = await f.refund(conn, order, people[0], city_id=city or "lisbon", approved_by_ids=people[:1])
        await f.delivery(conn, refund, city_id=city)
        approval = await f.approval(conn, people[2], city_id=city, window_sum_minor=None if number % 2 else 500)
        await f.vote(conn, approval, people[4])
        alert = await f.alert(conn, *people, city_id=city)
        found["id"] += [case, subject, queue, decision, refund, approval, alert, people[number]]
        found["orderId"].append(order)
        found["queueId"].append(queue)
    for person in people[:4]:
        await f.audit_record(conn, person)
    return found


def opened(value: Any) -> Any:
    """An answer with its page tokens opened: the same place and key, whatever the nonce and the second."""
    if isinstance(value, dict):
        return {key: opened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [opened(item) for item in value]
    if isinstance(value, str) and value.startswith("k1."):
        raw = _decoded(value.removeprefix("k1."))
        return orjson.loads(AESGCM(TOKEN_KEY).decrypt(raw[:12], raw[12:], b"k1"))[1:]
    return value


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def asked(
    reader: Reader, on: Stage, who: tuple[Caller, Snapshot], text: str, variables: dict[str, Any]
) -> Answer:
    caller, snapshot = who
    operation = on.documents.operation(text)
    return await reader.query(caller, snapshot, operation, operation.bind(console().core, variables))


def said(answer: Answer) -> tuple[bytes, bytes, list[Any]]:
    """Content with the order of its keys and the form of its numbers, errors, and what the log would hear."""
    reads = [
        (
            read.key,
            read.field,
            read.ids,
            read.count,
            read.fields,
            read.masked,
            read.pii,
            read.filter_digest,
            read.sought,
            str(read.error),
        )
        for read in answer.reads
    ]
    return orjson.dumps(opened(answer.data)), orjson.dumps(answer.errors), reads


ROOTS = [
    name
    for name, one in console().core.query_type.fields.items()  # type: ignore[union-attr]
    if name not in (*ELSEWHERE, "previewMacro") and "Macro" not in name
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("tier", ["LEAD", "AGENT"])
async def test_all_finishes_say_the_same(
    on: Stage, readers: dict[str, Reader], ids: dict[str, list[str]], role: str, tier: str, pytestconfig: pytest.Config
) -> None:
    who = await f.staff(on.conn, role, tier, cities=("*",) if tier == "LEAD" else ("lisbon",), categories=("SFW",))
    asking = await on.who(who)
    compared = 0
    for seed in range(400 if pytestconfig.getoption("--long") else 12):
        writer = Writer(random.Random(f"{role} {tier} {seed}"), {**ids, "id": [*ids["id"], who]})
        text = writer.document(ROOTS)
        try:
            answers = [await asked(readers[best], on, asking, text, writer.variables) for best in FINISHES]
        except (InvalidDocumentError, ConsoleError):  # too deep, too dear, two fields under one key
            continue
        expected = said(answers[-1])
        for best, answer in zip(FINISHES, answers, strict=True):
            assert said(answer) == expected, (best, text, writer.variables)
        compared += 1
    assert compared > 5


async def test_the_random_documents_had_every_finish(readers: dict[str, Reader]) -> None:
    """Asked after the comparison: a finish that never ran was compared with nothing."""
    counts = readers[BYTES].finishes
    assert counts[BYTES] > 20
    assert {name.partition(":")[0] for name in counts} == {BYTES, COMPILED, COMPLETED}
    assert {"compiled:computed", "compiled:people", "compiled:tokens", "completed:denied"} <= set(counts)
    assert set(readers[COMPLETED].finishes) <= {
        name for name in readers[COMPLETED].finishes if name.startswith(COMPLETED)
    }


# ---------- what a type cannot show ----------
async def test_a_value_that_its_type_cannot_show_is_an_error_at_its_place(
    on: Stage, readers: dict[str, Reader], ids: dict[str, list[str]]
) -> None:
    """Nothing in the database keeps an unknown word out; the statement marks it and graphql-core tells."""
    lead = await f.staff(on.conn, "TRUST_SAFETY", "LEAD", cities=("*",), categories=("SFW",))
    subject = await f.subject(on.conn, state="NONSENSE", tags=["a", "b"])
    case = await f.case(on.conn, subject_id=subject, city_id="lisbon")
    await on.conn.execute("UPDATE subject SET tags = ARRAY['a', NULL, 'c'] WHERE id = $1", subject)
    text = f'{{ getCase(id: "{case}") {{ id subject {{ id state }} }} one: getSubject(id: "{subject}") {{ tags }} }}'
    asking = await on.who(lead)
    answers = [await asked(readers[best], on, asking, text, {}) for best in FINISHES]
    assert len({said(answer)[:2] for answer in answers}) == 1
    assert {tuple(error["path"]) for error in answers[0].errors} == {
        ("getCase", "subject", "state"),
        ("one", "tags", 1),
    }
    assert readers[BYTES].finishes["completed:marked"] > 0


async def test_a_text_that_looks_like_a_mark_is_a_text(on: Stage, readers: dict[str, Reader]) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    case = await f.case(on.conn)
    bodies = {"\x01", "\\u0000", '"\\u0001"', "\x1f", "plain"}
    for body in sorted(bodies):
        await f.note(on.conn, case, agent, body=body)
    text = f'{{ getCase(id: "{case}") {{ notes(limit: 10) {{ items {{ body }} }} }} }}'
    for best in FINISHES:
        answer = await asked(readers[best], on, await on.who(agent), text, {})
        assert answer.errors == []
        assert answer.data is not None
        assert {one["body"] for one in answer.data["getCase"]["notes"]["items"]} == bodies


async def test_a_parent_out_of_reach_is_the_same_null_in_every_finish(on: Stage, readers: dict[str, Reader]) -> None:
    """The subject must be there by the schema; a foreign key keeps it in the case's city, but nothing promises the scope."""
    lead = await f.staff(on.conn, "TRUST_SAFETY", "AGENT", cities=("lisbon",), categories=("SFW",))
    subject = await f.subject(on.conn, city_id="lisbon")
    case = await f.case(on.conn, subject_id=subject, city_id="lisbon", content_category="SFW")
    await on.conn.execute("SET session_replication_role = replica")
    await on.conn.execute("UPDATE subject SET city_id = 'berlin' WHERE id = $1", subject)
    await on.conn.execute("RESET session_replication_role")
    text = f'{{ getCase(id: "{case}") {{ id subject {{ id }} }} }}'
    asking = await on.who(lead)
    answers = [await asked(readers[best], on, asking, text, {}) for best in FINISHES]
    assert len({said(answer)[:2] for answer in answers}) == 1
    assert answers[0].data == {"getCase": None}
    assert answers[0].errors[0]["path"] == ["getCase", "subject"]


@pytest.mark.parametrize("of", [enum for enum in console().core.type_map.values() if isinstance(enum, GraphQLEnumType)])
def test_an_enums_word_is_its_name(of: GraphQLEnumType) -> None:
    """The statement sends a stored word as it is."""
    if not of.name.startswith("__"):
        assert all(of.coerce_output_value(name) == name for name in of.values)


# ---------- what is kept, what is counted ----------
def reached(start: Any) -> Iterator[Any]:
    """Every object that keeps living because ``start`` does; of a function only what it closes over."""
    seen: set[int] = set()
    pending = [start]
    while pending:
        one = pending.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | GraphQLSchema | GraphQLNamedType):
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, FunctionType):
            pending += [*(one.__closure__ or ()), *(one.__defaults__ or ())]
        else:
            pending += gc.get_referents(one)


async def test_nothing_of_sqlalchemy_is_kept_with_a_plan(
    on: Stage, readers: dict[str, Reader], ids: dict[str, list[str]]
) -> None:
    lead = await f.staff(on.conn, "TRUST_SAFETY", "LEAD", cities=("*",), categories=("SFW",))
    reader = Reader(
        console(), *on.reader._pools.values(), on.reader._tokens, salt="p", functions=dict.fromkeys(ELSEWHERE, _none)
    )
    text = """query Q($city: ID!, $from: String!, $n: Int) {
      listCases(filter: { cityId: { eq: $city }, createdAt: { between: [$from, $from] }, or: [{ priority: { in: [1, 2] } }] }, limit: $n) {
        items { id lease { holder { id } } reports(limit: 2) { items { id } nextToken } allowedActions { action } } nextToken }
      getCase(id: "x") { subject { tags } }
      denied: listAudit(filter: { actorId: { eq: "x" } }) { items { id body } }
      approvalMetrics(at: { from: "2020-01-01T00:00:00Z", to: "2030-01-01T00:00:00Z" }) { share }
    }"""
    await asked(reader, on, await on.who(lead), text, {"city": "lisbon", "from": "2026-01-01T00:00:00Z", "n": 3})
    plans = list(reader.plans._plans.values())
    assert len(plans) == 1
    everything = list(reached(plans[0]))
    assert len(everything) > 100
    assert [type(one) for one in everything if type(one).__module__.partition(".")[0] == "sqlalchemy"] == []


async def test_a_warm_query_parses_validates_and_plans_nothing_and_asks_no_enforcer(
    on: Stage, readers: dict[str, Reader], ids: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lead = await f.staff(on.conn, "TRUST_SAFETY", "LEAD", cities=("*",), categories=("SFW",))
    asking = await on.who(lead)
    text = (
        "query($n: Int!) { listCases(limit: $n) { items { id subject { id } assignee { id displayName } } nextToken } }"
    )
    await asked(readers[BYTES], on, asking, text, {"n": 3})
    parsed, validated, planned = on.documents.parsed, on.documents.validated, readers[BYTES].plans.misses
    calls: list[str] = []
    for name in ("opens", "holding", "permits"):
        monkeypatch.setattr(Snapshot, name, lambda *_, name=name, **__: calls.append(name))
    on.statements.clear()
    before = readers[BYTES].finishes[BYTES]
    answer = await asked(readers[BYTES], on, asking, text, {"n": 2})
    assert answer.errors == []
    assert (on.documents.parsed, on.documents.validated, readers[BYTES].plans.misses) == (parsed, validated, planned)
    assert calls == []
    assert len(on.statements) == 1
    assert readers[BYTES].finishes[BYTES] == before + 1


async def test_a_refusal_that_is_kept_does_not_gather_those_who_heard_it(on: Stage, readers: dict[str, Reader]) -> None:
    agent = await f.staff(on.conn, "CONTENT_EDITOR", categories=("SFW",))
    text = "{ listAudit { items { body } } listQueues(filter: { name: { gt: 1 } }) { items { id } } }"
    for _ in range(3):
        with pytest.raises(InvalidDocumentError):
            on.documents.operation(text)
    (kept,) = [entry.error for entry in on.documents._entries.values() if isinstance(entry.error, InvalidDocumentError)]
    assert kept.__traceback__ is None
    denied = '{ getOrderLedger(orderId: "x") { orderId } }'
    for _ in range(3):
        await asked(readers[BYTES], on, await on.who(agent), denied, {})
    errors = [root.error for plan in readers[BYTES].plans._plans.values() for root in plan.roots if root.error]
    assert errors
    assert all(error.__traceback__ is None for error in errors)
