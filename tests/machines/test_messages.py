"""Messages as a state machine: written, sent late, twice or never, given up and taken up again; each reaches its reader once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from db import outbox
from resolvers.deliveries import Breaker, Deliveries
from resolvers.routes import routes
from resolvers.worker import Worker
from services.adapters.help_center_embedded import EmbeddedHelpCenter
from tests import factories
from tests.machines.conftest import RunMachine
from tests.machines.world import Said, World, hire

HIRED = (("SUPPORT", "AGENT"), ("SUPPORT", "AGENT"), ("SUPPORT", "LEAD"), ("ADMIN", "AGENT"), ("ADMIN", "AGENT"))
POINT = "after_message_effect"
writers = st.integers(0, 1)
places = st.integers(0, 1)
newest = st.sampled_from((0, 0, 0, 1, 2, 5))

_MESSAGES = """
SELECT o.*, m.key AS sent, m.template, m.version AS sent_version, m.variables, m.recipient, m.body AS sent_body,
  m.subject AS sent_subject, n.body AS kept, n.case_id, audit.anchored(o.audit_id) AS anchored,
  (SELECT count(*) FROM audit.intake i WHERE (i.body::json ->> 'id')::uuid = o.audit_id)
    + (SELECT count(*) FROM audit.record r WHERE r.id = o.audit_id) AS evidence
FROM outbox o JOIN note n ON n.id = o.target_id LEFT JOIN help_message m ON m.key = o.key
WHERE o.city_id = $1 ORDER BY o.created_at, o.id
"""
_NOTES = "SELECT id FROM note WHERE city_id = $1 AND template_id IS NOT NULL"
_TOLD = """
SELECT target_id, count(*) FILTER (WHERE kind = 'message_delivered') AS delivered,
  count(*) FILTER (WHERE kind = 'message_failed') AS failed, count(*) FILTER (WHERE kind = 'message_queued') AS queued
FROM timeline WHERE target_type = 'Case' AND city_id = $1 GROUP BY target_id
"""


class Messages(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.texts = 1  # versions of the template
        self.failed: dict[str, int] = {}  # delivery -> how often it was given up
        self.states: dict[str, str] = {}
        self.sent: dict[str, str] = {}  # delivery -> what its reader read
        self.retried: dict[str, int] = {}
        self.gone: set[str] = set()  # cases whose subject is
        bench = world.bench
        self.other = self._worker()
        world.bench = replace(bench, worker=self._worker())

    def _worker(self) -> Worker:
        """One whose circuits go by the machine's clock, like everything else."""
        bench = self.world.bench
        pipeline = bench.worker._pipeline
        deliveries = Deliveries(
            bench.background,
            pipeline,
            routes(bench.kernel, EmbeddedHelpCenter(bench.background)),
            fault=bench.faults,
            breaker=lambda: Breaker(clock=lambda: float(self.world.clock)),
        )
        return Worker(bench.background, pipeline, deliveries, fault=bench.faults)

    @initialize()
    def open_desk(self) -> None:
        self.city = f"words{next(self.world.cities)}"
        self.world.run(self._open())

    async def _open(self) -> None:
        conn = self.world.bench.conn
        self.people = await hire(self.world, self.city, *HIRED)
        self.template = await factories.template(conn, self.city, body="Text 1: {{caseId}}")
        self.cases = [await factories.case(conn, city_id=self.city, kind="MODERATION") for _ in range(2)]
        self.subjects = [(await self.world.bench.row("case_file", case))["subject_id"] for case in self.cases]

    # ---------- people ----------
    async def _write(self, who: int, case: int) -> Said:
        given = {
            "caseId": self.cases[case],
            "templateId": self.template,
            "body": "",
            "internal": False,
            "idempotencyKey": f"{self.city}-{self.world.attempts}",
        }
        return await self.world.ask(self.people[who], "addNote", input=given)

    @rule(who=writers, case=places, times=st.integers(1, 3))
    def write(self, who: int, case: int, times: int) -> None:
        for _ in range(times):
            self.world.run(self._write(who, case))

    @rule(case=places, other=places)
    def write_at_once(self, case: int, other: int) -> None:
        self.world.at_once(self._write(0, case), self._write(1, other))

    async def _save(self, *, disabled: bool) -> Said:
        row = await self.world.bench.row("template", self.template)
        given = {name: row[name] for name in ("id", "name", "locale", "subject")}
        body = f"Text {row['version'] + 1}: {{{{caseId}}}}"
        more = {"body": body, "disabled": disabled, "expectedVersion": row["version"], "reason": {"code": "SEASONAL"}}
        return await self.world.ask(self.people[2], "saveTemplate", input={**given, **more})

    @rule(disabled=st.sampled_from((False, False, False, True)), while_writing=st.booleans())
    def save_the_template(self, disabled: bool, while_writing: bool) -> None:
        """A message that waits goes out in the version that its author saw."""
        if while_writing:
            self.world.at_once(self._save(disabled=disabled), self._write(0, 0))
        else:
            self.world.run(self._save(disabled=disabled))

    async def _dead(self, which: int) -> str | None:
        """A message that was given up: one there is, else a new one that is refused; None while its circuit is open."""
        for _ in range(2):
            rows = [row for row in await self.world.look(_MESSAGES, self.city) if row["state"] == "DEAD"]
            if rows:
                return str(rows[-1 - which % len(rows)]["id"])
            await self._sim(self.subjects[1], "refuse:BOUNCED")
            await self._write(0, 1)
            await self.world.seal()
            await self.world.deliver()
            await self._sim(self.subjects[1], "")
            await self._holds()
        return None

    async def _retry(self, who: int, delivery: str) -> Said:
        before = await self.world.bench.row("outbox", delivery)
        said = await self.world.ask(self.people[who], "retryDelivery", id=delivery)
        if said.outcome == "EXECUTED":
            assert before["lane"] not in self.gone, "taken up again for somebody who is gone"
            self.retried[delivery] = self.retried.get(delivery, 0) + 1
            assert before["state"] == "DEAD" or before["attempts"] == 0, before
        return said

    @rule(which=newest, at_once=st.booleans())
    def take_up_again(self, which: int, at_once: bool) -> None:
        delivery = self.world.run(self._dead(which))
        if delivery is None:
            return
        if at_once:
            said = self.world.at_once(self._retry(3, delivery), self._retry(4, delivery))
            assert [one.outcome for one in said].count("EXECUTED") <= 1, "one delivery was taken up twice"
        else:
            self.world.run(self._retry(3, delivery))

    @rule(who=writers)
    def take_up_without_a_right(self, who: int) -> None:
        delivery = self.world.run(self._dead(0))
        if delivery is not None:
            assert not self.world.run(self._retry(who, delivery)).ok

    # ---------- the other system, the recipient, the clock ----------
    @rule(
        case=places, sim=st.sampled_from(("", "unavailable:1", "unavailable:2", "lost:1", "lost:12", "refuse:BOUNCED"))
    )
    def goes_wrong(self, case: int, sim: str) -> None:
        """What the help center does from now on with messages to this recipient; nothing: it sends them."""
        self.world.run(self._sim(self.subjects[case], sim))

    async def _sim(self, subject: str, sim: str) -> None:
        conn = self.world.bench.conn
        await conn.execute("DELETE FROM help_sim WHERE kind = 'recipient' AND name = $1", subject)
        if sim:
            await conn.execute("INSERT INTO help_sim (kind, name, sim) VALUES ('recipient', $1, $2)", subject, sim)

    @rule(case=places, gone=st.booleans())
    def recipient(self, case: int, gone: bool) -> None:
        state = "DELETED" if gone else "ACTIVE"
        self.gone = (self.gone | {self.cases[case]}) if gone else (self.gone - {self.cases[case]})
        self.world.run(
            self.world.bench.conn.execute("UPDATE subject SET state = $2 WHERE id = $1", self.subjects[case], state)
        )

    @rule(seconds=st.sampled_from((2, 35, 35, 400)))
    def time_passes(self, seconds: int) -> None:
        self.world.tick(seconds)

    # ---------- deliveries ----------
    @rule(crash=st.sampled_from((False, False, True)))
    def deliver(self, crash: bool) -> None:
        self.world.run(self.world.seal())
        self.world.run(self.world.deliver(crash=crash, point=POINT))

    @rule()
    def deliver_what_is_not_anchored(self) -> None:
        self.world.run(self.world.deliver())

    @rule()
    def deliver_twice_at_once(self) -> None:
        self.world.run(self.world.seal())
        self.world.at_once(self.world.deliver(), self.other.deliver())

    @rule(rounds=st.integers(8, 14), crash=st.booleans())
    def deliver_until_it_gives_up(self, rounds: int, crash: bool) -> None:
        for _ in range(rounds):
            self.world.tick(400)
            self.deliver(crash=crash)
            self.holds()

    # ---------- what must hold ----------
    @invariant()
    def holds(self) -> None:
        if hasattr(self, "subjects"):
            self.world.run(self._holds())

    async def _holds(self) -> None:
        rows = await self.world.look(_MESSAGES, self.city)
        notes = await self.world.look(_NOTES, self.city)
        assert {row["target_id"] for row in rows} == {note["id"] for note in notes}, "a message without its call"
        assert len(rows) == len(notes)
        for row in rows:
            assert row["evidence"] == 1, "a call without its record"
            self._check_state(row)
            if row["sent"] is not None and row["id"] not in self.sent:
                assert row["anchored"], "a message left before its record was anchored"
                older = [
                    one
                    for one in rows
                    if one["lane"] == row["lane"]
                    and (one["created_at"], one["id"]) < (row["created_at"], row["id"])
                    and one["state"] in outbox.OPEN
                ]
                assert not older, ("a message overtook an older one", row, older)
                self.sent[row["id"]] = f"{row['sent_subject']}\n\n{row['sent_body']}"
        await self._check_told(rows)

    def _check_state(self, row: Any) -> None:
        before, state = self.states.get(row["id"], "PENDING"), row["state"]
        self.states[row["id"]] = state
        if before == "DELIVERED":
            assert state == "DELIVERED", row
        if state == "DEAD" and before != "DEAD":
            self.failed[row["id"]] = self.failed.get(row["id"], 0) + 1
        if before == "DEAD" and state != "DEAD":
            assert self.retried.get(row["id"]), "it was taken up again by nobody"
        assert (row["next_attempt_at"] is not None) == (state in outbox.OPEN), row
        assert (state == "DEAD") <= (row["last_error_code"] is not None), row
        assert row["attempts"] <= outbox.ATTEMPTS + 1, row
        wanted = orjson.loads(row["arguments"])
        if state == "DELIVERED":
            assert row["sent"] is not None, "delivered, and nobody has it"
        if row["sent"] is not None:
            assert (row["template"], row["sent_version"], row["recipient"]) == (
                wanted["template"],
                wanted["version"],
                wanted["recipient"],
            )
            text = f"{row['sent_subject']}\n\n{row['sent_body']}"
            assert text == row["kept"] == self.sent.get(row["id"], text), "its reader reads something else"

    async def _check_told(self, rows: list[Any]) -> None:
        """The timeline tells each delivery, each failure and each new try once."""
        told = {row["target_id"]: row for row in await self.world.look(_TOLD, self.city)}
        for case in self.cases:
            of_it = [row for row in rows if row["case_id"] == case]
            entry = told.get(case) or {"delivered": 0, "failed": 0, "queued": 0}
            assert entry["delivered"] == sum(row["state"] == "DELIVERED" for row in of_it), entry
            assert entry["failed"] == sum(self.failed.get(row["id"], 0) for row in of_it), entry
            assert entry["queued"] == len(of_it) + sum(self.retried.get(row["id"], 0) for row in of_it), entry

    def teardown(self) -> None:
        self.world.run(self.world.check_log())


@pytest.mark.contract("PT-1", "ID-1", "ID-3")
def test_a_message_reaches_its_reader_once_in_its_order_or_is_known_not_to(run_machine: RunMachine) -> None:
    run_machine(Messages, 12, 20)
