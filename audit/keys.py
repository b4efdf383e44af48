"""Secret keys of the log: writer MAC, subject wrapping, log data key, tags, nextToken, and the checkpoint signer.

None of them is in the database, so its superuser can neither forge a record nor open a sealed field. The signer is a
file of its own: only the process that seals needs it; everybody else needs its ``.pub``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from audit.formats import parse_vkey

_FILE: Final = "keys.json"
_NAMES: Final = ("writer", "subject", "log", "lookup", "tag", "nextToken")
_BYTES: Final = 32
_ED25519: Final = b"\x01"  # signature type of C2SP signed-note


class KeyFileError(Exception):
    """A key file is missing, unreadable or damaged; the message names it."""


def _write_once(path: Path, text: str, mode: int) -> bool:
    """Create a file whole or not at all; False when somebody else was first (two workers start at once)."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise KeyFileError(
            f"Key file {path} is missing. Restore it from its backup; only a log without records may be given new keys, by `countersign make-keys`."
        ) from error
    except OSError as error:
        raise KeyFileError(f"Key file {path} cannot be read: {error.strerror}.") from error


@dataclass(frozen=True)
class Key:
    """A named secret; the name travels with what it made, so that a key can be changed later."""

    id: str
    secret: bytes


@dataclass(frozen=True)
class Keys:
    """The keys of ``COUNTERSIGN_KEYS``. ``open`` makes them at first start."""

    writer: Key
    subject: Key
    log: Key
    lookup_key: Key
    tag_key: Key
    next_token: Key

    @classmethod
    def open(cls, directory: Path, *, create: bool = True) -> Keys:
        """Read the keys of a directory; with ``create`` make them when there are none. Raises ``KeyFileError``."""
        path = directory / _FILE
        if create and not path.exists():
            fresh = {
                name: {
                    "id": f"{name}-{secrets.token_hex(4)}",
                    "key": base64.b64encode(secrets.token_bytes(32)).decode(),
                }
                for name in _NAMES
            }
            _write_once(path, json.dumps(fresh, indent=1) + "\n", 0o600)
        try:
            stored = json.loads(_read(path))
            keys = [Key(stored[name]["id"], base64.b64decode(stored[name]["key"], validate=True)) for name in _NAMES]
        except (ValueError, KeyError, TypeError) as error:
            raise KeyFileError(f"Key file {path} is damaged; restore it from its backup.") from error
        if any(len(key.secret) != _BYTES for key in keys):
            raise KeyFileError(f"Key file {path} is damaged; restore it from its backup.")
        return cls(*keys)

    @property
    def next_token_key(self) -> bytes:
        return self.next_token.secret

    @property
    def writer_keys(self) -> dict[str, bytes]:
        """Writer MAC keys by id, as the verifier takes them."""
        return {self.writer.id: self.writer.secret}

    def mac(self, leaf: bytes) -> bytes:
        """The writer's MAC over a leaf."""
        return writer_mac(self.writer.id, self.writer.secret, leaf)

    def mac_holds(self, kid: str, leaf: bytes, mac: bytes) -> bool:
        return kid == self.writer.id and hmac.compare_digest(self.mac(leaf), mac)

    def lookup(self, subject_id: str) -> bytes:
        """What a subject's key is found by; nobody without this key can tell whose row it is."""
        return hmac.digest(self.lookup_key.secret, b"countersign/subject/v1\n" + subject_id.encode(), "sha256")

    def tag(self, value: str) -> str:
        """Keyed hash of an identifier that must be comparable but not readable (an address)."""
        return hmac.digest(self.tag_key.secret, b"countersign/tag/v1\n" + value.encode(), "sha256").hex()[:32]


def writer_mac(kid: str, secret: bytes, leaf: bytes) -> bytes:
    """The MAC of audit-design section 4: over a domain line, the key's id and the leaf, one a line."""
    return hmac.digest(secret, b"countersign/writer/v1\n" + kid.encode() + b"\n" + leaf, "sha256")


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes by which a signed note names an Ed25519 key (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


class Signer:
    """Signs checkpoints. The key's name is the log's origin."""

    def __init__(self, name: str, seed: bytes) -> None:
        self.name: Final = name
        self._key: Final = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id: Final = key_id(name, public)
        self.vkey: Final = f"{name}+{self.id.hex()}+{base64.b64encode(_ED25519 + public).decode()}"

    @classmethod
    def open(cls, path: Path, name: str, *, create: bool = True) -> Signer:
        """Read the signing key; with ``create`` make one when there is none. The public key is left at ``PATH.pub``."""
        if create and not path.exists():
            seed = secrets.token_bytes(32)
            fresh = cls(name, seed)
            _write_once(
                path, f"PRIVATE+KEY+{name}+{fresh.id.hex()}+{base64.b64encode(_ED25519 + seed).decode()}\n", 0o600
            )
        try:
            _, _, stored_name, stored_id, encoded = _read(path).strip().split("+", 4)
            secret = base64.b64decode(encoded, validate=True)
            signer = cls(stored_name, secret[1:])
        except ValueError as error:
            raise KeyFileError(f"Signing key {path} is damaged; restore it from its backup.") from error
        if secret[:1] != _ED25519 or signer.id.hex() != stored_id:
            raise KeyFileError(f"Signing key {path} is damaged; restore it from its backup.")
        if stored_name != name:
            raise KeyFileError(f"Signing key {path} belongs to the log {stored_name}, not to {name}.")
        _write_once(public_path(path), signer.vkey + "\n", 0o644)
        return signer

    def sign(self, text: str) -> str:
        """The signed note of a text that ends in a newline."""
        signature = base64.b64encode(self.id + self._key.sign(text.encode())).decode()
        return f"{text}\n\N{EM DASH} {self.name} {signature}\n"


def public_path(path: Path) -> Path:
    """Where ``Signer.open`` leaves the public key of a signing key."""
    return path.with_name(path.name + ".pub")


def read_vkeys(path: Path) -> list[str]:
    """The public keys of a file, one a line; blank lines and # comments are skipped. Raises ``KeyFileError``."""
    lines = [line for raw in _read(path).splitlines() if (line := raw.strip()) and not line.startswith("#")]
    for line in lines:
        try:
            parse_vkey(line)
        except ValueError as error:
            raise KeyFileError(f"{path} holds a line that is no public key of a log: {error}.") from error
    return lines
