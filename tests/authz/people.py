"""Grants and snapshots for the tests of this folder, with keyword defaults."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from authz.caller import Grant, StaffRow
from authz.enforcer import Snapshot
from authz.policy import Policy
from authz.scope import CATEGORIES

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
LISBON = ("lisbon",)
EVERYWHERE = ("*",)


def grant(
    role: str,
    tier: str = "AGENT",
    cities: Sequence[str] = EVERYWHERE,
    categories: Sequence[str] = CATEGORIES,
    expires_at: datetime | None = None,
) -> Grant:
    """A grant; ADMIN and AUDITOR are stored as LEAD."""
    stored = "LEAD" if role in ("ADMIN", "AUDITOR") else tier
    return Grant(f"gr-{role}-{stored}", role, stored, tuple(cities), tuple(categories), expires_at)


def person(id_: str, *grants: Grant, state: str = "ACTIVE", not_before: datetime | None = None) -> StaffRow:
    return StaffRow(id_, id_, id_.title(), state, not_before, grants)


def snapshot(*people: StaffRow, version: int = 1, policy: Policy | None = None) -> Snapshot:
    return Snapshot(version, policy or Policy.shipped(), MappingProxyType({one.id: one for one in people}))
