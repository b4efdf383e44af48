"""Spans and log records on their way out: a bounded buffer, one thread that sends, and a count of what was lost (FC-12).

The SDK's own batch processor neither counts what it drops nor ends within a bound, both of which are promised here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from opentelemetry import context

logger: Final = logging.getLogger("countersign.telemetry")

# The exporter's own requests are no part of the story; the key is OpenTelemetry's convention for that.
_SUPPRESSED: Final = "suppress_instrumentation"


class Buffer:
    """Takes items from any thread without waiting; full, it drops the new one."""

    def __init__(
        self,
        signal: str,
        export: Callable[[Sequence[Any]], bool],
        *,
        capacity: int,
        batch: int,
        delay_seconds: float,
    ) -> None:
        """``export`` sends one batch and says whether it arrived; it may take its time and raise."""
        self.signal: Final = signal
        self.lost: Final = {"queue_full": 0, "not_delivered": 0}
        self._export = export
        self._capacity, self._batch, self._delay = capacity, batch, delay_seconds
        self._waiting: deque[Any] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=f"telemetry-{signal}", daemon=True)
        self._thread.start()

    def put(self, item: Any) -> None:
        if self._stopping or len(self._waiting) >= self._capacity:
            self.lost["queue_full"] += 1
            return
        self._waiting.append(item)
        if len(self._waiting) >= self._batch:
            self._wake.set()

    def stop(self, deadline: float) -> None:
        """Send what waits, until ``deadline`` (monotonic); what is left then is lost, and counted."""
        self._stopping = True
        self._wake.set()
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        context.attach(context.set_value(_SUPPRESSED, value=True))
        while not self._stopping:
            self._wake.wait(self._delay)
            self._wake.clear()
            self._send()
        self._send()

    def _send(self) -> None:
        while self._waiting:
            items = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            try:
                arrived = self._export(items)
            except Exception:  # noqa: BLE001 - telemetry fails open: whatever it is, the process goes on
                arrived = False
            if not arrived:
                self.lost["not_delivered"] += len(items)
            self._tell(failing=not arrived)

    def _tell(self, *, failing: bool) -> None:
        """Once when it begins and once when it ends: a collector that is down must not fill the log."""
        if failing and not self._failing:
            logger.warning("%s are not delivered: the collector does not take them; the console goes on", self.signal)
        elif self._failing and not failing:
            logger.warning("%s are delivered again; %d were lost", self.signal, sum(self.lost.values()))
        self._failing = failing
