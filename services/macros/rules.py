"""Rules of macros: state tables, limits, which step is the gravest, whose domain it is, and the plan that a run is held to.

Pure: time comes in as an argument, and what a step's mutation demands as ``StepKind``, read from the schema.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

from schema.errors import ConsoleError, InvalidTransitionError
from schema.macros import MacroRunState, MacroState
from schema.states import StateTable

MacroEvent: TypeAlias = Literal["publish", "retire"]
RunEvent: TypeAlias = Literal["execute", "reject", "cancel", "expire", "invalidate"]

MACRO: Final[StateTable[MacroEvent]] = StateTable(
    "macro",
    MacroState,
    get_args(MacroEvent),
    {
        ("DRAFT", "publish"): "PUBLISHED",
        ("PUBLISHED", "retire"): "RETIRED",  # by somebody, or by the version that takes its place
    },
)
RUN: Final[StateTable[RunEvent]] = StateTable(
    "macro run",
    MacroRunState,
    get_args(RunEvent),
    {
        ("PENDING_APPROVAL", "execute"): "EXECUTED",
        ("PENDING_APPROVAL", "reject"): "REJECTED",
        ("PENDING_APPROVAL", "cancel"): "REJECTED",
        ("PENDING_APPROVAL", "expire"): "EXPIRED",
        ("PENDING_APPROVAL", "invalidate"): "FAILED",
    },
)


def check_runs(state: str) -> None:
    """Refuse to run what is not in force."""
    if state != "PUBLISHED":
        raise InvalidTransitionError("macro", state, "run")


# ---------- what a step's mutation demands ----------
@dataclass(frozen=True)
class StepKind:
    """What the schema says of a step's mutation: its reason list, and the key of its approval policies."""

    reason_list: str | None
    approval_key: str | None


# The reason of a run is of its gravest step's list: a step that can need a second person before one that cannot, then
# what touches people's rights before money, and money before the console's own order.
_GRAVITY: Final = (
    *("SUSPEND", "DECIDE", "REVERSE", "VERIFICATION", "RATE", "REVEAL"),
    *("REFUND", "DISPUTE", "STAFF_POLICY", "FLAG_CITY", "ROUTING"),
)
MILDEST_LIST: Final = "ROUTING"
# Objects of approval keys by the lead whose domain they are (console-domain section 6: macro publish).
_DOMAINS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("refund", "dispute"), "MONEY"),
        **dict.fromkeys(
            ("case", "suspension", "decision", "appeal", "asset", "verification", "pii", "subject"), "SAFETY"
        ),
    }
)


def gravest_list(kinds: Sequence[StepKind]) -> str:
    """The reason list that a run takes its reason from."""
    listed = [(kind.approval_key is None, _GRAVITY.index(kind.reason_list)) for kind in kinds if kind.reason_list]
    return _GRAVITY[min(listed)[1]] if listed else MILDEST_LIST


def domain(kinds: Sequence[StepKind]) -> str:
    """The fact ``macroDomain``: who publishes by countersigning. What only routes work belongs to neither, so to both."""
    keys = [kind.approval_key.partition(".")[0] for kind in kinds if kind.approval_key]
    found = {_DOMAINS[key] for key in keys if key in _DOMAINS}
    return found.pop() if len(found) == 1 else "BOTH"


# ---------- what may be saved ----------
STEPS_MAXIMUM: Final = 12
NAME_MAXIMUM: Final = 120
DESCRIPTION_MAXIMUM: Final = 2_000
DOCUMENT_MAXIMUM: Final = 16_384  # bytes of one template, or of the parameters' schema
DOCUMENT_DEPTH: Final = 8
ARGUMENTS_MAXIMUM: Final = 65_536  # bytes of a template with its values
_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")  # a name of a path: later steps say step.<key>


def check_words(name: str, description: str, allowed_roles: Sequence[str], case_kinds: Sequence[str]) -> None:
    """Refuse what has no name, nobody to run it, or no case to run on."""
    if not 1 <= len(name.strip()) <= NAME_MAXIMUM:
        raise ConsoleError("BAD_REQUEST", f"A macro's name has 1 to {NAME_MAXIMUM} characters.", field="name")
    if len(description) > DESCRIPTION_MAXIMUM:
        raise ConsoleError(
            "BAD_REQUEST", f"A description has at most {DESCRIPTION_MAXIMUM:,} characters.", field="description"
        )
    for field, values in (("allowedRoles", allowed_roles), ("caseKinds", case_kinds)):
        if not values or len(set(values)) != len(values):
            raise ConsoleError("BAD_REQUEST", f"{field} names at least one, and none twice.", field=field)


def check_keys(keys: Sequence[str]) -> None:
    """Refuse no steps, too many, and keys that do not tell them apart."""
    if not 1 <= len(keys) <= STEPS_MAXIMUM:
        raise ConsoleError("BAD_REQUEST", f"A macro has 1 to {STEPS_MAXIMUM} steps.", field="steps")
    for position, key in enumerate(keys):
        where = f"steps.{position}.key"
        if _KEY.fullmatch(key) is None:
            raise ConsoleError("BAD_REQUEST", "A step's key is a letter, then letters, digits and _.", field=where)
        if key in keys[:position]:
            raise ConsoleError("BAD_REQUEST", "Two steps have one key.", field=where)


def check_document(value: Any, field: str, *, most: int = DOCUMENT_MAXIMUM) -> None:
    """Refuse JSON that is no object, or too large or too deep to be looked at each time."""
    if not isinstance(value, Mapping):
        raise ConsoleError("BAD_REQUEST", f"{field} is a JSON object.", field=field)
    if _depth(value) > DOCUMENT_DEPTH or len(_canonical(value)) > most:
        limits = f"{most:,} bytes and {DOCUMENT_DEPTH} levels"
        raise ConsoleError("LIMIT_EXCEEDED", f"{field} has at most {limits}.", field=field)


def _depth(value: Any) -> int:
    # Level by level: input is not trusted to be shallow enough for recursion.
    depth, level = 0, [value]
    while level and depth <= DOCUMENT_DEPTH:
        depth += 1
        inner = [item for one in level if isinstance(one, Mapping | list) for item in _items(one)]
        level = [item for item in inner if isinstance(item, Mapping | list)]
    return depth


def _items(value: Mapping[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else value


# ---------- the plan ----------
PLAN_SECONDS: Final = 600  # how long a plan may be presented
NOT_REACHED: Final = "NOT_REACHED"  # a step behind one that is refused
# Refusals by who asks; the others are by what is asked.
_DENIALS: Final = frozenset({"Unauthorized", "AMOUNT_CEILING_EXCEEDED", "SELF_SUBJECT", "NOT_ELIGIBLE"})
_PLAN_HASH: Final = re.compile(r"([0-9a-f]{1,12})\.[0-9a-f]{64}")


def verdict_of(code: str) -> str:
    """The verdict of a step that is refused with this code."""
    return "DENIED" if code in _DENIALS else "INVALID"


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def digest(value: Any) -> str:
    """SHA-256 of JSON values, whatever the order of their names."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def plan_hash(issued: int, plan: Mapping[str, Any]) -> str:
    """What a run presents: when the plan was made, in seconds, and a digest over that and the plan."""
    return f"{issued:x}.{digest({'issued': issued, **plan})}"


def issued_at(presented: str, now: int) -> int | None:
    """When the presented plan was made; None when it is too old, of the future, or no plan's hash."""
    found = _PLAN_HASH.fullmatch(presented)
    if found is None:
        return None
    issued = int(found[1], 16)
    return issued if issued <= now <= issued + PLAN_SECONDS else None


# ---------- what a plan shows of a row ----------
# Ids, states, amounts and versions: what anybody who may run the step sees of it, and nothing personal.
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Case": ("state", "assignee_id", "queue_id", "version"),
        "OrderLedger": ("captured_minor", "succeeded_minor", "reserved_minor", "disputed_minor", "version"),
        "Refund": ("state", "amount_minor", "currency", "destination"),
        "Decision": ("state", "kind", "severity", "strikes"),
        "Note": ("internal", "template_id"),
    }
)


def camel(name: str) -> str:
    """``amount_minor`` -> ``amountMinor``."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def shown(type_name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan says of a row, under its GraphQL names."""
    return {camel(name): row[name] for name in _SHOWN.get(type_name, ()) if name in row.keys()}  # noqa: SIM118 (a Record)


def changed(
    type_name: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shown fields that a step changes, before and after."""
    was, is_ = shown(type_name, before), shown(type_name, after)
    names = [name for name in is_ if was.get(name) != is_[name]]
    return {name: was.get(name) for name in names}, {name: is_[name] for name in names}
