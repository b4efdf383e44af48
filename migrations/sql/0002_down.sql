-- Takes the audit log away with its records; its roles stay, they are the cluster's.
SELECT set_config('countersign.migrating', 'on', true);
DO $$
DECLARE
    name text;
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN
        SET LOCAL ROLE NONE;
        DROP EVENT TRIGGER IF EXISTS countersign_audit_drop;
        DROP EVENT TRIGGER IF EXISTS countersign_audit_alter;
        SET LOCAL ROLE cs_owner;
    END IF;
    FOR name IN SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'audited' AND NOT tgisinternal LOOP
        EXECUTE format('DROP TRIGGER audited ON %s', name);
    END LOOP;
END
$$;
SET LOCAL ROLE cs_audit_owner;
DROP SCHEMA audit CASCADE;
SET LOCAL ROLE cs_owner;
-- CASCADE: event triggers that a superuser installed go with their function.
DROP FUNCTION audit_install_event_guards(), audit_refuses_ddl() CASCADE;
