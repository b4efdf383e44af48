"""What a schema must satisfy before it is served. Every finding names the field; no finding means it may start.

The rules of access and the rows of the policy live apart, so both are asked here together: a field without a row, a row
that nobody holds, a path around every row, a right to write without the right to read the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from graphql import (
    GraphQLAbstractType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLType,
    get_named_type,
    is_abstract_type,
)

from schema.common import Role, Tier
from schema.console import Console
from schema.directives import FieldRules

PLAIN_ARGUMENTS: Final = 5  # AppSync matches at most five arguments of a subscription
# SERVICE is no Role: no member of staff can be granted it.
POSITIONS: Final = (*((role.value, tier.value) for role in Role for tier in Tier), ("SERVICE", Tier.AGENT.value))


def lint(console: Console, holds_policy_row: Callable[[str, str], bool], approval_keys: Iterable[str]) -> list[str]:
    """Say everything that forbids serving this schema.

    ``holds_policy_row(object, action)``: does anyone at all (SERVICE included) hold the row? ``approval_keys``: the actions
    that the approval policies know.
    """
    keys = frozenset(approval_keys)
    findings: list[str] = []
    for rule in console.rules.values():
        findings += _access(rule, holds_policy_row)
    findings += _ungated(console)
    for kind, root in console.roots():
        for name, field in root.fields.items():
            rule = console.rules[root.name, name]
            findings += _root(kind, rule)
            if kind == "mutation":
                findings += _mutation(console, rule, field, keys)
            elif kind == "subscription":
                findings += _subscription(console, rule, field)
    return findings


def _access(rule: FieldRules, holds_policy_row: Callable[[str, str], bool]) -> Iterator[str]:
    kinds = sum((rule.policy is not None, rule.inherit, rule.own))
    if kinds == 0:
        yield f"{rule.name}: no @policy, @inherit or @self, so nothing says who may read it"
    elif kinds > 1:
        yield f"{rule.name}: more than one of @policy, @inherit and @self"
    if rule.policy is not None and not holds_policy_row(*rule.policy):
        yield f"{rule.name}: nobody holds the policy row {':'.join(rule.policy)}"


def _concrete(core: GraphQLSchema, kind: GraphQLType) -> Iterator[GraphQLObjectType]:
    named = get_named_type(kind)
    if isinstance(named, GraphQLObjectType):
        yield named
    elif is_abstract_type(named):
        abstract: GraphQLAbstractType = named
        yield from core.get_possible_types(abstract)


def _ungated(console: Console) -> Iterator[str]:
    """Walk from the roots and never through a field with a row: no ``@inherit`` may be met on the way."""
    waiting = [root for _, root in console.roots()]
    came_by = {root.name: root.name for root in waiting}
    while waiting:
        of = waiting.pop()
        for name, field in of.fields.items():
            rule = console.rules[of.name, name]
            if rule.policy is not None or rule.own:
                continue
            if rule.inherit:
                yield f"{rule.name}: @inherit, but the path {came_by[of.name]}.{name} passes no @policy"
            for reached in _concrete(console.core, field.type):
                if reached.name not in came_by:
                    came_by[reached.name] = f"{came_by[of.name]}.{name}"
                    waiting.append(reached)


def _root(kind: str, rule: FieldRules) -> Iterator[str]:
    if rule.audited is None:
        yield f"{rule.name}: no @audited, so its use leaves no record"
    elif kind != "mutation" and not rule.audited[1]:
        yield f"{rule.name}: a {kind} only reads, but @audited says read: false"


def _takes(field: GraphQLField, key: str) -> bool:
    """Does the field take ``key``, by itself or inside its input?"""
    inputs = (get_named_type(argument.type) for argument in field.args.values())
    return key in field.args or any(isinstance(i, GraphQLInputObjectType) and key in i.fields for i in inputs)


def _mutation(console: Console, rule: FieldRules, field: GraphQLField, approval_keys: frozenset[str]) -> Iterator[str]:
    if rule.dual is not None:
        if rule.dual[0] not in approval_keys:
            yield f"{rule.name}: no approval policy for {rule.dual[0]}"
        if rule.reason is None:
            yield f"{rule.name}: @dualControl without @reason: who votes must know why"
    for key, marked, directive in (
        ("reason", rule.reason is not None, "@reason"),
        ("idempotencyKey", rule.idempotent, "@idempotent"),
    ):
        if marked and not _takes(field, key):
            yield f"{rule.name}: {directive}, but it takes no {key}"
        if not marked and _takes(field, key):
            yield f"{rule.name}: takes {key}, but has no {directive}"
    answers = list(_concrete(console.core, field.type))
    if rule.field not in console.published and not (answers and all("audit" in answer.fields for answer in answers)):
        yield f"{rule.name}: its payload has no audit, so the caller gets no receipt"


def _subscription(console: Console, rule: FieldRules, field: GraphQLField) -> Iterator[str]:
    if isinstance(field.type, GraphQLNonNull):
        yield f"{rule.name}: a subscription must be nullable"
    if not rule.subscribes:
        yield f"{rule.name}: no @aws_subscribe, so behind AppSync it hears nothing"
    mutations = console.core.mutation_type.fields if console.core.mutation_type else {}
    event = get_named_type(field.type)
    for name in rule.subscribes:
        if name not in mutations:
            yield f"{rule.name}: @aws_subscribe names the mutation {name}, which does not exist"
        elif get_named_type(mutations[name].type) is not event:
            yield f"{rule.name}: {name} returns another type than {event.name}"
    plain = [name for name in field.args if name != "filter"]
    if len(plain) > PLAIN_ARGUMENTS:
        yield f"{rule.name}: more than {PLAIN_ARGUMENTS} plain arguments"
    for name in plain:
        if not isinstance(event, GraphQLObjectType) or name not in event.fields:
            yield f"{rule.name}: the argument {name} is no field of {event.name}, so it would never match"


def lint_payloads(console: Console, holds: Callable[[str, str, str, str], bool]) -> list[str]:
    """Say who may ask for what he may not read.

    Whoever holds the row of a root field holds the rows of everything it answers through non-null edges, and the same
    from each type he may read to its non-null fields: one denied non-null field would take the whole answer with it.
    ``holds(role, tier, object, action)``; a finding names the least tier.
    """
    starts: list[tuple[str, set[tuple[str, str]], list[GraphQLObjectType]]] = []
    roots = {root.name for _, root in console.roots()}
    for _, root in console.roots():
        for name, field in root.fields.items():
            row = console.rules[root.name, name].policy
            starts.append((f"{root.name}.{name}", {row} if row else set(), list(_concrete(console.core, field.type))))
    starts += [(of.name, set(_rows(console, of)), [of]) for of in console.objects() if of.name not in roots]
    findings: dict[tuple[str, str, tuple[str, str]], str] = {}
    for origin, opened_by, answers in starts:
        demands = _demands(console, answers)
        for role, tier in POSITIONS:
            if not any(holds(role, tier, *row) for row in opened_by):
                continue
            held = " or ".join(sorted(":".join(row) for row in opened_by))
            for row, field_name in demands.items():
                if (origin, role, row) not in findings and not holds(role, tier, *row):
                    missing = f"{role} {tier} holds {held} but not {':'.join(row)}, which {field_name} needs"
                    findings[origin, role, row] = f"{origin}: {missing}"
    return list(findings.values())


def _rows(console: Console, of: GraphQLObjectType) -> Iterator[tuple[str, str]]:
    """The rows of a type's non-null fields."""
    for name, field in of.fields.items():
        row = console.rules[of.name, name].policy
        if row is not None and isinstance(field.type, GraphQLNonNull):
            yield row


def _certain(kind: GraphQLType) -> bool:
    """Is there no nullable place on the way to the innermost type?"""
    while isinstance(kind, GraphQLNonNull):
        kind = kind.of_type
        if not isinstance(kind, GraphQLList):
            return True
        kind = kind.of_type
    return False


def _demands(console: Console, answers: list[GraphQLObjectType]) -> dict[tuple[str, str], str]:
    """Each row that an answer needs, with the first field that needs it."""
    demands: dict[tuple[str, str], str] = {}
    waiting, seen = list(answers), {answer.name for answer in answers}
    while waiting:
        of = waiting.pop()
        for name, field in of.fields.items():
            if isinstance(field.type, GraphQLNonNull) and (row := console.rules[of.name, name].policy) is not None:
                demands.setdefault(row, f"{of.name}.{name}")
            if _certain(field.type):
                for reached in _concrete(console.core, field.type):
                    if reached.name not in seen:
                        seen.add(reached.name)
                        waiting.append(reached)
    return demands
