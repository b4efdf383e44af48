CREATE OR REPLACE FUNCTION approval_request_is_bound() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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

ALTER TABLE approval_request DROP COLUMN gates, DROP COLUMN contributor_ids;

DROP INDEX approval_to_execute, decision_to_expire;
REVOKE UPDATE (counts, voided_because, withdrawn_at) ON approval_vote FROM cs_app;
GRANT UPDATE ON approval_vote, approval_execution TO cs_app, cs_worker;
