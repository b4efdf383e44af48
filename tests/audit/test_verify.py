"""The verifier's own promises: strict notes, tampering never drowned by warnings, and no bundle that can break or stall it."""

from __future__ import annotations

import base64
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from audit.bundle import main, verify_bundle
from audit.checkpoint import head_text, sign
from audit.formats import NoteError, parse_vkey, read_note
from audit.keys import KeyFileError, Keys, Signer, read_vkeys
from audit.verify import MAX_FINDINGS, Finding, Report

ORIGIN = "countersign.local/audit/test"


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path / "signer", ORIGIN)


def test_a_note_of_the_specification_is_read() -> None:
    """The example of the Go checksum database: an Ed25519 note that others made."""
    vkey = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    name, key_id, _ = parse_vkey(vkey)
    assert (name, key_id.hex()) == ("sum.golang.org", "033de0ae")


def test_a_checkpoint_signed_by_ours_among_others_is_read(signer: Signer) -> None:
    note = sign(signer, 7, bytes(range(32)))
    witnesses = "".join(
        f"\N{EM DASH} witness{i}.example {base64.b64encode(bytes([i]) * 76).decode()}\n" for i in range(20)
    )
    head = read_note(note + witnesses, [signer.vkey], origin=ORIGIN)
    assert (head.size, head.root, head.signed_by) == (7, bytes(range(32)), (f"{ORIGIN}+{signer.id.hex()}",))


@pytest.mark.parametrize(
    "text",
    [
        head_text(ORIGIN, 7, bytes(31)),
        head_text("", 7, bytes(32)),
        head_text(ORIGIN, 7, bytes(32)).replace("\n7\n", "\n07\n"),
        head_text(ORIGIN, 7, bytes(32)).replace("\n7\n", "\n-7\n"),
        head_text(ORIGIN, 7, bytes(32)).replace("\n7\n", "\n 7\n"),
        head_text(ORIGIN, 7, bytes(32)).replace("\n7\n", "\n\u0667\n"),
        head_text(ORIGIN, 7, bytes(32)) + "\nextension after a blank line\n",
        head_text(ORIGIN, 7, bytes(32)).replace(ORIGIN, ORIGIN + "\x01"),
        f"{ORIGIN}\n7\n",
    ],
)
def test_a_note_that_is_not_strictly_a_head_is_malformed_even_when_signed(signer: Signer, text: str) -> None:
    with pytest.raises(NoteError) as refused:
        read_note(signer.sign(text), [signer.vkey])
    assert refused.value.code == "MALFORMED_CHECKPOINT"


@pytest.mark.parametrize(
    "note", ["", "\n", "x\n\n\n", "a\n1\nb\n\n\N{EM DASH} n x\n", "a\n1\n" + "A" * 44 + "\n\n- n AAAA\n"]
)
def test_what_is_no_note_is_malformed(signer: Signer, note: str) -> None:
    with pytest.raises(NoteError) as refused:
        read_note(note, [signer.vkey])
    assert refused.value.code == "MALFORMED_CHECKPOINT"


def test_another_origin_and_a_bad_signature_are_told_apart(signer: Signer) -> None:
    with pytest.raises(NoteError) as origin:
        read_note(signer.sign(head_text("other/log", 1, bytes(32))), [signer.vkey], origin=ORIGIN)
    assert origin.value.code == "WRONG_ORIGIN"
    note = sign(signer, 7, bytes(32)).replace("\n7\n", "\n8\n")
    with pytest.raises(NoteError) as signature:
        read_note(note, [signer.vkey])
    assert signature.value.code == "SIGNATURE_INVALID"


@pytest.mark.parametrize(
    "vkey", ["", "a+b", "a+00000000+AAAA", "sum.golang.org+033de0af+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"]
)
def test_a_damaged_key_is_refused(vkey: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_vkey(vkey)


def test_warnings_do_not_drown_tampering() -> None:
    report = Report(to_seq=1000)
    for seq in range(0, 3 * MAX_FINDINGS, 2):
        report.add(Finding("CLOCK_SKEW", "", seq))
    assert (report.exit_code, len(report.findings)) == (0, MAX_FINDINGS)
    report.add(Finding("LEAF_MISMATCH", "", 999))
    assert (report.exit_code, report.first_bad_seq, len(report.findings)) == (1, 999, MAX_FINDINGS)
    assert report.finding_count == 151


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", "[]"),
        ("manifest.json", '{"entries": {"from": 5, "to": 9}, "chain": 7}'),
        ("manifest.json", '{"entries": {"from": "a", "to": null}, "chain": {"before": "zz", "after": 1}, "at": 3}'),
        ("checkpoints.jsonl", "nonsense\n[1]\n{}\n"),
        ("checkpoint", "a\n99999999999999\nb\n\n\N{EM DASH} x y\n"),
        ("checkpoint", ""),
        ("checkpoint", "\n\n\n\n"),
        ("checkpoint", "a\n" + "9" * 5000 + "\nb\n\n"),
        ("tile/0/000.p/3", "short"),
        ("tile/entries/000.p/3", "\uffff"),
    ],
)
def test_no_content_of_a_bundle_breaks_or_stalls_the_verifier(
    signer: Signer, tmp_path: Path, name: str, content: str
) -> None:
    bundle = tmp_path / "bundle"
    files: dict[str, Any] = {"checkpoint": sign(signer, 3, bytes(32)), "manifest.json": "{}", "checkpoints.jsonl": ""}
    for key, text in {**files, name: content}.items():
        path = bundle / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    report = verify_bundle(bundle, vkeys=[signer.vkey])
    assert report.exit_code in {1, 3}
    assert report.lines()


@pytest.mark.usefixtures("signer")
def test_the_command_prints_the_report_and_keeps_a_pin_only_when_all_is_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, pin = tmp_path / "b.tar", tmp_path / "pin"
    with tarfile.open(bundle, "w") as tar:
        (tmp_path / "manifest.json").write_text(json.dumps({}))
        tar.add(tmp_path / "manifest.json", "./manifest.json")
    assert main([str(bundle), "--key", str(tmp_path / "signer.pub"), "--pin", str(pin)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("NOT INTACT: ")
    assert "MALFORMED_CHECKPOINT: the checkpoint is not a signed tree head" in out
    assert not pin.exists()


def test_missing_or_damaged_key_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"keys\.json is missing"):
        Keys.open(tmp_path / "nothing", create=False)
    with pytest.raises(KeyFileError, match="is missing"):
        Signer.open(tmp_path / "none", ORIGIN, create=False)
    (tmp_path / "keys.json").write_text('{"writer": {"id": "w", "key": "AAAA"}}')
    with pytest.raises(KeyFileError, match="is damaged"):
        Keys.open(tmp_path)
    (tmp_path / "bad").write_text("PRIVATE+KEY+x")
    with pytest.raises(KeyFileError, match="is damaged"):
        Signer.open(tmp_path / "bad", ORIGIN)
    Signer.open(tmp_path / "good", "other/log")
    with pytest.raises(KeyFileError, match=f"belongs to the log other/log, not to {ORIGIN}"):
        Signer.open(tmp_path / "good", ORIGIN)
    vkey = Signer.open(tmp_path / "good", "other/log").vkey
    (tmp_path / "keys").write_text(f"# comment\n\n{vkey}\n  {vkey} \n")
    assert read_vkeys(tmp_path / "keys") == [vkey, vkey]
    (tmp_path / "keys").write_text("k1\n")
    with pytest.raises(KeyFileError, match="keys holds a line that is no public key"):
        read_vkeys(tmp_path / "keys")
