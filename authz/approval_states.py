"""What becomes of an approval request: its state table, that of its execution, which is kept apart, and its two clocks.

Pure: time comes in as an argument. A pair of state and event that a table lacks cannot happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

from schema.approvals import ApprovalState, ExecutionState
from schema.errors import ConsoleError, InvalidTransitionError
from schema.states import StateTable

EXPIRING_PERCENT: Final = 80  # console domain, section 6, rule 8: APPROVAL_EXPIRING when so much of the time is gone


Ending: TypeAlias = Literal["reject", "cancel", "expire", "invalidate"]  # of a request that was never executed
ApprovalEvent: TypeAlias = Literal["vote", "withdraw", "quorum", "breakQuorum", "retry", Ending]
ExecutionEvent: TypeAlias = Literal["execute", "fail", "expire", "reset"]

APPROVAL: Final[StateTable[ApprovalEvent]] = StateTable(
    "approval request",
    ApprovalState,
    get_args(ApprovalEvent),
    {
        ("PENDING", "vote"): "PENDING",  # an approval short of the quorum
        ("PENDING", "withdraw"): "PENDING",
        ("PENDING", "quorum"): "APPROVED",
        ("PENDING", "reject"): "REJECTED",  # one is enough
        ("PENDING", "cancel"): "CANCELED",
        ("PENDING", "expire"): "EXPIRED",  # silence is refusal
        ("PENDING", "invalidate"): "INVALIDATED",
        ("APPROVED", "breakQuorum"): "PENDING",  # a voter lost his right before the execution
        ("APPROVED", "cancel"): "CANCELED",
        ("APPROVED", "invalidate"): "INVALIDATED",  # what it was bound to has changed
        ("APPROVED", "retry"): "APPROVED",
    },
)
EXECUTION: Final[StateTable[ExecutionEvent]] = StateTable(
    "approval execution",
    ExecutionState,
    get_args(ExecutionEvent),
    {
        ("NOT_STARTED", "execute"): "EXECUTED",
        ("NOT_STARTED", "fail"): "FAILED",
        ("NOT_STARTED", "expire"): "EXPIRED",
        ("FAILED", "execute"): "EXECUTED",
        ("FAILED", "fail"): "FAILED",
        ("FAILED", "expire"): "EXPIRED",
        ("FAILED", "reset"): "NOT_STARTED",  # its quorum broke: the request waits for votes again
    },
)
# What ends a request without an execution, by the state it ends in. What it held hears the same word.
ENDINGS: Final[Mapping[str, Ending]] = MappingProxyType(
    {APPROVAL["PENDING", event]: event for event in get_args(Ending)}
)

_OPEN_EXECUTIONS: Final = frozenset({"NOT_STARTED", "FAILED"})
_ASKED_OF_PENDING: Final = frozenset({"vote", "withdraw", "quorum", "reject", "cancel"})


def next_state(state: str, event: ApprovalEvent, execution: str = "NOT_STARTED") -> str:
    """The request's next state. What was executed, or may no longer be, does not move: only a reversing action helps then.

    ``APPROVAL_NOT_PENDING`` for what people ask of a request that no longer waits, ``INVALID_TRANSITION`` for the rest.
    """
    found = APPROVAL.get((state, event)) if execution in _OPEN_EXECUTIONS else None
    if found is not None and (event != "retry" or execution == "FAILED"):
        return found
    if event in _ASKED_OF_PENDING:
        raise ConsoleError("APPROVAL_NOT_PENDING", state=state, execution=execution)
    raise InvalidTransitionError("approval request", f"{state}, {execution}", event)


def next_execution(execution: str, event: ExecutionEvent) -> str:
    """The execution's next state; EXECUTED and EXPIRED are final."""
    return EXECUTION.next(execution, event)


# ---------- clocks ----------
def approve_by(created_at: datetime, approve_within_seconds: int) -> datetime:
    """Until when votes are taken."""
    return created_at + timedelta(seconds=approve_within_seconds)


def execute_by(approved_at: datetime, execute_within_seconds: int) -> datetime:
    """Until when an approved request may be executed or retried."""
    return approved_at + timedelta(seconds=execute_within_seconds)


def expiring_at(created_at: datetime, due: datetime) -> datetime:
    """When the approvers are warned that time runs out."""
    return created_at + (due - created_at) * EXPIRING_PERCENT / 100


def overdue(
    state: str, execution: str, now: datetime, *, approve_by: datetime, execute_by: datetime | None
) -> str | None:
    """Which clock has run out: ``"approve"``, ``"execute"`` or None. A deadline that is reached is passed."""
    if state == "PENDING":
        return "approve" if now >= approve_by else None
    if state == "APPROVED" and execution in _OPEN_EXECUTIONS and execute_by is not None:
        return "execute" if now >= execute_by else None
    return None
