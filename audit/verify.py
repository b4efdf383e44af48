"""The verifier: is this log what its signed checkpoints say? Needs the standard library and ``cryptography``, nothing else.

Hashes and trees are RFC 6962's, heads are C2SP signed notes, records canonical JSON. The same checks serve an exported
bundle (``audit.bundle``, which is all that an auditor needs beside this file) and the live store (``audit.live``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WIDTH: Final = 256  # hashes of a full tile
HASH: Final = 32
MAX_FINDINGS: Final = 100
MAX_SIGNATURES: Final = 64
MAX_INTEGER: Final = 2**53 - 1
MAX_SKEW: Final = timedelta(minutes=5)
TRUST: Final = ("KEY", "PIN", "ANCHOR", "WITNESS", "WRITER_MAC", "STATE")
NO_CONCLUSION: Final = 2
# 3 is a warning; every other code is 1, tampering.
SEVERITY: Final = {"NO_TRUSTED_CHECKPOINT": 2, "NO_TRUSTED_SIGNATURE": 2, "UNKNOWN_KEY": 2, "STALE": 2} | dict.fromkeys(
    ("CLOCK_SKEW", "CLOCK_BACK", "UNEXPECTED_FILE"), 3
)
_PATHS: Final = (
    "w=w wn=wn kind=kind actor=actor.sub action=action obj_type=object.type obj_id=object.id subject=object.subject city=object.city "
    "decision=decision.verdict code=decision.code policy=policy.row approval=approval.request request=request.id"
)
COLUMNS: Final = {name: tuple(path.split(".")) for name, path in (pair.split("=") for pair in _PATHS.split())}


# ---------- hashes ----------
def leaf_hash(body: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def perfect(hashes: Sequence[bytes]) -> bytes:
    """The root over 2^k hashes."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]


def fold(levels: Sequence[Sequence[bytes]]) -> bytes:
    """The root of a tree from the unfinished tile of each level, lowest first."""
    root: bytes | None = None
    for hashes in levels:
        end = len(hashes)
        for width in (1, 2, 4, 8, 16, 32, 64, 128):
            if len(hashes) & width:
                part = perfect(hashes[end - width : end])
                root = part if root is None else node_hash(part, root)
                end -= width
    return hashlib.sha256(b"").digest() if root is None else root


def split(data: bytes) -> list[bytes]:
    return [data[i : i + HASH] for i in range(0, len(data), HASH)]


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    """C2SP tlog-tiles: tile/<level>/<index in groups of three digits>[.p/<width>]."""
    digits = f"{index % 1000:03d}"
    while index := index // 1000:
        digits = f"x{index % 1000:03d}/{digits}"
    return f"tile/{level}/{digits}" + ("" if width == WIDTH else f".p/{width}")


# ---------- canonical records ----------
def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not allowed")


def _integer(token: str) -> int:
    value = int(token)
    return value if -MAX_INTEGER <= value <= MAX_INTEGER else _refuse(token)


def _walk(value: object) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("U+0000 in a string")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not key.isascii():
                raise ValueError("a key that is not ASCII")
            _walk(item)
    elif isinstance(value, list):
        for item in value:
            _walk(item)


def parse_record(body: bytes) -> dict[str, Any]:
    """The record of its canonical bytes (profile J1: RFC 8785 without floats); raises ValueError outside of it."""
    text = body.decode("utf-8")
    value = json.loads(text, parse_float=_refuse, parse_constant=_refuse, parse_int=_integer)
    if json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8") != body:
        raise ValueError("not the canonical form")
    if not text.isascii() or "\\u0000" in text:
        _walk(value)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004  (one kind of error for one kind of finding)
    return value


def at_path(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


# ---------- signed checkpoints ----------
@dataclass(frozen=True)
class Checkpoint:
    """A verified tree head; ``source`` says where it was found."""

    origin: str
    size: int
    root: bytes
    note: str
    signed_by: tuple[str, ...]
    source: str = "LOG"


class NoteError(Exception):
    """A note that proves nothing, with the code of the finding."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code: Final = code


def parse_vkey(text: str) -> tuple[str, bytes, Ed25519PublicKey]:
    """Name, key id and key of ``name+hexid+base64(0x01 || public key)``; raises ValueError."""
    name, hexid, encoded = text.strip().split("+", 2)
    raw = base64.b64decode(encoded, validate=True)
    if len(raw) != 1 + HASH or raw[0] != 1 or not name:
        raise ValueError("not an Ed25519 verifier key")
    if hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4].hex() != hexid:
        raise ValueError("the key id does not belong to the key")
    return name, bytes.fromhex(hexid), Ed25519PublicKey.from_public_bytes(raw[1:])


def read_note(note: str, vkeys: Iterable[str], *, origin: str | None = None, source: str = "LOG") -> Checkpoint:
    """Parse a checkpoint strictly and verify it; lines of unknown keys are ignored, one bad line of a known key is fatal."""
    text, _, lines = note.rpartition("\n\n")
    try:
        origin_, number, encoded, *rest = text.split("\n")
        root, size = base64.b64decode(encoded, validate=True), int(number)
        signatures = [line.split(" ") for line in lines.removesuffix("\n").split("\n")]
        signed = [(name, base64.b64decode(data, validate=True)) for _, name, data in signatures]
    except (ValueError, binascii.Error) as error:
        raise NoteError("MALFORMED_CHECKPOINT", "the checkpoint is not a signed tree head") from error
    strict = note.endswith("\n") and str(size) == number and size >= 0 and len(root) == HASH and origin_ and all(rest)
    dashed = len(signed) <= MAX_SIGNATURES and all(dash == "\N{EM DASH}" and name for dash, name, _ in signatures)
    if not strict or not dashed or any(c < " " and c != "\n" for c in note):
        raise NoteError("MALFORMED_CHECKPOINT", "the checkpoint is not a signed tree head")
    known = {(name, key_id): key for name, key_id, key in map(parse_vkey, vkeys)}
    good: list[str] = []
    for name, data in signed:
        key = known.get((name, data[:4]))
        if key is None:
            continue
        try:
            key.verify(data[4:], text.encode() + b"\n")
        except InvalidSignature as error:
            raise NoteError(
                "SIGNATURE_INVALID", f"the signature of {name}+{data[:4].hex()} on checkpoint {size} does not verify"
            ) from error
        good.append(f"{name}+{data[:4].hex()}")
    if not good:
        names = ", ".join(f"{name}+{data[:4].hex()}" for name, data in signed)
        raise NoteError("UNKNOWN_KEY", f"checkpoint {size} is signed by {names}, none of which you trust")
    if origin is not None and origin_ != origin:
        raise NoteError("WRONG_ORIGIN", f"checkpoint {size} is of the log {origin_}, not of {origin}")
    return Checkpoint(origin_, size, root, note, tuple(good), source)


# ---------- report ----------
@dataclass
class Finding:
    """One cause; from ``seq`` to ``to_seq`` when it is a run of records."""

    code: str
    detail: str
    seq: int | None = None
    to_seq: int | None = None
    record_id: str | None = None
    expected: str | None = None
    found: str | None = None
    written_by: str | None = None
    partition: str | None = None
    neighbours_intact: bool | None = None

    @property
    def severity(self) -> int:
        return SEVERITY.get(self.code, 1)

    @property
    def text(self) -> str:
        run = "" if self.to_seq == self.seq else f"..{self.to_seq}"
        places = (
            ("seq", None if self.seq is None else f"{self.seq}{run}"),
            ("id", self.record_id),
            ("partition", self.partition),
        )
        text = " ".join([self.code, *(f"{name}={value}" for name, value in places if value)]) + f": {self.detail}"
        if self.written_by:
            text += f"; record was written by {self.written_by}"
        if self.neighbours_intact and self.seq is not None and self.to_seq is not None:
            names = " and ".join(str(n) for n in (self.seq - 1, self.to_seq + 1) if n >= 0)
            text += f"; neighbours {names} are intact" if " " in names else f"; neighbour {names} is intact"
        return text


@dataclass
class Report:
    """What was checked, on what trust, and what was found."""

    origin: str = ""
    from_seq: int = 0
    to_seq: int = -1
    checked: int = 0
    head_size: int = 0
    head_root: bytes = b""
    checkpoint: Checkpoint | None = None
    trusted: set[str] = field(default_factory=set)
    pending: int = 0
    erased: int = 0
    findings: list[Finding] = field(default_factory=list)
    finding_count: int = 0

    def add(self, finding: Finding) -> None:
        """Keep a finding; a run of the same code is one, and a hundred are enough."""
        finding.to_seq = finding.seq if finding.to_seq is None else finding.to_seq
        for last in reversed(self.findings[-8:]):
            if last.code == finding.code and last.to_seq is not None and finding.seq == last.to_seq + 1:
                last.to_seq = finding.to_seq
                return
        self.finding_count += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)

    @property
    def exit_code(self) -> int:
        """0 intact, 1 tampering, 3 cannot conclude."""
        severities = {finding.severity for finding in self.findings}
        return 1 if 1 in severities else 3 if NO_CONCLUSION in severities else 0

    @property
    def not_checked(self) -> list[str]:
        return [name for name in TRUST if name not in self.trusted]

    @property
    def first_bad_seq(self) -> int | None:
        return min((f.seq for f in self.findings if f.severity == 1 and f.seq is not None), default=None)

    def close(self) -> Report:
        """Say of each finding whether the records beside it are intact."""
        spans = [
            (f, f.seq, f.to_seq)
            for f in self.findings
            if f.severity == 1 and f.seq is not None and f.to_seq is not None
        ]
        for finding, low, high in spans:
            beside = [n for n in (low - 1, high + 1) if n >= 0]
            inside = all(self.from_seq <= n <= self.to_seq for n in beside)
            finding.neighbours_intact = inside and not any(a <= n <= b for n in beside for _, a, b in spans)
        return self

    def lines(self) -> list[str]:
        """The report as people read it: what it rests on first."""
        verdict = {0: "OK", 1: "NOT INTACT", 3: "CANNOT CONCLUDE"}[self.exit_code]
        trust = ", ".join(name for name in TRUST if name in self.trusted) or "nothing"
        lines = [
            f"{verdict}: {self.origin or 'log'}, records {self.from_seq}..{self.to_seq}, {self.checked} checked, {self.finding_count} finding(s)",
            f"head {self.head_size} {self.head_root.hex()}, {named(self.checkpoint) if self.checkpoint else 'no checkpoint'}",
            f"{self.pending} record(s) wait for their seal, {self.erased} field(s) erased",
            f"trusted: {trust}; not checked: {', '.join(self.not_checked)}",
            *(finding.text for finding in self.findings),
        ]
        more = self.finding_count - len(self.findings)
        return [*lines, f"and {more} more"] if more else lines


# ---------- the check ----------
@dataclass(frozen=True)
class Entry:
    """One record as it was found. What a bundle does not carry is None and is not checked."""

    seq: int
    body: bytes | None
    id: str | None = None
    leaf: bytes | None = None  # of the leaf row
    chain: bytes | None = None
    columns: Mapping[str, Any] | None = None
    kid: str | None = None
    mac: bytes | None = None
    db_at: datetime | None = None
    sealed_at: datetime | None = None


@dataclass
class _WriterCount:
    mark: int = 0  # all numbers up to here are accounted for
    ahead: set[int] = field(default_factory=set)
    settled: int = 0
    last_seq: int = 0

    def account(self, numbers: Iterable[int]) -> None:
        self.ahead.update(n for n in numbers if n > self.mark)
        while self.mark + 1 in self.ahead:
            self.mark += 1
            self.ahead.discard(self.mark)


class Checker:
    """Takes whole tiles of records in order, from ``first`` (a multiple of 256) to ``end``.

    ``tiles``: those of level 1 and up that lie over the range, and all that lie on a checkpoint's edge. A record has up to
    three hashes: of its body, in its tile, in its leaf row. The one that leads to the signed root is the truth.
    """

    def __init__(
        self,
        report: Report,
        tiles: Mapping[tuple[int, int], bytes],
        checkpoints: Sequence[Checkpoint],
        first: int,
        end: int,
        *,
        chain: bytes | None = None,
        writer_keys: Mapping[str, bytes] | None = None,
    ) -> None:
        self.report: Final = report
        self.tiles: Final = tiles
        self.first, self.end = first, end
        self.checkpoints: Final = sorted(checkpoints, key=lambda c: c.size)
        self.newest: Final = self.checkpoints[-1] if self.checkpoints else None
        self.chain = (
            hashlib.sha256(b"countersign/chain/v1\n" + report.origin.encode()).digest() if first == 0 else chain
        )
        self.writer_keys: Final = writer_keys
        self.missing: dict[bytes, Finding] = {}  # by leaf hash: a body that lost its place can still be named
        self._trusted = self._authenticate()
        self._levels = [self._stored(level, first) for level in range(1, height(first))]  # from level 1 up, as computed
        self._tail: list[bytes] = []
        self._last_good = first
        self._lost = False  # the tree differs from a checkpoint, and so it would from every later one
        self._ids: set[str] = set()
        self._writers: dict[str, _WriterCount] = {}
        self._sealed_at: datetime | None = None

    def _stored(self, level: int, size: int) -> list[bytes]:
        width = (size >> 8 * level) % WIDTH
        return split(self.tiles.get((level, size >> 8 * (level + 1)), b"")[: HASH * width])

    def _edge_root(self, size: int) -> bytes:
        return fold([self._stored(level, size) for level in range(height(size))])

    def _authenticate(self) -> set[tuple[int, int]]:
        """The tiles that the newest checkpoint vouches for: its edge, then downwards whatever hashes to its parent."""
        if self.newest is None or self._edge_root(self.newest.size) != self.newest.root:
            return set()
        trusted = {(level, self.newest.size >> 8 * (level + 1)) for level in range(height(self.newest.size))}
        for level, index in sorted(self.tiles, reverse=True):
            data = self.tiles[level, index]
            if len(data) == HASH * WIDTH and self._parent(level, index, trusted) == perfect(split(data)):
                trusted.add((level, index))
        return trusted

    def _parent(self, level: int, index: int, trusted: set[tuple[int, int]]) -> bytes | None:
        """The hash over a full tile, when something signed vouches for it."""
        above = (level + 1, index // WIDTH)
        if above not in trusted or self.newest is None or (index + 1) << 8 * (level + 1) > self.newest.size:
            return None
        return self._hash_of(*above, index % WIDTH)

    def _within(self, start: int, count: int) -> Sequence[Checkpoint]:
        """The checkpoints with start < size <= start + count."""
        sizes = [start, start + count]
        low, high = (bisect_right(self.checkpoints, size, key=lambda c: c.size) for size in sizes)
        return self.checkpoints[low:high]

    def _hash_of(self, level: int, index: int, place: int) -> bytes | None:
        data = self.tiles.get((level, index), b"")[HASH * place : HASH * (place + 1)]
        return data if len(data) == HASH else None

    # ---------- one tile ----------
    def feed(self, index: int, hashes: bytes | None, entries: Mapping[int, Entry]) -> None:
        """Check the records of one tile of level 0; ``hashes`` as stored, None when the tile is not there."""
        start = index * WIDTH
        count = min(WIDTH, self.end - start)
        stored = split((hashes or b"")[: HASH * count])
        tree = [*stored, *[None] * (count - len(stored))]
        found = [entries.get(start + i) for i in range(count)]
        bodies = [None if e is None or e.body is None else leaf_hash(e.body) for e in found]
        rows = [None if e is None else e.leaf for e in found]
        truth = self._truth(index, tree, bodies, rows)
        for i, entry in enumerate(found):
            self._place(start + i, entry, bodies[i], rows[i], truth[i], tree)
        self._advance(index, truth)

    def _fits(self, index: int, hashes: Sequence[bytes | None]) -> bool | None:
        """Whether these hashes of a tile lead to the signed root; None when nothing signed can tell."""
        known = [value for value in hashes if value is not None]
        if len(known) == WIDTH and (parent := self._parent(0, index, self._trusted)):
            return perfect(known) == parent
        start = index * WIDTH
        inside = [c for c in self._within(start, len(hashes)) if c.size < start + WIDTH]
        if len(known) < len(hashes):
            return False
        return (
            None
            if not inside or self._lost
            else fold([known[: inside[-1].size - start], *self._levels]) == inside[-1].root
        )

    def _truth(
        self, index: int, tree: list[bytes | None], bodies: list[bytes | None], rows: list[bytes | None]
    ) -> list[bytes | None]:
        verdict = self._fits(index, tree)
        if verdict or (verdict is None and tree == bodies):
            return tree
        mixed = [_most(values) for values in zip(tree, bodies, rows, strict=True)]
        for candidate in (bodies, rows, mixed):
            if self._fits(index, candidate):
                return candidate
        if None not in mixed and self._fits(index, mixed) is False and self.newest:
            self._lost = self._lost or len(mixed) < WIDTH
            detail = f"no hashes found here lead to {named(self.newest)}: what was recorded was changed in every place"
            self.report.add(Finding("CHECKPOINT_MISMATCH", detail, index * WIDTH, index * WIDTH + len(mixed) - 1))
        return mixed

    def _place(
        self,
        seq: int,
        entry: Entry | None,
        body: bytes | None,
        row: bytes | None,
        truth: bytes | None,
        tile: Sequence[bytes | None],
    ) -> None:
        value, problem = _parsed(entry)
        if self.chain is not None and truth is not None:
            self.chain = hashlib.sha256(b"\x02" + self.chain + truth).digest()
        elif entry is not None:
            self.chain = entry.chain  # lost: go on from what is stored
        self._count(seq, value)
        if not self.report.from_seq <= seq <= self.report.to_seq:
            return
        self.report.checked += 1
        about, place = _about(seq, entry, value), tile[seq % WIDTH]
        under = f"({named(self.newest) if self.newest and seq < self.newest.size else 'under no checkpoint yet'})"
        if body is None:
            gone = self._find(
                about, "MISSING_BODY", f"the tree has {_short(truth)} {under}, and there is no record", truth
            )
            if truth is not None:
                self.missing[truth] = gone
        elif body != truth:
            owner = [seq - seq % WIDTH + i for i, value_ in enumerate(tile) if value_ == body]
            detail = f"body hashes to {_short(body)}, tree has {_short(truth)} {under}"
            self._find(
                about,
                "LEAF_MISMATCH",
                detail + (f"; this body belongs to seq {owner[0]}" if owner else ""),
                truth,
                body,
            )
        elif row is not None and row != truth:
            self._find(
                about,
                "LEAF_MISMATCH",
                f"the leaf row has {_short(row)}, body and tree {_short(truth)} {under}",
                truth,
                row,
            )
        if place is not None and place != truth:
            self._find(
                about,
                "TILE_MISMATCH",
                f"the tile has {_short(place)}, the record hashes to {_short(truth)} {under}",
                truth,
                place,
            )
        elif entry is not None and entry.chain is not None and self.chain is not None and entry.chain != self.chain:
            detail = f"the chain has {_short(entry.chain)}, computed is {_short(self.chain)}"
            self._find(about, "CHAIN_MISMATCH", detail, self.chain, entry.chain)
        if entry is not None and body is not None and body == truth:
            self._content(about, entry, body, value, problem)

    def _find(self, about: Finding, code: str, detail: str, expected: object = None, found: object = None) -> Finding:
        finding = replace(about, code=code, detail=detail, expected=_text(expected), found=_text(found))
        self.report.add(finding)
        return finding

    def _content(self, about: Finding, entry: Entry, body: bytes, value: dict[str, Any], problem: str | None) -> None:
        if problem is not None:
            self._find(about, "NOT_CANONICAL", f"the body is not canonical: {problem}")
            return
        log, record_id = value.get("log"), str(value.get("id"))
        if log != self.report.origin:
            self._find(about, "WRONG_ORIGIN", f"the body is of the log {log}", self.report.origin, log)
        if entry.id is not None and entry.id != record_id:
            self._find(about, "ID_MISMATCH", f"the row is {entry.id}, the body {record_id}", record_id, entry.id)
        if record_id in self._ids:
            self._find(about, "DUPLICATE_ID", "this record stands in the log twice")
        self._ids.add(record_id)
        for name, got in (entry.columns or {}).items():
            expected = body if name == "leaf" else at_path(value, COLUMNS[name])
            if got != expected:
                detail = f"column {name} holds {_text(got)}, the body says {_text(expected)}"
                self._find(about, "COLUMN_MISMATCH", detail, expected, got)
        if self.writer_keys is not None and entry.mac is not None:
            secret, kid = self.writer_keys.get(entry.kid or ""), entry.kid or ""
            text = b"countersign/writer/v1\n" + kid.encode() + b"\n" + body
            if secret is None or not hmac.compare_digest(hmac.digest(secret, text, "sha256"), entry.mac):
                self._find(
                    about,
                    "UNAUTHENTICATED_WRITER",
                    f"the MAC of writer key {kid} does not hold: no process of ours wrote this",
                )
        if value.get("kind") == "erase":
            self.report.erased += at_path(value, ("result", "count")) or 0
        if entry.db_at is not None and abs(datetime.fromisoformat(str(value.get("at"))) - entry.db_at) > MAX_SKEW:
            self._find(
                about, "CLOCK_SKEW", f"written at {value.get('at')}, taken by the database at {entry.db_at.isoformat()}"
            )
        if entry.sealed_at is not None:
            if self._sealed_at is not None and entry.sealed_at < self._sealed_at:
                self._find(about, "CLOCK_BACK", f"sealed at {entry.sealed_at.isoformat()}, before its predecessor")
            self._sealed_at = entry.sealed_at

    def _count(self, seq: int, value: dict[str, Any]) -> None:
        number, voided, settled = value.get("wn"), value.get("voided"), value.get("settled")
        if isinstance(number, int) and isinstance(voided, list) and isinstance(settled, int):
            count = self._writers.setdefault(str(value.get("w")), _WriterCount())
            count.account([number, *(n for n in voided if isinstance(n, int))])
            count.settled, count.last_seq = max(count.settled, settled), seq

    # ---------- the tree above ----------
    def _advance(self, index: int, truth: Sequence[bytes | None]) -> None:
        start, known = index * WIDTH, [value for value in truth if value is not None]
        reached = self._within(start, len(truth))
        for checkpoint in reached:
            width = checkpoint.size - start
            if width < WIDTH and None not in truth[:width]:
                self._compare(checkpoint, fold([known[:width], *self._levels]))
        self._tail = known if len(truth) < WIDTH else []
        self._lost = self._lost or (len(truth) < WIDTH and len(known) < len(truth))
        if len(truth) == WIDTH:
            above = self._parent(0, index, self._trusted) or (perfect(known) if len(known) == WIDTH else None)
            self._lost = self._lost or above is None
            self._push(1, index, above or bytes(32))
            if reached and reached[-1].size == start + WIDTH:
                self._compare(reached[-1], fold([[], *self._levels]))

    def _push(self, level: int, index: int, value: bytes) -> None:
        """Add the hash over a full tile to the level above, and compare it with what is stored there."""
        self._levels.extend([] for _ in range(level - len(self._levels)))
        stored = self._hash_of(level, index // WIDTH, index % WIDTH)
        if stored is not None and stored != value and not self._lost:
            span = WIDTH**level
            detail = f"the tile of level {level} over these records has {_short(stored)}, computed is {_short(value)}"
            where = Finding("", "", index * span, index * span + span - 1)
            self._find(where, "TILE_MISMATCH", detail, value, stored)
        self._levels[level - 1].append(value)
        if len(self._levels[level - 1]) == WIDTH:
            above, self._levels[level - 1] = perfect(self._levels[level - 1]), []
            self._push(level + 1, index // WIDTH, above)

    def _compare(self, checkpoint: Checkpoint, root: bytes) -> None:
        if root == checkpoint.root:
            self._last_good = checkpoint.size
        elif not self._lost:
            self._lost = True
            code = "FORK" if self._trusted and checkpoint is not self.newest else "CHECKPOINT_MISMATCH"
            detail = f"{named(checkpoint)}, says {_short(checkpoint.root)}, the records give {_short(root)}; last good head: {self._last_good}"
            where = Finding("", "", self._last_good, max(self._last_good, checkpoint.size - 1))
            self._find(where, code, detail, checkpoint.root, root)

    def finish(self, *, head_root: bytes | None = None, head_chain: bytes | None = None) -> None:
        """Compare heads beside the range and the log's own, and count the writers' numbers (only from the first record on)."""
        for checkpoint in self.checkpoints:
            if not self.first < checkpoint.size <= self.end:
                self._compare(checkpoint, self._edge_root(checkpoint.size))
        root = fold([self._tail, *self._levels])
        if head_root is not None and not self._lost and root != head_root:
            self.report.add(
                Finding("HEAD_CONFLICT", f"the head row says {_short(head_root)}, the records give {_short(root)}")
            )
        if head_chain is not None and self.chain is not None and self.chain != head_chain:
            self.report.add(
                Finding(
                    "CHAIN_MISMATCH", f"the chain of the head is {_short(head_chain)}, computed is {_short(self.chain)}"
                )
            )
        for writer, count in sorted(self._writers.items()) if self.first == 0 else ():
            holes = [str(n) for n in range(count.mark + 1, count.settled) if n not in count.ahead]
            if holes:
                detail = (
                    f"writer {writer} committed its record(s) {', '.join(holes[:20])}, and they never reached the log"
                )
                self.report.add(Finding("WRITER_GAP", f"{detail} (its record at seq {count.last_seq} proves it)"))


def height(size: int) -> int:
    """How many levels of tiles a tree of this size has on its edge."""
    return (size.bit_length() + 7) // 8


def _most(values: Sequence[bytes | None]) -> bytes | None:
    present = [value for value in values if value is not None]
    return max(present, key=present.count) if present else None


def _text(value: object) -> str | None:
    return value.hex() if isinstance(value, bytes) else None if value is None else str(value)


def _short(value: bytes | None) -> str:
    return "nothing" if value is None else value.hex()[:16] + "\N{HORIZONTAL ELLIPSIS}"


def named(checkpoint: Checkpoint) -> str:
    return f"checkpoint {checkpoint.size}, signed by {', '.join(checkpoint.signed_by)}"


def _parsed(entry: Entry | None) -> tuple[dict[str, Any], str | None]:
    try:
        return (parse_record(entry.body) if entry is not None and entry.body is not None else {}), None
    except ValueError as error:
        return {}, str(error)


def _about(seq: int, entry: Entry | None, value: Mapping[str, Any]) -> Finding:
    columns = (entry.columns if entry else None) or {name: at_path(value, path) for name, path in COLUMNS.items()}
    target = f" {columns['obj_type']}/{columns['obj_id']}" if columns.get("obj_type") else ""
    who = f"{columns['actor']} {columns['action']}{target}" if columns.get("actor") else None
    record_id = (entry.id if entry else None) or value.get("id")
    month = entry.db_at.astimezone(UTC).strftime("%Y_%m") if entry and entry.db_at else None
    return Finding("", "", seq, seq, str(record_id) if record_id else None, written_by=who, partition=month)


# ---------- heads ----------
def heads(report: Report, notes: Iterable[tuple[str, str]], vkeys: Sequence[str]) -> list[Checkpoint]:
    """The trusted ones among (source, note), newest last; findings for the others. Two roots for one size are a FORK."""
    found: dict[int, Checkpoint] = {}
    for source, note in notes:
        try:
            head = read_note(note, vkeys, origin=report.origin or None, source=source)
        except NoteError as error:
            if vkeys or error.code != "UNKNOWN_KEY":
                report.add(Finding(error.code, str(error)))
            continue
        report.trusted |= {"KEY"} | ({source} & set(TRUST))
        if found.setdefault(head.size, head).root != head.root:
            detail = f"two signed heads of size {head.size}: {_short(found[head.size].root)} and {_short(head.root)} ({source})"
            report.add(Finding("FORK", detail, expected=found[head.size].root.hex(), found=head.root.hex()))
    if not found:
        code = "NO_TRUSTED_CHECKPOINT" if vkeys else "NO_TRUSTED_SIGNATURE"
        report.add(
            Finding(
                code,
                "no checkpoint with a trusted signature was found"
                if vkeys
                else "no key was given, so nothing signed is trusted",
            )
        )
    ordered = [found[size] for size in sorted(found)]
    report.checkpoint = ordered[-1] if ordered else None
    return ordered
