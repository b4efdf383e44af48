"""The path of every write: the order of checks, the unit of work, dual control, the record, the commit.

Order (security-contract, top): role right -> scope and existence -> object right -> input and reason -> idempotency key
-> lock, state, version -> effect. Refused attempts leave a record of their own; nothing commits without one. A mutation
once begun is not cancelled by a caller who hangs up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import asyncpg

from authz.caller import Caller
from authz.enforcer import Snapshot, Verdict
from authz.identity import renewed
from authz.scope import cities_context
from db import idempotency
from db.clock import Clock, utc_now
from db.unit_of_work import CERTAIN_ABORTS, Recorder, Row, UnitOfWork, begin, new_id
from resolvers import deed_records
from resolvers.context import Request
from resolvers.deed_records import Deed, Sight
from resolvers.finding import unscoped
from resolvers.inner import Find, Inner, Rules
from resolvers.judging import system_caller
from resolvers.performing import Weighed, admit, lock, meet, reason_of, typed, weigh
from resolvers.registry import COMMANDS, SYSTEM
from schema import telemetry
from schema.directives import FieldRules
from schema.errors import ConsoleError
from services.approvals import request as requests
from services.command import Act, Command, Result, Target

logger: Final = logging.getLogger(__name__)
Rehearsed = TypeVar("Rehearsed")

REPEATS: Final = 3  # of certain aborts
STALE_REPEATS: Final = 5  # of meeting a newer authorization version

# Reads the payload's selection in the unit's transaction, before the commit. ``extra``: outcome, audit, receipt.
Answer = Callable[[UnitOfWork, Result, Mapping[str, Any]], Awaitable[Any]]
# Refuses what the payload's selection would refuse after the deed (a limit, a page token): input like any other.
Accept = Callable[[Request], None]
Fault = Callable[[str], Awaitable[None]]  # a named point where a test may stop the process


class Writer(Protocol):
    """The part of the audit writer that the pipeline needs."""

    async def recorder(self, uow: UnitOfWork) -> None: ...
    async def reads(self, pool: asyncpg.Pool[Any], records: list[dict[str, Any]]) -> Any: ...


class Authority(Protocol):
    """The part of the authorizer that the pipeline needs."""

    async def current(self, version: int | None = None, *, writing: bool = False) -> Snapshot: ...


class StaleError(Exception):
    """The database has a newer authorization version than the request's snapshot."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


def _any_selection(_: Request) -> None:
    """A deed without a payload of its own."""


async def no_fault(_: str) -> None:
    """Production: nothing happens at a fault point."""


@dataclass(frozen=True)
class _Attempt:
    """What one run of a mutation goes by."""

    request: Request
    rule: FieldRules
    command: Command[Any]
    arguments: Mapping[str, Any]
    answer: Answer
    accept: Accept
    sight: Sight


class Pipeline:
    """Runs commands: a person's (``run``) and the system's own (``system``)."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        authorizer: Authority,
        writer: Writer,
        find: Find,
        rules: Rules,
        *,
        fault: Fault = no_fault,
        clock: Clock = utc_now,
    ) -> None:
        """``find`` is the reader's; ``rules`` the console's; ``pool`` is of the role that this process writes as."""
        self._pool = pool
        self._authorizer = authorizer
        self._writer = writer
        self._recorder: Recorder = writer.recorder
        self._find = find
        self._rules = rules
        self._fault = fault
        self._clock = clock
        self._running: set[asyncio.Task[Any]] = set()

    # ---------- a person's mutation ----------
    async def run(
        self,
        request: Request,
        field: str,
        args: Mapping[str, Any],
        answer: Answer,
        accept: Accept = _any_selection,
    ) -> Any:
        """Run one mutation field and return what ``answer`` read. Raises ``ConsoleError`` for every refusal.

        Goes on to its end when the caller is cancelled (security-contract AU-4).
        """
        with telemetry.span("mutation", {"countersign.field": field}):
            task = asyncio.create_task(self._run(request, field, args, answer, accept), name=f"mutation {field}")
            self._running.add(task)
            task.add_done_callback(self._ended)
            return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # read here: whoever asked may have left

    async def _run(self, request: Request, field: str, args: Mapping[str, Any], answer: Answer, accept: Accept) -> Any:
        rule, command, sight = self._rules["Mutation", field], COMMANDS[field], Sight()
        aborted = stale = 0
        version: int | None = None
        cause: Exception
        while True:
            try:
                request = await self._under(request, version)
                sight.target, sight.row = None, None
                return await self._once(_Attempt(request, rule, command, args, answer, accept, sight))
            except StaleError as error:
                version, stale, cause = error.version, stale + 1, error
            except CERTAIN_ABORTS as error:
                aborted, cause = aborted + 1, error
            except Exception as error:
                await self._refused(request, rule, args, sight, error)
                raise
            if stale > STALE_REPEATS or aborted > REPEATS:
                because = "Rights are just changing" if stale > STALE_REPEATS else "Too much at once on this object"
                refusal = ConsoleError("DEPENDENCY_UNAVAILABLE", f"{because}; try again.")
                await self._refused(request, rule, args, sight, refusal)
                raise refusal from cause

    async def _under(self, request: Request, version: int | None) -> Request:
        """The request by the present snapshot. Corrupt policy or directory rows refuse every write at once (FC-5)."""
        snapshot = await self._authorizer.current(version, writing=True)
        if snapshot is request.snapshot:
            return request
        return request.under(renewed(request.caller, snapshot, request.received_at), snapshot)

    async def _refused(
        self, request: Request, rule: FieldRules, args: Mapping[str, Any], sight: Sight, error: Exception
    ) -> None:
        """Record an attempt in a transaction of its own; if that fails the answer is ``AUDIT_UNAVAILABLE`` (AU-3).

        Where the refusal says that the database is away, the log is too, and the first word stands (FC-1).
        """
        code = error.code if isinstance(error, ConsoleError) else "INTERNAL"
        if code == "AUDIT_UNAVAILABLE":
            return
        record = deed_records.of_refusal(request, rule, args, sight, error)
        try:
            await self._writer.reads(self._pool, [record])
        except ConsoleError as unrecorded:
            if code not in ("DEPENDENCY_UNAVAILABLE", "RATE_LIMITED"):
                raise unrecorded from error

    async def _once(self, attempt: _Attempt) -> Any:
        request, sight, command = attempt.request, attempt.sight, attempt.command
        cities = cities_context(request.caller.grants)
        async with begin(self._pool, self._recorder, cities=cities, clock=self._clock) as uow:
            if uow.authz_version != request.snapshot.version:
                raise StaleError(uow.authz_version)
            act = self._act(uow, attempt)
            target = await meet(act, attempt.rule, command, sight)
            admit(act, attempt.rule, command, target)
            attempt.accept(request)
            key = _key(act.input)
            if key is not None:
                stored = await self._claim(uow, attempt, key)
                if stored is not None:
                    return await self._replay(act, attempt, target, stored)
            target, verdict = await lock(act, attempt.rule, command, target, sight)
            repeated = await command.repeated(act, target)
            if repeated is not None:
                deed = self._deed(attempt, target, repeated, "REPLAYED")
                return await self._finish(act, attempt, deed, repeated)
            weighed = await weigh(act, attempt.rule, command, target, verdict)
            target = weighed.target
            if weighed.requirement is None:
                entity_id = await command.propose(act, target)
                result, outcome, approval = await command.execute(act, target, entity_id), "EXECUTED", None
            else:
                result, approval = await self._hold(act, attempt, weighed, verdict)
                outcome = "PENDING_APPROVAL"
            deed = self._deed(attempt, target, result, outcome, approval)
            return await self._finish(act, attempt, deed, result, key)

    def _act(self, uow: UnitOfWork, attempt: _Attempt) -> Act[Any]:
        request, sight = attempt.request, attempt.sight
        # Another system reads nothing but what it brought: the row of its deed is also its right to find what the deed is about.
        by = attempt.rule.row if request.caller.service is not None else None

        async def find(type_name: str, object_id: str) -> Row:
            sight.sought = sight.sought or (type_name, object_id)
            return await self._find(uow.conn, request.caller, request.snapshot, type_name, object_id, by)

        wanted = typed(attempt.command, attempt.arguments)
        sight.reason = reason_of(wanted)
        inner = Inner(self._find, self._rules, request)
        return Act(
            uow=uow,
            caller=request.caller,
            snapshot=request.snapshot,
            input=wanted,
            reason=sight.reason,
            find=find,
            audit_id=uow.audit_id,
            stored=inner,
            steps=inner,
        )

    async def _claim(self, uow: UnitOfWork, attempt: _Attempt, key: str) -> Mapping[str, Any] | None:
        attempt.sight.idempotency_key = key
        digest = idempotency.arguments_hash(attempt.arguments)
        return await idempotency.claim(uow, attempt.request.caller.id, attempt.rule.field, key, digest)

    async def _hold(self, act: Act[Any], attempt: _Attempt, weighed: Weighed, verdict: Verdict) -> tuple[Result, Row]:
        """Let the deed wait for a second person: entity and target in their waiting states, the request stored."""
        target, requirement, facts = weighed.target, weighed.requirement, weighed.facts
        if verdict.grant is None or requirement is None:
            raise ConsoleError("INTERNAL", f"{attempt.rule.name} is dual-controlled and has no target to be judged.")
        command, request_id = attempt.command, new_id("apr")
        approvers = requests.check_pool(act, target, requirement, facts)
        summary, diff = command.summary(act, target), command.diff(act, target)
        entity_id = await command.propose(act, target)
        result = await command.hold(act, target, entity_id, request_id)
        version = result.after["version"] if command.binds_version and result.after is not None else None
        row = await requests.open_request(
            act,
            request_id,
            command=attempt.rule.field,
            arguments=attempt.arguments,
            target=target,
            target_version=version,
            entity_id=entity_id,
            requirement=requirement,
            grant=verdict.grant,
            facts=facts,
            summary=summary,
            diff=diff,
            approvers=approvers,
        )
        return result.with_refs(approvalRequest=request_id), row

    def _deed(
        self,
        attempt: _Attempt,
        target: Target,
        result: Result,
        outcome: str,
        approval: Row | None = None,
    ) -> Deed:
        asked = None if approval is None else deed_records.approval_of(approval, step="REQUESTED")
        if attempt.rule.field == "voteOnApproval":
            asked = deed_records.approval_of(target.row, step="VOTED")
        return Deed(
            action=attempt.rule.record_action,
            field=attempt.rule.name,
            target=target,
            result=result,
            outcome=outcome,
            policy_row=attempt.sight.row,
            approval=asked,
            approval_policy=None if approval is None else approval["policy_id"],
            idempotency_key=attempt.sight.idempotency_key,
        )

    async def _replay(self, act: Act[Any], attempt: _Attempt, target: Target, stored: Mapping[str, Any]) -> Any:
        """The stored result, read with what the caller may see now; the receipt in the payload is the effect's."""
        result = Result(refs=stored["refs"], values=stored["values"])
        deed = self._deed(attempt, target, result, "REPLAYED")
        return await self._finish(act, attempt, deed, result, audit=stored["audit"])

    async def _finish(
        self,
        act: Act[Any],
        attempt: _Attempt,
        deed: Deed,
        result: Result,
        key: str | None = None,
        *,
        audit: Mapping[str, Any] | None = None,
    ) -> Any:
        """Record, remember under the key, read the payload, commit."""
        uow = act.uow
        uow.records.insert(0, deed_records.of_deed(act, deed, attempt.request, attempt.arguments))
        await uow.seal()
        receipt = _receipt(uow)
        if key is not None:
            kept = {"refs": dict(result.refs), "values": dict(result.values), "audit": receipt}
            await idempotency.store(uow, attempt.request.caller.id, attempt.rule.field, key, kept)
        extra = {"outcome": deed.outcome, "audit": audit or receipt, "receipt": receipt}
        payload = await attempt.answer(uow, result, extra)
        await self._fault("before_commit")
        await uow.commit()
        telemetry.note("countersign.outcome", deed.outcome)
        telemetry.note("countersign.audit.id", uow.audit_id)
        await self._fault("after_commit")
        return payload

    # ---------- what is only tried ----------
    async def rehearse(
        self, caller: Caller, snapshot: Snapshot, work: Callable[[Act[Any]], Awaitable[Rehearsed]]
    ) -> Rehearsed:
        """What ``work`` sees of its own doing in a unit of work that never commits: no row, record, event or call survives.

        Raises ``StaleError`` when the snapshot is not the database's.
        """
        inner = Inner(self._find, self._rules, None)
        async with begin(self._pool, self._recorder, cities=cities_context(caller.grants)) as uow:
            if uow.authz_version != snapshot.version:
                raise StaleError(uow.authz_version)

            async def find(type_name: str, object_id: str) -> Row:
                return await self._find(uow.conn, caller, snapshot, type_name, object_id, None)

            return await work(
                Act(
                    uow=uow,
                    caller=caller,
                    snapshot=snapshot,
                    input=None,
                    reason=None,
                    find=find,
                    audit_id=uow.audit_id,
                    stored=inner,
                    steps=inner,
                )
            )

    # ---------- the system's own deeds ----------
    async def system(
        self,
        name: str,
        wanted: Any,
        *,
        also: Callable[[UnitOfWork], Awaitable[None]] | None = None,
    ) -> Result | None:
        """Run a deed of ``registry.SYSTEM`` with actor ``system``; None when there is nothing to do (any more).

        ``also`` joins the transaction: the outbox row of the delivery that is being settled.
        """
        version: int | None = None
        for _ in range(REPEATS + STALE_REPEATS):
            try:
                snapshot = await self._authorizer.current(version, writing=True)
                with telemetry.span("deed", {"countersign.operation": name}):
                    return await self._system(name, wanted, also, snapshot)
            except StaleError as error:
                version = error.version
            except CERTAIN_ABORTS:
                logger.info("system deed %s was aborted; repeating", name)
            except ConsoleError as error:
                if error.retryable:
                    raise
                return None  # someone was faster: the state no longer calls for it
        raise ConsoleError("DEPENDENCY_UNAVAILABLE")

    async def _system(
        self,
        name: str,
        wanted: Any,
        also: Callable[[UnitOfWork], Awaitable[None]] | None,
        snapshot: Snapshot,
    ) -> Result:
        command = SYSTEM[name]
        async with begin(self._pool, self._recorder, cities="*") as uow:
            if uow.authz_version != snapshot.version:
                raise StaleError(uow.authz_version)
            inner = Inner(self._find, self._rules, None)
            act: Act[Any] = Act(
                uow=uow,
                caller=system_caller(uow.now),
                snapshot=snapshot,
                input=wanted,
                reason=None,
                find=unscoped(uow),
                audit_id=uow.audit_id,
                stored=inner,
                steps=inner,
                system=True,
            )
            target = await command.lock(act, await command.locate(act))
            command.check(act, target)
            result = await command.execute(act, target, None)
            deed = Deed(action=name, field=f"System.{name}", target=target, result=result, outcome="EXECUTED")
            uow.records.insert(0, deed_records.of_deed(act, deed, None, {}))
            if also is not None:
                await also(uow)
            await self._fault("before_commit")
            await uow.commit()
            telemetry.note("countersign.audit.id", uow.audit_id)
            return result


def _key(wanted: Any) -> str | None:
    key = getattr(wanted, "idempotency_key", None)
    if key is None:
        return None
    idempotency.check_key(key)
    return str(key)


def _receipt(uow: UnitOfWork) -> dict[str, Any]:
    """AuditRef of the unit's own record; seq comes with the seal."""
    found = next(receipt for receipt in uow.receipts if receipt.id == uow.audit_id)
    return {"id": found.id, "seq": None, "hash": found.hash}
