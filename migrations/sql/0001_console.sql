-- Tables and indexes of the console. db/tables.py says what each column means; a test holds the two together.

-- people
CREATE TABLE staff (
    id text PRIMARY KEY,
    handle text NOT NULL UNIQUE,
    display_name text NOT NULL,
    email text NOT NULL,
    state text DEFAULT 'ACTIVE' NOT NULL,
    not_before timestamptz,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT staff_state CHECK (state IN ('INVITED', 'ACTIVE', 'LOCKED', 'OFFBOARDED'))
);

CREATE TABLE staff_grant (
    id text PRIMARY KEY,
    staff_id text NOT NULL REFERENCES staff (id),
    role text NOT NULL,
    tier text NOT NULL,
    city_ids text[] DEFAULT '{}' NOT NULL,
    content_categories text[] DEFAULT '{}' NOT NULL,
    expires_at timestamptz
);
CREATE INDEX staff_grant_staff ON staff_grant (staff_id);

-- One row; the triggers on staff and staff_grant count it up.
CREATE TABLE authz_version (
    one boolean PRIMARY KEY,
    version bigint NOT NULL,
    CONSTRAINT authz_version_one CHECK (one)
);

-- subjects, orders, cases
CREATE TABLE subject (
    id text PRIMARY KEY,
    kind text NOT NULL,
    state text DEFAULT 'ACTIVE' NOT NULL,
    city_id text,
    content_category text DEFAULT 'NSFW' NOT NULL,
    display_name text NOT NULL,
    staff_id text REFERENCES staff (id),
    protected_tags text[] DEFAULT '{}' NOT NULL,
    tags text[] DEFAULT '{}' NOT NULL,
    total_strikes integer DEFAULT 0 NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT subject_city UNIQUE (id, city_id)
);

CREATE TABLE order_ledger (
    order_id text PRIMARY KEY,
    buyer_id text NOT NULL,
    city_id text NOT NULL,
    currency text NOT NULL,
    captured_minor integer NOT NULL,
    succeeded_minor integer DEFAULT 0 NOT NULL,
    reserved_minor integer DEFAULT 0 NOT NULL,
    disputed_minor integer DEFAULT 0 NOT NULL,
    charge_refundable boolean DEFAULT true NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT ledger_parts CHECK (succeeded_minor >= 0 AND reserved_minor >= 0 AND disputed_minor >= 0),
    CONSTRAINT ledger_refundable CHECK (captured_minor - succeeded_minor - reserved_minor - disputed_minor >= 0),
    CONSTRAINT ledger_city UNIQUE (order_id, city_id)
);
CREATE INDEX ledger_by_city ON order_ledger (city_id, order_id);

CREATE TABLE sla_policy (
    id text PRIMARY KEY,
    name text NOT NULL,
    kind text NOT NULL,
    first_response_seconds integer NOT NULL,
    resolve_seconds integer NOT NULL,
    at_risk_percent integer DEFAULT 75 NOT NULL,
    version integer DEFAULT 1 NOT NULL
);

CREATE TABLE queue (
    id text PRIMARY KEY,
    name text NOT NULL,
    kind text NOT NULL,
    city_ids text[] DEFAULT '{}' NOT NULL,
    content_categories text[] DEFAULT '{}' NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    hidden_actions text[] DEFAULT '{}' NOT NULL,
    sla_policy_id text NOT NULL REFERENCES sla_policy (id),
    version integer DEFAULT 1 NOT NULL
);

CREATE TABLE case_file (
    id text PRIMARY KEY,
    kind text NOT NULL,
    state text DEFAULT 'OPEN' NOT NULL,
    subject_id text NOT NULL REFERENCES subject (id),
    city_id text,
    content_category text NOT NULL,
    queue_id text NOT NULL REFERENCES queue (id),
    order_id text REFERENCES order_ledger (order_id),
    priority integer DEFAULT 0 NOT NULL,
    skips integer DEFAULT 0 NOT NULL,
    created_at timestamptz NOT NULL,
    first_claimed_at timestamptz,
    last_claimed_at timestamptz,
    resolved_at timestamptz,
    assignee_id text REFERENCES staff (id),
    lease_token text,
    lease_started_at timestamptz,
    lease_expires_at timestamptz,
    sla_policy_id text NOT NULL REFERENCES sla_policy (id),
    first_response_due_at timestamptz,
    resolve_due_at timestamptz,
    sla_paused_at timestamptz,
    sla_paused_seconds integer DEFAULT 0 NOT NULL,
    approval_request_id text,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT case_subject_city FOREIGN KEY (subject_id, city_id) REFERENCES subject (id, city_id),
    CONSTRAINT case_claimed_has_lease CHECK ((state = 'CLAIMED') = (lease_token IS NOT NULL)),
    CONSTRAINT case_lease_expires CHECK ((lease_token IS NULL) = (lease_expires_at IS NULL))
);
CREATE INDEX case_by_assignee ON case_file (assignee_id, resolve_due_at, id);
CREATE INDEX case_by_created ON case_file (created_at, id);
CREATE INDEX case_by_due ON case_file (queue_id, resolve_due_at, id);
CREATE INDEX case_by_priority ON case_file (queue_id, priority, id);
CREATE INDEX case_by_subject ON case_file (subject_id, id);
CREATE INDEX case_leases ON case_file (lease_expires_at) WHERE lease_token IS NOT NULL;
CREATE UNIQUE INDEX case_open_once ON case_file (subject_id, kind) WHERE state NOT IN ('RESOLVED', 'CLOSED');

CREATE TABLE case_skip (
    case_id text NOT NULL REFERENCES case_file (id),
    staff_id text NOT NULL REFERENCES staff (id),
    until timestamptz NOT NULL,
    PRIMARY KEY (case_id, staff_id)
);

CREATE TABLE report (
    id text PRIMARY KEY,
    state text DEFAULT 'RECEIVED' NOT NULL,
    subject_id text NOT NULL REFERENCES subject (id),
    case_id text REFERENCES case_file (id),
    city_id text,
    content_category text NOT NULL,
    category text NOT NULL,
    source text NOT NULL,
    external_id text NOT NULL,
    reporter_id text,
    reporter_accuracy double precision,
    reporter_muted boolean DEFAULT false NOT NULL,
    automated boolean DEFAULT false NOT NULL,
    detail text,
    public_reply text,
    created_at timestamptz NOT NULL,
    CONSTRAINT report_source_external UNIQUE (source, external_id)
);
CREATE INDEX report_by_case ON report (case_id, created_at, id);
CREATE INDEX report_by_created ON report (created_at, id);

CREATE TABLE note (
    id text PRIMARY KEY,
    case_id text NOT NULL REFERENCES case_file (id),
    city_id text,
    author_id text NOT NULL REFERENCES staff (id),
    body text NOT NULL,
    internal boolean NOT NULL,
    mention_ids text[] DEFAULT '{}' NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX note_by_case ON note (case_id, created_at, id);

CREATE TABLE timeline (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    target_type text NOT NULL,
    target_id text NOT NULL,
    city_id text,
    at timestamptz NOT NULL,
    actor_id text,
    kind text NOT NULL,
    summary text NOT NULL,
    audit_id text
);
CREATE INDEX timeline_by_target ON timeline (target_type, target_id, at, id);

CREATE TABLE decision (
    id text PRIMARY KEY,
    case_id text REFERENCES case_file (id),
    subject_id text NOT NULL REFERENCES subject (id),
    city_id text,
    content_category text NOT NULL,
    kind text NOT NULL,
    family text NOT NULL,
    state text NOT NULL,
    reason_code text NOT NULL,
    reason_note text,
    reason_ticket text,
    decided_by_id text NOT NULL REFERENCES staff (id),
    approved_by_ids text[] DEFAULT '{}' NOT NULL,
    effective_at timestamptz,
    expires_at timestamptz,
    severity integer NOT NULL,
    strikes integer DEFAULT 0 NOT NULL,
    label text,
    statement jsonb,
    reverses_id text REFERENCES decision (id),
    reversed_by_id text REFERENCES decision (id),
    approval_request_id text,
    created_at timestamptz NOT NULL
);
CREATE INDEX decision_by_created ON decision (created_at, id);
CREATE INDEX decision_by_subject ON decision (subject_id, created_at, id);
CREATE UNIQUE INDEX decision_effective_once ON decision (subject_id, family) WHERE state = 'EFFECTIVE';

-- money
CREATE TABLE refund (
    id text PRIMARY KEY,
    order_id text NOT NULL REFERENCES order_ledger (order_id),
    buyer_id text NOT NULL,
    city_id text NOT NULL,
    case_id text REFERENCES case_file (id),
    amount_minor integer NOT NULL,
    currency text NOT NULL,
    state text NOT NULL,
    destination text DEFAULT 'ORIGINAL' NOT NULL,
    reason_code text NOT NULL,
    reason_note text,
    reason_ticket text,
    requester_id text NOT NULL REFERENCES staff (id),
    approved_by_ids text[] DEFAULT '{}' NOT NULL,
    approval_request_id text,
    external_ref text,
    failure_reason text,
    created_at timestamptz NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT refund_positive CHECK (amount_minor > 0),
    CONSTRAINT refund_order_city FOREIGN KEY (order_id, city_id) REFERENCES order_ledger (order_id, city_id)
);
CREATE INDEX refund_by_created ON refund (created_at, id);
CREATE INDEX refund_by_order ON refund (order_id, created_at, id);
CREATE INDEX refund_by_pair ON refund (requester_id, buyer_id, created_at);

-- dual control
CREATE TABLE approval_request (
    id text PRIMARY KEY,
    action text NOT NULL,
    command text NOT NULL,
    target_type text NOT NULL,
    target_id text NOT NULL,
    target_version integer,
    entity_id text,
    city_id text,
    content_category text,
    summary text NOT NULL,
    payload text NOT NULL,
    payload_hash text NOT NULL,
    diff jsonb NOT NULL,
    facts jsonb NOT NULL,
    policy_id text NOT NULL,
    policy_version bigint NOT NULL,
    seats jsonb NOT NULL,
    approvals_needed integer NOT NULL,
    requester_id text NOT NULL REFERENCES staff (id),
    requester_role text NOT NULL,
    requester_tier text NOT NULL,
    subject_staff_id text,
    amount_minor integer,
    window_sum_minor integer,
    currency text,
    reason_code text NOT NULL,
    reason_note text,
    reason_ticket text,
    state text DEFAULT 'PENDING' NOT NULL,
    execution text DEFAULT 'NOT_STARTED' NOT NULL,
    execution_error text,
    invalidated_because text,
    execute_within_seconds integer NOT NULL,
    created_at timestamptz NOT NULL,
    approve_by timestamptz NOT NULL,
    execute_by timestamptz,
    apply_at timestamptz,
    closed_at timestamptz,
    executed_at timestamptz,
    expiring_alerted boolean DEFAULT false NOT NULL,
    version integer DEFAULT 1 NOT NULL
);
CREATE INDEX approval_by_created ON approval_request (created_at, id);
CREATE INDEX approval_by_due ON approval_request (approve_by, id);
CREATE INDEX approval_pending ON approval_request (state, approve_by);

CREATE TABLE approval_vote (
    id text PRIMARY KEY,
    request_id text NOT NULL REFERENCES approval_request (id),
    voter_id text NOT NULL REFERENCES staff (id),
    role text NOT NULL,
    tier text NOT NULL,
    vote text NOT NULL,
    payload_hash text NOT NULL,
    comment text,
    counts boolean DEFAULT true NOT NULL,
    voided_because text,
    at timestamptz NOT NULL,
    withdrawn_at timestamptz
);
CREATE UNIQUE INDEX vote_once ON approval_vote (request_id, voter_id) WHERE withdrawn_at IS NULL;

CREATE TABLE approval_execution (
    request_id text PRIMARY KEY REFERENCES approval_request (id),
    at timestamptz NOT NULL
);

-- what leaves after the commit
CREATE TABLE alert (
    id text PRIMARY KEY,
    kind text NOT NULL,
    severity integer NOT NULL,
    city_id text,
    target_type text NOT NULL,
    target_id text NOT NULL,
    summary text NOT NULL,
    recipient_ids text[] DEFAULT '{}' NOT NULL,
    created_at timestamptz NOT NULL,
    acknowledged_at timestamptz,
    acknowledged_by_id text
);
CREATE INDEX alert_by_created ON alert (created_at, id);

CREATE TABLE event (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    position bigint UNIQUE,
    topic text NOT NULL,
    city_id text,
    payload jsonb NOT NULL,
    facts jsonb NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX event_unnumbered ON event (id) WHERE position IS NULL;

CREATE TABLE outbox (
    id text PRIMARY KEY,
    port text NOT NULL,
    operation text NOT NULL,
    key text NOT NULL,
    target_type text NOT NULL,
    target_id text NOT NULL,
    city_id text,
    arguments jsonb NOT NULL,
    audit_id uuid,
    state text DEFAULT 'PENDING' NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    last_error_code text,
    created_at timestamptz NOT NULL,
    next_attempt_at timestamptz,
    delivered_at timestamptz,
    CONSTRAINT outbox_key UNIQUE (port, operation, key)
);
CREATE INDEX outbox_by_target ON outbox (target_type, target_id, created_at);
CREATE INDEX outbox_due ON outbox (next_attempt_at) WHERE state IN ('PENDING', 'RETRYING');

CREATE TABLE idempotency (
    caller_id text NOT NULL,
    mutation text NOT NULL,
    key text NOT NULL,
    arguments_hash bytea NOT NULL,
    result jsonb,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (caller_id, mutation, key)
);

-- the embedded Orders & Refund Kernel
CREATE TABLE kernel_refund (
    key text PRIMARY KEY,
    order_id text NOT NULL,
    amount_minor integer NOT NULL,
    currency text NOT NULL,
    state text NOT NULL,
    external_ref text NOT NULL,
    failure_code text,
    created_at timestamptz NOT NULL,
    settles_at timestamptz,
    outcome text NOT NULL,
    notified_at timestamptz
);

CREATE TABLE kernel_order (
    order_id text PRIMARY KEY,
    sim text DEFAULT 'succeed' NOT NULL
);

INSERT INTO authz_version (one, version) VALUES (true, 1);
