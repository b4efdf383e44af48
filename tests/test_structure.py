"""docs/structure.md is drawn from the imports themselves; ``pytest --update-golden`` draws it anew."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "structure.md"
# Leftmost first: a room imports from its right only. ``app.py`` is countersign's: the one starts the other, which asks its settings.
STREET = ("countersign", "resolvers", "analytics", "services", "authz", "audit", "db", "schema")
LEANED_ON = 4  # modules told of each room
# The modules that the walks of ARCHITECTURE.md pass.
WALKS = {
    "A query": (
        *("resolvers.http", "resolvers.documents", "resolvers.plans", "resolvers.scoping", "resolvers.sources"),
        *("resolvers.masking", "resolvers.reader", "resolvers.finish"),
        *("authz.identity", "authz.enforcer", "authz.policy", "authz.conditions", "audit.writer", "audit.record"),
        *("db.pool", "db.tables", "schema.build", "schema.directives"),
    ),
    "A countersigned mutation": (
        *("resolvers.http", "resolvers.pipeline", "resolvers.performing", "resolvers.judging", "resolvers.inner"),
        *("resolvers.registry", "services.command", "services.money.commands", "services.money.rules"),
        *("services.approvals.commands", "services.approvals.execution", "services.approvals.request"),
        *("authz.enforcer", "authz.requirements", "authz.dual_control", "authz.approval_states"),
        *("audit.writer", "db.unit_of_work", "db.idempotency", "db.outbox", "schema.states"),
    ),
}
OPENING = """\
# Structure

Drawn from the imports by `tests/test_structure.py`; `pytest tests/test_structure.py --update-golden` draws it anew.
What each room owns, and the walks in words: [ARCHITECTURE.md](../ARCHITECTURE.md).

## Rooms

An arrow says that something in the one imports something of the other. All lead the same way; `make lint` refuses any other.
"""


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*STREET)


def room(module: str) -> str:
    first = module.partition(".")[0]
    return "countersign" if first == "app" else first


def of_app() -> set[str]:
    """``app.py`` is a module and no package, so its imports are read here."""
    tree = ast.parse((ROOT / "app.py").read_text(encoding="utf-8"))
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {module for module in named if room(module) in STREET}


def imports() -> Iterator[tuple[str, str]]:
    """(importer, imported) across rooms."""
    for module in graph().modules:
        for imported in graph().find_modules_directly_imported_by(module):
            if room(imported) != room(module):
                yield module, imported
    yield from (("app", imported) for imported in of_app() if room(imported) != "countersign")


def node(name: str) -> str:
    return name.replace(".", "_")


def inside(modules: Iterable[str]) -> list[str]:
    """The modules as boxes of their rooms."""
    named = sorted(modules)
    lines: list[str] = []
    for one in STREET:
        here = [module for module in named if room(module) == one]
        if here:
            lines += [f"  subgraph {one}"]
            lines += [f'    {node(module)}["{module.removeprefix(one + ".")}"]' for module in here]
            lines += ["  end"]
    return lines


def leaned_on() -> list[str]:
    importers: dict[str, set[str]] = {}
    for importer, imported in imports():
        importers.setdefault(imported, set()).add(importer)
    lines = ["| room | most imported by others |", "|---|---|"]
    for one in STREET:
        ranked = sorted((module for module in importers if room(module) == one), key=lambda m: (-len(importers[m]), m))[
            :LEANED_ON
        ]
        if ranked:
            lines.append(f"| `{one}/` | {', '.join(f'`{module}`' for module in sorted(ranked))} |")
    return lines


def drawn() -> str:
    arrows = sorted(
        {(room(a), room(b)) for a, b in imports()}, key=lambda pair: (STREET.index(pair[0]), STREET.index(pair[1]))
    )
    lines = [
        OPENING,
        "```mermaid",
        "flowchart LR",
        '  countersign["countersign, app.py"]',
        *(f"  {a} --> {b}" for a, b in arrows),
        "```",
        "",
        *leaned_on(),
    ]
    for title, modules in WALKS.items():
        edges = sorted((a, b) for a in modules for b in graph().find_modules_directly_imported_by(a) if b in modules)
        lines += ["", f"## {title}", "", "```mermaid", "flowchart LR", *inside(modules)]
        lines += [*(f"  {node(a)} --> {node(b)}" for a, b in edges), "```"]
    return "\n".join(lines) + "\n"


def test_the_modules_of_the_walks_are_there() -> None:
    assert {module for modules in WALKS.values() for module in modules} - graph().modules == set()


def test_every_arrow_leads_one_way() -> None:
    assert [(a, b) for a, b in imports() if STREET.index(room(a)) > STREET.index(room(b))] == []


def test_nothing_below_imports_the_composition() -> None:
    below = [path for one in STREET[1:] for path in (ROOT / one).rglob("*.py")]
    assert [str(path) for path in below if "import app" in path.read_text(encoding="utf-8").split("\n")] == []


def test_the_page_is_what_the_imports_draw(request: pytest.FixtureRequest) -> None:
    found = drawn()
    if request.config.getoption("--update-golden"):
        PAGE.write_text(found, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8").splitlines() == found.splitlines()
