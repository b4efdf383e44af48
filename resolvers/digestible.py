"""Arguments as a record may digest them: without what is personal, free text or secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

# A bare hash of a small domain is reversible by trying, so what a person wrote or is stays out of the digest.
_UNDIGESTED: Final = frozenset(
    {
        "note",
        "detail",
        "body",
        "comment",
        "replyToReporters",
        "reporterId",
        "leaseToken",
        "idempotencyKey",
        "parameters",
        "facts",
        "explanation",
    }
)


def digestible(value: Any) -> Any:
    """Arguments as JSON values, without what is personal or secret."""
    plain = orjson.loads(orjson.dumps(value)) if isinstance(value, Mapping) else value
    return _pruned(plain)


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(item) for name, item in value.items() if name not in _UNDIGESTED}
    if isinstance(value, list):
        return [_pruned(item) for item in value]
    return value
