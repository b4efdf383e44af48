"""Sealing loses nothing, doubles nothing, keeps causal order, survives a death at every step, and stops on a conflict."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import asyncpg
import pytest

from audit.keys import Keys, Signer
from audit.record import chain_next, chain_start, fit, leaf
from audit.sealer import Sealer
from audit.store import LogConflictError
from audit.writer import Writer
from tests.audit.conftest import ORIGIN, Log, record, until

STEPS = ("S1", "S2", "S3", "S4", "S5", "S6", "A1", "A2", "A3", "A4", "A5", "A6")


class Killed(BaseException):
    """The process dies here: nothing may catch it."""


def dies_at(step: str) -> Any:
    def fault(reached: str) -> None:
        if reached == step:
            raise Killed(step)

    return fault


async def _forged(log: Log, data: bytes, *, kid: str | None = None, mac: bytes | None = None) -> None:
    """A superuser's own INSERT, with whatever MAC he has."""
    value = leaf(data)
    conn = await asyncpg.connect(**log.database.superuser)
    await conn.execute(
        "INSERT INTO audit.intake (db_at, kid, mac, leaf, body) VALUES (now(), $1, $2, $3, $4)",
        kid or log.keys.writer.id,
        mac or bytes(32),
        value,
        data.decode(),
    )
    await conn.close()


def _body(**changes: Any) -> dict[str, Any]:
    made = {key: value for key, value in record().items() if not key.startswith("_")}
    numbers = {
        "log": ORIGIN,
        "w": "w-x",
        "wn": 1,
        "voided": [],
        "settled": 1,
        "priv": {},
        "before": None,
        "after": None,
    }
    return made | numbers | changes


async def test_a_record_gets_its_place_chain_and_columns(log: Log) -> None:
    ids = await log.append(3)
    sealed = await log.sealer.run_once()
    assert (sealed.records, sealed.quarantined, sealed.size) == (3, 0, 3)
    rows = await log.look("SELECT seq, id::text, leaf, chain FROM audit.leaf ORDER BY seq")
    chain = chain_start(ORIGIN)
    for seq, (place, record_id, value, stored) in enumerate(rows):
        chain = chain_next(chain, value)
        assert (place, record_id, stored) == (seq, ids[seq], chain)
    assert await log.look("SELECT count(*) FROM audit.intake") == [(0,)]
    columns = await log.look(
        "SELECT kind, actor, action, obj_type, obj_id, city, decision, policy, request FROM audit.record LIMIT 1"
    )
    assert columns == [
        ("mutation", "usr_17", "case.decide", "Case", "case_881", "lisbon", "ALLOWED", "ts-decide", "req_1")
    ]


async def test_a_late_commit_is_sealed_when_it_comes_and_nobody_waits_for_it(log: Log) -> None:
    late = await asyncpg.connect(**log.database.as_role("cs_app"))
    slow = Writer(log.keys, origin=ORIGIN)
    transaction = late.transaction()
    await transaction.start()
    [receipt] = await slow.append_now(late, [record()])
    await log.append(2)
    assert (await log.sealer.run_once()).records == 2
    await transaction.commit()
    assert (await log.sealer.run_once()).records == 1
    assert await log.look("SELECT seq FROM audit.leaf WHERE id = $1::text::uuid", receipt.id) == [(2,)]
    await late.close()
    assert (await log.seal(), (await log.verify()).exit_code) == (3, 0)


async def test_what_happened_before_is_sealed_before(log: Log) -> None:
    for _ in range(5):
        await log.append(1, action="a.first")
        await log.append(1, action="b.second")
    await log.seal()
    actions = [
        row[0] for row in await log.look("SELECT action FROM audit.record JOIN audit.leaf USING (id) ORDER BY seq")
    ]
    assert actions == ["a.first", "b.second"] * 5


async def test_two_sealers_at_once_seal_every_record_once(log: Log) -> None:
    await log.append(900)
    one, two = log.another(), log.another()

    async def drain(sealer: Sealer) -> int:
        done = 0
        while sealed := (await sealer.run_once(50)).records:
            done += sealed
        return done

    first, second = await asyncio.gather(drain(one), drain(two))
    assert first + second == 900
    assert await log.look("SELECT count(*), count(DISTINCT id), max(seq) FROM audit.leaf") == [(900, 900, 899)]
    await asyncio.gather(one.anchor_once(), two.anchor_once())
    assert (await log.verify()).exit_code == 0


@pytest.mark.contract("RL-2")
@pytest.mark.parametrize("step", STEPS)
async def test_a_death_at_any_step_loses_and_doubles_nothing(log: Log, step: str) -> None:
    await log.append(260)
    await log.seal()
    await log.append(300)
    dying = log.another(dies_at(step))
    with pytest.raises(Killed):
        await dying.run_once()
        await dying.anchor_once()
    await dying.close()
    after = log.another()
    await log.append(1)
    while (await after.run_once()).records:
        pass
    assert await after.anchor_once() == 561
    assert await log.look("SELECT count(*), count(DISTINCT id), max(seq) FROM audit.leaf") == [(561, 561, 560)]
    report = await log.verify()
    assert (report.exit_code, report.checked) == (0, 561), report.lines()
    sizes = [row[0] for row in await log.look("SELECT size FROM audit.checkpoint ORDER BY size")]
    assert sizes[0] == 260
    assert sizes[-1] == 561
    if step in {"A5", "A6"}:  # the pointer had moved: that head counts, and was published after all
        assert 560 in sizes
        assert log.anchor.get("checkpoint/00000000000000000560") is not None


async def test_forged_rows_are_quarantined_by_their_cause_and_use_no_place(log: Log) -> None:
    await log.append(1)
    good = fit(_body())
    await _forged(log, good)  # the leaf is right, the MAC is not
    await _forged(log, good, kid="stolen")
    foreign = fit(_body(log="another/log"))
    await _forged(log, foreign, mac=log.keys.mac(leaf(foreign)))
    for text in (b'{"b":1,"a":2}', b'{"a":1.5}', b"[]", fit(_body(kind="party")), fit(_body(wn="1"))):
        await _forged(log, text, mac=log.keys.mac(leaf(text)))
    await log.append(1)
    sealed = await log.sealer.run_once()
    assert (sealed.records, sealed.quarantined, sealed.size) == (2, 8, 2)
    codes = sorted(row[0] for row in await log.look("SELECT code FROM audit.quarantine"))
    assert codes == ["NOT_CANONICAL"] * 5 + ["UNAUTHENTICATED_WRITER"] * 2 + ["WRONG_ORIGIN"]
    assert sorted(code for code, _ in log.alarms) == codes
    await log.seal()
    report = await log.verify()
    assert (report.exit_code, report.finding_count) == (1, 8)


async def test_an_edited_intake_row_is_quarantined(log: Log) -> None:
    ids = await log.append(2)
    await log.tamper(
        f"UPDATE audit.intake SET body = replace(body, 'case_881', 'case_882') WHERE body LIKE '%{ids[0]}%'"
    )
    await log.sealer.run_once()
    assert await log.look("SELECT code, id::text FROM audit.quarantine") == [("LEAF_MISMATCH", ids[0])]


async def test_the_same_id_twice_is_a_duplicate_in_one_run_and_in_two(log: Log) -> None:
    data = fit(_body())
    for _ in range(2):
        await _forged(log, data, mac=log.keys.mac(leaf(data)))
    await log.sealer.run_once()
    await _forged(log, data, mac=log.keys.mac(leaf(data)))
    await log.sealer.run_once()
    assert await log.look("SELECT code FROM audit.quarantine") == [("DUPLICATE_ID",), ("DUPLICATE_ID",)]
    assert await log.look("SELECT size FROM audit.head") == [(1,)]


async def test_a_record_that_no_sealer_filed_is_found_at_start_and_once(log: Log) -> None:
    await log.append(1)
    await log.seal()
    await log.tamper(
        "INSERT INTO audit.record SELECT gen_random_uuid(), db_at, kid, mac, w, wn, kind, actor, action, obj_type, obj_id, subject, "
        "city, decision, code, policy, approval, request, leaf, body FROM audit.record"
    )
    assert [await log.sealer.look_for_strays(), await log.sealer.look_for_strays()] == [1, 0]
    assert [code for code, _ in log.alarms] == ["UNSEALED_RECORD"]


async def test_a_restored_database_is_not_signed(log: Log) -> None:
    await log.append(5)
    await log.seal()
    [(size, root, chain, edge)] = await log.look("SELECT size, root, chain, edge FROM audit.head")
    await log.append(5)
    await log.seal()
    await log.tamper(
        f"DELETE FROM audit.record WHERE id IN (SELECT id FROM audit.leaf WHERE seq >= {size})",
        f"DELETE FROM audit.leaf WHERE seq >= {size}",
        f"DELETE FROM audit.checkpoint WHERE size > {size}",
        f"UPDATE audit.head SET size = {size}, root = '\\x{root.hex()}', chain = '\\x{chain.hex()}', edge = '\\x{edge.hex()}'",
    )
    with pytest.raises(LogConflictError) as restarted:
        await log.another().anchor_once()
    assert (restarted.value.code, restarted.value.text) == (
        "ROLLBACK",
        "head 10 is anchored, and the database ends at 5",
    )
    await log.append(9)
    with pytest.raises(LogConflictError) as remembered:
        await log.sealer.run_once()
    assert remembered.value.code == "HEAD_CONFLICT"
    # Even when the restored branch has outgrown the anchored head, it does not extend it.
    fresh = log.another()
    await fresh.run_once()
    with pytest.raises(LogConflictError) as outgrown:
        await fresh.anchor_once()
    assert outgrown.value.code == "FORK"


async def test_a_head_signed_by_another_key_is_not_built_upon(log: Log) -> None:
    await log.append(1)
    await log.seal()
    stranger = Signer.open(log.folder / "other-signer", ORIGIN)
    sealer = Sealer(log.database.dsn("cs_sealer"), keys=log.keys, signer=stranger, anchor=log.anchor, writer=log.writer)
    log.sealers.append(sealer)
    await log.append(1)
    await sealer.run_once()
    with pytest.raises(LogConflictError) as refused:
        await sealer.anchor_once()
    assert refused.value.code == "UNKNOWN_KEY"


async def test_a_lost_race_for_the_pointer_signs_again_on_the_winner(log: Log) -> None:
    await log.append(1)
    await log.seal()
    await log.append(1)
    other = log.another()
    counter = itertools.count()

    def overtaken(step: str) -> None:
        if step == "A4" and next(counter) == 0:
            # The winner moves the pointer between our look and our swap.
            note = log.anchor.read_latest()[0] or ""
            log.anchor.swap_latest(note + "\N{EM DASH} someone AAAAAAAA\n", log.anchor.read_latest()[1])

    loser = log.another(overtaken)
    await other.run_once()
    assert await loser.anchor_once() == 2
    assert next(counter) == 2
    assert (await log.verify()).exit_code == 0


async def test_a_full_tile_replaces_its_partial_states_in_the_anchor(log: Log) -> None:
    for _ in range(3):
        await log.append(100)
        await log.seal()
    names = sorted(
        str(f.relative_to(log.anchor.directory)) for f in (log.anchor.directory / "tile").rglob("*") if f.is_file()
    )
    assert names == ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/44"]


async def test_the_loop_seals_anchors_beats_and_ends_clean(log: Log) -> None:
    stop = asyncio.Event()
    sealer = log.another(heartbeat_seconds=3600.0, anchor_seconds=0.0)
    task = asyncio.create_task(sealer.run(stop))
    ids = await log.append(3)
    await until(
        lambda: log.look("SELECT 1 FROM audit.checkpoint WHERE size >= 4"), "three records and the heartbeat anchored"
    )
    second = asyncio.create_task(log.another().run(stop))  # waits for the lock, and leaves when told
    await asyncio.sleep(0.1)
    last = await log.append(1)
    stop.set()
    await asyncio.gather(task, second)
    kinds = [row[0] for row in await log.look("SELECT kind FROM audit.record ORDER BY db_at")]
    assert kinds.count("heartbeat") == 1
    anchored = await log.look("SELECT id::text FROM audit.leaf WHERE audit.anchored(id) ORDER BY seq")
    assert {row[0] for row in anchored} >= {*ids, *last}
    report = await log.verify()
    assert (report.exit_code, report.pending, report.checked) == (0, 0, 5)
    assert log.alarms == []


async def test_the_loop_stops_sealing_on_a_conflict_and_goes_on_once_it_is_repaired(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.sealer.CONFLICT_SECONDS", 0.05)
    await log.append(4)
    await log.seal()
    latest = log.anchor.directory / "latest"
    note = latest.read_bytes()
    latest.unlink()
    latest.write_bytes(note.replace(b"\n4\n", b"\n5\n"))
    stop = asyncio.Event()
    task = asyncio.create_task(log.another(anchor_seconds=0.0).run(stop))
    await log.append(1)

    async def alarmed() -> bool:
        return bool(log.alarms)

    await until(alarmed, "the alarm")
    await asyncio.sleep(0.3)  # several looks, one alarm
    assert [code for code, _ in log.alarms] == ["SIGNATURE_INVALID"]
    assert await log.look("SELECT size FROM audit.head") == [(4,)]
    latest.write_bytes(note)
    await until(lambda: log.look("SELECT 1 FROM audit.checkpoint WHERE size >= 5"), "a checkpoint after the repair")
    stop.set()
    await task
    assert (await log.verify()).exit_code == 0


@pytest.mark.contract("FC-6")
async def test_an_anchor_that_fails_is_alarmed_and_sealing_goes_on(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.append(1)
    await log.seal()
    stop = asyncio.Event()
    full = True

    def no_space(self: Any, note: str, tag: str) -> bool:
        if full:
            raise OSError(28, "No space left on device")
        return swap(self, note, tag)

    swap = type(log.anchor).swap_latest
    monkeypatch.setattr(type(log.anchor), "swap_latest", no_space)
    task = asyncio.create_task(log.another(anchor_seconds=0.0).run(stop))
    await log.append(3)
    await until(lambda: log.look("SELECT 1 FROM audit.head WHERE size = 5"), "three records and the heartbeat sealed")

    async def alarmed() -> bool:
        return bool(log.alarms)

    await until(alarmed, "the alarm")
    assert [code for code, _ in log.alarms] == ["ANCHOR_UNAVAILABLE"]
    full = False
    stop.set()
    await task
    assert (await log.verify()).checkpoint.size == 5  # type: ignore[union-attr]  # a None would fail as well


async def test_a_waiting_delivery_makes_its_record_anchored_at_once(log: Log) -> None:
    stop = asyncio.Event()
    sealer = log.another(anchor_seconds=3600.0, heartbeat_seconds=3600.0)
    task = asyncio.create_task(sealer.run(stop))
    await until(lambda: log.look("SELECT 1 FROM audit.leaf"), "the first heartbeat sealed")
    [calm] = await log.append(1)
    await asyncio.sleep(0.5)
    assert await log.look("SELECT audit.anchored($1::text::uuid)", calm) == [(False,)]
    [urgent] = await log.append(1)
    conn = await asyncpg.connect(**log.database.as_role("cs_worker"))
    await conn.execute(
        "INSERT INTO outbox (id, port, operation, key, target_type, target_id, arguments, audit_id, created_at, next_attempt_at) "
        "VALUES ('d1', 'p', 'o', 'k', 'Refund', 'r', '{}', $1::text::uuid, now(), now())",
        urgent,
    )
    await until(lambda: conn.fetchval("SELECT audit.anchored($1::text::uuid)", urgent), "the urgent record anchored")
    await conn.close()
    stop.set()
    await task


@pytest.mark.contract("PV-3")
async def test_keys_and_signer_are_made_once_and_read_again(log: Log) -> None:
    assert Keys.open(log.folder / "keys", create=False) == log.keys
    assert Signer.open(log.folder / "signer", ORIGIN, create=False).vkey == log.signer.vkey
    assert (log.folder / "keys" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert (log.folder / "signer").stat().st_mode & 0o777 == 0o600
    assert (log.folder / "signer.pub").read_text() == log.signer.vkey + "\n"
