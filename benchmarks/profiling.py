"""Where the product's time goes: its serving process under cProfile, one document after the other, from its own calls."""

from __future__ import annotations

import pstats
from io import StringIO
from pathlib import Path
from typing import Final

from benchmarks import ground, load
from benchmarks.documents import works
from benchmarks.processes import serving
from benchmarks.seed import Seed
from benchmarks.serving import PROFILE

SHAPES: Final = ("Q1", "Q2", "Q3", "M1")
_CONNECTIONS: Final = 8
_WARM_SECONDS: Final = 0.5
_LINES: Final = 25
# Work that a warm request should not cause: (file, function), counted beside the times.
_COUNTED: Final = (
    ("parser.py", "parse"),
    ("validate.py", "validate"),
    ("plans.py", "query"),
    ("enforcer.py", "opens"),
    ("enforcer.py", "holding"),
    ("enforcer.py", "permits"),
    ("executor.py", "execute_field"),
)


async def run(place: Path, seed: Seed, seconds: float) -> str:
    """A process per document, so that each profile is of one shape. The text lists what took longest by itself."""
    parts = []
    with ground.started(place) as (cluster, settings):
        made = await ground.prepared(place, cluster, settings, seed)
        for work in works(seed):
            if work.name not in SHAPES:
                continue
            file = place / f"{work.name}.prof"
            with serving(settings, {"product": f"{PROFILE}{file}:product"}, place / "serving.log") as servers:
                server = servers["product"]
                requests = work.requests(server.host, made.tokens())
                warm = await load.run(server.port, requests, _CONNECTIONS, _WARM_SECONDS)
                sample = await load.run(server.port, requests, _CONNECTIONS, max(seconds, 3.0))
            parts.append(
                f"{work.name}: {sample.count} requests, {sample.errors} errors\n{_told(file, warm.count + sample.count)}"
            )
    return "\n".join(parts)


def _told(file: Path, requests: int) -> str:
    out = StringIO()
    stats = pstats.Stats(str(file), stream=out)
    calls = dict.fromkeys(_COUNTED, 0)
    for (path, _, function), (_, total, *_) in stats.stats.items():  # type: ignore[attr-defined] # there, and not in its stub
        if (Path(path).name, function) in calls:
            calls[Path(path).name, function] += total
    for (name, function), count in calls.items():
        out.write(f"{name} {function}: {count} calls, {count / max(1, requests):.3f} a request\n")
    stats.strip_dirs().sort_stats("tottime").print_stats(_LINES)
    stats.sort_stats("cumulative").print_stats(_LINES * 2)
    return out.getvalue()
