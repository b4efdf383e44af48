"""Runs a state machine over a database of its own; a failure prints its seed and the steps that led there."""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from countersign.embedded import Cluster
from tests.conftest import clone, drop
from tests.machines.world import World, opened

RunMachine = Callable[..., None]
LONG = {"max_examples": 200, "stateful_step_count": 50}  # security-contract PT-1


@pytest.fixture
def run_machine(
    cluster: Cluster, template_db: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[RunMachine]:
    """``run_machine(Machine, examples, steps)``; ``--long`` raises both, ``--hypothesis-seed`` repeats a run."""
    loop = asyncio.new_event_loop()

    async def over(machine: type[RuleBasedStateMachine], chosen: settings) -> Callable[[], None]:
        stack = opened(database, tmp_path)
        world = await stack.__aenter__()
        closing.append(stack)
        return lambda: _run(machine, world, chosen, seed_of(machine))

    def seed_of(machine: type[RuleBasedStateMachine]) -> int:
        """The plain suite walks the same paths every time; ``--long`` (and a seed of one's own) looks for new ones."""
        given = request.config.getoption("--hypothesis-seed")
        if given is not None:
            return int(given)
        return secrets.randbits(32) if request.config.getoption("--long") else zlib.crc32(machine.__name__.encode())

    def run(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
        counts = {"max_examples": examples, "stateful_step_count": steps}
        chosen = settings(
            **(LONG if request.config.getoption("--long") else counts),
            deadline=None,
            # Making a failure of twenty-five steps smaller takes minutes; they can be read as they are.
            phases=[Phase.generate, *([Phase.shrink] if request.config.getoption("--long") else [])],
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        loop.run_until_complete(over(machine, chosen))()

    closing: list[Any] = []
    database = loop.run_until_complete(clone(cluster, template_db))
    try:
        yield run
    finally:
        for stack in closing:
            loop.run_until_complete(stack.__aexit__(None, None, None))
        loop.run_until_complete(drop(cluster, database))
        loop.close()


def _run(machine: type[RuleBasedStateMachine], world: World, chosen: settings, seed: int) -> None:
    print(f"repeat with --hypothesis-seed={seed}")  # noqa: T201 - shown with a failure

    def made() -> RuleBasedStateMachine:
        return machine(world)

    run_state_machine_as_test(hypothesis.seed(seed)(made), settings=chosen)
