-- The audit log (audit-design section 5). Everything in schema audit belongs to cs_audit_owner, which nobody logs in as.

CREATE SCHEMA audit AUTHORIZATION cs_audit_owner;
SET LOCAL ROLE cs_audit_owner;

-- What append writes and the sealer empties: record and queue in one. n gives the order; no secondary index on the hot path.
CREATE TABLE audit.intake (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    db_at timestamptz NOT NULL,
    kid text NOT NULL,
    mac bytea NOT NULL,
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
    body text NOT NULL
);
ALTER TABLE audit.intake ALTER COLUMN body SET STORAGE EXTERNAL;

-- The records, filed by the sealer. id first: time first was ten times slower to seal.
CREATE TABLE audit.record (
    id uuid NOT NULL,
    db_at timestamptz NOT NULL,
    kid text NOT NULL,
    mac bytea NOT NULL,
    w text NOT NULL,
    wn bigint NOT NULL,
    kind text NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    obj_type text,
    obj_id text,
    subject text,
    city text,
    decision text NOT NULL,
    code text,
    policy text,
    approval text,
    request text NOT NULL,
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
    body text NOT NULL,
    PRIMARY KEY (id, db_at)
) PARTITION BY RANGE (db_at);
CREATE INDEX record_by_time ON audit.record (db_at, id);
CREATE INDEX record_by_actor ON audit.record (actor, db_at);
CREATE INDEX record_by_action ON audit.record (action, db_at);
CREATE INDEX record_by_object ON audit.record (obj_id, db_at) WHERE obj_id IS NOT NULL;
CREATE INDEX record_by_subject ON audit.record (subject, db_at) WHERE subject IS NOT NULL;
CREATE INDEX record_by_approval ON audit.record (approval, db_at) WHERE approval IS NOT NULL;
CREATE INDEX record_by_request ON audit.record (request);
CREATE TABLE audit.record_default PARTITION OF audit.record DEFAULT;

-- The place of each record, and the running chain.
CREATE TABLE audit.leaf (
    seq bigint PRIMARY KEY CHECK (seq >= 0),
    id uuid NOT NULL UNIQUE,
    db_at timestamptz NOT NULL,
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
    chain bytea NOT NULL CHECK (octet_length(chain) = 32),
    sealed_at timestamptz NOT NULL
);

-- Full tiles of 256 hashes (C2SP tlog-tiles); the unfinished ones are the head's edge.
CREATE TABLE audit.tile (
    level smallint NOT NULL,
    idx bigint NOT NULL,
    hashes bytea NOT NULL CHECK (octet_length(hashes) = 8192),
    PRIMARY KEY (level, idx)
);

CREATE TABLE audit.head (
    one boolean PRIMARY KEY CHECK (one),
    size bigint NOT NULL,
    root bytea NOT NULL,
    chain bytea,
    edge bytea NOT NULL,
    epoch bigint NOT NULL
);
-- The empty tree. Its chain depends on the log's origin, so the first seal puts it there.
INSERT INTO audit.head VALUES (true, 0, sha256(''), NULL, '', 0);

-- A cache of what is anchored outside; the anchor is the truth.
CREATE TABLE audit.checkpoint (
    size bigint PRIMARY KEY,
    root bytea NOT NULL,
    note text NOT NULL,
    made_at timestamptz NOT NULL,
    anchored_at timestamptz NOT NULL,
    anchor text NOT NULL
);

-- What was in the intake or among the records and is no genuine record, as found.
CREATE TABLE audit.quarantine (
    q bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid,
    found_at timestamptz NOT NULL,
    code text NOT NULL,
    n bigint,
    db_at timestamptz NOT NULL,
    kid text NOT NULL,
    mac bytea NOT NULL,
    leaf bytea NOT NULL,
    body text NOT NULL
);

-- Counters of each writer as sealed so far: numbers below settled that are in holes were accepted and never arrived.
-- A gauge for health; the verifier counts for itself.
CREATE TABLE audit.writer (
    w text PRIMARY KEY,
    settled bigint NOT NULL,
    high bigint NOT NULL,
    holes bigint[] NOT NULL,
    seen_at timestamptz NOT NULL
);

-- One random tag and one wrapped data key per subject. Not append-only: deleting the row is what erases.
CREATE TABLE audit.subject_key (
    lookup bytea PRIMARY KEY,
    tag text NOT NULL UNIQUE,
    wrapped bytea NOT NULL,
    created_at timestamptz NOT NULL
);

-- ---------- functions ----------
-- The only way in. Arrays, because a process commits the records of many readers at once.
CREATE FUNCTION audit.append(kids text[], macs bytea[], leaves bytea[], bodies text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong bigint;
BEGIN
    IF cardinality(kids) NOT BETWEEN 1 AND 1000 OR cardinality(macs) <> cardinality(kids)
       OR cardinality(leaves) <> cardinality(kids) OR cardinality(bodies) <> cardinality(kids) THEN
        RAISE EXCEPTION 'audit.append takes 1 to 1000 records in arrays of one length' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT count(*) INTO wrong FROM unnest(macs, leaves, bodies) AS r (mac, leaf, body)
     WHERE body IS NULL OR octet_length(body) > 32768 OR octet_length(mac) IS DISTINCT FROM 32
        OR leaf IS DISTINCT FROM sha256('\x00'::bytea || convert_to(body, 'UTF8'));
    IF wrong > 0 THEN
        RAISE EXCEPTION 'audit.append refuses % record(s): too long, or the leaf is not that of the body', wrong USING ERRCODE = 'data_exception';
    END IF;
    -- Not for the role to weaken: these settings last until the end of the transaction.
    PERFORM set_config('synchronous_commit', 'on', true), set_config('countersign.appended', pg_current_xact_id()::text, true);
    INSERT INTO audit.intake (db_at, kid, mac, leaf, body)
    SELECT clock_timestamp(), r.kid, r.mac, r.leaf, r.body
      FROM unnest(kids, macs, leaves, bodies) WITH ORDINALITY AS r (kid, mac, leaf, body, place)
     ORDER BY r.place;
END
$$;

-- Tag and wrapped key of each subject, made where there is none; rows are taken in the order given (sorted by the caller).
CREATE FUNCTION audit.subject_keys_for(lookups bytea[], tags text[], wraps bytea[])
RETURNS TABLE (lookup bytea, tag text, wrapped bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO audit.subject_key (lookup, tag, wrapped, created_at)
    SELECT g.l, g.t, g.k, now() FROM unnest(lookups, tags, wraps) WITH ORDINALITY AS g (l, t, k, place)
     WHERE NOT EXISTS (SELECT 1 FROM audit.subject_key s WHERE s.lookup = g.l)
     ORDER BY g.place
    ON CONFLICT DO NOTHING;
    RETURN QUERY SELECT s.lookup, s.tag, s.wrapped FROM audit.subject_key s WHERE s.lookup = ANY (lookups);
END
$$;

-- Whether a record is under a checkpoint that is anchored: effects that nobody can take back wait for it.
CREATE FUNCTION audit.anchored(record uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM audit.leaf l WHERE l.id = record AND l.seq < (SELECT max(c.size) FROM audit.checkpoint c))
$$;

-- What fail-closed looks at: rows that wait for the sealer, and how long the oldest record waits for its anchor.
-- Counting stops at the limit: the exact number of a million does not matter, its cost does.
CREATE FUNCTION audit.backlog(row_limit bigint, OUT waiting bigint, OUT unanchored_seconds double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    oldest timestamptz;
    first_open bigint;
BEGIN
    SELECT coalesce(max(n) - min(n) + 1, 0) INTO waiting FROM audit.intake;
    IF waiting > row_limit THEN  -- numbers of rolled-back appends are in it, so count
        SELECT count(*) INTO waiting FROM (SELECT 1 FROM audit.intake LIMIT row_limit + 1) AS counted;
    END IF;
    SELECT coalesce(max(size), 0) INTO first_open FROM audit.checkpoint;
    oldest := least((SELECT db_at FROM audit.leaf WHERE seq = first_open), (SELECT db_at FROM audit.intake ORDER BY n LIMIT 1));
    unanchored_seconds := coalesce(extract(epoch FROM clock_timestamp() - oldest), 0);
END
$$;

CREATE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'audit.% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;

-- The intake is emptied by the sealer and by nobody else.
CREATE FUNCTION audit.only_the_sealer() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_user <> 'cs_sealer' THEN
        RAISE EXCEPTION 'audit.intake is emptied by the sealer only' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END
$$;

-- Guards of one table. ENABLE ALWAYS: a plain trigger is skipped under session_replication_role = replica.
CREATE FUNCTION audit.guard(target regclass, events text, level text, action text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trigger_name constant text := 'guard_' || lower(replace(events, ' OR ', '_'));
BEGIN
    EXECUTE format('CREATE TRIGGER %I BEFORE %s ON %s FOR EACH %s EXECUTE FUNCTION audit.%I()', trigger_name, events, target, level, action);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', target, trigger_name);
END
$$;

-- Months from this one to three ahead. A parent's TRUNCATE trigger does not fire for TRUNCATE of a partition, so each has its own.
-- A month whose rows are already in the DEFAULT partition stays there; the answer counts rows in DEFAULT, for the alarm.
CREATE FUNCTION audit.ensure_partitions() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
DECLARE
    month timestamptz;
    name text;
    strays bigint;
BEGIN
    PERFORM set_config('countersign.partitioning', 'on', true);
    FOR month IN SELECT generate_series(date_trunc('month', now()), date_trunc('month', now()) + interval '3 months', interval '1 month') LOOP
        name := 'record_' || to_char(month, 'YYYY_MM');
        CONTINUE WHEN to_regclass('audit.' || name) IS NOT NULL;
        CONTINUE WHEN EXISTS (SELECT 1 FROM audit.record_default WHERE db_at >= month AND db_at < month + interval '1 month');
        EXECUTE format('CREATE TABLE audit.%I PARTITION OF audit.record FOR VALUES FROM (%L) TO (%L)', name, month, month + interval '1 month');
        PERFORM audit.guard(('audit.' || name)::regclass, 'TRUNCATE', 'STATEMENT', 'refuse_change');
        EXECUTE format('ALTER TABLE audit.%I ENABLE ALWAYS TRIGGER guard_update_delete', name);
    END LOOP;
    PERFORM set_config('countersign.partitioning', 'off', true);
    SELECT count(*) INTO strays FROM audit.record_default;
    RETURN strays;
END
$$;

SELECT audit.guard('audit.record', 'UPDATE OR DELETE', 'ROW', 'refuse_change'), audit.guard('audit.record', 'TRUNCATE', 'STATEMENT', 'refuse_change'),
       audit.guard('audit.record_default', 'TRUNCATE', 'STATEMENT', 'refuse_change'),
       audit.guard('audit.leaf', 'UPDATE OR DELETE', 'ROW', 'refuse_change'), audit.guard('audit.leaf', 'TRUNCATE', 'STATEMENT', 'refuse_change'),
       audit.guard('audit.tile', 'UPDATE OR DELETE', 'ROW', 'refuse_change'), audit.guard('audit.tile', 'TRUNCATE', 'STATEMENT', 'refuse_change'),
       audit.guard('audit.checkpoint', 'UPDATE OR DELETE', 'ROW', 'refuse_change'),
       audit.guard('audit.checkpoint', 'TRUNCATE', 'STATEMENT', 'refuse_change'),
       audit.guard('audit.quarantine', 'UPDATE OR DELETE', 'ROW', 'refuse_change'),
       audit.guard('audit.quarantine', 'TRUNCATE', 'STATEMENT', 'refuse_change'),
       audit.guard('audit.head', 'INSERT OR DELETE', 'ROW', 'refuse_change'), audit.guard('audit.head', 'TRUNCATE', 'STATEMENT', 'refuse_change'),
       audit.guard('audit.intake', 'UPDATE', 'ROW', 'refuse_change'), audit.guard('audit.intake', 'DELETE', 'ROW', 'only_the_sealer'),
       audit.guard('audit.intake', 'TRUNCATE', 'STATEMENT', 'refuse_change');
ALTER TABLE audit.record_default ENABLE ALWAYS TRIGGER guard_update_delete;
SELECT audit.ensure_partitions();

-- The completeness net: a commit that changed a domain table without an append is refused. It catches a forgotten
-- resolver, not an attacker. Owners seed and migrate without records. Not SECURITY DEFINER: it asks who acts.
CREATE FUNCTION audit.require_record() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('countersign.appended', true) IS DISTINCT FROM pg_current_xact_id()::text
       AND NOT pg_has_role(current_user, 'cs_owner', 'MEMBER') THEN
        RAISE EXCEPTION 'a change of % was about to commit without an audit record', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

-- ---------- the reader's view: one row per sealed record, named as the GraphQL fields ----------
CREATE VIEW audit.entry WITH (security_invoker = true) AS
SELECT r.id, l.seq, (b ->> 'at')::timestamptz AS at, l.sealed_at,
       upper(r.kind) AS kind, r.actor AS actor_id, upper(b #>> '{actor,type}') AS actor_kind, b #>> '{onBehalf,sub}' AS on_behalf_of,
       r.action, b ->> 'field' AS field, b #>> '{operation,name}' AS operation_name,
       r.kind IN ('read', 'subscription', 'export')
           OR (r.kind = 'denied' AND (b ->> 'field' LIKE 'Query.%' OR b ->> 'field' LIKE 'Subscription.%')) AS read,
       r.decision AS verdict, r.code, r.obj_type AS target_type, r.obj_id AS target_id,
       coalesce(b #>> '{object,version,after}', b #>> '{object,version,before}')::integer AS target_version,
       CASE WHEN jsonb_typeof(b #> '{objects,ids}') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(b #> '{objects,ids}')) ELSE '{}' END AS target_ids,
       coalesce((b #>> '{objects,count}')::integer, CASE WHEN r.obj_id IS NULL THEN 0 ELSE 1 END) AS target_count,
       b #>> '{objects,filter}' AS filter_digest, r.city AS city_id, r.subject AS subject_tag,
       b #>> '{reason,code}' AS reason_code, b #>> '{reason,ticket}' AS reason_ticket,
       r.approval AS approval_request_id, b #>> '{approval,step}' AS approval_step, b #>> '{onBehalf,breakGlass}' AS break_glass_id,
       b ->> 'cause' AS cause_id, coalesce((b #>> '{policy,version}')::bigint, 0) AS policy_version, r.policy AS policy_row_id,
       ARRAY(SELECT jsonb_array_elements_text(b #> '{decision,obligations}')) AS obligations,
       r.request AS request_id, b #>> '{request,trace}' AS trace_id, coalesce(b #>> '{operation,arguments}', '') AS args_digest,
       CASE WHEN b -> 'changed' <> '[]' OR b ->> 'before' IS NOT NULL OR b ->> 'after' IS NOT NULL
            THEN jsonb_build_object('before', b -> 'before', 'after', b -> 'after', 'changed', b -> 'changed') END AS diff,
       ARRAY(SELECT jsonb_array_elements_text(b #> '{fields,read}')) AS fields_read,
       ARRAY(SELECT jsonb_array_elements_text(b #> '{fields,masked}')) AS fields_masked,
       CASE WHEN b #>> '{fields,pii,digest}' IS NULL
            THEN ARRAY(SELECT DISTINCT value FROM jsonb_each_text(b #> '{fields,pii}') ORDER BY value) ELSE '{}' END AS pii_classes,
       (b #>> '{result,count}')::integer AS result_count, b #>> '{result,outcome}' AS result_outcome,
       '{}'::text[] AS erased_fields, (b ->> 'truncated')::boolean AS truncated,
       encode(l.leaf, 'hex') AS hash, encode(l.chain, 'hex') AS chain_hash, r.body, r.db_at
  FROM audit.record r
  JOIN audit.leaf l ON l.id = r.id
 CROSS JOIN LATERAL (SELECT r.body::jsonb AS b OFFSET 0) AS parsed;  -- OFFSET 0: parsed once a row

-- ---------- rights ----------
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit FROM PUBLIC;
GRANT USAGE ON SCHEMA audit TO cs_app, cs_worker, cs_sealer, cs_audit_reader, cs_eraser, cs_owner;
GRANT EXECUTE ON FUNCTION audit.append(text[], bytea[], bytea[], text[]), audit.subject_keys_for(bytea[], text[], bytea[])
    TO cs_app, cs_worker, cs_sealer, cs_owner;
GRANT EXECUTE ON FUNCTION audit.backlog(bigint) TO cs_app, cs_worker, cs_sealer, cs_audit_reader, cs_owner;
GRANT EXECUTE ON FUNCTION audit.anchored(uuid) TO cs_worker, cs_sealer, cs_owner;
GRANT EXECUTE ON FUNCTION audit.ensure_partitions() TO cs_sealer;
GRANT EXECUTE ON FUNCTION audit.require_record() TO cs_owner;  -- to make its triggers
GRANT SELECT, DELETE ON audit.intake TO cs_sealer;
GRANT SELECT, INSERT ON audit.record, audit.leaf, audit.tile, audit.checkpoint, audit.quarantine TO cs_sealer;
GRANT SELECT, UPDATE ON audit.head TO cs_sealer;
GRANT SELECT, INSERT, UPDATE ON audit.writer TO cs_sealer;
GRANT SELECT ON audit.intake, audit.record, audit.leaf, audit.tile, audit.head, audit.checkpoint, audit.quarantine, audit.writer, audit.entry
    TO cs_audit_reader;
-- The WHERE of its DELETE needs to read the column it names, and nothing else.
GRANT DELETE, SELECT (lookup, tag) ON audit.subject_key TO cs_eraser;

SET LOCAL ROLE cs_owner;

-- Speed bumps against DROP, DETACH and DISABLE TRIGGER that hold even for a superuser until he drops them. Only a superuser
-- can make them. Not in schema audit: DROP SCHEMA would take the guard along before it could speak.
CREATE FUNCTION public.audit_refuses_ddl() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('countersign.partitioning', true) = 'on' OR current_setting('countersign.migrating', true) = 'on' THEN
        RETURN;
    END IF;
    IF TG_EVENT = 'sql_drop' AND EXISTS (SELECT 1 FROM pg_event_trigger_dropped_objects() d WHERE d.schema_name = 'audit' AND NOT d.is_temporary)
       OR TG_EVENT = 'ddl_command_end' AND EXISTS (SELECT 1 FROM pg_event_trigger_ddl_commands() c WHERE c.schema_name = 'audit') THEN
        RAISE EXCEPTION '% in schema audit is refused', TG_TAG USING ERRCODE = 'insufficient_privilege';
    END IF;
END
$$;

CREATE FUNCTION public.audit_install_event_guards() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN
        RETURN false;
    END IF;
    CREATE EVENT TRIGGER countersign_audit_drop ON sql_drop EXECUTE FUNCTION public.audit_refuses_ddl();
    CREATE EVENT TRIGGER countersign_audit_alter ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.audit_refuses_ddl();
    ALTER EVENT TRIGGER countersign_audit_drop ENABLE ALWAYS;
    ALTER EVENT TRIGGER countersign_audit_alter ENABLE ALWAYS;
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION public.audit_refuses_ddl(), public.audit_install_event_guards() FROM PUBLIC;

-- Event triggers where the migration may make them (never in the embedded mode, where it is no superuser).
DO $$
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN
        SET LOCAL ROLE NONE;
        PERFORM public.audit_install_event_guards();
        SET LOCAL ROLE cs_owner;
    END IF;
END
$$;

-- The net. What only carries records outside (event, outbox), remembers answers (idempotency) or belongs to another
-- system (kernel_*) is not under it.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['staff', 'staff_grant', 'subject', 'sla_policy', 'queue', 'case_file', 'case_skip', 'report', 'note', 'timeline',
                                'decision', 'order_ledger', 'refund', 'approval_request', 'approval_vote', 'approval_execution', 'alert'] LOOP
        EXECUTE format('CREATE CONSTRAINT TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON %I DEFERRABLE INITIALLY DEFERRED '
                       'FOR EACH ROW EXECUTE FUNCTION audit.require_record()', name);
    END LOOP;
END
$$;
