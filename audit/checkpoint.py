"""Signed tree heads (C2SP tlog-checkpoint in a signed note) and the proofs that go with them (tlog-proof)."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from audit.keys import Signer


def head_text(origin: str, size: int, root: bytes) -> str:
    """The text that is signed: three lines, no extension lines (nobody could audit them)."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def sign(signer: Signer, size: int, root: bytes) -> str:
    """The checkpoint note of a head. The caller has made sure that no other head was ever signed for what it extends."""
    return signer.sign(head_text(signer.name, size, root))


def proof_text(seq: int, path: Sequence[bytes], note: str) -> str:
    """The inclusion proof of one record with its checkpoint, as one text to keep beside the record's body."""
    hashes = "".join(base64.b64encode(value).decode() + "\n" for value in path)
    return f"c2sp.org/tlog-proof@v1\nindex {seq}\n{hashes}\n{note}"


def signers(note: str) -> list[str]:
    """Names and key ids on a note, verified or not: for display."""
    found: list[str] = []
    for line in note.rpartition("\n\n")[2].splitlines():
        _, name, data = line.split(" ", 2)
        found.append(f"{name}+{base64.b64decode(data)[:4].hex()}")
    return found
