"""Proofs, checkpoints, health and the reader's view of the live store."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from audit import live, merkle
from audit.formats import leaf_hash, read_note
from audit.record import listed
from audit.writer import Limits
from schema.errors import ConsoleError
from tests.audit.conftest import ORIGIN, Log, record

SDL = (Path(__file__).parents[2] / "schema" / "schema.graphql").read_text()


def fields_of(type_name: str) -> set[str]:
    body = re.search(rf"^type {type_name}\b[^{{]*\{{(.*?)^\}}", SDL, re.MULTILINE | re.DOTALL)
    assert body is not None
    return set(re.findall(r"^  (\w+)[(:]", body[1], re.MULTILINE))


async def test_a_proof_holds_for_its_record_under_the_signed_head(log: Log) -> None:
    ids = await log.append(600)
    await log.seal()
    for seq in (0, 255, 256, 511, 599):
        proof = await live.proof(log.reader, ids[seq])
        assert proof is not None
        assert (proof["recordId"], proof["seq"], proof["size"]) == (ids[seq], float(seq), 600.0)
        head = read_note(proof["checkpoint"], [log.signer.vkey], origin=ORIGIN)
        assert (head.size, head.root.hex()) == (600, proof["rootHash"])
        path = [bytes.fromhex(value) for value in proof["path"]]
        [(body,)] = await log.look("SELECT body FROM audit.record WHERE id = $1::text::uuid", ids[seq])
        assert merkle.includes(leaf_hash(body.encode()), seq, 600, path, head.root)
        lines = proof["bundle"].split("\n")
        assert lines[:2] == ["c2sp.org/tlog-proof@v1", f"index {seq}"]
        assert proof["bundle"].endswith("\n\n" + proof["checkpoint"])
        assert await live.proof(log.reader, seq=seq) == proof
    assert await live.proof(log.reader, "019a0000-0000-7000-8000-000000000000") is None
    assert await live.proof(log.reader, "nonsense") is None
    [late] = await log.append(1)
    await log.sealer.run_once()
    assert await live.proof(log.reader, late) is None  # sealed, not anchored yet


async def test_checkpoints_are_listed_both_ways_and_by_size(log: Log) -> None:
    for _ in range(3):
        await log.append(2)
        await log.seal()
    page = await live.checkpoints(log.reader, limit=2)
    assert [item["size"] for item in page] == [6.0, 4.0]
    rest = await live.checkpoints(log.reader, limit=2, after_size=4)
    assert [item["size"] for item in rest] == [2.0]
    assert [item["size"] for item in await live.checkpoints(log.reader, descending=False)] == [2.0, 4.0, 6.0]
    newest = await live.checkpoint(log.reader)
    assert newest == page[0]
    assert newest["signedBy"] == [f"{ORIGIN}+{log.signer.id.hex()}"]
    assert (newest["worm"], newest["anchor"], newest["cosignedBy"]) == (False, "directory", [])
    assert await live.checkpoint(log.reader, 5) is None
    assert (await live.checkpoint(log.reader, 4.0) or {})["size"] == 4.0
    for size in (4.5, 2.0**53, 1e308, float("inf"), float("nan")):
        with pytest.raises(ConsoleError, match="whole number"):
            await live.checkpoint(log.reader, size)


async def test_verification_answers_in_the_words_of_the_schema(log: Log) -> None:
    await log.append(520)
    await log.seal()
    [pending] = await log.append(1)
    answer = await live.verification(log.reader, log.trust(), 300.0, 310.0)
    assert answer["ok"]
    assert (answer["fromSeq"], answer["toSeq"], answer["checked"], answer["pending"]) == (300.0, 310.0, 11, 1)
    assert (answer["headSize"], answer["checkpointSize"], answer["findings"]) == (520.0, 520.0, [])
    assert answer["trusted"] == ["KEY", "ANCHOR", "WRITER_MAC"]
    assert answer["notChecked"] == ["PIN", "WITNESS", "STATE"]
    await log.tamper("UPDATE audit.record SET city = 'berlin' WHERE id = (SELECT id FROM audit.leaf WHERE seq = 305)")
    answer = await live.verification(log.reader, log.trust())
    [finding] = answer["findings"]
    assert (answer["ok"], answer["firstBadSeq"], answer["findingCount"], answer["checked"]) == (False, 305.0, 1, 520)
    assert (finding["code"], finding["severity"], finding["expected"], finding["found"]) == (
        "COLUMN_MISMATCH",
        1,
        "lisbon",
        "berlin",
    )
    assert finding["neighboursIntact"] is True
    assert (await live.verification(log.reader, log.trust(), 0, 255))["ok"]
    for wrong in ((-1, 5), (600, 700), (10, 5)):
        with pytest.raises(ConsoleError, match="no records"):
            await live.verification(log.reader, log.trust(), *wrong)
    with pytest.raises(ConsoleError) as refusal:
        await live.verification(log.reader, log.trust(), 0, 100_000)
    assert refusal.value.code == "LIMIT_EXCEEDED"
    assert pending


async def test_answers_have_the_fields_of_the_schema(log: Log) -> None:
    await log.append(3)
    await log.seal()
    await log.tamper("UPDATE audit.record SET city = 'berlin'")
    verification = await live.verification(log.reader, log.trust())
    assert set(verification) == fields_of("AuditVerification")
    assert set(verification["findings"][0]) == fields_of("AuditFinding")
    assert set(await live.proof(log.reader, seq=0) or {}) == fields_of("AuditProof")
    assert set(await live.checkpoint(log.reader) or {}) == fields_of("AuditCheckpoint")
    assert set(await live.health(log.reader)) == fields_of("AuditHealth")


async def test_an_empty_log_cannot_be_concluded_upon(log: Log) -> None:
    answer = await live.verification(log.reader, log.trust())
    assert [finding["code"] for finding in answer["findings"]] == ["NO_TRUSTED_CHECKPOINT"]
    assert (answer["ok"], answer["checked"], answer["headSize"]) == (False, 0, 0.0)


async def test_health_tells_what_waits_and_whether_it_is_closed(log: Log) -> None:
    await log.append(3)
    await log.seal()
    await log.append(2)
    told = await live.health(log.reader)
    assert (told["size"], told["pending"], told["anchoredSize"], told["quarantined"], told["writerGaps"]) == (
        3.0,
        2,
        3.0,
        0,
        0,
    )
    assert (told["failClosed"], told["worm"], told["oldestPendingSeconds"], told["anchorAgeSeconds"]) == (
        False,
        False,
        0,
        0,
    )
    assert told["keyIds"] == [f"{ORIGIN}+{log.signer.id.hex()}", log.keys.writer.id]
    assert (await live.health(log.reader, limits=Limits(intake_rows=1)))["failClosed"]
    assert (await live.health(log.reader, limits=Limits(unanchored_seconds=0)))["failClosed"]
    [(n,)] = await log.look("SELECT min(n) FROM audit.intake")
    await log.tamper(f"DELETE FROM audit.intake WHERE n = {n}")
    await log.append(1)
    await log.seal()
    assert (await live.health(log.reader))["writerGaps"] == 1


async def test_rows_that_wait_too_long_are_stale(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.append(2)
    await log.seal()
    await log.append(2)
    monkeypatch.setattr("audit.live.STALE_SECONDS", 0)
    report = await log.verify()
    assert ([f.code for f in report.findings], report.exit_code, report.pending) == (["STALE"], 3, 2)


async def test_the_entry_view_names_what_graphql_asks(log: Log) -> None:
    given = record(
        kind="denied",
        field="Query.getSubject",
        action="subject.read",
        verdict="DENIED",
        code="Unauthorized",
        object={"type": "Case", "id": "c1", "version": {"before": 4, "after": None}, "city": "lisbon"},
        objects=listed(["c1", "c2"], filter_digest="sha256:f"),
        operation={"name": "GetIt", "document": "sha256:d", "arguments": "sha256:a"},
        on_behalf={"sub": "usr_2", "breakGlass": "bg_1"},
        reason={"code": "SPAM", "ticket": "T-1"},
        approval={"request": "apr_1", "step": "VOTED"},
        fields={
            "read": ["Case.id", "Subject.name"],
            "masked": ["Subject.name"],
            "pii": {"Subject.name": "CONTACT", "Note.body": "FREE_TEXT"},
        },
        obligations=["mask"],
        cause="cause_1",
        changed=["state"],
        result={"count": 2, "outcome": "FAILED"},
    )
    [receipt] = await log.writer.reads(log.app, [given])
    await log.seal()
    row = dict(await log.reader.fetchrow("SELECT * FROM audit.entry"))
    body = json.loads(row.pop("body"))
    assert row.pop("at").isoformat(timespec="microseconds").replace("+00:00", "Z") == body["at"]
    assert str(row.pop("id")) == receipt.id
    assert row.pop("db_at") <= row.pop("sealed_at")
    assert [(row.pop("chain_hash"),)] == await log.look("SELECT encode(chain, 'hex') FROM audit.leaf")
    assert row == {
        "seq": 0, "kind": "DENIED", "actor_id": "usr_17", "actor_kind": "STAFF", "on_behalf_of": "usr_2", "action": "subject.read",
        "field": "Query.getSubject", "operation_name": "GetIt", "read": True, "verdict": "DENIED", "code": "Unauthorized", "target_type": "Case",
        "target_id": "c1", "target_version": 4, "target_ids": ["c1", "c2"], "target_count": 2, "filter_digest": "sha256:f", "city_id": "lisbon",
        "subject_tag": None, "reason_code": "SPAM", "reason_ticket": "T-1", "approval_request_id": "apr_1", "approval_step": "VOTED",
        "break_glass_id": "bg_1", "cause_id": "cause_1", "policy_version": 7, "policy_row_id": "ts-decide", "obligations": ["mask"],
        "request_id": "req_1", "trace_id": "t1", "args_digest": "sha256:a", "diff": '{"after": null, "before": null, "changed": ["state"]}',
        "fields_read": ["Case.id", "Subject.name"], "fields_masked": ["Subject.name"], "pii_classes": ["CONTACT", "FREE_TEXT"],
        "result_count": 2, "result_outcome": "FAILED", "erased_fields": [], "truncated": False, "hash": receipt.hash,
    }  # fmt: skip
