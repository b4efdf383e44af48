"""What a macro may say, checked when it is saved: its steps' templates against the schema, its paths against what there is.

What only a case can show (an order that is not there, a value of the wrong kind) is left to the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from graphql import (
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLScalarType,
    get_named_type,
    is_required_input_field,
)

from authz import reasons
from schema.build import console
from schema.errors import ConsoleError
from services.macros import parameters, rules, templates
from services.macros.rules import StepKind

CASE_PATHS: Final = ("id", "kind", "state", "subjectId", "cityId", "contentCategory", "queueId")
SUBJECT_PATHS: Final = ("id", "kind", "state", "cityId", "contentCategory")
ORDER_PATHS: Final = (
    *("orderId", "cityId", "currency", "capturedMinor", "succeededMinor", "reservedMinor", "disputedMinor"),
    *("refundableMinor", "version"),
)
REASON_PATHS: Final = ("code", "note", "ticketRef")
_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "case": CASE_PATHS,
    "subject": SUBJECT_PATHS,
    "order": ORDER_PATHS,
    "reason": REASON_PATHS,
}
ORDER_PARAMETER: Final = "orderId"  # the parameter whose order ``order.*`` speaks of
# The runner's alone: the case that the whole is about, secrets of the run, and what only stands when the step is reached.
RUNNERS: Final = frozenset({"caseId", "leaseToken", "idempotencyKey", "expectedVersion"})
# Payload fields that are not objects of the step's own doing.
_NOT_REFS: Final = frozenset({"audit", "approvalRequest"})


@dataclass(frozen=True)
class Mutation:
    """A mutation as a step sees it: its input's fields, what it demands, and the objects that its payload names."""

    action: str
    input: GraphQLInputObjectType
    kind: StepKind
    refs: frozenset[str]


@cache
def mutation(action: str) -> Mutation | None:
    """The mutation of this name whose one argument is ``input``; None for any other."""
    root = console().core.mutation_type
    field = root.fields.get(action) if root else None
    of = get_named_type(field.args["input"].type) if field is not None and set(field.args) == {"input"} else None
    payload = get_named_type(field.type) if field is not None else None
    if not isinstance(of, GraphQLInputObjectType) or not isinstance(payload, GraphQLObjectType):
        return None
    rule = console().rules["Mutation", action]
    objects = {
        name for name, inner in payload.fields.items() if isinstance(get_named_type(inner.type), GraphQLObjectType)
    }
    return Mutation(
        action, of, StepKind(rule.reason, rule.dual[0] if rule.dual else None), frozenset(objects - _NOT_REFS)
    )


def kinds(steps: Sequence[Mapping[str, Any]]) -> list[StepKind]:
    """What the steps of a stored macro demand; one whose mutation is gone demands nothing, and will not run."""
    found = (mutation(step["action"]) for step in steps)
    return [one.kind for one in found if one is not None]


def check(schema: Any, steps: Sequence[Mapping[str, Any]], offers: Callable[[str], bool]) -> None:
    """Refuse what could never run. ``offers``: whether a mutation may be a step; the refusal names the place."""
    parameters.check_schema(schema)
    rules.check_keys([step["key"] for step in steps])
    earlier: dict[str, Mutation] = {}
    for position, step in enumerate(steps):
        where = f"steps.{position}"
        found = mutation(step["action"])
        if found is None or not offers(step["action"]):
            raise ConsoleError("BAD_REQUEST", "This is no mutation that a macro may run.", field=f"{where}.action")
        template_at = f"{where}.argsTemplate"
        rules.check_document(step["argsTemplate"], template_at)
        for path in _paths(step["argsTemplate"], template_at):
            _check_path(path, schema, earlier, template_at)
        if step["when"] is not None:
            _check_path(_condition(step["when"], f"{where}.when"), schema, earlier, f"{where}.when")
        _check_arguments(step["argsTemplate"], found, template_at)
        earlier[step["key"]] = found


def _paths(template: Any, where: str) -> tuple[str, ...]:
    try:
        return templates.paths(template)
    except templates.TemplateError as error:
        raise ConsoleError("BAD_REQUEST", f"{where}: {error}.", field=where) from error


def _condition(when: str, where: str) -> str:
    try:
        return templates.condition_path(when)[0]
    except templates.TemplateError as error:
        raise ConsoleError("BAD_REQUEST", f"{where}: {error}.", field=where) from error


def _check_path(path: str, schema: Mapping[str, Any], earlier: Mapping[str, Mutation], where: str) -> None:
    root, *names = path.split(".")
    if root == "param":
        known = parameters.declares(schema, names)
    elif root == "step":
        step, *refs = names
        known = step in earlier and len(refs) == 1 and refs[0] in earlier[step].refs
    else:
        known = len(names) == 1 and names[0] in _PATHS.get(root, ())
        if root == "order":
            known = known and parameters.declares(schema, (ORDER_PARAMETER,))
    if not known:
        raise ConsoleError("BAD_REQUEST", f"{where}: no value can stand at {path}.", field=where)


# ---------- templates beside the input of their mutation ----------
def _check_arguments(template: Mapping[str, Any], of: Mutation, where: str) -> None:
    reserved = sorted(RUNNERS & template.keys())
    if reserved:
        raise ConsoleError("BAD_REQUEST", f"The runner fills {reserved[0]}.", field=f"{where}.{reserved[0]}")
    _check_object(template, of.input, where, RUNNERS)
    given = template.get("reason")
    code = given.get("code") if isinstance(given, Mapping) else None
    literal = isinstance(code, str) and not templates.paths(code)
    if of.kind.reason_list and literal and code not in {one.code for one in reasons.codes(of.kind.reason_list)}:
        raise ConsoleError("REASON_INVALID", field=f"{where}.reason.code", list=of.kind.reason_list)


def _check_object(value: Any, of: GraphQLInputObjectType, where: str, filled: frozenset[str] = frozenset()) -> None:
    if not isinstance(value, Mapping):
        raise _misfit(where, f"an object of {of.name}")
    unknown = sorted(value.keys() - of.fields.keys())
    if unknown:
        raise ConsoleError("BAD_REQUEST", f"{of.name} has no {unknown[0]}.", field=f"{where}.{unknown[0]}")
    for name, field in of.fields.items():
        if name in value:
            _check_value(value[name], field.type, f"{where}.{name}")
        elif is_required_input_field(field) and name not in filled:
            raise ConsoleError("BAD_REQUEST", f"{of.name} needs {name}.", field=f"{where}.{name}")


def _check_value(value: Any, of: GraphQLInputType, where: str) -> None:
    if isinstance(of, GraphQLNonNull):
        if value is None:
            raise _misfit(where, "a value")
        of = of.of_type
    if value is None or (isinstance(value, str) and templates.sole_path(value) is not None):
        return  # what a placeholder leads to is checked when it is there
    if isinstance(of, GraphQLList):
        if not isinstance(value, list):
            raise _misfit(where, "a list")
        for position, item in enumerate(value):
            _check_value(item, of.of_type, f"{where}.{position}")
    elif isinstance(of, GraphQLInputObjectType):
        _check_object(value, of, where)
    elif isinstance(value, str) and templates.paths(value):
        if not (isinstance(of, GraphQLScalarType) and _takes_text(of)):
            raise _misfit(where, str(of))
    else:
        try:
            of.parse_value(value)  # no list and no object: a scalar or an enum
        except GraphQLError as error:
            raise _misfit(where, str(of)) from error


def _takes_text(of: GraphQLScalarType) -> bool:
    try:
        return isinstance(of.parse_value("a"), str)
    except GraphQLError:
        return False


def _misfit(where: str, wanted: str) -> ConsoleError:
    return ConsoleError("BAD_REQUEST", f"{where} is not {wanted}.", field=where)
