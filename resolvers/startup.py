"""What must hold before anything is served: the schema, the policy and the approval policies fit each other.

``countersign schema check`` prints these findings; the application refuses to start while there is one.
"""

from __future__ import annotations

from authz.policy import Policy
from schema.build import console
from schema.console import Console
from schema.lint import lint, lint_payloads


def findings(checked: Console | None = None, policy: Policy | None = None) -> list[str]:
    """Everything that forbids serving, each naming its field; empty when all is well."""
    contract, rows = checked or console(), policy or Policy.shipped()
    found = lint(contract, lambda object_, action: bool(rows.holders(object_, action)), rows.approvals.keys())
    return found + lint_payloads(
        contract, lambda role, tier, object_, action: bool(rows.lines(role, tier, object_, action))
    )
