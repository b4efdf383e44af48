"""Between rounds the log is sealed and anchored as the background child would, so that the writer never fails closed."""

from __future__ import annotations

import time
from typing import Self

from audit.anchor import DirectoryAnchor
from audit.keys import Keys, Signer
from audit.sealer import Sealer
from audit.writer import Writer
from countersign.settings import Settings


class Sealing:
    """One sealer over the run's database. It runs outside the measured time: sealing is off the path of an answer."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    @classmethod
    async def of(cls, settings: Settings) -> Self:
        keys = Keys.open(settings.keys_dir)
        return cls(
            Sealer(
                settings.dsn("cs_sealer"),
                keys=keys,
                signer=Signer.open(settings.signer_path, settings.audit_origin, create=False),
                anchor=DirectoryAnchor(settings.anchor_dir),
                writer=Writer(keys, origin=settings.audit_origin),
            )
        )

    async def drain(self) -> tuple[int, float]:
        """Seal all that waits, then anchor it: how many records, and the seconds for sealing them."""
        began, total = time.perf_counter(), 0
        while (run := await self._sealer.run_once()).records:
            total += run.records
        took = time.perf_counter() - began
        await self._sealer.anchor_once()
        return total, took

    async def close(self) -> None:
        await self._sealer.close()
