"""Verification of an exported bundle, with no database and nothing but the public key: ``python -m audit.bundle``.

A bundle is a static C2SP tlog-tiles log, as a directory or a tar file. Exit code 0 intact, 1 tampering, 2 wrong use, 3
cannot conclude.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tarfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from audit.formats import HASH, WIDTH, Checkpoint, height, parse_vkey, tile_path
from audit.verify import Checker, Entry, Finding, Report, heads, moment

MAX_DIGITS: Final = 16  # of a size; more is no log of ours


class Bundle:
    """An exported log: a directory or a tar file with C2SP tlog-tiles paths. Nothing is ever extracted."""

    def __init__(self, path: Path) -> None:
        self._root: Final = path
        self._tar: Final = tarfile.open(path) if path.is_file() else None  # noqa: SIM115  (closed by close)
        members = self._tar.getmembers() if self._tar else ()
        self._members: Final = {member.name.removeprefix("./"): member for member in members if member.isfile()}

    def close(self) -> None:
        if self._tar:
            self._tar.close()

    def names(self) -> set[str]:
        if self._tar:
            return set(self._members)
        return {str(file.relative_to(self._root).as_posix()) for file in self._root.rglob("*") if file.is_file()}

    def read(self, name: str) -> bytes | None:
        if self._tar is None:
            file = self._root / name
            return file.read_bytes() if file.is_file() else None
        opened = self._tar.extractfile(self._members[name]) if name in self._members else None
        return opened.read() if opened else None


def split_entries(data: bytes) -> list[bytes]:
    """The bodies of an entry bundle; raises ValueError when it ends within one."""
    bodies: list[bytes] = []
    at = 0
    while at < len(data):
        start, at = at + 2, at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at > len(data):
            raise ValueError("the file ends within an entry")
        bodies.append(data[start:at])
    return bodies


def anchored_notes(directory: Path) -> list[tuple[str, str]]:
    """The heads of a directory anchor: its pointer and its highest checkpoint."""
    files = [*sorted((directory / "checkpoint").rglob("[0-9]" * 20))[-1:], directory / "latest"]
    return [("ANCHOR", file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def verify_bundle(
    path: Path,
    *,
    vkeys: Sequence[str],
    pin: Path | None = None,
    anchor: Path | None = None,
    require_independent: bool = False,
    max_age: timedelta | None = None,
) -> Report:
    """Verify an exported bundle with nothing but the public key. Raises OSError or tarfile.TarError when it cannot be read."""
    bundle = Bundle(path)
    try:
        run = _Run(bundle, Report(origin=parse_vkey(vkeys[0])[0] if vkeys else ""))
        outside = [*pinned(pin), *(anchored_notes(anchor) if anchor else [])]
        return run.check(vkeys, outside, require_independent, max_age).close()
    finally:
        bundle.close()


def pinned(pin: Path | None) -> list[tuple[str, str]]:
    return [("PIN", pin.read_text(encoding="utf-8"))] if pin is not None and pin.exists() else []


class _Run:
    def __init__(self, bundle: Bundle, report: Report) -> None:
        self._bundle: Final = bundle
        self._report: Final = report
        self._names: Final = bundle.names()
        self._expected: Final = {"checkpoint", "checkpoints.jsonl", "keys.txt", "manifest.json"}
        self._manifest: Final = self._json("manifest.json", self._text("manifest.json") or "{}")

    def check(
        self, vkeys: Sequence[str], outside: list[tuple[str, str]], independent: bool, max_age: timedelta | None
    ) -> Report:
        report, own = self._report, self._text("checkpoint")
        lines = self._text("checkpoints.jsonl").splitlines()
        older = [str(self._json("checkpoints.jsonl", line).get("note")) for line in lines]
        trusted = heads(report, [*(("LOG", note) for note in (own, *older)), *outside], vkeys)
        claimed = [*own.split("\n"), "", "", ""]
        size = report.head_size = int(claimed[1]) if claimed[1].isdecimal() and len(claimed[1]) < MAX_DIGITS else 0
        if report.checkpoint is None:
            report.origin = claimed[0]  # nothing signed says otherwise
        elif report.checkpoint.size > size:
            detail = f"the bundle ends at {size}, and {report.checkpoint.name}, is known ({report.checkpoint.source})"
            report.add(Finding("ROLLBACK", detail, expected=str(report.checkpoint.size), found=str(size)))
        stale(report, trusted, independent, max_age, self._manifest.get("at"))
        first, end = self._range(size)
        report.from_seq, report.to_seq = first, end - 1
        tiles = self._tiles(size, first, end)
        chain = self._part("chain")
        before, after = (_hash(chain.get(name)) for name in ("before", "after"))
        checker = Checker(report, tiles, [c for c in trusted if c.size <= size], first, end, chain=before)
        for index in range(first // WIDTH, (end + WIDTH - 1) // WIDTH):
            checker.feed(index, tiles.get((0, index)), self._entries(index, min(WIDTH, size - index * WIDTH)))
        checker.finish(head_chain=after)
        report.head_root = _root(claimed[2])
        for name in sorted(self._names - self._expected):
            if not name.startswith("proofs/"):
                report.add(Finding("UNEXPECTED_FILE", f"{name} does not belong to this bundle"))
        return report

    def _text(self, name: str) -> str:
        return (self._bundle.read(name) or b"").decode("utf-8", "replace")

    def _json(self, name: str, text: str) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        self._report.add(Finding("SHORT_FILE", f"{name} cannot be read"))
        return {}

    def _part(self, name: str) -> dict[str, Any]:
        part = self._manifest.get(name)
        return part if isinstance(part, dict) else {}

    def _range(self, size: int) -> tuple[int, int]:
        """The records that the bundle says it has, in whole tiles; no more than its files could hold."""
        said = self._part("entries")
        first, last = said.get("from", 0), said.get("to", size - 1)
        if not isinstance(first, int) or not isinstance(last, int) or not 0 <= first <= last < size or first % WIDTH:
            if said:
                self._report.add(Finding("SHORT_FILE", f"manifest.json names no range of a log of {size}"))
            first, last = 0, size - 1
        most = first + WIDTH * (len(self._names) + 1)
        if last >= most:
            detail = f"records {first}..{last} are claimed, and the bundle has too few files for them"
            self._report.add(Finding("MISSING_FILE", detail))
        return first, min(last + 1, most)

    def _tiles(self, size: int, first: int, end: int) -> dict[tuple[int, int], bytes]:
        tiles: dict[tuple[int, int], bytes] = {}
        for level in range(height(size)):
            low, high = first >> 8 * (level + 1), max(first, end - 1) >> 8 * (level + 1)
            for index in sorted({*range(low, high + 1), size >> 8 * (level + 1)}):
                width = min(WIDTH, (size >> 8 * level) - index * WIDTH)
                data = self._file(tile_path(level, index, width)) if width > 0 else None
                if data is not None and len(data) != HASH * width:
                    detail = f"{tile_path(level, index, width)} has {len(data)} bytes, expected are {HASH * width}"
                    self._report.add(Finding("SHORT_FILE", detail))
                if data is not None:
                    tiles[level, index] = data
        return tiles

    def _entries(self, index: int, width: int) -> dict[int, Entry]:
        name, start = tile_path("entries", index, width), index * WIDTH
        data = self._file(name)
        try:
            bodies = split_entries(data or b"")
        except ValueError as error:
            self._report.add(Finding("SHORT_FILE", f"{name}: {error}", start, start + width - 1))
            return {}
        return {start + i: Entry(start + i, body) for i, body in enumerate(bodies)}

    def _file(self, name: str) -> bytes | None:
        self._expected.add(name)
        data = self._bundle.read(name) if name in self._names else None
        if data is None:
            self._report.add(Finding("MISSING_FILE", f"{name} is not in the bundle"))
        return data


def _hash(text: object) -> bytes | None:
    try:
        return bytes.fromhex(text) if isinstance(text, str) and text else None
    except ValueError:
        return None


def _root(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def stale(
    report: Report, trusted: Sequence[Checkpoint], independent: bool, max_age: timedelta | None, at: object
) -> None:
    """Say what the trust given is not enough for."""
    if independent and not report.trusted & {"PIN", "ANCHOR", "WITNESS"}:
        report.add(Finding("NO_TRUSTED_CHECKPOINT", "no pin, anchor or witness vouches for the head, as was required"))
    made = moment(at)
    if max_age is not None and trusted and (made is None or datetime.now(UTC) - made > max_age):
        report.add(Finding("STALE", f"the newest checkpoint is of {at}, older than {max_age}"))


def write_pin(pin: Path, report: Report) -> None:
    """Remember the newest trusted head, only when all was good."""
    if report.exit_code == 0 and report.checkpoint is not None:
        temporary = pin.with_name(pin.name + ".new")
        temporary.write_text(report.checkpoint.note, encoding="utf-8")
        temporary.replace(pin)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this file alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--key", type=Path, action="append", default=[], help="file of public keys, one a line")
    parser.add_argument("--pin", type=Path)
    parser.add_argument("--anchor", type=Path)
    given = parser.parse_args(arguments)
    lines = "\n".join(file.read_text(encoding="utf-8") for file in given.key).splitlines()
    vkeys = [line.strip() for line in lines if line.strip()]
    report = verify_bundle(given.bundle, vkeys=vkeys, pin=given.pin, anchor=given.anchor)
    if given.pin:
        write_pin(given.pin, report)
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
