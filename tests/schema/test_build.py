"""The schema as shipped: its snapshot, and that its rules, scopes and lists are read back whole."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest
from graphql import GraphQLNonNull, GraphQLObjectType, build_schema, get_named_type, parse

from schema.build import assemble, console
from schema.console import Console, Listable
from schema.directives import FieldRules, ScopeRule

ROOT = str(files("schema").joinpath(".."))
BUILD_SECONDS = 0.6  # of a cold process, imports of the web stack aside


def test_the_snapshot_is_what_the_code_declares() -> None:
    committed = files("schema").joinpath("schema.graphql").read_text()
    assert committed == console().sdl, "schema.graphql is stale: print it again and review the difference"


def test_the_printed_schema_builds_the_same_types() -> None:
    assert set(build_schema(console().sdl).type_map) == set(console().core.type_map)


def test_two_processes_print_the_same_bytes() -> None:
    program = (
        "from schema.build import console; import hashlib; print(hashlib.sha256(console().sdl.encode()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ROOT},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_the_schema_is_built_once() -> None:
    assert console() is console()


@pytest.mark.contract("AZ-1")
def test_every_field_of_every_type_has_rules() -> None:
    built = console()
    fields = {(t.name, name) for t in built.objects() for name in t.fields}
    assert fields == set(built.rules)
    assert len(fields) > 300


def test_no_field_resolves_by_itself() -> None:
    assert all(f.resolve is None and f.subscribe is None for t in console().objects() for f in t.fields.values())


def test_nothing_in_the_schema_has_a_default_value() -> None:
    # AppSync has none, and an absent argument must stay absent.
    assert " = " not in console().sdl


def test_a_mutation_says_everything_it_demands() -> None:
    assert console().rules["Mutation", "requestRefund"] == FieldRules(
        type="Mutation",
        field="requestRefund",
        policy=("refund", "request"),
        reason="REFUND",
        dual=("refund.request", "POLICY"),
        audited=("refund.request", False),
        idempotent=True,
    )


@pytest.mark.parametrize(
    ("type_name", "field", "expected"),
    [
        ("Query", "me", {"own": True, "audited": ("staff.me", True)}),
        ("Query", "listCasesByDue", {"policy": ("case", "read"), "audited": ("case.list", True)}),
        ("Case", "priority", {"policy": ("case", "read"), "filterable": True}),
        ("Case", "lease", {"policy": ("case", "read")}),
        ("Lease", "token", {"own": True}),
        ("Lease", "expiresAt", {"inherit": True}),
        ("CaseConnection", "items", {"inherit": True}),
        ("StaffMember", "email", {"policy": ("staff", "contact"), "pii": ("CONTACT", "HIDDEN")}),
        ("StaffMember", "displayName", {"policy": ("staff", "read"), "filterable": True}),
        ("Report", "detail", {"policy": ("report", "read"), "pii": ("FREE_TEXT", "REDACT")}),
        ("AuditRecord", "body", {"policy": ("audit", "body")}),
        (
            "Subscription",
            "onAlert",
            {"policy": ("alert", "read"), "audited": ("alert.subscribe", True), "subscribes": ("publishAlert",)},
        ),
    ],
)
def test_a_field_takes_its_own_rule_before_that_of_its_type(
    type_name: str, field: str, expected: dict[str, object]
) -> None:
    assert console().rules[type_name, field] == FieldRules(type=type_name, field=field, **expected)  # type: ignore[arg-type]


def test_a_scope_names_fields_by_default_and_the_owner_where_there_is_one() -> None:
    scopes = console().scopes
    assert scopes["Refund"] == ScopeRule(by=("CITY",))
    assert scopes["ApprovalRequest"] == ScopeRule(by=("CITY", "AMOUNT", "OWN"), owner="requesterId")
    assert scopes["Case"] == ScopeRule(by=("CITY", "CATEGORY"), city="cityId", category="contentCategory")
    assert "Delivery" not in scopes


def test_the_lists_are_found_with_the_names_that_amplify_derives() -> None:
    lists = console().listables
    assert set(lists) == {
        "Alert", "ApprovalPolicy", "ApprovalRequest", "AuditRecord", "Case", "Decision", "Delivery", "Macro", "MacroRun", "OrderLedger", "Queue", "Refund", "Report", "StaffMember", "Subject", "Template",
    }  # fmt: skip
    assert lists["OrderLedger"] == Listable(
        "OrderLedger",
        "listOrderLedgers",
        "getOrderLedger",
        "ModelOrderLedgerFilterInput",
        ("orderId", "buyerId", "cityId"),
    )
    assert lists["AuditRecord"].list_field == "listAudit"
    assert lists["Case"].list_field == "listCases"


def test_what_a_list_filters_by_are_fields_of_its_type() -> None:
    built = console()
    for listable in built.listables.values():
        keys = set(built.core.type_map[listable.filter_input].fields) - {"and", "or", "not"}  # type: ignore[attr-defined]
        assert keys == set(listable.filter_fields)
        assert keys <= set(built.core.type_map[listable.type].fields)  # type: ignore[attr-defined]


def test_every_payload_carries_outcome_and_receipt() -> None:
    mutations = console().core.mutation_type
    assert mutations is not None
    published = {name for rule in console().rules.values() for name in rule.subscribes}
    for name, field in mutations.fields.items():
        if name not in published:
            payload = get_named_type(field.type)
            assert isinstance(payload, GraphQLObjectType)
            assert isinstance(field.type, GraphQLNonNull)
            assert str(payload.fields["outcome"].type) == "Outcome!", name
            assert str(payload.fields["audit"].type) == "AuditRef!", name


def test_the_rows_that_the_policy_must_have_are_known() -> None:
    rows = {rule.policy for rule in console().rules.values() if rule.policy is not None}
    assert {
        ("refund", "request"),
        ("case", "decide"),
        ("staff", "contact"),
        ("audit", "body"),
        ("alert", "ack"),
    } <= rows
    assert all(len(row) == 2 for row in rows)


def test_a_schema_without_a_query_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a query"):
        assemble([])


def test_building_is_fast_enough_to_be_done_at_every_start() -> None:
    program = (
        "import time, strawberry, strawberry.tools, orjson; t = time.perf_counter(); from schema.build import console; console();"
        "print(time.perf_counter() - t)"
    )
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", program], env={"PYTHONPATH": ROOT}, capture_output=True, check=True, text=True
            ).stdout
        )
        for _ in range(2)
    ]
    assert min(times) < BUILD_SECONDS


def test_the_document_parses_without_descriptions_of_python() -> None:
    assert '"""' not in console().sdl  # docstrings speak to developers, not to clients
    parse(console().sdl)


def test_a_console_is_a_value() -> None:
    built = console()
    assert isinstance(built, Console)
    with pytest.raises(TypeError):
        built.rules["Query", "me"] = FieldRules("Query", "me")  # type: ignore[index]
