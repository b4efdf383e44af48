"""The benchmark runs to its end at its smallest size: every row there, all answers equal, none invalid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ("Q1", "Q2", "Q3", "M1")
READS = SHAPES[:3]
LINES = (
    "req/s, product / limit",
    "req/s, product / limit + audit",
    "req/s, product / tuned Strawberry",
    "req/s, unaudited product / tuned Strawberry",
    "server CPU, limit / unaudited product",
    "server CPU, limit + audit / product",
    "server CPU, tuned Strawberry / unaudited product",
    "database CPU, product / unaudited product",
    "req/s, product / unaudited, 1 connection",
    "req/s, product / unaudited, 8 connections",
    "req/s, product / unaudited, 32 connections",
    "p99, product / unaudited, 32 connections",
)
FINISH_LINE = "server CPU, without the bytes finish / product"
POLICY_LINES = ("server CPU, product / constant-true policy", "database CPU, product / constant-true policy")


@pytest.mark.slow
def test_the_quick_run_prints_every_row_and_none_is_invalid(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())
    assert figures["invalid"] == {}
    assert list(figures["ratios"]) == [*LINES, FINISH_LINE, *POLICY_LINES]
    for line in LINES:
        assert line in done.stdout
        assert list(figures["ratios"][line]) == list(SHAPES)
        assert all(cell["least"] <= cell["median"] <= cell["greatest"] for cell in figures["ratios"][line].values()), (
            line
        )
    assert list(figures["ratios"][FINISH_LINE]) == list(READS)
    assert list(figures["firstRequests"]) == list(READS)
    assert figures["disturbed"][0]["besideP99Ms"] > 0
    for line in POLICY_LINES:
        assert set(figures["ratios"][line]) == {"Q3", "Q3 x1"}
    assert all(one["count"] > 0 and one["errors"] == 0 for one in figures["rounds"][0])
    # Counts do not depend on the machine: one statement for a read, and its record's append beside it.
    asked = figures["statementsPerRequest"]
    for shape in READS:
        assert (asked[f"{shape} unaudited"], asked[f"{shape} product"], asked[f"{shape} limit"]) == (1, 2, 1), shape
    assert (asked["M1 unaudited"], asked["M1 product"]) == (9, 10)
    assert figures["sealing"]["records"] > 0
