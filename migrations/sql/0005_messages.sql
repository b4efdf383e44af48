-- Templates of messages, what a city speaks, the embedded Help Center, and lanes in the outbox.

-- What a city is called and which language it is written to in. A city without a row is called by its id.
CREATE TABLE city (
    id text PRIMARY KEY,
    name text NOT NULL,
    locale text NOT NULL
);

-- Other systems know a template by name and locale, so these two never change.
CREATE TABLE template (
    id text PRIMARY KEY,
    name text NOT NULL,
    locale text NOT NULL,
    subject text NOT NULL,
    body text NOT NULL,
    variables text[] DEFAULT '{}' NOT NULL,
    disabled boolean DEFAULT false NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT template_name_locale UNIQUE (name, locale)
);

-- Every text there ever was: a message that waits goes out in the version its author saw.
CREATE TABLE template_version (
    template_id text NOT NULL REFERENCES template (id),
    version integer NOT NULL,
    subject text NOT NULL,
    body text NOT NULL,
    saved_by_id text NOT NULL,
    saved_at timestamptz NOT NULL,
    PRIMARY KEY (template_id, version)
);

ALTER TABLE note ADD COLUMN template_id text, ADD COLUMN template_version integer;

-- Calls of one lane leave one after the other, in the order they were queued in. Rows of the release before have none and wait
-- for nobody.
ALTER TABLE outbox ADD COLUMN lane text;
CREATE INDEX outbox_lane ON outbox (port, lane, created_at, id) WHERE state IN ('PENDING', 'RETRYING');

-- Each port is asked for what is due by itself, so another's backlog is not its to read.
DROP INDEX outbox_due;
CREATE INDEX outbox_due ON outbox (port, next_attempt_at, id) WHERE state IN ('PENDING', 'RETRYING');

-- The embedded Help Center: another system that happens to live in the same Postgres.
CREATE TABLE help_message (
    key text PRIMARY KEY,
    template text NOT NULL,
    locale text NOT NULL,
    version integer NOT NULL,
    variables jsonb NOT NULL,
    recipient text NOT NULL,
    external_ref text NOT NULL,
    subject text NOT NULL,
    body text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE help_sim (
    kind text NOT NULL,
    name text NOT NULL,
    sim text NOT NULL,
    calls integer DEFAULT 0 NOT NULL,
    PRIMARY KEY (kind, name),
    CONSTRAINT help_sim_kind CHECK (kind IN ('template', 'recipient'))
);

-- The net under every write (migration 0002).
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['city', 'template', 'template_version'] LOOP
        EXECUTE format('CREATE CONSTRAINT TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON %I DEFERRABLE INITIALLY DEFERRED '
                       'FOR EACH ROW EXECUTE FUNCTION audit.require_record()', name);
    END LOOP;
END
$$;

GRANT SELECT ON city TO cs_app, cs_worker;
GRANT SELECT, INSERT, UPDATE ON template TO cs_app;
GRANT SELECT, INSERT ON template_version TO cs_app;
GRANT SELECT ON template, template_version TO cs_worker;
GRANT SELECT, INSERT, UPDATE ON help_message, help_sim TO cs_worker;
