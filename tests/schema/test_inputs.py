"""Coerced arguments become the typed inputs that commands are written against."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import GraphQLInputType, coerce_input_value

from schema.build import console
from schema.cases import DecideInput
from schema.common import ReasonInput, TimeRangeInput
from schema.inputs import convert
from schema.moderation import DecisionGround, DecisionKind
from schema.money import RefundDestination, RequestRefundInput


def coerced(name: str, value: dict[str, Any]) -> dict[str, Any]:
    kind = console().core.type_map[name]
    assert isinstance(kind, GraphQLInputType)
    result: dict[str, Any] = coerce_input_value(value, kind)
    return result


def test_names_become_attributes_and_nested_inputs_objects() -> None:
    made = convert(
        RequestRefundInput,
        coerced(
            "RequestRefundInput",
            {
                "orderId": "o_1",
                "amount": {"amountMinor": 12_000, "currency": "EUR"},
                "destination": "STORE_CREDIT",
                "idempotencyKey": "k",
                "reason": {"code": "DUPLICATE", "ticketRef": "T-1"},
            },
        ),
    )
    assert isinstance(made, RequestRefundInput)
    assert (made.order_id, made.amount.amount_minor, made.amount.currency) == ("o_1", 12_000, "EUR")
    assert made.destination is RefundDestination.STORE_CREDIT
    assert made.reason == ReasonInput(code="DUPLICATE", note=None, ticket_ref="T-1")


def test_what_is_absent_or_null_is_none() -> None:
    made = convert(ReasonInput, {"code": "SPAM", "note": None})
    assert (made.note, made.ticket_ref) == (None, None)


def test_lists_and_enums_inside_nested_inputs_are_converted() -> None:
    statement = {
        "ground": "ILLEGAL_CONTENT",
        "groundReference": "art. 1",
        "facts": "f",
        "explanation": "e",
        "category": "c",
        "contentType": ["TEXT", "IMAGE"],
        "automatedDetection": False,
    }
    made = convert(
        DecideInput,
        coerced(
            "DecideInput",
            {
                "caseId": "c_1", "leaseToken": "l", "expectedVersion": 3, "idempotencyKey": "k", "kind": "REMOVE_CONTENT", "severity": 2,
                "reason": {"code": "SPAM"}, "statement": statement,
            },
        ),
    )  # fmt: skip
    assert made.kind is DecisionKind.REMOVE_CONTENT
    assert made.statement is not None
    assert made.statement.ground is DecisionGround.ILLEGAL_CONTENT
    assert made.statement.content_type == ["TEXT", "IMAGE"]
    assert made.statement.territorial_scope is None
    assert made.duration_hours is None


def test_a_name_that_python_reserves_is_reached_by_its_attribute() -> None:
    made = convert(TimeRangeInput, {"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"})
    assert (made.from_, made.to) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")


def test_an_enum_value_as_text_is_converted_too() -> None:
    # Stored commands come back from JSON.
    stored = {
        "orderId": "o",
        "amount": {"amountMinor": 1, "currency": "EUR"},
        "destination": "ORIGINAL",
        "idempotencyKey": "k",
        "reason": {"code": "LEGAL"},
    }
    assert convert(RequestRefundInput, stored).destination is RefundDestination.ORIGINAL


def test_an_unknown_name_is_a_bug() -> None:
    with pytest.raises(TypeError, match="ReasonInput has no colour"):
        convert(ReasonInput, {"code": "SPAM", "colour": "red"})
