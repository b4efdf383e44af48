"""State tables: what one refuses to be made of, and every cell of every table that the product has."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pytest

import authz
import services
from schema.deliveries import DeliveryState
from schema.errors import InvalidTransitionError
from schema.states import StateTable


def rule_modules() -> Iterator[Any]:
    """The modules that hold rules: all of ``authz``, and each area's ``rules``."""
    for package in (authz, services):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if package is authz or found.name.endswith(".rules"):
                yield importlib.import_module(found.name)


def globals_of_rules() -> Iterator[tuple[str, Any]]:
    for module in rule_modules():
        yield from ((f"{module.__name__}.{name}", value) for name, value in vars(module).items())


TABLES = {value.aggregate: value for _, value in globals_of_rules() if isinstance(value, StateTable)}


def test_the_tables_are_found() -> None:
    assert TABLES.keys() >= {"case", "report", "decision", "refund", "approval request", "approval execution"}


def test_no_rules_keep_a_table_that_knows_neither_its_states_nor_its_events() -> None:
    def is_bare(value: Any) -> bool:
        steps = isinstance(value, Mapping) and all(isinstance(key, tuple) and len(key) == 2 for key in value)
        return bool(value) and steps and all(isinstance(word, str) for key in value for word in (*key, value[key]))

    found = {name for name, value in globals_of_rules() if not isinstance(value, StateTable) and is_bare(value)}
    assert found == set()


@pytest.mark.contract("PT-2")
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_every_cell_moves_as_its_table_says_or_is_refused(table: StateTable[Any]) -> None:
    states = [state.value for state in table.states]
    for state, event in product(states, table.events):
        if table.takes(state, event):
            assert table.next(state, event) == table[state, event]
        else:
            with pytest.raises(InvalidTransitionError):
                table.next(state, event)


ROWS = {("PENDING", "send"): "DELIVERED"}


@pytest.mark.parametrize(
    ("events", "rows", "complaint"),
    [
        (("send", "move"), ROWS, "delivery: no state takes the event move"),
        (("send",), {**ROWS, ("PENDING", "move"): "DEAD"}, "delivery: move is not among its events"),
        (("send",), {("PENDING", "send"): "SENT"}, "delivery: SENT is no DeliveryState"),
        (("send",), {("WAITING", "send"): "DELIVERED"}, "delivery: WAITING is no DeliveryState"),
    ],
)
def test_a_table_that_does_not_fit_is_never_made(
    events: tuple[str, ...], rows: Mapping[tuple[str, str], str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        StateTable("delivery", DeliveryState, events, rows)


def test_an_event_that_no_state_takes_is_a_mistake_and_no_refusal() -> None:
    table = StateTable("delivery", DeliveryState, ("send",), ROWS)
    with pytest.raises(LookupError, match="state table delivery has no event move"):
        table.next("PENDING", "move")
    with pytest.raises(InvalidTransitionError, match="A delivery that is DELIVERED cannot send"):
        table.next("DELIVERED", "send")
