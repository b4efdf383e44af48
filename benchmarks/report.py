"""What is said of a run: one table of ratios with their spread, one of figures, and all of it as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.documents import ONE_ROW
from benchmarks.measuring import AUDIT_CONNECTIONS, FULL, READS, ROWS, Key, Measured, Stretch, stretches

SHAPES: Final = ("Q1", "Q2", "Q3", "M1")
INVALID: Final = "invalid"
NOT_ASKED: Final = "-"


def _rate(one: Stretch) -> float:
    return one.rate


def _server(one: Stretch) -> float:
    return one.server_ms


def _database(one: Stretch) -> float:
    return one.database_ms


def _p99(one: Stretch) -> float:
    return one.p99_ms


@dataclass(frozen=True)
class Line:
    """One line of the table of ratios: by shape, the median of the rounds' ratios with the least and the greatest."""

    title: str
    cells: dict[str, tuple[float, float, float] | None]

    def shown(self, shape: str) -> str:
        if shape not in self.cells:
            return NOT_ASKED
        cell = self.cells[shape]
        return INVALID if cell is None else f"{cell[0]:.2f} ({cell[1]:.2f}..{cell[2]:.2f})"


def ratios(measured: Measured) -> list[Line]:
    """Every line, in the order in which docs/performance.md explains them."""

    def line(
        title: str,
        above: Callable[[str], Key],
        below: Callable[[str], Key],
        of: Callable[[Stretch], float],
        shapes: Sequence[str] = SHAPES,
    ) -> Line:
        cells = {}
        for shape in shapes:
            one, other = above(shape), below(shape)
            broken = one[:2] in measured.invalid or other[:2] in measured.invalid
            found = [] if broken else measured.ratio(one, other, of)
            cells[shape] = (statistics.median(found), min(found), max(found)) if found else None
        return Line(title, cells)

    def at(row: str, connections: int = FULL) -> Callable[[str], Key]:
        return lambda shape: (shape, row, connections)

    lines = [
        line("req/s, product / limit", at("product"), at("limit"), _rate),
        line("req/s, product / limit + audit", at("product"), at("limit+audit"), _rate),
        line("req/s, product / tuned Strawberry", at("product"), at("strawberry"), _rate),
        line("req/s, unaudited product / tuned Strawberry", at("unaudited"), at("strawberry"), _rate),
        line("server CPU, limit / unaudited product", at("limit"), at("unaudited"), _server),
        line("server CPU, limit + audit / product", at("limit+audit"), at("product"), _server),
        line("server CPU, tuned Strawberry / unaudited product", at("strawberry"), at("unaudited"), _server),
        line("database CPU, product / unaudited product", at("product"), at("unaudited"), _database),
    ]
    for connections in (*AUDIT_CONNECTIONS, FULL):
        title = f"req/s, product / unaudited, {connections} connection{'s' if connections > 1 else ''}"
        lines.append(line(title, at("product", connections), at("unaudited", connections), _rate))
    lines.append(line(f"p99, product / unaudited, {FULL} connections", at("product"), at("unaudited"), _p99))
    lines.append(line("server CPU, without the bytes finish / product", at("compiled"), at("product"), _server, READS))
    rows = (ONE_ROW, "Q3")
    lines.append(line("server CPU, product / constant-true policy", at("product"), at("open"), _server, rows))
    lines.append(line("database CPU, product / constant-true policy", at("product"), at("open"), _database, rows))
    return lines


def text(measured: Measured, facts: dict[str, Any]) -> str:
    """Both tables as they are printed."""
    columns = (*SHAPES, ONE_ROW)
    parts = [f"{name}: {value}" for name, value in facts.items()]
    lines = ratios(measured)
    width = max(len(line.title) for line in lines)
    parts += ["", "Medians of per-round ratios (least..greatest)", _row("", width, columns, 20)]
    parts += [_row(line.title, width, [line.shown(shape) for shape in columns], 20) for line in lines]
    heads = ("req/s", "p50 ms", "p99 ms", "server ms", "database ms", "busy %", "statements")
    parts += ["", "Medians of the rounds; CPU per request", _row("", width, heads, 12)]
    for key in stretches():
        name, row, connections = key
        title = f"{name} {row}, {connections} connection{'s' if connections > 1 else ''}"
        if (name, row) in measured.invalid:
            parts.append(_row(title, width, [INVALID], 12))
            continue
        cells = [
            f"{measured.middle(key, _rate):.0f}",
            f"{measured.middle(key, lambda one: one.p50_ms):.2f}",
            f"{measured.middle(key, _p99):.2f}",
            f"{measured.middle(key, _server):.3f}",
            f"{measured.middle(key, _database):.3f}",
            f"{measured.middle(key, lambda one: one.busy) * 100:.0f}",
            f"{measured.statements[name, row]:.1f}",
        ]
        parts.append(_row(title, width, cells, 12))
    for shape, (cold, warm) in measured.cold.items():
        parts.append(f"{shape}: first request of a document {cold:.1f} ms, later ones {warm:.1f} ms")
    if measured.disturbed:
        alone, beside = (statistics.median(one[which] for one in measured.disturbed) for which in (0, 1))
        parts.append(f"p99 of Q1, {FULL} connections: {alone:.1f} ms, beside a client of new documents {beside:.1f} ms")
    if measured.sealed:
        rate = measured.sealed / measured.seal_seconds
        parts += ["", f"Sealing, between the rounds: {measured.sealed} records, {rate:.0f} a second"]
    parts += [f"INVALID {name} {row}: {why}" for (name, row), why in measured.invalid.items()]
    return "\n".join(parts)


def _row(title: str, width: int, cells: Sequence[str], cell: int) -> str:
    return title.ljust(width) + "".join(one.rjust(cell) for one in cells)


def as_json(measured: Measured, facts: dict[str, Any]) -> dict[str, Any]:
    """The whole run: facts, ratios, every stretch of every round."""
    return {
        "facts": facts,
        "rows": list(ROWS),
        "ratios": {
            line.title: {
                shape: None if cell is None else dict(zip(("median", "least", "greatest"), cell, strict=True))
                for shape, cell in line.cells.items()
            }
            for line in ratios(measured)
        },
        "statementsPerRequest": {f"{name} {row}": value for (name, row), value in measured.statements.items()},
        "rounds": [
            [{"document": key[0], "row": key[1], "connections": key[2], **asdict(one)} for key, one in seen.items()]
            for seen in measured.rounds
        ],
        "firstRequests": {shape: {"coldMs": cold, "warmMs": warm} for shape, (cold, warm) in measured.cold.items()},
        "disturbed": [{"aloneP99Ms": alone, "besideP99Ms": beside} for alone, beside in measured.disturbed],
        "sealing": {"records": measured.sealed, "seconds": measured.seal_seconds},
        "invalid": {f"{name} {row}": why for (name, row), why in measured.invalid.items()},
    }
