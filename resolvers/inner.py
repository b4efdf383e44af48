"""Commands that run inside another's transaction: what an approval request stores, and the steps of a macro.

Neither has a way of its own to an effect: both go through the steps of ``performing``, a stored command as its requester
with his rights of now, a step as whoever runs the whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import orjson

from authz.caller import Caller
from authz.dual_control import Bound, Vote, fill, payload_hash
from authz.enforcer import Snapshot
from authz.requirements import Gate
from authz.scope import UNSCOPED
from db.unit_of_work import Row, uuid7
from resolvers import deed_records
from resolvers.context import Request
from resolvers.deed_records import Deed, Sight
from resolvers.finding import unscoped
from resolvers.judging import standing_caller
from resolvers.performing import admit, coerced, lock, meet, needed, reason_of, typed, weigh
from resolvers.registry import COMMANDS
from schema.directives import FieldRules
from schema.errors import ConsoleError
from services.approvals import request as requests
from services.command import Act, Approval, Counted, Finder, Reason, Result, Step, Target

# Connection, caller, snapshot, type, id, and the policy row that carries the scope (None: the type's own read row).
Find = Callable[["asyncpg.Connection[Any]", Caller, Snapshot, str, str, tuple[str, str] | None], Awaitable[Row]]
Rules = Mapping[tuple[str, str], FieldRules]


@dataclass(frozen=True)
class Inner:
    """The pipeline's side of ``StoredCommands`` and ``Steps``, for one request (None: the system's own deed, or a rehearsal)."""

    find: Find
    rules: Rules
    request: Request | None

    # ---------- what an approval request stores ----------
    async def execute(self, act: Act[Any], request: Row, counted: Sequence[Counted]) -> None:
        """Run it with the requester's rights; nothing of the payload is believed beyond its hash."""
        command, rule = COMMANDS[request["command"]], self.rules["Mutation", request["command"]]
        run, sight = self._requested(act, request, counted), Sight()
        target = await meet(run, rule, command, sight)
        target, verdict = await lock(run, rule, command, target, sight)
        command.check(run, target)
        _check_still_enough(run, rule, request, target)
        result = await command.execute(run, target, request["entity_id"])
        said = {"outcome": "EXECUTED", "policy_row": verdict.policy_row_id}
        self._record_request(run, request, counted, target, result, act.audit_id, **said)

    async def refused(self, act: Act[Any], request: Row, counted: Sequence[Counted], code: str) -> None:
        """Leave the record of an execution that did not happen."""
        run = self._requested(act, request, counted)
        target = Target(request["target_type"], request["target_id"], request, city_id=request["city_id"])
        said = {"outcome": "FAILED", "verdict": "FAILED", "code": code}
        self._record_request(run, request, counted, target, Result(), act.audit_id, **said)

    async def abandon(self, act: Act[Any], request: Row, outcome: str) -> None:
        """Undo what the request held, as whoever ended it."""
        command = COMMANDS[request["command"]]
        run = self._requested(act, request, (), find=unscoped(act.uow), actor=act)
        target = await command.lock(run, await command.locate(run))
        await command.abandon(run, target, request["entity_id"], outcome)

    def _requested(
        self,
        act: Act[Any],
        request: Row,
        counted: Sequence[Counted],
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
            steps=self,
            approval=Approval(request["id"], request["target_version"]),
            votes=tuple(vote for _, vote in counted),
            system=actor.system if actor else False,
        )

    def _record_request(
        self,
        run: Act[Any],
        request: Row,
        counted: Sequence[Counted],
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
            approval=deed_records.approval_of(request, step="EXECUTED", votes=[row for row, _ in counted]),
            approval_policy=request["policy_id"],
            cause=cause,
            **said,
        )
        arguments = orjson.loads(request["payload"])["arguments"]
        run.uow.record(deed_records.of_deed(run, deed, self.request, arguments))

    # ---------- the steps of a deed ----------
    def offers(self, field: str) -> bool:
        """Only commands that say so of themselves."""
        return field in COMMANDS and COMMANDS[field].step

    async def run(self, act: Act[Any], field: str, arguments: Mapping[str, Any], *, rehearsing: bool = False) -> Step:
        """One mutation as a step: no key of its own, its record caused by the deed's, gated like any other (DC-7)."""
        if not self.offers(field):
            raise ConsoleError("BAD_REQUEST", f"{field} is no step of a macro.")
        command, rule = COMMANDS[field], self.rules["Mutation", field]
        arguments = coerced(field, arguments)
        wanted = typed(command, arguments)
        run = replace(
            act, input=wanted, reason=reason_of(wanted), audit_id=str(uuid7()), approval=None, stored=self, steps=self
        )
        sight, left = Sight(), len(act.uow.deliveries)
        target = await meet(run, rule, command, sight)
        admit(run, rule, command, target)
        target, verdict = await lock(run, rule, command, target, sight)
        result = await command.repeated(run, target)
        gate, outcome = None, "REPLAYED"
        if result is None:
            weighed = await weigh(run, rule, command, target, verdict)
            target, outcome = weighed.target, "EXECUTED"
            if rule.dual is not None and weighed.requirement is not None:
                gate = Gate(rule.dual[0], weighed.facts, weighed.requirement, target.concerned_id)
                if not rehearsing and not fill(gate.requirement, _countersigned(run, target, gate)).reached:
                    raise ConsoleError("PLAN_STALE", "The step needs an approval that this run does not have.")
            result = await command.execute(run, target, await command.propose(run, target))
        deed = Deed(
            action=rule.record_action,
            field=rule.name,
            target=target,
            result=result,
            outcome=outcome,
            policy_row=verdict.policy_row_id,
            cause=act.audit_id,
        )
        act.uow.record(deed_records.of_deed(run, deed, self.request, arguments))
        effects = tuple(f"{one.port}.{one.operation}" for one in act.uow.deliveries[left:])
        return Step(target, result, gate, effects)


def _check_still_enough(run: Act[Any], rule: FieldRules, request: Row, target: Target) -> None:
    """Refuse where it would need more approvals by now (its subject is protected since), or is not what was voted on."""
    if payload_hash(request["payload"]) != request["payload_hash"]:
        raise ConsoleError("PAYLOAD_MISMATCH")
    bound = requests.bound(request)
    wanted = needed(run, rule, target, bound.facts, bound.gates)
    if wanted is not None and not fill(wanted, run.votes).reached:
        raise ConsoleError("PLAN_STALE", "It needs more approvals by now than it was voted on with.")


def _countersigned(act: Act[Any], target: Target, gate: Gate) -> list[Vote]:
    """The votes that a step rests on: of those who may approve it by itself, as it is now, by its own city and sums.

    They were given for the step as it was planned; what the requester did since may have outgrown a voter's ceiling.
    """
    asked = Bound(
        key=gate.key,
        requester_id=act.caller.id,
        facts=gate.facts,
        requirement=gate.requirement,
        city_id=target.city_id,
        content_category=UNSCOPED if target.content_category is None else target.content_category,
        contributor_ids=frozenset(target.contributor_ids),
        concerned_ids=frozenset() if gate.concerned_id is None else frozenset({gate.concerned_id}),
    )
    ballots = ((vote.voter_id, act.snapshot.ballot(vote.voter_id, asked, act.uow.now)) for vote in act.votes)
    return [found.vote(voter_id) for voter_id, found in ballots if found.code is None]
