"""Tokens of the local dev issuer for people of the directory, by handle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from countersign.settings import Settings


class NobodyError(Exception):
    """No staff member has this handle; the message lists near ones."""


@dataclass(frozen=True)
class GrantView:
    """One grant as the command line shows it; amounts are what its holder may refund alone and request, in minor units."""

    role: str
    tier: str
    cities: tuple[str, ...]
    categories: tuple[str, ...]
    expires_at: datetime | None
    refund_alone_minor: int
    refund_request_minor: int


@dataclass(frozen=True)
class Person:
    """A staff member as the command line shows him."""

    id: str
    handle: str
    display_name: str
    state: str
    grants: tuple[GrantView, ...]


async def directory(settings: Settings) -> list[Person]:
    """Everybody, by handle."""
    from authz.directory import load_directory
    from authz.scope import ceilings

    conn: asyncpg.Connection[Any] = await asyncpg.connect(**settings.dsn("cs_app").connect_kwargs())
    try:
        staff = (await load_directory(conn)).staff
    finally:
        await conn.close()
    people = []
    for row in staff.values():
        grants = []
        for grant in row.grants:
            limits = ceilings(grant)
            grants.append(
                GrantView(
                    grant.role,
                    grant.tier,
                    grant.city_ids,
                    grant.content_categories,
                    grant.expires_at,
                    limits.alone,
                    limits.request,
                )
            )
        people.append(Person(row.id, row.handle, row.display_name, row.state, tuple(grants)))
    return sorted(people, key=lambda person: person.handle)


async def find(settings: Settings, handle: str) -> Person:
    """The person with this handle. Raises ``NobodyError``."""
    people = await directory(settings)
    for person in people:
        if person.handle == handle:
            return person
    role = handle.partition("-")[0]
    near = [person.handle for person in people if person.handle.partition("-")[0] == role] or [
        person.handle for person in people
    ]
    if near:
        known = f" Known are, for instance: {', '.join(near[:8])}."
    elif settings.embedded:
        known = " The directory is empty: start `countersign serve` (without --no-demo) for the demo's people."
    else:
        known = " The directory is empty: behind DATABASE_URL no demo is seeded; docs/configuration.md says how people get in."
    raise NobodyError(f"Nobody has the handle {handle}.{known}")


async def issue(settings: Settings, handle: str, *, ttl: timedelta, auth_age: timedelta = timedelta(0)) -> str:
    """One token for the person with this handle. Raises ``NobodyError``."""
    from authz.dev_issuer import DevIssuer

    person = await find(settings, handle)
    return DevIssuer(settings.dev_issuer_dir).token(person.id, ttl=ttl, auth_age=auth_age)
