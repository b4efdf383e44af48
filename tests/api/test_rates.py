"""Token buckets and counts: what they let through, and that they stay small."""

from __future__ import annotations

import pytest

from resolvers.rates import Buckets, Counts
from schema.errors import ConsoleError

pytestmark = pytest.mark.contract("RT-1")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_the_rate() -> None:
    clock = Clock()
    buckets = Buckets((10.0, 3), clock)
    assert [buckets.take("a") for _ in range(3)] == [None, None, None]
    wait = buckets.take("a")
    assert wait is not None
    assert 99 <= wait <= 101
    assert buckets.take("b") is None, "another person has a bucket of his own"
    clock.now += 0.1
    assert buckets.take("a") is None
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)][-1] is not None, "no more than the burst is saved up"


def test_a_refusal_says_when_to_come_again() -> None:
    buckets = Buckets((1.0, 1), Clock())
    buckets.require("a")
    with pytest.raises(ConsoleError) as refused:
        buckets.require("a")
    assert refused.value.code == "RATE_LIMITED"
    assert refused.value.error_info == {"retryable": True, "retryAfterMs": 1001}


def test_many_strangers_do_not_fill_the_memory() -> None:
    buckets = Buckets((1.0, 1), Clock())
    for number in range(30_000):
        buckets.take(number)
    assert len(buckets._levels) == 20_000


def test_counts_have_a_most_and_give_places_back() -> None:
    counts = Counts(2)
    with counts.inside("a"), counts.inside("a"):
        assert counts.of("a") == 2
        with pytest.raises(ConsoleError), counts.inside("a"):
            pass
        with counts.inside("b"):
            pass
    assert counts.of("a") == 0
