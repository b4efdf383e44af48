"""What a mutation is: a command whose steps the pipeline calls in the one order that no answer may break.

``locate`` (scope and existence) -> policy row over the target's facts, then ``authorize`` (object right) -> ``validate``
(input) and reason -> idempotency key -> ``lock`` (row locks, fixed order) -> ``repeated`` -> ``check`` (state, version)
-> ``rehearse`` (its steps, undone) -> ``measure`` (sums, under the lock) -> ``propose`` -> approval needed? ``hold`` :
``execute``. An approved request runs the same command again, with the requester as actor; a request that ends otherwise
runs ``abandon``.

Lock order, everywhere: idempotency key, approval request, lease counter of a person, case, subject, pair (requester and
buyer), ledger (which guards its refunds), execution row, audit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from authz.caller import Caller, Grant
from authz.conditions import Facts
from authz.dual_control import Vote
from authz.enforcer import Snapshot
from authz.requirements import Gate
from db.unit_of_work import Row, UnitOfWork
from schema.errors import ConsoleError, VersionConflictError

Input = TypeVar("Input")


@dataclass(frozen=True)
class Reason:
    """Why; ``code`` is of the action's list, ``note`` is free text (never clear in the audit log)."""

    code: str
    note: str | None = None
    ticket_ref: str | None = None


@dataclass(frozen=True)
class Target:
    """The object a command acts on, as found within the caller's scope."""

    type: str  # GraphQL type name: the audit record's object and the event's
    id: str
    row: Row
    city_id: str | None = None
    everywhere: bool = False  # it is of no city at all, so none is asked of the grant
    content_category: str | None = None
    version: int | None = None
    subject_id: str | None = None  # the marketplace subject concerned: tags the audit record
    own_account: bool = False  # the subject is the caller's own account: SELF_SUBJECT
    protected: bool = False  # carries a protected tag: one approval more
    concerned_id: str | None = None  # the staff member whose own account it is about: may not vote
    contributor_ids: tuple[str, ...] = ()  # who wrote what is to be approved, beside the requester: may not vote
    currency: str | None = None  # of amounts among the facts
    owner_id: str | None = None  # the staff member whose it is: the fact ``relation`` of conditions that ask it
    facts: Facts = field(default_factory=dict)
    # Facts that depend on the acting grant: each is asked with its own.
    by_grant: Callable[[Grant], Facts] | None = None
    gates: tuple[Gate, ...] = ()  # steps of it that need approval by themselves; ``rehearse`` finds them
    judged: bool = True  # False: the command itself asks the policy row, for each candidate (claimNextCase's queue)


@dataclass(frozen=True)
class Approval:
    """The approved request that a command is executed for: what it proposed and held is now to be done."""

    request_id: str
    target_version: int | None = None


@dataclass(frozen=True)
class Result:
    """What the payload is built from: ``refs`` name the objects of its fields by id, ``values`` are plain fields.

    Only ids, so a stored result replays with what the caller may read *now*.
    """

    refs: Mapping[str, str | None] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    object: tuple[str, str] | None = None  # what was made, when the record is about that and not about the target
    after: Row | None = None  # the recorded object's row as written
    changed: tuple[str, ...] = ()  # names of the target's fields that changed, for the record
    parents: tuple[str, ...] = ()  # ids of what else it concerns, for the record

    def with_refs(self, **refs: str | None) -> Result:
        return replace(self, refs={**self.refs, **refs})


@dataclass(frozen=True)
class Step:
    """What one step of a deed came to. ``gate``: it would have needed approval by itself."""

    target: Target
    result: Result
    gate: Gate | None = None
    effects: tuple[str, ...] = ()  # ``port.operation`` of each call that it leaves behind


# Finds a row by GraphQL type and id within the caller's read scope, all columns of its table; raises NOT_FOUND.
Finder = Callable[[str, str], Awaitable[Row]]


Counted = tuple[Row, Vote]  # a stored vote, and the vote as it rests on its owner's grants now


class StoredCommands(Protocol):
    """How the approval commands reach the command that a request stores; the pipeline's side of dual control."""

    async def execute(self, act: Act[Any], request: Row, counted: Sequence[Counted]) -> None:
        """Run it in the caller's transaction with the requester's rights. Leaves its own audit record.

        Raises ``ConsoleError`` when rules refuse, anything else when something broke; the caller undoes it then.
        """

    async def refused(self, act: Act[Any], request: Row, counted: Sequence[Counted], code: str) -> None:
        """Leave the audit record of an execution that did not happen."""

    async def abandon(self, act: Act[Any], request: Row, outcome: str) -> None:
        """Undo what the request held; the transaction is the caller's."""


class Steps(Protocol):
    """How a deed runs other mutations as its steps; the pipeline's side of macros."""

    async def run(self, act: Act[Any], field: str, arguments: Mapping[str, Any], *, rehearsing: bool = False) -> Step:
        """Run one mutation as the deed's own caller, in its transaction, with every check but that of the key.

        It leaves a record of its own that names the deed's as its cause. A step that needs approval runs only when
        ``rehearsing`` (the caller undoes it), or when ``act.votes`` fill its own requirement; else ``PLAN_STALE``. Raises
        ``ConsoleError`` with the step's refusal; the caller undoes what went before.
        """
        ...

    def offers(self, field: str) -> bool:
        """Whether this mutation may be a step."""
        ...


@dataclass
class Act(Generic[Input]):
    """One run of a command: the unit of work, who asks (at execution: the requester), and what."""

    uow: UnitOfWork
    caller: Caller
    snapshot: Snapshot
    input: Input
    reason: Reason | None
    find: Finder
    audit_id: str  # of the record this run will leave
    stored: StoredCommands
    steps: Steps
    approval: Approval | None = None
    votes: tuple[Vote, ...] = ()  # those that count, where it is countersigned: by itself or as a step
    system: bool = False  # a timer, a webhook or the outbox: no person

    @property
    def why(self) -> Reason:
        """The reason, of an action that has a reason list."""
        if self.reason is None:
            raise ConsoleError("REASON_REQUIRED", field="reason")
        return self.reason

    @property
    def actor_id(self) -> str | None:
        """The staff member, or None for the system."""
        return None if self.system else self.caller.id

    @property
    def approved_by(self) -> tuple[str, ...]:
        """Who countersigned."""
        return tuple(sorted(vote.voter_id for vote in self.votes))

    async def row(self, sql: str, *args: object) -> Row:
        """The row of a statement; ``NOT_FOUND`` when there is none, or none that the unit's role may see."""
        row = await self.uow.fetchrow(sql, *args)
        if row is None:
            raise ConsoleError("NOT_FOUND")
        return row

    async def update(self, table: str, id_: str, changes: Mapping[str, Any], *, bump: bool = True) -> Row:
        """Write ``changes`` to a row that is locked, as a new version unless ``bump`` is off; the row as it then is.

        Table and column names are the code's own, values are parameters.
        """
        columns = [f"{name} = ${position}" for position, name in enumerate(changes, start=2)]
        if bump:
            columns.append("version = version + 1")
        sql = f"UPDATE {table} SET {', '.join(columns)} WHERE id = $1 RETURNING *"  # noqa: S608  names are ours
        return await self.row(sql, id_, *changes.values())

    def may(
        self,
        object_: str,
        action: str,
        facts: Facts,
        *,
        city_id: str | None,
        category: str | None,
        grants: tuple[Grant, ...] | None = None,
    ) -> bool:
        """Ask a further right, by the same function as enforcement; ``grants`` of another person, else the caller's."""
        asked = self.caller.grants if grants is None else grants
        return self.snapshot.permits(asked, object_, action, facts, city_id=city_id, category=category).allowed

    def standing(self, staff_id: str) -> tuple[Grant, ...]:
        """What another person holds now, whatever his token would say."""
        return self.snapshot.grants_of(staff_id, self.uow.now)

    def holders(self, *roles: str) -> list[str]:
        """Ids of everybody who holds one of these roles now, wherever."""
        return [person for person in self.snapshot.staff if any(grant.role in roles for grant in self.standing(person))]


@dataclass(frozen=True)
class Offer:
    """That a command is among the ``allowedActions`` of its target's type.

    A hint asks the command's own pure steps, so it cannot say anything else than the attempt would hear; ``mildest`` are
    the least arguments that this person could send about the target as it stands.
    """

    on: str  # GraphQL type of the target
    mildest: Callable[[Target, str], Mapping[str, Any]]  # (target, caller's id) -> GraphQL arguments
    measured: Facts = field(default_factory=dict)  # what ``measure`` would find at least


@dataclass(frozen=True)
class NotOffered:
    """That a command is no hint of the types that its arguments or its answer name, and why not."""

    why: str


class Command(ABC, Generic[Input]):
    """Base of all commands; a step not overridden does nothing.

    Subclasses raise ``ConsoleError`` to refuse. They never commit, never call another system, and never read the clock
    but through ``act.uow.now``.
    """

    input_type: ClassVar[type[Any]]
    binds_version: ClassVar[bool] = True  # a request of it is bound to the target's version as ``hold`` left it
    step: ClassVar[bool] = False  # may be a step of a macro
    offered: ClassVar[Offer | NotOffered | None] = None  # said by each whose target has ``allowedActions``

    @abstractmethod
    async def locate(self, act: Act[Input]) -> Target:
        """Find the target in scope, without a lock."""

    def with_input(self, act: Act[Input], target: Target) -> Target:
        """The target with the facts that this input adds; for ``locate`` and ``lock``. Pure."""
        return target

    def authorize(self, act: Act[Input], target: Target) -> None:
        """Refuse for what a policy row cannot say (eligibility of a voter). Pure."""

    def validate(self, act: Act[Input], target: Target) -> None:
        """Refuse bad input. Pure."""

    async def lock(self, act: Act[Input], target: Target) -> Target:
        """Take the row locks in the fixed order and return the target as it stands under them.

        The policy row is asked again of what it returns.
        """
        return target

    async def repeated(self, act: Act[Input], target: Target) -> Result | None:
        """Recognise the same thing said twice where no key says so (a vote, a report): the stored result."""
        return None

    def check(self, act: Act[Input], target: Target) -> None:
        """Refuse by state, then by version, as they stand under the lock. Pure."""

    def reason_list(self, act: Act[Input], target: Target, listed: str) -> str:
        """The list that the reason's code must be of; the schema's, unless the deed's steps decide."""
        return listed

    async def rehearse(self, act: Act[Input], target: Target) -> Target:
        """Try the steps that the deed consists of, undo them, and say in ``gates`` which need approval."""
        return target

    async def measure(self, act: Act[Input], target: Target) -> Facts:
        """Facts that need the lock (sums over other rows); they join the target's for the approval policies."""
        return {}

    async def propose(self, act: Act[Input], target: Target) -> str | None:
        """Do what must stand while a request waits (reserve a sum, write a PROPOSED row). Returns the entity's id."""
        return None

    async def hold(self, act: Act[Input], target: Target, entity_id: str | None, request_id: str) -> Result:
        """Approvals are needed: put entity and target into their waiting states."""
        return Result()

    @abstractmethod
    async def execute(self, act: Act[Input], target: Target, entity_id: str | None) -> Result:
        """Do it. ``act.approval`` is set when what was proposed and held is now approved."""

    async def abandon(self, act: Act[Input], target: Target, entity_id: str | None, outcome: str) -> None:
        """The request ended ``REJECTED``, ``CANCELED``, ``EXPIRED`` or ``INVALIDATED``: undo what was proposed and held.

        ``target`` is located without scope and locked; ``act.input`` is the stored one.
        """

    def summary(self, act: Act[Input], target: Target) -> str:
        """One sentence for approvers: what will happen. No personal data."""
        return type(self).__name__

    def diff(self, act: Act[Input], target: Target) -> Mapping[str, Any]:
        """What will change in the world, before and after, for approvers."""
        return {}


def check_version(row: Row, expected: int | None) -> None:
    """Refuse when somebody has changed the locked row since the caller read it."""
    if row["version"] != expected:
        raise VersionConflictError(row["version"])
