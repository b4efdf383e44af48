"""The template language of macros: ``{{path}}`` stands for a value. There is nothing else: no code, no filters, no nesting.

A text that is one placeholder and nothing more yields the value with its type; a placeholder inside a text yields the
value's text. What a value says is never read as a template again. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

# Wider than a path may be, so that what is no path is named instead of being left standing as text.
_PLACEHOLDER: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)+")
_BRACES: Final = re.compile(r"\{\{|\}\}")
PATH_MAXIMUM: Final = 200

Resolve = Callable[[str], Any]  # a path's value; raises UnknownPathError


class TemplateError(ValueError):
    """A template that says something the language does not have; the text names the place and no value."""


class UnknownPathError(TemplateError):
    """A path that leads to no value."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} has no value")
        self.path = path


def is_path(text: str) -> bool:
    """Whether this is a path: names joined by dots, at least two."""
    return len(text) <= PATH_MAXIMUM and _PATH.fullmatch(text) is not None


def paths(template: Any) -> tuple[str, ...]:
    """Every path that a template names, in its order; ``TemplateError`` for braces that hold no path."""
    return tuple(dict.fromkeys(_paths(template)))


def _paths(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        for kind, text in _parts(template):
            if kind == "path":
                yield text
    elif isinstance(template, Mapping):
        for name, value in template.items():
            if _BRACES.search(name):
                raise TemplateError("a placeholder stands for a value, never for a name")
            yield from _paths(value)
    elif isinstance(template, list):
        for value in template:
            yield from _paths(value)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """The text in pieces: ``("text", …)`` and ``("path", …)``."""
    at = 0
    for found in _PLACEHOLDER.finditer(text):
        yield "text", _plain(text[at : found.start()])
        path = found[1].strip()
        if not is_path(path):
            raise TemplateError("between {{ and }} stands a path, like case.id, and nothing else")
        yield "path", path
        at = found.end()
    yield "text", _plain(text[at:])


def _plain(text: str) -> str:
    if _BRACES.search(text):
        raise TemplateError("a {{ without its }}, or the other way round")
    return text


def sole_path(text: str) -> str | None:
    """The path of a text that is one placeholder and nothing else: it takes the value's type."""
    pieces = [piece for piece in _parts(text) if piece != ("text", "")]
    return pieces[0][1] if len(pieces) == 1 and pieces[0][0] == "path" else None


def render(template: Any, resolve: Resolve) -> Any:
    """The template with its values; ``UnknownPathError`` for a path without one, ``TemplateError`` for one that is no text."""
    if isinstance(template, str):
        path = sole_path(template)
        if path is not None:
            return resolve(path)
        return "".join(_text(part, resolve(part)) if kind == "path" else part for kind, part in _parts(template))
    if isinstance(template, Mapping):
        return {name: render(value, resolve) for name, value in template.items()}
    if isinstance(template, list):
        return [render(value, resolve) for value in template]
    return template


def _text(path: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise TemplateError(f"{path} is no text or number, so it cannot stand inside a text")


def lookup(roots: Mapping[str, Any], path: str) -> Any:
    """The value that a path leads to."""
    value: Any = roots
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise UnknownPathError(path)
        value = value[name]
    return value


def condition_path(when: str) -> tuple[str, bool]:
    """A step's condition: its path, and whether the value is wanted; ``TemplateError`` for anything else."""
    wanted = not when.startswith("!")
    path = when.removeprefix("!")
    if not is_path(path):
        raise TemplateError("a condition is one path, or ! and one path")
    return path, wanted


def holds(when: str | None, resolve: Resolve) -> bool:
    """Whether a step's condition holds. False, null, 0, an empty text or list, and what is not there are one: no."""
    if when is None:
        return True
    path, wanted = condition_path(when)
    try:
        return bool(resolve(path)) is wanted
    except UnknownPathError:
        return not wanted
