"""Who may see which row, as SQL: the policy's lines, their conditions, city, category and amount of the same grant.

The predicate belongs to the entity. Whatever leads to a row (root, nested list, payload, finder) adds it, so no path leads
around it. Everything about the caller is a bind parameter by position of the grant: one statement serves all who hold the
same roles and tiers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    Text,
    all_,
    and_,
    any_,
    column,
    exists,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from authz.conditions import COMPARISONS, ENUMS, INTEGERS, SETS, Condition, Fact, FactRef, Leaf, evaluate, fold
from authz.requirements import FLOOR
from authz.scope import READS_ANY_AMOUNT, TIERS, grant_facts, in_team
from db.tables import approval_vote
from resolvers.binding import Binding, Params, caller_param
from resolvers.source_fields import Source, snake
from resolvers.sources import SOURCES

if TYPE_CHECKING:
    from authz.caller import Caller
    from authz.enforcer import Held, Snapshot
    from schema.console import Console

_UNKNOWN: Final = literal_column("NULL::boolean", Boolean)  # the third truth value: SQL's and the grammar's agree
_TEAM: Final = "TEAM"


def _token(value: str) -> ColumnElement[str]:
    """A token of the grammar: letters, digits and underscores only, so it is safe inside the statement."""
    return literal_column(f"'{value}'", Text)


class Scoping:
    """The row predicates of one caller's roles under one policy. ``static`` are the facts known without a row."""

    def __init__(
        self, console: Console, snapshot: Snapshot, caller: Caller, params: Params, root_field: str | None = None
    ) -> None:
        self._console = console
        self._snapshot = snapshot
        self._grants = caller.grants
        self._params = params
        self.static: dict[str, Fact] = {**caller.facts, **({"rootField": root_field} if root_field else {})}
        self.row_ids: dict[str, str] = {}  # type -> id of the policy line that carries its rows

    @property
    def caller(self) -> ColumnElement[str]:
        return caller_param(self._params)

    @property
    def now(self) -> ColumnElement[Any]:
        return func.console_now()

    def read_row(self, type_name: str) -> tuple[str, str] | None:
        """(object, action) of the type's own rows: the row of its key field."""
        source = SOURCES[type_name]
        for name in self._console.core.type_map[type_name].fields:  # type: ignore[attr-defined] # an object type
            if snake(name) == source.key:
                return self._console.rules[type_name, name].policy
        return None

    def visible(
        self,
        type_name: str,
        row: FromClause,
        by: tuple[str, str] | None = None,
        *,
        version: ColumnElement[int] | None = None,
    ) -> ColumnElement[bool]:
        """The predicate of one row of ``type_name``: false for all when the caller holds no line.

        ``by``: the policy row whose lines carry the scope in place of the type's read row. ``version``: which one of a row
        that has several; by default, and where it is null, the current one.
        """
        source = SOURCES[type_name]
        seen = self._seen(type_name, source, row, by)
        if not source.versioned:
            return seen
        if version is None:
            return and_(seen, row.c.current)
        return and_(seen, or_(row.c.version == version, and_(version.is_(None), row.c.current)))

    def _seen(self, type_name: str, source: Source, row: FromClause, by: tuple[str, str] | None) -> ColumnElement[bool]:
        if type_name == "Viewer":
            return row.c.id == self.caller
        if source.parent:
            return self._within(source.parent, row)
        read = by or self.read_row(type_name)
        if read is None:
            return self._with_target(source, row)
        held = self._holding(read)
        if not held:
            return false()
        self.row_ids.setdefault(type_name, held[0].line.id)
        if source.targets:
            return self._with_target(source, row)
        return self._any_grant(type_name, source, row, held)

    def _holding(self, read: tuple[str, str]) -> tuple[Held, ...]:
        return self._snapshot.holding(self._grants, *read, self.static)

    def _any_grant(self, type_name: str, source: Source, row: FromClause, held: Sequence[Held]) -> ColumnElement[bool]:
        by_grant: dict[int, list[Held]] = {}
        for one in held:
            by_grant.setdefault(self._grants.index(one.grant), []).append(one)
        terms = []
        for index, lines in by_grant.items():
            conditions = or_(*(self.condition(line.line.condition, source, row, index) for line in lines))
            terms.append(and_(*self.scope_keys(type_name, source, row, index), conditions))
        return or_(*terms)

    def _within(self, parent: tuple[str, str], row: FromClause) -> ColumnElement[bool]:
        column, type_name = parent
        source = SOURCES[type_name]
        above = source.table.alias()
        return exists().where(above.c[source.key] == row.c[column], self.visible(type_name, above)).correlate(row)

    def _with_target(self, source: Source, row: FromClause) -> ColumnElement[bool]:
        terms = []
        for type_name in source.targets:
            target = SOURCES[type_name]
            above = target.table.alias()
            found = (
                exists().where(above.c[target.key] == row.c.target_id, self.visible(type_name, above)).correlate(row)
            )
            terms.append(and_(row.c.target_type == _token(type_name), found))
        return or_(*terms) if terms else false()

    # ---------- scope keys ----------
    def scope_keys(self, type_name: str, source: Source, row: FromClause, index: int) -> list[ColumnElement[bool]]:
        """City, category and amount, as ``@scope`` lists them, all of the grant at ``index``."""
        rule = self._console.scopes.get(type_name)
        terms: list[ColumnElement[bool]] = []
        if rule is None:
            return terms
        if "CITY" in rule.by:
            city = self._city(row, snake(rule.city), index)
            terms.append(or_(city, self._owned(source, row)) if source.own_anywhere else city)
        if "CATEGORY" in rule.by:
            terms.append(self._category(row, snake(rule.category), index))
        if "AMOUNT" in rule.by and source.amount and self._grants[index].role not in READS_ANY_AMOUNT:
            amount = row.c[source.amount]
            ceiling = self._static(index)["approveCeilingMinor"]
            terms.append(or_(amount.is_(None), amount <= literal_column(str(ceiling)), self._owned(source, row)))
        return terms

    def _city(self, row: FromClause, column: str, index: int) -> ColumnElement[bool]:
        every = self._params.shared(f"g{index}_every", Boolean(), lambda b: b.caller.grants[index].every_city)
        cities = self._params.shared(f"g{index}_cities", ARRAY(Text), lambda b: list(b.caller.grants[index].city_ids))
        if column in row.c:
            return or_(every, row.c[column] == any_(cities))
        return or_(every, row.c[f"{column}s"].op("&&")(cities))  # Queue.cityIds: visible where they overlap

    def _category(self, row: FromClause, column: str, index: int) -> ColumnElement[bool]:
        held = self._params.shared(
            f"g{index}_categories", ARRAY(Text), lambda b: list(b.caller.grants[index].content_categories)
        )
        if column in row.c:
            return row.c[column] == any_(held)
        return row.c[column.replace("category", "categories")].op("&&")(held)

    # ---------- conditions ----------
    def condition(
        self, condition: Condition | None, source: Source, row: FromClause, index: int
    ) -> ColumnElement[bool]:
        """A condition over one row, for the grant at ``index``. A fact that the row lacks is UNKNOWN, as everywhere."""
        if condition is None:
            return true()
        return fold(
            condition,
            leaf=lambda leaf: self._leaf(leaf, source, row, index),
            every=lambda parts: and_(*parts),
            some=lambda parts: or_(*parts),
            negation=not_,
        )

    def _static(self, index: int) -> dict[str, Fact]:
        return {**self.static, **grant_facts(self._grants[index])}

    def _leaf(self, leaf: Leaf, source: Source, row: FromClause, index: int) -> ColumnElement[bool]:
        known = evaluate(leaf, self._static(index))
        if known is not None:
            return true() if known else false()
        if leaf.fact == "relation":
            return _by_token(leaf, lambda token: self._relation(token, source, row, index))
        if leaf.fact == "alertTo" and source.recipients:
            mine = self.caller == any_(row.c[source.recipients])
            return _by_token(leaf, lambda word: mine if word == "ME" else not_(mine))
        if leaf.fact == "voteRow" and source.vote_key:
            held = self.votes(row, index)
            return _by_token(leaf, lambda word: held if word == "HELD" else not_(held))
        if leaf.fact == "stepsHeld" and "gates" in row.c:
            held = self._holds_steps(row)
            return held if evaluate(leaf, {"stepsHeld": 1}) else not_(held)
        left = self._fact(leaf.fact, source, row, index)
        if left is None:
            return _UNKNOWN
        if leaf.fact in INTEGERS:
            right = (
                self._fact(leaf.value.name, source, row, index)
                if isinstance(leaf.value, FactRef)
                else literal_column(str(leaf.value))
            )
            return _UNKNOWN if right is None else COMPARISONS[leaf.op](left, right)
        return _tokens(leaf, left)

    def _fact(self, name: str, source: Source, row: FromClause, index: int) -> ColumnElement[Any] | None:
        static = self._static(index).get(name)
        if isinstance(static, int):
            return literal_column(str(static), BigInteger)
        if name in source.facts:
            return row.c[source.facts[name]]
        if "facts" in row.c and isinstance(row.c.facts.type, JSONB):  # as they stood when a request was made
            stored = row.c.facts
            if name in SETS:
                return stored.op("->")(_token(name)).cast(JSONB)
            value = stored.op("->>")(_token(name)).cast(Text)
            return value.cast(BigInteger) if name in INTEGERS else value
        return None

    def _owned(self, source: Source, row: FromClause) -> ColumnElement[bool]:
        if source.owned is not None:
            return source.owned(row, self.caller)
        return or_(*(row.c[column] == self.caller for column in source.owners)) if source.owners else false()

    def _relation(self, token: str, source: Source, row: FromClause, index: int) -> ColumnElement[bool]:
        own = self._owned(source, row)
        if token == ("SELF" if source.itself else "OWN"):
            return own
        if token in ("SELF", "OWN"):
            return false()
        team = self.team(source, row, index)
        return and_(not_(own), team) if token == _TEAM else not_(or_(own, team))

    def team(self, source: Source, row: FromClause, index: int) -> ColumnElement[bool]:
        """Whether an owner of the row is of the team that the grant at ``index`` leads."""
        if self._grants[index].tier != "LEAD" or not source.owners:
            return false()

        def members(binding: Binding) -> list[str]:
            lead = binding.caller.grants[index]
            return [person.id for person in binding.snapshot.staff.values() if in_team(lead, person)]

        held = self._params.shared(f"g{index}_team", ARRAY(Text), members)
        return or_(*(func.coalesce(row.c[column] == any_(held), literal_column("false")) for column in source.owners))

    # ---------- figures about pairs of people ----------
    def pairs(self, source: Source, row: FromClause) -> ColumnElement[bool]:
        """Which pairs of ``approvalMetrics`` the caller's lines show; a pair has no city of its own."""
        held = self._holding(("metrics", "read"))
        terms = (self.condition(one.line.condition, source, row, self._grants.index(one.grant)) for one in held)
        return or_(false(), *terms)

    def near(self, source: Source, row: FromClause) -> ColumnElement[bool]:
        """Whether the pair is the caller's own or of a team he leads."""
        return or_(self._owned(source, row), *(self.team(source, row, index) for index in range(len(self._grants))))

    # ---------- votes ----------
    def votes(self, row: FromClause, index: int, *, seated: bool = False) -> ColumnElement[bool]:
        """Whether the grant at ``index`` carries the vote right of this request, its condition included.

        ``seated``: and may fill one of its seats, within city and category.
        """
        source = SOURCES["ApprovalRequest"]
        terms = []
        for key in FLOOR:
            if self._snapshot.policy.denied({grant.role for grant in self._grants}, "approval", key):
                continue
            lines = self._snapshot.holding((self._grants[index],), "approval", key)
            if lines:
                conditions = or_(*(self.condition(one.line.condition, source, row, index) for one in lines))
                terms.append(and_(row.c.action == _token(key), conditions))
        if not terms:
            return false()
        held = or_(*terms)
        if not seated:
            return held
        grant = self._grants[index]
        seats = [f'@ == "{grant.role} {tier}"' for tier in TIERS[: TIERS.index(grant.tier) + 1]]
        path: ColumnElement[Any] = literal_column(f"'$.policies[*].seats[*][*] ? ({' || '.join(seats)})'::jsonpath")
        return and_(held, func.jsonb_path_exists(row.c.seats, path, type_=Boolean), self._within_reach(row, index))

    def _within_reach(self, row: FromClause, index: int) -> ColumnElement[bool]:
        """Whether the grant at ``index`` covers city and category of a request."""
        category = or_(row.c.content_category.is_(None), self._category(row, "content_category", index))
        return and_(self._city(row, "city_id", index), category)

    def _holds_steps(self, row: FromClause) -> ColumnElement[bool]:
        """The fact ``stepsHeld`` of a request: some grant of the caller carries the vote right of each of its gates."""
        columns = column("action", Text), column("facts", JSONB)
        gate = func.jsonb_to_recordset(row.c.gates).table_valued(*columns).render_derived(with_types=True)
        held = or_(
            false(),
            *(and_(self.votes(gate, index), self._within_reach(row, index)) for index in range(len(self._grants))),
        )
        return not_(exists(select(literal_column("1")).select_from(gate).where(not_(held))).correlate(row))

    def eligible(self, row: FromClause) -> ColumnElement[bool]:
        """Whether the caller may vote on a request: what ``resolvers.computed`` says of one, for filters over many."""
        if not self._holding(("approval", "vote")):
            return false()
        mine = approval_vote.alias()
        voted = (
            exists()
            .where(mine.c.request_id == row.c.id, mine.c.voter_id == self.caller, mine.c.withdrawn_at.is_(None))
            .correlate(row)
        )
        return and_(
            row.c.state == _token("PENDING"),
            row.c.approve_by > self.now,
            row.c.requester_id != self.caller,
            or_(row.c.subject_staff_id.is_(None), row.c.subject_staff_id != self.caller),
            self.caller != all_(row.c.contributor_ids),
            not_(
                row.c.gates.bool_op("@>")(
                    func.jsonb_build_array(func.jsonb_build_object(_token("concerned"), self.caller))
                )
            ),
            not_(voted),
            or_(*(self.votes(row, index, seated=True) for index in range(len(self._grants))))
            if self._grants
            else false(),
        )


def _by_token(leaf: Leaf, predicate: Callable[[str], ColumnElement[bool]]) -> ColumnElement[bool]:
    """A fact that is a question of its own: each token is a predicate."""
    tokens = leaf.value if isinstance(leaf.value, tuple) else (str(leaf.value),)
    one_of = or_(*(predicate(token) for token in tokens))
    return not_(one_of) if leaf.op in ("ne", "notIn") else one_of


def _tokens(leaf: Leaf, left: ColumnElement[Any]) -> ColumnElement[bool]:
    tokens = leaf.value if isinstance(leaf.value, tuple) else (str(leaf.value),)
    if leaf.fact in SETS:
        named = literal_column("'[" + ",".join(f'"{token}"' for token in tokens) + "]'::jsonb", JSONB)
        if leaf.op == "subset":
            return left.op("<@")(named)
        return or_(*(left.op("?")(_token(token)) for token in tokens))
    if isinstance(left.type, ARRAY):  # a queue has several categories: the row is for whoever works on one of them
        overlap = left.op("&&")(
            literal_column("ARRAY[" + ",".join(f"'{token}'" for token in tokens) + "]::text[]", ARRAY(Text))
        )
        return not_(overlap) if leaf.op in ("ne", "notIn") else overlap
    if leaf.op in ("lt", "le", "gt", "ge"):
        known = ENUMS[leaf.fact]
        rank = func.array_position(
            literal_column("ARRAY[" + ",".join(f"'{token}'" for token in known) + "]::text[]"), left, type_=Integer
        )
        ordered: ColumnElement[bool] = COMPARISONS[leaf.op](rank, literal_column(str(known.index(tokens[0]) + 1)))
        return ordered
    found = left.in_([_token(token) for token in tokens])
    return not_(found) if leaf.op in ("ne", "notIn") else found
