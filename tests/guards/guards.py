"""Guards of the product, each with the text that takes it out and the tests that must then fail.

A guard that nobody misses is either no guard or has no test. When the product's text changes, the quick test says which
entry no longer applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Guard:
    """``old`` stands exactly once in ``file``; with ``new`` in its place one of ``tests`` fails."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MONEY: Final = "tests/services/test_money.py"
APPROVALS: Final = "tests/services/test_approvals.py"
MACHINES: Final = ("tests/machines/test_money.py", "tests/machines/test_leases.py", "tests/machines/test_approvals.py")
MATRIX: Final = "tests/api/test_field_matrix.py"

GUARDS: Final = (
    # ---------- locks ----------
    Guard(
        "the row lock of the ledger",
        "services/money/ledger.py",
        '"SELECT * FROM order_ledger WHERE order_id = $1 FOR UPDATE"',
        '"SELECT * FROM order_ledger WHERE order_id = $1"',
        (MACHINES[0],),
    ),
    Guard(
        "the advisory lock of requester and buyer",
        "services/money/commands.py",
        "\"SELECT pg_advisory_xact_lock(hashtextextended('refund:' || $1 || ':' || $2, 0))\"",
        '"SELECT $1::text, $2::text"',
        (MONEY, MACHINES[0]),
    ),
    Guard(
        "the row lock of an approval request",
        "services/approvals/request.py",
        '"SELECT * FROM approval_request WHERE id = $1 FOR UPDATE"',
        '"SELECT * FROM approval_request WHERE id = $1"',
        (MACHINES[2],),
    ),
    Guard(
        "the row lock of a case",
        "services/cases/saving.py",
        "WHERE c.id = $1 FOR UPDATE OF c",
        "WHERE c.id = $1",
        ("tests/services/test_cases.py", MACHINES[1]),
    ),
    Guard(
        "the lock of a person's leases",
        "services/cases/claims.py",
        "\"SELECT pg_advisory_xact_lock(hashtextextended('leases:' || $1, 0))\"",
        '"SELECT $1::text"',
        ("tests/services/test_cases.py", MACHINES[1]),
    ),
    # ---------- dual control ----------
    Guard(
        "the payload's hash is compared",
        "services/approvals/commands.py",
        'if act.input.payload_hash != target.row["payload_hash"]:',
        "if False:",
        (MONEY,),
    ),
    Guard(
        "nobody approves his own request",
        "authz/dual_control.py",
        "    if voter_id == request.requester_id:\n",
        "    if False:\n",
        ("tests/authz/test_dual_control.py", MONEY),
    ),
    Guard(
        "a clock that ran out before the timer came",
        "services/approvals/commands.py",
        "    if _overdue(act, request) is not None:",
        "    if False:",
        (APPROVALS, MACHINES[2]),
    ),
    Guard(
        "a unit of work on rights that have changed begins anew",
        "resolvers/pipeline.py",
        "            if uow.authz_version != request.snapshot.version:\n",
        "            if False:\n",
        ("tests/resolvers/test_pipeline.py", MACHINES[2]),
    ),
    # ---------- scope ----------
    Guard(
        "the city in the predicate of a row",
        "resolvers/scoping.py",
        "            return or_(every, row.c[column] == any_(cities))\n",
        "            return or_(every, true())\n",
        ("tests/resolvers/test_scoping.py", MATRIX),
    ),
    Guard(
        "the category in the predicate of a row",
        "resolvers/scoping.py",
        "            return row.c[column] == any_(held)\n",
        "            return true()\n",
        (MATRIX,),
    ),
    Guard(
        "row-level security of what may be seen",
        "migrations/sql/0001_access.sql",
        "'CREATE POLICY cities_seen ON %I FOR SELECT TO cs_app USING (%s)', name, sees)",
        "'CREATE POLICY cities_seen ON %I FOR SELECT TO cs_app USING (true)', name)",
        ("tests/db/test_migrations.py", "tests/resolvers/test_pipeline.py"),
    ),
    Guard(
        "the mask of free text",
        "resolvers/masking.py",
        '"REDACT": redacted,',
        '"REDACT": lambda value, _: value,',
        (MATRIX,),
    ),
    Guard(
        "the right to a single field",
        "authz/policy.csv",
        "p, AUDITOR, AGENT, audit, body, allow,\n",
        "p, AUDITOR, AGENT, audit, body, allow,\np, ADMIN, AGENT, audit, body, allow,\n",
        (MATRIX,),
    ),
    # ---------- requests ----------
    Guard(
        "an idempotency key belongs to its arguments",
        "db/idempotency.py",
        '    if row["arguments_hash"] != digest:\n',
        "    if False:\n",
        (MONEY,),
    ),
    Guard(
        "the token of a lease is compared",
        "services/cases/rules.py",
        ' and case["lease_token"] == token\n',
        "\n",
        ("tests/services/test_cases.py", MACHINES[1]),
    ),
    Guard(
        "a token of a page belongs to its caller",
        "resolvers/tokens.py",
        "Place(caller, field, digest) != place",
        "Place(place.caller, field, digest) != place",
        ("tests/resolvers/test_tokens.py",),
    ),
    Guard(
        "an expired token is dead after thirty seconds",
        "authz/identity.py",
        "LEEWAY: Final = timedelta(seconds=30)",
        "LEEWAY: Final = timedelta(seconds=60)",
        ("tests/authz/test_identity.py",),
    ),
    # ---------- the kernel ----------
    Guard(
        "money leaves only when its record is anchored",
        "db/outbox.py",
        " AND audit.anchored(audit_id)\n",
        "\n",
        ("tests/resolvers/test_worker.py", MACHINES[0]),
    ),
    Guard(
        "a settled refund never moves",
        "services/money/rules.py",
        "return None if state in TERMINAL else REFUND.get((state, ANSWERS[kernel_state]))",
        "return REFUND.get((state, ANSWERS[kernel_state]), state)",
        ("tests/services/test_rules.py", "tests/resolvers/test_worker.py"),
    ),
    # ---------- the log ----------
    Guard(
        "a log that is too far behind refuses",
        "audit/writer.py",
        "        if self._is_closed:\n",
        "        if False:\n",
        ("tests/audit/test_writer.py",),
    ),
    Guard(
        "the sealer takes only what a writer signed",
        "audit/sealer.py",
        'elif not self._keys.mac_holds(row["kid"], row["leaf"], row["mac"]):',
        "elif False:",
        ("tests/audit/test_sealer.py",),
    ),
    Guard(
        "an attempt that was refused is recorded",
        "resolvers/pipeline.py",
        "            await self._writer.reads(self._pool, [record])\n",
        "            pass\n",
        ("tests/resolvers/test_pipeline.py", MACHINES[1]),
    ),
)
