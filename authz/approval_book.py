"""The approval policies in force: an overlay in Postgres over the base as shipped, every version kept.

A release brings its base by ``sync``; what people changed since then, countersigned, stays. One stored row that cannot be
read, or a book below the built-in floor, is refused as a whole: nothing is decided by half a book.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import asyncpg

from authz.caller import Grant
from authz.conditions import Fact, Facts, evaluate
from authz.requirements import FLOOR, ApprovalPolicy, Book, book_of, entry_of, parse_policy, shipped
from authz.scope import CEILINGS, TIERS, grant_facts
from db import locks


def acting(role: str, tier: str) -> dict[str, Fact]:
    """The facts of whoever acts in a role and tier."""
    return {**grant_facts(Grant("", role, tier, (), ()))}


_DECIDERS: Final = tuple((role, tier) for role in ("SUPPORT", "TRUST_SAFETY") for tier in TIERS)
# Deeds at the very edge of each row of the floor (``requirements.FLOOR_ROWS``): of each, some policy must say for certain, on
# these facts alone, that it applies. So a book that spares such a deed is refused with a name; a deed between these is
# stopped when it is done.
EDGES: Final[Mapping[str, tuple[Facts, ...]]] = MappingProxyType(
    {
        "refund.request": tuple(
            {**acting(role, tier), "amountMinor": amount, "sum24hMinor": amount, "destination": destination}
            for role, tier in CEILINGS
            for amount, destination in (
                (CEILINGS[role, tier].alone + 1, "ORIGINAL"),
                (CEILINGS[role, tier].request, "ORIGINAL"),
                (1, "OTHER_INSTRUMENT"),
            )
        ),
        "case.decide": tuple(
            {**acting(role, tier), "decisionKind": kind, **lasting}
            for role, tier in _DECIDERS
            for kind, lasting in (
                ("BAN", {"indefinite": 1}),
                ("BAN", {"indefinite": 0, "durationHours": 1}),
                ("SUSPEND", {"indefinite": 1}),
                ("SUSPEND", {"indefinite": 0, "durationHours": 721}),
                ("RESTRICT", {"indefinite": 1}),
                ("RESTRICT", {"indefinite": 0, "durationHours": 721}),
            )
        ),
        "macro.publish": ({},),
        "macro.run": tuple({"stepApprovals": count} for count in (1, 2, 10)),
        "approvalPolicy.propose": ({},),
    }
)
# Keys whose seats are those of the steps, and no others: seats of their own would let a step through without its approvers.
BY_STEPS: Final = frozenset({"macro.run"})

_CURRENT: Final = "SELECT * FROM approval_policy WHERE current ORDER BY id"
_OUTDATE: Final = "UPDATE approval_policy SET current = false WHERE id = $1 AND current"
_BRING: Final = """
INSERT INTO approval_policy
  (id, version, action, condition, seats, approve_within_seconds, execute_within_seconds, enabled, shipped, created_at)
VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7, $8, true, console_now())
"""


class BookError(ValueError):
    """The stored policies cannot be decided by; the message names the row and says what to do."""


def read_row(row: Mapping[str, Any]) -> ApprovalPolicy:
    """A stored row as a policy; ``ValueError`` says what is wrong with it."""
    return parse_policy(
        {
            "id": row["id"],
            "key": row["action"],
            "condition": _json(row["condition"]),
            "seats": _json(row["seats"]),
            "approveWithinSeconds": row["approve_within_seconds"],
            "executeWithinSeconds": row["execute_within_seconds"],
            "version": row["version"],
        }
    )


def _json(value: Any) -> Any:
    """JSON columns come as text, or decoded where they were part of a larger document."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value  # a text that was decoded already


def book_in_force(policies: Iterable[ApprovalPolicy]) -> Book:
    """The book of these policies; ``ValueError`` where a key, or a deed at the edge of its floor, would be left without one."""
    book = book_of(policies)
    for key, found in book.items():
        for policy in found:
            if policy.from_steps != (key in BY_STEPS):
                says = "must take" if key in BY_STEPS else "cannot take"
                raise ValueError(f"approval policy {policy.id}: {key} {says} its seats from the steps of a deed")
        for facts in EDGES[key]:
            if not any(evaluate(policy.condition, facts) is True for policy in found):
                told = ", ".join(
                    f"{name} {value}" for name, value in facts.items() if not name.endswith("CeilingMinor")
                )
                raise ValueError(
                    f"no approval policy of {key} is sure to apply{f' to {told}' if told else ''}: below the floor"
                )
    return book


def read_book(rows: Iterable[Mapping[str, Any]]) -> Book:
    """The book of the stored rows that are in force; ``BookError`` names the one that is wrong."""
    policies: list[ApprovalPolicy] = []
    for row in sorted(rows, key=lambda row: str(row["id"])):  # a book says the same whatever order its rows came in
        try:
            policies.append(read_row(row))
        except (ValueError, KeyError, TypeError) as error:
            what = str(error).removeprefix(f"approval policy {row['id']}: ")
            raise BookError(f"approval_policy {row['id']} version {row['version']}: {what}") from error
    try:
        return book_in_force(policies)
    except ValueError as error:
        raise BookError(f"approval_policy: {error}") from error


# ---------- the base of a release ----------
@dataclass(frozen=True)
class Difference:
    """Where base and table are not the same. ``kind``: MISSING, OUTDATED, WITHDRAWN (all three follow by ``sync``) or CHANGED (stays)."""

    kind: str
    policy_id: str
    stored: Mapping[str, Any] | None
    base: ApprovalPolicy | None

    @property
    def text(self) -> str:
        """In words, for a terminal."""
        version = self.stored["version"] if self.stored is not None else 0
        return {
            "MISSING": f"{self.policy_id} is new in this release",
            "OUTDATED": f"{self.policy_id} follows this release (version {version} was of an earlier one)",
            "WITHDRAWN": f"{self.policy_id} is no longer in this release and was never changed",
            "CHANGED": f"{self.policy_id} version {version} was changed at run time and stays; this release ships another",
        }[self.kind]


def differences(rows: Sequence[Mapping[str, Any]], base: Book | None = None) -> list[Difference]:
    """Compare the current rows with the base as shipped.

    ``BookError`` for a policy in force that was made at run time for an action this release does not know: to drop it
    silently would let the action through.
    """
    shipped_ones = {policy.id: policy for policies in (base or shipped()).values() for policy in policies}
    found: list[Difference] = []
    for row in rows:
        policy = shipped_ones.pop(row["id"], None)
        if row["action"] not in FLOOR and not row["shipped"] and row["enabled"]:
            raise BookError(
                f"approval_policy {row['id']} version {row['version']} is for {row['action']}, an action that this release does not know."
                " Disable it with the release that made it, then migrate again."
            )
        if policy is None:
            if row["shipped"] and row["enabled"]:
                found.append(Difference("WITHDRAWN", row["id"], row, None))
        elif not (row["enabled"] and _says(row) == _said(policy)):
            found.append(Difference("OUTDATED" if row["shipped"] else "CHANGED", row["id"], row, policy))
    return found + [Difference("MISSING", policy.id, None, policy) for policy in shipped_ones.values()]


def _said(policy: ApprovalPolicy) -> dict[str, Any]:
    return {name: value for name, value in entry_of(policy).items() if name != "version"}


def _says(row: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return _said(read_row(row))
    except (ValueError, KeyError, TypeError):
        return None  # it says nothing that this release understands


async def stored_book(conn: asyncpg.Connection[Any]) -> Book:
    """The stored policies in force; ``BookError`` when nothing could be decided by them."""
    return read_book(row for row in await conn.fetch(_CURRENT) if row["enabled"])


async def compare(conn: asyncpg.Connection[Any]) -> list[Difference]:
    """Where base and table differ. Changes nothing; ``BookError`` when nothing could be decided by the table."""
    await stored_book(conn)
    return differences(await conn.fetch(_CURRENT))


async def sync(conn: asyncpg.Connection[Any]) -> list[Difference]:
    """Bring the base into the table, as its owner: what nobody changed follows the release, what people changed stays.

    Returns what differed. Repeated, or begun by several starts at once, it changes nothing more. ``BookError`` when the
    table could not be decided by afterwards; then nothing is changed.
    """
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1)", locks.APPROVAL_BOOK)
        found = differences(await conn.fetch(_CURRENT))
        for one in found:
            if one.kind != "CHANGED":
                await _follow(conn, one)
        await stored_book(conn)
    return found


async def bring(owner: Mapping[str, Any]) -> list[Difference]:
    """``sync`` on a connection of its own; ``owner``: arguments of ``asyncpg.connect`` that act as ``cs_owner``."""
    return await _alone(owner, sync)


async def checked(owner: Mapping[str, Any]) -> list[Difference]:
    """``compare`` on a connection of its own."""
    return await _alone(owner, compare)


async def _alone(
    owner: Mapping[str, Any], do: Callable[[asyncpg.Connection[Any]], Awaitable[list[Difference]]]
) -> list[Difference]:
    conn: asyncpg.Connection[Any] = await asyncpg.connect(**owner)
    try:
        return await do(conn)
    finally:
        await conn.close()


async def _follow(conn: asyncpg.Connection[Any], one: Difference) -> None:
    version = 1
    if one.stored is not None:
        await conn.execute(_OUTDATE, one.policy_id)
        version = one.stored["version"] + 1
    if one.base is not None:
        values = stored_values(one.base)
        await conn.execute(_BRING, one.policy_id, version, one.base.key, *values, True)
    elif one.stored is not None:
        old = one.stored
        clocks = old["approve_within_seconds"], old["execute_within_seconds"]
        await conn.execute(
            _BRING, one.policy_id, version, old["action"], old["condition"], old["seats"], *clocks, False
        )


def stored_values(policy: ApprovalPolicy) -> tuple[str | None, str, int, int]:
    """Condition, seats and clocks as the table takes them."""
    entry = entry_of(policy)
    condition = None if entry["condition"] is None else json.dumps(entry["condition"])
    return condition, json.dumps(entry["seats"]), policy.approve_within_seconds, policy.execute_within_seconds
