"""What the Amplify client is configured with fits the schema it will talk to."""

from __future__ import annotations

from typing import Any

from graphql import GraphQLInputObjectType, GraphQLObjectType

from schema.amplify import amplify_outputs, model_introspection
from schema.build import console

INTROSPECTION: dict[str, Any] = model_introspection(console())


def test_outputs_name_the_endpoint_and_the_default_mode() -> None:
    outputs = amplify_outputs("https://localhost:8443/graphql", "da2-key")
    assert outputs["version"].startswith("1")
    assert outputs["data"]["url"] == "https://localhost:8443/graphql"
    assert outputs["data"]["api_key"] == "da2-key"
    assert outputs["data"]["default_authorization_type"] == "AMAZON_COGNITO_USER_POOLS"
    assert outputs["data"]["model_introspection"] == INTROSPECTION
    assert "api_key" not in amplify_outputs("https://localhost:8443/graphql")["data"]


def test_the_operations_a_model_derives_exist_in_the_schema() -> None:
    query = console().core.query_type
    assert query is not None
    for name, model in INTROSPECTION["models"].items():
        key = model["primaryKeyInfo"]["primaryKeyFieldName"]
        assert str(query.fields[f"get{name}"].args[key].type) == "ID!"
        listing = query.fields[f"list{model['pluralName']}"]
        assert str(listing.args["filter"].type) == f"Model{name}FilterInput"
        if model["primaryKeyInfo"]["isCustomPrimaryKey"]:
            assert {"sortDirection", key} <= set(listing.args)


def test_models_cannot_write_or_subscribe() -> None:
    for model in INTROSPECTION["models"].values():
        properties = model["attributes"][0]["properties"]
        assert properties == {"queries": {"observeQuery": None}, "mutations": None, "subscriptions": None}


def test_index_queries_are_the_models_keys() -> None:
    keys = [a["properties"] for a in INTROSPECTION["models"]["Case"]["attributes"] if a["type"] == "key"]
    assert keys == [
        {"name": "casesByPriority", "queryField": "listCasesByPriority", "fields": ["queueId", "priority"]},
        {"name": "casesByDue", "queryField": "listCasesByDue", "fields": ["queueId", "resolveDueAt"]},
        {"name": "casesByAssignee", "queryField": "listCasesByAssignee", "fields": ["assigneeId", "resolveDueAt"]},
    ]


def test_an_object_is_loaded_by_the_id_beside_it_and_a_list_by_its_own() -> None:
    fields = INTROSPECTION["models"]["Case"]["fields"]
    assert fields["subject"]["type"] == {"model": "Subject"}
    assert fields["subject"]["association"] == {"connectionType": "BELONGS_TO", "targetNames": ["subjectId"]}
    assert fields["reports"]["association"] == {"connectionType": "HAS_MANY", "associatedWith": ["caseId"]}
    assert INTROSPECTION["models"]["OrderLedger"]["fields"]["refunds"]["association"]["associatedWith"] == ["orderId"]


def test_every_association_leads_to_a_model_with_that_field() -> None:
    for model in INTROSPECTION["models"].values():
        for field in model["fields"].values():
            if "association" in field:
                related = INTROSPECTION["models"][field["type"]["model"]]["fields"]
                assert all(name in related for name in field["association"].get("associatedWith", ()))
                assert all(name in model["fields"] for name in field["association"].get("targetNames", ()))


def test_default_selections_end() -> None:
    # The client unfolds nonModels without looking for circles.
    types = INTROSPECTION["nonModels"]

    def unfold(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"{' > '.join((*above, name))} never ends"
        for field in types[name]["fields"].values():
            if isinstance(field["type"], dict) and "nonModel" in field["type"]:
                unfold(field["type"]["nonModel"], (*above, name))

    for name in types:
        unfold(name, ())


def test_a_field_with_a_row_of_its_own_is_in_no_default_selection() -> None:
    assert "email" not in INTROSPECTION["models"]["StaffMember"]["fields"]
    assert "body" not in INTROSPECTION["models"]["AuditRecord"]["fields"]
    assert "email" not in INTROSPECTION["nonModels"]["StaffMember"]["fields"]


def test_what_is_described_is_what_the_schema_has() -> None:
    types = console().core.type_map
    for name, described in INTROSPECTION["nonModels"].items():
        of = types[name]
        assert isinstance(of, GraphQLObjectType)
        assert set(described["fields"]) <= set(of.fields)
    for name, described in INTROSPECTION["inputs"].items():
        taken = types[name]
        assert isinstance(taken, GraphQLInputObjectType)
        assert set(described["attributes"]) == set(taken.fields)


def test_every_operation_of_a_client_is_there_and_none_of_the_outbox() -> None:
    mutations = console().core.mutation_type
    assert mutations is not None
    published = {name for rule in console().rules.values() for name in rule.subscribes}
    assert set(INTROSPECTION["mutations"]) == mutations.fields.keys() - published
    assert set(INTROSPECTION["subscriptions"]) == {"onCaseEvent", "onApprovalEvent", "onAlert"}
    assert INTROSPECTION["queries"]["getCase"]["type"] == {"model": "Case"}
    assert INTROSPECTION["queries"]["listCases"]["type"] == {"nonModel": "CaseConnection"}
    assert INTROSPECTION["mutations"]["requestRefund"] == {
        "name": "requestRefund",
        "isArray": False,
        "isRequired": True,
        "type": {"nonModel": "RefundPayload"},
        "arguments": {
            "input": {"name": "input", "isArray": False, "isRequired": True, "type": {"input": "RequestRefundInput"}}
        },
    }


def test_a_list_says_whether_it_and_its_items_may_be_null() -> None:
    statement = INTROSPECTION["inputs"]["StatementInput"]["attributes"]
    assert statement["contentType"] == {
        "name": "contentType",
        "isArray": True,
        "isRequired": True,
        "isArrayNullable": False,
        "type": "String",
    }
    assert statement["territorialScope"]["isArrayNullable"] is True
