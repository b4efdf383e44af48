"""The policy cache as a state machine: whatever a process still remembers, nobody is shown what was written after he lost the right."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schema.errors import ConsoleError
from tests import factories
from tests.conftest import Database
from tests.machines.conftest import RunMachine
from tests.machines.workers import Process, process
from tests.machines.world import World, opened

PEOPLE = 2
MOST_SECRETS = 40
who = st.integers(0, PEOPLE - 1)
worker = st.integers(0, 1)
place = st.integers(0, 1)
places = st.sets(place, max_size=2)

_NARROWED = "UPDATE staff_grant SET city_ids = $2 WHERE staff_id = $1"
_STATE = "UPDATE staff SET state = $2 WHERE id = $1"


class PolicyCache(RuleBasedStateMachine):
    """The model is the present: where each person has a right, who is locked, and which secrets lie where."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @initialize()
    def open_office(self) -> None:
        self.cities = [f"cache{next(self.world.cities)}" for _ in range(2)]
        self.secrets: list[set[str]] = [set(), set()]
        self.held: list[set[int]] = [{0, 1}, {0}]
        self.locked: set[int] = set()
        self.processes = [process(self.world), process(self.world)]
        self.world.run(self._hire())

    async def _hire(self) -> None:
        conn = self.world.bench.conn
        self.people = [await factories.staff(conn, "TRUST_SAFETY", cities=self._named(held)) for held in self.held]
        self.queue = await factories.queue(conn, city_ids=tuple(self.cities))

    def _named(self, held: set[int]) -> tuple[str, ...]:
        return tuple(self.cities[one] for one in sorted(held))

    def _rightful(self, person: int) -> frozenset[str]:
        """What a person may see at this moment."""
        if person in self.locked:
            return frozenset()
        return frozenset(secret for one in self.held[person] for secret in self.secrets[one])

    # ---------- rights ----------
    async def _move(self, person: int, held: set[int]) -> None:
        await self.world.bench.conn.execute(_NARROWED, self.people[person], list(self._named(held)))
        self.held[person] = held

    @rule(person=who, held=places)
    def move(self, person: int, held: set[int]) -> None:
        self.world.run(self._move(person, set(held)))

    @rule(person=who)
    def lock(self, person: int) -> None:
        state = "ACTIVE" if person in self.locked else "LOCKED"
        self.world.run(self.world.bench.conn.execute(_STATE, self.people[person], state))
        self.locked ^= {person}
        if state == "ACTIVE":
            # Refused at the door, where no statement runs: a right that comes back may take its five seconds (AZ-8).
            for one in self.processes:
                one.look()

    @rule(of=worker)
    def look(self, of: int) -> None:
        self.processes[of].look()

    # ---------- what is written ----------
    async def _write(self, where: int) -> str:
        conn = self.world.bench.conn
        secret = await factories.case(conn, city_id=self.cities[where], queue_id=self.queue)
        self.secrets[where].add(secret)
        return secret

    @rule(where=place)
    def write(self, where: int) -> None:
        if len(self.secrets[0]) + len(self.secrets[1]) < MOST_SECRETS:
            self.world.run(self._write(where))

    # ---------- what is shown ----------
    @rule(person=who, of=worker)
    def read(self, person: int, of: int) -> None:
        assert self.world.run(self.processes[of].listed(self.people[person])) == self._rightful(person)

    @rule(person=who, of=worker, where=place)
    def take_away_and_write_while_somebody_reads(self, person: int, of: int, where: int) -> None:
        """Old things may still be shown to a read that began before; what came after the revocation never is."""
        before = self._rightful(person)
        self.world.run(self._moved_and_read(person, of, where, before))

    async def _moved_and_read(self, person: int, of: int, where: int, before: frozenset[str]) -> None:
        async def take_away_and_write() -> None:
            await self._move(person, self.held[person] - {where})
            await self._write(where)

        reading = self.processes[of].listed(self.people[person])
        shown, _ = await asyncio.gather(reading, take_away_and_write())
        assert shown in (before, self._rightful(person)), "one of the two moments, and no mixture"

    @rule(person=who, of=worker, where=place)
    def act(self, person: int, of: int, where: int) -> None:
        """A mutation goes by the same present."""
        if self.secrets[where]:
            self.world.run(self._act(person, self.processes[of], min(self.secrets[where])))

    async def _act(self, person: int, of: Process, secret: str) -> None:
        given = {"caseId": secret, "body": "Seen.", "internal": True, "idempotencyKey": f"k{factories.number()}"}
        done = False
        with contextlib.suppress(ConsoleError, KeyError):
            await of.attempt(self.people[person], "addNote", input=given)
            done = True
        assert done is (secret in self._rightful(person))

    @invariant()
    def nobody_sees_more_than_he_may(self) -> None:
        if hasattr(self, "people"):
            for person, name in enumerate(self.people):
                shown = self.world.run(self.processes[person % 2].listed(name))
                assert shown == self._rightful(person)


@pytest.mark.contract("PT-1", "AZ-7")
def test_no_process_shows_by_an_old_right_what_is_new(run_machine: RunMachine) -> None:
    run_machine(PolicyCache, 10, 18)


@pytest.mark.contract("AZ-7")
async def test_the_new_enemy_sees_nothing(database: Database, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Readers that never stop, in two processes; a right is taken away, then something is written: nobody is shown it."""
    rounds = 1_000 if request.config.getoption("--long") else 10
    async with opened(database, tmp_path) as world:
        conn = world.bench.conn
        enemy = await factories.staff(conn, "TRUST_SAFETY")
        queue = await factories.queue(conn)
        processes = [process(world), process(world)]
        for number in range(rounds):
            await _round(conn, processes, enemy, queue, f"city{number}")


async def _round(conn: Any, processes: list[Process], enemy: str, queue: str, city: str) -> None:
    await conn.execute(_NARROWED, enemy, [city])
    known, over = await factories.case(conn, city_id=city, queue_id=queue), asyncio.Event()
    shown: list[frozenset[str]] = []

    async def read_on(of: Process) -> None:
        while not over.is_set():
            shown.append(await of.listed(enemy))

    readers = [asyncio.create_task(read_on(of)) for of in processes for _ in range(2)]
    while len(shown) < len(readers):
        await asyncio.sleep(0)
    await conn.execute(_NARROWED, enemy, [])
    secret = await factories.case(conn, city_id=city, queue_id=queue)
    after = len(shown)
    while len(shown) < after + 2 * len(readers):
        await asyncio.sleep(0)
    over.set()
    await asyncio.gather(*readers)
    assert known in shown[0], "the readers had begun by the old right"
    assert not any(secret in one for one in shown)
    assert shown[-1] == frozenset()
