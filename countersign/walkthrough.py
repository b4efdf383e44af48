"""``countersign demo``: one refund, from request to proof, in front of the reader's eyes; every step shows the call it made.

Runs against a server that is up, or starts one of its own and stops it again. What a step promises is checked; the first
promise that does not hold ends the walk with exit 1, so the walk is itself a test.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
from rich.console import Console
from rich.markup import escape
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from countersign.dev_tokens import NobodyError, find
from countersign.settings import Settings

ORDER: Final = "o_1042"
AMOUNT: Final = 12_000
REQUEST: Final = """mutation ($input: RequestRefundInput!) { requestRefund(input: $input) {
  outcome refund { id state } ledger { refundable { amountMinor } reserved { amountMinor } }
  approvalRequest { id summary payloadHash approvalsNeeded } audit { id hash } } }"""
VOTE: Final = """mutation ($input: VoteInput!) { voteOnApproval(input: $input) {
  outcome request { state execution votes { voter { displayName } vote } } audit { id hash } } }"""
REFUND: Final = "query ($id: ID!) { getRefund(id: $id) { state externalRef deliveries { port state attempts } } }"
ALERTS: Final = "subscription { onAlert { kind severity targetId summary } }"
TRAIL: Final = """query ($id: ID!) { listAudit(filter: { approvalRequestId: { eq: $id } }, sortDirection: ASC, limit: 50) { items {
  seq actor { displayName } action verdict approvalStep reason { code } policyVersion hash } } }"""
PROOF: Final = "query ($id: ID!) { getAuditProof(id: $id) { seq size rootHash path } }"


class BrokenPromiseError(Exception):
    """A step did not do what it says; the message names the step."""


class NotOursError(Exception):
    """What answers at the port is not this installation's server."""


@dataclass
class Walk:
    """The narrator: a numbered step, the call, what came back, and a check."""

    settings: Settings
    url: str
    tls_url: str
    console: Console
    steps: int = 0
    tokens: dict[str, str] = field(default_factory=dict)

    def step(self, title: str) -> None:
        self.steps += 1
        self.console.print(f"\n[bold]{self.steps}. {escape(title)}[/bold]")

    def holds(self, promise: str, kept: bool, found: object = None) -> None:
        if not kept:
            raise BrokenPromiseError(
                f"step {self.steps}: {promise}" + (f"; found {found}" if found is not None else "")
            )
        self.console.print(f"   [green]✓[/green] {escape(promise)}", soft_wrap=True)

    def shows(self, line: str) -> None:
        self.console.print(f"   [dim]{escape(line)}[/dim]", soft_wrap=True)

    async def token(self, handle: str) -> str:
        if handle not in self.tokens:
            self.tokens[handle] = (await command(self.settings, "token", "--as", handle)).stdout.strip()
        return self.tokens[handle]

    async def call(self, handle: str, document: str, **variables: Any) -> dict[str, Any]:
        """One GraphQL call as that person, shown in one line; returns the whole answer."""
        token = await self.token(handle)
        name = document.split("{", 2)[1].partition("(")[0].strip()
        self.shows(f"{handle} ▸ POST {self.url}/graphql  {name} {json.dumps(variables, separators=(',', ':'))}")
        body = json.dumps({"query": document, "variables": variables}).encode()
        headers = {"Content-Type": "application/json", "Authorization": token}
        request = urllib.request.Request(f"{self.url}/graphql", body, headers)  # noqa: S310 - our own address

        def send() -> dict[str, Any]:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                result: dict[str, Any] = json.load(answer)
                return result

        answer = await asyncio.to_thread(send)
        for error in answer.get("errors", []):
            self.shows(f"   ← {error['errorType']}: {error['message']}")
        return answer


async def command(settings: Settings, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run another ``countersign`` command with the same home, as a person would."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "countersign", *args],
            env=settings.child_environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = await asyncio.to_thread(run)
    if check and done.returncode:
        raise BrokenPromiseError(f"countersign {' '.join(args)} exited {done.returncode}: {done.stderr.strip()}")
    return done


@asynccontextmanager
async def _listening(walk: Walk, handle: str) -> AsyncIterator[ClientConnection]:
    """Subscribe to onAlert over AppSync's real-time protocol, as Amplify does."""
    token = await walk.token(handle)
    host = walk.tls_url.removeprefix("https://")
    authorization = {"host": host, "Authorization": token}
    header = base64.urlsafe_b64encode(json.dumps(authorization).encode()).decode().rstrip("=")
    context = ssl.create_default_context(cafile=str(walk.settings.home_path / "tls" / "ca.pem"))
    async with connect(
        f"wss://{host}/graphql/realtime",
        subprotocols=[Subprotocol("graphql-ws"), Subprotocol(f"header-{header}")],
        ssl=context,
    ) as socket:
        await socket.send(json.dumps({"type": "connection_init"}))
        await _frame(socket, "connection_ack")
        data = json.dumps({"query": ALERTS, "variables": {}})
        await socket.send(
            json.dumps(
                {
                    "id": str(uuid.uuid4()),
                    "type": "start",
                    "payload": {"data": data, "extensions": {"authorization": authorization}},
                }
            )
        )
        await _frame(socket, "start_ack")
        walk.shows(f"{handle} ▸ wss://{host}/graphql/realtime  subscription onAlert")
        yield socket


async def _frame(socket: ClientConnection, kind: str, seconds: float = 15) -> dict[str, Any]:
    """The next frame of that kind; keep-alives are skipped."""
    async with asyncio.timeout(seconds):
        while True:
            frame: dict[str, Any] = json.loads(await socket.recv())
            if frame["type"] == kind:
                return frame
            if frame["type"] in ("connection_error", "error"):
                raise BrokenPromiseError(f"the socket answered {frame}")


async def _alert_about(socket: ClientConnection, target_id: str) -> dict[str, Any]:
    """The first alert about that object; others may be waiting for the senior too."""
    while True:
        alert: dict[str, Any] = (await _frame(socket, "data"))["payload"]["data"]["onAlert"]
        if alert["targetId"] == target_id:
            return alert


async def walk_refund(walk: Walk) -> None:
    """The story. Raises ``BrokenPromiseError`` at the first promise that does not hold."""
    walk.step("A finance senior listens for alerts")
    async with _listening(walk, "finance-senior") as socket:
        walk.step("A support agent, who may refund 50.00 alone, asks for 120.00")
        asked = (await walk.call("support-agent", REQUEST, input={
            "orderId": ORDER, "amount": {"amountMinor": AMOUNT, "currency": "EUR"}, "idempotencyKey": str(uuid.uuid4()), "reason": {"code": "SERVICE_NOT_PROVIDED"},
        }))["data"]["requestRefund"]  # fmt: skip
        request = asked["approvalRequest"]
        walk.holds("it waits for a second person", asked["outcome"] == "PENDING_APPROVAL", asked["outcome"])
        walk.holds(
            f"the sum is reserved already: {asked['ledger']['reserved']['amountMinor'] / 100:.2f} EUR",
            asked["ledger"]["reserved"]["amountMinor"] >= AMOUNT,
        )
        walk.shows(f"bound to payload {request['payloadHash'][:16]}…: {request['summary']}")
        alert = await _alert_about(socket, request["id"])
        walk.holds(
            f"the senior is told: {alert['summary']}",
            alert["kind"] == "APPROVAL_WAITING",
            alert,
        )

    vote = {"requestId": request["id"], "vote": "APPROVE", "payloadHash": request["payloadHash"]}
    walk.step("The agent tries to approve his own request")
    own = await walk.call("support-agent", VOTE, input=vote)
    walk.holds(
        "he cannot", bool(own.get("errors")) and own["errors"][0]["errorType"] in ("Unauthorized", "NOT_ELIGIBLE"), own
    )

    walk.step("The senior approves exactly what was shown")
    approved = (await walk.call("finance-senior", VOTE, input=vote))["data"]["voteOnApproval"]
    walk.holds(
        "it is approved and executed in one transaction", approved["request"]["execution"] == "EXECUTED", approved
    )

    walk.step("The money leaves once the record is anchored, keyed by the refund's id")
    refund: dict[str, Any] = {}
    deadline = time.monotonic() + 30
    while refund.get("state") != "SUCCEEDED" and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        refund = (await walk.call("finance-senior", REFUND, id=asked["refund"]["id"]))["data"]["getRefund"]
    walk.holds(
        f"the kernel answered, the refund SUCCEEDED as {refund.get('externalRef')}",
        refund["state"] == "SUCCEEDED",
        refund,
    )

    walk.step("An auditor reads who did what, why, and under which policy")
    trail = (await walk.call("auditor", TRAIL, id=request["id"]))["data"]["listAudit"]["items"]
    for r in trail:
        reason = (r["reason"] or {}).get("code") or ""
        walk.shows(
            f"#{r['seq']:.0f} {r['actor']['displayName']}: {r['action']} {r['approvalStep'] or ''} {r['verdict']} {reason} (policy {r['policyVersion']}) {r['hash'][:12]}…"
        )
    walk.holds(
        "request, vote and execution are there",
        {"REQUESTED", "VOTED", "EXECUTED"} <= {r["approvalStep"] for r in trail},
    )
    proof = (await walk.call("auditor", PROOF, id=asked["audit"]["id"]))["data"]["getAuditProof"]
    walk.holds(
        f"the first record is leaf {proof['seq']:.0f} of {proof['size']:.0f}, by {len(proof['path'])} hashes",
        proof["size"] > proof["seq"],
    )

    walk.step("Anyone with the public key checks the whole log")
    await _verify(walk, intact=True)
    await _tamper(walk, asked["audit"]["id"])


async def _verify(walk: Walk, *, intact: bool, names: str = "") -> None:
    walk.shows("$ countersign audit verify")
    done = await command(walk.settings, "audit", "verify", check=False)
    for line in done.stdout.strip().splitlines()[-6:]:
        walk.shows(line)
    if intact:
        walk.holds("the log is intact", done.returncode == 0, done.stdout + done.stderr)
    else:
        walk.holds(
            "the change is found, and the record is named",
            done.returncode == 1 and names in done.stdout,
            done.stdout + done.stderr,
        )


async def _tamper(walk: Walk, record_id: str) -> None:
    """As a database superuser, change one byte of one record; find it; put it back."""
    walk.step("A database superuser takes the guards off and changes one byte of that record")
    conn: asyncpg.Connection[Any] = await asyncpg.connect(**walk.settings.superuser_kwargs())
    try:
        body = await conn.fetchval("SELECT body FROM audit.record WHERE id = $1", record_id)
        forged = body.replace("SERVICE_NOT_PROVIDED", "SERVICE_NOT_PROVIDET", 1)
        await _overwrite(conn, record_id, forged)
        walk.shows("UPDATE audit.record SET body = replace(body, 'SERVICE_NOT_PROVIDED', 'SERVICE_NOT_PROVIDET')")
        try:
            await _verify(walk, intact=False, names=record_id)
        finally:
            await _overwrite(conn, record_id, body)
    finally:
        await conn.close()
    walk.step("The byte is put back")
    await _verify(walk, intact=True)


async def _overwrite(conn: asyncpg.Connection[Any], record_id: str, body: str) -> None:
    """What only a superuser can: drop the guards for one statement of one transaction."""
    partition = await conn.fetchval("SELECT tableoid::regclass::text FROM audit.record WHERE id = $1", record_id)
    events = [
        row["evtname"] for row in await conn.fetch("SELECT evtname FROM pg_event_trigger WHERE evtenabled <> 'D'")
    ]
    rows = await conn.fetch(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = $1::text::regclass AND NOT tgisinternal", partition
    )
    triggers = [row["tgname"] for row in rows]
    async with conn.transaction():
        for name in events:
            await conn.execute(f'ALTER EVENT TRIGGER "{name}" DISABLE')
        for name in triggers:
            await conn.execute(f'ALTER TABLE {partition} DISABLE TRIGGER "{name}"')
        await conn.execute(f"UPDATE {partition} SET body = $2 WHERE id = $1", record_id, body)  # noqa: S608 - a catalogue name
        for name in triggers:
            await conn.execute(f'ALTER TABLE {partition} ENABLE ALWAYS TRIGGER "{name}"')
        for name in events:
            await conn.execute(f'ALTER EVENT TRIGGER "{name}" ENABLE ALWAYS')


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)  # noqa: PLR2004
    except (OSError, urllib.error.URLError):
        return False


def _ours(settings: Settings, tls_url: str) -> None:
    """Raises ``NotOursError`` unless the server there shows a certificate of this home's authority."""
    host, _, port = tls_url.removeprefix("https://").partition(":")
    try:
        context = ssl.create_default_context(cafile=str(settings.home_path / "tls" / "ca.pem"))
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except OSError as error:
        raise NotOursError(
            f"No server of {settings.home_path} answers at {tls_url}; name its ports with --port and --tls-port."
        ) from error


async def run(settings: Settings, port: int, tls_port: int) -> int:
    """Walk on the server at these ports, or on one started for the walk. Returns the exit code."""
    console = Console(highlight=False)
    url, tls_url = f"http://127.0.0.1:{port}", f"https://localhost:{tls_port}"
    started: subprocess.Popen[bytes] | None = None
    log = settings.home_path / "demo-server.log"
    try:
        if not await asyncio.to_thread(_answers, url):
            console.print(f"No server at {url}; starting one for the walk (its output: {log}).", soft_wrap=True)
            started = await asyncio.to_thread(_start, settings, port, tls_port, log)
            deadline = time.monotonic() + 90
            while not await asyncio.to_thread(_answers, url):
                if started.poll() is not None or time.monotonic() > deadline:
                    said = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
                    sys.stderr.write(
                        f"The server did not start; it said: {said} One that runs on other ports is named with --port and --tls-port.\n"
                    )
                    return 1
                await asyncio.sleep(0.2)
        await asyncio.to_thread(_ours, settings, tls_url)
        await find(settings, "finance-senior")
        await walk_refund(Walk(settings, url, tls_url, console))
    except BrokenPromiseError as broken:
        sys.stderr.write(f"Not as promised: {broken}\n")
        return 1
    except (NotOursError, NobodyError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    finally:
        if started is not None:
            started.terminate()
            await asyncio.to_thread(started.wait, 20)
    console.print("\n[bold green]Countersigned, delivered, recorded, proved, and the forgery found.[/bold green]")
    return 0


def _start(settings: Settings, port: int, tls_port: int, log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "countersign", "serve", "--port", str(port), "--tls-port", str(tls_port)],
            env=settings.child_environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
