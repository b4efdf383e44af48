"""The steps of a deed in the order that no answer may break: what a person's mutation, an approved request and a macro's step share.

Role right -> scope and existence -> object right -> reason and input -> (key) -> lock -> state, version -> steps, sums ->
approval. Whoever runs a deed calls these in this order and adds what only his kind of deed has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLError, GraphQLNonNull, coerce_input_value
from graphql.utilities import validate_input_value

from authz import reasons, requirements
from authz.conditions import Facts
from authz.enforcer import Verdict
from authz.requirements import Gate, Requirement
from authz.scope import grant_facts
from resolvers.deed_records import Sight
from resolvers.judging import judge, open_field
from schema.build import console
from schema.directives import FieldRules
from schema.errors import ConsoleError
from schema.inputs import convert
from services.command import Act, Command, Reason, Target


@dataclass(frozen=True)
class Weighed:
    """What a deed comes to once its locks are held: what it is about, by which line, and what it needs."""

    target: Target
    facts: Mapping[str, Any]
    requirement: Requirement | None


async def meet(act: Act[Any], rule: FieldRules, command: Command[Any], sight: Sight) -> Target:
    """The target within the caller's scope, once role right and object right are passed."""
    open_field(act, rule)
    target = await command.locate(act)
    _judged(act, rule, target, sight)
    command.authorize(act, target)
    return target


def admit(act: Act[Any], rule: FieldRules, command: Command[Any], target: Target) -> None:
    """Refuse by reason and by input."""
    if rule.reason is not None:
        reasons.check(command.reason_list(act, target, rule.reason), act.reason)
    command.validate(act, target)


async def lock(
    act: Act[Any], rule: FieldRules, command: Command[Any], target: Target, sight: Sight
) -> tuple[Target, Verdict]:
    """The target under its locks, judged once more as it stands there."""
    target = await command.lock(act, target)
    return target, _judged(act, rule, target, sight)


async def weigh(act: Act[Any], rule: FieldRules, command: Command[Any], target: Target, verdict: Verdict) -> Weighed:
    """Refuse by state and version; then what the steps and the sums say, and what the approval policies make of it."""
    command.check(act, target)
    target = await command.rehearse(act, target)
    facts = {**target.facts, **await command.measure(act, target)}
    if verdict.grant is not None:
        facts |= grant_facts(verdict.grant)
    return Weighed(target, facts, needed(act, rule, target, facts, target.gates))


def needed(act: Act[Any], rule: FieldRules, target: Target, facts: Facts, gates: Sequence[Gate]) -> Requirement | None:
    """What the approval policies ask for, of these facts and the target as it stands."""
    if rule.dual is None:
        return None
    return requirements.required(rule.dual[0], facts, target.protected, book=act.snapshot.approvals, gates=gates)


def _judged(act: Act[Any], rule: FieldRules, target: Target, sight: Sight) -> Verdict:
    sight.target = target
    verdict = judge(act, rule, target)
    sight.row = verdict.policy_row_id
    return verdict


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


def coerced(field: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that were JSON, as GraphQL takes them for this mutation; ``BAD_REQUEST`` says where they do not fit."""
    mutation = console().core.mutation_type
    definition = mutation.fields[field] if mutation else None
    if definition is None:
        raise ConsoleError("BAD_REQUEST", f"There is no mutation {field}.")
    surplus = sorted(arguments.keys() - definition.args.keys())
    if surplus:
        raise ConsoleError("BAD_REQUEST", f"{field} takes no {surplus[0]}.", field=surplus[0])
    found: dict[str, Any] = {}
    for name, argument in definition.args.items():
        if name not in arguments:
            if isinstance(argument.type, GraphQLNonNull):
                raise ConsoleError("BAD_REQUEST", f"{field} needs {name}.", field=name)
            continue
        validate_input_value(arguments[name], argument.type, _misfit(name), hide_suggestions=True)
        found[name] = coerce_input_value(arguments[name], argument.type)
    return found


def _misfit(name: str) -> Callable[[GraphQLError, Sequence[str | int]], None]:
    def refuse(error: GraphQLError, path: Sequence[str | int]) -> None:
        # Without the library's sentence: it would repeat the value.
        where = ".".join(str(part) for part in (name, *path))
        raise ConsoleError("BAD_REQUEST", f"{where} does not fit its type.", field=where) from error

    return refuse


def reason_of(wanted: Any) -> Reason | None:
    """The reason that an input carries."""
    given = getattr(wanted, "reason", None)
    return None if given is None else Reason(given.code, given.note, given.ticket_ref)
