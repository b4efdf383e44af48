"""Child processes of the server: started with inherited sockets, started again when they die, asked to stop in order.

A child that keeps dying right after its start is given up on, with the reason; one that says it is configured wrongly
(exit 2) is not tried again at all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from countersign.worker_process import WRONG_USE, Assignment

_QUICK_SECONDS: Final = 10.0  # a life shorter than this counts against the child
_QUICK_DEATHS: Final = 5
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0


class GivenUpError(Exception):
    """A child cannot be kept alive; the message says which and how it ended."""


@dataclass
class Child:
    """One child and its past. ``tend`` is called every now and then and keeps it alive."""

    name: str
    assignment: Assignment
    environment: Mapping[str, str]
    say: Callable[[str], None]
    process: subprocess.Popen[bytes] | None = None
    born: float = 0.0
    quick_deaths: int = 0
    not_before: float = field(default=0.0)

    def start(self) -> None:
        # A session of its own: Ctrl-C reaches the supervisor alone, which then stops everything in order.
        self.process = subprocess.Popen(
            self.assignment.command(),
            env=dict(self.environment),
            pass_fds=self.assignment.descriptors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.born = time.monotonic()

    def tend(self) -> None:
        """Start it again if it died, a little later each time. Raises ``GivenUpError`` when that is hopeless."""
        now = time.monotonic()
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return
            self.process = None
            if code == WRONG_USE:
                raise GivenUpError(f"The {self.name} process cannot run like this; its reason stands above.")
            self.quick_deaths = self.quick_deaths + 1 if now - self.born < _QUICK_SECONDS else 0
            if self.quick_deaths >= _QUICK_DEATHS:
                raise GivenUpError(
                    f"The {self.name} process died {self.quick_deaths} times in a row right after its start ({_ended(code)})."
                )
            delay = min(_FIRST_DELAY * 2**self.quick_deaths, _LONGEST_DELAY)
            self.not_before = now + delay
            self.say(f"The {self.name} process ended ({_ended(code)}); starting it again.")
        if now >= self.not_before:
            self.start()

    def signal(self, sig: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sig)

    def gone(self) -> bool:
        return self.process is None or self.process.poll() is not None


def stop_all(children: list[Child], seconds: float) -> None:
    """Ask all to stop, wait, and kill the rest."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while not all(child.gone() for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    for child in children:
        if not child.gone():
            child.say(f"The {child.name} process did not stop in {seconds:.0f} s; killing it.")
            child.signal(signal.SIGKILL)
        if child.process is not None:
            child.process.wait(5)


def life_line() -> tuple[int, int]:
    """A pipe whose writing end only this process holds: children that read it see its end when this process is gone."""
    return os.pipe()


def _ended(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
