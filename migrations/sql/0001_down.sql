-- Takes back 0001: tables in the order of their references, then the functions.
DROP TABLE kernel_order, kernel_refund, idempotency, outbox, event, alert, approval_execution, approval_vote, approval_request,
    refund, decision, timeline, note, report, case_skip, case_file, queue, sla_policy, order_ledger, subject, authz_version,
    staff_grant, staff;
DROP FUNCTION subject_standing(text), refunded_lately(text, text, timestamptz, text[]), leases_held(text, timestamptz);
DROP FUNCTION decision_is_append_only(), approval_request_is_bound(), authz_changed(), console_now();
