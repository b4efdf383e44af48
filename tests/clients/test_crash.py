"""kill -9 in each gap of a countersigned refund: nothing is done twice, nothing is lost, and the log verifies."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tarfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from countersign.settings import load
from tests.clients import operations as op
from tests.clients.amplify import Person
from tests.clients.conftest import Server, SignIn, signing_in
from tests.clients.test_scenario import refund_input, settled
from tests.conftest import private_folder, unpack


@pytest.fixture
def crashing(request: pytest.FixtureRequest, amplify_client: None) -> Iterator[Server]:
    """A server of its own that is killed once at the named point."""
    folder = private_folder()
    started = Server(
        folder / "home", workers=2, environment={"COUNTERSIGN_CRASH_AT": request.param} if request.param else {}
    )
    started.start()
    yield started
    started.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture
async def people(crashing: Server) -> AsyncIterator[SignIn]:
    async with signing_in(crashing) as enter:
        yield enter


async def database(server: Server, sql: str, *args: object) -> list[dict[str, Any]]:
    """What the database holds, read by its superuser."""
    conn = await asyncpg.connect(**load(home=server.home).superuser_kwargs())
    try:
        return [dict(row) for row in await conn.fetch(sql, *args)]
    finally:
        await conn.close()


async def asked(support: Person, amount: int = 12_000) -> dict[str, Any]:
    answer: dict[str, Any] = (await support.ask(op.REQUEST_REFUND, input=refund_input("o_1042", amount)))[
        "requestRefund"
    ]
    return answer


async def repeated(somebody: Person, document: str, **variables: Any) -> dict[str, Any]:
    """Say it until it is answered, as Amplify does by itself for a while when a connection dies."""
    answer: dict[str, Any] = {}
    for _ in range(50):
        answer = await somebody.graphql(document, **variables)
        if not answer.get("errors") and "thrown" not in answer:
            break
        await asyncio.sleep(0.2)
    return answer


def approval_of(request: dict[str, Any]) -> dict[str, Any]:
    return {"requestId": request["id"], "vote": "APPROVE", "payloadHash": request["payloadHash"]}


async def once(server: Server, refund_id: str, request_id: str) -> None:
    """The refund happened exactly once, wherever one counts."""
    assert [
        r["n"]
        for r in await database(
            server, "SELECT count(*) AS n FROM approval_execution WHERE request_id = $1", request_id
        )
    ] == [1]
    assert [
        r["n"] for r in await database(server, "SELECT count(*) AS n FROM kernel_refund WHERE key = $1", refund_id)
    ] == [1]
    assert [r["n"] for r in await database(server, "SELECT count(*) AS n FROM outbox WHERE key = $1", refund_id)] == [1]
    (ledger,) = await database(server, "SELECT * FROM order_ledger WHERE order_id = 'o_1042'")
    assert (ledger["succeeded_minor"], ledger["reserved_minor"]) == (12_000, 0)
    assert server.cli("audit", "verify").returncode == 0


@pytest.mark.contract("RL-3")
@pytest.mark.parametrize("crashing", [None], indirect=True)
async def test_a_server_killed_whole_takes_its_database_along_and_comes_back_with_everything(
    crashing: Server, people: SignIn
) -> None:
    support, senior = await people("support-agent"), await people("finance-senior")
    pending = await asked(support)
    assert crashing.process is not None
    (postmaster,) = await database(
        crashing, "SELECT pg_postmaster_start_time() AS at, current_setting('data_directory') AS folder"
    )
    pid = int(Path(postmaster["folder"], "postmaster.pid").read_text().splitlines()[0])
    os.kill(crashing.process.pid, signal.SIGKILL)
    crashing.process.wait(10)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            break
        await asyncio.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists(), "no stray postmaster"
    await asyncio.to_thread(crashing.start)
    request = (await senior.ask(op.GET_APPROVAL, id=pending["approvalRequest"]["id"]))["getApprovalRequest"]
    assert request["state"] == "PENDING"
    voted = (await senior.ask(op.VOTE, input=approval_of(request)))["voteOnApproval"]
    assert voted["request"]["execution"] == "EXECUTED"
    await settled(senior, pending["refund"]["id"], "SUCCEEDED")
    await once(crashing, pending["refund"]["id"], request["id"])


@pytest.mark.contract("RL-1", "ID-2")
@pytest.mark.parametrize("crashing", [None], indirect=True)
async def test_killed_between_the_approval_and_its_answer_the_repeat_replays(crashing: Server, people: SignIn) -> None:
    support, senior = await people("support-agent"), await people("finance-senior")
    pending = await asked(support)
    crashing.environment["COUNTERSIGN_CRASH_AT"] = "after_commit"
    await asyncio.to_thread(crashing.stop)
    await asyncio.to_thread(crashing.start)
    vote = approval_of(pending["approvalRequest"])
    again = await repeated(senior, op.VOTE, input=vote)
    assert (crashing.home / "crashed-after_commit").exists(), "the answer died with its worker"
    assert again["data"]["voteOnApproval"]["outcome"] == "REPLAYED"
    assert again["data"]["voteOnApproval"]["request"]["execution"] == "EXECUTED"
    await settled(senior, pending["refund"]["id"], "SUCCEEDED")
    await once(crashing, pending["refund"]["id"], pending["approvalRequest"]["id"])


@pytest.mark.contract("RL-2")
@pytest.mark.parametrize("crashing", ["before_numbering"], indirect=True)
async def test_killed_between_commit_and_delivery_the_subscriber_still_hears_everything_once(
    crashing: Server, people: SignIn
) -> None:
    support, senior = await people("support-agent"), await people("finance-senior")
    await senior.subscribe("approvals", op.LIVE_APPROVALS)
    pending = await asked(support)
    event = await senior.heard("approvals", 20, requestId=pending["approvalRequest"]["id"])
    assert (event["requestId"], event["state"]) == (pending["approvalRequest"]["id"], "PENDING")
    assert (crashing.home / "crashed-before_numbering").exists(), "the background child was killed on the way"
    await asyncio.sleep(1.5)
    with pytest.raises(TimeoutError):  # once
        await senior.heard("approvals", 0.1, requestId=pending["approvalRequest"]["id"])


@pytest.mark.contract("RL-2", "ID-3")
@pytest.mark.slow  # the claim of the killed delivery runs out after 30 seconds
@pytest.mark.parametrize("crashing", ["after_kernel_effect"], indirect=True)
async def test_killed_between_the_kernels_effect_and_our_note_the_money_leaves_once(
    crashing: Server, people: SignIn
) -> None:
    support, senior = await people("support-agent"), await people("finance-senior")
    pending = await asked(support)
    await senior.ask(op.VOTE, input=approval_of(pending["approvalRequest"]))
    refund = await settled(senior, pending["refund"]["id"], "SUCCEEDED")
    assert (crashing.home / "crashed-after_kernel_effect").exists(), "the background child was killed on the way"
    for _ in range(120):
        if refund["deliveries"][0]["state"] == "DELIVERED":
            break
        await asyncio.sleep(0.5)
        refund = (await senior.ask(op.GET_REFUND, id=refund["id"]))["getRefund"]
    assert [(d["state"], d["attempts"]) for d in refund["deliveries"]] == [("DELIVERED", 2)], "said twice, done once"
    await once(crashing, pending["refund"]["id"], pending["approvalRequest"]["id"])


@pytest.mark.contract("RL-2", "ID-3")
@pytest.mark.slow  # the claim of the killed delivery runs out after 30 seconds
@pytest.mark.parametrize("crashing", ["after_message_effect"], indirect=True)
async def test_killed_between_a_message_and_our_note_it_is_sent_once(crashing: Server, people: SignIn) -> None:
    agent = await people("ts-agent")
    given = {"caseId": "case_001", "body": "", "templateId": "tpl_info_needed_en", "internal": False}
    noted = (await agent.ask(op.ADD_NOTE, input={**given, "idempotencyKey": str(uuid.uuid4())}))["addNote"]
    note = noted["note"]["id"]
    found: list[dict[str, Any]] = []
    for _ in range(120):
        found = (await agent.ask(op.MESSAGE_DELIVERIES, note=note))["listDeliveries"]["items"]
        if found[0]["state"] == "DELIVERED":
            break
        await asyncio.sleep(0.5)
    assert (crashing.home / "crashed-after_message_effect").exists(), "the background child was killed on the way"
    assert [(d["state"], d["attempts"]) for d in found] == [("DELIVERED", 2)], "said twice, sent once"
    assert await database(crashing, "SELECT count(*) AS n FROM help_message WHERE key = $1", note) == [{"n": 1}]
    told = await database(crashing, "SELECT kind FROM timeline WHERE target_id = 'case_001' ORDER BY id")
    assert [one["kind"] for one in told][-3:] == ["note_added", "message_queued", "message_delivered"]
    assert crashing.cli("audit", "verify").returncode == 0


@pytest.mark.contract("RL-1", "ID-2")
@pytest.mark.parametrize("crashing", ["after_commit"], indirect=True)
async def test_killed_after_a_requests_commit_the_same_key_replays_it(crashing: Server, people: SignIn) -> None:
    support = await people("support-agent")
    one = {**refund_input("o_1042", 12_000), "idempotencyKey": str(uuid.uuid4())}
    again = await repeated(support, op.REQUEST_REFUND, input=one)
    assert (crashing.home / "crashed-after_commit").exists(), "the answer died with its worker"
    assert again["data"]["requestRefund"]["outcome"] == "REPLAYED"
    (ledger,) = await database(crashing, "SELECT reserved_minor FROM order_ledger WHERE order_id = 'o_1042'")
    assert ledger["reserved_minor"] == 12_000, "reserved once"


@pytest.mark.parametrize("crashing", [None], indirect=True)
async def test_with_the_database_stopped_a_bundle_and_the_public_key_prove_the_same(
    crashing: Server, people: SignIn
) -> None:
    support, senior = await people("support-agent"), await people("finance-senior")
    pending = await asked(support)
    await senior.ask(op.VOTE, input=approval_of(pending["approvalRequest"]))
    await settled(senior, pending["refund"]["id"], "SUCCEEDED")
    bundle, key = crashing.home.parent / "log", crashing.home / "keys" / "audit-signer.key.pub"
    crashing.cli("audit", "export", "--from", "0", "--to", "0", "--out", f"{bundle}.tar")
    await asyncio.to_thread(crashing.stop)

    proved = crashing.cli("audit", "verify", "--bundle", f"{bundle}.tar", "--key", str(key))
    assert proved.stdout.startswith("OK: ")
    with tarfile.open(f"{bundle}.tar") as packed:
        unpack(packed, bundle)
    (held,) = (path for path in (bundle / "tile" / "entries").rglob("*") if path.is_file())
    record = pending["audit"]["id"].encode()
    body = held.read_bytes()
    assert record in body
    held.write_bytes(body.replace(b"SERVICE_NOT_PROVIDED", b"SERVICE_NOT_PROVIDET", 1))
    forged = crashing.cli("audit", "verify", "--bundle", str(bundle), "--key", str(key), check=False)
    assert forged.returncode == 1
    assert "LEAF_MISMATCH" in forged.stdout
