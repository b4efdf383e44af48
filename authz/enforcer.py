"""The decision function and the snapshot it decides by: the policy with the staff directory of one version.

Every path asks the same three questions of a ``Snapshot``: does the field open, which lines and grants carry a read (for
SQL), may this person do this to this object. ``Authorizer`` keeps the newest snapshot; it is replaced, never changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import asyncpg

from authz.caller import Grant, StaffRow
from authz.conditions import Facts, evaluate, refusing_fact
from authz.directory import DirectoryError, load_directory, load_version
from authz.dual_control import Ballot, Bound, Vote, approvers, ballot
from authz.policy import Line, Policy
from authz.requirements import Book
from authz.scope import UNSCOPED, Unscoped, covers, grant_facts, in_team, rank
from db.pool import Dsn, connection
from db.waiting import waited
from schema import telemetry
from schema.errors import ConsoleError

logger = logging.getLogger("countersign.authz")

CHANNEL: Final = "countersign_authz"
POLL_SECONDS: Final = 2.0  # AZ-8: works without the listener
VERIFIED_SECONDS: Final = 5.0  # AZ-8: no decision on a version that nobody has looked at for longer
RELOAD_SECONDS: Final = 30.0  # rows spoiled behind the triggers' back are met even when the version stands still
LAST_GOOD_SECONDS: Final = 60.0  # FC-5

# A fact that has an error of its own; any other refusal is AppSync's "Unauthorized" (policy rows, section 1).
FACT_CODES: Final[Mapping[str, str]] = MappingProxyType({"amountMinor": "AMOUNT_CEILING_EXCEEDED"})
UNAUTHORIZED: Final = "Unauthorized"
NO_FACTS: Final[Facts] = MappingProxyType({})


@dataclass(frozen=True)
class Held:
    """A line and the grant that carries it: scope and condition are asked of the two together."""

    grant: Grant
    line: Line


@dataclass(frozen=True)
class Verdict:
    """The decision. Allowed: by which grant and line. Refused: the code, and at which step (ROW, SCOPE, CONDITION) by which fact."""

    allowed: bool
    code: str | None = None
    grant: Grant | None = None
    line: Line | None = None
    step: str | None = None
    fact: str | None = None

    @property
    def policy_row_id(self) -> str | None:
        return self.line.id if self.line else None


@dataclass(frozen=True)
class Snapshot:
    """Policy and staff directory as of one authorization version. Immutable; shared by all requests that hold it."""

    version: int
    policy: Policy
    staff: Mapping[str, StaffRow]
    loaded_at: float = 0.0  # monotonic
    book: Book | None = None  # the approval policies as stored; None where no database stands behind the snapshot

    @property
    def approvals(self) -> Book:
        """The approval policies in force."""
        return self.policy.approvals if self.book is None else self.book

    def opens(self, grants: Sequence[Grant], object_: str, action: str, static_facts: Facts = NO_FACTS) -> bool:
        """The field step: some line may hold once an object is there. Only role, tier, rootField and service are known yet."""
        return bool(self.holding(grants, object_, action, static_facts))

    def holding(
        self, grants: Sequence[Grant], object_: str, action: str, static_facts: Facts = NO_FACTS
    ) -> tuple[Held, ...]:
        """Every line that a grant carries and the static facts do not rule out, the grants in the caller's order.

        Empty when a deny line of any of the roles stands. For SQL: the row is visible where scope of the grant and
        condition of the line hold for one of them.
        """
        if self.policy.denied({grant.role for grant in grants}, object_, action):
            return ()
        return tuple(
            Held(grant, line)
            for grant in grants
            for line in self.policy.lines(grant.role, grant.tier, object_, action)
            if evaluate(line.condition, {**static_facts, "role": grant.role, "tier": grant.tier}) is not False
        )

    def permits(
        self,
        grants: Sequence[Grant],
        object_: str,
        action: str,
        facts: Facts,
        *,
        city_id: str | Unscoped | None = UNSCOPED,
        category: str | Unscoped | None = UNSCOPED,
    ) -> Verdict:
        """The object step: one grant must carry the row, cover city and category, and satisfy the line's condition.

        The facts of each grant (role, tier, ceilings) are added here and override those given. Of several grants the best
        single one is named: most money, then tier. What the facts leave open is refused.
        """
        held = self.holding(grants, object_, action)
        if not held:
            return Verdict(False, UNAUTHORIZED, step="ROW")
        covering = [one for one in held if covers(one.grant, city_id, category)]
        if not covering:
            return Verdict(False, UNAUTHORIZED, step="SCOPE")
        refusal: Verdict | None = None
        for one in sorted(covering, key=lambda one: rank(one.grant), reverse=True):
            known = {**facts, **grant_facts(one.grant)}
            if evaluate(one.line.condition, known) is True:
                return Verdict(True, None, one.grant, one.line)
            fact = refusing_fact(one.line.condition, known)
            code = FACT_CODES.get(fact or "", UNAUTHORIZED)
            if refusal is None or (refusal.code == UNAUTHORIZED and code != UNAUTHORIZED):
                refusal = Verdict(False, code, one.grant, one.line, "CONDITION", fact)
        return refusal or Verdict(False, UNAUTHORIZED, step="ROW")

    def rights(self, grants: Sequence[Grant], static_facts: Facts = NO_FACTS) -> tuple[str, ...]:
        """Every ``object:action`` that opens for these grants, sorted."""
        return tuple(
            f"{name}:{action}"
            for name, action in sorted(self.policy.rows.every)
            if self.opens(grants, name, action, static_facts)
        )

    def grants_of(self, staff_id: str, now: datetime) -> tuple[Grant, ...]:
        """What a person holds at ``now``: nothing unless ACTIVE, and nothing that has expired."""
        person = self.staff.get(staff_id)
        if person is None or person.state != "ACTIVE":
            return ()
        return tuple(grant for grant in person.grants if grant.expires_at is None or grant.expires_at > now)

    def relation(self, caller_id: str, grant: Grant, owner_id: str | None) -> str:
        """The fact ``relation`` of a caller to whom something belongs; TEAM is a question to one grant, so to this one."""
        if owner_id == caller_id:
            return "OWN"
        return "TEAM" if owner_id is not None and in_team(grant, self.staff.get(owner_id)) else "OTHER"

    def ballot(self, staff_id: str, request: Bound, now: datetime) -> Ballot:
        """Whether a person may vote on a request by what the store says of him now, his token aside: for execution and pool."""
        return ballot(staff_id, self.grants_of(staff_id, now), request, self.permits)

    def approvers(self, request: Bound, now: datetime) -> tuple[Vote, ...]:
        """The vote that every eligible active person could cast: the pool, and whom to alert."""
        return approvers(((person, self.grants_of(person, now)) for person in self.staff), request, self.permits)


class Authorizer:
    """Keeps the newest snapshot of one process, by notification, by poll, and by the version each statement brings back."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        listen: Dsn | None = None,
        *,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pool`` reads staff, grants and approval policies (role cs_app); ``listen`` is where the dedicated connection goes, None = poll only."""
        self._pool = pool
        self._listen = listen
        self._policy = policy or Policy.shipped()
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._verified_at = float("-inf")
        self._problem: str | None = None
        self._reloading = asyncio.Lock()
        self._wake = asyncio.Event()
        self._listener: asyncpg.Connection[Any] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def latest(self) -> Snapshot | None:
        """The newest snapshot this process has, without asking: fit to show, never to decide by."""
        return self._snapshot

    @property
    def problem(self) -> str | None:
        """Why the newest directory cannot be used, for readiness; None when all is well."""
        return self._problem

    async def start(self) -> None:
        """Load the first snapshot and begin to listen and poll; a policy or directory that cannot be read fails here."""
        await self._refresh()
        await self._connect_listener()
        self._watching = asyncio.create_task(self._watch(), name="authz-watch")

    async def stop(self) -> None:
        """End listening and polling. The last snapshot stays readable for five seconds."""
        if self._watching:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        if self._listener and not self._listener.is_closed():
            await self._listener.close(timeout=1)
        self._listener = None

    async def current(self, version: int | None = None, *, writing: bool = False) -> Snapshot:
        """The snapshot to decide by, at least as new as ``version`` (which a statement of the transaction has just read).

        Without a version, one that was compared with the database within five seconds. When the directory cannot be read,
        the last good snapshot serves reads for a minute if its version still stands, and ``writing`` never (FC-5); else
        ``DEPENDENCY_UNAVAILABLE``.
        """
        if version is None:
            if self._clock() - self._verified_at > VERIFIED_SECONDS:
                await self._refresh()
        elif self._snapshot is None or self._snapshot.version < version:
            await self._reload(version)
        snapshot = self._snapshot
        expired = snapshot is None or (
            self._problem is not None and self._clock() - snapshot.loaded_at > LAST_GOOD_SECONDS
        )
        if snapshot is None or expired or (writing and self._problem is not None):
            raise self._unavailable()
        return snapshot

    def _refused(self, error: DirectoryError) -> ConsoleError:
        if self._problem != str(error):  # once, not every two seconds
            logger.error("staff directory refused: %s", error)
        self._problem = str(error)
        return self._unavailable()

    def _unavailable(self) -> ConsoleError:
        return ConsoleError(
            "DEPENDENCY_UNAVAILABLE",
            "Staff directory or approval policies cannot be read; an administrator must repair them.",
        )

    async def _refresh(self) -> None:
        """Compare with the database; reload when the version moved or the copy has grown old."""
        try:
            async with connection(self._pool) as conn:
                version = await load_version(conn)
        except DirectoryError as error:
            raise self._refused(error) from error
        snapshot = self._snapshot
        if snapshot is None or snapshot.version != version:
            await self._reload(version)
        elif self._clock() - snapshot.loaded_at > RELOAD_SECONDS:
            # The version still stands, so `current` may serve the last good one.
            with contextlib.suppress(ConsoleError):
                await self._reload(version, aged=True)
        self._verified_at = self._clock()

    async def _reload(self, version: int, *, aged: bool = False) -> None:
        """Build the next snapshot aside and swap one reference. One load at a time: the others find it done."""
        async with self._reloading:
            if self._snapshot and self._snapshot.version == version and not aged:
                return
            began = self._clock()
            try:
                async with connection(self._pool) as conn:
                    loaded = await load_directory(conn)
            except DirectoryError as error:
                raise self._refused(error) from error
            self._snapshot = Snapshot(loaded.version, self._policy, loaded.staff, began, loaded.book)
            self._problem = None

    async def _watch(self) -> None:
        """Wake on a notification, or every two seconds whatever became of the listener."""
        while True:
            await waited(self._wake, POLL_SECONDS)
            self._wake.clear()
            try:
                await self._refresh()
                await self._connect_listener()
            except (ConsoleError, asyncpg.PostgresError) as error:
                # The database is away, or a row or a right is wrong: all are looked at again in two seconds.
                logger.warning("authorization version not read: %s", type(error).__name__)

    async def _connect_listener(self) -> None:
        if self._listen is None or (self._listener and not self._listener.is_closed()):
            return
        try:
            listener = await asyncpg.connect(**self._listen.connect_kwargs(), timeout=POLL_SECONDS)
            try:
                await listener.add_listener(CHANNEL, self._notified)
            except BaseException:  # a stop too: nobody else knows this connection yet
                listener.terminate()
                raise
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            # The poll alone keeps the five seconds (FC-10).
            telemetry.count(telemetry.LISTEN_LOST, labels={"countersign.listener": "policy"})
            logger.warning("not listening for authorization changes: %s", type(error).__name__)
            return
        self._listener = listener
        self._wake.set()  # what changed while nobody listened

    def _notified(self, *_: object) -> None:
        self._wake.set()
