"""Appends records: in the transaction of a unit of work, or by group commit for reads and denials.

A record is durable with its transaction and carries this process's counter, so a row that vanishes before it is sealed
leaves a hole. The hot path takes no shared lock and reads nothing but the keys of the subjects concerned.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from audit.keys import Keys
from audit.record import PERSON_TYPES, NotCanonicalError, Templated, fit, ids_digest, leaf, plain
from audit.sealing import DataKey, log_key, salted_digest, seal, subject_keys
from db.unit_of_work import UnitOfWork
from schema import telemetry
from schema.errors import ConsoleError
from schema.telemetry import Attributes, Key, Value

APPEND_SECONDS: Final = 2.0
CHECK_SECONDS: Final = 1.0
BATCH_RECORDS: Final = 500
BATCH_BYTES: Final = 1 << 20
WAITING_RECORDS: Final = 2_000
MAX_SEALED_CHARACTERS: Final = 4_000  # of one sealed value; a note is shorter
MAX_VOIDED: Final = 200

_CHANGED_PARTS: Final = ("object", "objects", "request", "fields", "approval")

_APPEND: Final = "SELECT audit.append($1::text[], $2::bytea[], $3::bytea[], $4::text[])"


@dataclass(frozen=True)
class Receipt:
    """What the answer carries: the record's id and its leaf hash in hex, by which the log can be held to it later."""

    id: str
    hash: str


@dataclass(frozen=True)
class Limits:
    """When privileged operations stop because the log is not kept safe any more (audit-design section 13)."""

    unanchored_seconds: float = 900.0
    intake_rows: int = 1_000_000


@dataclass(frozen=True)
class Prepared:
    """A record in its final bytes."""

    receipt: Receipt
    number: int
    kid: str
    mac: bytes
    leaf: bytes
    body: str
    decision: Attributes  # what telemetry counts it as


class Numbers:
    """The counter of one writer. Each record says which earlier numbers are settled for good and which are void.

    A number is settled once it is known to be committed, or was declared void by a record that is committed. So a hole
    below ``settled`` is proof of a loss, and the numbers that a crash leaves open accuse nobody.
    """

    def __init__(self) -> None:
        self._next = 1
        self._open: dict[int, tuple[int, ...]] = {}  # drawn, fate unknown -> the void numbers its record declares
        self._void: set[int] = set()  # rolled back, not yet declared

    def draw(self) -> tuple[int, list[int], int]:
        """The next number, the numbers its record declares void, and the bound below which everything is settled."""
        number = self._next
        self._next += 1
        declared = tuple(sorted(self._void)[:MAX_VOIDED])
        self._void.difference_update(declared)
        undecided = {number, *self._open, *self._void}
        for carried in self._open.values():
            undecided.update(carried)
        self._open[number] = declared
        return number, list(declared), min(undecided)

    def end(self, number: int, *, committed: bool) -> None:
        """Say what became of a number. Not knowing counts as rolled back: declaring too much void hides nothing that arrived."""
        declared = self._open.pop(number, None)
        if declared is not None and not committed:
            self._void.update((number, *declared))


@dataclass
class _Waiting:
    pool: asyncpg.Pool[Any]
    records: Sequence[dict[str, Any]]
    done: asyncio.Future[list[Receipt]]
    link: object | None = None  # the span that waits
    prepared: list[Prepared] = field(default_factory=list)


class Writer:
    """One per process: fills in what only the writer knows, seals, hashes, authenticates, appends."""

    def __init__(
        self,
        keys: Keys,
        *,
        origin: str,
        tenant: str = "main",
        limits: Limits | None = None,
        writer_id: str | None = None,
    ) -> None:
        self.id: Final = writer_id or f"w-{secrets.token_hex(8)}"
        self._keys: Final = keys
        self._origin: Final = origin
        self._tenant: Final = tenant
        self._limits: Final = limits or Limits()
        self._numbers: Final = Numbers()
        self._checked_at = float("-inf")
        self._is_closed = False
        self._queue: deque[_Waiting] = deque()
        self._waiting = 0
        self._lane: asyncio.Task[None] | None = None

    # ---------- mutations ----------
    async def recorder(self, uow: UnitOfWork) -> None:
        """The unit of work's recorder: append its records in its transaction and leave their receipts in it.

        Raises ``AUDIT_UNAVAILABLE`` when the log is too far behind to be trusted with more.
        """
        await self.ensure_open(uow.conn)
        prepared = await self._prepare(uow.conn, uow.records)
        uow.on_end.append(lambda committed: self._end(prepared, committed=committed))
        await self._send(uow.conn, prepared)
        uow.receipts = [item.receipt for item in prepared]

    async def append_now(self, conn: asyncpg.Connection[Any], records: Sequence[dict[str, Any]]) -> list[Receipt]:
        """Append in a transaction of its own, whatever the backlog: the log's own records (heartbeat, export)."""
        prepared = await self._prepare(conn, records)
        committed = False
        try:
            await self._send(conn, prepared)
            committed = True
        finally:
            self._end(prepared, committed=committed)
        return [item.receipt for item in prepared]

    # ---------- reads and denials ----------
    async def reads(self, pool: asyncpg.Pool[Any], records: Sequence[dict[str, Any]]) -> list[Receipt]:
        """Make records durable before their data leaves, by group commit. Raises ``AUDIT_UNAVAILABLE`` within two seconds.

        All that wait go in one append; the next batch starts when the last one has ended. A caller that is cancelled
        leaves its record behind: it is the intent to disclose. The caller must not hold a connection of ``pool``.
        """
        if not records:
            return []
        if self._waiting + len(records) > WAITING_RECORDS:
            raise ConsoleError("AUDIT_UNAVAILABLE")
        done: asyncio.Future[list[Receipt]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(pool, records, done, telemetry.here()))
        self._waiting += len(records)
        if self._lane is None or self._lane.done():
            # In a context of its own: it works for everyone, so it is no part of the request that happened to wake it.
            self._lane = asyncio.create_task(self._drain(), name="audit-reads", context=Context())
        try:
            async with asyncio.timeout(APPEND_SECONDS):
                return await done
        except TimeoutError as error:
            raise ConsoleError("AUDIT_UNAVAILABLE") from error

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._lane is not None:
            await self._lane

    async def _drain(self) -> None:
        while self._queue:
            batch = self._take()
            told = telemetry.span("audit append", {"countersign.record.count": _records(batch)}, links=_links(batch))
            try:
                with told:
                    async with asyncio.timeout(APPEND_SECONDS):
                        async with batch[0].pool.acquire(timeout=APPEND_SECONDS) as conn:
                            await self._append_batch(conn, batch)
            except Exception as error:  # noqa: BLE001  (each waiting request must hear of it; none may be left hanging)
                self._fail(batch, error)
            finally:
                for item in batch:
                    self._end(
                        item.prepared,
                        committed=item.done.done() and not item.done.cancelled() and item.done.exception() is None,
                    )

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        count = 0
        while self._queue and (
            not batch or (self._queue[0].pool is batch[0].pool and count + len(self._queue[0].records) <= BATCH_RECORDS)
        ):
            item = self._queue.popleft()
            count += len(item.records)
            batch.append(item)
        self._waiting -= count
        return batch

    async def _append_batch(self, conn: asyncpg.Connection[Any], batch: list[_Waiting]) -> None:
        await self.ensure_open(conn)
        for item in batch:
            try:
                item.prepared = await self._prepare(conn, item.records)
            except NotCanonicalError as error:
                self._fail([item], error)
        for part in _parts([item for item in batch if item.prepared]):
            try:
                await self._send(conn, [one for item in part for one in item.prepared])
            except asyncpg.DataError:
                # One bad record must not refuse the others: each request on its own.
                for item in part:
                    await self._send_alone(conn, item)
            else:
                for item in part:
                    self._succeed(item)

    async def _send_alone(self, conn: asyncpg.Connection[Any], item: _Waiting) -> None:
        try:
            await self._send(conn, item.prepared)
        except asyncpg.DataError as error:
            self._fail([item], error)
        else:
            self._succeed(item)

    @staticmethod
    def _succeed(item: _Waiting) -> None:
        if not item.done.done():
            item.done.set_result([one.receipt for one in item.prepared])

    @staticmethod
    def _fail(batch: list[_Waiting], error: Exception) -> None:
        for item in batch:
            if not item.done.done():
                refusal = error if isinstance(error, ConsoleError) else ConsoleError("AUDIT_UNAVAILABLE")
                refusal.__cause__ = None if refusal is error else error
                item.done.set_exception(refusal)
                item.done.exception()  # read here, so that a caller who has left is no warning

    # ---------- fail closed ----------
    async def ensure_open(self, conn: asyncpg.Connection[Any]) -> None:
        """Refuse when the oldest record has waited too long for its anchor or too many wait for the sealer. Asked once a second."""
        now = time.monotonic()
        if now - self._checked_at >= CHECK_SECONDS:
            row = await conn.fetchrow(
                "SELECT waiting, unanchored_seconds FROM audit.backlog($1)", self._limits.intake_rows
            )
            self._is_closed = (
                row is None
                or row["unanchored_seconds"] > self._limits.unanchored_seconds
                or row["waiting"] > self._limits.intake_rows
            )
            self._checked_at = now
        if self._is_closed:
            raise ConsoleError("AUDIT_UNAVAILABLE", "The audit log is too far behind, so nothing was done.")

    # ---------- the bytes ----------
    async def _prepare(self, conn: asyncpg.Connection[Any], records: Sequence[dict[str, Any]]) -> list[Prepared]:
        people: set[str] = set()
        for record in records:
            people.update(_people(record))
        data_keys = await subject_keys(conn, self._keys, sorted(people))
        prepared: list[Prepared] = []
        try:
            prepared.extend(self._finish(record, data_keys) for record in records)
        except BaseException:
            self._end(prepared, committed=False)
            raise
        return prepared

    def _finish(self, record: dict[str, Any], data_keys: dict[str, DataKey]) -> Prepared:
        body = {name: value for name, value in record.items() if not name.startswith("_")}
        for part in _CHANGED_PARTS:  # the caller's record stays as it is
            if body[part] is not None:
                body[part] = dict(body[part])
        clear = dict(record.get("_priv") or {})
        subject = record.get("_subject")
        key = data_keys[subject] if subject is not None else log_key(self._keys)
        if body["object"] is not None:
            body["object"]["subject"] = key.id if subject is not None else None
            _put_tags(body, clear, data_keys)
        salts: dict[str, str] = {}
        for name in ("before", "after"):
            value = record.get(f"_{name}")
            body[name] = None
            if value is not None:
                salt = secrets.token_bytes(32)
                body[name], salts[f"{name}.salt"] = salted_digest(value, salt), salt.hex()
        if "request.ip" in clear:
            body["request"]["ipTag"] = self._keys.tag(clear["request.ip"])
        for path, text in clear.items():
            if len(text) > MAX_SEALED_CHARACTERS:
                clear[path] = text[:MAX_SEALED_CHARACTERS]
                body["truncated"] = True
        body["priv"] = {path: seal(text, key, body["id"], path) for path, text in sorted((clear | salts).items())}
        number, voided, settled = self._numbers.draw()
        try:
            body |= {
                "log": self._origin,
                "tenant": self._tenant,
                "w": self.id,
                "wn": number,
                "voided": voided,
                "settled": settled,
            }
            data = record.bytes_of(body) if isinstance(record, Templated) else _bytes_of(body)
        except BaseException:
            self._numbers.end(number, committed=False)
            raise
        hashed = leaf(data)
        return Prepared(
            Receipt(body["id"], hashed.hex()),
            number,
            self._keys.writer.id,
            self._keys.mac(hashed),
            hashed,
            data.decode(),
            _decision(record) if telemetry.on() else telemetry.NONE,
        )

    async def _send(self, conn: asyncpg.Connection[Any], prepared: Sequence[Prepared]) -> None:
        columns = list(zip(*((one.kid, one.mac, one.leaf, one.body) for one in prepared), strict=True))
        began = time.perf_counter()
        try:
            await conn.execute(_APPEND, *(list(column) for column in columns), timeout=APPEND_SECONDS)
        except Exception as error:
            telemetry.measure(
                telemetry.AUDIT_APPEND, time.perf_counter() - began, {"error.type": telemetry.code_of(error)}
            )
            raise
        telemetry.measure(telemetry.AUDIT_APPEND, time.perf_counter() - began)

    def _end(self, prepared: Sequence[Prepared], *, committed: bool) -> None:
        for one in prepared:
            self._numbers.end(one.number, committed=committed)
            if committed:
                telemetry.count(telemetry.DECISIONS, labels=one.decision)


def _records(batch: Sequence[_Waiting]) -> int:
    return sum(len(item.records) for item in batch)


def _links(batch: Sequence[_Waiting]) -> list[object | None]:
    return [item.link for item in batch]


def _decision(record: dict[str, Any]) -> Attributes:
    """The record as a metric counts it: its kind, the verdict, the outcome, and the code of a refusal."""
    decision, result = record["decision"], record["result"] or {}
    told: dict[Key, Value] = {
        "countersign.record.kind": record["kind"],
        "countersign.decision": decision["verdict"],
        "countersign.outcome": result.get("outcome") or "NONE",
    }
    code = decision["code"] or result.get("code")
    return {**told, "error.type": code} if code else told


def _put_tags(body: dict[str, Any], clear: dict[str, str], data_keys: dict[str, DataKey]) -> None:
    """Put tags where ids of persons stand; the object's own id moves to the sealed part."""
    target, targets = body["object"], body["objects"]
    if target["type"] not in PERSON_TYPES:
        return
    if target["id"] is not None:
        clear["object.id"] = target["id"]
        target["id"] = data_keys[target["id"]].id
    if targets is not None and targets["ids"]:
        targets["ids"] = [data_keys[one].id for one in targets["ids"]]
        targets["digest"] = ids_digest(targets["ids"])


def _bytes_of(body: dict[str, Any]) -> bytes:
    try:
        return fit(body)
    except NotCanonicalError:
        return fit(plain(body))  # a value put in after new_record, which makes all values plain


def _people(record: dict[str, Any]) -> set[str]:
    """Subjects whose key or tag the record needs."""
    people = {record["_subject"]} if record.get("_subject") is not None else set()
    target, targets = record.get("object"), record.get("objects")
    if target is not None and target["type"] in PERSON_TYPES:
        people.update(one for one in (target["id"], *((targets or {}).get("ids") or ())) if one is not None)
    return people


def _parts(batch: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """Cut a batch where its bytes would pass the bound."""
    parts: list[list[_Waiting]] = []
    size = 0
    for item in batch:
        length = sum(len(one.body) for one in item.prepared)
        if not parts or size + length > BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += length
    return parts
