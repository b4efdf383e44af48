"""What must hold before anything is served: schema, policy, approval policies, commands and sources fit each other.

``countersign schema check`` prints these findings; the application refuses to start while there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphql import GraphQLObjectType

from authz.policy import Policy
from resolvers import registry
from resolvers.source_fields import Plain, Source, snake
from resolvers.sources import SOURCES
from schema.build import console
from schema.console import Console
from schema.lint import lint, lint_payloads


def findings(sources: Mapping[str, Source] = SOURCES) -> list[str]:
    """Everything that forbids serving, each naming its field; empty when all is well."""
    contract = console()
    mutation = contract.core.mutation_type
    return [
        *unruled(contract, Policy.shipped()),
        *registry.misfits(mutation.fields if mutation else ()),
        *_without_column(contract, sources),
    ]


def unruled(contract: Console, policy: Policy) -> list[str]:
    """What the schema leaves open: a field without its rules, or one that the policy's rows do not fit."""
    found = lint(contract, lambda object_, action: bool(policy.holders(object_, action)), policy.approvals.keys())
    return found + lint_payloads(
        contract, lambda role, tier, object_, action: bool(policy.lines(role, tier, object_, action))
    )


def _without_column(contract: Console, sources: Mapping[str, Source]) -> Iterator[str]:
    """A field is the column of the same name unless its source says otherwise; what is neither would fail at the first read."""
    for type_name, source in sources.items():
        declared = contract.core.get_type(type_name)
        if not isinstance(declared, GraphQLObjectType):
            yield f"{type_name}: a source whose type is not in the schema"
            continue
        for name in declared.fields:
            spec = source.fields.get(name, Plain(snake(name)))
            if isinstance(spec, Plain) and spec.column not in source.table.c:
                yield f"{type_name}.{name}: no column {spec.column}, and resolvers/sources.py says nothing else"
