"""The pages are true of the code: examples, links, commands, settings, and what the two "add a ..." pages show and quote."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from authz.policy import Policy
from authz.rows import live
from countersign import demo_data
from countersign.cli import app
from countersign.settings import Settings, Telemetry
from resolvers import hints
from resolvers.documents import Documents
from resolvers.registry import COMMANDS, misfits
from resolvers.startup import unruled
from schema import cases
from schema.build import assemble, console
from schema.console import Console
from schema.errors import ConsoleError
from schema.fields import get
from schema.lint import lint
from schema.states import StateTable
from services.cases import commands, rules

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.graphql"))
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
TOLD = "\n".join(page.read_text() for page in PAGES if page.name == "README.md" or "docs" in page.parts)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def titled(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---------- examples ----------
def variables_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[0].removeprefix("# "))
    return found


def words(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from words(item)
    elif isinstance(value, list):
        for item in value:
            yield from words(item)
    elif isinstance(value, str):
        yield value


@cache
def demo_ids() -> frozenset[str]:
    rows = demo_data.build(datetime(2026, 11, 24, tzinfo=UTC)).rows
    return frozenset(str(row.get("id", row.get("order_id"))) for of in rows.values() for row in of)


def test_the_main_operations_have_an_example() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        *("my-queue", "claim-and-read-case", "decide-case", "request-refund", "vote", "list-audit", "verify-audit"),
        *("approval-metrics", "live-approvals", "live-alerts", "live-cases"),
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=titled)
def test_an_example_is_one_operation_that_the_server_takes_with_its_variables(path: Path) -> None:
    text = path.read_text()
    operation = Documents(console().core).operation(text)  # syntax, limits, validity
    operation.bind(console().core, variables_of(text))


@pytest.mark.parametrize("path", EXAMPLES, ids=titled)
def test_an_example_names_things_of_the_demo(path: Path) -> None:
    named = {word for word in words(variables_of(path.read_text())) if re.fullmatch(r"(q|o|case|sub|apr|rf)_\w+", word)}
    assert named - demo_ids() == set()


# ---------- links ----------
@pytest.mark.parametrize("path", PAGES, ids=titled)
def test_every_link_leads_to_a_file(path: Path) -> None:
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", prose)]
    relative = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in relative if not (path.parent / target).exists()] == []


# ---------- commands ----------
def verbs(of: Any = None, path: tuple[str, ...] = ("countersign",)) -> Iterator[tuple[str, Any]]:
    of = of or typer.main.get_command(app)
    if isinstance(of, TyperGroup):
        for name, inner in of.commands.items():
            yield from verbs(inner, (*path, name))
    else:
        yield " ".join(path), of


def sections() -> dict[str, str]:
    parts = re.split(r"^### (.+)$", page("command-line.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_of_commands_has_each_of_them_and_no_other() -> None:
    assert sorted(sections()) == sorted(name for name, _ in verbs())


@pytest.mark.parametrize(("name", "command"), [pytest.param(*verb, id=verb[0]) for verb in verbs()])
def test_a_command_is_told_with_its_example_and_all_its_options(name: str, command: Any) -> None:
    told = sections()[name]
    assert command.help.partition("Example: ")[2].strip() in told
    options = [
        option for each in command.params for option in (*each.opts, *each.secondary_opts) if option.startswith("--")
    ]
    assert [option for option in options if f"`{option}`" not in told] == []
    assert [option for option in re.findall(r"`(--[a-z-]+)`", told) if option not in options] == []


# ---------- settings ----------
VARIABLES = {
    "DATABASE_URL" if name == "database_url" else f"COUNTERSIGN_{name.upper()}": field
    for name, field in Settings.model_fields.items()
} | {f"OTEL_{name.upper()}": field for name, field in Telemetry.model_fields.items()}


def test_the_page_of_settings_has_each_of_them_with_its_default() -> None:
    rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \| (.+?) \| .+ \|$", page("configuration.md"), re.MULTILINE)
    told: dict[str, str] = {}
    for names, defaults in rows:
        variables, each = re.findall(r"[A-Z_]+", names), defaults.split(", ")
        told |= dict(zip(variables, each if len(each) == len(variables) else [defaults] * len(variables), strict=True))
    assert sorted(told) == sorted(VARIABLES)
    plain = {name: field.default for name, field in VARIABLES.items() if field.default not in (None, "", ())}
    said = {name: told[name].strip("`").lower() for name in plain}
    assert said == {name: str(value).lower() for name, value in plain.items()}


def test_every_variable_that_a_page_names_is_a_setting() -> None:
    assert set(re.findall(r"\bCOUNTERSIGN_[A-Z_]+[A-Z]\b", TOLD)) - VARIABLES.keys() == set()


# ---------- the two pages that add something ----------
def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)


def made(name: str, opening: str, within: Any, **more: Any) -> dict[str, Any]:
    """Run the block that begins with ``opening`` as if it stood in that module."""
    block = next(block for block in blocks(name, "python") if block.startswith(f"# {opening}\n"))
    names = {**vars(within), **more}
    exec(compile(block, opening, "exec", dont_inherit=True), names)  # noqa: S102  the page's own code
    return names


@pytest.mark.parametrize("name", ["add-a-mutation.md", "add-a-type.md"])
def test_the_code_of_a_page_is_python(name: str) -> None:
    for block in blocks(name, "python"):
        body = textwrap.dedent(re.sub(r"^# .*\n", "", block))
        ast.parse(f"{{\n{body}\n}}" if body.startswith('("') else body)  # rows of a table stand in braces


@pytest.fixture(scope="module")
def moving() -> Console:
    """A schema with the mutation of the page, and nothing else to change."""
    names = made("add-a-mutation.md", "schema/cases.py", cases)
    query = type("Query", (), {"get_case": get(cases.Case, "case.read")})
    return assemble((query,), (names["Mutation"],))


def test_the_mutation_of_the_page_passes_and_is_refused_in_the_words_of_the_page(moving: Console) -> None:
    assert unruled(moving, Policy.shipped()) == []
    quoted = "\n".join(blocks("add-a-mutation.md", "text")).splitlines()
    text = page("add-a-mutation.md")
    directives = re.search(r"@signature\((.*)\)\n", text)
    assert directives is not None
    without = {
        'policy("case", "route"), ': "Mutation.moveCase: no @policy, @inherit or @self, so nothing says who may read it",
        "reasoned(ReasonList.ROUTING), ": "Mutation.moveCase: takes reason, but has no @reason",
        ', audited("case.move")': "Mutation.moveCase: no @audited, so its use leaves no record",
    }
    for forgotten, message in without.items():
        assert message in quoted
        assert message in unruled(_signed(directives[1].replace(forgotten, "")), Policy.shipped())
    other = _signed(directives[1].replace('"route"', '"move"'))
    unheld = lint(other, lambda object_, action: (object_, action) != ("case", "move"), ())
    assert unheld == ["Mutation.moveCase: nobody holds the policy row case:move"]
    assert set(unheld) <= set(quoted)


def _signed(directives: str) -> Console:
    source = f"class Mutation:\n    @signature({directives})\n    def move_case(self, input: MoveCaseInput) -> CasePayload: ...\n"
    names = made("add-a-mutation.md", "schema/cases.py", cases)
    exec(compile(source, "page", "exec", dont_inherit=True), names)  # noqa: S102  the page's own code
    query = type("Query", (), {"get_case": get(cases.Case, "case.read")})
    return assemble((query,), (names["Mutation"],))


def test_a_mutation_without_its_command_stops_the_start_in_the_words_of_the_page() -> None:
    [found] = misfits({*COMMANDS, "someNewCase"})
    assert found.replace("someNewCase", "moveCase") in page("add-a-mutation.md")


def test_what_the_page_says_of_a_forgotten_hint_and_of_a_forgotten_event(moving: Console) -> None:
    command = type("MoveCase", (commands.AddNote,), {"offered": None})()
    [forgotten] = hints.misfits(moving, {"moveCase": command})
    assert forgotten in page("add-a-mutation.md")
    with pytest.raises(ValueError, match="no state takes") as caught:
        StateTable("case", cases.CaseState, (*rules.CASE.events, "move"), rules.CASE)  # type: ignore[arg-type]
    assert str(caught.value) in page("add-a-mutation.md")


def test_rule_and_command_of_the_page_stand_on_what_is_there() -> None:
    schema = made("add-a-mutation.md", "schema/cases.py", cases)
    taken = {"enabled": True, "id": "q_2", "kind": "MODERATION", "city_ids": ["lisbon"], "content_categories": []}
    case = {"queue_id": "q_1", "kind": "MODERATION", "city_id": "lisbon", "content_category": "SFW"}
    rule = next(block for block in blocks("add-a-mutation.md", "python") if block.startswith("def check_queue"))
    names = dict(vars(rules))
    exec(compile(rule, "rules", "exec", dont_inherit=True), names)  # noqa: S102  the page's own code
    names["check_queue"](case, taken)
    with pytest.raises(ConsoleError):
        names["check_queue"](case, taken | {"kind": "REFUND"})
    command = made("add-a-mutation.md", "services/cases/commands.py", commands, MoveCaseInput=schema["MoveCaseInput"])
    assert command["MoveCase"]().input_type is schema["MoveCaseInput"]


def test_the_type_of_the_page_is_refused_until_somebody_may_read_it() -> None:
    names = made("add-a-type.md", "schema/cases.py", cases)
    built = assemble((names["Query"],))
    listable = built.listables["SlaPolicy"]
    assert (listable.get_field, listable.list_field) == ("getSlaPolicy", "listSlaPolicies")
    assert listable.filter_input in page("add-a-type.md")
    assert lint(built, lambda *_: True, ()) == []
    found = lint(built, lambda *_: False, ())
    assert "SlaPolicy.id: nobody holds the policy row slaPolicy:read" in found
    assert found[-1].partition(": ")[2] in page("add-a-type.md")


def test_the_lines_of_the_page_are_lines_of_the_policy() -> None:
    lines = blocks("add-a-type.md", "csv")[0].splitlines()
    assert lines == sorted(lines)
    shipped = {f"{line.role} {line.tier}" for line in Policy.shipped().all_lines}
    for line in lines:
        _, role, tier, *row, effect, condition = (part.strip() for part in line.split(","))
        assert f"{role} {tier}" in shipped
        assert (row, effect, condition) == (["slaPolicy", "read"], "allow", "")
    assert ("case", "route") in live().every  # the row that the other page says is there
