"""The measuring: equal answers first, then counts, then interleaved rounds of every row against every document."""

from __future__ import annotations

import asyncio
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

from benchmarks import load
from benchmarks.documents import ONE_ROW, Work, comparable, http
from benchmarks.ground import Ground
from benchmarks.processes import Serving, Tree
from benchmarks.sealing import Sealing
from benchmarks.seed import tidy

Key = tuple[str, str, int]  # document, row, connections
ROWS: Final = ("product", "unaudited", "limit", "limit+audit", "strawberry")
READS: Final = ("Q1", "Q2", "Q3")
AUDIT_CONNECTIONS: Final = (1, 8)
FULL: Final = 32
_STATEMENT: Final = re.compile(r"LOG:  (?:execute|statement)")
_WARM_REQUESTS: Final = 60
_WARM_ASKED: Final = 3
_COLD_ASKED: Final = 20


class UnequalError(Exception):
    """Two rows answer one request differently, so their times cannot be compared."""


@dataclass(frozen=True)
class Stretch:
    """What one stretch of load came to, with the CPU that server and database took for it."""

    rate: float
    p50_ms: float
    p99_ms: float
    server_ms: float  # CPU per request
    database_ms: float
    busy: float  # of the server's core
    count: int
    errors: int


@dataclass
class Measured:
    """All of a run, by document, row and connections; one stretch per round."""

    rounds: list[dict[Key, Stretch]] = field(default_factory=list)
    statements: dict[tuple[str, str], float] = field(default_factory=dict)
    invalid: dict[tuple[str, str], str] = field(default_factory=dict)
    cold: dict[str, tuple[float, float]] = field(default_factory=dict)  # first request of a document and later ones, ms
    disturbed: list[tuple[float, float]] = field(default_factory=list)  # p99 alone, and beside new documents, ms
    sealed: int = 0
    seal_seconds: float = 0.0

    def middle(self, key: Key, of: Callable[[Stretch], float]) -> float:
        return statistics.median(of(one[key]) for one in self.rounds)

    def ratio(self, above: Key, below: Key, of: Callable[[Stretch], float]) -> list[float]:
        """One ratio per round, since both stretches of a round saw the same machine."""
        return [of(one[above]) / of(one[below]) for one in self.rounds if of(one[below])]


def stretches() -> list[Key]:
    """What every round goes through."""
    keys: list[Key] = [(name, row, FULL) for name in ("Q1", "Q2", "Q3", "M1") for row in ROWS]
    keys += [(ONE_ROW, "product", FULL), (ONE_ROW, "open", FULL), ("Q3", "open", FULL)]
    keys += [(name, "compiled", FULL) for name in READS]
    keys += [
        (name, row, connections)
        for connections in AUDIT_CONNECTIONS
        for name in ("Q1", "Q2", "Q3", "M1")
        for row in ("product", "unaudited")
    ]
    return keys


class Bench:
    """One run over serving processes that are all up."""

    def __init__(self, ground: Ground, servers: Mapping[str, Serving], works: Sequence[Work], log: Path) -> None:
        """``log`` is where the servers write; a row that answers with an error is shown with its last lines."""
        self._log = log
        self._ground = ground
        self._servers = servers
        self._works = {work.name: work for work in works}
        tokens = ground.tokens()
        self._tokens = tokens
        self._requests = {
            (work.name, row): work.requests(server.host, tokens) for work in works for row, server in servers.items()
        }
        self._database = Tree(ground.cluster.pid or 0)
        self.measured = Measured()

    # ---------- before anything is timed ----------
    def compare(self) -> None:
        """Raise ``UnequalError`` unless all rows give the same data to the same questions."""
        for work in self._works.values():
            for person, variables in work.samples:
                answers = {row: self._ask(row, work, person, variables) for row in self._servers}
                expected = answers["product"]
                for row, answer in answers.items():
                    if answer != expected:
                        raise UnequalError(f"{work.name} {variables}: {row} says {answer}, product {expected}")

    def _ask(self, row: str, work: Work, person: str, variables: Mapping[str, Any]) -> Any:
        server = self._servers[row]
        body = load.Client.once(server.port, http(server.host, self._tokens[person], work.document, variables))
        if b'"errors":' in body or not body.startswith(b'{"data":'):
            raise UnequalError(
                f"{work.name} {variables}: {row} says {body[:1500].decode(errors='replace')}\n{self._log.read_text()[-3000:]}"
            )
        return comparable(body)

    async def count(self, requests_each: int) -> None:
        """Statements per request, as the database logs them; warm: every document has been asked before."""
        await self._log_statements(on=True)
        log = self._ground.cluster.log
        for name, row, connections in stretches():
            if connections != FULL:
                continue
            requests, port = self._requests[name, row], self._servers[row].port
            await load.times(port, requests, _WARM_ASKED)
            counts = []
            for number in range(requests_each):
                start = log.stat().st_size
                sample = await load.times(port, requests[number:], 1)
                with log.open("rb") as file:
                    file.seek(start)
                    counts.append(len(_STATEMENT.findall(file.read().decode(errors="replace"))))
                if sample.errors:
                    self.measured.invalid[name, row] = sample.first_error.decode(errors="replace")
            # The median, since the polls of idle processes fall into some of them.
            self.measured.statements[name, row] = statistics.median(counts)
        await self._log_statements(on=False)

    async def _log_statements(self, *, on: bool) -> None:
        conn: asyncpg.Connection[Any] = await asyncpg.connect(**self._ground.superuser)
        try:
            await conn.execute(f"ALTER SYSTEM SET log_statement = '{'all' if on else 'none'}'")
            await conn.execute("SELECT pg_reload_conf()")
            await conn.execute("SELECT pg_sleep(0.2)")  # the other back ends look at it before their next statement
        finally:
            await conn.close()

    async def first_requests(self) -> None:
        """What the product takes for a document that it has never seen: parsed, validated, compiled and prepared."""
        port, host = self._servers["product"].port, self._servers["product"].host
        for name in READS:
            fresh = self._works[name].fresh(host, self._tokens, 0)[:_COLD_ASKED]
            cold = await load.times(port, fresh, len(fresh))
            warm = await load.times(port, self._requests[name, "product"], _COLD_ASKED)
            self.measured.cold[name] = cold.percentile_ms(0.5), warm.percentile_ms(0.5)

    async def disturbance(self, number: int, seconds: float) -> None:
        """Q1 once alone, and once while one more client sends nothing but new documents."""
        server, work = self._servers["product"], self._works["Q1"]
        alone = await load.run(server.port, self._requests["Q1", "product"], FULL, seconds)
        # More than one client can send in that time, so that none is sent twice.
        fresh = self._works["Q2"].fresh(server.host, self._tokens, 10_000 * (number + 1))
        beside, _ = await asyncio.gather(
            load.run(server.port, self._requests[work.name, "product"], FULL, seconds),
            load.run(server.port, fresh, 1, seconds),
        )
        self.measured.disturbed.append((alone.percentile_ms(0.99), beside.percentile_ms(0.99)))

    # ---------- the rounds ----------
    async def round(self, number: int, seconds: float) -> None:
        """Every stretch once, beginning somewhere else each time; what has piled up is sealed and vacuumed afterwards."""
        keys = stretches()
        begin = number * 7 % len(keys)
        seen: dict[Key, Stretch] = {}
        for key in (*keys[begin:], *keys[:begin]):
            seen[key] = await self._stretch(key, seconds)
        self.measured.rounds.append({key: seen[key] for key in keys})
        await self.disturbance(number, seconds)
        sealing = await Sealing.of(self._ground.settings)
        try:
            sealed, took = await sealing.drain()
        finally:
            await sealing.close()
        self.measured.sealed += sealed
        self.measured.seal_seconds += took
        await tidy(self._ground.superuser)

    async def _stretch(self, key: Key, seconds: float) -> Stretch:
        name, row, connections = key
        server, requests = self._servers[row], self._requests[name, row]
        # Other bodies than those asked last, and the caches of this row warm again after the other rows' turns.
        await load.times(server.port, requests, min(_WARM_REQUESTS, len(requests)) if seconds >= 1 else 5)
        server_before, database_before = server.cpu(), self._database.spent()
        sample = await load.run(server.port, requests, connections, seconds)
        server_cpu, database_cpu = server.cpu() - server_before, self._database.since(database_before)
        count = max(1, sample.count)
        if sample.errors or not sample.count:
            self.measured.invalid[name, row] = sample.first_error.decode(errors="replace") or "no answer at all"
        return Stretch(
            sample.rate(),
            sample.percentile_ms(0.5),
            sample.percentile_ms(0.99),
            server_cpu / count * 1000,
            database_cpu / count * 1000,
            server_cpu / sample.seconds,
            sample.count,
            sample.errors,
        )
