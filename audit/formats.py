"""The formats that a verifier reads: RFC 6962 hashes, tile names, canonical records (J1), C2SP signed notes.

Standard library and ``cryptography`` only, written apart from the code that writes them, so that each checks the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WIDTH: Final = 256  # hashes of a full tile
HASH: Final = 32
MAX_SIGNATURES: Final = 64
MAX_INTEGER: Final = 2**53 - 1


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


_DECODER: Final = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse, parse_int=_integer)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


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
    value = _DECODER.decode(text)
    if _ENCODER.encode(value).encode("utf-8") != body:
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

    @property
    def name(self) -> str:
        """How findings speak of it."""
        return f"checkpoint {self.size}, signed by {', '.join(self.signed_by)}"


class NoteError(Exception):
    """A note that proves nothing, with the code of the finding."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code: Final = code


def parse_vkey(text: str) -> tuple[str, bytes, Ed25519PublicKey]:
    """Name, key id and key of ``name+hexid+base64(0x01 || public key)``; raises ValueError."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3:  # noqa: PLR2004 - name, id, key
        raise ValueError("not a public key of a log (name+id+key)")
    name, hexid, encoded = parts
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


def height(size: int) -> int:
    """How many levels of tiles a tree of this size has on its edge."""
    return (size.bit_length() + 7) // 8
