"""Non-null edges stay inside one scope: who sees the row at their start sees the one at their end.

Otherwise one row out of reach would turn a non-null field null and take a whole list with it, and the error would tell of
a row that nobody may know of (console domain, section 1, rule 13). Asked at start, of schema, sources, tables and policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from graphql import GraphQLList, GraphQLNonNull, GraphQLObjectType
from sqlalchemy import ForeignKeyConstraint, Table

from authz.policy import Policy
from resolvers.source_fields import Embedded, FieldSpec, Source, ToOne, snake
from schema.console import Console
from schema.lint import POSITIONS

# What no foreign key can hold, each with the reason why it holds all the same. Read before a line is added.
REVIEWED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Viewer.staff": "The caller's own row: every line of staff:read shows a person himself.",
    }
)
_KEYS: Final = ("CITY", "CATEGORY")  # the scope keys that hide a row by a column of it


def crossing(
    contract: Console, policy: Policy, sources: Mapping[str, Source], reviewed: Mapping[str, str] = REVIEWED
) -> Iterator[str]:
    """Each non-null edge that may leave its scope, and each reviewed one that is not an edge any more."""
    met: set[str] = set()
    for name, source in sources.items():
        declared = contract.core.get_type(name)
        if isinstance(declared, GraphQLObjectType):
            for place, edge in _edges(contract, declared, source.fields):
                met.add(place)
                if place not in reviewed and edge.type in sources:
                    yield from _breaches(contract, policy, sources, place, name, edge)
    for place in reviewed.keys() - met:
        yield f"{place}: reviewed in resolvers/scope_edges.py, but it is no non-null edge"


def _edges(
    contract: Console, declared: GraphQLObjectType, fields: Mapping[str, FieldSpec]
) -> Iterator[tuple[str, ToOne]]:
    """The non-null edges to one row of another type, also from inside an object that is made of the row's own columns."""
    for name, field in declared.fields.items():
        spec = fields.get(name)
        if isinstance(spec, ToOne) and isinstance(field.type, GraphQLNonNull):
            yield f"{declared.name}.{name}", spec
        elif isinstance(spec, Embedded):
            inner = contract.core.get_type(spec.type)
            if isinstance(inner, GraphQLObjectType) and not isinstance(field.type, GraphQLList):
                yield from _edges(contract, inner, spec.fields)


def _breaches(
    contract: Console, policy: Policy, sources: Mapping[str, Source], place: str, type_name: str, edge: ToOne
) -> Iterator[str]:
    start, end = sources[type_name], sources[edge.type]
    if start.table is not end.table or edge.local != end.key:  # else the row leads to itself
        for key in _KEYS:
            column = _column(contract, edge.type, key)
            if column is not None and not _held(start, end, edge.local, _column(contract, type_name, key), column):
                yield (
                    f"{place}: non-null, but no foreign key carries {column} together with {edge.local}: "
                    f"a {edge.type} out of reach would null the whole answer"
                )
    yield from _narrower(contract, policy, sources, place, type_name, edge.type)


def _column(contract: Console, type_name: str, key: str) -> str | None:
    """The column that a scope key of the type hides its rows by."""
    rule = contract.scopes.get(type_name)
    if rule is None or key not in rule.by:
        return None
    return snake(rule.city if key == "CITY" else rule.category)


def _held(start: Source, end: Source, local: str, from_column: str | None, to_column: str) -> bool:
    """Whether a foreign key leads from (local, scope column) to (key, scope column). A null scope is seen by those who see all."""
    if not isinstance(start.table, Table) or from_column is None:
        return False
    wanted = {local: end.key, from_column: to_column}
    return any(
        constraint.referred_table is end.table
        and wanted.items() <= {part.parent.name: part.column.name for part in constraint.elements}.items()
        for constraint in start.table.constraints
        if isinstance(constraint, ForeignKeyConstraint)
    )


def _narrower(
    contract: Console, policy: Policy, sources: Mapping[str, Source], place: str, start: str, end: str
) -> Iterator[str]:
    """Who reads the start unconditionally reads the end so too: a condition on the end could hide what the start shows."""
    opened, needed = _row(contract, sources, start), _row(contract, sources, end)
    if needed is None or opened == needed:
        return
    for role, tier in POSITIONS:
        if opened is not None and not policy.lines(role, tier, *opened):
            continue
        lines = policy.lines(role, tier, *needed)
        if lines and all(line.condition is not None for line in lines):
            yield f"{place}: non-null, but {role} {tier} reads {':'.join(needed)} on conditions only"


def _row(contract: Console, sources: Mapping[str, Source], type_name: str) -> tuple[str, str] | None:
    """The policy row of a type's key."""
    declared = contract.core.get_type(type_name)
    for name in declared.fields if isinstance(declared, GraphQLObjectType) else ():
        if snake(name) == sources[type_name].key:
            return contract.rules[type_name, name].policy
    return None
