"""``nextToken``: authenticated encryption over who asks, what is listed, where the page ended, and until when (AZ-6).

A client can neither read a sort key out of a token nor carry it to another person, field or filter.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schema.errors import ConsoleError

LIFETIME_SECONDS: Final = 3600
MAX_CHARACTERS: Final = 2048
_NONCE_BYTES: Final = 12


@dataclass(frozen=True)
class Place:
    """What a token is bound to: the caller, the list's field (``Query.listCases``, ``Case.reports``), its filter and order."""

    caller: str
    field: str
    digest: str


@dataclass(frozen=True)
class Cursor:
    """Where a page ended: the sort key (its last part is the row's key), and the parent of a nested list."""

    key: tuple[Any, ...]
    parent: str | None = None


class Tokens:
    """Seals and opens cursors. ``keys`` are 32-byte keys by id; ``current`` seals, all of them open (rotation)."""

    def __init__(self, keys: Mapping[str, bytes], current: str, *, clock: Callable[[], float]) -> None:
        self._ciphers = {kid: AESGCM(key) for kid, key in keys.items()}
        self._current = current
        self._clock = clock

    def seal(self, cursor: Cursor, place: Place) -> str:
        """An opaque token for the page after ``cursor``."""
        expires = int(self._clock()) + LIFETIME_SECONDS
        plain = orjson.dumps([expires, place.caller, place.field, place.digest, cursor.parent, list(cursor.key)])
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plain, self._current.encode())
        return f"{self._current}.{base64.urlsafe_b64encode(nonce + sealed).decode().rstrip('=')}"

    def open(self, token: str, place: Place) -> Cursor:
        """The cursor of a token made for this place; ``INVALID_NEXT_TOKEN`` for any other, for an old one, and for one changed bit."""
        kid, _, text = token.partition(".")
        cipher = self._ciphers.get(kid)
        if cipher is None or not 0 < len(text) <= MAX_CHARACTERS:
            raise ConsoleError("INVALID_NEXT_TOKEN")
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            plain = cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], kid.encode())
        except (InvalidTag, ValueError, binascii.Error, UnicodeEncodeError) as error:
            raise ConsoleError("INVALID_NEXT_TOKEN") from error
        expires, caller, field, digest, parent, key = orjson.loads(plain)
        # base64 ignores the last bits of an unfinished group: only the one text that was sealed counts.
        canonical = base64.urlsafe_b64encode(raw).decode().rstrip("=") == text
        if not canonical or Place(caller, field, digest) != place or expires <= self._clock():
            raise ConsoleError("INVALID_NEXT_TOKEN")
        return Cursor(tuple(key), parent)
