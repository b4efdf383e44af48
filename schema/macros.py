"""Macros: versioned lists of steps that run as one deed, the plan of such a run, and what became of it."""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID
from strawberry.types.unset import UNSET

from schema.approvals import ApprovalRequest
from schema.cases import CaseKind
from schema.common import AuditRef, Outcome, ReasonInput, Role
from schema.directives import (
    FILTERABLE,
    IDEMPOTENT,
    INHERIT,
    Code,
    DualControlMode,
    ReasonList,
    ScopeKey,
    audited,
    dual_control,
    policy,
    reasoned,
    scope,
)
from schema.fields import get, listing, marked, signature
from schema.scalars import AWSJSON, AWSDateTime


@strawberry.enum
class MacroState(Code):
    """The states of one version of a macro; its transitions are in ``services/macros/rules.py``."""

    DRAFT = auto()
    PUBLISHED = auto()
    RETIRED = auto()


@strawberry.enum
class MacroRunState(Code):
    """What became of a run; REJECTED: of its approval request."""

    PENDING_APPROVAL = auto()
    EXECUTED = auto()
    FAILED = auto()
    REJECTED = auto()
    EXPIRED = auto()


@strawberry.enum
class StepVerdict(Code):
    """What a step comes to; ``NO_OP``: its condition does not hold."""

    OK = auto()
    NEEDS_APPROVAL = auto()
    DENIED = auto()
    INVALID = auto()
    NO_OP = auto()


@strawberry.type(directives=[INHERIT])
class MacroStep:
    """One mutation of a macro; ``{{path}}`` in its arguments stands for a value, ``when`` for a condition."""

    key: ID
    action: str
    args_template: AWSJSON
    when: str | None


@strawberry.type(directives=[policy("macro", "read")])
class Macro:
    """One version of a macro; ``parameters`` is the JSON Schema of what a run is given."""

    id: ID = marked(FILTERABLE)
    name: str = marked(FILTERABLE)
    version: int
    state: MacroState = marked(FILTERABLE)
    description: str
    allowed_roles: list[Role] = marked(FILTERABLE)
    case_kinds: list[CaseKind] = marked(FILTERABLE)
    parameters: AWSJSON
    steps: list[MacroStep]


@strawberry.type(directives=[INHERIT])
class StepPlan:
    """What one step would do: the changed fields before and after, and the calls to other systems that it leaves."""

    key: ID
    action: str
    verdict: StepVerdict
    error_code: str | None
    before: AWSJSON | None
    after: AWSJSON | None
    external_effects: list[str]


@strawberry.type(directives=[INHERIT])
class MacroPlan:
    """What a run would do as things stand; ``planHash`` is what the run presents."""

    plan_hash: ID
    macro_id: ID
    macro_version: int
    expires_at: AWSDateTime
    executable: bool
    needs_approval: bool
    approvals: int
    steps: list[StepPlan]


@strawberry.type(directives=[policy("macro", "read"), scope(ScopeKey.CITY)])
class MacroRun:
    """One run of a macro on a case: all of its steps, or none."""

    id: ID = marked(FILTERABLE)
    macro_id: ID = marked(FILTERABLE)
    macro_version: int
    case_id: ID = marked(FILTERABLE)
    plan_hash: ID
    state: MacroRunState = marked(FILTERABLE)
    steps: list[StepPlan]
    approval_request_id: ID | None
    created_at: AWSDateTime = marked(FILTERABLE)


@strawberry.type(directives=[INHERIT])
class MacroPayload:
    """A macro after a change, or a run with the request that must be approved first."""

    outcome: Outcome
    macro: Macro | None
    run: MacroRun | None
    approval_request: ApprovalRequest | None
    audit: AuditRef


@strawberry.input
class MacroStepInput:
    """One step as it is written."""

    key: ID
    action: str
    args_template: AWSJSON
    when: str | None = UNSET


@strawberry.input
class SaveMacroInput:
    """A macro's next draft; without ``id`` a new macro."""

    id: ID | None = UNSET
    name: str
    description: str
    allowed_roles: list[Role]
    case_kinds: list[CaseKind]
    parameters: AWSJSON
    steps: list[MacroStepInput]
    expected_version: int | None = UNSET
    idempotency_key: ID | None = UNSET
    reason: ReasonInput


@strawberry.input
class MacroActionInput:
    """A macro to publish or retire, in the version that was looked at."""

    macro_id: ID
    expected_version: int
    reason: ReasonInput


@strawberry.input
class PreviewMacroInput:
    """A macro to try on a case that the caller holds."""

    macro_id: ID
    case_id: ID
    lease_token: ID
    parameters: AWSJSON


@strawberry.input
class RunMacroInput:
    """A macro to run on a case that the caller holds, as its plan was shown."""

    macro_id: ID
    case_id: ID
    lease_token: ID
    parameters: AWSJSON
    plan_hash: ID
    idempotency_key: ID
    reason: ReasonInput


class Query:
    """Root fields that read macros and their runs, and the one that tries a macro."""

    get_macro = get(Macro, "macro.read", versioned=True)
    list_macros = listing(Macro, "macro.list")
    get_macro_run = get(MacroRun, "macroRun.read")
    list_macro_runs = listing(MacroRun, "macroRun.list")

    @signature(policy("macro", "preview"), audited("macro.preview", read=True))
    def preview_macro(self, input: PreviewMacroInput) -> MacroPlan: ...


class Mutation:
    """Writing macros, putting them into force, and running them."""

    @signature(policy("macro", "edit"), reasoned(ReasonList.FLAG_CITY), audited("macro.save"), IDEMPOTENT)
    def save_macro(self, input: SaveMacroInput) -> MacroPayload: ...

    @signature(
        policy("macro", "publish"),
        reasoned(ReasonList.FLAG_CITY),
        dual_control("macro.publish", DualControlMode.ALWAYS),
        audited("macro.publish"),
    )
    def publish_macro(self, input: MacroActionInput) -> MacroPayload: ...

    @signature(policy("macro", "edit"), reasoned(ReasonList.FLAG_CITY), audited("macro.retire"))
    def retire_macro(self, input: MacroActionInput) -> MacroPayload: ...

    @signature(
        policy("macro", "run"),
        reasoned(ReasonList.GRAVEST_STEP),
        dual_control("macro.run"),
        audited("macro.run"),
        IDEMPOTENT,
    )
    def run_macro(self, input: RunMacroInput) -> MacroPayload: ...
