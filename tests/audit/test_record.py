"""Profile J1: what is hashed is RFC 8785, orjson and the verifier's form at once; and the record has all its keys."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import formats, record, verify
from audit.record import LIMIT_BYTES, NotCanonicalError, canonical, columns, fit, listed, new_record, parse, plain
from tests.audit import conftest

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
KEYS = st.text(st.characters(min_codepoint=1, max_codepoint=127))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
ODD = [
    "\u2028\u2029\u007f",
    '"\\/\b\f\n\r\t\x01\x1f',
    "\U0001f600\U0010ffff",
    "é ß 中",
    {},
    [],
    {"": ""},
    2**53 - 1,
    -(2**53) + 1,
    {"b": 1, "a": {"d": [], "c": {}}, "A": None, "~": True},
]


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@given(value=VALUES)
@settings(max_examples=400, deadline=None)
def test_three_encoders_agree_on_every_j1_value(value: Any) -> None:
    data = canonical(value)
    assert data == rfc8785.dumps(value)
    assert parse(data) == value
    if isinstance(value, dict):
        assert formats.parse_record(data) == value


@pytest.mark.parametrize("value", ODD)
def test_odd_values_keep_one_form(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)
    assert formats.parse_record(canonical({"k": value})) == {"k": value}


@pytest.mark.parametrize(
    "value",
    [1.0, 1e21, -0.0, float("nan"), 2**53, -(2**53), {"é": 1}, {"\U0001f600": 1}, {1: 2}, "\ud800", "a\x00b", (1,), {1}, b"x", UUID(int=1),
     datetime.now(UTC), date(2026, 1, 1), nested(17)],
)  # fmt: skip
def test_what_is_outside_the_profile_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonicalError):
        canonical(value)


class Kind(Enum):
    """As the schema's enums reach the resolvers."""

    NUMBER = "number"


def test_arguments_have_a_digest_however_deep_a_document_nests_them() -> None:
    """Nothing of them stands in the record, so the record's sixteen levels are no limit of theirs."""
    given: Any = {"id": {"attributeType": Kind.NUMBER}}
    for _ in range(16):
        given = {"and": [given]}
    said = json.loads(json.dumps(given, default=lambda item: item.value))
    assert record.arguments_digest(given) == record.arguments_digest(said)


def test_sixteen_levels_are_allowed() -> None:
    assert parse(canonical(nested(16))) == nested(16)


@pytest.mark.parametrize(
    "data",
    [
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":9007199254740992}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\u0000"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\/"}',
        b'{"a":"\x7f\xff"}',
        b'{"\xc3\xa9":1}',
        b'{"a":NaN}',
        b"{",
    ],
)
def test_bytes_of_another_form_are_refused_by_writer_and_verifier_alike(data: bytes) -> None:
    with pytest.raises(NotCanonicalError):
        parse(data)
    with pytest.raises(ValueError, match=r".*"):
        formats.parse_record(data)


def test_a_frozen_record_keeps_its_leaf() -> None:
    body = json.loads((Path(__file__).parent.parent / "vectors" / "record.json").read_text())
    data = canonical(body)
    assert len(data) == 1233
    assert (
        record.leaf(data).hex()
        == formats.leaf_hash(data).hex()
        == "41c0ece6fb9b1b33b5bef31e7cc7cb2224781caf0c7a193de12389620d3a9ef1"
    )


def test_the_verifiers_columns_are_the_sealers() -> None:
    assert dict(record.COLUMNS) == dict(verify.COLUMNS)


def test_every_key_is_there_and_unknown_is_null() -> None:
    made = new_record(
        id="019a0000-0000-7000-8000-000000000001",
        at=datetime(2026, 11, 24, 12, 0, 0, 5, tzinfo=UTC),
        kind="read",
        action="case.read",
        field="Query.getCase",
        actor={"sub": "usr_1", "type": "staff"},
        request={"id": "r"},
    )
    assert made["at"] == "2026-11-24T12:00:00.000005Z"
    assert set(made["actor"]) == set(record.PARTS["actor"])
    assert (made["actor"]["roles"], made["actor"]["mfa"]) == ([], None)
    assert made["fields"] == {"read": [], "masked": [], "pii": {}}
    assert made["decision"] == {"verdict": "ALLOWED", "code": None, "obligations": []}
    assert made["object"] is made["reason"] is made["approval"] is None
    with pytest.raises(ValueError, match="reason has no"):
        conftest.record(reason={"note": "clear text has no place here"})
    with pytest.raises(ValueError, match="no such kind"):
        conftest.record(kind="other")


def test_values_of_rows_become_plain() -> None:
    summer = timezone(timedelta(hours=2))
    value = {
        "at": datetime(2026, 7, 1, 14, tzinfo=summer),
        "share": 0.25,
        "sum": Decimal("1.50"),
        "tags": frozenset({"b", "a"}),
        "big": 2**60,
        "raw": b"\x01",
        "day": date(2026, 1, 2),
        "id": UUID(int=7),
        "text": "a\x00\ud800",
        "é": (1, True, None),
    }
    assert plain(value) == {
        "at": "2026-07-01T12:00:00.000000Z",
        "share": "0.25",
        "sum": "1.50",
        "tags": ["a", "b"],
        "big": str(2**60),
        "raw": "01",
        "day": "2026-01-02",
        "id": "00000000-0000-0000-0000-000000000007",
        "text": "a\ufffd?",
        "\\xe9": [1, True, None],
    }
    canonical(plain(value))


@pytest.mark.parametrize(("length", "cut"), [(-1, False), (0, False), (1, True)])
def test_a_record_at_the_limit_is_whole_and_above_it_loses_detail_not_itself(length: int, cut: bool) -> None:
    body = {key: value for key, value in conftest.record().items() if not key.startswith("_")}
    body["fields"]["read"] = [""]
    body["fields"]["read"] = ["x" * (LIMIT_BYTES + length - len(canonical(body)))]
    data = fit(body)
    assert (len(data) == LIMIT_BYTES + length) is not cut
    assert body["truncated"] is cut
    if cut:
        [digest] = body["fields"]["read"]
        assert digest.startswith("sha256:")
    assert len(data) <= LIMIT_BYTES


def test_what_cannot_be_cut_is_refused() -> None:
    body = {key: value for key, value in conftest.record(action="a" * LIMIT_BYTES).items() if not key.startswith("_")}
    with pytest.raises(NotCanonicalError, match="a record of"):
        fit(body)


@pytest.mark.parametrize(
    "change", [{"kind": "party"}, {"action": None}, {"w": 1}, {"wn": "1"}, {"v": 2}, {"actor": "usr"}, {"wn": True}]
)
def test_what_is_no_version_1_record_has_no_columns(change: dict[str, Any]) -> None:
    body = conftest.record() | {"w": "w", "wn": 1} | change
    with pytest.raises(NotCanonicalError):
        columns(body)


def test_lists_name_a_hundred_ids_and_count_the_rest() -> None:
    ids = [f"case_{i}" for i in range(150)]
    objects = listed(ids)
    assert (len(objects["ids"]), objects["count"]) == (100, 150)
    assert objects["digest"] == listed(ids[::-1])["digest"]
