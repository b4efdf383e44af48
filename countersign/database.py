"""The database as a command finds it: an embedded cluster is started for the command, or the running one is used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from countersign.settings import DATABASE, Settings, SettingsError


class Voice(Protocol):
    """Whom progress is told to."""

    def say(self, text: str) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...


@contextmanager
def opened(settings: Settings, voice: Voice, *, ready: bool = True, demo: bool = True) -> Iterator[Settings]:
    """Settings whose database answers. Embedded: uses the server's cluster, or starts one and stops it at the end.

    ``ready``: migrated, and with the demo in an empty embedded one, as ``serve`` would have it. Behind DATABASE_URL nothing
    is changed.
    """
    if not settings.embedded:
        yield settings
        return
    from countersign.embedded import Cluster, find_binaries

    cluster = Cluster(settings.home_path, find_binaries(settings.pg_bin))
    cluster.start()
    try:
        found = settings.with_socket(cluster.socket_dir)
        # A cluster that runs already is a server's, which prepares it itself.
        if not cluster.adopted:
            asyncio.run(prepare(found, voice, demo=demo) if ready else make_database(found))
        yield found
    finally:
        cluster.release()


async def make_database(settings: Settings) -> None:
    """Roles and an empty database in the embedded cluster, where they are missing."""
    from db import migrate

    await migrate.bootstrap({**settings.superuser_kwargs(), "database": "postgres"}, DATABASE)


async def prepare(settings: Settings, voice: Voice, *, demo: bool, may_migrate: bool = False) -> None:
    """Bring the database to this release, and the demo into an empty embedded one. Raises ``SettingsError`` when it may not.

    ``may_migrate``: also one behind DATABASE_URL.
    """
    from db import migrate

    if settings.embedded:
        await make_database(settings)
    elif may_migrate:
        await migrate.bootstrap(
            settings.superuser_kwargs(), await migrate.database_name(settings.superuser_kwargs()), login=False
        )
    owner = settings.dsn("cs_owner").connect_kwargs()
    standing = await migrate.status(owner)
    if not standing.at_head:
        if not settings.embedded and not may_migrate:
            raise SettingsError(
                f"The database is at revision {standing.current or 'none'}, this release needs {standing.head}. Run `countersign migrate up`, or"
                " start with --migrate."
            )
        voice.say(f"Migrating the database ({', '.join(standing.pending)})")
        await migrate.upgrade(owner)
        if not await migrate.install_event_guards(settings.superuser_kwargs()):
            voice.say(
                "The audit log is not guarded against DDL: that takes a superuser. Changes are found by verification all the same."
            )
    await _approval_policies(owner, voice, bring=settings.embedded or may_migrate)
    if settings.embedded and demo:
        from countersign import demo as data

        await data.seed(settings, voice.progress)
    if settings.uses_dev_issuer:
        from authz.dev_issuer import DevIssuer

        DevIssuer(settings.dev_issuer_dir)  # made before any process starts, so that all find the same


async def _approval_policies(owner: Mapping[str, Any], voice: Voice, *, bring: bool) -> None:
    """Bring this release's approval policies into the table; without ``bring`` only refuse a table that none could decide by."""
    from authz import approval_book

    try:
        found = await (approval_book.bring(owner) if bring else approval_book.checked(owner))
    except approval_book.BookError as error:
        told = str(error) if bring else f"{error}. Run `countersign migrate up`, or start with --migrate."
        raise SettingsError(told) from error
    if bring and all(one.kind == "MISSING" for one in found):
        return  # the table was empty: there is nothing to compare
    for one in found:
        todo = "" if bring or one.kind == "CHANGED" else "; run `countersign migrate up`"
        voice.say(f"Approval policy {one.text}{todo}")
