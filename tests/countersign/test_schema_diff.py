"""``countersign schema diff``: what it compares with, what it says, and when it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from countersign import schema_base
from countersign.cli import app
from schema.build import console

LINE = "  needsReason: Boolean!\n"  # a field of ActionHint
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n- x\n\n### Breaking\n- `ActionHint.needsReason`\n\n## [0.1.0]\n\n### Breaking\n- `Old.field`\n"


def git(root: Path, *arguments: str) -> None:
    names = ("-c", "user.name=T", "-c", "user.email=t@t.example", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *names, *arguments], check=True, capture_output=True)


def committed(root: Path, sdl: str) -> None:
    (root / "schema").mkdir(exist_ok=True)
    (root / schema_base.SNAPSHOT).write_text(sdl, encoding="utf-8")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "one")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    return tmp_path


def test_before_a_release_the_parent_commit_is_the_base_and_then_the_release(root: Path) -> None:
    committed(root, "scalar One")
    assert schema_base.found(root) is None
    committed(root, "scalar Two")
    assert schema_base.found(root) == schema_base.Base("the parent commit", "scalar One")
    git(root, "tag", "v0.1.0")
    committed(root, "scalar Three")
    committed(root, "scalar Four")
    assert schema_base.found(root) == schema_base.Base("v0.1.0", "scalar Two")
    assert schema_base.given(root, "HEAD^").sdl == "scalar Three"


def test_a_tree_without_history_has_no_base(tmp_path: Path) -> None:
    assert schema_base.found(tmp_path) is None
    for base in ("HEAD", "--help", "nowhere.graphql"):
        with pytest.raises(schema_base.BaseError, match="is no file, and no commit"):
            schema_base.given(tmp_path, base)


def test_what_is_announced_is_what_the_unreleased_section_lists_as_breaking(tmp_path: Path) -> None:
    log = tmp_path / "CHANGELOG.md"
    assert schema_base.announced(log) == ""
    log.write_text(CHANGELOG)
    assert schema_base.announced(log).strip() == "- `ActionHint.needsReason`"
    log.write_text(CHANGELOG.replace("### Breaking\n- `ActionHint", "### Changed\n- `ActionHint"))
    assert schema_base.announced(log) == ""


def told(path: Path, sdl: str, *options: str) -> tuple[int, str]:
    path.write_text(sdl, encoding="utf-8")
    done = CliRunner().invoke(app, ["schema", "diff", "--base", str(path), *options])
    return done.exit_code, done.output


def test_the_report_is_grouped_and_a_silent_breaking_change_ends_in_1(tmp_path: Path) -> None:
    base, sdl = tmp_path / "base.graphql", console().sdl
    assert LINE in sdl
    assert told(base, sdl) == (0, f"Nothing changed for users since {base}.\n")
    code, additive = told(base, sdl.replace(LINE, ""))
    assert (code, additive) == (
        0,
        f"Since {base}:\n\nadditive (1)\n  Field ActionHint.needsReason was added.\n",
    )
    code, breaking = told(base, sdl.replace(LINE, LINE + "  hint: String\n"))
    assert code == 1
    assert "breaking (1)\n  Field ActionHint.hint was removed.\n" in breaking
    assert breaking.endswith("'### Breaking' of CHANGELOG.md's Unreleased section:\n  ActionHint.hint\n")


def test_the_report_as_json_says_of_a_breaking_change_whether_it_is_announced(tmp_path: Path) -> None:
    base, sdl = tmp_path / "base.graphql", console().sdl
    code, text = told(base, sdl.replace(LINE, LINE + "  hint: String\n"), "--json")
    assert code == 1
    assert json.loads(text) == {
        "base": str(base),
        "changes": [
            {
                "level": "breaking",
                "coordinate": "ActionHint.hint",
                "text": "Field ActionHint.hint was removed.",
                "announced": False,
            }
        ],
    }


def test_a_base_that_is_nowhere_is_wrong_use() -> None:
    done = CliRunner().invoke(app, ["schema", "diff", "--base", "nowhere.graphql"])
    assert done.exit_code == 2
    assert "nowhere.graphql is no file" in " ".join(done.output.split())


@pytest.mark.parametrize("content", [b"type Query {", b"type Query { a: Gone }", b"\xff\xfe"])
def test_a_base_that_is_no_schema_is_wrong_use(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "before.graphql").write_bytes(content)
    done = CliRunner().invoke(app, ["schema", "diff", "--base", str(tmp_path / "before.graphql")])
    assert done.exit_code == 2
    assert "is no schema" in " ".join(done.output.split())
