"""A query's way out: answered under one policy snapshot, recorded durably, and only then handed over (AU-2, AZ-7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from audit.record import PERSON_TYPES
from resolvers.reader import StaleSnapshotError
from resolvers.records import shown, wire_record
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from graphql.execution.values import VariableValues

    from authz.identity import Identity
    from resolvers.context import Request
    from resolvers.documents import Operation
    from resolvers.parts import Parts
    from resolvers.reader import Answer
    from resolvers.root_reads import RootRead
    from resolvers.roots import RootField

# Each repetition needs another change of grants between two statements; a fourth one in a row is not a query's day.
_ATTEMPTS: Final = 4
_DENIALS: Final = frozenset({"Unauthorized", "NOT_FOUND"})


async def read(
    parts: Parts, request: Request, identity: Identity, operation: Operation, variables: VariableValues
) -> tuple[Answer, list[dict[str, Any]]]:
    """The answer and the receipts of its records, one per root field instance. Raises ``AUDIT_UNAVAILABLE``: nothing is shown."""
    for _ in range(_ATTEMPTS):
        try:
            answer = await parts.reader.query(
                request.caller, request.snapshot, operation, variables, request_id=request.id
            )
            break
        except StaleSnapshotError:
            # Grants have changed since the snapshot: nothing was read; the decision starts over on the newer one.
            request = request.under(*await parts.callers.caller(identity, request.ip, request.snapshot.version + 1))
    else:
        raise ConsoleError("DEPENDENCY_UNAVAILABLE", "The policy keeps changing; try again.")
    records = [_record(request, root, parts) for root in answer.reads]
    receipts = await parts.writer.reads(parts.app_pool, records)
    return answer, [
        {"field": root.key, "id": receipt.id, "hash": receipt.hash}
        for root, receipt in zip(answer.reads, receipts, strict=True)
    ]


async def record_refusal(
    parts: Parts, request: Request, type_name: str, roots: Sequence[RootField], error: ConsoleError
) -> None:
    """Record root fields that were refused before reader or pipeline saw them. Raises ``AUDIT_UNAVAILABLE``."""
    records = []
    for root in roots:
        rules = parts.console.rules.get((type_name, root.name))
        action = rules.record_action if rules else "schema.introspect"
        records.append(
            wire_record(
                request,
                parts.clock(),
                kind="denied",
                action=action,
                field=f"{type_name}.{root.name}",
                arguments=root.arguments,
                verdict="DENIED",
                code=error.code,
                outcome="FAILED",
            )
        )
    await parts.writer.reads(parts.app_pool, records)


def _record(request: Request, root: RootRead, parts: Parts) -> dict[str, Any]:
    if root.error is None and root.sought is None and root.object_type not in PERSON_TYPES:
        return shown(request, parts.clock(), root)
    # No object and none within reach are one answer; for the auditor both are an attempt, as in a mutation.
    code = root.error.code if root.error else "NOT_FOUND" if root.sought is not None else None
    denied = code in _DENIALS
    return wire_record(
        request,
        parts.clock(),
        kind="denied" if denied else "read",
        action=root.action,
        field=root.field,
        arguments=root.arguments,
        verdict="ALLOWED" if code is None else "DENIED" if denied else "FAILED",
        code=code,
        policy_row=root.policy_row,
        object_type=root.object_type,
        ids=root.ids,
        sought=root.sought,
        count=root.count,
        filter_digest=root.filter_digest,
        outcome="EXECUTED" if code is None else "FAILED",
        fields={"read": list(root.fields), "masked": list(root.masked), "pii": dict(root.pii)},
    )
