"""Commands of money: ask for a refund, call it off; the outbox's and the kernel's word settle it.

Locks: a request takes the pair (requester and buyer), then the ledger; whatever ends one takes the approval request (if
there is one) and the ledger. The pair is locked before the sum is read: the ledger alone does not stop two orders of one
buyer at once (security-contract DC-5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from authz.approval_states import ENDINGS
from authz.conditions import Facts
from db.unit_of_work import Delivery, Row, new_id
from schema.errors import ConsoleError, InvalidTransitionError
from schema.money import CancelRefundInput, RequestRefundInput
from services.approvals import request as requests
from services.command import Act, Command, NotOffered, Offer, Result, Target, check_version
from services.money import ledger, rules
from services.telling import raise_alert, tell

PORT: Final = "OrdersRefundKernel"
SUBMIT: Final = "submit_refund"
WINDOW: Final = timedelta(hours=24)
LEAST_MINOR: Final = 1  # what a hint asks with

_PAIR_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('refund:' || $1 || ':' || $2, 0))"
# Both are asked of all cities, whichever the caller sees (migration 0001). An order has one buyer, so the buyer's refunds
# include those of the order.
_SUM = "SELECT refunded_lately($1, $2, $3, $4)"
_BUYER = "SELECT staff_id, protected FROM subject_standing($1)"
_INSERT = """
INSERT INTO refund (id, order_id, buyer_id, city_id, case_id, amount_minor, currency, state, destination, reason_code,
  reason_note, reason_ticket, requester_id, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'REQUESTED', $8, $9, $10, $11, $12, $13)
"""


async def _target(act: Act[Any], row: Row) -> Target:
    buyer = await act.uow.fetchrow(_BUYER, row["buyer_id"])
    staff_id = buyer["staff_id"] if buyer else None
    return _of_order(row, act.caller.id, staff_id, protected=bool(buyer and buyer["protected"]))


def _of_order(row: Row, caller_id: str, staff_id: str | None, *, protected: bool) -> Target:
    return Target(
        "OrderLedger",
        row["order_id"],
        row,
        city_id=row["city_id"],
        version=row["version"],
        subject_id=row["buyer_id"],
        own_account=staff_id is not None and staff_id == caller_id,
        protected=protected,
        concerned_id=staff_id,
        currency=row["currency"],
    )


def hinted(row: Row, caller_id: str) -> Target:
    """An order as a hint's target, of a row that was read with what its buyer's account says."""
    return _of_order(row, caller_id, row["buyer_staff_id"], protected=bool(row["buyer_protected"]))


def _mildest(target: Target, _: str) -> Mapping[str, Any]:
    amount = {"amountMinor": LEAST_MINOR, "currency": target.row["currency"]}
    reason = {"code": "SERVICE_NOT_PROVIDED"}
    return {"input": {"orderId": target.id, "amount": amount, "idempotencyKey": "hint", "reason": reason}}


class RequestRefund(Command[RequestRefundInput]):
    """Refund part of an order: alone up to the caller's ceiling over 24 hours, beyond it with a second person."""

    input_type = RequestRefundInput
    step = True
    offered = Offer("OrderLedger", _mildest, {"sum24hMinor": LEAST_MINOR})
    # The order's sums move with every other refund; what binds is that the amount can still be refunded.
    binds_version = False

    async def locate(self, act: Act[RequestRefundInput]) -> Target:
        target = await _target(act, await act.find("OrderLedger", act.input.order_id))
        if act.input.case_id is not None:
            case = await act.find("Case", act.input.case_id)
            if case["city_id"] != target.city_id:
                raise ConsoleError("BAD_REQUEST", "The case is of another city than the order.", field="caseId")
        return self.with_input(act, target)

    def with_input(self, act: Act[RequestRefundInput], target: Target) -> Target:
        facts: dict[str, int | str] = {
            "amountMinor": act.input.amount.amount_minor,
            "destination": _destination(act.input),
        }
        if act.reason is not None:
            facts["reasonCode"] = act.reason.code
        return replace(target, facts=facts)

    def validate(self, act: Act[RequestRefundInput], target: Target) -> None:
        rules.check_amount(act.input.amount.amount_minor, act.input.amount.currency, target.row)

    async def lock(self, act: Act[RequestRefundInput], target: Target) -> Target:
        await act.uow.execute(_PAIR_LOCK, act.caller.id, target.row["buyer_id"])
        row = await ledger.lock_ledger(act, target.id)
        return replace(target, row=row, version=row["version"])

    def check(self, act: Act[RequestRefundInput], target: Target) -> None:
        amount, row = act.input.amount.amount_minor, target.row
        if act.approval is not None:  # its own reservation is part of what is reserved
            rules.check_refundable(amount, row, reserved_already=amount)
            return
        rules.check_refundable(amount, row)
        expected = act.input.expected_ledger_version
        if expected is not None:
            check_version(row, expected)

    async def measure(self, act: Act[RequestRefundInput], target: Target) -> Facts:
        since = act.uow.now - WINDOW
        earlier = await act.uow.fetchval(_SUM, act.caller.id, target.row["buyer_id"], since, sorted(rules.UNSPENT))
        return {"sum24hMinor": int(earlier) + act.input.amount.amount_minor}

    async def propose(self, act: Act[RequestRefundInput], target: Target) -> str:
        row, refund_id = target.row, new_id("rf")
        await act.uow.execute(
            _INSERT,
            refund_id,
            row["order_id"],
            row["buyer_id"],
            row["city_id"],
            act.input.case_id,
            act.input.amount.amount_minor,
            row["currency"],
            _destination(act.input),
            act.why.code,
            act.why.note,
            act.why.ticket_ref,
            act.caller.id,
            act.uow.now,
        )
        await ledger.move_sums(act, row["order_id"], None, "REQUESTED", act.input.amount.amount_minor)
        return refund_id

    async def hold(
        self, act: Act[RequestRefundInput], target: Target, entity_id: str | None, request_id: str
    ) -> Result:
        refund = await ledger.lock_refund(act, str(entity_id))
        row = await ledger.move(act, refund, "hold", approval_request_id=request_id)
        return _result(row)

    async def execute(self, act: Act[RequestRefundInput], target: Target, entity_id: str | None) -> Result:
        refund = await ledger.lock_refund(act, str(entity_id))
        row = await ledger.move(act, refund, "approve", approved_by_ids=list(act.approved_by))
        act.uow.enqueue(
            Delivery(
                PORT,
                SUBMIT,
                row["id"],
                ("Refund", row["id"]),
                row["city_id"],
                {"orderId": row["order_id"], "amountMinor": row["amount_minor"], "currency": row["currency"]},
                audit_id=act.audit_id,
            )
        )
        return _result(row)

    async def abandon(self, act: Act[RequestRefundInput], target: Target, entity_id: str | None, outcome: str) -> None:
        refund = await ledger.lock_refund(act, str(entity_id))
        if refund["state"] not in rules.TERMINAL:
            await ledger.move(act, refund, ENDINGS[outcome])

    def summary(self, act: Act[RequestRefundInput], target: Target) -> str:
        amount = act.input.amount
        return f"Refund {amount.amount_minor / 100:.2f} {amount.currency} on order {act.input.order_id}"

    def diff(self, act: Act[RequestRefundInput], target: Target) -> Mapping[str, Any]:
        left, amount = rules.refundable_minor(target.row), act.input.amount.amount_minor
        reserved = target.row["reserved_minor"]
        return {
            "refundableMinor": {"before": left, "after": left - amount},
            "reservedMinor": {"before": reserved, "after": reserved + amount},
        }


def _destination(wanted: RequestRefundInput) -> str:
    return wanted.destination.value if wanted.destination is not None else "ORIGINAL"


def _result(refund: Row, *changed: str) -> Result:
    return Result(
        refs={"refund": refund["id"], "ledger": refund["order_id"]},
        object=("Refund", refund["id"]),
        after=refund,
        changed=changed or ("state",),
        parents=(refund["order_id"],),
    )


def _refund_target(row: Row) -> Target:
    return Target(
        "Refund",
        row["id"],
        row,
        city_id=row["city_id"],
        version=row["version"],
        subject_id=row["buyer_id"],
        owner_id=row["requester_id"],
    )


class CancelRefund(Command[CancelRefundInput]):
    """Call off a refund that was not approved yet; its approval request ends with it."""

    input_type = CancelRefundInput
    offered = NotOffered("it is about a refund, which has no hints")

    async def locate(self, act: Act[CancelRefundInput]) -> Target:
        row = await act.find("Refund", act.input.refund_id)
        target = _refund_target(row)
        buyer = await act.uow.fetchrow(_BUYER, row["buyer_id"])
        return replace(target, own_account=bool(buyer and buyer["staff_id"] == act.caller.id))

    async def lock(self, act: Act[CancelRefundInput], target: Target) -> Target:
        if target.row["approval_request_id"] is not None:
            await requests.lock(act, target.row["approval_request_id"])
        await ledger.lock_ledger(act, target.row["order_id"])
        row = await ledger.lock_refund(act, target.id)
        return replace(target, row=row, version=row["version"])

    def check(self, act: Act[CancelRefundInput], target: Target) -> None:
        rules.REFUND.next(target.row["state"], "cancel")
        check_version(target.row, act.input.expected_version)

    async def execute(self, act: Act[CancelRefundInput], target: Target, entity_id: str | None) -> Result:
        row = await ledger.move(act, target.row, "cancel")
        if row["approval_request_id"] is not None:
            await requests.close_for_entity(act, await requests.lock(act, row["approval_request_id"]))
        return _result(row)


@dataclass(frozen=True)
class AnswerInput:
    """What the kernel says of a refund: its state there, its reference, and why it failed."""

    refund_id: str
    kernel_state: str
    external_ref: str | None = None
    failure_code: str | None = None


class SettleRefund(Command[AnswerInput]):
    """The kernel's answer to a call or its own word later. Said twice, or late, or before our note: it counts once."""

    input_type = AnswerInput

    async def locate(self, act: Act[AnswerInput]) -> Target:
        return _refund_target(await act.find("Refund", act.input.refund_id))

    async def lock(self, act: Act[AnswerInput], target: Target) -> Target:
        await ledger.lock_ledger(act, target.row["order_id"])
        row = await ledger.lock_refund(act, target.id)
        return replace(target, row=row, version=row["version"])

    def check(self, act: Act[AnswerInput], target: Target) -> None:
        if rules.answered(target.row["state"], act.input.kernel_state) is None:
            event = rules.ANSWERS[act.input.kernel_state]
            raise InvalidTransitionError("refund", target.row["state"], event)

    async def execute(self, act: Act[AnswerInput], target: Target, entity_id: str | None) -> Result:
        answer, refund = act.input, target.row
        row = await ledger.move(
            act,
            refund,
            rules.ANSWERS[answer.kernel_state],
            external_ref=answer.external_ref or refund["external_ref"],
            failure_reason=answer.failure_code,
        )
        if row["approval_request_id"] is not None:
            summary = f"The refund is {row['state']}."
            kind = f"refund_{row['state'].lower()}"
            await tell(act, ("ApprovalRequest", row["approval_request_id"]), row["city_id"], kind, summary)
        if row["state"] == "FAILED":
            await raise_alert(
                act.uow,
                "REFUND_FAILED",
                2,
                city_id=row["city_id"],
                target=("Refund", row["id"]),
                summary=f"The refund on order {row['order_id']} failed.",
                recipients=[row["requester_id"], *row["approved_by_ids"]],
            )
        return _result(row, "state", "externalRef", "failureReason")


COMMANDS: Final[Mapping[str, Command[Any]]] = {"requestRefund": RequestRefund(), "cancelRefund": CancelRefund()}
SYSTEM_COMMANDS: Final[Mapping[str, Command[Any]]] = {"refund.settle": SettleRefund()}
