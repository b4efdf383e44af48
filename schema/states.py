"""A state table: from which state an event leads where. It knows its states (an enum of the schema) and its events.

An event that no state takes, a state that the enum lacks, an event that a command says and the table does not know: each
stops the process or the type checker, and never waits for a user to hear ``INVALID_TRANSITION``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final, Generic, TypeVar

from schema.errors import InvalidTransitionError

Event = TypeVar("Event", bound=str)  # a Literal of the events: mypy and pyright then check every call of ``next``


class StateTable(Mapping[tuple[str, str], str], Generic[Event]):
    """Immutable. As a mapping it is (state, event) -> next state, which tests walk and rules derive sets from."""

    def __init__(
        self, aggregate: str, states: type[Enum], events: tuple[Event, ...], rows: Mapping[tuple[str, Event], str]
    ) -> None:
        """``events``: every event there is, ``get_args`` of the Literal. ``ValueError`` names what does not fit."""
        known = {str(state.value) for state in states}
        foreign = sorted({state for (before, _), after in rows.items() for state in (before, after)} - known)
        if foreign:
            raise ValueError(f"state table {aggregate}: {', '.join(foreign)} is no {states.__name__}")
        taken = {event for _, event in rows}
        for event in events:
            if event not in taken:
                raise ValueError(f"state table {aggregate}: no state takes the event {event}")
        unknown = sorted(str(event) for event in taken - set(events))
        if unknown:
            raise ValueError(f"state table {aggregate}: {', '.join(unknown)} is not among its events")
        self.aggregate: Final = aggregate
        self.states: Final = states
        self.events: Final = events
        self._rows: Final[Mapping[tuple[str, str], str]] = {
            (state, str(event)): to for (state, event), to in rows.items()
        }

    def next(self, state: str, event: Event) -> str:
        """The state after ``event``; ``INVALID_TRANSITION`` when this state does not take it.

        An event that no state takes is a mistake of ours and raises ``LookupError``: a caller could do nothing about it.
        """
        found = self._rows.get((state, event))
        if found is None:
            if event not in self.events:
                raise LookupError(f"state table {self.aggregate} has no event {event}")
            raise InvalidTransitionError(self.aggregate, state, event.replace("_", " "))
        return found

    def takes(self, state: str, event: Event) -> bool:
        """Whether this state takes the event."""
        return (state, event) in self._rows

    def __getitem__(self, step: tuple[str, str]) -> str:
        return self._rows[step]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
