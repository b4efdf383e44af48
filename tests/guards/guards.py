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
MACROS: Final = "tests/services/test_macros.py"
ATTACKS: Final = "tests/services/test_macro_attacks.py"
GATES: Final = "tests/services/test_gates.py"
BOOK: Final = "tests/authz/test_approval_book.py"
POLICIES: Final = "tests/services/test_approval_policies.py"

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
        "migrations/sql/0009_city_context.sql",
        "USING (%s)', policy.policyname, policy.schemaname, policy.tablename, sees);",
        "USING (true)', policy.policyname, policy.schemaname, policy.tablename);",
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
        " AND audit.anchored(o.audit_id)\n",
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
    # ---------- the declaration ----------
    Guard(
        "a line of the policy that no field asks is refused",
        "authz/policy.py",
        "    if (object_, action) not in rows:\n",
        "    if False:\n",
        ("tests/authz/test_policy.py",),
    ),
    Guard(
        "an event that no state takes stops the process",
        "schema/states.py",
        "            if event not in taken:\n",
        "            if False:\n",
        ("tests/schema/test_states.py",),
    ),
    Guard(
        "a non-null edge is held by a key that carries the city",
        "resolvers/scope_edges.py",
        "            if column is not None and not _held(",
        "            if column is not None and _held is None and not _held(",
        ("tests/resolvers/test_scope_edges.py",),
    ),
    Guard(
        "a hint asks what the command asks",
        "resolvers/hints.py",
        "    command.check(act, target)\n",
        "",
        ("tests/resolvers/test_hints.py",),
    ),
    Guard(
        "a mutation without a hint says why not",
        "resolvers/hints.py",
        "        if offer is None and named:\n",
        "        if False:\n",
        ("tests/resolvers/test_hints.py",),
    ),
    Guard(
        "a list inside an object is scoped like the root's",
        "resolvers/listing.py",
        "        if match is None or self._scoping.read_row(type_name) is not None:\n",
        "        if match is None:\n",
        ("tests/api/test_paths.py",),
    ),
    Guard(
        "a policy row that changed breaks its users",
        "schema/changes.py",
        '_Weight("the policy row", "breaking", "breaking", "breaking")',
        '_Weight("the policy row", "additive", "additive", "additive")',
        ("tests/schema/test_changes.py",),
    ),
    Guard(
        "no role gets a right that nobody reviewed",
        "migrations/sql/0001_access.sql",
        "GRANT DELETE ON case_skip, idempotency TO cs_app, cs_worker;",
        "GRANT DELETE ON case_skip, idempotency, note TO cs_app, cs_worker;",
        ("tests/db/test_cover.py",),
    ),
    # ---------- every port ----------
    Guard(
        "calls of one lane leave in their order",
        "db/outbox.py",
        "(e.created_at, e.id) < (o.created_at, o.id)",
        "false",
        ("tests/resolvers/test_deliveries.py",),
    ),
    Guard(
        "a retried call waits for the record of the retry",
        "db/outbox.py",
        "next_attempt_at = $2, audit_id = $3 WHERE",
        "next_attempt_at = $2, audit_id = coalesce(audit_id, $3) WHERE",
        ("tests/resolvers/test_deliveries.py",),
    ),
    Guard(
        "what has ended is never called",
        "resolvers/deliveries.py",
        "        if not await self._wanted(route, row):\n            return\n",
        "",
        ("tests/resolvers/test_deliveries.py",),
    ),
    Guard(
        "a template is no way around a policy row",
        "services/messages/writing.py",
        """    if _may_read(act, "refund", case["city_id"]):\n""",
        "    if True:\n",
        ("tests/services/test_messages.py",),
    ),
    # ---------- macros ----------
    Guard(
        "a step that needs approval runs by votes that fill its own requirement",
        "resolvers/inner.py",
        "if not rehearsing and not fill(gate.requirement, _countersigned(run, target, gate)).reached:",
        "if False:",
        (f"{GATES}::test_a_step_that_needs_approval_does_not_run_on_nobodys_word",),
    ),
    Guard(
        "a step rests on those who may approve it by itself as it is now",
        "resolvers/inner.py",
        "fill(gate.requirement, _countersigned(run, target, gate)).reached",
        "fill(gate.requirement, act.votes).reached",
        (f"{ATTACKS}::test_two_waiting_runs_do_not_split_a_sum_under_their_voters_ceiling",),
    ),
    Guard(
        "only what says so of itself is a step",
        "resolvers/inner.py",
        "return field in COMMANDS and COMMANDS[field].step",
        "return field in COMMANDS",
        (f"{GATES}::test_only_what_says_so_of_itself_is_a_step",),
    ),
    Guard(
        "a run is compared with the plan that was shown",
        "services/macros/run.py",
        "if issued is None or plan.hash != act.input.plan_hash:",
        "if issued is None:",
        (f"{MACROS}::test_whoever_was_faster_makes_the_plan_stale_and_the_fresh_one_comes_with_the_refusal",),
    ),
    Guard(
        "an approved run is compared with the plan that was approved",
        "services/macros/run.py",
        'if plan.bound_hash != run["bound_hash"]:',
        "if False:",
        (f"{MACROS}::test_what_is_no_longer_what_was_approved_does_not_run",),
    ),
    Guard(
        "a plan holds ten minutes",
        "services/macros/rules.py",
        "return issued if issued <= now <= issued + PLAN_SECONDS else None",
        "return issued if issued <= now else None",
        (f"{MACROS}::test_a_plan_holds_ten_minutes_and_no_longer",),
    ),
    Guard(
        "what is only tried is undone",
        "db/unit_of_work.py",
        "                yield\n                raise _UndoneError\n",
        "                yield\n",
        ("tests/db/test_unit_of_work.py", f"{MACROS}::test_a_run_does_all_steps_in_one_transaction_with_a_record_each"),
    ),
    Guard(
        "a preview never commits",
        "resolvers/macro_preview.py",
        "            found: Plan = await pipeline.rehearse(call.caller, call.snapshot, work)\n",
        """            async def kept(act: Act[Any]) -> Plan:
                made: Plan = await work(act)
                await act.uow.commit()
                return made

            found: Plan = await pipeline.rehearse(call.caller, call.snapshot, kept)
""",
        (f"{MACROS}::test_a_preview_says_what_each_step_would_do_and_leaves_nothing",),
    ),
    Guard(
        "a macro is for the roles that it names",
        "services/macros/run.py",
        '{"macroRoleHeld": int(grant.role in roles)}',
        '{"macroRoleHeld": 1 + 0 * len(roles)}',
        (f"{MACROS}::test_a_macro_adds_no_right_and_its_roles_come_on_top",),
    ),
    Guard(
        "whoever approves the whole could approve each step",
        "authz/dual_control.py",
        'steps = {"stepsHeld": int(_holds_steps(grants, request, permits))} if request.gates else {}',
        'steps = {"stepsHeld": 1} if request.gates else {}',
        (f"{GATES}::test_whoever_could_not_approve_a_step_alone_does_not_approve_the_whole",),
    ),
    Guard(
        "whoever could not approve each step is not shown the whole either",
        "resolvers/scoping.py",
        "            held = self._holds_steps(row)\n",
        "            held = true()\n",
        (f"{GATES}::test_whoever_could_not_approve_a_step_is_not_shown_the_whole_where_no_amount_hides_it",),
    ),
    Guard(
        "whose account a step is about does not approve the whole",
        "services/approvals/request.py",
        "for one in (concerned_id, *(gate.concerned_id for gate in gates)) if one",
        "for one in (concerned_id,) if one",
        (f"{GATES}::test_whose_account_a_step_is_about_does_not_approve_the_whole",),
    ),
    Guard(
        "row-level security of macro runs",
        "migrations/sql/0006_macros.sql",
        "ALTER TABLE macro_run ENABLE ROW LEVEL SECURITY;\n",
        "",
        (f"{GATES}::test_a_run_is_seen_by_the_cities_of_the_transaction", "tests/db/test_cover.py"),
    ),
    Guard(
        "what was saved of a macro never changes",
        "migrations/sql/0006_macros.sql",
        "may_change constant text[] := ARRAY['state', 'current'];",
        "may_change constant text[] := ARRAY['state', 'current', 'steps'];",
        ("tests/services/test_macro_drafts.py",),
    ),
    Guard(
        "a name means the version in force",
        "resolvers/scoping.py",
        "            return and_(seen, row.c.current)\n",
        "            return seen\n",
        ("tests/api/test_macros.py::test_versions_are_read_by_number_and_the_current_one_by_the_id_alone",),
    ),
    # ---------- approval policies ----------
    Guard(
        "a request is void once its policy was replaced",
        "services/approvals/execution.py",
        "    if requests.policy_changed(request, act.snapshot):\n",
        "    if False:\n",
        (APPROVALS, f"{POLICIES}::test_what_is_beyond_the_bound_is_void_at_its_own_quorum"),
    ),
    Guard(
        "a change ends what waits under the policy of before",
        "services/approvals/policies.py",
        "closed = await self._invalidate(act, policy.key, act.approval.request_id)",
        "closed: tuple[str, ...] = ()",
        (
            f"{POLICIES}::test_a_change_waits_for_an_admin_and_an_auditor_then_ends_what_waits_under_the_old_policy",
            "tests/machines/test_policies.py",
        ),
    ),
    Guard(
        "a change ends the macros that wait with such a step",
        "services/approvals/policies.py",
        "(action = $1 OR gates @> jsonb_build_array(jsonb_build_object('action', $1::text)))",
        "action = $1",
        (f"{POLICIES}::test_a_macro_that_waits_with_such_a_step_ends_too", "tests/machines/test_policies.py"),
    ),
    Guard(
        "no policy spares a deed of the floor",
        "authz/approval_book.py",
        "            if not any(evaluate(policy.condition, facts) is True for policy in found):\n",
        "            if False:\n",
        (f"{POLICIES}::test_nothing_goes_below_the_floor", BOOK),
    ),
    Guard(
        "whatever is stored, a deed of the floor is never done alone",
        "authz/requirements.py",
        "(not applying and key in FLOOR_ROWS and",
        "(False and key in FLOOR_ROWS and",
        (f"{BOOK}::test_whatever_is_stored_a_refund_of_the_floor_is_never_done_alone",),
    ),
    Guard(
        "the history of approval policies is append-only",
        "migrations/sql/0004_approval_policies.sql",
        "IF OLD.current AND NOT NEW.current AND to_jsonb(NEW) - 'current' = to_jsonb(OLD) - 'current' THEN",
        "IF true THEN",
        (f"{BOOK}::test_history_is_append_only_for_its_owner_too",),
    ),
    Guard(
        "a version that people made names its execution",
        "migrations/sql/0004_approval_policies.sql",
        "    CONSTRAINT approval_policy_request_id_fkey FOREIGN KEY (request_id) REFERENCES approval_execution (request_id),\n",
        "",
        (f"{BOOK}::test_a_process_can_write_only_what_an_execution_brought",),
    ),
    Guard(
        "a version that people made was countersigned as this very policy",
        "migrations/sql/0004_approval_policies.sql",
        "IF TG_OP = 'INSERT' AND NOT EXISTS (",
        "IF false AND NOT EXISTS (",
        (f"{BOOK}::test_a_process_neither_drops_a_policy_nor_makes_one_on_the_strength_of_another_request",),
    ),
    Guard(
        "a payload is executed by what its hash says",
        "resolvers/inner.py",
        '    if payload_hash(request["payload"]) != request["payload_hash"]:\n',
        "    if False:\n",
        (f"{APPROVALS}::test_a_payload_that_is_not_what_its_hash_says_is_never_executed",),
    ),
    Guard(
        "what needs more approvals by now is void",
        "resolvers/inner.py",
        "    if wanted is not None and not fill(wanted, run.votes).reached:\n",
        "    if False:\n",
        (f"{APPROVALS}::test_what_needs_more_approvals_by_now_is_void",),
    ),
    Guard(
        "a process whose clock is wrong approves nothing",
        "services/approvals/commands.py",
        "    if abs(act.uow.ahead_seconds) > REFUSED_SECONDS:\n",
        "    if False:\n",
        ("tests/api/test_clocks.py::test_votes_and_retries_are_refused_from_a_minute_on",),
    ),
    Guard(
        "two who keep approving each other are told of",
        "services/approvals/pairs.py",
        "    if not await _found(act, requester_id):\n",
        "    if True:\n",
        ("tests/services/test_pairs.py",),
    ),
    # ---------- messages ----------
    Guard(
        "one key is one message",
        "services/adapters/help_center_embedded.py",
        "        if row is None or not wanted.is_of(row):\n",
        "        if row is None:\n",
        ("tests/ports/test_help_center.py",),
    ),
    Guard(
        "a text with a placeholder in it is never sent",
        "services/adapters/help_center_embedded.py",
        "        if lacking or rules.unclosed(subject) or rules.unclosed(body):\n",
        "        if False:\n",
        ("tests/ports/test_help_center.py",),
    ),
    Guard(
        "a template names variables that there are",
        "services/messages/rules.py",
        "    if unknown:\n",
        "    if False:\n",
        ("tests/services/test_messages.py",),
    ),
    Guard(
        "what has ended is not taken up again",
        "services/deliveries/commands.py",
        "        if await standing(act.uow.conn, target.row) is Standing.ENDED:\n",
        "        if False:\n",
        ("tests/resolvers/test_deliveries.py::test_what_has_ended_is_not_retried",),
    ),
    Guard(
        "the texts of a template stay as they were sent",
        "migrations/sql/0005_messages.sql",
        "GRANT SELECT, INSERT ON template_version TO cs_app;",
        "GRANT SELECT, INSERT, UPDATE ON template_version TO cs_app;",
        ("tests/db/test_cover.py",),
    ),
    # ---------- answers, and what is told of them ----------
    Guard(
        "an object that must be there and is not is an error in every finish",
        "resolvers/leaves.py",
        "    return func.coalesce(made, _MISSING) if isinstance(of, GraphQLNonNull) else made\n",
        "    return made\n",
        ("tests/resolvers/test_finishes.py::test_a_parent_out_of_reach_is_the_same_null_in_every_finish",),
    ),
    Guard(
        "nothing but what is listed is told as telemetry",
        "countersign/telemetry.py",
        "        if key in keys\n",
        "        if key in keys or key\n",
        ("tests/test_telemetry.py::test_what_is_not_on_the_list_is_dropped",),
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
