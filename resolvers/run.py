"""One execution of a plan: what both finishes ask beside the rows, and the pages that they make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resolvers.labels import KEY
from resolvers.paging import page_limit
from resolvers.tokens import Cursor, Place, Tokens
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from resolvers.binding import Binding
    from resolvers.read_plan import Plan, Site


@dataclass(frozen=True)
class Run:
    """Plan, values, and who seals what."""

    plan: Plan
    binding: Binding
    tokens: Tokens
    digests: Mapping[int, str]
    request_id: str = "-"

    def place(self, site: Site) -> Place:
        """What a token of this list is bound to."""
        return Place(self.binding.caller.id, site.place, self.digests.get(site.index, ""))

    def page(self, site: Site, rows: list[dict[str, Any]], parent: str | None) -> Page:
        """A nested list's page; ``rows`` has one more than asked for when there is another page. Raises ``INVALID_NEXT_TOKEN``."""
        cursor = self.binding.cursors.get(site.index)
        # The statement cannot know which parent a token is for; a page after another parent's cursor is thrown away.
        if cursor is not None and cursor.parent != parent:
            raise ConsoleError("INVALID_NEXT_TOKEN")
        limit = page_limit(self.binding.arguments[site.index])
        last = rows[limit - 1][KEY] if len(rows) > limit else None
        return Page(rows[:limit], site, last, parent, inner=self.plan.inner.get(site.index, {}))


@dataclass(frozen=True)
class Page:
    """The rows that are shown, and where the next page begins."""

    rows: list[dict[str, Any]]
    site: Site
    last: Sequence[Any] | None  # sort key of the last row, if another page follows
    parent: str | None = None
    # By response key of ``items``: of a nested page's second one the column with its row, of a root's page its rows.
    inner: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def items(self, key: str) -> list[Any]:
        """The rows as one response key of ``items`` selects them."""
        if key in self.lists:
            return self.lists[key]
        column = self.inner.get(key)
        return self.rows if column is None else [row[column] for row in self.rows]

    def token(self, run: Run) -> str | None:
        """A token for the page after this one, or None."""
        if self.last is None:
            return None
        return run.tokens.seal(Cursor(tuple(self.last), self.parent), run.place(self.site))


class Document(dict[str, Any]):
    """An object keyed by GraphQL field names, made in Python."""


def document(value: Any) -> Any:
    """Objects made in Python, lists of them too, marked as such."""
    if isinstance(value, dict):
        return Document(value)
    if isinstance(value, list | tuple):
        return [document(item) for item in value]
    return value
