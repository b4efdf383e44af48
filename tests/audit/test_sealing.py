"""Sealed fields open with their key, in their place, to one value only; what is sealed is nowhere in clear."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import asyncpg
import pytest

from audit.sealing import DataKey, SealBrokenError, log_key, salted_digest, seal, subject_keys, unseal, unwrap
from tests.audit.conftest import Log, record

KEY = DataKey("tag1", bytes(range(32)))


def test_a_sealed_value_opens_with_its_key_and_in_its_place_only() -> None:
    sealed = seal("what she wrote", KEY, "rec-1", "reason.text")
    assert set(sealed) == {"alg", "k", "n", "c", "m"}
    assert unseal(sealed, KEY, "rec-1", "reason.text") == "what she wrote"
    for key, record_id, path in [
        (DataKey("tag1", bytes(32)), "rec-1", "reason.text"),
        (DataKey("tag2", KEY.secret), "rec-1", "reason.text"),
        (KEY, "rec-2", "reason.text"),
        (KEY, "rec-1", "request.ip"),
    ]:
        with pytest.raises(SealBrokenError):
            unseal(sealed, key, record_id, path)


@pytest.mark.parametrize("part", ["n", "c", "m"])
def test_a_changed_part_does_not_open(part: str) -> None:
    sealed = seal("v", KEY, "r", "p")
    raw = bytearray(base64.b64decode(sealed[part]))
    raw[-1] ^= 1
    with pytest.raises(SealBrokenError, match="COMMITMENT_MISMATCH" if part == "m" else "does not open"):
        unseal({**sealed, part: base64.b64encode(raw).decode()}, KEY, "r", "p")


def test_a_digest_needs_its_salt() -> None:
    assert salted_digest({"a": 1}, bytes(32)) != salted_digest({"a": 1}, bytes([1]) * 32)
    assert salted_digest({"b": 2, "a": 1}, bytes(32)) == salted_digest({"a": 1, "b": 2}, bytes(32))


async def _stored(log: Log) -> dict[str, Any]:
    [(body,)] = await log.look("SELECT body FROM audit.intake ORDER BY n DESC LIMIT 1")
    return dict(json.loads(body))


@pytest.mark.contract("PV-1")
async def test_personal_fields_are_sealed_under_the_subjects_key(log: Log) -> None:
    given = record(
        subject_id="sub_mary",
        priv={"reason.text": "Mary called from 555-1234", "request.ip": "203.0.113.9", "nothing": None},
        before={"state": "ACTIVE", "name": "Mary"},
        after={"state": "SUSPENDED", "name": "Mary"},
        changed=["state"],
    )
    await log.writer.reads(log.app, [given])
    body = await _stored(log)
    for clear in ("Mary", "555-1234", "203.0.113.9", "sub_mary"):
        assert clear not in json.dumps(body)
    [(lookup, tag, wrapped)] = await log.look("SELECT lookup, tag, wrapped FROM audit.subject_key")
    assert lookup == log.keys.lookup("sub_mary")
    assert body["object"]["subject"] == tag
    key = DataKey(tag, unwrap(log.keys, lookup, wrapped))
    opened = {path: unseal(value, key, body["id"], path) for path, value in body["priv"].items()}
    assert opened["reason.text"] == "Mary called from 555-1234"
    assert opened["request.ip"] == "203.0.113.9"
    assert body["request"]["ipTag"] == log.keys.tag("203.0.113.9")
    assert set(opened) == {"reason.text", "request.ip", "before.salt", "after.salt"}
    assert body["before"] == salted_digest({"state": "ACTIVE", "name": "Mary"}, bytes.fromhex(opened["before.salt"]))
    assert body["after"] == salted_digest({"state": "SUSPENDED", "name": "Mary"}, bytes.fromhex(opened["after.salt"]))
    with pytest.raises(SealBrokenError):
        unseal(body["priv"]["reason.text"], log_key(log.keys), body["id"], "reason.text")


async def test_without_a_subject_the_logs_own_key_seals(log: Log) -> None:
    await log.writer.reads(log.app, [record(priv={"reason.text": "why"})])
    body = await _stored(log)
    assert unseal(body["priv"]["reason.text"], log_key(log.keys), body["id"], "reason.text") == "why"
    assert body["object"]["subject"] is None


@pytest.mark.contract("PV-1")
async def test_a_person_stands_in_the_log_only_as_a_tag(log: Log) -> None:
    given = record(
        action="subject.list",
        object={"type": "Subject", "id": "sub_a"},
        objects={"ids": ["sub_a", "sub_b"], "count": 2, "digest": "sha256:of-the-real-ids"},
    )
    await log.writer.reads(log.app, [given])
    body = await _stored(log)
    tags = dict(await log.look("SELECT lookup, tag FROM audit.subject_key"))
    expected = [tags[log.keys.lookup(name)] for name in ("sub_a", "sub_b")]
    assert body["object"]["id"] == body["object"]["subject"] == expected[0]
    assert body["objects"]["ids"] == expected
    assert body["objects"]["digest"] != "sha256:of-the-real-ids"
    assert "sub_" not in json.dumps(body)


async def test_a_subject_has_one_tag_for_good(log: Log) -> None:
    for _ in range(2):
        await log.writer.reads(
            log.app, [record(subject_id="sub_1"), record(subject_id="sub_2"), record(subject_id="sub_1")]
        )
    rows = await log.look("SELECT body::jsonb #>> '{object,subject}' FROM audit.intake ORDER BY n")
    tags = [row[0] for row in rows]
    assert tags[0] == tags[2] == tags[3] == tags[5]
    assert tags[1] == tags[4] != tags[0]


async def test_a_key_made_in_a_transaction_that_rolls_back_is_never_used(log: Log) -> None:
    conn = await asyncpg.connect(**log.database.as_role("cs_app"))
    transaction = conn.transaction()
    await transaction.start()
    first = await subject_keys(conn, log.keys, ["sub_1"])
    assert await subject_keys(conn, log.keys, ["sub_1"]) == first
    await transaction.rollback()
    second = await subject_keys(conn, log.keys, ["sub_1"])
    assert second["sub_1"].id != first["sub_1"].id
    assert await subject_keys(conn, log.keys, ["sub_1", "sub_1"]) == second
    await conn.close()


async def test_two_processes_that_meet_a_new_subject_agree_on_one_key(log: Log) -> None:
    one = await asyncpg.connect(**log.database.as_role("cs_app"))
    two = await asyncpg.connect(**log.database.as_role("cs_worker"))
    transaction = one.transaction()
    await transaction.start()
    first = await subject_keys(one, log.keys, ["sub_1"])
    waiting = asyncio.create_task(subject_keys(two, log.keys, ["sub_1"]))
    await asyncio.sleep(0.05)
    await transaction.commit()
    assert await waiting == first
    await one.close()
    await two.close()


async def test_an_erased_key_takes_the_fields_with_it_and_the_chain_stays_whole(log: Log) -> None:
    await log.writer.reads(log.app, [record(subject_id="sub_1", priv={"reason.text": "gone"})])
    await log.seal()
    eraser = await asyncpg.connect(**log.database.as_role("cs_eraser"))
    assert (
        await eraser.execute("DELETE FROM audit.subject_key WHERE lookup = $1", log.keys.lookup("sub_1")) == "DELETE 1"
    )
    await eraser.close()
    assert (await log.verify()).exit_code == 0
    conn = await asyncpg.connect(**log.database.as_role("cs_app"))
    fresh = await subject_keys(conn, log.keys, ["sub_1"])
    await conn.close()
    [(body,)] = await log.look("SELECT body FROM audit.record")
    parsed = json.loads(body)
    assert fresh["sub_1"].id != parsed["object"]["subject"]
    with pytest.raises(SealBrokenError):
        unseal(parsed["priv"]["reason.text"], fresh["sub_1"], parsed["id"], "reason.text")
