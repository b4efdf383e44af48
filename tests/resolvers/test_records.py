"""A read's record by its template has the same bytes as the one that ``new_record`` makes of the same read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.keys import Keys
from audit.record import LIMIT_BYTES, Encoded, Templated, canonical, parse, read_record
from audit.writer import Writer
from authz.caller import Caller, Grant
from authz.enforcer import Snapshot
from authz.policy import Policy
from resolvers.context import Request
from resolvers.records import shown, wire_record
from resolvers.root_reads import RootRead

NOW = datetime(2026, 11, 25, 10, 0, 0, 123456, tzinfo=UTC)
GRANT = Grant("g", "SUPPORT", "LEAD", ("lisbon",), ("SFW",))
ids = st.lists(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12), max_size=120)
names = st.lists(st.from_regex(r"[A-Z][a-z]{1,8}\.[a-z]{1,8}", fullmatch=True), unique=True, max_size=8)


def _request(caller: Caller, **given: Any) -> Request:
    snapshot = Snapshot(7, Policy.shipped(), {}, NOW)
    defaults: dict[str, Any] = {
        "id": "0190a3b4-0000-7000-8000-000000000001",
        "trace_id": None,
        "caller": caller,
        "snapshot": snapshot,
        "operation_name": "Q",
        "document_digest": "0" * 64,
        "client": None,
        "ip": "127.0.0.1",
        "user_agent": "test/1",
        "received_at": NOW,
    }
    return Request(**(defaults | given))


def _person(**given: Any) -> Caller:
    defaults: dict[str, Any] = {
        "id": "st_1",
        "handle": "ada",
        "display_name": "Ada",
        "grants": (GRANT,),
        "issued_at": NOW,
        "auth_time": NOW,
        "expires_at": NOW,
        "session": "s" * 32,
    }
    return Caller(**(defaults | given))


def _root(
    found: tuple[str, ...], fields: list[str], masked: list[str], pii: Mapping[str, str], **given: Any
) -> RootRead:
    told = Encoded("fields", {"read": sorted(fields), "masked": sorted(masked), "pii": pii})
    defaults: dict[str, Any] = {
        "key": "a",
        "field": "Query.listCases",
        "action": "case.list",
        "arguments": {"limit": 3, "filter": {"kind": {"eq": "REFUND"}}},
        "object_type": "Case",
        "ids": found,
        "count": len(found),
        "filter_digest": None,
        "fields": tuple(sorted(fields)),
        "masked": tuple(sorted(masked)),
        "pii": pii,
        "policy_row": "0" * 16,
        "encoded": told,
    }
    return RootRead(**(defaults | given))


def _whole(request: Request, root: RootRead) -> dict[str, Any]:
    """The record as it is made where no template fits."""
    return wire_record(
        request,
        NOW,
        kind="read",
        action=root.action,
        field=root.field,
        arguments=root.arguments,
        policy_row=root.policy_row,
        object_type=root.object_type,
        ids=root.ids,
        count=root.count,
        filter_digest=root.filter_digest,
        outcome="EXECUTED",
        fields={"read": list(root.fields), "masked": list(root.masked), "pii": dict(root.pii)},
    )


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    return Writer(Keys.open(tmp_path_factory.mktemp("keys"), create=True), origin="console.test/log")


def _body(writer: Writer, record: dict[str, Any]) -> dict[str, Any]:
    """The finished body, without what no two records share."""
    made = writer._finish(record, {})
    body = parse(made.body.encode())  # refuses what is not in canonical form
    for name in ("id", "wn", "settled", "voided", "priv"):
        del body[name]
    assert isinstance(body, dict)
    return body


@settings(max_examples=60, deadline=None)
@given(
    found=ids, fields=names, masked=names, digest=st.sampled_from([None, "d" * 32]), name=st.sampled_from([None, "Q"])
)
def test_both_ways_have_the_same_bytes(
    writer: Writer, found: list[str], fields: list[str], masked: list[str], digest: str | None, name: str | None
) -> None:
    root = _root(tuple(found[:100]), fields, masked, dict.fromkeys(masked, "CONTACT"), filter_digest=digest)
    for caller in (_person(), _person(client="web", auth_time=None), _person(service="kernel", grants=())):
        request = _request(caller, operation_name=name, trace_id="t" * 32 if name else None, user_agent=name)
        made = shown(request, NOW, root)
        assert isinstance(made, Templated)
        assert canonical(_body(writer, made)) == canonical(_body(writer, _whole(request, root)))


def test_one_row_is_the_records_object(writer: Writer) -> None:
    root = _root(("case_1",), ["Case.id"], [], {}, field="Query.getCase", action="case.read")
    body = _body(writer, shown(_request(_person()), NOW, root))
    assert body["object"]["id"] == "case_1"
    assert body == _body(writer, _whole(_request(_person()), root))


def test_a_record_that_is_too_long_is_cut_the_same_way(writer: Writer) -> None:
    root = _root(tuple("x" * 300 + str(n) for n in range(100)), [f"Case.f{n}" for n in range(900)], [], {})
    request = _request(_person())
    body = _body(writer, shown(request, NOW, root))
    assert body["truncated"] is True
    assert body == _body(writer, _whole(request, root))
    assert len(orjson.dumps(body)) < LIMIT_BYTES


def test_a_person_is_never_recorded_by_a_template() -> None:
    actor = Encoded("actor", {"sub": "a", "type": "staff", "roles": []})
    fields = Encoded("fields", {"read": [], "masked": [], "pii": {}})
    with pytest.raises(ValueError, match="Subject"):
        read_record(id="0190a3b4-0000-7000-8000-000000000001", at=NOW, action="subject.read", field="Query.getSubject", actor=actor, fields=fields, request={}, operation={}, policy={}, target=("Subject", "sub_1"), objects=None, count=1, ip="::1")  # fmt: skip
