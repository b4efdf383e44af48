"""docs/security-contract.md is true of the tests: each promise has one, or stands among those that are not built yet."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security-contract.md").read_text()
MOST_NOT_BUILT = 14  # lower it with each promise that a test comes to stand behind; nothing raises it
ID = r"[A-Z]{2}-\d+"


def part(heading: str) -> str:
    """The text under one heading."""
    return re.split(r"\n## ", PAGE.partition(f"\n## {heading}\n")[2])[0]


def listed(heading: str) -> set[str]:
    """The ids that begin the items of one list."""
    items = re.findall(rf"^- ((?:\*\*{ID}\*\*(?:, )?)+): \S", part(heading), re.MULTILINE)
    return {name for item in items for name in re.findall(ID, item)}


ROWS = re.findall(rf"^\| ({ID}) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
PROMISED = {name for name, _, _ in ROWS}
NOT_BUILT, IN_PART = listed("Not built yet"), listed("Kept in part")


def claims(tree: ast.Module) -> set[str]:
    """Every id in a ``pytest.mark.contract(...)``, of a decorator or of ``pytestmark``."""
    return {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.contract"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


CLAIMED: dict[str, list[str]] = {}
for path in sorted((ROOT / "tests").rglob("test_*.py")):
    for name in claims(ast.parse(path.read_text())):
        CLAIMED.setdefault(name, []).append(path.name)


def test_each_promise_stands_once() -> None:
    assert len(ROWS) == len(PROMISED) > 100


def test_each_promise_has_a_test_or_is_not_built_yet() -> None:
    assert sorted(PROMISED - CLAIMED.keys() - NOT_BUILT) == []


def test_what_is_not_built_yet_has_no_test() -> None:
    assert {name: CLAIMED[name] for name in NOT_BUILT if name in CLAIMED} == {}


def test_what_is_kept_in_part_has_a_test() -> None:
    assert sorted(IN_PART - CLAIMED.keys()) == []


def test_nothing_is_claimed_or_listed_that_is_not_promised() -> None:
    assert {name: files for name, files in CLAIMED.items() if name not in PROMISED} == {}
    assert sorted((NOT_BUILT | IN_PART) - PROMISED) == []


def test_the_list_of_what_is_not_built_only_shrinks() -> None:
    assert len(NOT_BUILT) == MOST_NOT_BUILT


def test_each_promise_lives_where_it_says() -> None:
    places = {(name, place) for name, _, where in ROWS for place in re.findall(r"`([^`]+)`", where)}
    assert {name for name, _ in places} == PROMISED
    assert sorted((name, place) for name, place in places if not (ROOT / place).exists()) == []


def test_a_claim_is_found_in_a_decorator_and_in_a_module_mark() -> None:
    source = "pytestmark = [pytest.mark.contract('AZ-1')]\n@pytest.mark.contract('AZ-2', 'AZ-3')\ndef test(): ...\n"
    assert claims(ast.parse(source)) == {"AZ-1", "AZ-2", "AZ-3"}
