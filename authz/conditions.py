"""The one grammar of conditions: parsed, checked, evaluated with three truth values, and folded into other languages.

Policy rows, approval policies, hints and the planner's SQL all mean the same by a condition because all of them come
here. Pure and total: no database, no clock, no exception at evaluation (policy rows, section 5).
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

from authz.reasons import ALL_CODES
from authz.scope import CATEGORIES, ROLES, SERVICE, TIERS

Fact: TypeAlias = int | str | frozenset[str]
Facts: TypeAlias = Mapping[str, Fact]
T = TypeVar("T")

MAX_BYTES: Final = 4_096
MAX_NESTING: Final = 6
MAX_LEAVES: Final = 32
MAX_ITEMS: Final = 32
MAX_TOKENS: Final = 64
MAX_INTEGER: Final = 2**53 - 1

_TOKEN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_MOST_NAMED: Final = 8  # keys in one refusal


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(text.split())


INTEGERS: Final = frozenset(
    _tokens(
        "amountMinor sum24hMinor requestCeilingMinor aloneCeilingMinor approveCeilingMinor durationHours indefinite subjectCount matchedCount "
        "minutes authAgeSeconds stepApprovals stepsHeld citiesCovered enables unkills growsRollout changesTargeting tightening ratingLocked "
        "legalHold bodies dryRun supportedAge assigned grantWithin macroRoleHeld conflict"
    )
)

_DECISIONS: Final = _tokens("NO_ACTION WARN LABEL RATE REMOVE_CONTENT RESTRICT SUSPEND BAN RESTORE")
_RATINGS: Final = ("UNRATED", *CATEGORIES)
_BREAK_GLASS: Final = _tokens("SUSPEND REMOVE_CONTENT KILL_FLAG PAUSE_CITY REVEAL_CONTACT REVEAL_LOCATION")
_TAGS: Final = _tokens("HIGH_PROFILE MINOR_INVOLVED LEGAL_HOLD STAFF_OWNED")

# Root fields that share a policy row with root fields of other rights; only these may be told apart by a condition.
_ROOT_FIELDS: Final = _tokens(
    "getAuditProof getAuditConsistency getAuditCheckpoint listAuditCheckpoints verifyAudit auditHealth"
)

ENUMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "role": (*ROLES, SERVICE),
        "requesterRole": (*ROLES, SERVICE),
        "tier": TIERS,
        "relation": _tokens("SELF OWN TEAM OTHER"),
        "rootField": _ROOT_FIELDS,
        "caseKind": _tokens("MODERATION VERIFICATION REFUND DISPUTE APPEAL ACCOUNT CITY"),
        "caseState": _tokens("OPEN CLAIMED PENDING_INFO PENDING_APPROVAL ESCALATED RESOLVED CLOSED"),
        "decisionKind": _DECISIONS,
        "targetDecisionKind": _DECISIONS,
        "suspensionScope": _tokens("FULL LISTING MESSAGING PAYOUT PROMOTION"),
        "contentCategory": CATEGORIES,
        "rating": _RATINGS,
        "ratingStep": _tokens("FIRST RAISE SAME LOWER UNPROHIBIT"),
        "destination": _tokens("ORIGINAL STORE_CREDIT OTHER_INSTRUMENT"),
        "reasonCode": tuple(sorted(ALL_CODES)),
        "environment": _tokens("DEVELOPMENT STAGING PRODUCTION"),
        "exportKind": _tokens("AUDIT CASES DECISIONS STATEMENTS_OF_REASONS REFUNDS DISPUTES APPROVALS STAFF METRICS"),
        "verificationCheck": _tokens("DOCUMENT SELFIE_MATCH AGE BUSINESS_REGISTRY SANCTIONS BANK_ACCOUNT"),
        "breakGlassAction": _BREAK_GLASS,
        "service": _tokens("MARKETPLACE OUTBOX"),
        "grantRole": ROLES,
        "grantTier": TIERS,
        "kpiUnit": _tokens("COUNT RATIO MINOR_UNITS SECONDS PERSONS"),
        "macroDomain": _tokens("SAFETY MONEY BOTH"),
        "alertTo": _tokens("ME OTHER"),
        "breakGlassDomain": _tokens("MINE OTHER"),
        "qaView": _tokens("BLIND OPEN"),
        "voteRow": _tokens("HELD NONE"),
    }
)

# Position in the tuple of ENUMS is the order; lt, le, gt, ge are refused on every other enum.
ORDERED: Final = frozenset({"tier", "rating", "grantTier"})

SETS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "piiClasses": _tokens("CONTACT IDENTITY_DOCUMENT PAYMENT LOCATION DEVICE FREE_TEXT"),
        "cityKeyClasses": _tokens("PLAIN COMMERCIAL SAFETY AVAILABILITY"),
        "protectedTags": _TAGS,
        "tagsRemoved": _TAGS,
        "tagsAdded": _TAGS,
    }
)

# Of integers here; the planner asks the same operators of SQL columns.
COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = MappingProxyType(
    {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
)
_ORDERINGS: Final = frozenset({"lt", "le", "gt", "ge"})
_ENUM_OPERATORS: Final = frozenset({"eq", "ne", "in", "notIn"})
_SYMBOLS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "eq": "==",
        "ne": "!=",
        "lt": "<",
        "le": "<=",
        "gt": ">",
        "ge": ">=",
        "in": "in",
        "notIn": "not in",
        "subset": "subset",
        "overlaps": "overlaps",
    }
)


class ConditionError(ValueError):
    """What is wrong with a condition; whoever loads it refuses the whole load."""


@dataclass(frozen=True)
class FactRef:
    """The value of another integer fact."""

    name: str


@dataclass(frozen=True)
class Leaf:
    """One comparison. ``value``: an integer or another integer fact, one token, or tokens in their written order."""

    fact: str
    op: str
    value: int | str | tuple[str, ...] | FactRef


@dataclass(frozen=True)
class All:
    """True when every one of its conditions is."""

    items: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """True when one of its conditions is."""

    items: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """True when its condition is false."""

    item: Condition


Condition: TypeAlias = All | AnyOf | Not | Leaf


def parse(source: str | bytes | Mapping[str, Any]) -> Condition:
    """Read a condition from JSON text or from JSON already decoded; ``ConditionError`` names what is wrong.

    Refuses what the grammar does not list: an unknown fact, operator, token or key, a float, a repeated key, too much.
    """
    if isinstance(source, str | bytes):
        if len(source if isinstance(source, bytes) else source.encode()) > MAX_BYTES:
            raise ConditionError(f"a condition has at most {MAX_BYTES} bytes")
        try:
            source = json.loads(source, object_pairs_hook=_no_repeats)
        except json.JSONDecodeError as error:
            raise ConditionError(f"a condition is JSON: {error}") from error
    condition = _parse(source, 1)
    leaves = len(_leaves(condition))
    if leaves > MAX_LEAVES:
        raise ConditionError(f"a condition has at most {MAX_LEAVES} comparisons, this one {leaves}")
    if len(canonical(condition).encode()) > MAX_BYTES:
        raise ConditionError(f"a condition has at most {MAX_BYTES} bytes")
    return condition


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ConditionError("a condition repeats a key")
    return found


def _parse(node: Any, depth: int) -> Condition:
    if not isinstance(node, Mapping):
        raise ConditionError(f"a condition is an object, not {type(node).__name__}")
    if depth > MAX_NESTING:
        raise ConditionError(f"a condition nests at most {MAX_NESTING} deep")
    keys = set(node)
    if keys == {"all"}:
        return All(_items(node["all"], depth))
    if keys == {"any"}:
        return AnyOf(_items(node["any"], depth))
    if keys == {"not"}:
        return Not(_parse(node["not"], depth + 1))
    if keys == {"fact", "op", "value"}:
        return _leaf(node["fact"], node["op"], node["value"])
    raise ConditionError(
        f"a condition has the keys all, any, not, or fact, op and value; not {', '.join(sorted(map(_word, keys))[:_MOST_NAMED]) or 'none'}"
    )


def _word(said: object) -> str:
    """What a refusal may repeat of what was sent: a token. Anything else could be long, or about somebody."""
    return said if isinstance(said, str) and _TOKEN.fullmatch(said) else "(no token)"


def _items(node: Any, depth: int) -> tuple[Condition, ...]:
    if not isinstance(node, Sequence) or isinstance(node, str | bytes):
        raise ConditionError("all and any take a list")
    if not 1 <= len(node) <= MAX_ITEMS:
        raise ConditionError(f"all and any take 1 to {MAX_ITEMS} conditions")
    return tuple(_parse(item, depth + 1) for item in node)


def _leaf(fact: Any, op: Any, value: Any) -> Leaf:
    if not isinstance(fact, str) or not isinstance(op, str):
        raise ConditionError("fact and op are texts")
    if fact in INTEGERS:
        return Leaf(fact, op, _integer_value(fact, op, value))
    if fact in ENUMS:
        return Leaf(fact, op, _enum_value(fact, op, value))
    if fact in SETS:
        if op not in ("subset", "overlaps"):
            raise ConditionError(f"{fact} is a set, it has no operator {_word(op)}")
        return Leaf(fact, op, _token_list(fact, value, SETS[fact]))
    raise ConditionError(f"unknown fact {_word(fact)}")


def _integer_value(fact: str, op: str, value: Any) -> int | FactRef:
    if op not in COMPARISONS:
        raise ConditionError(f"{fact} is an integer, it has no operator {_word(op)}")
    if isinstance(value, Mapping):
        name = value.get("fact")
        if set(value) != {"fact"} or not isinstance(name, str) or name not in INTEGERS:
            raise ConditionError(f"{fact} is compared with an integer or an integer fact")
        return FactRef(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConditionError(f"{fact} is compared with an integer or an integer fact")
    if abs(value) > MAX_INTEGER:
        raise ConditionError(f"{fact} is compared with an integer below 2^53")
    return value


def _enum_value(fact: str, op: str, value: Any) -> str | tuple[str, ...]:
    if op not in _ENUM_OPERATORS and not (op in _ORDERINGS and fact in ORDERED):
        raise ConditionError(f"{fact} has no operator {_word(op)}")
    if op in ("in", "notIn"):
        return _token_list(fact, value, ENUMS[fact])
    return _token(fact, value, ENUMS[fact])


def _token(fact: str, value: Any, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ConditionError(f"{fact} takes one token")
    if value not in known:
        raise ConditionError(f"{fact} has no token {value}")
    return value


def _token_list(fact: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not 1 <= len(value) <= MAX_TOKENS:
        raise ConditionError(f"{fact} takes a list of 1 to {MAX_TOKENS} tokens")
    tokens = tuple(_token(fact, item, known) for item in value)
    if len(set(tokens)) != len(tokens):
        raise ConditionError(f"{fact} names a token twice")
    return tokens


def fold(
    condition: Condition,
    *,
    leaf: Callable[[Leaf], T],
    every: Callable[[Sequence[T]], T],
    some: Callable[[Sequence[T]], T],
    negation: Callable[[T], T],
) -> T:
    """Say the condition in another language, from the leaves up: ``every`` joins an ``all``, ``some`` an ``any``."""

    def visit(node: Condition) -> T:
        if isinstance(node, Leaf):
            return leaf(node)
        if isinstance(node, Not):
            return negation(visit(node.item))
        join = every if isinstance(node, All) else some
        return join([visit(item) for item in node.items])

    return visit(condition)


def _leaves(condition: Condition) -> tuple[Leaf, ...]:
    def joined(parts: Sequence[tuple[Leaf, ...]]) -> tuple[Leaf, ...]:
        return tuple(leaf for part in parts for leaf in part)

    return fold(condition, leaf=lambda leaf: (leaf,), every=joined, some=joined, negation=lambda one: one)


def evaluate(condition: Condition | None, facts: Facts) -> bool | None:
    """The truth of a condition, None where the facts leave it open (Kleene). No condition is always true.

    A fact of the wrong type, or a token its enum does not know, counts as absent: unknown never opens anything by itself.
    """
    if condition is None:
        return True
    return _evaluate(condition, lambda leaf: _holds(leaf, facts))


def _evaluate(condition: Condition, leaf: Callable[[Leaf], bool | None]) -> bool | None:
    return fold(
        condition, leaf=leaf, every=_every, some=_some, negation=lambda value: None if value is None else not value
    )


def _every(values: Sequence[bool | None]) -> bool | None:
    if False in values:
        return False
    return None if None in values else True


def _some(values: Sequence[bool | None]) -> bool | None:
    if True in values:
        return True
    return None if None in values else False


def _holds(leaf: Leaf, facts: Facts) -> bool | None:
    actual = facts.get(leaf.fact)
    if leaf.fact in INTEGERS:
        expected = facts.get(leaf.value.name) if isinstance(leaf.value, FactRef) else leaf.value
        return (
            bool(COMPARISONS[leaf.op](actual, expected))
            if isinstance(actual, int) and isinstance(expected, int)
            else None
        )
    if leaf.fact in SETS:
        named = frozenset(leaf.value) if isinstance(leaf.value, tuple) else frozenset()
        if not isinstance(actual, frozenset):
            return None
        return actual <= named if leaf.op == "subset" else bool(actual & named)
    if not isinstance(actual, str):
        return None
    return _enum_holds(leaf, actual)


def _enum_holds(leaf: Leaf, actual: str) -> bool | None:
    known = ENUMS[leaf.fact]
    if actual not in known and leaf.fact != "rootField":  # rootField lists only the names that conditions tell apart
        return None
    if isinstance(leaf.value, tuple):
        return (actual in leaf.value) == (leaf.op == "in")
    if leaf.op in _ORDERINGS:
        return bool(COMPARISONS[leaf.op](known.index(actual), known.index(str(leaf.value))))
    return (actual == leaf.value) == (leaf.op == "eq")


def facts_of(condition: Condition | None) -> set[str]:
    """Every fact that the condition reads, on either side of a comparison."""
    leaves = () if condition is None else _leaves(condition)
    return {leaf.fact for leaf in leaves} | {leaf.value.name for leaf in leaves if isinstance(leaf.value, FactRef)}


def refusing_fact(condition: Condition | None, facts: Facts) -> str | None:
    """The one fact that keeps the condition from being true, or None: with another value of it, all else would hold.

    Only the left side of a comparison is blamed: ``amountMinor <= requestCeilingMinor`` fails for its amount.
    """
    if condition is None or evaluate(condition, facts) is True:
        return None
    for fact in dict.fromkeys(leaf.fact for leaf in _leaves(condition)):
        if _holds_assuming(condition, facts, fact, True) or _holds_assuming(condition, facts, fact, False):
            return fact
    return None


def _holds_assuming(condition: Condition, facts: Facts, fact: str, assumed: bool) -> bool:
    return _evaluate(condition, lambda leaf: assumed if leaf.fact == fact else _holds(leaf, facts)) is True


def canonical(condition: Condition) -> str:
    """The condition's JSON text as it is stored: sorted keys, no space."""

    def value(leaf: Leaf) -> object:
        if isinstance(leaf.value, FactRef):
            return {"fact": leaf.value.name}
        return list(leaf.value) if isinstance(leaf.value, tuple) else leaf.value

    tree: dict[str, object] = fold(
        condition,
        leaf=lambda leaf: {"fact": leaf.fact, "op": leaf.op, "value": value(leaf)},
        every=lambda items: {"all": list(items)},
        some=lambda items: {"any": list(items)},
        negation=lambda item: {"not": item},
    )
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


def text(condition: Condition | None) -> str:
    """The condition as people write it: ``caseKind in {REFUND, DISPUTE} and amountMinor <= requestCeilingMinor``."""
    if condition is None:
        return "always"

    def leaf(node: Leaf) -> tuple[str, int]:
        if isinstance(node.value, FactRef):
            value = node.value.name
        elif isinstance(node.value, tuple):
            value = "{" + ", ".join(node.value) + "}"
        else:
            value = str(node.value)
        return f"{node.fact} {_SYMBOLS[node.op]} {value}", 3

    def joined(word: str, strength: int) -> Callable[[Sequence[tuple[str, int]]], tuple[str, int]]:
        def join(parts: Sequence[tuple[str, int]]) -> tuple[str, int]:
            if len(parts) == 1:
                return parts[0]
            return f" {word} ".join(part if binds > strength else f"({part})" for part, binds in parts), strength

        return join

    return fold(
        condition,
        leaf=leaf,
        every=joined("and", 2),
        some=joined("or", 1),
        negation=lambda part: (f"not ({part[0]})", 3),
    )[0]
