"""The verifier: is this log what its signed checkpoints say? Needs the standard library and ``cryptography``, nothing else.

The same checks serve an exported bundle (``audit.bundle``: with this file and ``audit.formats`` all that an auditor
needs) and the live store (``audit.live``). Exit code 0 intact, 1 tampering, 2 wrong use, 3 cannot conclude.
"""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from audit.formats import (
    HASH,
    WIDTH,
    Checkpoint,
    NoteError,
    at_path,
    fold,
    height,
    leaf_hash,
    parse_record,
    perfect,
    read_note,
    split,
)

MAX_FINDINGS: Final = 100
MAX_SKEW: Final = timedelta(minutes=5)
TRUST: Final = ("KEY", "PIN", "ANCHOR", "WITNESS", "WRITER_MAC", "STATE")
TAMPERING, NO_CONCLUSION, WARNING = 1, 2, 3
# Every other code is tampering.
SEVERITY: Final[dict[str, int]] = {
    **dict.fromkeys(("NO_TRUSTED_CHECKPOINT", "NO_TRUSTED_SIGNATURE", "UNKNOWN_KEY", "STALE"), NO_CONCLUSION),
    **dict.fromkeys(("CLOCK_SKEW", "CLOCK_BACK", "UNEXPECTED_FILE"), WARNING),
}
_PATHS: Final = (
    "w=w wn=wn kind=kind actor=actor.sub action=action obj_type=object.type obj_id=object.id subject=object.subject city=object.city "
    "decision=decision.verdict code=decision.code policy=policy.row approval=approval.request request=request.id"
)
COLUMNS: Final = {name: tuple(path.split(".")) for name, path in (pair.split("=") for pair in _PATHS.split())}


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
        return SEVERITY.get(self.code, TAMPERING)

    @property
    def text(self) -> str:
        run = "" if self.to_seq == self.seq else f"..{self.to_seq}"
        seq = None if self.seq is None else f"{self.seq}{run}"
        places = (("seq", seq), ("id", self.record_id), ("partition", self.partition))
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
    severities: set[int] = field(default_factory=set)  # of all findings, the ones not kept included

    def add(self, finding: Finding) -> None:
        """Keep a finding; a run of the same code is one, and a hundred are enough (tampering before warnings)."""
        self.severities.add(finding.severity)
        finding.to_seq = finding.seq if finding.to_seq is None else finding.to_seq
        for last in reversed(self.findings[-8:]):
            if last.code == finding.code and last.to_seq is not None and finding.seq == last.to_seq + 1:
                last.to_seq = finding.to_seq
                return
        self.finding_count += 1
        if len(self.findings) >= MAX_FINDINGS:
            lesser = max(self.findings, key=lambda f: f.severity)
            if lesser.severity <= finding.severity:
                return
            self.findings.remove(lesser)
        self.findings.append(finding)

    @property
    def exit_code(self) -> int:
        """0 intact, 1 tampering, 3 cannot conclude."""
        return 1 if TAMPERING in self.severities else 3 if NO_CONCLUSION in self.severities else 0

    @property
    def not_checked(self) -> list[str]:
        return [name for name in TRUST if name not in self.trusted]

    @property
    def first_bad_seq(self) -> int | None:
        return min((f.seq for f in self.findings if f.severity == TAMPERING and f.seq is not None), default=None)

    def close(self) -> Report:
        """Say of each finding whether the records beside it are intact."""
        bad = [f for f in self.findings if f.severity == TAMPERING]
        spans = [(f, f.seq, f.to_seq) for f in bad if f.seq is not None and f.to_seq is not None]
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
            f"head {self.head_size} {self.head_root.hex()}, {self.checkpoint.name if self.checkpoint else 'no checkpoint'}",
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
        start = hashlib.sha256(b"countersign/chain/v1\n" + report.origin.encode()).digest()
        self.chain = start if first == 0 else chain
        self.writer_keys: Final = writer_keys
        self.missing: dict[bytes, Finding] = {}  # by leaf hash: a body that lost its place can still be named
        self._trusted = self._authenticate()
        self._levels = [self._stored(level, first) for level in range(1, height(first))]  # from level 1 up, as computed
        self._tail: list[bytes] = []
        self._last_good = first
        self._lost = False  # the tree differs from a checkpoint, and so it would from every later one
        self._ids: set[str] = set()
        self._writers: dict[str, _WriterCount] = {}
        self._unread = 0  # records whose counters could not be read; each explains one hole
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
        if not inside or self._lost:
            return None
        return fold([known[: inside[-1].size - start], *self._levels]) == inside[-1].root

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
            detail = f"no hashes found here lead to {self.newest.name}: what was recorded was changed in every place"
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
        self._count(seq, value if body == truth else {})
        if not self.report.from_seq <= seq <= self.report.to_seq:
            return
        self.report.checked += 1
        at, there = _Spot(self.report, seq, entry, value), f" {self._under(seq)}"
        if body is None:
            gone = at.find("MISSING_BODY", f"the tree has {short(truth)}{there}, and there is no record", truth)
            if truth is not None:
                self.missing[truth] = gone
        elif body != truth:
            owner = [seq - seq % WIDTH + i for i, one in enumerate(tile) if one == body]
            belongs = f"; this body belongs to seq {owner[0]}" if owner else ""
            detail = f"body hashes to {short(body)}, tree has {short(truth)}{there}{belongs}"
            at.find("LEAF_MISMATCH", detail, truth, body)
        elif row is not None and row != truth:
            at.find("LEAF_MISMATCH", f"the leaf row has {short(row)}, body and tree {short(truth)}{there}", truth, row)
        place = tile[seq % WIDTH]
        if place is not None and place != truth:
            detail = f"the tile has {short(place)}, the record hashes to {short(truth)}{there}"
            at.find("TILE_MISMATCH", detail, truth, place)
        elif entry is not None and entry.chain is not None and self.chain is not None and entry.chain != self.chain:
            detail = f"the chain has {short(entry.chain)}, computed is {short(self.chain)}"
            at.find("CHAIN_MISMATCH", detail, self.chain, entry.chain)
        if entry is not None and body is not None and body == truth:
            if problem is not None:
                at.find("NOT_CANONICAL", f"the body is not canonical: {problem}")
            else:
                self._content(at, entry, body, value)

    def _under(self, seq: int) -> str:
        return f"({self.newest.name})" if self.newest and seq < self.newest.size else "(under no checkpoint yet)"

    def _content(self, at: _Spot, entry: Entry, body: bytes, value: dict[str, Any]) -> None:
        """What the record says, against its columns, its writer's MAC and the clocks."""
        log, record_id = value.get("log"), str(value.get("id"))
        if log != self.report.origin:
            at.find("WRONG_ORIGIN", f"the body is of the log {log}", self.report.origin, log)
        if entry.id is not None and entry.id != record_id:
            at.find("ID_MISMATCH", f"the row is {entry.id}, the body {record_id}", record_id, entry.id)
        if record_id in self._ids:
            at.find("DUPLICATE_ID", "this record stands in the log twice")
        self._ids.add(record_id)
        for name, got in (entry.columns or {}).items():
            expected = body if name == "leaf" else at_path(value, COLUMNS[name])
            if got != expected:
                detail = f"column {name} holds {_text(got)}, the body says {_text(expected)}"
                at.find("COLUMN_MISMATCH", detail, expected, got)
        if self.writer_keys is not None and entry.mac is not None:
            secret, kid = self.writer_keys.get(entry.kid or ""), entry.kid or ""
            text = b"countersign/writer/v1\n" + kid.encode() + b"\n" + body
            if secret is None or not hmac.compare_digest(hmac.digest(secret, text, "sha256"), entry.mac):
                detail = f"the MAC of writer key {kid} does not hold: no process of ours wrote this"
                at.find("UNAUTHENTICATED_WRITER", detail)
        written, erased = moment(value.get("at")), at_path(value, ("result", "count"))
        if value.get("kind") == "erase" and isinstance(erased, int):
            self.report.erased += erased
        if written is None:
            at.find("NOT_CANONICAL", f"{value.get('at')} is no time")
        elif entry.db_at is not None and abs(written - entry.db_at) > MAX_SKEW:
            at.find(
                "CLOCK_SKEW", f"written at {written.isoformat()}, taken by the database at {entry.db_at.isoformat()}"
            )
        if entry.sealed_at is not None:
            if self._sealed_at is not None and entry.sealed_at < self._sealed_at:
                at.find("CLOCK_BACK", f"sealed at {entry.sealed_at.isoformat()}, before its predecessor")
            self._sealed_at = entry.sealed_at

    def _count(self, seq: int, value: dict[str, Any]) -> None:
        number, voided, settled = value.get("wn"), value.get("voided"), value.get("settled")
        if not isinstance(number, int) or not isinstance(voided, list) or not isinstance(settled, int):
            self._unread += 1
        else:
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
            detail = f"the tile of level {level} over these records has {short(stored)}, computed is {short(value)}"
            last = index * span + span - 1
            self.report.add(Finding("TILE_MISMATCH", detail, index * span, last, None, value.hex(), stored.hex()))
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
            detail = f"{checkpoint.name}, says {short(checkpoint.root)}, the records give {short(root)}; last good head: {self._last_good}"
            first, last = self._last_good, max(self._last_good, checkpoint.size - 1)
            self.report.add(Finding(code, detail, first, last, None, checkpoint.root.hex(), root.hex()))

    def finish(self, *, head_root: bytes | None = None, head_chain: bytes | None = None) -> None:
        """Compare heads beside the range and the log's own, and count the writers' numbers (only from the first record on)."""
        for checkpoint in self.checkpoints:
            if not self.first < checkpoint.size <= self.end:
                self._compare(checkpoint, self._edge_root(checkpoint.size))
        root = fold([self._tail, *self._levels])
        if head_root is not None and not self._lost and root != head_root:
            detail = f"the head row says {short(head_root)}, the records give {short(root)}"
            self.report.add(Finding("HEAD_CONFLICT", detail))
        if head_chain is not None and self.chain is not None and self.chain != head_chain:
            detail = f"the chain of the head is {short(head_chain)}, computed is {short(self.chain)}"
            self.report.add(Finding("CHAIN_MISMATCH", detail))
        if self.first == 0:  # only the whole log can say that a number is nowhere
            self._gaps()

    def _gaps(self) -> None:
        counts = sorted(self._writers.items())
        holes = {w: [n for n in range(c.mark + 1, c.settled) if n not in c.ahead] for w, c in counts}
        if sum(map(len, holes.values())) <= self._unread:
            return
        for writer, numbers in holes.items():
            if numbers:
                detail = f"writer {writer} committed its record(s) {', '.join(map(str, numbers[:20]))}, and they never reached the log"
                proof = f"its record at seq {self._writers[writer].last_seq} proves it"
                self.report.add(Finding("WRITER_GAP", f"{detail} ({proof})"))


def _most(values: Sequence[bytes | None]) -> bytes | None:
    present = [value for value in values if value is not None]
    return max(present, key=present.count) if present else None


def _text(value: object) -> str | None:
    return value.hex() if isinstance(value, bytes) else None if value is None else str(value)


def short(value: bytes | None) -> str:
    return "nothing" if value is None else value.hex()[:16] + "\N{HORIZONTAL ELLIPSIS}"


def _parsed(entry: Entry | None) -> tuple[dict[str, Any], str | None]:
    try:
        return (parse_record(entry.body) if entry is not None and entry.body is not None else {}), None
    except ValueError as error:
        return {}, str(error)


def moment(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None


@dataclass(frozen=True)
class _Spot:
    """A record about which something may have to be said; who wrote it is looked up only then."""

    report: Report
    seq: int
    entry: Entry | None
    value: Mapping[str, Any]

    def find(self, code: str, detail: str, expected: object = None, found: object = None) -> Finding:
        entry = self.entry
        named = (entry.columns if entry else None) or {name: at_path(self.value, p) for name, p in COLUMNS.items()}
        target = f" {named['obj_type']}/{named['obj_id']}" if named.get("obj_type") else ""
        who = f"{named['actor']} {named['action']}{target}" if named.get("actor") else None
        record_id = _text((entry.id if entry else None) or self.value.get("id"))
        month = entry.db_at.astimezone(UTC).strftime("%Y_%m") if entry and entry.db_at else None
        finding = Finding(code, detail, self.seq, self.seq, record_id, _text(expected), _text(found), who, month)
        self.report.add(finding)
        return finding


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
            detail = f"two signed heads of size {head.size}: {short(found[head.size].root)} and {short(head.root)} ({source})"
            report.add(Finding("FORK", detail, expected=found[head.size].root.hex(), found=head.root.hex()))
    if not found:
        code = "NO_TRUSTED_CHECKPOINT" if vkeys else "NO_TRUSTED_SIGNATURE"
        why = (
            "no checkpoint with a trusted signature was found"
            if vkeys
            else "no key was given: nothing signed is trusted"
        )
        report.add(Finding(code, why))
    ordered = [found[size] for size in sorted(found)]
    report.checkpoint = ordered[-1] if ordered else None
    return ordered
