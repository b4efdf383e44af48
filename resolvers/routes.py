"""Which adapter makes the calls of which port, and which deeds of the system take note of what came of them.

A new port is an adapter and a line in ``routes``; retries, back-off, order, circuit and dead letters are the outbox's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from db.unit_of_work import Row
from services.deliveries.commands import DeadLetterInput
from services.messages import writing
from services.messages.commands import MessageAnswer
from services.money.commands import PORT as KERNEL
from services.money.commands import SUBMIT, AnswerInput
from services.money.rules import ANSWERS
from services.ports import HelpCenter, KernelRefund, OrdersRefundKernel

Deed: TypeAlias = tuple[str, Any]  # of ``registry.SYSTEM``, and its input
Arguments: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Word:
    """What a port says by itself: late answers, and those to calls whose answer never reached us.

    ``heard`` is None for what means nothing here. A word is acknowledged once the deed has noted it.
    """

    changes: Callable[[int], Awaitable[Sequence[Any]]]
    acknowledge: Callable[[Sequence[Any]], Awaitable[None]]
    heard: Callable[[Any], Deed | None]


def given_up(row: Row, code: str) -> Deed:
    """The deed that ends any delivery, whatever it is about."""
    return "delivery.fail", DeadLetterInput(row["id"], code)


@dataclass(frozen=True)
class Route:
    """One operation of a port. ``call`` takes the row's key and arguments; ``answered`` is None for an unknown answer.

    The deeds run in the transaction that marks the delivery. ``point`` names where a crash test may stop the process: the
    effect is there, our note of it is not.
    """

    port: str
    operation: str
    call: Callable[[str, Arguments], Awaitable[Any]]
    answered: Callable[[Row, Any], Deed | None]
    failed: Callable[[Row, str], Deed] = given_up
    word: Word | None = None
    point: str = "after_effect"


def routes(kernel: OrdersRefundKernel, help_center: HelpCenter) -> tuple[Route, ...]:
    """Every call that leaves this console."""
    return (refunds(kernel), messages(help_center))


def refunds(kernel: OrdersRefundKernel) -> Route:
    """Approved refunds go to the kernel; whatever it says of one, then or later, settles it."""

    def call(key: str, given: Arguments) -> Awaitable[KernelRefund]:
        return kernel.submit_refund(
            key=key, order_id=given["orderId"], amount_minor=given["amountMinor"], currency=given["currency"]
        )

    def settle(refund: KernelRefund) -> Deed | None:
        if refund.state not in ANSWERS:
            return None
        return "refund.settle", AnswerInput(refund.key, refund.state, refund.external_ref, refund.failure_code)

    return Route(
        KERNEL,
        SUBMIT,
        call,
        answered=lambda _, refund: settle(refund),
        word=Word(kernel.changes, kernel.acknowledge, settle),
        point="after_kernel_effect",
    )


def messages(help_center: HelpCenter) -> Route:
    """Notes from a template go to the help center; the case's timeline tells what became of them."""

    def call(key: str, given: Arguments) -> Awaitable[Any]:
        named = {name: given[name] for name in ("template", "locale", "version", "variables", "recipient")}
        return help_center.send(key=key, **named)

    return Route(
        writing.PORT,
        writing.SEND,
        call,
        answered=lambda row, _: ("message.settle", MessageAnswer(row["id"])),
        failed=lambda row, code: ("message.settle", MessageAnswer(row["id"], code)),
        point="after_message_effect",
    )
