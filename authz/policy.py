"""The policy as shipped, loaded through Casbin into one immutable table: who holds which row, from which tier, if what.

One unknown token, a duplicate, a deny with a condition or an empty file refuses the whole load. Tiers are expanded here,
so Casbin compares four texts for equality and nothing else; conditions never reach it (security contract AZ-9).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

import casbin

from authz.conditions import All, Condition, parse
from authz.requirements import Book, parse_book
from authz.rows import Row, Rows, live
from authz.scope import ONE_TIER, ROLES, SERVICE, TIERS

# Casbin logs every refused question at WARNING with its arguments; who asked what belongs to the audit log alone.
logging.getLogger("casbin").setLevel(logging.ERROR)

FILES: Final = (
    "policy.csv",
    "conditions.json",
    "approval_policies.json",
    "model.conf",
)  # in the order of ``Policy.load``
MATCHER: Final = "r_role == p_role && r_tier == p_tier && r_obj == p_obj && r_act == p_act"
EFFECT: Final = "some(where (p_eft == allow)) && !some(where (p_eft == deny))"


class PolicyError(ValueError):
    """The policy is refused as a whole; the message names the row."""


@dataclass(frozen=True)
class Line:
    """One line of the policy. ``tier`` is the least one; ``id`` is the line's own text, so it names the same line in any order."""

    role: str
    tier: str
    object: str
    action: str
    allow: bool
    condition_id: str = ""
    condition: Condition | None = None

    @property
    def id(self) -> str:
        tail = (f"/{self.condition_id}" if self.condition_id else "") if self.allow else "/deny"
        return f"{self.role}/{self.tier}/{self.object}:{self.action}{tail}"

    @property
    def tiers(self) -> tuple[str, ...]:
        """The tiers it stands for: its own and those above."""
        return TIERS[TIERS.index(self.tier) :]


@dataclass(frozen=True)
class Policy:
    """Everything that is decided by files: the lines in force, the denials, the approval policies. Never changes."""

    digest: str
    rows: Rows  # every row that could have a line
    approvals: Book
    all_lines: tuple[Line, ...]
    _allowed: Mapping[tuple[str, str, str, str], tuple[Line, ...]] = field(repr=False)
    _denied: frozenset[tuple[str, str, str]] = field(repr=False)
    _enforcer: casbin.Enforcer = field(repr=False)

    @staticmethod
    def load(lines: str, conditions: str, approvals: str, model: str, *, rows: Rows | None = None) -> Policy:
        """Build a policy from the four texts; ``PolicyError`` refuses all of it. ``rows``: the known ones, else the schema's."""
        known = rows or live()
        try:
            book = parse_book(approvals)
        except (ValueError, KeyError, TypeError) as error:
            raise PolicyError(f"approval_policies.json: {error}") from error
        parsed = _lines(lines, _conditions(conditions), known.every)
        enforcer = _enforcer(parsed, model)
        allowed, denied = _table(enforcer, parsed)
        return Policy(_digest(lines, conditions, approvals, model), known, book, parsed, allowed, denied, enforcer)

    @staticmethod
    @cache
    def shipped() -> Policy:
        """The policy in this folder."""
        texts = (files("authz").joinpath(name).read_text(encoding="utf-8") for name in FILES)
        return Policy.load(*texts)

    def lines(self, role: str, tier: str, object_: str, action: str) -> tuple[Line, ...]:
        """The allow lines in force for one role and tier; none where a deny stands. One condition of them must hold."""
        return self._allowed.get((role, tier, object_, action), ())

    def denied(self, roles: Iterable[str], object_: str, action: str) -> bool:
        """Whether a deny line of any of these roles overrides every allow of the person."""
        return any((role, object_, action) in self._denied for role in roles)

    def holders(self, object_: str, action: str) -> tuple[Line, ...]:
        """The allow lines of a row, whoever's; empty means that nobody can ever pass it."""
        return tuple(line for line in self.all_lines if line.allow and (line.object, line.action) == (object_, action))

    def enforce(self, role: str, tier: str, object_: str, action: str) -> bool:
        """Casbin's own answer, which the table must equal. It walks every line: not for the request path."""
        return self.explain(role, tier, object_, action)[0]

    def explain(self, role: str, tier: str, object_: str, action: str) -> tuple[bool, Line | None]:
        """Casbin's answer and the line it rests on, for "why was I refused" only."""
        if not (role and tier and object_ and action):  # what Casbin answers with yes on an empty policy
            return False, None
        allowed, rule = self._enforcer.enforce_ex(role, tier, object_, action)
        return bool(allowed), self.all_lines[int(rule[-1])] if rule else None


def _digest(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _conditions(text: str) -> dict[str, Condition]:
    try:
        pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise PolicyError(f"conditions.json is not JSON: {error}") from error
    found: dict[str, Condition] = {}
    for name, body in pairs:
        if name in found:
            raise PolicyError(f"condition {name}: defined twice")
        try:
            found[name] = parse(_tree(body))
        except ValueError as error:
            raise PolicyError(f"condition {name}: {error}") from error
    return found


def _tree(node: Any) -> Any:
    """Objects out of the pairs that ``object_pairs_hook=list`` leaves, so that a repeated key is seen and refused."""
    if not isinstance(node, list):
        return node
    if node and all(isinstance(item, tuple) for item in node):
        pairs = {key: _tree(value) for key, value in node}
        if len(pairs) != len(node):
            raise ValueError("a condition repeats a key")
        return pairs
    return [_tree(item) for item in node]


def _lines(text: str, conditions: Mapping[str, Condition], rows: frozenset[Row]) -> tuple[Line, ...]:
    lines: list[Line] = []
    seen: set[tuple[str, str, str, str, str, bool]] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        if not raw.strip():
            continue
        line = _line(f"policy.csv line {number}", raw, conditions, rows)
        # A line that a lower tier's line already contains is a duplicate too: after the expansion the two are one.
        for tier in line.tiers:
            key = (line.role, tier, line.object, line.action, line.condition_id, line.allow)
            if key in seen:
                raise PolicyError(f"policy.csv line {number}: duplicate of another line: {raw}")
            seen.add(key)
        lines.append(line)
    if not lines:
        raise PolicyError("policy.csv is empty")  # Casbin would say yes to an empty question
    return tuple(lines)


def _line(where: str, raw: str, conditions: Mapping[str, Condition], rows: frozenset[Row]) -> Line:
    match [part.strip() for part in raw.split(",")]:
        case ["p", role, tier, object_, action, effect, condition_id]:
            pass
        case _:
            raise PolicyError(f"{where}: expected 'p, role, tier, object, action, effect, condition': {raw}")
    if role not in (*ROLES, SERVICE):
        raise PolicyError(f"{where}: unknown role {role}")
    if tier not in TIERS:
        raise PolicyError(f"{where}: unknown tier {tier}")
    if (role in ONE_TIER or role == SERVICE) and tier != "AGENT":
        raise PolicyError(f"{where}: {role} has one tier, its rows name AGENT")
    if (object_, action) not in rows:
        raise PolicyError(f"{where}: unknown row {object_}:{action}, which no field of the schema asks")
    if effect not in ("allow", "deny"):
        raise PolicyError(f"{where}: unknown effect {effect}")
    if effect == "deny" and (condition_id or tier != "AGENT"):
        raise PolicyError(f"{where}: a deny takes no condition and tier AGENT")
    parts: list[Condition] = []
    for name in condition_id.split("+") if condition_id else ():
        if name not in conditions:
            raise PolicyError(f"{where}: unknown condition {name}")
        parts.append(conditions[name])
    condition = None if not parts else parts[0] if len(parts) == 1 else All(tuple(parts))
    return Line(role, tier, object_, action, effect == "allow", condition_id, condition)


def _enforcer(lines: Sequence[Line], model_text: str) -> casbin.Enforcer:
    """A fresh enforcer, filled before anybody sees it and never changed afterwards."""
    model = casbin.Model()
    model.load_model_from_text(model_text)
    if (
        model.model["m"]["m"].value != MATCHER
        or model.model["e"]["e"].value != EFFECT
        or set(model.model["m"]) != {"m"}
    ):
        raise PolicyError("model.conf: matcher and effect are constants of the code")
    enforcer = casbin.Enforcer(model)
    rules = [
        [line.role, tier, line.object, line.action, "allow" if line.allow else "deny", str(number)]
        for number, line in enumerate(lines)
        for tier in line.tiers
    ]
    enforcer.add_policies(rules)
    return enforcer


def _table(
    enforcer: casbin.Enforcer, lines: Sequence[Line]
) -> tuple[Mapping[tuple[str, str, str, str], tuple[Line, ...]], frozenset[tuple[str, str, str]]]:
    """What the enforcer would answer, for every question that has a line: asking it costs microseconds per line."""
    allowed: dict[tuple[str, str, str, str], list[Line]] = {}
    denied: set[tuple[str, str, str]] = set()
    for role, tier, object_, action, effect, number in enforcer.get_policy():
        if effect == "allow":
            allowed.setdefault((role, tier, object_, action), []).append(lines[int(number)])
        else:
            denied.add((role, object_, action))
    in_force = {key: tuple(found) for key, found in allowed.items() if (key[0], key[2], key[3]) not in denied}
    return MappingProxyType(in_force), frozenset(denied)
