"""Waiting for an event with a bound, for the loops of hub, worker, sealer and authorizer."""

from __future__ import annotations

import asyncio
import contextlib


async def waited(event: asyncio.Event, seconds: float) -> bool:
    """Wait until the event is set or the time is over; whether it is set.

    Not ``asyncio.wait_for``: before Python 3.12 that drops a cancellation which arrives together with the event, and a
    loop that is being stopped goes on for ever (cpython issue 86296).
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
