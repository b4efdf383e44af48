"""An exported bundle proves itself with the public key alone, in another process, with no database; every change to it is found."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from audit.bundle import split_entries, verify_bundle, write_pin
from audit.export import export
from audit.keys import Signer
from audit.merkle import entry_bundle
from audit.record import SYSTEM_ACTOR, leaf
from audit.verify import Report
from schema.errors import ConsoleError
from tests.audit.conftest import ORIGIN, Log
from tests.conftest import unpack

ROOT = Path(__file__).parents[2]


@dataclass
class Exports:
    """A log of 600 records (checkpoints 300, 600) and its whole export."""

    log: Log
    whole: Path
    fresh: Path  # a copy to damage

    def verify(self, path: Path | None = None, **given: Any) -> Report:
        return verify_bundle(path or self.fresh, **({"vkeys": [self.log.signer.vkey]} | given))


@pytest_asyncio.fixture(loop_scope="session")
async def exports(log: Log, tmp_path: Path) -> AsyncIterator[Exports]:
    for _ in range(2):
        await log.append(300)
        await log.seal()
    whole = tmp_path / "whole"
    await _export(log, whole)
    fresh = tmp_path / "fresh"
    shutil.copytree(whole, fresh)
    yield Exports(log, whole, fresh)


async def _export(log: Log, out: Path, **given: Any) -> Any:
    async def recorder(made: dict[str, Any]) -> None:
        await log.writer.reads(log.app, [made])

    return await export(log.reader, out, actor=SYSTEM_ACTOR, recorder=recorder, vkeys=[log.signer.vkey], **given)


async def test_a_whole_export_is_a_static_log_and_verifies(exports: Exports) -> None:
    names = sorted(str(f.relative_to(exports.whole)) for f in exports.whole.rglob("*") if f.is_file())
    assert names == [
        "checkpoint",
        "checkpoints.jsonl",
        "keys.txt",
        "manifest.json",
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/88",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/88",
    ]
    report = exports.verify()
    assert report.lines()[0] == f"OK: {ORIGIN}, records 0..599, 600 checked, 0 finding(s)"
    assert (report.exit_code, report.checkpoint and report.checkpoint.size, report.trusted) == (0, 600, {"KEY"})
    assert "WRITER_MAC" in report.not_checked
    # The live head and the exported one are the same tree.
    assert report.head_root.hex() == (await exports.log.look("SELECT encode(root, 'hex') FROM audit.head"))[0][0]


async def test_the_verifier_needs_no_database_and_nothing_of_ours_but_three_files(
    exports: Exports, tmp_path: Path
) -> None:
    alone = tmp_path / "auditor"
    (alone / "audit").mkdir(parents=True)
    for name in ("formats.py", "verify.py", "bundle.py"):
        shutil.copy(ROOT / "audit" / name, alone / "audit" / name)
    key = tmp_path / "key.pub"
    key.write_text(exports.log.signer.vkey + "\n")
    script = (
        "import sys; sys.path.insert(0, '.'); import audit.bundle as b; code = b.main(sys.argv[1:]); "
        "assert not {'asyncpg', 'orjson', 'db', 'schema'} & set(sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-I", "-c", script]

    async def run() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *command,
            str(exports.fresh),
            "--key",
            str(key),
            cwd=alone,
            env={"PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
        )
        output = (await process.communicate())[0]
        return process.returncode, output.decode()

    code, text = await run()
    assert (code, text.splitlines()[0]) == (0, f"OK: {ORIGIN}, records 0..599, 600 checked, 0 finding(s)")
    _change_body(exports.fresh, 260)
    code, text = await run()
    assert code == 1
    assert "LEAF_MISMATCH seq=260 id=" in text


async def test_an_export_is_itself_a_record_with_the_manifests_digest(exports: Exports) -> None:
    [(body,)] = await exports.log.look("SELECT body FROM audit.intake")
    stored = json.loads(body)
    manifest = json.loads((exports.whole / "manifest.json").read_text())
    assert (stored["kind"], stored["action"], stored["id"]) == ("export", "audit.export", manifest["record"])
    digest = hashlib.sha256((exports.whole / "manifest.json").read_bytes()).hexdigest()
    assert stored["objects"] == {"ids": [], "count": 600, "digest": f"sha256:{digest}", "filter": None}


def _change_body(bundle: Path, seq: int) -> None:
    file = next((bundle / "tile" / "entries").glob(f"{seq // 256:03d}*"))
    file = file if file.is_file() else next(file.iterdir())
    bodies = split_entries(file.read_bytes())
    bodies[seq % 256] = bodies[seq % 256].replace(b"case_881", b"case_882")
    file.write_bytes(entry_bundle(bodies))


def _change_tile(bundle: Path, seq: int) -> None:
    file = bundle / "tile" / "0" / f"{seq // 256:03d}"
    data = bytearray(file.read_bytes())
    data[32 * (seq % 256)] ^= 1
    file.write_bytes(data)


def _swap(bundle: Path, _: int) -> None:
    file = bundle / "tile" / "entries" / "001"
    bodies = split_entries(file.read_bytes())
    bodies[4], bodies[5] = bodies[5], bodies[4]
    file.write_bytes(entry_bundle(bodies))


def _cut(bundle: Path, _: int) -> None:
    file = bundle / "tile" / "entries" / "001"
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.contract("AU-6")
@pytest.mark.parametrize(
    ("change", "seq", "expected"),
    [
        (_change_body, 0, [("LEAF_MISMATCH", 0, 0)]),
        (_change_body, 260, [("LEAF_MISMATCH", 260, 260)]),
        (_change_body, 599, [("LEAF_MISMATCH", 599, 599)]),
        (_change_tile, 7, [("TILE_MISMATCH", 7, 7)]),
        (_swap, 0, [("LEAF_MISMATCH", 260, 261)]),
        (_cut, 0, [("SHORT_FILE", 256, 511), ("MISSING_BODY", 256, 511)]),
        (lambda b, _: (b / "tile/entries/001").unlink(), 0, [("MISSING_FILE", None, None), ("MISSING_BODY", 256, 511)]),
        (lambda b, _: (b / "tile/0/001").unlink(), 0, [("MISSING_FILE", None, None)]),
        (lambda b, _: (b / "tile/1/000.p/2").unlink(), 0, [("MISSING_FILE", None, None)]),
    ],
)
async def test_a_changed_bundle_is_found_where_it_was_changed(
    exports: Exports, change: Callable[[Path, int], None], seq: int, expected: list[tuple[str, int | None, int | None]]
) -> None:
    change(exports.fresh, seq)
    report = exports.verify()
    assert report.exit_code == 1
    assert [(f.code, f.seq, f.to_seq) for f in report.findings] == expected


async def test_a_rewritten_bundle_does_not_lead_to_the_signed_root(exports: Exports) -> None:
    _change_body(exports.fresh, 10)
    bodies = split_entries((exports.fresh / "tile/entries/000").read_bytes())
    (exports.fresh / "tile/0/000").write_bytes(b"".join(leaf(body) for body in bodies))
    report = exports.verify()
    assert [(f.code, f.seq, f.to_seq) for f in report.findings] == [
        ("CHECKPOINT_MISMATCH", 0, 255),
        ("CHAIN_MISMATCH", None, None),
    ]


async def test_a_stranger_in_the_bundle_is_a_warning(exports: Exports) -> None:
    (exports.fresh / "notes.txt").write_text("hello")
    report = exports.verify()
    assert [(f.code, f.severity) for f in report.findings] == [("UNEXPECTED_FILE", 3)]
    assert report.exit_code == 0


async def test_another_key_or_none_cannot_conclude(exports: Exports, tmp_path: Path) -> None:
    stranger = Signer.open(tmp_path / "stranger", ORIGIN)
    report = exports.verify(vkeys=[stranger.vkey])
    assert {f.code for f in report.findings} == {"UNKNOWN_KEY", "NO_TRUSTED_CHECKPOINT"}
    assert report.exit_code == 3
    without = exports.verify(vkeys=[])
    assert ([f.code for f in without.findings], without.exit_code) == (["NO_TRUSTED_SIGNATURE"], 3)
    other = Signer.open(tmp_path / "other", "other.example/log")
    assert exports.verify(vkeys=[other.vkey]).exit_code == 3


async def test_a_tar_and_a_part_verify_too(exports: Exports, tmp_path: Path) -> None:
    part = tmp_path / "part.tar"
    made = await _export(exports.log, part, from_seq=300, to_seq=310)
    assert (made.from_seq, made.to_seq, made.size) == (256, 511, 600)
    report = exports.verify(part)
    assert (report.exit_code, report.from_seq, report.to_seq, report.checked) == (0, 256, 511, 256), report.lines()
    with tarfile.open(part) as tar:
        assert "tile/entries/000" not in tar.getnames()
        unpack(tar, tmp_path / "opened")
    _change_body(tmp_path / "opened", 300)
    assert [(f.code, f.seq) for f in exports.verify(tmp_path / "opened").findings] == [("LEAF_MISMATCH", 300)]
    with pytest.raises(FileExistsError):
        await _export(exports.log, part)
    for wrong in ({"from_seq": 700}, {"to_seq": 600}, {"from_seq": 5, "to_seq": 4}, {"from_seq": -1}):
        with pytest.raises(ConsoleError, match=r"Records 0\.\.599 are anchored"):
            await _export(exports.log, tmp_path / "none", **wrong)


@pytest.mark.contract("AU-6")
async def test_pin_and_anchor_hold_an_older_bundle_and_a_fork_to_account(exports: Exports, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    write_pin(pin, exports.verify())
    assert exports.verify(pin=pin).trusted == {"KEY", "PIN"}
    assert exports.verify(anchor=exports.log.anchor.directory).trusted == {"KEY", "ANCHOR"}
    assert exports.verify(require_independent=True).exit_code == 3
    assert exports.verify(pin=pin, require_independent=True).exit_code == 0
    # The log goes on: the old bundle is older than what is known now.
    await exports.log.append(10)
    await exports.log.seal()
    report = exports.verify(anchor=exports.log.anchor.directory)
    assert [(f.code, f.expected, f.found) for f in report.findings] == [("ROLLBACK", "611", "600")]
    # A signed head of the same size with another root: the signer was made to sign a fork.
    forked = exports.log.signer.sign(f"{ORIGIN}\n600\n{base64.b64encode(bytes(32)).decode()}\n")
    pin.write_text(forked)
    assert "FORK" in {f.code for f in exports.verify(pin=pin).findings}
    earlier = exports.log.signer.sign(f"{ORIGIN}\n500\n{base64.b64encode(bytes(32)).decode()}\n")
    pin.write_text(earlier)
    assert [(f.code, f.seq, f.to_seq) for f in exports.verify(pin=pin).findings] == [("FORK", 300, 499)]


async def test_age_is_judged_when_asked(exports: Exports) -> None:
    assert exports.verify(max_age=timedelta(hours=1)).exit_code == 0
    report = exports.verify(max_age=timedelta(0))
    assert ([f.code for f in report.findings], report.exit_code) == (["STALE"], 3)


async def test_what_the_anchor_holds_is_a_bundle_as_well(exports: Exports, tmp_path: Path) -> None:
    """The anchor's tiles and entries, with its newest note, verify without the database ever having answered."""
    copy = tmp_path / "from-anchor"
    shutil.copytree(exports.log.anchor.directory / "tile", copy / "tile")
    (copy / "checkpoint").write_text(exports.log.anchor.read_latest()[0] or "")
    report = exports.verify(copy)
    assert (report.exit_code, report.checked) == (0, 600), report.lines()


async def test_a_database_that_lost_a_body_exports_a_bundle_that_says_so(exports: Exports, tmp_path: Path) -> None:
    await exports.log.tamper("DELETE FROM audit.record WHERE id = (SELECT id FROM audit.leaf WHERE seq = 3)")
    await _export(exports.log, tmp_path / "holed")
    report = exports.verify(tmp_path / "holed")
    assert [(f.code, f.seq) for f in report.findings] == [("LEAF_MISMATCH", 3)]
