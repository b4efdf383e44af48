"""Macros as a state machine: planned, run, approved and run later, while amounts, rights, the clock and the macro itself move."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resolvers import inner, registry
from services.cases.commands import AddNote
from tests import factories
from tests.machines.conftest import RunMachine
from tests.machines.macros import PARAMETERS, Macros, Shown, steps
from tests.machines.test_approvals import MAY_APPROVE
from tests.machines.world import Said, World, ask_refund, ballot, check_alone, check_requests, check_sums, hire

# Who is hired, in this order: two who run, then four who may vote; the last of them also refunds by himself.
HIRED = (
    ("SUPPORT", "AGENT"),
    ("SUPPORT", "AGENT"),
    ("FINANCE", "AGENT"),
    ("FINANCE", "SENIOR"),
    ("FINANCE", "LEAD"),
    ("SUPPORT", "LEAD"),
)
RUNNERS = st.integers(0, 1)
ALONE = 5_000
AMOUNTS = (0, 700, 2_400, 2_400, 12_000, 48_000)
MEANWHILE = (
    "",
    "APPROVE",
    "REJECT",
    "publish",
    "refund",
    "cancelApproval",
    "retryApproval",
    "lose 0",
    "lose 3",
    "lose 4",
    "late",
    "late",
)
gated = st.sampled_from((12_000, 25_000, 48_000))
orders = st.integers(0, 1)
rarely = st.sampled_from((False, False, False, True))


class Brittle(AddNote):
    """A step behind the refund that breaks as a bug would; ``after`` so many more times that it does not."""

    after: int | None = None

    async def execute(self, *given: Any) -> Any:
        if self.after is not None:
            if self.after == 0:
                raise RuntimeError("a bug")
            self.after -= 1
        return await super().execute(*given)


BRITTLE = Brittle()


@contextmanager
def brittle() -> Generator[None]:
    kept = inner.COMMANDS
    inner.COMMANDS = {**registry.COMMANDS, "addNote": BRITTLE}
    try:
        yield
    finally:
        inner.COMMANDS = kept


class MacroRuns(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        BRITTLE.after = None
        self.lost: set[int] = set()
        self.moving: set[int] = set()  # whose right changed at the same time as somebody did something
        self.in_force: set[int] = set()  # versions that were, at some time of the present step

    @initialize()
    def open_desk(self) -> None:
        self.city = f"macro{next(self.world.cities)}"
        self.world.run(self._open())

    async def _open(self) -> None:
        conn = self.world.bench.conn
        # A macro is of no city: whoever puts it into force holds every one.
        self.author, self.publisher = [
            await factories.staff(conn, role, "LEAD", cities=("*",)) for role in ("SUPPORT", "FINANCE")
        ]
        self.people = await hire(self.world, self.city, *HIRED)
        macro = await factories.macro(conn, self.author, parameters=PARAMETERS, steps=steps(1))
        may = {person: MAY_APPROVE.get(rank, 0) for person, rank in zip(self.people, HIRED, strict=True)}
        self.macros = Macros(self.world, self.city, macro, may)
        self.orders = [
            await factories.ledger(conn, city_id=self.city, captured_minor=captured, buyer_id=f"b{self.city}{captured}")
            for captured in (20_000, 400_000)
        ]
        self.queue = await factories.queue(conn, kind="REFUND", city_ids=(self.city,))
        self.case = await factories.case(conn, kind="REFUND", city_id=self.city, queue_id=self.queue)
        self.in_force = await self._published()

    @property
    def who_is(self) -> dict[str, int]:
        return {person: place for place, person in enumerate(self.people)}

    async def _published(self) -> set[int]:
        sql = "SELECT version FROM macro WHERE id = $1 AND state = 'PUBLISHED'"
        return {row["version"] for row in await self.world.look(sql, self.macros.macro)}

    # ---------- plans and runs ----------
    async def _preview(self, who: int, order: int, amount: int, *, resolve: bool, old: bool) -> Shown | None:
        """A plan for a new case, or for the last one whatever has become of it."""
        if not old:
            self.case = await factories.case(
                self.world.bench.conn, kind="REFUND", city_id=self.city, queue_id=self.queue
            )
        return await self.macros.preview(
            self.people[who], self.case, order=self.orders[order], amount=amount, resolve=resolve
        )

    @rule(who=RUNNERS, order=orders, amount=st.sampled_from(AMOUNTS), resolve=st.booleans(), old=st.booleans())
    def preview(self, who: int, order: int, amount: int, resolve: bool, old: bool) -> None:
        self.world.run(self._preview(who, order, amount, resolve=resolve, old=old))

    @rule(
        who=RUNNERS,
        order=orders,
        amount=st.sampled_from(AMOUNTS),
        resolve=st.booleans(),
        meanwhile=st.sampled_from(("", "", "run", "refund", "publish", "time")),
        racing=st.booleans(),
    )
    def preview_and_run(self, who: int, order: int, amount: int, resolve: bool, meanwhile: str, racing: bool) -> None:
        """What was shown is what is done, or it is stale: whatever comes in between, or at the same time (``racing``)."""
        shown = self.world.run(self._preview(who, order, amount, resolve=resolve, old=False))
        if shown is None:
            return
        if meanwhile == "time":
            self.world.tick(600 + racing)
            said: Said = self.world.run(self.macros.run(shown))
            assert said.ok <= (not racing), "a plan of more than ten minutes ago was good for a run"
            return
        other = {
            "run": lambda: self.macros.run(shown),
            "refund": lambda: self._refund(self.orders[order], 2_400),
            "publish": self._publish,
        }.get(meanwhile)
        if other is None:
            said = self.world.run(self.macros.run(shown))
            assert said.ok or not shown.plan["executable"] or said.outcome == "NO_ELIGIBLE_APPROVERS", (said, shown)
        elif racing:
            said, told = self.world.at_once(self.macros.run(shown), other())
            if meanwhile == "run" and (amount or resolve):
                assert not (said.ok and told.ok), "one plan was run twice"
        else:
            told = self.world.run(other())
            said = self.world.run(self.macros.run(shown))
            if amount or meanwhile == "publish":  # a note alone is bound to nothing that either of the others changes
                assert not (said.ok and told.ok), "a plan was good for a run though it was another by then"

    @rule(which=st.sampled_from((0, 1, 2, 3)))
    def run_an_old_plan(self, which: int) -> None:
        if self.macros.plans:  # no precondition: which rules may come next must not hang on who won a race
            self.world.run(self.macros.run(self.macros.plans[-1 - which % len(self.macros.plans)]))

    async def _refund(self, order: str, amount: int) -> Said:
        """Of a colleague, who wants the same money."""
        given = ask_refund(order, amount, f"{self.city}rival{self.world.attempts}")
        return await self.world.ask(self.people[5], "requestRefund", input=given)

    @rule(order=orders, amount=st.sampled_from((700, 2_400)))
    def another_refunds(self, order: int, amount: int) -> None:
        self.world.run(self._refund(self.orders[order], amount))

    # ---------- the macro itself ----------
    async def _draft(self) -> str:
        """The next version, written; the request that wants its countersignature."""
        newest = await self.world.bench.conn.fetchval("SELECT max(version) FROM macro WHERE id = $1", self.macros.macro)
        reason = {"code": "PLANNED_RELEASE"}
        draft = {
            "id": self.macros.macro,
            "name": "Refund",
            "description": "",
            "allowedRoles": ["SUPPORT"],
            "caseKinds": ["REFUND"],
            "parameters": PARAMETERS,
            "steps": steps(newest + 1),
            "expectedVersion": newest,
            "reason": reason,
        }
        assert (await self.world.ask(self.author, "saveMacro", input=draft)).ok
        given = {"macroId": self.macros.macro, "expectedVersion": newest + 1, "reason": reason}
        said = await self.world.ask(self.author, "publishMacro", input=given)
        assert said.done is not None
        return str(said.done.refs["approvalRequest"])

    async def _publish(self) -> Said:
        return await ballot(self.world, self.publisher, await self._draft(), "APPROVE")

    @rule(retired=rarely)
    def another_version(self, retired: bool) -> None:
        """Comes into force; ``retired``: or none is any more."""
        if retired and self.in_force:
            (version,) = self.in_force
            given = {"macroId": self.macros.macro, "expectedVersion": version, "reason": {"code": "PLANNED_RELEASE"}}
            assert self.world.run(self.world.ask(self.author, "retireMacro", input=given)).ok
        else:
            assert self.world.run(self._publish()).ok

    # ---------- votes ----------
    async def _waiting(self, amount: int, *, old: bool = False) -> str:
        """The newest request if it waits, or is ``old``; else that of a new run."""
        requests = self.macros.requests
        if not requests or not (old or await self._waits(requests[-1])):
            shown = await self._preview(0, 1, amount, resolve=len(requests) % 2 == 0, old=False)
            if shown is not None and shown.plan["executable"]:
                await self.macros.run(shown)
        return requests[-1] if requests else ""

    async def _waits(self, request_id: str) -> bool:
        return bool((await self.world.bench.row("approval_request", request_id))["state"] == "PENDING")

    @rule(amount=gated, old=rarely, who=st.sampled_from((2, 3, 4, 5, 0)), vote=st.sampled_from(("APPROVE", "REJECT")))
    def vote(self, amount: int, old: bool, who: int, vote: str) -> None:
        request = self.world.run(self._waiting(amount, old=old))
        if request:
            self.world.run(ballot(self.world, self.people[who], request, vote))

    @rule(amount=gated, who=st.sampled_from((3, 4)), meanwhile=st.sampled_from(MEANWHILE), racing=st.booleans())
    def approve(self, amount: int, who: int, meanwhile: str, racing: bool) -> None:
        """Something else happens to the same request, its macro, its requester or its money: just before, or at the same time."""
        request = self.world.run(self._waiting(amount))
        if not request:
            return
        voting = ballot(self.world, self.people[who], request, "APPROVE")
        other = self._meanwhile(meanwhile, request, who)
        if other is None:
            self.world.run(voting)
        elif racing:
            self.world.at_once(voting, other)
        else:
            self.world.run(other)
            self.moving.clear()
            self.in_force = self.world.run(self._published())
            self.world.run(voting)

    def _meanwhile(self, what: str, request: str, who: int) -> Coroutine[Any, Any, Any] | None:
        if what in ("APPROVE", "REJECT"):
            return ballot(self.world, self.people[7 - who], request, what)
        if what == "publish":
            return self._publish()
        if what == "refund":
            return self._refund(self.orders[1], 2_400)
        if what in ("cancelApproval", "retryApproval"):
            return self._act(request, what)
        if what.startswith("lose"):
            loser = int(what.removeprefix("lose "))
            self.moving = set() if loser in self.lost else {loser}
            return self._lose(loser)
        if what == "late":
            self.world.tick(86_400)
        return None

    @rule(who=st.sampled_from((5, 5, 2, 3)), racing=st.booleans())
    def approve_two(self, who: int, racing: bool) -> None:
        """Two runs that wait for one person, who may approve each of them and perhaps not both."""
        both = []
        for _ in range(2):
            shown = self.world.run(self._preview(0, 1, 12_000, resolve=True, old=False))
            before = len(self.macros.requests)
            if shown is not None and shown.plan["executable"]:
                self.world.run(self.macros.run(shown))
            both += self.macros.requests[before:]
        votes = [ballot(self.world, self.people[who], request, "APPROVE") for request in both]
        if racing:
            self.world.at_once(*votes)
        else:
            for voting in votes:
                self.world.run(voting)

    async def _act(self, request_id: str, name: str) -> None:
        row = await self.world.bench.row("approval_request", request_id)
        given = {"requestId": request_id, "expectedVersion": row["version"], "reason": {"code": "SHIFT_END"}}
        await self.world.ask(row["requester_id"], name, input=given)

    @rule(amount=gated, cancel=st.booleans())
    def wait(self, amount: int, cancel: bool) -> None:
        """A run waits; ``cancel``: until its requester calls it off."""
        request = self.world.run(self._waiting(amount))
        if request and cancel:
            self.world.run(self._act(request, "cancelApproval"))

    @rule(amount=gated, who=st.sampled_from((3, 4)), after=st.sampled_from((0, 1)), mended=st.booleans())
    def approve_what_breaks(self, amount: int, who: int, after: int, mended: bool) -> None:
        """A bug in a step, when it is tried or when it is done: nothing of the steps before it stays."""
        request = self.world.run(self._waiting(amount))
        if not request:
            return
        BRITTLE.after = after
        self.world.run(ballot(self.world, self.people[who], request, "APPROVE"))
        BRITTLE.after = None
        if mended:
            self.world.run(self._act(request, "retryApproval"))

    # ---------- rights, the clock, the kernel ----------
    async def _lose(self, who: int) -> None:
        await self.world.bench.conn.execute("DELETE FROM staff_grant WHERE staff_id = $1", self.people[who])
        self.lost.add(who)

    async def _regain(self) -> None:
        for who in self.lost:
            role, tier = HIRED[who]
            await factories.grant(self.world.bench.conn, self.people[who], role, tier, cities=(self.city,))
        self.lost.clear()

    @rule(who=st.sampled_from((0, 2, 3, 4)))
    def lose_or_regain(self, who: int) -> None:
        """Everybody gets his right back before somebody else loses one, so there is mostly somebody to ask."""
        self.world.run(self._regain() if self.lost else self._lose(who))

    @rule(seconds=st.sampled_from((300, 301, 601, 601, 3_700, 280_000)), timers=st.booleans())
    def time_passes(self, seconds: int, timers: bool) -> None:
        self.world.tick(seconds)
        if timers:
            self.world.timers()

    @rule(crash=st.booleans())
    def deliver(self, crash: bool) -> None:
        self.world.run(self.world.seal())
        self.world.run(self.world.deliver(crash=crash))

    # ---------- what must hold ----------
    @invariant()
    def holds(self) -> None:
        if hasattr(self, "case"):
            self.world.run(self._holds())
        self.moving = set()

    async def _holds(self) -> None:
        now = await self._published()
        assert len(now) <= 1, "two versions in force"
        await check_sums(self.world, self.city)
        await check_requests(self.world, self.city)
        await check_alone(self.world, self.city, {**dict.fromkeys(self.people, ALONE), self.people[5]: 20_000})
        able = set(range(len(HIRED))) - (self.lost - self.moving)
        for row in await self.macros.check():  # executed in this very step
            assert row["macro_version"] in self.in_force | now, "a version that was not in force ran"
            assert self.who_is[row["requester_id"]] in able, "a requester without the right"
            if row["approval_request_id"] is None:
                continue
            voters = {self.who_is[person] for person in row["quorum"]}
            assert voters <= able, ("a voter without the right", voters, able)
            assert all(MAY_APPROVE.get(HIRED[who], 0) >= row["window_sum_minor"] for who in voters), row
        self.in_force = now

    def teardown(self) -> None:
        BRITTLE.after = None
        # Leads of every city would be asked to vote in the next example's.
        if hasattr(self, "author"):
            gone = [self.author, self.publisher]
            self.world.run(self.world.bench.conn.execute("DELETE FROM staff_grant WHERE staff_id = ANY ($1)", gone))
        self.world.run(self.world.check_log())


@pytest.mark.contract("PT-1", "DC-7")
def test_a_macro_does_all_of_its_steps_once_or_none_whatever_happens(run_machine: RunMachine) -> None:
    with brittle():
        run_machine(MacroRuns, 10, 20)
