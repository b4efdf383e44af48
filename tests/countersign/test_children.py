"""Children are started again when they die, given up on when that is hopeless, and stopped within a bound."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from countersign import children
from countersign.children import Child, GivenUpError, stop_all
from countersign.worker_process import Assignment


@dataclass(frozen=True)
class Script(Assignment):
    """An assignment that runs a few lines of Python instead of a server."""

    code: str = ""

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.code]

    @property
    def descriptors(self) -> tuple[int, ...]:
        return ()


def _child(code: str, said: list[str]) -> Child:
    return Child("test", Script("serve", 0, code=code), dict(os.environ), said.append)


def _tend_until(child: Child, done: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        child.tend()
        time.sleep(0.01)
    assert done()


def test_a_killed_child_is_started_again() -> None:
    said: list[str] = []
    child = _child("import time; time.sleep(60)", said)
    child.start()
    assert child.process is not None
    first = child.process.pid
    os.kill(first, signal.SIGKILL)
    _tend_until(child, lambda: child.process is not None and child.process.pid != first)
    assert said == ["The test process ended (SIGKILL); starting it again."]
    stop_all([child], 2)
    assert child.gone()


def test_a_child_that_keeps_dying_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_FIRST_DELAY", 0.001)
    child = _child("raise SystemExit(7)", [])
    child.start()
    with pytest.raises(GivenUpError, match=r"died 5 times in a row right after its start \(exit 7\)"):
        _tend_until(child, lambda: False)


def test_a_wrongly_configured_child_is_not_tried_again() -> None:
    child = _child("raise SystemExit(2)", [])
    child.start()
    with pytest.raises(GivenUpError, match="cannot run like this"):
        _tend_until(child, lambda: False)
    assert child.quick_deaths == 0


def test_a_child_that_ignores_the_stop_is_killed_in_time() -> None:
    said: list[str] = []
    deaf = _child(
        "import signal, time; signal.signal(15, signal.SIG_IGN); open(1, 'wb', closefd=False); time.sleep(60)", said
    )
    deaf.start()
    time.sleep(0.3)
    began = time.monotonic()
    stop_all([deaf], 0.5)
    assert deaf.gone()
    assert 0.4 < time.monotonic() - began < 3
    assert said == ["The test process did not stop in 0 s; killing it."]
