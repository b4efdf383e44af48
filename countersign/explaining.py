"""What ``countersign policy`` asks of the store: a person and a field for ``authz.explain``, which decides; the approval policies."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg

from countersign import dev_tokens
from countersign.settings import Settings


class UnknownFieldError(Exception):
    """The schema has no such field; the message lists near ones."""


@dataclass(frozen=True)
class Question:
    """A person, a field, and what is known of the object."""

    handle: str
    field: str
    city: str | None = None
    category: str | None = None
    amount_minor: int | None = None


async def explained(settings: Settings, question: Question) -> dict[str, Any]:
    """The decision as data, ``allowed`` among it. Raises ``UnknownFieldError`` and ``NobodyError``."""
    from authz.directory import load_directory
    from authz.enforcer import Snapshot
    from authz.explain import explain
    from authz.policy import Policy
    from authz.scope import UNSCOPED
    from schema.build import console

    rules = console().rules
    type_name, _, field_name = question.field.partition(".")
    rule = rules.get((type_name, field_name))
    if rule is None:
        same = [f"{t}.{f}" for t, f in rules if f in (field_name, type_name)]
        near = sorted(same)[:8] or difflib.get_close_matches(question.field, [f"{t}.{f}" for t, f in rules], 5)
        raise UnknownFieldError(
            f"{question.field} is no field of the schema." + (f" Near ones: {', '.join(near)}." if near else "")
        )
    person = await dev_tokens.find(settings, question.handle)
    conn: asyncpg.Connection[Any] = await asyncpg.connect(**settings.dsn("cs_app").connect_kwargs())
    try:
        loaded = await load_directory(conn)
        now = await conn.fetchval("SELECT console_now()")
    finally:
        await conn.close()
    snapshot = Snapshot(loaded.version, Policy.shipped(), loaded.staff, book=loaded.book)
    facts: dict[str, int | str] = {}
    if question.amount_minor is not None:
        # A first request of the day: its amount is also the day's sum.
        facts = {"amountMinor": question.amount_minor, "sum24hMinor": question.amount_minor}
    if question.category is not None:
        facts["contentCategory"] = question.category
    answer = explain(
        snapshot,
        snapshot.grants_of(person.id, now),
        rule,
        static_facts={"rootField": field_name},
        facts=facts,
        city_id=question.city if question.city is not None else UNSCOPED,
        category=question.category if question.category is not None else UNSCOPED,
    )
    return {"handle": person.handle, **asdict(answer)}


async def approvals(settings: Settings) -> list[dict[str, Any]]:
    """The approval policies in force, by action and id."""
    from authz.approval_terms import in_words
    from authz.conditions import text
    from authz.directory import load_directory
    from authz.requirements import entry_of

    conn: asyncpg.Connection[Any] = await asyncpg.connect(**settings.dsn("cs_app").connect_kwargs())
    try:
        book = (await load_directory(conn)).book
    finally:
        await conn.close()
    policies = sorted((one for found in book.values() for one in found), key=lambda one: (one.key, one.id))
    return [{**entry_of(one), "applies": text(one.condition), "asks": in_words(one.seats)} for one in policies]
