"""What becomes of an approval request: every cell of its two state tables, and its two clocks to the second."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from authz.approval_states import (
    APPROVAL,
    ENDINGS,
    EXECUTION,
    approve_by,
    execute_by,
    expiring_at,
    next_execution,
    next_state,
    overdue,
)
from schema.approvals import ApprovalState, ExecutionState
from schema.errors import ConsoleError, InvalidTransitionError
from tests.authz.people import NOW

APPROVAL_STATES = [state.value for state in ApprovalState]
EXECUTION_STATES = [state.value for state in ExecutionState]
APPROVAL_EVENTS = sorted({event for _, event in APPROVAL})
EXECUTION_EVENTS = sorted({event for _, event in EXECUTION})

PENDING_ONLY = {"vote", "withdraw", "quorum", "reject", "cancel"}


@pytest.mark.contract("PT-2")
@pytest.mark.parametrize(
    ("state", "execution", "event"), list(itertools.product(APPROVAL_STATES, EXECUTION_STATES, APPROVAL_EVENTS))
)
def test_every_cell_of_the_approval_table(state: str, execution: str, event: str) -> None:
    legal = (
        (state, event) in APPROVAL
        and execution in ("NOT_STARTED", "FAILED")
        and (event != "retry" or execution == "FAILED")
    )
    if legal:
        assert next_state(state, event, execution) == APPROVAL[state, event]
    else:
        with pytest.raises(ConsoleError) as caught:
            next_state(state, event, execution)
        assert caught.value.code == ("APPROVAL_NOT_PENDING" if event in PENDING_ONLY else "INVALID_TRANSITION")


@pytest.mark.contract("PT-2")
@pytest.mark.parametrize(("execution", "event"), list(itertools.product(EXECUTION_STATES, EXECUTION_EVENTS)))
def test_every_cell_of_the_execution_table(execution: str, event: str) -> None:
    if (execution, event) in EXECUTION:
        assert next_execution(execution, event) == EXECUTION[execution, event]
    else:
        with pytest.raises(InvalidTransitionError):
            next_execution(execution, event)


@pytest.mark.contract("PT-2")
def test_terminal_states_have_no_way_out() -> None:
    assert {state for state, _ in APPROVAL} == {"PENDING", "APPROVED"}
    assert {execution for execution, _ in EXECUTION} == {"NOT_STARTED", "FAILED"}
    assert {state for state, event in APPROVAL if event == "cancel"} == {"PENDING", "APPROVED"}
    with pytest.raises(ConsoleError, match="no longer waiting"):
        next_state("APPROVED", "cancel", "EXECUTED")


def test_each_ending_without_execution_has_the_event_that_leads_to_it() -> None:
    assert ENDINGS == {"REJECTED": "reject", "CANCELED": "cancel", "EXPIRED": "expire", "INVALIDATED": "invalidate"}


# ---------- clocks ----------
@pytest.mark.contract("DC-3")
def test_both_clocks_end_on_the_second() -> None:
    due = approve_by(NOW, 86_400)
    assert due == NOW + timedelta(hours=24)
    assert expiring_at(NOW, due) == NOW + timedelta(hours=19, minutes=12)
    run = execute_by(NOW, 3_600)
    assert run == NOW + timedelta(hours=1)
    instant = timedelta(microseconds=1)
    assert overdue("PENDING", "NOT_STARTED", due - instant, approve_by=due, execute_by=None) is None
    assert overdue("PENDING", "NOT_STARTED", due, approve_by=due, execute_by=None) == "approve"
    for execution in ("NOT_STARTED", "FAILED"):
        assert overdue("APPROVED", execution, run - instant, approve_by=due, execute_by=run) is None
        assert overdue("APPROVED", execution, run, approve_by=due, execute_by=run) == "execute"
    assert overdue("APPROVED", "EXECUTED", run, approve_by=due, execute_by=run) is None
    assert overdue("APPROVED", "NOT_STARTED", run, approve_by=due, execute_by=None) is None
    assert overdue("REJECTED", "NOT_STARTED", due, approve_by=due, execute_by=None) is None
