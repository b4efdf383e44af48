-- Takes back 0004. What was changed at run time is lost; the release before decides by its own file again.
DROP TABLE approval_policy;
DROP FUNCTION approval_policy_is_append_only();
DROP FUNCTION approval_policy_was_approved();

CREATE OR REPLACE FUNCTION authz_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
