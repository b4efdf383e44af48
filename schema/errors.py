"""The error catalogue: every refusal a client can hear, with its code, whether a repeat may help, and its sentence.

Nothing else leaves the process: what is not a ``ConsoleError`` is answered as ``INTERNAL`` with the request's id.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final


@dataclass(frozen=True)
class ErrorKind:
    """One row of the catalogue: the code, whether repeating can succeed, and the default sentence."""

    code: str
    retryable: bool
    message: str


def _catalogue(*rows: tuple[str, bool, str]) -> Mapping[str, ErrorKind]:
    return MappingProxyType({code: ErrorKind(code, retryable, message) for code, retryable, message in rows})


CATALOGUE: Final = _catalogue(
    ("Unauthorized", False, "Not Authorized."),
    ("UnauthorizedException", False, "You are not authorized to make this call."),
    ("NOT_FOUND", False, "No such object, or none that you may see."),
    ("BAD_REQUEST", False, "The request is not valid."),
    ("REASON_REQUIRED", False, "This action needs a reason."),
    ("REASON_INVALID", False, "The reason code does not belong to this action."),
    ("STATEMENT_INCOMPLETE", False, "The statement of reasons is incomplete."),
    ("AMOUNT_OUT_OF_RANGE", False, "The amount is out of range."),
    ("CURRENCY_MISMATCH", False, "The currency is not that of the order."),
    ("INVALID_NEXT_TOKEN", False, "The nextToken is not valid for this list; start again without it."),
    ("SCHEMA_VIOLATION", False, "The value does not satisfy its schema."),
    ("LIMIT_EXCEEDED", False, "The request exceeds a limit."),
    ("VERSION_CONFLICT", False, "Someone changed this meanwhile; read it again."),
    ("PLAN_STALE", False, "What you were shown no longer holds; look at the plan again."),
    ("INVALID_TRANSITION", False, "The present state does not allow this."),
    ("LEASE_REQUIRED", False, "Claim the case first."),
    ("LEASE_LOST", False, "The lease has ended; claim the case again."),
    ("CASE_CLAIMED", False, "Someone else holds this case."),
    ("LEASE_LIMIT", False, "Finish or release a case before claiming another."),
    ("IDEMPOTENCY_KEY_REUSED", False, "This idempotency key was used with other arguments."),
    ("IDEMPOTENCY_IN_PROGRESS", True, "The first request with this key is still running."),
    ("REFUND_EXCEEDS_REFUNDABLE", False, "The amount is more than can still be refunded."),
    ("AMOUNT_CEILING_EXCEEDED", False, "The amount is above what you may request."),
    ("DISPUTE_OPEN", False, "A dispute is open on this order."),
    ("ALREADY_REVERSED", False, "This decision was reversed already."),
    ("NOT_ELIGIBLE", False, "You may not vote on this request."),
    ("PAYLOAD_MISMATCH", False, "The request is not the one you were shown; read it again."),
    ("ALREADY_VOTED", False, "You have voted on this request already."),
    ("APPROVAL_NOT_PENDING", False, "The request is no longer waiting for votes."),
    ("NO_ELIGIBLE_APPROVERS", False, "Too few people may approve this."),
    ("SELF_SUBJECT", False, "You cannot act on your own account."),
    ("LEGAL_HOLD", False, "A legal hold forbids this."),
    ("RATE_LIMITED", True, "Too many requests; slow down."),
    ("AUDIT_UNAVAILABLE", True, "The audit log cannot take the record, so nothing was done."),
    ("DEPENDENCY_UNAVAILABLE", True, "A system behind the console does not answer; try again."),
    ("INTERNAL", True, "Something went wrong on our side; the request id finds it in the log."),
)


class ConsoleError(Exception):
    """A refusal with a code of the catalogue.

    ``detail`` and ``info`` reach the client in ``errorInfo``: never put personal data or another city's data there.
    """

    def __init__(self, code: str, message: str | None = None, **info: Any) -> None:
        kind = CATALOGUE[code]
        super().__init__(message or kind.message)
        self.code: Final = code
        self.retryable: Final = kind.retryable
        self.message: Final = message or kind.message
        self.info: Final[dict[str, Any]] = info

    @property
    def error_info(self) -> dict[str, Any]:
        """AppSync's ``errorInfo``: retryable, then whatever the refusal carries (field, currentVersion, …)."""
        return {"retryable": self.retryable, **self.info}


class NotAuthorizedError(ConsoleError):
    """AppSync's denial of one field, in AppSync's words."""

    def __init__(self, type_name: str, field_name: str) -> None:
        super().__init__("Unauthorized", f"Not Authorized to access {field_name} on type {type_name}")


class InvalidTransitionError(ConsoleError):
    """The state table has no cell for this event."""

    def __init__(self, aggregate: str, state: str, event: str) -> None:
        super().__init__(
            "INVALID_TRANSITION", f"A {aggregate} that is {state} cannot {event}.", state=state, event=event
        )


class VersionConflictError(ConsoleError):
    """Somebody was faster; carries the version to read again."""

    def __init__(self, current: int) -> None:
        super().__init__("VERSION_CONFLICT", currentVersion=current)


def described(error: BaseException) -> str:
    """An unexpected error as a log may have it: its class and the last frames, never its message, which may carry values (PV-1)."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return (
        f"{type(error).__name__} at {' > '.join(f'{frame.filename}:{frame.lineno}:{frame.name}' for frame in frames)}"
    )
