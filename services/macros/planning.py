"""What a macro would do to a case as things stand, and doing it: one resolution of the templates for both.

Everything that a template may name is looked at before the first step; only what earlier steps made comes later. A plan
leaves rows behind like any run: whoever asks for one undoes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from authz import requirements
from authz.requirements import Gate
from db.unit_of_work import Row
from schema.errors import ConsoleError
from services.command import Act, Reason, Step
from services.macros import drafts, rules, templates
from services.money import rules as money_rules
from services.telling import document, instant

_VERSION: Final = "SELECT version FROM case_file WHERE id = $1"
_SUBJECT: Final = "SELECT * FROM subject WHERE id = $1"
# Roots whose values a plan is not bound to: the reason is bound beside it, and what steps make has another id each time.
_UNBOUND: Final = re.compile(r"(reason|step)\.")


@dataclass(frozen=True)
class PlannedStep:
    """One step as it would run. ``arguments`` are the resolved ones as the plan is bound to them."""

    key: str
    action: str
    verdict: str
    code: str | None = None
    arguments: Any = None
    seen: tuple[str, str, int | None] | None = None  # type, id and version of what it acts on
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    effects: tuple[str, ...] = ()
    gate: Gate | None = None
    currency: str | None = None  # of the amounts that its approval is about
    error: ConsoleError | None = None

    @property
    def runs(self) -> bool:
        return self.verdict in ("OK", "NEEDS_APPROVAL")

    def to_json(self) -> dict[str, Any]:
        """The StepPlan of the schema."""
        return {
            "key": self.key,
            "action": self.action,
            "verdict": self.verdict,
            "errorCode": self.code,
            "before": self.before,
            "after": self.after,
            "externalEffects": list(self.effects),
        }

    def kept(self) -> dict[str, Any]:
        """What stays with the run: without values of rows, since whoever reads runs need not read what they are about."""
        return {**self.to_json(), "before": None, "after": None}

    def bound(self) -> dict[str, Any]:
        """What an approval is for: all but versions, which move while it waits and are bound by themselves."""
        return {
            "key": self.key,
            "action": self.action,
            "verdict": self.verdict,
            "code": self.code,
            "arguments": self.arguments,
            "effects": list(self.effects),
            "approval": None if self.gate is None else self.gate.requirement.to_json(),
        }


@dataclass(frozen=True)
class Plan:
    """A macro's steps on one case, and what it takes to run them."""

    macro: Row
    case_id: str
    issued: int
    roots: Mapping[str, Any]
    steps: tuple[PlannedStep, ...]
    approvals: int

    @property
    def refused(self) -> PlannedStep | None:
        """The step that keeps the whole from running."""
        return next((step for step in self.steps if step.error is not None), None)

    @property
    def gates(self) -> tuple[Gate, ...]:
        return tuple(step.gate for step in self.steps if step.gate is not None)

    @property
    def currency(self) -> str | None:
        return next((step.currency for step in self.steps if step.gate is not None and step.currency), None)

    def _about(self) -> dict[str, Any]:
        return {"macro": self.macro["id"], "version": self.macro["version"], "case": self.case_id}

    @property
    def hash(self) -> str:
        """What a run presents."""
        steps = [{**step.bound(), "seen": step.seen} for step in self.steps]
        return rules.plan_hash(self.issued, {**self._about(), "steps": steps})

    @property
    def bound_hash(self) -> str:
        """What an approved run is compared with."""
        return rules.digest({**self._about(), "steps": [step.bound() for step in self.steps]})

    def to_json(self) -> dict[str, Any]:
        """The MacroPlan of the schema."""
        expires_at = datetime.fromtimestamp(self.issued, UTC) + timedelta(seconds=rules.PLAN_SECONDS)
        return {
            "planHash": self.hash,
            "macroId": self.macro["id"],
            "macroVersion": self.macro["version"],
            "expiresAt": instant(expires_at),
            "executable": self.refused is None,
            "needsApproval": bool(self.gates),
            "approvals": self.approvals,
            "steps": [step.to_json() for step in self.steps],
        }


@dataclass(frozen=True)
class Sitting:
    """What a plan is made for: the macro, the case under its lock, and what the caller gave."""

    macro: Row
    case: Row
    parameters: Mapping[str, Any]
    reason: Reason

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = document(self.macro["steps"])
        return found


def kinds_of(macro: Row) -> list[rules.StepKind]:
    """What the schema demands of a macro's steps."""
    return drafts.kinds(document(macro["steps"]))


async def plan(act: Act[Any], sitting: Sitting, *, issued: int, protected: bool) -> Plan:
    """Run every step that is not refused, and say what each came to. The caller undoes it all."""
    roots = await _roots(act, sitting)
    made: dict[str, Mapping[str, Any]] = {}
    steps: list[PlannedStep] = []
    for step in sitting.steps:
        if any(planned.error is not None for planned in steps):
            steps.append(PlannedStep(step["key"], step["action"], "INVALID", rules.NOT_REACHED))
        else:
            steps.append(await _try(act, sitting, step, roots, made))
    gates = tuple(step.gate for step in steps if step.gate is not None)
    needed = requirements.required("macro.run", facts(gates), protected, book=act.snapshot.approvals, gates=gates)
    return Plan(
        sitting.macro, sitting.case["id"], issued, roots, tuple(steps), 0 if needed is None else needed.approvals
    )


def facts(gates: tuple[Gate, ...]) -> dict[str, int]:
    """What the approval policies and the request ask of the whole: the most approvals, the greatest amount of its steps."""
    found = {"stepApprovals": max((gate.requirement.approvals for gate in gates), default=0)}
    for name in ("amountMinor", "sum24hMinor"):
        amounts = [gate.facts[name] for gate in gates if isinstance(gate.facts.get(name), int)]
        if amounts:
            found[name] = max(int(amount) for amount in amounts if isinstance(amount, int))
    return found


async def carry_out(act: Act[Any], sitting: Sitting, planned: Plan) -> None:
    """Run the steps that the plan runs, with the values it was made with. A refusal names the step; the caller undoes all."""
    made: dict[str, Mapping[str, Any]] = {}
    for step, ahead in zip(sitting.steps, planned.steps, strict=True):
        if not ahead.runs:
            continue
        try:
            arguments = _rendered(step, {**planned.roots, "step": made})
            found = await act.steps.run(act, step["action"], await _filled(act, sitting, step, arguments))
        except ConsoleError as error:
            raise at_step(error, step["key"]) from error
        made[step["key"]] = found.result.refs


def at_step(error: ConsoleError, key: str) -> ConsoleError:
    """The refusal of a step as the refusal of the whole: its code and words, and the step's key."""
    return ConsoleError(error.code, error.message, **{**error.info, "stepKey": key})


# ---------- one step ----------
async def _try(
    act: Act[Any],
    sitting: Sitting,
    step: Mapping[str, Any],
    roots: Mapping[str, Any],
    made: dict[str, Mapping[str, Any]],
) -> PlannedStep:
    planned = PlannedStep(step["key"], step["action"], "NO_OP")
    known = {**roots, "step": made}
    if not templates.holds(step["when"], lambda path: templates.lookup(known, path)):
        return planned
    try:
        arguments = _rendered(step, known)
        planned = replace(planned, arguments=_rendered(step, known, bound=True))
        # Its own savepoint: a refusal by a constraint leaves the transaction usable.
        async with act.uow.savepoint():
            found = await act.steps.run(
                act, step["action"], await _filled(act, sitting, step, arguments), rehearsing=True
            )
            before, after = await _difference(act, found)
    except ConsoleError as error:
        if error.retryable:
            raise
        return replace(
            planned, verdict=rules.verdict_of(error.code), code=error.code, error=at_step(error, step["key"])
        )
    made[step["key"]] = found.result.refs
    return replace(
        planned,
        verdict="OK" if found.gate is None else "NEEDS_APPROVAL",
        seen=(found.target.type, found.target.id, found.target.version),
        before=before,
        after=after,
        effects=found.effects,
        gate=found.gate,
        currency=found.target.currency,
    )


def _rendered(step: Mapping[str, Any], roots: Mapping[str, Any], *, bound: bool = False) -> Any:
    """The step's arguments with their values; ``bound``: those that a plan is not bound to stay as they are written."""

    def resolve(path: str) -> Any:
        return f"{{{{{path}}}}}" if bound and _UNBOUND.match(path) else templates.lookup(roots, path)

    try:
        rendered = templates.render(step["argsTemplate"], resolve)
    except templates.TemplateError as error:
        raise ConsoleError("BAD_REQUEST", f"{error}.", field="argsTemplate") from error
    rules.check_document(rendered, "argsTemplate", most=rules.ARGUMENTS_MAXIMUM)  # a value may stand in it many times
    return rendered


async def _filled(
    act: Act[Any], sitting: Sitting, step: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments with what is the runner's: the case, its lease and present version, a key, the words of the reason."""
    of = drafts.mutation(step["action"])
    if of is None:
        raise ConsoleError("BAD_REQUEST", f"{step['action']} is no mutation that a macro may run.")
    wanted, reason = dict(arguments), sitting.reason
    ours: dict[str, Any] = {
        "caseId": sitting.case["id"],
        "leaseToken": sitting.case["lease_token"],
        "expectedVersion": await act.uow.fetchval(_VERSION, sitting.case["id"]),
        "idempotencyKey": f"{act.audit_id}:{step['key']}",
    }
    wanted |= {name: value for name, value in ours.items() if name in of.input.fields}
    if isinstance(wanted.get("reason"), Mapping):
        wanted["reason"] = {"note": reason.note, "ticketRef": reason.ticket_ref, **wanted["reason"]}
    return {"input": wanted}


async def _difference(act: Act[Any], step: Step) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the step changes: the shown fields of what it acts on, and of what it makes."""
    target, result = step.target, step.result
    before, after = rules.changed(target.type, target.row, await act.find(target.type, target.id))
    if result.object is not None and result.object != (target.type, target.id):
        kind = result.object[0]
        made = await act.find(*result.object) if result.after is None else result.after
        after = {**after, kind[0].lower() + kind[1:]: rules.shown(kind, made)}
    return before or None, after or None


# ---------- what paths lead to ----------
async def _roots(act: Act[Any], sitting: Sitting) -> dict[str, Any]:
    """The values of every root that the macro names. An order that is not there, or not the caller's to see, has none."""
    case, reason = sitting.case, sitting.reason
    subject = await act.row(_SUBJECT, case["subject_id"])
    roots: dict[str, Any] = {
        "param": sitting.parameters,
        "case": _values(case, drafts.CASE_PATHS),
        "subject": _values(subject, drafts.SUBJECT_PATHS),
        "reason": {"code": reason.code, "note": reason.note, "ticketRef": reason.ticket_ref},
    }
    order_id = sitting.parameters.get(drafts.ORDER_PARAMETER)
    if isinstance(order_id, str) and any(_names_order(step) for step in sitting.steps):
        try:
            ledger = await act.find("OrderLedger", order_id)
        except ConsoleError as error:
            if error.code != "NOT_FOUND":
                raise
        else:
            refundable = money_rules.refundable_minor(ledger)
            roots["order"] = {**_values(ledger, drafts.ORDER_PATHS), "refundableMinor": refundable}
    return roots


def _names_order(step: Mapping[str, Any]) -> bool:
    named = templates.paths(step["argsTemplate"])
    when = () if step["when"] is None else (templates.condition_path(step["when"])[0],)
    return any(path.startswith("order.") for path in (*named, *when))


def _values(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    columns = {rules.camel(column): value for column, value in row.items()}
    return {name: columns[name] for name in names if name in columns}
