"""``POST /graphql`` against AppSync's contract: statuses, error bodies, envelopes, receipts, records, rates."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import httpx2
import orjson
import pytest
from graphql import get_introspection_query

from resolvers.limits import Front, Limits
from tests import factories
from tests.api.conftest import MakeStage
from tests.api.stage import KEY, SERVICE_KEY, Stage

ME = "query Me { me { policyVersion staff { id displayName } } }"


async def post(
    stage: Stage, *, content: bytes = b'{"query":"{ me { policyVersion } }"}', **headers: str
) -> httpx2.Response:
    sent = {
        "content-type": "application/json; charset=UTF-8",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    async with httpx2.AsyncClient() as client:
        return await client.post(f"http://{stage.address}/graphql", content=content, headers=sent)


def refused(answer: httpx2.Response, status: int, name: str, message: str | None = None) -> None:
    """An error of the whole request, in every place a client may look."""
    body = answer.json()
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (status, name)
    assert body["__type"] == body["errors"][0]["errorType"] == name
    assert body["message"] == body["errors"][0]["message"]
    if message is not None:
        assert body["message"] == message


# ---------- the failures of the contract's table ----------
async def test_no_credentials_at_all(stage: Stage) -> None:
    refused(await post(stage), 401, "UnauthorizedException", "Missing authorization header")


async def test_a_header_that_no_mode_takes(stage: Stage) -> None:
    refused(
        await post(stage, authorization="AWS4-HMAC-SHA256 Credential=x"),
        401,
        "UnauthorizedException",
        "Valid authorization header not provided.",
    )


@pytest.mark.contract("TK-9")
async def test_a_wrong_api_key_does_not_fall_through_to_the_token_beside_it(stage: Stage) -> None:
    answer = await post(stage, x_api_key="da2-x", authorization=stage.token("st_ts"))
    refused(answer, 401, "UnauthorizedException", "You are not authorized to make this call.")


@pytest.mark.contract("TK-9")
async def test_an_api_key_opens_its_root_fields_and_no_others(stage: Stage) -> None:
    listed = await stage.ask(None, ME, headers={"x-api-key": KEY})
    assert listed.json()["data"]["me"]["staff"]["id"] == "st_ts"
    for query in (
        "{ reasonCodes { code } }",
        "{ me { policyVersion } reasonCodes { code } }",
        'mutation { withdrawVote(requestId: "x") { outcome } }',
    ):
        body = (await stage.ask(None, query, headers={"x-api-key": KEY})).json()
        assert body["data"] is None
        assert [error["errorType"] for error in body["errors"]] == ["Unauthorized"]
    records = await stage.records()
    assert [(r["kind"], r["field"]) for r in records[1:]] == [
        ("denied", "Query.reasonCodes"),
        ("denied", "Query.reasonCodes"),
        ("denied", "Mutation.withdrawVote"),
    ]
    both = await stage.ask("st_ts", "{ reasonCodes { code } }", headers={"x-api-key": KEY})
    assert both.json()["data"] is None, "two credentials never add up"


@pytest.mark.contract("BR-5", "PV-1")
async def test_a_bug_leaves_as_internal_with_the_request_id_and_its_text_stays_inside(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.owner("ALTER TABLE case_file RENAME TO marker_8d1f")
    answer = await stage.ask("st_ts", "{ listCases { items { id } } }")
    assert answer.status_code == 200
    (error,) = answer.json()["errors"]
    assert (error["errorType"], error["errorInfo"]) == (
        "INTERNAL",
        {"retryable": True, "requestId": answer.headers["x-amzn-requestid"]},
    )
    for text in (answer.text, caplog.text):
        assert "case_file" not in text
        assert "marker" not in text
    assert answer.headers["x-amzn-requestid"] in caplog.text


async def test_a_token_that_is_not_a_jwt(stage: Stage) -> None:
    refused(await post(stage, authorization="nonsense"), 401, "UnauthorizedException", "Unable to parse JWT token.")


async def test_an_expired_token(stage: Stage) -> None:
    old = stage.token("st_ts", timedelta(minutes=1), now=stage.parts.clock() - timedelta(hours=1))
    refused(await post(stage, authorization=old), 401, "UnauthorizedException", "Token has expired.")


@pytest.mark.contract("TK-9")
async def test_an_unknown_and_a_locked_person_hear_the_same(stage: Stage) -> None:
    await stage.owner("UPDATE staff SET state = 'LOCKED' WHERE id = 'st_berlin'")
    answers = [await post(stage, authorization=stage.token(person)) for person in ("nobody", "st_berlin")]
    for answer in answers:
        refused(answer, 401, "UnauthorizedException", "You are not authorized to make this call.")
    assert answers[0].content == answers[1].content


async def test_the_token_is_taken_raw_and_as_bearer(stage: Stage) -> None:
    token = stage.token("st_ts")
    for value in (token, f"Bearer {token}", f"bearer {token}"):
        assert (await post(stage, authorization=value)).json()["data"]["me"]["policyVersion"] >= 1


async def test_a_body_that_is_empty_or_no_graphql(stage: Stage) -> None:
    token = stage.token("st_ts")
    refused(
        await post(stage, content=b"", authorization=token),
        400,
        "MalformedHttpRequestException",
        "Request body is empty.",
    )
    refused(
        await post(stage, content=b'{"variables":{}}', authorization=token),
        400,
        "MalformedHttpRequestException",
        "Unable to parse GraphQL query.",
    )


async def test_a_syntax_error_is_400_and_200_where_only_json_is_accepted(stage: Stage) -> None:
    content = b'{"query":"query {"}'
    token = stage.token("st_ts")
    refused(await post(stage, content=content, authorization=token), 400, "MalformedHttpRequestException")
    plain = await post(stage, content=content, authorization=token, accept="application/json")
    assert plain.status_code == 200
    assert plain.json()["data"] is None
    assert plain.json()["errors"][0]["message"].startswith("Unable to parse GraphQL query.")
    refused(
        await post(stage, content=content, authorization=token, accept="application/graphql-response+json"),
        400,
        "MalformedHttpRequestException",
    )


async def test_a_validation_error_is_a_200_in_appsyncs_words(stage: Stage) -> None:
    answer = await stage.ask("st_ts", "query {\n  foo\n}\n")
    assert answer.status_code == 200
    assert "x-amzn-errortype" not in answer.headers
    assert answer.json() == {
        "data": None,
        "errors": [
            {
                "path": None,
                "locations": [{"line": 2, "column": 3, "sourceName": None}],
                "message": "Validation error of type FieldUndefined: Field 'foo' in type 'Query' is undefined @ 'foo'",
            }
        ],
    }


async def test_a_variable_that_does_not_fit_is_a_200(stage: Stage) -> None:
    answer = await stage.ask("st_ts", "query Q($id: ID!) { getCase(id: $id) { id } }")
    assert answer.status_code == 200
    assert answer.json()["data"] is None
    assert "'id'" in answer.json()["errors"][0]["message"]


async def test_who_accepts_graphql_responses_hears_400_without_data(stage: Stage) -> None:
    answer = await stage.ask(
        "st_ts", "{ foo }", headers={"accept": "application/graphql-response+json, application/json;q=0.9"}
    )
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/graphql-response+json;charset=UTF-8"
    assert set(answer.json()) == {"errors"}
    fine = await stage.ask("st_ts", ME, headers={"accept": "application/graphql-response+json"})
    assert (fine.status_code, fine.headers["content-type"]) == (200, "application/graphql-response+json;charset=UTF-8")


async def test_a_subscription_over_http_is_refused(stage: Stage) -> None:
    answer = await stage.ask("st_ts", "subscription { onAlert { id } }")
    assert answer.status_code == 200
    assert answer.json()["data"] is None
    assert answer.json()["errors"][0]["errorType"] == "BAD_REQUEST"


@pytest.mark.contract("QL-9")
async def test_a_document_beyond_a_limit_is_refused_by_its_code(stage: Stage) -> None:
    answer = await stage.ask("st_ts", "{ " + " ".join(f"a{n}: me {{ policyVersion }}" for n in range(11)) + " }")
    assert answer.status_code == 200
    (error,) = answer.json()["errors"]
    assert (error["errorType"], error["errorInfo"]["max"], answer.json()["data"]) == ("LIMIT_EXCEEDED", 10, None)


async def test_the_operation_is_chosen_by_name(stage: Stage) -> None:
    content = b'{"query":"query A { me { policyVersion } } query B { me { staff { id } } }","operationName":"B"}'
    assert (await post(stage, content=content, authorization=stage.token("st_ts"))).json()["data"] == {
        "me": {"staff": {"id": "st_ts"}}
    }
    unnamed = await post(
        stage, content=content.replace(b',"operationName":"B"', b""), authorization=stage.token("st_ts")
    )
    assert unnamed.json()["errors"][0]["message"].startswith("Must provide operation name")


async def test_null_parameters_are_allowed(stage: Stage) -> None:
    content = b'{"query":"{ me { policyVersion } }","variables":null,"operationName":null,"extensions":null}'
    assert "errors" not in (await post(stage, content=content, authorization=stage.token("st_ts"))).json()


# ---------- answers, receipts and records ----------
@pytest.mark.contract("AU-2")
async def test_an_answer_carries_a_receipt_for_each_root_field_and_each_is_on_record(stage: Stage) -> None:
    answer = await stage.ask(
        "st_ts",
        "query Two { one: me { staff { id } } two: me { policyVersion } reasonCodes(list: REFUND) { code } __typename }",
    )
    body = answer.json()
    assert "errors" not in body
    assert list(body["data"]) == ["one", "two", "reasonCodes", "__typename"]
    receipts = body["extensions"]["audit"]
    assert [receipt["field"] for receipt in receipts] == ["one", "two", "reasonCodes"]
    records = await stage.records()
    assert [record["id"] for record in records] == [receipt["id"] for receipt in receipts]
    assert [record["field"] for record in records] == ["Query.me", "Query.me", "Query.reasonCodes"]
    assert {record["request"]["id"] for record in records} == {answer.headers["x-amzn-requestid"]}
    first = records[0]
    assert (first["kind"], first["actor"]["sub"], first["action"], first["operation"]["name"]) == (
        "read",
        "st_ts",
        "staff.me",
        "Two",
    )
    assert len(first["request"]["ipTag"]) == 32
    assert "127.0.0.1" not in str(records)


@pytest.mark.contract("AU-2", "AZ-5")
async def test_a_case_is_read_within_scope_and_recorded_and_outside_it_is_null_and_recorded_too(stage: Stage) -> None:
    conn = await asyncpg.connect(**stage.database.superuser)
    case_id = await factories.case(conn, city_id="lisbon")
    await conn.close()
    query = "query C($id: ID!) { getCase(id: $id) { id cityId } }"
    seen = (await stage.ask("st_ts", query, {"id": case_id})).json()
    assert seen["data"] == {"getCase": {"id": case_id, "cityId": "lisbon"}}
    hidden = (await stage.ask("st_berlin", query, {"id": case_id})).json()
    absent = (await stage.ask("st_berlin", query, {"id": "case_of_nobody"})).json()
    assert hidden["data"] == absent["data"] == {"getCase": None}
    assert "errors" not in hidden
    first, second, third = await stage.records()
    assert (first["object"]["type"], first["object"]["id"], first["result"]["count"]) == ("Case", case_id, 1)
    assert (second["result"]["count"], third["result"]["count"]) == (0, 0)
    assert first["fields"]["read"] == ["Case.cityId", "Case.id"]
    assert second["operation"]["arguments"] != third["operation"]["arguments"]


@pytest.mark.contract("AU-3")
async def test_a_denied_field_is_null_with_appsyncs_error_and_on_record(stage: Stage) -> None:
    body = (await stage.ask("st_city", "{ listRefunds { items { id } } me { policyVersion } }")).json()
    (error,) = body["errors"]
    assert error["errorType"] == "Unauthorized"
    assert error["path"] == ["listRefunds"]
    assert error["message"] == "Not Authorized to access listRefunds on type Query"
    assert set(error) == {"path", "data", "errorType", "errorInfo", "locations", "message"}
    denied = [record for record in await stage.records() if record["kind"] == "denied"]
    assert [(r["field"], r["decision"]["verdict"], r["decision"]["code"]) for r in denied] == [
        ("Query.listRefunds", "DENIED", "Unauthorized")
    ]


@pytest.mark.contract("FC-2")
async def test_without_a_record_there_is_no_data(stage: Stage) -> None:
    conn = await asyncpg.connect(**stage.database.superuser)
    await conn.execute("REVOKE EXECUTE ON FUNCTION audit.append FROM cs_app")
    await conn.close()
    answer = await stage.ask("st_ts", ME)
    assert answer.status_code == 200
    assert answer.json()["data"] is None
    assert answer.json()["errors"][0]["errorType"] == "AUDIT_UNAVAILABLE"
    assert answer.json()["errors"][0]["errorInfo"]["retryable"] is True


@pytest.mark.contract("AZ-7")
async def test_a_right_that_was_revoked_is_gone_at_the_next_request_of_any_process(stages: MakeStage) -> None:
    one, two = await stages(), await stages()
    conn = await asyncpg.connect(**one.database.superuser)
    case_id = await factories.case(conn, city_id="berlin")
    await conn.close()
    query = "query C($id: ID!) { getCase(id: $id) { id } }"
    for _ in range(10):
        for stage in (one, two):
            assert (await stage.ask("st_ts", query, {"id": case_id})).json()["data"]["getCase"] == {"id": case_id}
        await one.owner("UPDATE staff_grant SET city_ids = '{lisbon}' WHERE id = 'g1'")
        for stage in (one, two):
            assert (await stage.ask("st_ts", query, {"id": case_id})).json()["data"]["getCase"] is None
        await one.owner("UPDATE staff_grant SET city_ids = '{*}' WHERE id = 'g1'")


@pytest.mark.contract("FC-1")
async def test_without_a_database_the_answer_is_a_retryable_error(stage: Stage) -> None:
    await stage.ask("st_ts", ME)
    await stage.parts.app_pool.close()
    body = (await stage.ask("st_ts", ME)).json()
    assert body["data"] is None
    assert body["errors"][0]["errorType"] == "DEPENDENCY_UNAVAILABLE"


# ---------- introspection ----------
@pytest.mark.contract("BR-4")
async def test_introspection_takes_a_credential_and_with_a_real_issuer_the_right(stages: MakeStage) -> None:
    free, guarded = await stages(), await stages(None, Front(introspection=False))
    query = get_introspection_query()
    assert (await free.ask(None, query)).status_code == 401
    schema: dict[str, Any] = (await free.ask("st_ts", query)).json()["data"]["__schema"]
    assert {"Case", "CaseEvent", "ModelCaseFilterInput"} <= {kind["name"] for kind in schema["types"]}
    body = (await guarded.ask("st_ts", query)).json()
    assert body["data"] is None
    assert body["errors"][0]["errorType"] == "Unauthorized"
    assert (await guarded.ask("st_ts", "{ __typename }")).json()["data"] == {"__typename": "Query"}
    await guarded.owner(
        "INSERT INTO staff_grant (id, staff_id, role, tier, city_ids, content_categories) VALUES ('g10', 'st_ts', 'ADMIN', 'LEAD', '{*}', '{SFW}')"
    )
    await asyncio.sleep(2.5)  # a statement-less operation learns of it by notification or poll
    assert (await guarded.ask("st_ts", '{ __type(name: "Case") { name } }')).json()["data"] == {
        "__type": {"name": "Case"}
    }


# ---------- rates ----------
@pytest.mark.contract("RT-1")
async def test_a_person_beyond_his_rate_hears_when_to_come_again_in_a_200(stages: MakeStage) -> None:
    stage = await stages(Limits(query_rate=(0.5, 3)))
    answers = [await stage.ask("st_ts", ME) for _ in range(4)]
    assert ["errors" in answer.json() for answer in answers] == [False, False, False, True]
    (error,) = answers[-1].json()["errors"]
    assert answers[-1].status_code == 200
    assert error["errorType"] == "RATE_LIMITED"
    assert 0 < error["errorInfo"]["retryAfterMs"] <= 2001
    assert "errors" not in (await stage.ask("st_berlin", ME)).json(), "another person is not slowed"


@pytest.mark.contract("RT-1")
async def test_only_bad_credentials_are_ever_answered_by_429(stages: MakeStage) -> None:
    stage = await stages(Limits(bad_credential_rate=(0.01, 3)))
    statuses = [(await stage.ask("nobody", ME)).status_code for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    refused(await stage.ask("nobody", ME), 429, "ThrottlingException", "Rate exceeded")
    assert (await stage.ask("st_ts", ME)).status_code == 200, "a good credential from the same address still passes"


@pytest.mark.contract("QL-14")
async def test_an_answer_that_is_too_large_is_not_sent(stages: MakeStage) -> None:
    stage = await stages(Limits(response_bytes=200))
    body = (await stage.ask("st_ts", "{ reasonCodes { code label } }")).json()
    assert body["data"] is None
    assert body["errors"][0]["errorType"] == "LIMIT_EXCEEDED"


@pytest.mark.contract("AU-4")
async def test_a_reader_who_hangs_up_leaves_his_record(stage: Stage) -> None:
    host, port = stage.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = b'{"query":"{ reasonCodes { code } }"}'
    head = f"POST /graphql HTTP/1.1\r\nhost: {stage.address}\r\nauthorization: {stage.token('st_ts')}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()
    for _ in range(60):
        records = await stage.records()
        if records:
            break
        await asyncio.sleep(0.05)
    assert [record["field"] for record in records] == ["Query.reasonCodes"]


# ---------- mutations ----------
NOTE = "mutation Note($input: NoteInput!) { addNote(input: $input) { outcome note { id body } case { id version } audit { id hash } } }"


async def a_case(stage: Stage, **row: Any) -> str:
    conn = await asyncpg.connect(**stage.database.superuser)
    try:
        return await factories.case(conn, **row)
    finally:
        await conn.close()


def note(case_id: str, **more: Any) -> dict[str, Any]:
    return {
        "input": {
            "caseId": case_id,
            "body": "Looked at.",
            "internal": True,
            "idempotencyKey": "7f0c6a52-1b1e-4a8e-9c0e-000000000001",
            **more,
        }
    }


@pytest.mark.contract("AU-1")
async def test_a_mutation_answers_its_selection_and_its_receipt(stage: Stage) -> None:
    case_id = await a_case(stage)
    body = (await stage.ask("st_ts", NOTE, note(case_id))).json()
    assert "errors" not in body, body
    payload = body["data"]["addNote"]
    assert (payload["outcome"], payload["note"]["body"], payload["case"]["id"]) == ("EXECUTED", "Looked at.", case_id)
    (record,) = await stage.records()
    assert (record["id"], record["kind"], record["field"]) == (payload["audit"]["id"], "mutation", "Mutation.addNote")
    assert body["extensions"]["audit"] == [{"field": "addNote", "id": record["id"], "hash": payload["audit"]["hash"]}]
    again = (await stage.ask("st_ts", NOTE, note(case_id))).json()["data"]["addNote"]
    assert (again["outcome"], again["note"]["id"]) == ("REPLAYED", payload["note"]["id"])


@pytest.mark.contract("AU-3")
async def test_a_refused_mutation_is_an_error_in_a_200_and_on_record(stage: Stage) -> None:
    hidden = await a_case(stage, city_id="lisbon")
    answers = [await stage.ask("st_berlin", NOTE, note(case_id)) for case_id in (hidden, "case_of_nobody")]
    for answer in answers:
        assert answer.status_code == 200
        assert answer.json()["data"] is None
    first, second = (answer.json()["errors"] for answer in answers)
    assert first == second
    assert first[0]["errorType"] == "NOT_FOUND"
    assert first[0]["path"] == ["addNote"]
    assert first[0]["locations"] == [{"line": 1, "column": 37, "sourceName": None}]
    records = await stage.records()
    assert [(r["kind"], r["decision"]["code"], r["actor"]["sub"]) for r in records] == [
        ("denied", "NOT_FOUND", "st_berlin")
    ] * 2


async def test_root_fields_run_in_order_and_a_non_null_failure_ends_the_row(stage: Stage) -> None:
    case_id = await a_case(stage)
    query = "mutation M($a: NoteInput!, $b: NoteInput!, $c: NoteInput!) { one: addNote(input: $a) { outcome } two: addNote(input: $b) { outcome } three: addNote(input: $c) { outcome } }"
    variables = {
        "a": note(case_id)["input"],
        "b": note("case_of_nobody")["input"],
        "c": note(case_id, idempotencyKey="7f0c6a52-1b1e-4a8e-9c0e-000000000009")["input"],
    }
    body = (await stage.ask("st_ts", query, variables)).json()
    assert body["data"] is None
    assert [error["path"] for error in body["errors"]] == [["two"]]
    assert [record["decision"]["verdict"] for record in await stage.records()] == ["ALLOWED", "DENIED"], (
        "the first stands, the third never ran"
    )


@pytest.mark.contract("TK-9", "DC-7")
async def test_publishing_is_for_a_mode_that_is_not_here(stage: Stage) -> None:
    query = 'mutation { publishAlert(input: {id: "a", cursor: "c", kind: AUDIT_CHAIN, severity: 1, targetType: "x", targetId: "y", summary: "s", createdAt: "2026-11-24T10:00:00Z"}) { id } }'
    body = (await stage.ask("st_ts", query)).json()
    assert body["data"] == {"publishAlert": None}
    assert body["errors"][0]["errorType"] == "Unauthorized"
    assert [(r["kind"], r["field"]) for r in await stage.records()] == [("denied", "Mutation.publishAlert")]


@pytest.mark.contract("AU-4")
async def test_a_mutation_whose_caller_hangs_up_is_not_cancelled(stage: Stage) -> None:
    case_id = await a_case(stage)
    host, port = stage.address.split(":")
    body = orjson.dumps({"query": NOTE, "variables": note(case_id)})
    head = f"POST /graphql HTTP/1.1\r\nhost: {stage.address}\r\nauthorization: {stage.token('st_ts')}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()
    for _ in range(60):
        if await stage.records():
            break
        await asyncio.sleep(0.05)
    conn = await asyncpg.connect(**stage.database.superuser)
    assert await conn.fetchval("SELECT count(*) FROM note WHERE case_id = $1", case_id) == 1
    await conn.close()


@pytest.mark.contract("RT-1")
async def test_mutations_have_a_rate_of_their_own_and_count_by_root_field(stages: MakeStage) -> None:
    stage = await stages(Limits(mutation_rate=(0.5, 2)))
    body = (
        await stage.ask(
            "st_ts",
            'mutation { a: withdrawVote(requestId: "x") { outcome } b: withdrawVote(requestId: "x") { outcome } c: withdrawVote(requestId: "x") { outcome } }',
        )
    ).json()
    assert body["errors"][0]["errorType"] == "RATE_LIMITED"
    assert body["data"] is None
    assert "errors" not in (await stage.ask("st_ts", ME)).json()


@pytest.mark.contract("RT-1")
async def test_a_query_that_holds_a_writes_locks_counts_as_one(stages: MakeStage) -> None:
    stage = await stages(Limits(mutation_rate=(0.01, 1)))
    preview = 'previewMacro(input: { macroId: "x", caseId: "x", leaseToken: "x", parameters: "{}" }) { planHash }'
    kinds = [
        error["errorType"]
        for _ in range(2)
        for error in (await stage.ask("st_ts", f"query {{ {preview} }}")).json()["errors"]
    ]
    assert kinds[1:] == ["RATE_LIMITED"]
    assert kinds[0] != "RATE_LIMITED"
    assert "errors" not in (await stage.ask("st_ts", ME)).json()


# ---------- found by attacking it ----------
async def arranged(stage: Stage, make: Callable[[Any], Awaitable[str]]) -> str:
    """Write rows as the superuser."""
    conn = await asyncpg.connect(**stage.database.superuser)
    try:
        await conn.execute("SET countersign.cities = '*'")
        return await make(conn)
    finally:
        await conn.close()


@pytest.mark.contract("AU-3")
async def test_a_page_that_a_payload_would_refuse_is_input_and_comes_in_its_turn(stage: Stage) -> None:
    """Role, then scope, then the page; each refusal on record, and no note written."""
    case_id = await a_case(stage)
    query = "mutation M($input: NoteInput!) { addNote(input: $input) { case { reports(limit: 0) { items { id } } } } }"
    asked = [("st_audit", case_id), ("st_ts", "case_of_nobody"), ("st_ts", case_id)]
    heard = [(await stage.ask(who, query, note(of))).json()["errors"][0]["errorType"] for who, of in asked]
    assert heard == ["Unauthorized", "NOT_FOUND", "BAD_REQUEST"]
    assert [r["decision"]["code"] for r in await stage.records()] == heard


@pytest.mark.contract("AU-2")
async def test_asking_for_what_is_not_there_is_an_attempt_on_record(stage: Stage) -> None:
    """Absent and out of scope are null for the one who asks; the auditor sees which id was tried."""
    hidden = await a_case(stage)
    query = "query Q($id: ID!) { getCase(id: $id) { id } }"
    for sought in (hidden, "case_of_nobody", "ana@example.com"):
        assert (await stage.ask("st_berlin", query, {"id": sought})).json()["data"] == {"getCase": None}
    assert (await stage.ask("st_ts", query, {"id": hidden})).json()["data"] == {"getCase": {"id": hidden}}
    records = await stage.records()
    assert [(r["kind"], r["decision"]["verdict"], r["decision"]["code"], r["object"]["id"]) for r in records] == [
        ("denied", "DENIED", "NOT_FOUND", hidden),
        ("denied", "DENIED", "NOT_FOUND", "case_of_nobody"),
        ("denied", "DENIED", "NOT_FOUND", None),
        ("read", "ALLOWED", None, hidden),
    ]
    assert [r["object"]["city"] for r in records] == [None] * 4
    assert "object.id" in records[2]["priv"]


@pytest.mark.contract("AU-2", "BR-5")
@pytest.mark.parametrize(
    "query",
    [
        "query " + "A" * 50_000 + " { listCases { nextToken } }",
        "{ listCases(filter: " + "{and: [" * 14 + "{}" + "]}" * 14 + ") { nextToken } }",
        "{ listCases(filter: { id: { attributeType: number } }) { nextToken } }",
    ],
    ids=["a long name", "a deep filter", "an enum of a filter"],
)
async def test_nothing_that_a_document_may_say_is_too_much_for_the_log(stage: Stage, query: str) -> None:
    body = (await stage.ask("st_ts", query)).json()
    assert body["data"] == {"listCases": {"nextToken": None}}, body
    (record,) = await stage.records()
    assert record["decision"]["verdict"] == "ALLOWED"
    assert len(record["operation"]["name"] or "") <= 100


@pytest.mark.contract("BR-5")
async def test_a_fault_within_an_answer_names_the_request_that_the_log_knows(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    request = await arranged(stage, lambda conn: factories.approval(conn, "st_support", seats=[]))
    answer = await stage.ask(
        "st_finance", "query Q($id: ID!) { getApprovalRequest(id: $id) { eligible } }", {"id": request}
    )
    (error,) = answer.json()["errors"]
    assert (error["errorType"], error["path"]) == ("INTERNAL", ["getApprovalRequest", "eligible"])
    assert error["errorInfo"] == {"retryable": True, "requestId": answer.headers["x-amzn-requestid"]}
    assert f"request={answer.headers['x-amzn-requestid']}" in caplog.text


REPORT = "mutation M($input: ReportInput!) { submitReport(input: $input) { outcome report { id category } } }"


async def test_the_marketplace_reports_what_is_in_its_scope_and_reads_its_own_reports_alone(stage: Stage) -> None:
    async def subjects(conn: Any) -> str:
        await factories.queue(conn)
        await factories.subject(conn, id="sub_berlin", city_id="berlin")
        case = await factories.case(conn)
        await factories.report(conn, case)
        return await factories.subject(conn, id="sub_lisbon")

    key = {"x-api-key": SERVICE_KEY}
    await arranged(stage, subjects)

    async def report(subject_id: str) -> dict[str, Any]:
        given = {"subjectId": subject_id, "category": "SPAM", "externalId": "ext-1"}
        body: dict[str, Any] = (await stage.ask(None, REPORT, {"input": given}, headers=key)).json()
        return body

    made = await report("sub_lisbon")
    assert "errors" not in made, made
    assert (made["data"]["submitReport"]["outcome"], made["data"]["submitReport"]["report"]["category"]) == (
        "EXECUTED", "SPAM",
    )  # fmt: skip
    assert (await report("sub_lisbon"))["data"]["submitReport"]["outcome"] == "REPLAYED"
    elsewhere, nowhere = await report("sub_berlin"), await report("sub_none")
    assert elsewhere["errors"] == nowhere["errors"]
    assert elsewhere["errors"][0]["errorType"] == "NOT_FOUND"

    listed = (await stage.ask(None, "{ listReports { items { id } } }", headers=key)).json()["data"]["listReports"]
    assert listed["items"] == [{"id": made["data"]["submitReport"]["report"]["id"]}]
    for query in (
        '{ getSubject(id: "sub_lisbon") { id } }',
        "{ listReports { items { subjectId } } listCases { nextToken } }",
    ):
        body = (await stage.ask(None, query, headers=key)).json()
        assert body["errors"][0]["errorType"] == "Unauthorized", body
    noted = (await stage.ask(None, NOTE, note("case_1"), headers=key)).json()
    assert noted["errors"][0]["errorType"] == "Unauthorized"
    assert [r["actor"]["type"] for r in await stage.records()] == ["service"] * 8
