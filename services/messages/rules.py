"""Rules of templates: which variables there are, what a text may look like, how it is rendered.

Pure. None of the variables is personal: what goes to the help center are ids, amounts and labels; whom it writes to is a
reference that it resolves by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from schema.errors import ConsoleError

# What the console can fill, and where from. A name of a person is not among them and never will be: the help center has it.
VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "caseId": "The case that the note is on.",
        "cityName": "The case's city, as it calls itself.",
        "orderId": "The order of the case, or of the refund made on it.",
        "amount": "The newest approved refund on the case or its order: its amount, as 49.00.",
        "currency": "The same refund's currency, as EUR.",
        "reasonLabel": "The same refund's reason, in words (English).",
    }
)
SUBJECT_MAXIMUM: Final = 200
BODY_MAXIMUM: Final = 8_000

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LOCALE: Final = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-[A-Z]{2})?")
_PLACEHOLDER: Final = re.compile(r"\{\{([^{}]*)\}\}")


def placeholders(*texts: str) -> tuple[str, ...]:
    """The variables that these texts name, each once, in their order."""
    return tuple(dict.fromkeys(name.strip() for text in texts for name in _PLACEHOLDER.findall(text)))


def unclosed(text: str) -> bool:
    """Whether there are double braces that make no placeholder."""
    rest = _PLACEHOLDER.sub("", text)
    return "{{" in rest or "}}" in rest


def check_template(name: str, locale: str, subject: str, body: str) -> None:
    """Refuse a template that could not be found again, read, or rendered."""
    if not _NAME.fullmatch(name):
        raise ConsoleError(
            "BAD_REQUEST", "A template's name has lower-case letters, digits and _, 64 at most.", field="name"
        )
    if not _LOCALE.fullmatch(locale):
        raise ConsoleError("BAD_REQUEST", "A locale is written as en, pt-BR or zh-Hant-TW.", field="locale")
    if not subject.strip() or len(subject) > SUBJECT_MAXIMUM or subject.splitlines() != [subject]:
        raise ConsoleError(
            "BAD_REQUEST", f"A subject is one line of 1 to {SUBJECT_MAXIMUM} characters.", field="subject"
        )
    if not body.strip() or len(body) > BODY_MAXIMUM:
        raise ConsoleError("BAD_REQUEST", f"A body has 1 to {BODY_MAXIMUM:,} characters.", field="body")
    for field, text in (("subject", subject), ("body", body)):
        _check_placeholders(field, text)


def _check_placeholders(field: str, text: str) -> None:
    if unclosed(text):
        raise ConsoleError("BAD_REQUEST", "A placeholder is written {{name}}; one is not closed.", field=field)
    unknown = [name for name in placeholders(text) if name not in VARIABLES]
    if unknown:
        raise ConsoleError(
            "BAD_REQUEST",
            f"There is no such variable; there are {', '.join(sorted(VARIABLES))}.",
            field=field,
            unknown=unknown,
        )


def missing(wanted: Iterable[str], variables: Mapping[str, str]) -> tuple[str, ...]:
    """Those of ``wanted`` that have no value."""
    return tuple(name for name in wanted if not variables.get(name))


def render(text: str, variables: Mapping[str, str]) -> str:
    """The text with every placeholder filled, in one pass: a value is never read for placeholders. ``KeyError``: one has none."""
    return _PLACEHOLDER.sub(lambda found: variables[found.group(1).strip()], text)


def amount(minor: int) -> str:
    """Minor units as people write them, without the currency."""
    return f"{minor // 100}.{minor % 100:02d}"
