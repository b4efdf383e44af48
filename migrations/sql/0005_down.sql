-- Takes back 0005: templates and messages are lost, notes keep their text, the outbox its rows.
DROP TABLE help_sim, help_message;
DROP INDEX outbox_lane, outbox_due;
CREATE INDEX outbox_due ON outbox (next_attempt_at) WHERE state IN ('PENDING', 'RETRYING');
ALTER TABLE outbox DROP COLUMN lane;
ALTER TABLE note DROP COLUMN template_id, DROP COLUMN template_version;
DROP TABLE template_version, template, city;
