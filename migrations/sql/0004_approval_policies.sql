-- Approval policies as data: the shipped base and what people changed, every version kept.

CREATE TABLE approval_policy (
    id text NOT NULL,
    version integer NOT NULL,
    action text NOT NULL,
    condition jsonb,
    seats jsonb NOT NULL,
    approve_within_seconds integer NOT NULL,
    execute_within_seconds integer NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    shipped boolean DEFAULT false NOT NULL,
    current boolean DEFAULT true NOT NULL,
    created_at timestamptz NOT NULL,
    created_by_id text,
    request_id text,
    CONSTRAINT approval_policy_pkey PRIMARY KEY (id, version),
    CONSTRAINT approval_policy_version CHECK (version >= 1),
    CONSTRAINT approval_policy_clocks CHECK (approve_within_seconds > 0 AND execute_within_seconds > 0),
    -- Nobody writes one by himself: a version that no release brought names the execution that made it, and each made one.
    CONSTRAINT approval_policy_made_by CHECK ((request_id IS NULL) = shipped AND (created_by_id IS NULL) = shipped),
    CONSTRAINT approval_policy_created_by_id_fkey FOREIGN KEY (created_by_id) REFERENCES staff (id),
    CONSTRAINT approval_policy_request_id_fkey FOREIGN KEY (request_id) REFERENCES approval_execution (request_id),
    CONSTRAINT approval_policy_execution_once UNIQUE (request_id)
);
CREATE UNIQUE INDEX approval_policy_current ON approval_policy (id) WHERE current;
CREATE INDEX approval_policy_by_action ON approval_policy (action, id) WHERE current;

-- Append-only: a version ends by no longer being the current one, and in no other way.
CREATE FUNCTION approval_policy_is_append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.current AND NOT NEW.current AND to_jsonb(NEW) - 'current' = to_jsonb(OLD) - 'current' THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'approval policy % version % is append-only', OLD.id, OLD.version USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RAISE EXCEPTION 'approval policies are append-only: % is refused', TG_OP USING ERRCODE = 'integrity_constraint_violation';
END
$$;
REVOKE ALL ON FUNCTION approval_policy_is_append_only() FROM PUBLIC;
CREATE TRIGGER approval_policy_is_append_only BEFORE UPDATE OR DELETE ON approval_policy
    FOR EACH ROW EXECUTE FUNCTION approval_policy_is_append_only();
CREATE TRIGGER approval_policy_is_not_emptied BEFORE TRUNCATE ON approval_policy
    FOR EACH STATEMENT EXECUTE FUNCTION approval_policy_is_append_only();

-- Each policy always has a version that is the current one, and one that people made says what was countersigned for this very
-- policy. A process could otherwise put one out of force by a single statement, or write one on the strength of some other request.
CREATE FUNCTION approval_policy_was_approved() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_has_role(current_user, 'cs_owner', 'MEMBER') THEN -- brings the base of a release
        RETURN NULL;
    END IF;
    IF NOT EXISTS (SELECT FROM public.approval_policy p WHERE p.id = NEW.id AND p.current) THEN
        RAISE EXCEPTION 'approval policy % would be left without a current version', NEW.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF TG_OP = 'INSERT' AND NOT EXISTS (
        SELECT FROM public.approval_request r
        WHERE r.id = NEW.request_id AND r.action = 'approvalPolicy.propose' AND r.entity_id = NEW.id AND r.requester_id = NEW.created_by_id
          AND r.state = 'APPROVED' AND r.execution = 'EXECUTED'
          AND r.approvals_needed <= (SELECT count(DISTINCT v.voter_id) FROM public.approval_vote v
                                     WHERE v.request_id = r.id AND v.vote = 'APPROVE' AND v.counts AND v.withdrawn_at IS NULL
                                       AND v.voter_id <> r.requester_id))
    THEN
        RAISE EXCEPTION 'approval policy % version % was not approved', NEW.id, NEW.version USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION approval_policy_was_approved() FROM PUBLIC;
CREATE CONSTRAINT TRIGGER approval_policy_was_approved AFTER INSERT OR UPDATE ON approval_policy DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION approval_policy_was_approved();

-- An execution changes the policies with its request locked, and other voters on that request wait for the lock: they hold the
-- shared lock, so waiting for them is a circle, which ends like a wait that has lasted. A unit waits once, however much it changes.
CREATE OR REPLACE FUNCTION authz_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    current_version bigint;
BEGIN
    IF current_setting('countersign.waited', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
        BEGIN
            PERFORM pg_advisory_xact_lock(727001);
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            NULL;
        END;
        PERFORM set_config('countersign.waited', pg_current_xact_id()::text, true);
    END IF;
    UPDATE public.authz_version SET version = version + 1 RETURNING version INTO current_version;
    PERFORM pg_notify('countersign_authz', current_version::text);
    RETURN NULL;
END
$$;

-- A change is a new authorization version, so no process decides by the policies of before; and it leaves a record.
CREATE TRIGGER authz_changed AFTER INSERT OR UPDATE ON approval_policy
    FOR EACH STATEMENT EXECUTE FUNCTION authz_changed();
CREATE CONSTRAINT TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON approval_policy DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION audit.require_record();

-- A process writes what two people approved and cannot pass it off as shipped.
GRANT SELECT ON approval_policy TO cs_app, cs_worker;
GRANT INSERT (id, version, action, condition, seats, approve_within_seconds, execute_within_seconds, enabled, created_at, created_by_id,
              request_id), UPDATE (current) ON approval_policy TO cs_app;
