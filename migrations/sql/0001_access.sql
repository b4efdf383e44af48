-- Clock, guards, rights and row-level security of the console's tables.

-- The console's clock: the database's, in this transaction. Tests move it for a connection by a setting.
CREATE FUNCTION console_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT transaction_timestamp() + coalesce(nullif(current_setting('countersign.clock_offset', true), '')::interval, '0')
$$;

-- A change of people or grants is a new authorization version. It waits up to two seconds for mutations that hold the shared
-- lock (so they end on the rights they began with), then goes on regardless: a revocation is never starved.
CREATE FUNCTION authz_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    current_version bigint;
BEGIN
    BEGIN
        PERFORM pg_advisory_xact_lock(727001);
    EXCEPTION WHEN lock_not_available THEN
        NULL;
    END;
    UPDATE public.authz_version SET version = version + 1 RETURNING version INTO current_version;
    PERFORM pg_notify('countersign_authz', current_version::text);
    RETURN NULL;
END
$$;

CREATE TRIGGER authz_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON staff
    FOR EACH STATEMENT EXECUTE FUNCTION authz_changed();
CREATE TRIGGER authz_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON staff_grant
    FOR EACH STATEMENT EXECUTE FUNCTION authz_changed();

-- What approvers saw is what runs: DC-1.
CREATE FUNCTION approval_request_is_bound() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.id, NEW.action, NEW.command, NEW.target_type, NEW.target_id, NEW.payload, NEW.payload_hash, NEW.facts, NEW.requester_id, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.action, OLD.command, OLD.target_type, OLD.target_id, OLD.payload, OLD.payload_hash, OLD.facts, OLD.requester_id, OLD.created_at)
       OR (OLD.entity_id IS NOT NULL AND NEW.entity_id IS DISTINCT FROM OLD.entity_id)
    THEN
        RAISE EXCEPTION 'approval request % is bound to its payload', OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER approval_request_is_bound BEFORE UPDATE ON approval_request
    FOR EACH ROW EXECUTE FUNCTION approval_request_is_bound();

-- Decisions are append-only: what was decided, about whom and why never changes; only how it stands today does.
-- approval_request_id may be filled in once, since a proposed decision is written before the request that holds it.
CREATE FUNCTION decision_is_append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    may_change constant text[] := ARRAY['state', 'reversed_by_id', 'approved_by_ids', 'effective_at', 'expires_at', 'strikes', 'approval_request_id'];
BEGIN
    IF to_jsonb(NEW) - may_change IS DISTINCT FROM to_jsonb(OLD) - may_change
       OR (OLD.approval_request_id IS NOT NULL AND NEW.approval_request_id IS DISTINCT FROM OLD.approval_request_id)
    THEN
        RAISE EXCEPTION 'decision % is append-only', OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER decision_is_append_only BEFORE UPDATE ON decision
    FOR EACH ROW EXECUTE FUNCTION decision_is_append_only();

REVOKE ALL ON FUNCTION console_now(), authz_changed(), approval_request_is_bound(), decision_is_append_only() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION console_now() TO cs_app, cs_worker, cs_sealer, cs_audit_reader;

-- Rights. Nobody but the owner changes people, grants, queues and policies, or deletes what happened.
GRANT SELECT ON staff, staff_grant, authz_version, sla_policy, queue TO cs_app, cs_worker;
GRANT SELECT ON alembic_version TO cs_app; -- readiness: is the database at this release's revision
GRANT SELECT, INSERT, UPDATE ON
    subject, order_ledger, case_file, case_skip, report, note, timeline, decision, refund,
    approval_request, approval_vote, approval_execution, alert, outbox, idempotency
TO cs_app, cs_worker;
GRANT DELETE ON case_skip, idempotency TO cs_app, cs_worker;
GRANT SELECT, INSERT ON event TO cs_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON event TO cs_worker;
GRANT SELECT, INSERT, UPDATE ON kernel_refund, kernel_order TO cs_worker;
-- The audit's root fields run in a statement of their own, with the names of the people it mentions.
GRANT SELECT ON authz_version TO cs_audit_reader;
GRANT SELECT (id, handle, display_name, state) ON staff TO cs_audit_reader;
-- The sealer anchors at once while a delivery waits for its record.
GRANT SELECT (id, audit_id, state, created_at, next_attempt_at) ON outbox TO cs_sealer;

-- Row-level security, the second line (DB-1). The caller's cities are set in each transaction; none set, or '' (which
-- Postgres leaves behind after a transaction), shows no row. A row without a city is seen only by who sees every city.
DO $$
DECLARE
    covered constant text[] := ARRAY['subject', 'case_file', 'report', 'note', 'timeline', 'decision', 'order_ledger', 'refund',
                                     'approval_request', 'alert', 'event', 'outbox'];
    sees constant text := $sql$current_setting('countersign.cities', true) = '*'
        OR city_id = ANY (string_to_array(nullif(current_setting('countersign.cities', true), ''), ','))$sql$;
    name text;
BEGIN
    FOREACH name IN ARRAY covered LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        -- The system context: the background child, and the owner for migrations, seeding and foreign keys.
        EXECUTE format('CREATE POLICY system ON %I TO cs_owner, cs_worker USING (true) WITH CHECK (true)', name);
        IF name = 'event' THEN
            -- No personal data in it; the hub asks each subscriber's scope itself.
            EXECUTE format('CREATE POLICY hub ON %I FOR SELECT TO cs_app USING (true)', name);
        ELSE
            EXECUTE format('CREATE POLICY cities_seen ON %I FOR SELECT TO cs_app USING (%s)', name, sees);
            EXECUTE format('CREATE POLICY cities_changed ON %I FOR UPDATE TO cs_app USING (%s) WITH CHECK (%s)', name, sees, sees);
        END IF;
        EXECUTE format('CREATE POLICY cities_added ON %I FOR INSERT TO cs_app WITH CHECK (%s)', name,
                       CASE WHEN name IN ('event', 'outbox') THEN 'true' ELSE sees END);
    END LOOP;
    CREATE POLICY sealer ON outbox FOR SELECT TO cs_sealer USING (true);
END
$$;

-- Questions whose answer must not depend on the asker's cities: whose account somebody is and whether he is protected, what one
-- person refunded one buyer lately, how many leases somebody holds. The owner answers them whole, and tells nothing else of the rows.
CREATE FUNCTION subject_standing(wanted text, OUT staff_id text, OUT protected boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.staff_id, cardinality(s.protected_tags) > 0 FROM public.subject s WHERE s.id = wanted
$$;
CREATE FUNCTION refunded_lately(requester text, buyer text, since timestamptz, unspent text[]) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(sum(r.amount_minor), 0)::bigint FROM public.refund r
    WHERE r.requester_id = requester AND r.buyer_id = buyer AND r.created_at > since AND r.state <> ALL (unspent)
$$;
CREATE FUNCTION leases_held(holder text, at timestamptz) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FROM public.case_file c WHERE c.assignee_id = holder AND c.state = 'CLAIMED' AND c.lease_expires_at > at
$$;
REVOKE ALL ON FUNCTION subject_standing(text), refunded_lately(text, text, timestamptz, text[]), leases_held(text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION subject_standing(text), refunded_lately(text, text, timestamptz, text[]), leases_held(text, timestamptz)
TO cs_app, cs_worker;
