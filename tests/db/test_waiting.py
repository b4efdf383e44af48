"""A bounded wait that a cancellation always ends."""

from __future__ import annotations

import asyncio

import pytest

from db.waiting import waited


async def test_it_says_whether_the_event_came() -> None:
    event = asyncio.Event()
    assert await waited(event, 0.01) is False
    event.set()
    assert await waited(event, 60) is True


async def test_a_cancellation_that_comes_together_with_the_event_ends_the_wait() -> None:
    event = asyncio.Event()
    task = asyncio.create_task(waited(event, 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
