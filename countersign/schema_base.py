"""What the schema is compared with: a file, a commit's snapshot, or by itself the last release's. And what was announced."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SNAPSHOT: Final = "schema/schema.graphql"
_GIT_SECONDS: Final = 30


class BaseError(ValueError):
    """There is no such base; the message says which."""


@dataclass(frozen=True)
class Base:
    """An earlier schema: where it is from, and its SDL."""

    name: str
    sdl: str


def given(root: Path, base: str) -> Base:
    """The snapshot in a file, or of a git ref. Raises ``BaseError`` where it is neither."""
    if Path(base).is_file():
        return Base(base, Path(base).read_text(encoding="utf-8", errors="replace"))
    sdl = None if base.startswith("-") else _git(root, "show", f"{base}:./{SNAPSHOT}")
    if sdl is None:
        raise BaseError(f"{base} is no file, and no commit with a {SNAPSHOT}")
    return Base(base, sdl)


def found(root: Path) -> Base | None:
    """The last release's snapshot, before the first release the parent commit's; None where git knows of neither."""
    tag = _git(root, "describe", "--tags", "--abbrev=0")
    for ref in (tag.strip() if tag else None, "HEAD^"):
        sdl = _git(root, "show", f"{ref}:./{SNAPSHOT}") if ref else None
        if sdl is not None:
            return Base("the parent commit" if ref == "HEAD^" else str(ref), sdl)
    return None


def announced(changelog: Path) -> str:
    """What the changelog's Unreleased section lists as breaking; empty where nothing is."""
    if not changelog.is_file():
        return ""
    text = changelog.read_text(encoding="utf-8")
    unreleased = re.search(r"^## \[?Unreleased\]?[^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    breaking = unreleased and re.search(
        r"^### Breaking[^\n]*\n(.*?)(?=^### |\Z)", unreleased[1], re.MULTILINE | re.DOTALL
    )
    return breaking[1] if breaking else ""


def _git(root: Path, *arguments: str) -> str | None:
    """Git's answer about this tree; None where there is no git, no repository or no such thing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
