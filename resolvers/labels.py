"""Names of a row's columns: the response key, and hidden ones that no response key can have (``$`` is not in a GraphQL name)."""

from __future__ import annotations

import hashlib
from typing import Final

ROW: Final = "$id"  # the row's key, for the audit record and for tokens of nested lists
KEY: Final = "$key"  # its sort key
NEED: Final = "$c_"  # a column that a computed field needs
ALIVE: Final = "$v"  # of a statement that only compares the authorization version
INNER: Final = "$i"  # the row once more, for a second alias of ``items``
NUMBER: Final = "$n"  # the row's number on its page

_IDENTIFIER_BYTES: Final = 63  # PostgreSQL cuts longer identifiers off, without a word


def label(response_key: str) -> str:
    """The column's name for a response key: itself, or a short hash where PostgreSQL would cut it."""
    if len(response_key) <= _IDENTIFIER_BYTES:
        return response_key
    return f"$h_{hashlib.sha256(response_key.encode()).hexdigest()[:32]}"
