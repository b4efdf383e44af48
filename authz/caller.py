"""Who is calling: the person of one request with the grants that the store gives him, already narrowed by his token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Final

EVERY_CITY: Final = ("*",)


@dataclass(frozen=True)
class Grant:
    """Role, tier and scope. City and category are always asked of the same grant that carries the policy row."""

    id: str
    role: str
    tier: str
    city_ids: tuple[str, ...]
    content_categories: tuple[str, ...]
    expires_at: datetime | None = None

    @property
    def every_city(self) -> bool:
        return self.city_ids == EVERY_CITY

    def covers_city(self, city_id: str | None) -> bool:
        """A NULL city is seen only by a grant for every city."""
        return self.every_city or (city_id is not None and city_id in self.city_ids)


@dataclass(frozen=True)
class StaffRow:
    """A staff member as of one policy version."""

    id: str
    handle: str
    display_name: str
    state: str
    not_before: datetime | None
    grants: tuple[Grant, ...]


@dataclass(frozen=True)
class Caller:
    """The authenticated principal of one request.

    ``grants`` are the effective ones (ACTIVE person, unexpired, narrowed by the token's groups), so two callers may
    differ for one person. ``session`` is a hash of the token, never the token.
    """

    id: str
    handle: str
    display_name: str
    grants: tuple[Grant, ...]
    issued_at: datetime
    auth_time: datetime | None
    expires_at: datetime
    session: str
    client: str | None = None
    groups: tuple[str, ...] | None = None  # from the token: they narrow, never widen; None = the token says nothing
    service: str | None = None  # another system behind an API key (role SERVICE), not a person
    root_fields: frozenset[str] | None = None  # an API key opens these root fields only; None = no such limit

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """What conditions may ask of the caller himself; role and tier belong to each grant."""
        return MappingProxyType({"service": self.service} if self.service else {})

    @cached_property
    def roles(self) -> tuple[str, ...]:
        return tuple(sorted({g.role for g in self.grants}))

    @cached_property
    def role_set(self) -> tuple[tuple[str, str], ...]:
        """Canonical (role, tier) of each grant in order: the part of a plan's key that says what the caller may read."""
        return tuple((g.role, g.tier) for g in self.grants)
