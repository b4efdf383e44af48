"""The opaque cursor of an event: its position under one block of AES, so that it tells nothing about other cities' traffic.

Deterministic, because one serialized event is shared by all who hear it, and because equal cursors are how a client
drops a repeated event.
"""

from __future__ import annotations

import base64
import hmac
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

_MARK: Final = b"cursor\x00\x01"  # eight known bytes: whoever opens a block sees whether it was sealed here


class Cursors:
    """Seals positions. The key is derived from the nextToken key."""

    def __init__(self, key: bytes) -> None:
        # One block only, so ECB's weakness (equal blocks show) is the wanted property: equal events, equal cursors.
        self._cipher = Cipher(AES(hmac.digest(key, b"countersign/cursor/v1", "sha256")), ECB())  # noqa: S305

    def seal(self, position: int) -> str:
        encryptor = self._cipher.encryptor()
        block = encryptor.update(_MARK + position.to_bytes(8)) + encryptor.finalize()
        return base64.urlsafe_b64encode(block).decode().rstrip("=")
