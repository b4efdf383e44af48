"""Three forms of one schema: whole, AppSync's, introspection."""

from __future__ import annotations

import json
import re

import pytest
from graphql import GraphQLError, GraphQLObjectType, build_client_schema, parse

from schema.build import console
from schema.printing import appsync, checked, render


def test_sdl_is_the_snapshot() -> None:
    assert render(console(), "sdl") == console().sdl


def test_appsync_has_none_of_the_products_directives() -> None:
    text = appsync(console())
    assert set(re.findall(r"@(\w+)", text)) == {"aws_iam", "aws_oidc", "aws_cognito_user_pools", "aws_subscribe"}
    assert "directive " not in text
    assert "scalar " not in text


def test_appsync_drops_the_enums_that_only_directives_use() -> None:
    names = {
        definition.name.value for definition in parse(appsync(console())).definitions if hasattr(definition, "name")
    }
    assert not names & {"ScopeKey", "DualControlMode", "PiiMask"}
    assert {"PiiClass", "ReasonList"} <= names  # AuditRecord and ActionHint show these


def test_appsync_keeps_every_field_argument_and_type() -> None:
    ours, theirs = console().core, checked(appsync(console()))
    for of in console().objects():
        kept = theirs.type_map[of.name]
        assert isinstance(kept, GraphQLObjectType)
        assert {name: str(f.type) for name, f in of.fields.items()} == {
            name: str(f.type) for name, f in kept.fields.items()
        }
        for name, field in of.fields.items():
            assert {a: str(d.type) for a, d in field.args.items()} == {
                a: str(d.type) for a, d in kept.fields[name].args.items()
            }
    assert ours.subscription_type is not None
    assert theirs.subscription_type is not None


def test_types_that_a_signed_request_reaches_are_open_to_it_and_to_staff() -> None:
    lines = {line.split()[1]: line for line in appsync(console()).splitlines() if line.startswith("type ")}
    for name in ("Report", "ReportPayload", "AuditRef", "CaseEvent", "ApprovalEvent", "Alert"):
        assert lines[name] == f"type {name} @aws_iam @aws_oidc @aws_cognito_user_pools {{"
    assert lines["Case"] == "type Case {"


def test_a_document_that_appsync_would_refuse_does_not_pass() -> None:
    with pytest.raises((GraphQLError, TypeError)):
        checked("type Query { a: Unheard }")


def test_json_is_an_introspection_that_clients_can_build_from() -> None:
    built = build_client_schema(json.loads(render(console(), "json")))
    assert set(built.type_map) == set(console().core.type_map)
