"""The tests bite: with any one guard taken out of a copy of the tree, the tests named for it fail (PT-4)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guards.guards import GUARDS, Guard

ROOT = Path(__file__).parents[2]
COPIED = (
    "schema",
    "db",
    "audit",
    "authz",
    "services",
    "analytics",
    "resolvers",
    "countersign",
    "migrations",
    "tests",
    "docs",
)
FAILED = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)  # the id of a case may have spaces
TESTS_FAILED = 1  # pytest's exit code; any other says that the tests did not run


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree to take guards out of."""
    copy = tmp_path_factory.mktemp("guards") / "tree"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
    for name in COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("app.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.mark.contract("PT-4")
def test_at_least_forty_guards_are_listed_and_each_still_applies() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS) >= 40
    for guard in GUARDS:
        assert (ROOT / guard.file).read_text(encoding="utf-8").count(guard.old) == 1, guard.name
        assert guard.old != guard.new
        for test in guard.tests:
            assert (ROOT / test.partition("::")[0]).is_file(), test


def noticed(tree: Path, guard: Guard) -> list[str]:
    """The tests that fail without the guard."""
    file = tree / guard.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(guard.old, guard.new), encoding="utf-8")
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-n",
                "0",
                "--no-header",
                "--tb=line",
                "--maxfail=1",
                "-p",
                "no:cacheprovider",
                *guard.tests,
            ],
            cwd=tree,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    finally:
        file.write_text(whole, encoding="utf-8")
    assert done.returncode in (0, TESTS_FAILED), done.stdout[-2000:] + done.stderr[-2000:]
    return FAILED.findall(done.stdout)


@pytest.mark.slow
@pytest.mark.contract("PT-4")
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_that_is_taken_out_is_missed(tree: Path, guard: Guard) -> None:
    found = noticed(tree, guard)
    print(f"{guard.name}: {', '.join(found) or 'NOBODY'}")  # noqa: T201 - what -s and a failure show
    assert found, f"nothing noticed that this guard is gone: {guard.name}"
