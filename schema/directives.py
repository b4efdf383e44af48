"""The directives of the schema: AppSync's and the product's own, and the rules that are read back from them.

What a field demands (policy row, reason, second person, audit record) is said once, beside the field, and printed in the
SDL. ``FieldRules`` is that sentence as data; every other package asks the rules and never a directive.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any, Final, TypeVar

import strawberry
from strawberry.schema_directive import Location, schema_directive
from strawberry.types.unset import UNSET

_ANYWHERE: Final = [Location.OBJECT, Location.FIELD_DEFINITION]
_FIELD: Final = [Location.FIELD_DEFINITION]


class Code(StrEnum):
    """An enum whose values are its names, as GraphQL, the database and the audit log write them."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[Any]) -> str:  # noqa: ARG004  as Enum calls it
        return name


@strawberry.enum
class ScopeKey(Code):
    """What a row is matched by."""

    CITY = auto()
    CATEGORY = auto()
    AMOUNT = auto()
    OWN = auto()
    TEAM = auto()


@strawberry.enum
class DualControlMode(Code):
    """POLICY: a second person only when the condition of an approval policy holds."""

    ALWAYS = auto()
    POLICY = auto()


@strawberry.enum
class PiiClass(Code):
    """What kind of personal data a field holds."""

    CONTACT = auto()
    IDENTITY_DOCUMENT = auto()
    PAYMENT = auto()
    LOCATION = auto()
    DEVICE = auto()
    FREE_TEXT = auto()


@strawberry.enum
class PiiMask(Code):
    """What a reader sees instead. REDACT: contacts and numbers inside free text; HIDDEN: null."""

    LAST4 = auto()
    INITIALS = auto()
    HASH = auto()
    REDACT = auto()
    HIDDEN = auto()


@strawberry.enum
class ReasonList(Code):
    """The lists of reason codes; ``authz/reasons.py`` has the codes."""

    DECIDE = auto()
    REVERSE = auto()
    SUSPEND = auto()
    VERIFICATION = auto()
    REFUND = auto()
    DISPUTE = auto()
    REVEAL = auto()
    RATE = auto()
    FLAG_CITY = auto()
    ROUTING = auto()
    STAFF_POLICY = auto()
    GRAVEST_STEP = auto()


@schema_directive(name="policy", locations=_ANYWHERE)
class Policy:
    """The policy row that opens it."""

    object: str
    action: str


@schema_directive(name="inherit", locations=_ANYWHERE)
class Inherit:
    """Opened by whatever led here; legal only where every path passes a policy row."""


@schema_directive(name="self", locations=_ANYWHERE)
class Own:
    """The caller's own row."""


@schema_directive(name="scope", locations=[Location.OBJECT])
class Scope:
    """The entity's row predicate; the arguments name columns when they differ."""

    by: list[ScopeKey]
    city: str | None = UNSET
    category: str | None = UNSET
    owner: str | None = UNSET


@schema_directive(name="reason", locations=_FIELD)
class Reasoned:
    """``ReasonInput.code`` must be of this list."""

    list: ReasonList


@schema_directive(name="dualControl", locations=_FIELD)
class DualControl:
    """The key of the approval policies."""

    action: str
    mode: DualControlMode


@schema_directive(name="audited", locations=_FIELD)
class Audited:
    """One record per use of a root field."""

    action: str
    read: bool


@schema_directive(name="idempotent", locations=_FIELD)
class Idempotent:
    """Takes ``idempotencyKey``; the answer is stored 7 days."""


@schema_directive(name="pii", locations=[Location.FIELD_DEFINITION, Location.INPUT_FIELD_DEFINITION])
class Pii:
    """Personal data: masked in SQL, never logged."""

    pii_class: PiiClass = strawberry.directive_field(name="class")
    mask: PiiMask


@schema_directive(name="filterable", locations=_FIELD)
class Filterable:
    """Appears in the type's filter input with the operators of its own type."""


@schema_directive(name="aws_subscribe", locations=_FIELD)
class AwsSubscribe:
    """AppSync: the mutations whose answers a subscription delivers."""

    mutations: list[str] | None


@schema_directive(name="aws_iam", locations=_ANYWHERE)
class AwsIam:
    """AppSync: open to signed requests."""


@schema_directive(name="aws_oidc", locations=_ANYWHERE)
class AwsOidc:
    """AppSync: open to OpenID Connect tokens."""


@schema_directive(name="aws_cognito_user_pools", locations=_ANYWHERE)
class AwsCognitoUserPools:
    """AppSync: open to tokens of a user pool."""

    cognito_groups: list[str] | None = strawberry.directive_field(name="cognito_groups", default=UNSET)


INHERIT: Final = Inherit()
OWN: Final = Own()
IDEMPOTENT: Final = Idempotent()
FILTERABLE: Final = Filterable()
AWS_IAM: Final = AwsIam()
AWS_OIDC: Final = AwsOidc()
AWS_COGNITO_USER_POOLS: Final = AwsCognitoUserPools()


def policy(object_: str, action: str) -> Policy:
    """Open by the policy row ``object:action``."""
    return Policy(object=object_, action=action)


def scope(*by: ScopeKey, owner: str | None = None, category: str | None = None) -> Scope:
    """Limit the rows of a type; ``owner`` names the field that says whose row it is."""
    return Scope(by=list(by), category=category or UNSET, owner=owner or UNSET)


def reasoned(reasons: ReasonList) -> Reasoned:
    """Ask for a reason of this list."""
    return Reasoned(list=reasons)


def dual_control(action: str, mode: DualControlMode = DualControlMode.POLICY) -> DualControl:
    """Put under the approval policies of ``action``."""
    return DualControl(action=action, mode=mode)


def audited(action: str, *, read: bool = False) -> Audited:
    """Record every use under ``action``."""
    return Audited(action=action, read=read)


def pii(pii_class: PiiClass, mask: PiiMask) -> Pii:
    """Mark as personal data of a class."""
    return Pii(pii_class=pii_class, mask=mask)


def subscribes(*mutations: str) -> AwsSubscribe:
    """Deliver what these mutations answer."""
    return AwsSubscribe(mutations=list(mutations))


@dataclass(frozen=True)
class FieldRules:
    """Everything the schema demands of one field; directives of its type are already in it.

    ``policy`` is (object, action), ``reason`` the name of a list, ``dual`` (approval key, mode), ``audited`` (action,
    read), ``pii`` (class, mask), ``subscribes`` the mutations that a subscription hears.
    """

    type: str
    field: str
    policy: tuple[str, str] | None = None
    inherit: bool = False
    own: bool = False
    reason: str | None = None
    dual: tuple[str, str] | None = None
    audited: tuple[str, bool] | None = None
    idempotent: bool = False
    pii: tuple[str, str] | None = None
    filterable: bool = False
    subscribes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``Type.field``."""
        return f"{self.type}.{self.field}"

    @property
    def row(self) -> tuple[str, str]:
        """The policy row of a field that must have one, as every mutation must: ``schema.lint`` refuses it otherwise."""
        if self.policy is None:
            raise LookupError(f"{self.name} has no policy row")
        return self.policy

    @property
    def record_action(self) -> str:
        """What its use is recorded under; every root field says it with ``@audited``."""
        return self.audited[0] if self.audited else self.field


@dataclass(frozen=True)
class ScopeRule:
    """The row predicate of a type, in GraphQL field names; the names need not be fields that a client sees."""

    by: tuple[str, ...]
    city: str = "cityId"
    category: str = "contentCategory"
    owner: str | None = None


Directive = TypeVar("Directive")


def _find(directives: list[object], kind: type[Directive]) -> Directive | None:
    return next((d for d in directives if isinstance(d, kind)), None)


def kinds_of_rule(directives: list[object]) -> int:
    """Count the directives that say who may read; more than one contradict each other."""
    return sum(isinstance(d, (Policy, Inherit, Own)) for d in directives)


def field_rules(type_name: str, field_name: str, own: list[object], of_type: list[object]) -> FieldRules:
    """Read a field's rules back; who may read is taken from the type where the field itself says nothing."""
    access = own if kinds_of_rule(own) else of_type
    row, reasons, dual = _find(access, Policy), _find(own, Reasoned), _find(own, DualControl)
    record, data, hears = _find(own, Audited), _find(own, Pii), _find(own, AwsSubscribe)
    return FieldRules(
        type=type_name,
        field=field_name,
        policy=(row.object, row.action) if row else None,
        inherit=_find(access, Inherit) is not None,
        own=_find(access, Own) is not None,
        reason=reasons.list.value if reasons else None,
        dual=(dual.action, dual.mode.value) if dual else None,
        audited=(record.action, record.read) if record else None,
        idempotent=_find(own, Idempotent) is not None,
        pii=(data.pii_class.value, data.mask.value) if data else None,
        filterable=_find(own, Filterable) is not None,
        subscribes=tuple(hears.mutations or ()) if hears else (),
    )


def scope_rule(of_type: list[object]) -> ScopeRule | None:
    """Read a type's row predicate back; None: it has none."""
    found = _find(of_type, Scope)
    if found is None:
        return None
    return ScopeRule(
        by=tuple(key.value for key in found.by),
        city=found.city or "cityId",
        category=found.category or "contentCategory",
        owner=found.owner or None,
    )
