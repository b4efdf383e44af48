"""AppSync's scalars take AppSync's forms: each row is one of the contract's examples, or its edge."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from graphql import GraphQLError, execute, parse

from schema.build import console
from schema.scalars import parse_date, parse_date_time, parse_email, parse_json, parse_url, write_json

TAKEN: list[tuple[Callable[[object], Any], str]] = [
    *(
        (parse_date, text)
        for text in (
            "2026-11-23",
            "1970-01-01Z",
            "1970-01-01-07:00",
            "1970-01-01+05:30",
            "1970-01-01+05:30:15",
            "2024-02-29",
        )
    ),
    *(
        (parse_date_time, text)
        for text in (
            "2026-11-23T12:30:24.500Z",
            "2026-11-23T12:30Z",
            "2026-11-23T12:30:24+05:30",
            "2026-11-23T12:30:24.123456789Z",
        )
    ),
    *((parse_email, text) for text in ("a@b.co", "first.last+tag@sub.example.com")),
    *((parse_url, text) for text in ("https://a.example/x", "mailto:a@b.co", "https://a.example")),
]
REFUSED: list[tuple[Callable[[object], Any], object]] = [
    *((parse_date, value) for value in ("2026-2-3", "2026-02-30", "23/11/2026", "", 20261123, None)),
    *(
        (parse_date_time, value)
        for value in (
            "2026-11-23T12:30:24",
            "2026-11-23 12:30:24Z",
            "2026-11-23",
            "2026-11-23T25:00Z",
            "2026-02-30T00:00Z",
            "2026-11-23T12:30:24.1234567890Z",
            5,
        )
    ),
    *((parse_email, value) for value in ("a@", "@b", "a b@c.d", "a@b", "x" * 250 + "@b.co", 1)),
    *((parse_json, value) for value in ({"a": 1}, "{a:1}", "abc", 1, None, "[" * 33 + "]" * 33)),
    *((parse_json, value) for value in (r'"\u0000"', r'{"a\u0000": 1}', r'"\\\u0000"')),
    *(
        (parse_url, value)
        for value in ("a.example", "//a/b", "https://a//b", "https://", "http://[::1", "https://a b", 7)
    ),
]


@pytest.mark.parametrize(("parse_value", "text"), TAKEN)
def test_a_value_of_the_form_is_kept_as_written(parse_value: Callable[[object], Any], text: str) -> None:
    assert parse_value(text) == text


@pytest.mark.parametrize(("parse_value", "value"), REFUSED)
def test_a_value_of_another_form_is_refused_without_repeating_it(
    parse_value: Callable[[object], Any], value: object
) -> None:
    with pytest.raises(GraphQLError, match=r"^Expected type 'AWS\w+', found [a-zA-Z ]+\.$"):
        parse_value(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":1}', {"a": 1}),
        ("[1,2]", [1, 2]),
        ('"s"', "s"),
        ("1", 1),
        ("null", None),
        (r'"\\u0000"', r"\u0000"),
        ("[" * 32 + "]" * 32, json.loads("[" * 32 + "]" * 32)),
    ],
)
def test_json_comes_in_as_a_string_and_is_read(text: str, value: object) -> None:
    assert parse_json(text) == value


def test_json_goes_out_as_a_string() -> None:
    assert write_json({"a": [1]}) == '{"a":[1]}'
    assert write_json('{"already": "json"}') == '{"already": "json"}'


def test_a_wrong_date_is_refused_before_anything_runs() -> None:
    query = parse('{ approvalMetrics(at: {from: "2026-11-01", to: "2026-12-01T00:00:00Z"}) { share } }')
    ran: list[str] = []
    result = execute(console().core, query, field_resolver=lambda *_: ran.append("ran"))
    assert result.errors  # type: ignore[union-attr]
    assert "Expected type 'AWSDateTime', found a string of another form." in result.errors[0].message  # type: ignore[union-attr]
    assert ran == []


def test_output_passes_as_the_database_wrote_it() -> None:
    rows = {"getRefund": {"id": "r", "createdAt": "2026-11-24T08:00:00.5+00:00", "state": "APPROVED"}}
    result = execute(
        console().core,
        parse('{ getRefund(id: "r") { createdAt state } }'),
        root_value=rows,
        field_resolver=lambda source, info, **_: source[info.path.key],
    )
    assert result.data == {"getRefund": {"createdAt": "2026-11-24T08:00:00.5+00:00", "state": "APPROVED"}}  # type: ignore[union-attr]
