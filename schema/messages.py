"""Templates of messages to the marketplace's people."""

from __future__ import annotations

import strawberry
from strawberry import ID
from strawberry.types.unset import UNSET

from schema.common import AuditRef, Outcome, ReasonInput
from schema.directives import FILTERABLE, IDEMPOTENT, INHERIT, ReasonList, audited, policy, reasoned
from schema.fields import get, listing, marked, signature


@strawberry.type(directives=[policy("template", "read")])
class Template:
    """The text of a message in one language; ``variables`` are the placeholders ``{{name}}`` of subject and body.

    Name and locale are what other systems know it by: they never change.
    """

    id: ID = marked(FILTERABLE)
    name: str = marked(FILTERABLE)
    locale: str = marked(FILTERABLE)
    subject: str
    body: str
    variables: list[str]
    disabled: bool = marked(FILTERABLE)
    version: int


@strawberry.type(directives=[INHERIT])
class TemplatePayload:
    """A template as it was saved."""

    outcome: Outcome
    template: Template
    audit: AuditRef


@strawberry.input
class TemplateInput:
    """A new template, or with ``id`` and ``expectedVersion`` a new version of one."""

    id: ID | None = UNSET
    name: str
    locale: str
    subject: str
    body: str
    disabled: bool
    expected_version: int | None = UNSET
    idempotency_key: ID | None = UNSET
    reason: ReasonInput


class Query:
    """Root fields that read templates."""

    get_template = get(Template, "template.read")
    list_templates = listing(Template, "template.list")


class Mutation:
    """Writing templates."""

    @signature(policy("template", "edit"), reasoned(ReasonList.FLAG_CITY), audited("template.save"), IDEMPOTENT)
    def save_template(self, input: TemplateInput) -> TemplatePayload: ...
