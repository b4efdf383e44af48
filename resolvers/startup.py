"""What must hold before anything is served: schema, policy, approval policies, commands and sources fit each other.

``countersign schema check`` prints these findings; the application refuses to start while there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from graphql import GraphQLObjectType

from authz.policy import Policy, PolicyError
from authz.rows import UNNAMED
from resolvers import hints, registry, scope_edges
from resolvers.derived import NEEDS
from resolvers.source_fields import Actor, Actors, Computed, Embedded, FieldSpec, Plain, Source, ToOne, snake
from resolvers.sources import SOURCES
from schema.build import console
from schema.console import Console
from schema.directives import ScopeRule
from schema.lint import lint, lint_payloads


def findings(sources: Mapping[str, Source] = SOURCES) -> list[str]:
    """Everything that forbids serving, each naming its field; empty when all is well."""
    contract = console()
    mutation = contract.core.mutation_type
    try:
        policy = Policy.shipped()
    except PolicyError as error:  # refused as a whole: what its lines leave open cannot be said
        ruled = [str(error)]
    else:
        ruled = [*unruled(contract, policy), *_unheld(policy), *scope_edges.crossing(contract, policy, sources)]
    return [
        *ruled,
        *registry.misfits(mutation.fields if mutation else ()),
        *hints.misfits(contract),
        *_without_column(contract, sources),
    ]


def _unheld(policy: Policy) -> Iterator[str]:
    """Rows that no field names and that nobody holds; of the fields' own rows ``unruled`` tells."""
    for object_, action in sorted(policy.rows.votes | UNNAMED):
        if not policy.holders(object_, action):
            yield f"policy.csv: nobody holds the row {object_}:{action}"


def unruled(contract: Console, policy: Policy) -> list[str]:
    """What the schema leaves open: a field without its rules, or one that the policy's rows do not fit."""
    found = lint(contract, lambda object_, action: bool(policy.holders(object_, action)), policy.approvals.keys())
    return found + lint_payloads(
        contract, lambda role, tier, object_, action: bool(policy.lines(role, tier, object_, action))
    )


def _without_column(contract: Console, sources: Mapping[str, Source]) -> Iterator[str]:
    """Where a source names a column that its table lacks, which would fail at the first read, or a scope key has none to hide rows by.

    A field is the column of the same name unless its source says otherwise.
    """
    for type_name, source in sources.items():
        declared = contract.core.get_type(type_name)
        if not isinstance(declared, GraphQLObjectType):
            yield f"{type_name}: a source whose type is not in the schema"
            continue
        specs = {name: source.fields.get(name, Plain(snake(name))) for name in declared.fields}
        for name, column in (*_read(specs), *_told(source)):
            if column not in source.table.c:
                yield f"{type_name}.{name}: no column {column}, and resolvers/sources.py says nothing else"
        for key in _unhidden(contract.scopes.get(type_name), source):
            yield f"{type_name}: scoped by {key}, and resolvers/sources.py has no column to hide its rows by"


def _read(specs: Mapping[str, FieldSpec]) -> Iterator[tuple[str, str]]:
    """(field, column) of what is read for each field."""
    for name, spec in specs.items():
        if isinstance(spec, Embedded):
            yield from ((f"{name}.{inner}", column) for inner, column in _read(spec.fields))
        elif isinstance(spec, Computed):
            yield from ((name, column) for column in spec.needs if column not in NEEDS)
        elif isinstance(spec, ToOne):
            yield name, spec.local
        elif isinstance(spec, Plain | Actor | Actors):
            yield name, spec.column
            if isinstance(spec, Actor) and spec.kind is not None:
                yield name, spec.kind


def _told(source: Source) -> Iterator[tuple[str, str]]:
    """(what for, column) of what a source says of its rows as a whole."""
    orders = (source.order, *source.orders.values())
    named: Mapping[str, Sequence[str | None]] = {
        "key": (source.key,),
        "order": tuple(column for order in orders for column in order.columns),
        "facts": tuple(source.facts.values()),
        "owners": source.owners,
        "recipients": (source.recipients,),
        "vote_key": (source.vote_key,),
        "amount": (source.amount,),
        "parent": source.parent[:1] if source.parent else (),
        "text": source.text,
    }
    return ((name, column) for name, columns in named.items() for column in columns if column is not None)


def _unhidden(rule: ScopeRule | None, source: Source) -> Iterator[str]:
    """The scope keys that no column of the source answers: they would hide nothing, or fail at the first read."""
    if rule is None:
        return
    city, category = snake(rule.city), snake(rule.category)
    columns: Mapping[str, Sequence[str | None]] = {
        "CITY": (city, f"{city}s"),
        "CATEGORY": (category, category.replace("category", "categories")),
        "AMOUNT": (source.amount,),
    }
    for key in columns.keys() & set(rule.by):
        if not any(column in source.table.c for column in columns[key] if column is not None):
            yield key
