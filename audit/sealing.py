"""Sealed values: AES-256-GCM with a commitment, under the key of a subject or of the log (audit-design section 4 and 12).

GCM alone does not commit to the key, so ``m`` binds the value: one ciphertext cannot open to two values. With the key
gone the salt is gone, and ``m`` says nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.keys import Keys
from audit.record import canonical

_SALT: Final = 32
_WRAP_VERSION: Final = b"\x01"


class SealBrokenError(Exception):
    """The sealed value does not open under this key, in this place, or its commitment does not hold."""


@dataclass(frozen=True)
class DataKey:
    """What values are sealed under: ``id`` is a subject's tag, or the log key's id."""

    id: str
    secret: bytes


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def seal(value: str, key: DataKey, record_id: str, path: str) -> dict[str, str]:
    """Seal one value for one place of one record."""
    salt, nonce, clear = secrets.token_bytes(_SALT), secrets.token_bytes(12), value.encode()
    sealed = AESGCM(key.secret).encrypt(nonce, salt + clear, f"{record_id}\n{path}".encode())
    commitment = hashlib.sha256(b"\x03" + salt + clear).digest()
    return {"alg": "A256GCM", "k": key.id, "n": _b64(nonce), "c": _b64(sealed), "m": _b64(commitment)}


def unseal(sealed: Mapping[str, Any], key: DataKey, record_id: str, path: str) -> str:
    """Open a sealed value; raises ``SealBrokenError``."""
    try:
        if sealed["alg"] != "A256GCM" or sealed["k"] != key.id:
            raise SealBrokenError("sealed under another key")
        nonce, ciphertext, commitment = (base64.b64decode(sealed[part], validate=True) for part in ("n", "c", "m"))
        opened = AESGCM(key.secret).decrypt(nonce, ciphertext, f"{record_id}\n{path}".encode())
    except (InvalidTag, ValueError, KeyError) as error:
        raise SealBrokenError("the sealed value does not open") from error
    salt, clear = opened[:_SALT], opened[_SALT:]
    if not hmac.compare_digest(hashlib.sha256(b"\x03" + salt + clear).digest(), commitment):
        raise SealBrokenError("COMMITMENT_MISMATCH")
    return clear.decode()


def salted_digest(value: Any, salt: bytes) -> str:
    """Digest of an object that cannot be found by trying values without its salt."""
    return "sd1:" + hmac.digest(salt, canonical(value), "sha256").hex()


def log_key(keys: Keys) -> DataKey:
    """The key for values that belong to no subject."""
    return DataKey(keys.log.id, keys.log.secret)


# ---------- subjects ----------
def _wrap(keys: Keys, lookup: bytes, secret: bytes) -> bytes:
    nonce = secrets.token_bytes(12)
    return _WRAP_VERSION + nonce + AESGCM(keys.subject.secret).encrypt(nonce, secret, lookup)


def unwrap(keys: Keys, lookup: bytes, wrapped: bytes) -> bytes:
    """A subject's data key from its row; raises ``SealBrokenError``."""
    try:
        if wrapped[:1] != _WRAP_VERSION:
            raise SealBrokenError("unknown wrapping")
        return AESGCM(keys.subject.secret).decrypt(wrapped[1:13], wrapped[13:], lookup)
    except (InvalidTag, ValueError) as error:
        raise SealBrokenError("the subject key does not unwrap") from error


async def subject_keys(conn: Any, keys: Keys, subject_ids: Sequence[str]) -> dict[str, DataKey]:
    """Tag and data key of each subject, made at first use, on the caller's connection: what rolls back leaves no key behind.

    Nothing is cached: a key made in a transaction that rolls back must not be used by the next one.
    Rows are taken in the order of their lookups, so two transactions that meet two new subjects do not deadlock.
    """
    if not subject_ids:
        return {}
    by_lookup = {keys.lookup(subject): subject for subject in sorted(set(subject_ids))}
    lookups = sorted(by_lookup)
    tags = [secrets.token_hex(16) for _ in lookups]
    wrapped = [_wrap(keys, lookup, secrets.token_bytes(32)) for lookup in lookups]
    rows = await conn.fetch(
        "SELECT lookup, tag, wrapped FROM audit.subject_keys_for($1::bytea[], $2::text[], $3::bytea[])",
        lookups,
        tags,
        wrapped,
    )
    return {by_lookup[row["lookup"]]: DataKey(row["tag"], unwrap(keys, row["lookup"], row["wrapped"])) for row in rows}
