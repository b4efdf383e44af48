"""runMacro, and the plan that a preview shows: the same steps under the same rights, tried first and then done, or not.

Locks the macro's row in share mode, then the case and its subject, which a later step may want after an earlier one has
taken what comes behind them; the steps take what they take. While a run waits for approval the case
is PENDING_APPROVAL, whose version the request is bound to.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import orjson

from authz import reasons
from authz.approval_states import ENDINGS
from authz.caller import Grant
from authz.conditions import Facts
from db.unit_of_work import Row, new_id
from schema.errors import ConsoleError, InvalidTransitionError
from schema.macros import PreviewMacroInput, RunMacroInput
from services.cases import rules as case_rules
from services.cases import saving, targets
from services.cases.effect import lock_subject
from services.command import Act, Command, NotOffered, Reason, Result, Target, check_version
from services.macros import parameters, planning, rules
from services.macros.planning import Plan, Sitting
from services.telling import document, tell

# In share mode: it may be run by many at once, and put out of force by nobody meanwhile.
_HOLD_STILL = "SELECT * FROM macro WHERE id = $1 AND current FOR SHARE"
_INSERT = """
INSERT INTO macro_run (id, macro_id, macro_version, case_id, city_id, plan_hash, bound_hash, state, steps, requester_id,
  approval_request_id, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12) RETURNING *
"""
_LOCK = "SELECT * FROM macro_run WHERE id = $1 FOR UPDATE"
_PREVIEW_NOTE: Final = "As given when the macro is run."  # a preview is asked for without a reason


@dataclass(frozen=True)
class CaseForMacro(Target):
    """The case as target, with the macro that is to run on it, and what it would do once that is known."""

    macro: Row | None = None
    plan: Plan | None = None

    @property
    def its_macro(self) -> Row:
        if self.macro is None:
            raise LookupError("the target of a run has its macro")
        return self.macro

    @property
    def its_plan(self) -> Plan:
        if self.plan is None:
            raise LookupError("a run is planned before it is held or done")
        return self.plan


def _of(target: Target) -> CaseForMacro:
    if not isinstance(target, CaseForMacro):
        raise TypeError("runMacro has another target than its own")
    return target


async def locate(act: Act[Any], macro_id: str, case_id: str) -> CaseForMacro:
    """Case and macro within the caller's scope. Whether a grant's role may run it is the fact ``macroRoleHeld``."""
    found = await targets.find(act, case_id)
    macro = await act.find("Macro", macro_id)
    known = {part.name: getattr(found, part.name) for part in fields(Target)}
    return _judged(CaseForMacro(**known), macro)


def _judged(target: CaseForMacro, macro: Row) -> CaseForMacro:
    roles = frozenset(macro["allowed_roles"])

    def by_grant(grant: Grant) -> Facts:
        return {"macroRoleHeld": int(grant.role in roles)}

    return replace(target, macro=macro, by_grant=by_grant)


async def lock(act: Act[Any], target: CaseForMacro) -> CaseForMacro:
    """Macro and case as they stand under their locks, and that of the subject."""
    macro_id = target.its_macro["id"]
    # Twice: another version may have come into force while this waited for the one before it.
    macro = await act.uow.fetchrow(_HOLD_STILL, macro_id) or await act.row(_HOLD_STILL, macro_id)
    found = _judged(_of(await targets.locked(act, target)), macro)
    await lock_subject(act, found.row["subject_id"])
    return found


def validate(target: CaseForMacro, given: Any) -> None:
    """Refuse parameters that the macro does not take."""
    parameters.check(document(target.its_macro["parameters"]), given)


def check(act: Act[Any], target: CaseForMacro, lease_token: str | None) -> None:
    """Refuse a macro that is not in force or not for such a case, and a case that the caller does not hold."""
    case, macro = target.row, target.its_macro
    rules.check_runs(macro["state"])
    if case["kind"] not in macro["case_kinds"]:
        raise ConsoleError("BAD_REQUEST", f"The macro is not for cases of kind {case['kind']}.", field="macroId")
    case_rules.check_shown(case, "runMacro")
    case_rules.check_lease(case, act.caller.id, lease_token, act.uow.now)
    if case["state"] != "CLAIMED":
        raise InvalidTransitionError("case", case["state"], "run a macro")


def _sitting(target: CaseForMacro, given: Any, reason: Reason) -> Sitting:
    return Sitting(target.its_macro, target.row, given, reason)


def _seconds(act: Act[Any]) -> int:
    return int(act.uow.now.timestamp())


async def preview(act: Act[Any], target: CaseForMacro, wanted: PreviewMacroInput) -> Plan:
    """The plan as ``previewMacro`` shows it; ``target`` is located and judged. The caller undoes what it left."""
    validate(target, wanted.parameters)
    target = await lock(act, target)
    check(act, target, wanted.lease_token)
    listed = reasons.codes(rules.gravest_list(planning.kinds_of(target.its_macro)))
    code = next((one.code for one in listed if not one.note_required), listed[0].code)
    sitting = _sitting(target, wanted.parameters, Reason(code, _PREVIEW_NOTE))
    return await planning.plan(act, sitting, issued=_seconds(act), protected=target.protected)


class RunMacro(Command[RunMacroInput]):
    """Run a macro as it was previewed: all steps in one transaction or none; with a gated step, once the whole is approved."""

    input_type = RunMacroInput
    offered = NotOffered("which macros there are for a case, and with what, is what listMacros and previewMacro say")

    async def locate(self, act: Act[RunMacroInput]) -> Target:
        return await locate(act, act.input.macro_id, act.input.case_id)

    def reason_list(self, act: Act[RunMacroInput], target: Target, listed: str) -> str:
        return rules.gravest_list(planning.kinds_of(_of(target).its_macro))

    def validate(self, act: Act[RunMacroInput], target: Target) -> None:
        validate(_of(target), act.input.parameters)

    async def lock(self, act: Act[RunMacroInput], target: Target) -> Target:
        return await lock(act, _of(target))

    def check(self, act: Act[RunMacroInput], target: Target) -> None:
        if act.approval is None:
            check(act, _of(target), act.input.lease_token)
            return
        case = target.row
        rules.check_runs(_of(target).its_macro["state"])
        case_rules.CASE.next(case["state"], "resume")
        if case["approval_request_id"] != act.approval.request_id:
            raise InvalidTransitionError("case", case["state"], "be worked by another request")
        check_version(case, act.approval.target_version)

    async def rehearse(self, act: Act[RunMacroInput], target: Target) -> Target:
        """Try the steps and compare with what was presented: ``PLAN_STALE`` carries the plan as it is now."""
        found, now = _of(target), _seconds(act)
        issued = rules.issued_at(act.input.plan_hash, now)
        plan = await self._plan(act, found, now if issued is None else issued)
        if issued is None or plan.hash != act.input.plan_hash:
            raise ConsoleError("PLAN_STALE", plan=replace(plan, issued=now).to_json())
        if plan.refused is not None and plan.refused.error is not None:
            raise plan.refused.error
        facts = {**found.facts, **planning.facts(plan.gates)}
        return replace(found, plan=plan, gates=plan.gates, facts=facts, currency=plan.currency)

    async def _plan(self, act: Act[RunMacroInput], target: CaseForMacro, issued: int) -> Plan:
        sitting = _sitting(target, act.input.parameters, act.why)
        async with act.uow.undone():
            found = await planning.plan(act, sitting, issued=issued, protected=target.protected)
        return found  # noqa: RET504  the block that undoes it could swallow a return

    async def propose(self, act: Act[RunMacroInput], target: Target) -> str:
        return new_id("run")

    async def _write(
        self, act: Act[RunMacroInput], target: CaseForMacro, run_id: str, state: str, request_id: str | None = None
    ) -> Row:
        macro, plan = target.its_macro, target.its_plan
        return await act.row(
            _INSERT,
            run_id,
            macro["id"],
            macro["version"],
            target.id,
            target.city_id,
            plan.hash,
            plan.bound_hash,
            state,
            orjson.dumps([step.kept() for step in plan.steps]).decode(),
            act.caller.id,
            request_id,
            act.uow.now,
        )

    async def hold(self, act: Act[RunMacroInput], target: Target, entity_id: str | None, request_id: str) -> Result:
        found, case = _of(target), target.row
        run = await self._write(act, found, str(entity_id), "PENDING_APPROVAL", request_id)
        row = await saving.save(
            act,
            case,
            "approval_requested",
            "A macro waits for a second person.",
            state=case_rules.CASE.next(case["state"], "hold"),
            approval_request_id=request_id,
            **saving.NO_LEASE,  # the assignee stays: the case returns to him
        )
        return Result(
            refs=_refs(run),
            after=row,
            changed=("state", "lease"),
            parents=(run["id"], run["macro_id"]),
        )

    async def execute(self, act: Act[RunMacroInput], target: Target, entity_id: str | None) -> Result:
        found = _of(target)
        if act.approval is None:
            await planning.carry_out(act, _sitting(found, act.input.parameters, act.why), found.its_plan)
            run = await self._write(act, found, str(entity_id), "EXECUTED")
        else:
            run = await self._resume(act, found, str(entity_id))
        await tell(act, ("Case", target.id), target.city_id, "macro_ran", "A macro ran.")
        return Result(
            refs=_refs(run),
            object=("MacroRun", run["id"]),
            after=run,
            changed=("state",),
            parents=(run["macro_id"],),
        )

    async def _resume(self, act: Act[RunMacroInput], target: CaseForMacro, run_id: str) -> Row:
        """Go on where the approval had stopped it: the case is the requester's again, and the plan must be what was approved."""
        run = await act.row(_LOCK, run_id)
        now = act.uow.now
        case = await saving.save(
            act,
            target.row,
            "resumed",
            "An approved macro runs.",
            state=case_rules.CASE.next(target.row["state"], "resume"),
            approval_request_id=None,
            assignee_id=act.caller.id,
            lease_token=secrets.token_hex(16),  # seen by nobody: it ends with the transaction
            lease_started_at=now,
            lease_expires_at=case_rules.lease_until(now, now),
        )
        held = replace(target, row={**target.row, **case}, version=case["version"])
        plan = await self._plan(act, held, _seconds(act))
        if plan.refused is not None and plan.refused.error is not None:
            raise plan.refused.error
        if plan.bound_hash != run["bound_hash"]:
            raise ConsoleError("PLAN_STALE")
        await planning.carry_out(act, _sitting(held, act.input.parameters, act.why), plan)
        case = await saving.lock(act, target.id)
        if case["state"] == "CLAIMED":  # no step has brought it to an end
            state = case_rules.CASE.next(case["state"], "release")
            await saving.save(
                act, case, "returned", "The macro ran; the case is open again.", state=state, **saving.NO_LEASE
            )
        return await act.update("macro_run", run_id, {"state": rules.RUN.next(run["state"], "execute")})

    async def abandon(self, act: Act[RunMacroInput], target: Target, entity_id: str | None, outcome: str) -> None:
        case, run = target.row, await act.row(_LOCK, entity_id)
        event = ENDINGS[outcome]
        await act.update("macro_run", run["id"], {"state": rules.RUN.next(run["state"], event)})
        if case["state"] == "PENDING_APPROVAL":
            await saving.save(
                act,
                case,
                "returned",
                "The macro was not approved; the case is open again.",
                state=case_rules.CASE.next(case["state"], event),
                approval_request_id=None,
            )

    def summary(self, act: Act[RunMacroInput], target: Target) -> str:
        found = _of(target)
        steps = ", ".join(step.action for step in found.its_plan.steps if step.runs)
        macro = found.its_macro
        return f"Run the macro {macro['name']}, version {macro['version']}, on case {target.id}: {steps}"

    def diff(self, act: Act[RunMacroInput], target: Target) -> Mapping[str, Any]:
        return {"steps": [step.to_json() for step in _of(target).its_plan.steps]}


def _refs(run: Row) -> dict[str, str | None]:
    return {"run": run["id"], "macro": run["macro_id"], "macroVersion": str(run["macro_version"])}
