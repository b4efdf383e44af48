"""nextToken: whoever changes one bit of it, or carries it elsewhere, has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resolvers.tokens import LIFETIME_SECONDS, Cursor, Place, Tokens
from schema.errors import ConsoleError

PLACE = Place("st_1", "Query.listCases", "digest")
CURSOR = Cursor(("2026-11-24T10:00:00.123456+00:00", None, "case_1"), "parent_1")


def tokens(at: float = 0, keys: dict[str, bytes] | None = None, current: str = "k1") -> Tokens:
    return Tokens(keys or {"k1": b"\1" * 32}, current, clock=lambda: at)


def refused(box: Tokens, token: str, place: Place = PLACE) -> bool:
    with pytest.raises(ConsoleError) as error:
        box.open(token, place)
    return error.value.code == "INVALID_NEXT_TOKEN"


def test_a_token_opens_where_it_was_sealed() -> None:
    assert tokens().open(tokens().seal(CURSOR, PLACE), PLACE) == CURSOR


def test_two_tokens_of_one_place_look_different() -> None:
    assert tokens().seal(CURSOR, PLACE) != tokens().seal(CURSOR, PLACE)


@pytest.mark.contract("AZ-6")
def test_nothing_of_the_sort_key_can_be_read_in_it() -> None:
    assert "case_1" not in tokens().seal(CURSOR, PLACE)


@pytest.mark.contract("AZ-6")
def test_every_single_changed_character_is_noticed() -> None:
    token = tokens().seal(CURSOR, PLACE)
    for position, character in enumerate(token):
        other = "A" if character != "A" else "B"
        assert refused(tokens(), token[:position] + other + token[position + 1 :])


@pytest.mark.contract("AZ-6")
@pytest.mark.parametrize("change", [{"caller": "st_2"}, {"field": "Query.listReports"}, {"digest": "other"}])
def test_it_is_worth_nothing_to_another_caller_field_or_filter(change: dict[str, str]) -> None:
    assert refused(tokens(), tokens().seal(CURSOR, PLACE), replace(PLACE, **change))


@pytest.mark.contract("AZ-6")
def test_it_lives_one_hour() -> None:
    token = tokens(1000).seal(CURSOR, PLACE)
    assert tokens(1000 + LIFETIME_SECONDS - 1).open(token, PLACE) == CURSOR
    assert refused(tokens(1000 + LIFETIME_SECONDS), token)


@pytest.mark.contract("PV-3")
def test_tokens_of_the_previous_key_open_until_it_is_removed() -> None:
    old = tokens().seal(CURSOR, PLACE)
    both = {"k1": b"\1" * 32, "k2": b"\2" * 32}
    assert tokens(keys=both, current="k2").open(old, PLACE) == CURSOR
    assert tokens(keys=both, current="k2").seal(CURSOR, PLACE).startswith("k2.")
    assert refused(tokens(keys={"k2": b"\2" * 32}, current="k2"), old)


@pytest.mark.parametrize(
    "token", ["", ".", "k1.", "k1", "k1.A", "k1.ü", "k1.\x00", "k9.AAAA", "k1." + "A" * 5000, "null"]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refused(tokens(), token)
