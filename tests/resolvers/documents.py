"""Random valid documents over the live schema: aliases, fragments, inline fragments, @skip, nested lists, pages, filters."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from graphql import GraphQLField, GraphQLObjectType, get_named_type, is_leaf_type, is_list_type
from graphql.type import GraphQLNonNull

from schema.build import console

FILTERS = {
    "Case": ("{ priority: { ge: 0 } }", "{ or: [{ state: { in: [OPEN, CLAIMED] } }, { kind: { eq: REFUND } }] }", '{ not: { cityId: { eq: "berlin" } } }'),
    "Report": ('{ category: { beginsWith: "s" } }', "{ automated: { eq: false } }"),
    "Queue": ('{ name: { contains: "" } }', "{ enabled: { eq: true } }"),
    "ApprovalRequest": ("{ state: { eq: PENDING } }", "{ eligible: { eq: false } }"),
    "StaffMember": ("{ state: { eq: ACTIVE } }",),
}  # fmt: skip


@dataclass
class Writer:
    """One document by a seed. ``ids`` are arguments by name that lead to rows."""

    rng: random.Random
    ids: dict[str, list[str]]
    aliases: int = 0
    lists: int = 0
    fragments: list[str] = field(default_factory=list)
    variables: dict[str, bool] = field(default_factory=dict)

    def document(self, roots: list[str]) -> str:
        query = console().core.query_type
        assert query is not None
        chosen = self.rng.sample(roots, self.rng.randint(1, 3))
        fields = [self._field(name, query.fields[name], 1) for name in chosen]
        if self.rng.random() < 0.2:
            fields.insert(self.rng.randint(0, len(fields)), "__typename")
        declared = ", ".join(f"${name}: Boolean!" for name in self.variables)
        head = f"query Q({declared})" if declared else "query Q"
        return f"{head} {{ {' '.join(fields)} }} {' '.join(self.fragments)}"

    def _field(self, name: str, definition: GraphQLField, depth: int) -> str:
        named = get_named_type(definition.type)
        alias = ""
        if self.aliases < 20 and self.rng.random() < 0.2:
            self.aliases += 1
            alias = f"{self.rng.choice(('a', 'x', 'l' * 70))}{self.aliases}: "
        arguments = self._arguments(name, definition, named)
        below = f" {{ {self._selection(named, depth + 1)} }}" if isinstance(named, GraphQLObjectType) else ""
        return f"{alias}{name}{arguments}{self._directive()}{below}"

    def _arguments(self, name: str, definition: GraphQLField, named: Any) -> str:
        given = []
        for argument, of in definition.args.items():
            if argument in self.ids and (isinstance(of.type, GraphQLNonNull) or self.rng.random() < 0.3):
                given.append(f'{argument}: "{self.rng.choice(self.ids[argument])}"')
            elif argument == "limit":
                given.append(f"limit: {self.rng.choice((1, 2, 3, 0 if self.rng.random() < 0.05 else 4))}")
            elif argument == "sortDirection" and self.rng.random() < 0.5:
                given.append(f"sortDirection: {self.rng.choice(('ASC', 'DESC'))}")
            elif argument == "at":
                given.append('at: { from: "2020-01-01T00:00:00Z", to: "2030-01-01T00:00:00Z" }')
            elif argument == "filter" and self.rng.random() < 0.4:
                known = FILTERS.get(get_named_type(named.fields["items"].type).name)
                given.extend([f"filter: {self.rng.choice(known)}"] if known else [])
        return f"({', '.join(given)})" if given else ""

    def _directive(self) -> str:
        if self.rng.random() > 0.06:
            return ""
        variable = self.rng.choice(("yes", "no"))
        self.variables[variable] = variable == "yes"
        return f" @{self.rng.choice(('skip', 'include'))}(if: ${variable})"

    def _selection(self, of: GraphQLObjectType, depth: int) -> str:
        names = [name for name, one in of.fields.items() if self._fits(one, depth)]
        leaves = [name for name in names if is_leaf_type(get_named_type(of.fields[name].type))]
        must = [name for name in names if name == "items"]
        chosen = must + self.rng.sample(names, min(len(names), self.rng.randint(1, 5)))
        written: list[str] = []
        for name in chosen or leaves[:1]:
            one = of.fields[name]
            if isinstance(get_named_type(one.type), GraphQLObjectType) and self._is_list(one):
                self.lists += 1
            written.append(self._field(name, one, depth))
        if self.rng.random() < 0.15:
            written.append("__typename")
        written = list(dict.fromkeys(written)) or ["__typename"]
        if self.rng.random() < 0.12:
            half = len(written) // 2
            written[half:] = [f"... on {of.name} {{ {' '.join(written[half:])} }}"]
        if self.rng.random() < 0.1:
            number = len(self.fragments)
            self.fragments.append(f"fragment F{number} on {of.name} {{ {' '.join(written)} }}")
            written = [f"...F{number}"]
        return " ".join(written)

    def _fits(self, one: GraphQLField, depth: int) -> bool:
        named = get_named_type(one.type)
        if any(
            isinstance(argument.type, GraphQLNonNull) and name not in self.ids for name, argument in one.args.items()
        ):
            return False
        if not isinstance(named, GraphQLObjectType):
            return True
        return depth < 7 and self.lists < 6

    @staticmethod
    def _is_list(one: GraphQLField) -> bool:
        of = one.type.of_type if isinstance(one.type, GraphQLNonNull) else one.type
        return is_list_type(of) or "limit" in one.args
