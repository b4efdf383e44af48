"""The command that an approval request stores: run with the requester's rights, or undone, inside another's transaction.

Nothing of the request's payload is believed beyond its hash: the arguments go through the same steps as when they came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from authz.caller import Caller
from authz.enforcer import Snapshot
from db.unit_of_work import Row, uuid7
from resolvers import deed_records
from resolvers.context import Request
from resolvers.deed_records import Deed
from resolvers.finding import unscoped
from resolvers.judging import judge, open_field, standing_caller
from resolvers.registry import COMMANDS
from schema.directives import FieldRules
from schema.inputs import convert
from services.command import Act, Approval, Command, Finder, Reason, Result, Target

# Connection, caller, snapshot, type, id, and the policy row that carries the scope (None: the type's own read row).
Find = Callable[["asyncpg.Connection[Any]", Caller, Snapshot, str, str, tuple[str, str] | None], Awaitable[Row]]
Rules = Mapping[tuple[str, str], FieldRules]


def typed(command: Command[Any], arguments: Mapping[str, Any]) -> Any:
    """The command's input of GraphQL arguments: the ``input`` object, or the arguments themselves."""
    given = arguments.get("input", arguments)
    kind = command.input_type
    if hasattr(kind, "__strawberry_definition__"):
        return convert(kind, given)
    names = {name: "".join((head, *(part.capitalize() for part in tail))) for name, (head, *tail) in _words(kind)}
    return kind(**{name: given.get(graphql) for name, graphql in names.items()})


def _words(kind: type[Any]) -> list[tuple[str, list[str]]]:
    return [(name, name.split("_")) for name in kind.__dataclass_fields__]


def reason_of(wanted: Any) -> Reason | None:
    """The reason that an input carries."""
    given = getattr(wanted, "reason", None)
    return None if given is None else Reason(given.code, given.note, given.ticket_ref)


@dataclass(frozen=True)
class Stored:
    """The pipeline's side of ``services.command.StoredCommands``, for one request (None: the system's own deed)."""

    find: Find
    rules: Rules
    request: Request | None

    async def execute(self, act: Act[Any], request: Row, votes: Sequence[Row]) -> None:
        command, rule = COMMANDS[request["command"]], self.rules["Mutation", request["command"]]
        run = self._act(act, request, votes)
        open_field(run, rule)
        target = await command.locate(run)
        judge(run, rule, target)
        command.authorize(run, target)
        target = await command.lock(run, target)
        verdict = judge(run, rule, target)
        command.check(run, target)
        result = await command.execute(run, target, request["entity_id"])
        line = verdict.policy_row_id
        self._record(run, request, votes, target, result, act.audit_id, outcome="EXECUTED", policy_row=line)

    async def refused(self, act: Act[Any], request: Row, votes: Sequence[Row], code: str) -> None:
        run = self._act(act, request, votes)
        target = Target(request["target_type"], request["target_id"], request, city_id=request["city_id"])
        self._record(run, request, votes, target, Result(), act.audit_id, outcome="FAILED", verdict="FAILED", code=code)

    async def abandon(self, act: Act[Any], request: Row, outcome: str) -> None:
        command = COMMANDS[request["command"]]
        run = self._act(act, request, (), find=unscoped(act.uow), actor=act)
        target = await command.lock(run, await command.locate(run))
        await command.abandon(run, target, request["entity_id"], outcome)

    def _act(
        self,
        act: Act[Any],
        request: Row,
        votes: Sequence[Row],
        *,
        find: Finder | None = None,
        actor: Act[Any] | None = None,
    ) -> Act[Any]:
        """The requester's run of his command; ``actor``: who undoes it instead, and whose record it falls under."""
        requester = standing_caller(act.snapshot, request["requester_id"], act.uow.now)
        wanted = typed(COMMANDS[request["command"]], orjson.loads(request["payload"])["arguments"])

        async def scoped(type_name: str, object_id: str) -> Row:
            return await self.find(act.uow.conn, requester, act.snapshot, type_name, object_id, None)

        return Act(
            uow=act.uow,
            caller=actor.caller if actor else requester,
            snapshot=act.snapshot,
            input=wanted,
            reason=Reason(request["reason_code"], request["reason_note"], request["reason_ticket"]),
            find=find or scoped,
            audit_id=actor.audit_id if actor else str(uuid7()),
            stored=self,
            approval=Approval(
                request["id"],
                tuple(sorted(vote["voter_id"] for vote in votes)),
                request["target_version"],
            ),
            system=actor.system if actor else False,
        )

    def _record(
        self,
        run: Act[Any],
        request: Row,
        votes: Sequence[Row],
        target: Target,
        result: Result,
        cause: str,
        **said: Any,
    ) -> None:
        rule = self.rules["Mutation", request["command"]]
        deed = Deed(
            action=request["action"],
            field=rule.name,
            target=target,
            result=result,
            approval=deed_records.approval_of(request, step="EXECUTED", votes=votes),
            approval_policy=request["policy_id"],
            cause=cause,
            **said,
        )
        arguments = orjson.loads(request["payload"])["arguments"]
        run.uow.record(deed_records.of_deed(run, deed, self.request, arguments))
