"""What answers the requests of one process: every handler is given these and makes none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from resolvers.context import utc_now

if TYPE_CHECKING:
    import asyncpg

    from audit.writer import Writer
    from authz.enforcer import Authorizer
    from resolvers.callers import Callers
    from resolvers.documents import Documents
    from resolvers.limits import Front, Limits
    from resolvers.pipeline import Pipeline
    from resolvers.reader import Reader
    from schema.console import Console


@dataclass(frozen=True)
class Parts:
    """Immutable; each part is built once, by ``app.py``."""

    console: Console
    callers: Callers
    authorizer: Authorizer
    documents: Documents
    reader: Reader
    pipeline: Pipeline
    writer: Writer
    app_pool: asyncpg.Pool[Any]
    limits: Limits
    front: Front
    clock: Callable[[], datetime] = utc_now
