"""``python -m benchmarks [--rounds N] [--seconds S] [--cases N] [--quick] [--out FILE] [--profile]``.

Everything is started, measured and removed by this one command; it uses loopback only, and a folder of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks import ground, profiling
from benchmarks.documents import works
from benchmarks.measuring import Bench, Measured, UnequalError
from benchmarks.processes import Tree, other_cores, pin, serving
from benchmarks.report import as_json, text
from benchmarks.seed import Seed
from benchmarks.serving import ROWS

_QUICK: Final = {"rounds": 1, "seconds": 0.02, "cases": 900, "people": 40}


def arguments(given: list[str]) -> argparse.Namespace:
    """The options, those of ``--quick`` filled in where they were not named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often every row meets every document (5)")
    parser.add_argument("--seconds", type=float, help="of load for each of them (1)")
    parser.add_argument(
        "--cases", type=int, help="seeded cases, each with four reports (50000; 200000 takes about 4 times as long)"
    )
    parser.add_argument("--people", type=int, help="staff who ask in turn, since each of them has limits (200)")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest run: shows that it works, its figures mean nothing"
    )
    parser.add_argument(
        "--profile", action="store_true", help="profile the product instead, one document after the other"
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes; without it, it goes with the temporary folder")
    options = parser.parse_args(given)
    defaults = _QUICK if options.quick else {"rounds": 5, "seconds": 1.0, "cases": 50_000, "people": 200}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


async def _measured(options: argparse.Namespace, place: Path, facts: dict[str, Any]) -> Measured:
    with ground.started(place) as (cluster, settings):
        seed = Seed(options.cases, options.people)
        made = await ground.prepared(place, cluster, settings, seed)
        pin([*Tree(cluster.pid or 0).pids(), os.getpid()], other_cores())
        facts["cases"] = f"{options.cases:,} ({seed.people} people), seeded in {made.seed_seconds:.1f} s"
        facts["device"] = (
            f"{made.flush_ms:.2f} ms for fdatasync of one page; fsync, synchronous_commit, full_page_writes on"
        )
        log = place / "serving.log"
        with serving(settings, {row: row for row in ROWS}, log) as servers:
            bench = Bench(made, servers, works(seed), log)
            bench.compare()
            await bench.count(9 if options.quick else 25)
            await bench.first_requests()
            gc.collect()
            gc.disable()  # the load's own collections would show as somebody's p99
            for number in range(options.rounds):
                await bench.round(number, options.seconds)
            gc.enable()
            return bench.measured


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "run": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {options.rounds} rounds of {options.seconds} s",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "pinning": "the serving process under load has core 0; load and database share the others",
    }


def main(given: list[str]) -> int:
    """Run and print. 0, or 1 when a row is invalid or answers differently from the product."""
    options = arguments(given)
    ground.forget_environment()
    began = time.monotonic()
    with ground.folder() as place:
        if options.profile:
            sys.stdout.write(
                asyncio.run(profiling.run(place, Seed(options.cases, options.people), options.seconds)) + "\n"
            )
            return 0
        facts = _facts(options)
        try:
            measured = asyncio.run(_measured(options, place, facts))
        except UnequalError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        facts["took"] = f"{time.monotonic() - began:.0f} s"
        sys.stdout.write(text(measured, facts) + "\n")
        out = options.out or place / "benchmarks.json"
        out.write_bytes(orjson.dumps(as_json(measured, facts), option=orjson.OPT_INDENT_2))
        if options.out:
            sys.stdout.write(f"\nAll of it: {options.out}\n")
        return 1 if measured.invalid else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
