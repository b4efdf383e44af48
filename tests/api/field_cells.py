"""Asks every field of the schema as one person in one place, and says in one letter what came of it.

V a value, M personal data under its mask, D denied, A absent: the object is out of reach, or has no such value. Every
type is asked at its own root if it has one, else at the first path that leads to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from graphql import (
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_required_argument,
)

from authz.caller import Caller
from db.unit_of_work import begin
from resolvers.context import Request
from resolvers.hub_rights import may_hear
from resolvers.performing import coerced
from resolvers.registry import COMMANDS
from schema.build import console
from schema.errors import ConsoleError
from services.command import Result
from tests.api.field_stage import CLEAR, FieldStage, Objects

VALUE, MASKED, DENIED, ABSENT = "VMDA"
DENIALS = frozenset({"Unauthorized", "NOT_ELIGIBLE", "SELF_SUBJECT", "AMOUNT_CEILING_EXCEEDED"})
Cells = dict[str, str]
EACH = "*"  # in a path: any item of a list
_numbers = itertools.count(1)
_LATELY = {"from": (datetime.now(UTC) - timedelta(days=40)).isoformat(), "to": datetime.now(UTC).isoformat()}
REASON = {"code": "SPAM", "note": "Because it is so."}
SETTING = {"code": "CLEANUP"}
STAFF_REASON = {"code": "ROLE_CHANGE"}
# Refusals by state of what somebody may do: the right was passed, nothing is shown.
BEYOND = frozenset({"CASE_CLAIMED", "LEASE_LOST", "LEASE_REQUIRED", "INVALID_TRANSITION"})


def _macro(o: Objects) -> dict[str, Any]:
    return {"macroId": o.ids["Macro"], "caseId": o.ids["Case"], "leaseToken": "lease", "parameters": "{}"}


def _step(o: Objects) -> dict[str, Any]:
    return {"caseId": o.ids["Case"], "leaseToken": "lease", "expectedVersion": 1, "reason": {"code": "NEEDS_SENIOR"}}


# What each root field is asked; those left out need nothing. A new field that needs something fails until it is here.
QUERIES: Mapping[str, Any] = {
    "listCasesByPriority": lambda o: {"queueId": o.ids["Queue"]},
    "listCasesByDue": lambda o: {"queueId": o.ids["Queue"]},
    "listCasesByAssignee": lambda o: {"assigneeId": "st_ts_agent", "filter": {"id": {"eq": o.ids["Case"]}}},
    "getAuditProof": lambda o: {"id": o.ids["AuditRecord"]},
    "listAuditCheckpoints": lambda _: {},
    "approvalMetrics": lambda _: {"at": _LATELY},
    "previewMacro": lambda o: {"input": _macro(o)},
}
MUTATIONS: Mapping[str, Any] = {
    "submitReport": lambda o: {
        "input": {"subjectId": o.ids["Subject"], "category": "SPAM", "externalId": f"x{next(_numbers)}"}
    },
    "claimNextCase": lambda o: {"queueId": o.ids["Queue"]},
    "claimCase": lambda o: {"caseId": o.ids["Case"]},
    "renewLease": lambda o: {"input": {"caseId": o.ids["Case"], "leaseToken": "lease"}},
    "releaseCase": lambda o: {"input": _step(o)},
    "skipCase": lambda o: {"input": _step(o)},
    "escalateCase": lambda o: {"input": _step(o)},
    "resolveCase": lambda o: {"input": {**_step(o), "reason": REASON}},
    "reopenCase": lambda o: {"input": {**_step(o), "reason": {"code": "NEW_EVIDENCE", "note": "It came in today."}}},
    "addNote": lambda o: {
        "input": {"caseId": o.ids["Case"], "body": "Seen.", "internal": True, "idempotencyKey": f"n{next(_numbers)}"}
    },
    "decideCase": lambda o: {
        "input": {**_step(o), "reason": REASON, "kind": "WARN", "severity": 1, "idempotencyKey": f"d{next(_numbers)}"}
    },
    "requestRefund": lambda o: {
        "input": {
            "orderId": o.ids["OrderLedger"],
            "amount": {"amountMinor": 100, "currency": "EUR"},
            "idempotencyKey": f"r{next(_numbers)}",
            "reason": {"code": "QUALITY_ISSUE"},
        }
    },
    "cancelRefund": lambda o: {
        "input": {"refundId": o.ids["Refund"], "expectedVersion": 1, "reason": {"code": "DUPLICATE"}}
    },
    "voteOnApproval": lambda o: {
        "input": {"requestId": o.ids["ApprovalRequest"], "vote": "APPROVE", "payloadHash": o.ids["hash"]}
    },
    "withdrawVote": lambda o: {"requestId": o.ids["ApprovalRequest"]},
    "cancelApproval": lambda o: {
        "input": {"requestId": o.ids["ApprovalRequest"], "expectedVersion": 1, "reason": {"code": "SHIFT_END"}}
    },
    "retryApproval": lambda o: {
        "input": {"requestId": o.ids["ApprovalRequest"], "expectedVersion": 1, "reason": {"code": "SHIFT_END"}}
    },
    "acknowledgeAlert": lambda o: {"id": o.ids["Alert"]},
    "saveMacro": lambda o: {
        "input": {
            "id": o.ids["Macro"],
            "name": "Again",
            "description": "",
            "allowedRoles": ["SUPPORT"],
            "caseKinds": ["REFUND"],
            "parameters": '{"type": "object"}',
            "expectedVersion": 1,
            "idempotencyKey": f"m{next(_numbers)}",
            "steps": [{"key": "note", "action": "addNote", "argsTemplate": '{"body": "Seen.", "internal": true}'}],
            "reason": SETTING,
        }
    },
    "publishMacro": lambda o: {"input": {"macroId": o.ids["Macro"], "expectedVersion": 1, "reason": SETTING}},
    "retireMacro": lambda o: {"input": {"macroId": o.ids["Macro"], "expectedVersion": 1, "reason": SETTING}},
    "runMacro": lambda o: {
        "input": {
            **_macro(o),
            "planHash": "0.0",
            "idempotencyKey": f"u{next(_numbers)}",
            "reason": {"code": "SHIFT_END"},
        }
    },
    "saveApprovalPolicy": lambda o: {
        "input": {
            "id": o.ids["ApprovalPolicy"],
            "action": "refund.request",
            "condition": "null",
            "approvals": 1,
            "approverRoles": ["FINANCE"],
            "minTier": "AGENT",
            "approveWithinSeconds": 3600,
            "executeWithinSeconds": 3600,
            "enabled": True,
            "expectedVersion": 1,
            "idempotencyKey": f"p{next(_numbers)}",
            "reason": STAFF_REASON,
        }
    },
    "retryDelivery": lambda o: {"id": o.ids["Delivery"]},
    "saveTemplate": lambda o: {
        "input": {
            "id": o.ids["Template"],
            "name": o.ids["Template.name"],
            "locale": "en",
            "subject": "About {{caseId}}",
            "body": "We look at it.",
            "disabled": False,
            "expectedVersion": 1,
            "reason": {"code": "CLEANUP"},
        }
    },
}


class StopError(ConsoleError):
    """Where an attempt was stopped that would have gone on: the input was accepted, nothing was done."""

    def __init__(self) -> None:
        super().__init__("BAD_REQUEST", "Only asked.")


@dataclass
class Node:
    """One selected object: its type, its fields, and what is selected below them."""

    type: str
    fields: dict[str, Node | None] = field(default_factory=dict)

    @property
    def text(self) -> str:
        fields = [f"{name} {below.text if below else ''}" for name, below in self.fields.items()]
        if not fields and self.type.endswith("Connection"):  # asked elsewhere; whether it is empty is told here
            fields = ["items { __typename }"]
        return "{ " + " ".join(["__typename", *fields]) + " }"

    def every(self) -> list[str]:
        own = [f"{self.type}.{name}" for name in self.fields]
        return own + [one for below in self.fields.values() if below for one in below.every()]


class Selections:
    """The whole schema as selections under its root fields, every type once."""

    def __init__(self, core: GraphQLSchema) -> None:
        self._core = core
        assert core.query_type
        assert core.mutation_type
        assert core.subscription_type
        self._seen = {"Query", "Mutation", "Subscription"}
        # A type is asked at its own ``get`` before at anything that merely leads to it.
        first = ("getCase", "getDecision", "getOrderLedger")  # what is shared is asked where most may look
        names = sorted(core.query_type.fields, key=lambda name: (name not in first, not name.startswith("get"), name))
        self._own = {get_named_type(core.query_type.fields[n].type).name for n in names if n.startswith("get")}
        self.queries = {name: self._root(core.query_type, name) for name in names}
        self.subscriptions = {name: self._root(core.subscription_type, name) for name in core.subscription_type.fields}
        self.mutations = {name: self._root(core.mutation_type, name) for name in core.mutation_type.fields}

    def _root(self, parent: GraphQLObjectType, name: str) -> Node:
        of = get_named_type(parent.fields[name].type)
        assert isinstance(of, GraphQLObjectType)
        return self._node(of, root=True)

    def _node(self, of: GraphQLObjectType, *, root: bool = False) -> Node:
        node = Node(of.name)
        if of.name in self._seen or (of.name in self._own and not root):
            return node
        self._seen.add(of.name)
        for name, one in of.fields.items():
            below = get_named_type(one.type)
            assert not isinstance(below, GraphQLInterfaceType)
            node.fields[name] = self._node(below) if isinstance(below, GraphQLObjectType) else None
        return node

    def every(self) -> list[str]:
        """Each Type.field that some cell is for."""
        found = []
        for parent, roots in (
            ("Query", self.queries),
            ("Mutation", self.mutations),
            ("Subscription", self.subscriptions),
        ):
            for name, node in roots.items():
                found += [f"{parent}.{name}", *node.every()]
        return found


class Asking:
    """One person in one place."""

    def __init__(self, stage: FieldStage, selections: Selections, handle: str, place: str) -> None:
        self._stage, self._selections = stage, selections
        self._caller: Caller = stage.caller(handle)
        self._objects = stage.objects(handle, place)
        self.cells: Cells = {}
        self.problems: list[str] = []
        self._where = f"{handle} {place}"

    async def run(self) -> Asking:
        names = list(self._selections.queries)
        for start in range(0, len(names), 8):
            await self._query(names[start : start + 8])
        for name in self._selections.subscriptions:
            await self._hear(name)
        for name in self._selections.mutations:
            await self._mutate(name)
        return self

    # ---------- queries ----------
    def _arguments(self, name: str) -> dict[str, Any]:
        core = console().core
        assert core.query_type
        if name in QUERIES:
            given: dict[str, Any] = QUERIES[name](self._objects)
            return given
        of = core.query_type.fields[name]
        item = get_named_type(of.type).name.removesuffix("Connection")
        key = "orderId" if item == "OrderLedger" else "id"
        if name.startswith("list"):
            return {"filter": {key: {"eq": self._objects.ids[item]}}}
        if key in of.args and is_required_argument(of.args[key]):
            return {key: self._objects.ids[item]}
        missing = [arg for arg, one in of.args.items() if is_required_argument(one)]
        assert not missing, f"give Query.{name} its arguments in tests/api/field_cells.py"
        return {}

    async def _query(self, names: list[str]) -> None:
        of = console().core.query_type
        assert of
        text, declared, given = "", "", {}
        for name in names:
            arguments = self._arguments(name)
            text += f"{name}{_bound(name, arguments)} {self._selections.queries[name].text} "
            declared += " ".join(f"${name}_{one}: {of.fields[name].args[one].type} " for one in arguments)
            given |= {f"{name}_{one}": value for one, value in arguments.items()}
        operation = self._stage.documents.operation(f"query{f'({declared})' if declared else ''} {{ {text} }}")
        answer = await self._stage.reader.query(
            self._caller, self._stage.snapshot, operation, operation.bind(console().core, given)
        )
        if answer.data is None and len(names) > 1:  # one root that may not be null took the others with it
            for name in names:
                await self._query([name])
            return
        errors = _by_path(answer.errors)
        for name in names:
            value = (answer.data or {}).get(name)
            self._judge("Query", name, self._selections.queries[name], value, errors, (name,))

    def _judge(
        self, parent: str, name: str, below: Node | None, value: Any, errors: Mapping[Any, Any], path: tuple[Any, ...]
    ) -> None:
        place = f"{parent}.{name}"
        error = errors.get(path)
        if error is not None and error["errorType"] == "NOT_FOUND":
            self._all(place, below, ABSENT)
            return
        if error is not None and error["errorType"] in BEYOND:
            self.cells.setdefault(place, VALUE)
            for one in below.every() if below else ():
                self.cells.setdefault(one, ABSENT)
            return
        if error is not None:
            if error["errorType"] not in DENIALS:
                self.problems.append(f"{self._where} {place}: {error['errorType']} {error['message']}")
            self._all(place, below, DENIED)
            return
        # A plain ``[]`` of a list type shows no value, and neither does a connection without items.
        empty = value is None or value == [] or (isinstance(value, dict) and value.get("items", ...) == [])
        letter = ABSENT if empty else VALUE
        if place in CLEAR and letter == VALUE and value != CLEAR[place]:
            letter = MASKED
        self.cells.setdefault(place, letter)
        if below is None:
            return
        if isinstance(value, list):
            value, path = _merged(value), (*path, EACH)
        for inner, deeper in below.fields.items():
            if value is None:
                self._all(f"{below.type}.{inner}", deeper, ABSENT)
            else:
                self._judge(below.type, inner, deeper, value[inner], errors, (*path, inner))

    def _all(self, place: str, below: Node | None, letter: str) -> None:
        self.cells.setdefault(place, letter)
        for one in below.every() if below else ():
            self.cells.setdefault(one, letter)

    # ---------- mutations ----------
    def _request(self) -> Request:
        return Request(
            id=f"matrix-{next(_numbers)}", trace_id=None, caller=self._caller, snapshot=self._stage.snapshot,
            operation_name=None, document_digest="0" * 64, client=None, ip="192.0.2.1", user_agent="matrix",
            received_at=datetime.now(UTC),
        )  # fmt: skip

    async def _mutate(self, name: str) -> None:
        node = self._selections.mutations[name]
        letter = await self._attempt(name)
        self.cells[f"Mutation.{name}"] = letter
        if letter != VALUE:
            for one in node.every():
                self.cells.setdefault(one, letter)
            return
        await self._payload(name, node)

    async def _attempt(self, name: str) -> str:
        """Through the pipeline up to where input is accepted, and no further: nothing of it is done."""
        if name not in COMMANDS:
            return DENIED  # publish*: of a mode that this server does not have; the wire refuses it before anything
        assert name in MUTATIONS, f"give Mutation.{name} its arguments in tests/api/field_cells.py"

        def stop(_: Request) -> None:
            raise StopError

        async def never(*_: Any) -> Any:
            raise AssertionError("done")

        arguments = coerced(name, MUTATIONS[name](self._objects))
        try:
            await self._stage.pipeline.run(self._request(), name, arguments, never, stop)
        except StopError:
            return VALUE
        except ConsoleError as error:
            if error.code == "NOT_FOUND":
                return ABSENT
            if error.code not in DENIALS:
                self.problems.append(f"{self._where} Mutation.{name}: {error.code} {error.message}")
            return DENIED
        raise AssertionError(f"{name} went through")

    async def _payload(self, name: str, node: Node) -> None:
        """What the payload would show of these objects, on a unit of work that ends without a commit."""
        of = console().core.mutation_type
        assert of
        given = MUTATIONS[name](self._objects)
        declared = " ".join(f"${name}_{one}: {of.fields[name].args[one].type}" for one in given)
        operation = self._stage.documents.operation(
            f"mutation({declared}) {{ {name}{_bound(name, given)} {node.text} }}"
        )
        variables = operation.bind(console().core, {f"{name}_{one}": value for one, value in given.items()})
        names = {"case": "Case", "lease": "Case", "report": "Report", "decision": "Decision", "refund": "Refund",
                 "ledger": "OrderLedger", "approvalRequest": "ApprovalRequest", "request": "ApprovalRequest",
                 "alert": "Alert", "delivery": "Delivery", "template": "Template", "macro": "Macro", "run": "MacroRun",
                 "policy": "ApprovalPolicy"}  # fmt: skip
        refs = {key: self._objects.ids[of] for key, of in names.items()}
        result = Result(refs={**refs, "note": self._objects.ids["Note"]}, values={"leaseToken": "lease", "pending": 1})
        extra = {"outcome": "EXECUTED", "audit": {"id": "a", "seq": 1.0, "hash": "h"}}
        cities = "*" if self._caller.grants[0].every_city else ",".join(self._caller.grants[0].city_ids)
        [chosen] = operation.definition.selection_set.selections
        async with begin(self._stage.app, self._stage.writer.recorder, cities=cities) as uow:
            answer = await self._stage.reader.payload(
                uow, self._caller, self._stage.snapshot, operation, variables, chosen, result, extra,  # type: ignore[arg-type]
            )  # fmt: skip
        errors = _by_path(answer.errors)
        value = (answer.data or {}).get(name)
        if value is None:
            self.problems.append(f"{self._where} Mutation.{name}: its payload is null: {answer.errors}")
        kept = self.cells[f"Mutation.{name}"]
        self._judge("Mutation", name, node, value, errors, (name,))
        self.cells[f"Mutation.{name}"] = kept

    # ---------- subscriptions ----------
    async def _hear(self, name: str) -> None:
        node = self._selections.subscriptions[name]
        rule = console().rules["Subscription", name]
        assert rule.policy is not None
        if not self._stage.snapshot.opens(self._caller.grants, *rule.policy, self._caller.facts):
            self._all(f"Subscription.{name}", node, DENIED)
            return
        payload, facts = self._stage.event(name, self._objects)
        heard = may_hear(self._stage.snapshot, self._caller, rule.policy, city_id=self._objects.city, facts=facts)
        fields = node.text if node.fields else "{ id }"
        operation = self._stage.documents.operation(f"subscription {{ {name} {fields} }}")
        value = (
            await self._stage.reader.event(self._caller, self._stage.snapshot, operation, name, payload)
            if heard
            else None
        )
        self._judge("Subscription", name, node, value, {}, (name,))


def _by_path(errors: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Errors by their path, whichever item of a list they are of."""
    return {tuple(EACH if isinstance(part, int) else part for part in error["path"] or ()): error for error in errors}


def _merged(items: list[Any]) -> Any:
    """One object of a list's: each field with the first value that some item has."""
    found: dict[str, Any] = {}
    for item in items:
        found |= {name: value for name, value in item.items() if found.get(name) is None}
    return found or None


def _bound(name: str, arguments: Mapping[str, Any]) -> str:
    """The arguments of a root field, each a variable: one text, and so one plan, for all who hold the same."""
    return f"({', '.join(f'{one}: ${name}_{one}' for one in arguments)})" if arguments else ""
