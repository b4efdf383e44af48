-- Steps of a request that need approval by themselves: what they need, and what their voters are judged by (DC-1, DC-7);
-- and who wrote what is to be approved, so that they do not also countersign it.
ALTER TABLE approval_request
    ADD COLUMN gates jsonb DEFAULT '[]' NOT NULL,
    ADD COLUMN contributor_ids text[] DEFAULT '{}' NOT NULL;

-- What may change is how it stands today; all that it was asked, judged and will be executed by stays (DC-1).
CREATE OR REPLACE FUNCTION approval_request_is_bound() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    may_change constant text[] := ARRAY['state', 'execution', 'execution_error', 'invalidated_because', 'execute_by', 'apply_at', 'closed_at',
                                        'executed_at', 'expiring_alerted', 'version', 'entity_id'];
BEGIN
    IF to_jsonb(NEW) - may_change IS DISTINCT FROM to_jsonb(OLD) - may_change
       OR (OLD.entity_id IS NOT NULL AND NEW.entity_id IS DISTINCT FROM OLD.entity_id)
    THEN
        RAISE EXCEPTION 'approval request % is bound to its payload', OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

-- Of a vote only whether it stands; of an execution nothing: it is what makes a deed happen once.
REVOKE UPDATE ON approval_vote, approval_execution FROM cs_app, cs_worker;
GRANT UPDATE (counts, voided_because, withdrawn_at) ON approval_vote TO cs_app;

-- What the timers ask each second.
CREATE INDEX approval_to_execute ON approval_request (execute_by) WHERE state = 'APPROVED' AND execution IN ('NOT_STARTED', 'FAILED');
CREATE INDEX decision_to_expire ON decision (expires_at) WHERE state = 'EFFECTIVE';
