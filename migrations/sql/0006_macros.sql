-- Macros: every version kept, at most one in force; and what became of each run.

CREATE TABLE macro (
    id text NOT NULL,
    version integer NOT NULL,
    current boolean NOT NULL,
    state text NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    allowed_roles text[] DEFAULT '{}' NOT NULL,
    case_kinds text[] DEFAULT '{}' NOT NULL,
    parameters jsonb NOT NULL,
    steps jsonb NOT NULL,
    author_id text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT macro_pkey PRIMARY KEY (id, version),
    CONSTRAINT macro_version CHECK (version >= 1),
    CONSTRAINT macro_state CHECK (state IN ('DRAFT', 'PUBLISHED', 'RETIRED')),
    CONSTRAINT macro_steps CHECK (jsonb_array_length(steps) BETWEEN 1 AND 12),
    CONSTRAINT macro_author_id_fkey FOREIGN KEY (author_id) REFERENCES staff (id)
);
CREATE UNIQUE INDEX macro_published_once ON macro (id) WHERE state = 'PUBLISHED';
CREATE UNIQUE INDEX macro_current_once ON macro (id) WHERE current;
CREATE INDEX macro_by_name ON macro (name, id) WHERE current;

-- A row whose case is of another city would be seen by who may not see the case.
CREATE UNIQUE INDEX case_city ON case_file (id, city_id);
ALTER TABLE case_file ADD CONSTRAINT case_city UNIQUE USING INDEX case_city;

CREATE TABLE macro_run (
    id text NOT NULL,
    macro_id text NOT NULL,
    macro_version integer NOT NULL,
    case_id text NOT NULL,
    city_id text,
    plan_hash text NOT NULL,
    bound_hash text NOT NULL,
    state text NOT NULL,
    steps jsonb NOT NULL,
    requester_id text NOT NULL,
    approval_request_id text,
    created_at timestamptz NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT macro_run_pkey PRIMARY KEY (id),
    CONSTRAINT macro_run_state CHECK (state IN ('PENDING_APPROVAL', 'EXECUTED', 'FAILED', 'REJECTED', 'EXPIRED')),
    CONSTRAINT macro_run_macro FOREIGN KEY (macro_id, macro_version) REFERENCES macro (id, version),
    CONSTRAINT macro_run_case FOREIGN KEY (case_id) REFERENCES case_file (id),
    CONSTRAINT macro_run_case_city FOREIGN KEY (case_id, city_id) REFERENCES case_file (id, city_id),
    CONSTRAINT macro_run_requester_id_fkey FOREIGN KEY (requester_id) REFERENCES staff (id)
);
CREATE INDEX macro_run_by_created ON macro_run (created_at, id);
CREATE INDEX macro_run_by_case ON macro_run (case_id, created_at, id);

-- What was saved, and what was planned and approved, never changes; only how it stands today does.
CREATE FUNCTION macro_is_append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    may_change constant text[] := ARRAY['state', 'current'];
BEGIN
    IF to_jsonb(NEW) - may_change IS DISTINCT FROM to_jsonb(OLD) - may_change THEN
        RAISE EXCEPTION 'macro % version % is append-only', OLD.id, OLD.version USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE FUNCTION macro_run_is_append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    may_change constant text[] := ARRAY['state', 'version'];
BEGIN
    IF OLD.state <> 'PENDING_APPROVAL' OR to_jsonb(NEW) - may_change IS DISTINCT FROM to_jsonb(OLD) - may_change THEN
        RAISE EXCEPTION 'macro run % is append-only', OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION macro_is_append_only(), macro_run_is_append_only() FROM PUBLIC;
CREATE TRIGGER macro_is_append_only BEFORE UPDATE ON macro FOR EACH ROW EXECUTE FUNCTION macro_is_append_only();
CREATE TRIGGER macro_run_is_append_only BEFORE UPDATE ON macro_run FOR EACH ROW EXECUTE FUNCTION macro_run_is_append_only();

-- A change leaves a record, as under every domain table.
CREATE CONSTRAINT TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON macro DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION audit.require_record();
CREATE CONSTRAINT TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON macro_run DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION audit.require_record();

GRANT SELECT ON macro, macro_run TO cs_app, cs_worker;
GRANT INSERT, UPDATE (state, current) ON macro TO cs_app;
GRANT INSERT, UPDATE (state, version) ON macro_run TO cs_app;
GRANT UPDATE (state, current) ON macro TO cs_worker; -- a timer that ends a request holds its macro still, and changes none
GRANT UPDATE (state, version) ON macro_run TO cs_worker;

-- Row-level security as on the other tables with a city; a macro belongs to none.
ALTER TABLE macro_run ENABLE ROW LEVEL SECURITY;
ALTER TABLE macro_run FORCE ROW LEVEL SECURITY;
CREATE POLICY system ON macro_run TO cs_owner, cs_worker USING (true) WITH CHECK (true);
DO $$
DECLARE
    sees constant text := $sql$current_setting('countersign.cities', true) = '*'
        OR city_id = ANY (string_to_array(nullif(current_setting('countersign.cities', true), ''), ','))$sql$;
BEGIN
    EXECUTE format('CREATE POLICY cities_seen ON macro_run FOR SELECT TO cs_app USING (%s)', sees);
    EXECUTE format('CREATE POLICY cities_changed ON macro_run FOR UPDATE TO cs_app USING (%s) WITH CHECK (%s)', sees, sees);
    EXECUTE format('CREATE POLICY cities_added ON macro_run FOR INSERT TO cs_app WITH CHECK (%s)', sees);
END
$$;
