"""The demo's rows as they are gathered, and the ids of its people."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any


def staff_id(handle: str) -> str:
    """The id of one of the demo's people."""
    return "st_" + handle.replace("-", "_")


@dataclass
class Demo:
    """All rows by table name, in the order in which foreign keys allow them."""

    now: datetime
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, table: str, **row: Any) -> dict[str, Any]:
        self.rows[table].append(row)
        return row

    def ago(self, **delta: float) -> datetime:
        return self.now - timedelta(**delta)
