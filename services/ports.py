"""Ports: what the console asks of other systems, as Protocols written from its own need.

An answer is durable once it returns; every operation may be called concurrently and again with the same key. Adapters
raise ``PortUnavailableError`` for what may pass and ``PortRefusedError`` for what will not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class PortUnavailableError(Exception):
    """The system did not answer, or said to come back; the same call may be made again."""

    def __init__(self, code: str = "UNAVAILABLE") -> None:
        super().__init__(code)
        self.code = code


class PortRefusedError(Exception):
    """The system refused the call for good; ``code`` is its reason."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class KernelRefund:
    """A refund as the kernel has it. ``state``: PENDING, REQUIRES_ACTION, SUCCEEDED, FAILED or CANCELED."""

    key: str
    state: str
    external_ref: str
    failure_code: str | None = None


class OrdersRefundKernel(Protocol):
    """The system that holds orders and moves the money back."""

    async def submit_refund(self, *, key: str, order_id: str, amount_minor: int, currency: str) -> KernelRefund:
        """Have a refund made; the same key is the same refund, whatever the repeats.

        A key that comes with another amount or order is refused (``KEY_REUSED``).
        """
        ...

    async def get_refund(self, key: str) -> KernelRefund | None:
        """The refund of that key, or None when it was never submitted."""

    async def changes(self, limit: int) -> Sequence[KernelRefund]:
        """Refunds whose present state was not acknowledged yet: the event ``refund.updated``, oldest first."""
        ...

    async def acknowledge(self, refunds: Sequence[KernelRefund]) -> None:
        """Say that these states were taken note of. A state that has moved on since will be told again."""


@dataclass(frozen=True)
class HelpMessage:
    """A message as the help center has it: what was sent, and its reference there."""

    key: str
    external_ref: str
    subject: str
    body: str


class HelpCenter(Protocol):
    """The system that writes to the marketplace's people; it knows how to reach them, so we never tell it."""

    async def send(
        self, *, key: str, template: str, locale: str, version: int, variables: Mapping[str, str], recipient: str
    ) -> HelpMessage:
        """Send a template, in that version, to whom ``recipient`` stands for (a subject's id, never an address).

        The same key is the same message, whatever the repeats, also after the template was changed or disabled. Refused
        for good: ``KEY_REUSED`` (the key comes with anything else), ``TEMPLATE_UNKNOWN`` (no such name, locale or version),
        ``TEMPLATE_DISABLED``, ``PLACEHOLDER_MISSING`` (the text would go out with a placeholder in it), and what the
        system has against the recipient.
        """
        ...

    async def get_message(self, key: str) -> HelpMessage | None:
        """The message of that key, or None when it was never sent."""
