"""Every policy row that can be asked: what the schema's fields name, the vote rights, and the few that no field names.

Nothing here is a list to keep: a field's ``@policy`` makes its row known, and a row that no field asks is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, TypeAlias

from authz.requirements import FLOOR
from schema.build import console
from schema.console import Console

Row: TypeAlias = tuple[str, str]  # (object, action)

# Asked of a document, not of a field: whoever lacks it has introspection refused (resolvers/http.py).
UNNAMED: Final[frozenset[Row]] = frozenset({("schema", "introspect")})


@dataclass(frozen=True)
class Rows:
    """The known rows. ``acts`` are those that a mutation names, and what else is done rather than read."""

    reads: frozenset[Row]
    acts: frozenset[Row]
    votes: frozenset[Row]  # a vote right is a row of its own: object approval, action = the approval key

    @cached_property
    def every(self) -> frozenset[Row]:
        return self.reads | self.acts | self.votes


def rows_of(contract: Console) -> Rows:
    """The rows that this schema asks."""
    named = {rule.policy for rule in contract.rules.values() if rule.policy is not None}
    acts = {rule.policy for rule in contract.rules.values() if rule.policy is not None and rule.type == "Mutation"}
    votes = frozenset(("approval", key) for key in FLOOR)
    return Rows(frozenset(named - acts) - UNNAMED - votes, frozenset(acts) | UNNAMED, votes)


@cache
def live() -> Rows:
    """The rows of the console's own schema."""
    return rows_of(console())
