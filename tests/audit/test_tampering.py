"""Whatever a database superuser changes, verification names the record and says what differs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.merkle import Edge
from audit.record import chain_next, chain_start, leaf
from audit.verify import Finding, Report
from tests.audit.conftest import ORIGIN, Log

FLIP = "set_byte({0}, 5, get_byte({0}, 5) # 1)"


def one(report: Report, code: str) -> Finding:
    assert [finding.code for finding in report.findings] == [code], "\n".join(report.lines())
    assert report.exit_code == 1
    return report.findings[0]


BODY = "UPDATE audit.record SET body = replace(body, 'case_881', 'case_882') WHERE id = '{id}'"


@pytest.mark.contract("AU-6")
@pytest.mark.parametrize("seq", [0, 100, 300])  # in a full tile (first, middle) and on the edge
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (BODY, "LEAF_MISMATCH"),
        ("UPDATE audit.record SET body = body || ' ' WHERE id = '{id}'", "LEAF_MISMATCH"),
        ("UPDATE audit.record SET body = 'not json' WHERE id = '{id}'", "LEAF_MISMATCH"),
        (f"UPDATE audit.leaf SET leaf = {FLIP.format('leaf')} WHERE seq = {{seq}}", "LEAF_MISMATCH"),
        (f"UPDATE audit.leaf SET chain = {FLIP.format('chain')} WHERE seq = {{seq}}", "CHAIN_MISMATCH"),
        ("DELETE FROM audit.record WHERE id = '{id}'", "MISSING_BODY"),
        ("DELETE FROM audit.leaf WHERE seq = {seq}", "MISSING_BODY"),
        ("DELETE FROM audit.leaf WHERE seq = {seq}; DELETE FROM audit.record WHERE id = '{id}'", "MISSING_BODY"),
    ],
)
async def test_one_changed_record_is_named(log: Log, change: str, code: str, seq: int) -> None:
    await log.append(310)
    await log.seal()
    [(record_id,)] = await log.look("SELECT id::text FROM audit.leaf WHERE seq = $1", seq)
    await log.tamper(*change.format(id=record_id, seq=seq).split(";"))
    finding = one(await log.verify(), code)
    assert (finding.seq, finding.to_seq) == (seq, seq)
    both = change.count("DELETE") == 2  # then nothing is left that could say the id
    assert finding.record_id == (None if both else record_id)
    assert finding.neighbours_intact
    assert finding.text.startswith(f"{code} seq={seq}")
    assert (await log.verify(290, 305)).exit_code == (1 if seq == 300 else 0)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (f"leaf = {FLIP.format('leaf')}", "COLUMN_MISMATCH"),
        (f"mac = {FLIP.format('mac')}", "UNAUTHENTICATED_WRITER"),
        ("kid = 'other'", "UNAUTHENTICATED_WRITER"),
        ("w = 'w-x'", "COLUMN_MISMATCH"),
        ("wn = wn + 1", "COLUMN_MISMATCH"),
        ("kind = 'read'", "COLUMN_MISMATCH"),
        ("actor = 'usr_18'", "COLUMN_MISMATCH"),
        ("action = 'case.skip'", "COLUMN_MISMATCH"),
        ("obj_type = NULL", "COLUMN_MISMATCH"),
        ("obj_id = 'case_1'", "COLUMN_MISMATCH"),
        ("subject = 'tag'", "COLUMN_MISMATCH"),
        ("city = 'berlin'", "COLUMN_MISMATCH"),
        ("decision = 'DENIED'", "COLUMN_MISMATCH"),
        ("code = 'NOT_FOUND'", "COLUMN_MISMATCH"),
        ("policy = 'x'", "COLUMN_MISMATCH"),
        ("approval = 'apr_1'", "COLUMN_MISMATCH"),
        ("request = 'req_2'", "COLUMN_MISMATCH"),
    ],
)
async def test_each_column_is_held_to_the_body(log: Log, change: str, code: str) -> None:
    ids = await log.append(20)
    await log.seal()
    await log.tamper(f"UPDATE audit.record SET {change} WHERE id = '{ids[11]}'")
    finding = one(await log.verify(), code)
    assert (finding.seq, finding.record_id) == (11, ids[11])
    if code == "COLUMN_MISMATCH":
        assert finding.detail.startswith(f"column {change.split(' ', 1)[0]} holds ")


async def test_a_changed_body_is_told_with_hashes_writer_checkpoint_and_neighbours(log: Log) -> None:
    ids = await log.append(40)
    await log.seal()
    await log.tamper(BODY.format(id=ids[20]))
    [(body, month)] = await log.look("SELECT body, to_char(db_at, 'YYYY_MM') FROM audit.record WHERE id = $1", ids[20])
    finding = one(await log.verify(), "LEAF_MISMATCH")
    assert finding.found == hashlib.sha256(b"\x00" + body.encode()).hexdigest()
    assert finding.expected == (await log.look("SELECT encode(leaf, 'hex') FROM audit.leaf WHERE seq = 20"))[0][0]
    assert finding.text == (
        f"LEAF_MISMATCH seq=20 id={ids[20]} partition={month}: body hashes to {finding.found[:16]}…, "
        f"tree has {finding.expected[:16]}… (checkpoint 40, signed by {ORIGIN}+{log.signer.id.hex()}); "
        "record was written by usr_17 case.decide Case/case_881; neighbours 19 and 21 are intact"
    )


@pytest.mark.parametrize(("seq", "place"), [(0, 0), (100, 100), (255, 255)])
async def test_a_changed_tile_is_named_by_record(log: Log, seq: int, place: int) -> None:
    await log.append(300)
    await log.seal()
    await log.tamper(
        f"UPDATE audit.tile SET hashes = set_byte(hashes, {32 * place}, get_byte(hashes, {32 * place}) # 1)"
    )
    finding = one(await log.verify(), "TILE_MISMATCH")
    assert (finding.seq, finding.to_seq) == (seq, seq)
    assert finding.written_by == "usr_17 case.decide Case/case_881"


async def test_a_changed_edge_is_a_head_conflict_that_accuses_no_record(log: Log) -> None:
    await log.append(300)
    await log.seal()
    await log.tamper("UPDATE audit.head SET edge = set_byte(edge, 40, get_byte(edge, 40) # 1)")
    report = await log.verify()
    assert {finding.code for finding in report.findings} == {"HEAD_CONFLICT"}
    assert report.exit_code == 1
    with pytest.raises(Exception, match="HEAD_CONFLICT"):
        await log.append(1)
        await log.sealer.run_once()


@pytest.mark.contract("AU-6")
async def test_exchanged_records_are_both_named_and_where_they_belong(log: Log) -> None:
    await log.append(40)
    await log.seal()
    await log.tamper(
        "UPDATE audit.leaf SET seq = CASE seq WHEN 10 THEN 1000 ELSE 1010 END WHERE seq IN (10, 30)",
        "UPDATE audit.leaf SET seq = CASE seq WHEN 1000 THEN 30 ELSE 10 END WHERE seq IN (1000, 1010)",
    )
    report = await log.verify()
    found = {(f.seq, f.detail.rsplit(" ", 1)[1]) for f in report.findings if f.code == "LEAF_MISMATCH"}
    assert found == {(10, "30"), (30, "10")}
    assert {f.seq for f in report.findings} == {10, 30}


@pytest.mark.contract("AU-6")
async def test_an_inserted_record_has_no_place(log: Log) -> None:
    ids = await log.append(20)
    await log.seal()
    await log.tamper(
        "INSERT INTO audit.record SELECT gen_random_uuid(), db_at, kid, mac, w, wn, kind, actor, action, obj_type, obj_id, subject, "
        f"city, decision, code, policy, approval, request, leaf, body FROM audit.record WHERE id = '{ids[3]}'"
    )
    finding = one(await log.verify(), "UNSEALED_RECORD")
    [(stray,)] = await log.look(
        "SELECT r.id::text FROM audit.record r WHERE NOT EXISTS (SELECT 1 FROM audit.leaf l WHERE l.id = r.id)"
    )
    assert finding.record_id == stray


async def _forge_tail(log: Log, bodies: list[str], keep: int) -> list[str]:
    """Statements of a superuser who knows the formats: rows up to ``keep`` stay, the rest is replaced, head and chain follow."""
    kept = await log.look("SELECT leaf FROM audit.leaf WHERE seq < $1 ORDER BY seq", keep)
    edge, chain = Edge(), chain_start(ORIGIN)
    for (value,) in kept:
        edge.append(value)
        chain = chain_next(chain, value)
    statements = [
        f"DELETE FROM audit.record WHERE id IN (SELECT id FROM audit.leaf WHERE seq >= {keep})",
        f"DELETE FROM audit.leaf WHERE seq >= {keep}",
    ]
    for body in bodies:
        value = leaf(body.encode())
        chain = chain_next(chain, value)
        quoted = body.replace("'", "''")
        statements += [
            "INSERT INTO audit.record SELECT ('" + quoted + "'::jsonb ->> 'id')::uuid, now(), kid, mac, "
            "'"
            + quoted
            + "'::jsonb ->> 'w', ('"
            + quoted
            + "'::jsonb ->> 'wn')::bigint, kind, actor, action, obj_type, obj_id, subject, city, "
            f"decision, code, policy, approval, request, '\\x{value.hex()}', '{quoted}' FROM audit.record LIMIT 1",
            f"INSERT INTO audit.leaf SELECT {edge.size}, ('{quoted}'::jsonb ->> 'id')::uuid, now(), '\\x{value.hex()}', '\\x{chain.hex()}', now()",
        ]
        edge.append(value)
    size, root = edge.size, edge.root().hex()
    statements.append(
        f"UPDATE audit.head SET size = {size}, root = '\\x{root}', chain = '\\x{chain.hex()}', edge = '\\x{edge.dump().hex()}'"
    )
    return statements


@pytest.mark.contract("AU-6")
async def test_a_truncated_tail_is_a_rollback_against_the_anchor_and_against_the_cache(log: Log) -> None:
    await log.append(20)
    await log.seal()
    await log.tamper(*await _forge_tail(log, [], 12))
    finding = one(await log.verify(), "ROLLBACK")
    assert (finding.expected, finding.found) == ("20", "12")
    await log.tamper("DELETE FROM audit.checkpoint")
    assert one(await log.verify(), "ROLLBACK").detail.endswith("is known (ANCHOR), and the database ends at 12")
    alone = await log.verify(anchor=None)
    assert [f.code for f in alone.findings] == ["NO_TRUSTED_CHECKPOINT"]
    assert alone.exit_code == 3
    assert "ANCHOR" in alone.not_checked


@pytest.mark.contract("AU-6")
async def test_a_pin_finds_the_rollback_when_the_anchor_was_rolled_back_too(log: Log, tmp_path: Path) -> None:
    await log.append(20)
    await log.seal()
    pin = tmp_path / "pin"
    pin.write_text((await log.look("SELECT note FROM audit.checkpoint"))[0][0])
    await log.tamper(*await _forge_tail(log, [], 12), "DELETE FROM audit.checkpoint")
    assert one(await log.verify(anchor=None, pin=pin), "ROLLBACK").expected == "20"


async def test_a_tail_replaced_with_its_tree_shows_by_the_signed_head_and_by_the_writers_mac(log: Log) -> None:
    await log.append(20)
    await log.seal()
    rows = await log.look("SELECT body FROM audit.record r JOIN audit.leaf l USING (id) WHERE seq >= 15 ORDER BY seq")
    forged = [body.replace("case_881", "case_666") for (body,) in rows]
    await log.tamper(*await _forge_tail(log, forged, 15))
    report = await log.verify()
    codes = {f.code: (f.seq, f.to_seq) for f in report.findings}
    assert codes["CHECKPOINT_MISMATCH"] == (0, 19)
    assert codes["UNAUTHENTICATED_WRITER"] == (15, 19)
    assert report.first_bad_seq == 0
    with pytest.raises(Exception, match="HEAD_CONFLICT"):  # the running sealer remembers
        await log.sealer.anchor_once()
    with pytest.raises(Exception, match="FORK"):  # a new one asks the anchor
        await log.another().anchor_once()


async def test_a_record_appended_behind_the_sealers_back_is_not_authentic(log: Log) -> None:
    await log.append(20)
    await log.seal()
    [(body,)] = await log.look("SELECT body FROM audit.record LIMIT 1")
    forged = body.replace(body[body.index('"id":"') + 6 : body.index('"id":"') + 14], "ffffffff", 1)
    await log.tamper(*await _forge_tail(log, [forged], 20))
    assert one(await log.verify(), "UNAUTHENTICATED_WRITER").seq == 20


@pytest.mark.contract("AU-6")
async def test_a_body_changed_with_tile_leaf_row_and_chain_is_still_found(log: Log) -> None:
    """Everything within reach rewritten, up to the level above: only the signed root and the MAC are left to tell."""
    ids = await log.append(300)
    await log.seal()
    [(body,)] = await log.look("SELECT body FROM audit.record WHERE id = $1", ids[7])
    forged = body.replace("case_881", "case_666")
    value = leaf(forged.encode()).hex()
    leaves = [row[0] for row in await log.look("SELECT leaf FROM audit.leaf ORDER BY seq")]
    leaves[7] = bytes.fromhex(value)
    chain = chain_start(ORIGIN)
    moves = []
    for seq, item in enumerate(leaves):
        chain = chain_next(chain, item)
        if seq >= 7:
            moves.append(f"UPDATE audit.leaf SET chain = '\\x{chain.hex()}' WHERE seq = {seq}")
    await log.tamper(
        f"UPDATE audit.record SET body = '{forged}', leaf = '\\x{value}', obj_id = 'case_666' WHERE id = '{ids[7]}'",
        f"UPDATE audit.leaf SET leaf = '\\x{value}' WHERE seq = 7",
        f"UPDATE audit.tile SET hashes = overlay(hashes placing '\\x{value}' from {7 * 32 + 1}) WHERE level = 0 AND idx = 0",
        f"UPDATE audit.head SET chain = '\\x{chain.hex()}'",
        *moves,
    )
    report = await log.verify()
    codes = {f.code: (f.seq, f.to_seq) for f in report.findings}
    assert codes == {"CHECKPOINT_MISMATCH": (0, 255), "UNAUTHENTICATED_WRITER": (7, 7)}
    without_keys = await log.verify(writer_keys=None)
    assert [(f.code, f.seq, f.to_seq) for f in without_keys.findings] == [("CHECKPOINT_MISMATCH", 0, 255)]


async def test_a_changed_upper_tile_names_its_records(log: Log) -> None:
    await log.append(256 * 3)
    await log.seal()
    # Level 1 is on the edge of so small a tree: change it there, and the root of the head with it.
    edge = Edge.load(*(await log.look("SELECT size, edge FROM audit.head"))[0])
    edge.levels[1][1] = bytes(32)
    await log.tamper(f"UPDATE audit.head SET edge = '\\x{edge.dump().hex()}', root = '\\x{edge.root().hex()}'")
    report = await log.verify()
    found = [(f.code, f.seq, f.to_seq) for f in report.findings]
    assert found == [("TILE_MISMATCH", 256, 511), ("HEAD_CONFLICT", None, None)]


async def test_two_causes_are_two_findings_and_a_run_is_one(log: Log) -> None:
    ids = await log.append(40)
    await log.seal()
    run = ", ".join(f"'{one_id}'" for one_id in ids[10:15])
    await log.tamper(
        f"UPDATE audit.record SET body = replace(body, 'case_881', 'case_9') WHERE id IN ({run})",
        f"UPDATE audit.leaf SET chain = {FLIP.format('chain')} WHERE seq = 30",
    )
    report = await log.verify()
    assert [(f.code, f.seq, f.to_seq) for f in report.findings] == [
        ("LEAF_MISMATCH", 10, 14),
        ("CHAIN_MISMATCH", 30, 30),
    ]
    assert (report.finding_count, report.first_bad_seq) == (2, 10)


async def test_more_than_a_hundred_findings_are_counted_not_listed(log: Log) -> None:
    await log.append(300)
    await log.seal()
    await log.tamper("UPDATE audit.record SET city = 'berlin' WHERE wn % 2 = 0")
    report = await log.verify()
    assert (len(report.findings), report.finding_count) == (100, 150)
    assert report.lines()[-1] == "and 50 more"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda note: note.replace("\n5\n", "\n6\n"), "SIGNATURE_INVALID"),
        (lambda note: note.replace(f"{ORIGIN}\n5", f"{ORIGIN}x\n5"), "SIGNATURE_INVALID"),
        (lambda note: note.replace("\n\n", "\n"), "MALFORMED_CHECKPOINT"),
        (lambda note: note.replace("\n5\n", "\n05\n"), "MALFORMED_CHECKPOINT"),
    ],
)
async def test_a_changed_checkpoint_note_is_no_checkpoint(log: Log, change: Callable[[str], str], code: str) -> None:
    await log.append(5)
    await log.seal()
    [(note,)] = await log.look("SELECT note FROM audit.checkpoint")
    await log.tamper(f"UPDATE audit.checkpoint SET note = '{change(note)}'")
    assert one(await log.verify(), code).severity == 1
    assert (await log.verify()).checkpoint is not None  # the anchor's


async def test_a_checkpoint_of_an_unknown_key_proves_nothing(log: Log) -> None:
    await log.append(5)
    await log.seal()
    report = await log.verify(vkeys=(), anchor=None)
    assert [f.code for f in report.findings] == ["NO_TRUSTED_SIGNATURE"]
    assert report.exit_code == 3


@pytest.mark.contract("AU-6")
async def test_a_deleted_intake_row_leaves_a_hole_in_the_writers_numbers(log: Log) -> None:
    await log.append(3)
    [(n,)] = await log.look("SELECT n FROM audit.intake ORDER BY n OFFSET 1 LIMIT 1")
    await log.tamper(f"DELETE FROM audit.intake WHERE n = {n}")
    await log.seal()
    assert (await log.verify()).exit_code == 0  # nothing later of this writer says that the number is settled
    await log.append(1)
    await log.seal()
    finding = one(await log.verify(), "WRITER_GAP")
    assert f"writer {log.writer.id} committed its record(s) 2, and they never reached the log" in finding.detail
