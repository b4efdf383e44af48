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
from typing import Final

from audit.verify import (
    HASH,
    WIDTH,
    Checker,
    Checkpoint,
    Entry,
    Finding,
    Report,
    heads,
    height,
    named,
    parse_vkey,
    tile_path,
)


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
    while data:
        length = int.from_bytes(data[:2], "big")
        if len(data) < 2 + length:
            raise ValueError("the file ends within an entry")
        bodies.append(data[2 : 2 + length])
        data = data[2 + length :]
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
        return _verify(
            bundle, vkeys, [*pinned(pin), *(anchored_notes(anchor) if anchor else [])], require_independent, max_age
        ).close()
    finally:
        bundle.close()


def pinned(pin: Path | None) -> list[tuple[str, str]]:
    return [("PIN", pin.read_text(encoding="utf-8"))] if pin is not None and pin.exists() else []


def _verify(
    bundle: Bundle, vkeys: Sequence[str], outside: list[tuple[str, str]], independent: bool, max_age: timedelta | None
) -> Report:
    report = Report(origin=parse_vkey(vkeys[0])[0] if vkeys else "")
    names = bundle.names()
    manifest = json.loads(bundle.read("manifest.json") or b"{}")
    range_ = manifest.get("entries") or {}
    own = (bundle.read("checkpoint") or b"").decode("utf-8", "replace")
    lines = (bundle.read("checkpoints.jsonl") or b"").decode("utf-8", "replace").splitlines()
    trusted = heads(report, [("LOG", own), *(("LOG", json.loads(line)["note"]) for line in lines), *outside], vkeys)
    claimed = [*own.split("\n"), "", "", ""]
    size = report.head_size = int(claimed[1]) if claimed[1].isdigit() else 0
    report.origin = report.origin or claimed[0]
    if report.checkpoint and report.checkpoint.size > size:
        detail = f"the bundle ends at {size}, and {named(report.checkpoint)}, is known ({report.checkpoint.source})"
        report.add(Finding("ROLLBACK", detail, expected=str(report.checkpoint.size), found=str(size)))
    stale(report, trusted, independent, max_age, manifest.get("at"))
    first, end = int(range_.get("from", 0)), min(int(range_.get("to", size - 1)) + 1, size)
    report.from_seq, report.to_seq = first, end - 1
    tiles: dict[tuple[int, int], bytes] = {}
    expected = {"checkpoint", "checkpoints.jsonl", "keys.txt", "manifest.json"}
    for level in range(height(size)):
        low, high = first >> 8 * (level + 1), (end - 1) >> 8 * (level + 1)
        for index in sorted({*range(low, high + 1), size >> 8 * (level + 1)}):
            width = min(WIDTH, (size >> 8 * level) - index * WIDTH)
            if width > 0:
                data = _file(report, bundle, names, expected, tile_path(level, index, width), HASH * width)
                if data is not None:
                    tiles[level, index] = data
    chain = manifest.get("chain") or {}
    checker = Checker(
        report,
        tiles,
        [c for c in trusted if c.size <= size],
        first,
        end,
        chain=bytes.fromhex(chain.get("before") or "") or None,
    )
    for index in range(first // WIDTH, (end + WIDTH - 1) // WIDTH):
        width = min(WIDTH, size - index * WIDTH)
        data = _file(report, bundle, names, expected, tile_path("entries", index, width), 2 * width)
        try:
            bodies = split_entries(data or b"")
        except ValueError as error:
            report.add(
                Finding(
                    "SHORT_FILE",
                    f"{tile_path('entries', index, width)}: {error}",
                    index * WIDTH,
                    index * WIDTH + width - 1,
                )
            )
            bodies = []
        entries = {index * WIDTH + i: Entry(index * WIDTH + i, body) for i, body in enumerate(bodies)}
        checker.feed(index, tiles.get((0, index)), entries if bodies else {})
    checker.finish(head_chain=bytes.fromhex(chain.get("after") or "") or None)
    report.head_root = base64.b64decode(claimed[2]) if report.head_size else b""
    for name in sorted(names - expected - {n for n in names if n.startswith("proofs/")}):
        report.add(Finding("UNEXPECTED_FILE", f"{name} does not belong to this bundle"))
    return report


def _file(report: Report, bundle: Bundle, names: set[str], expected: set[str], name: str, length: int) -> bytes | None:
    expected.add(name)
    data = bundle.read(name) if name in names else None
    if data is None:
        report.add(Finding("MISSING_FILE", f"{name} is not in the bundle"))
    elif len(data) < length or (len(data) != length and not name.startswith("tile/entries/")):
        report.add(Finding("SHORT_FILE", f"{name} has {len(data)} bytes, expected are {length}"))
    return data


def stale(
    report: Report, trusted: Sequence[Checkpoint], independent: bool, max_age: timedelta | None, at: str | None
) -> None:
    """Say what the trust given is not enough for."""
    if independent and not report.trusted & {"PIN", "ANCHOR", "WITNESS"}:
        report.add(
            Finding("NO_TRUSTED_CHECKPOINT", "no pin, anchor or witness vouches for the head, and one was required")
        )
    if max_age is not None and trusted and (at is None or datetime.now(UTC) - datetime.fromisoformat(at) > max_age):
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
    vkeys = [
        line.strip() for file in given.key for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    report = verify_bundle(given.bundle, vkeys=vkeys, pin=given.pin, anchor=given.anchor)
    if given.pin:
        write_pin(given.pin, report)
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
