"""Several serving processes over one console, each with caches of its own and a watch that only a step winds on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from authz.enforcer import Authorizer
from authz.identity import Authenticator, AuthError, Identity
from db.clock import utc_now
from resolvers.callers import Callers
from resolvers.context import Request
from resolvers.documents import Documents
from resolvers.http_reads import read
from resolvers.limits import Front, Limits
from resolvers.parts import Parts
from resolvers.pipeline import Pipeline
from resolvers.reader import Reader
from resolvers.tokens import Tokens
from schema.build import console
from schema.errors import ConsoleError
from tests.machines.world import World
from tests.services.bench import Bench

FAR = 10**9  # seconds; a token that outlives whatever a machine does to the clock
LISTED = "{ listCases(limit: 100) { items { id } } }"


class Watch:
    """A monotonic clock that stands still, so that a process looks at the version when a step says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Process:
    """One serving process: its own policy snapshot, plans and pipeline."""

    bench: Bench
    parts: Parts
    watch: Watch

    async def listed(self, who: str) -> frozenset[str]:
        """Ids of the cases that a person is shown, through every step of a query but the wire's."""
        parts, now, identity = self.parts, utc_now(), _identity(who)
        try:
            caller, snapshot = await parts.callers.caller(identity, "192.0.2.1")
            operation = parts.documents.operation(LISTED)
            request = Request("r", None, caller, snapshot, None, operation.digest, None, "192.0.2.1", None, now)
            answer, _ = await read(parts, request, identity, operation, operation.bind(parts.console.core, None))
        except AuthError:
            return frozenset()
        found: Any = (answer.data or {}).get("listCases")
        return frozenset(item["id"] for item in found["items"]) if found else frozenset()

    async def attempt(self, who: str, name: str, **arguments: Any) -> Any:
        """One mutation in this process, once its door has let the person in."""
        try:
            await self.parts.callers.caller(_identity(who), "192.0.2.1")
        except AuthError as error:
            raise ConsoleError("UnauthorizedException") from error
        there = replace(self.bench, authorizer=self.parts.authorizer, pipeline=self.parts.pipeline)
        return await there.do(who, name, **arguments)

    def look(self) -> None:
        """Half a minute goes by: the next decision compares the version with the database."""
        self.watch.now += 30


def _identity(who: str) -> Identity:
    now = utc_now()
    return Identity(who, "dev", "oidc", now - timedelta(minutes=1), now + timedelta(seconds=FAR), None, None, "s")


def process(world: World) -> Process:
    bench, of, watch = world.bench, console(), Watch()
    authorizer = Authorizer(bench.app, clock=watch)
    nothing: dict[str, Any] = dict.fromkeys(ELSEWHERE, _unasked)
    reader = Reader(
        of, bench.app, bench.app, Tokens({"k": b"0" * 32}, "k", clock=lambda: 0.0), salt="s", functions=nothing
    )
    callers = Callers(Authenticator([]), authorizer, clock=utc_now, bad_credential_rate=(1.0, 1))
    pipeline = Pipeline(bench.app, authorizer, bench.writer, reader.find, of.rules)
    parts = Parts(
        of, callers, authorizer, Documents(of.core), reader, pipeline, bench.writer, bench.app, Limits(), Front()
    )
    return Process(bench, parts, watch)


async def _unasked(_: object) -> None:
    raise NotImplementedError


ELSEWHERE = (
    "previewMacro",
    "verifyAudit",
    "getAuditProof",
    "getAuditCheckpoint",
    "listAuditCheckpoints",
    "auditHealth",
)
