-- Takes back 0007: a person's rates begin anew.
DROP FUNCTION pairs_of(text, timestamptz, timestamptz, timestamptz), approval_pairs(timestamptz, timestamptz);
DROP INDEX alert_pair, approval_by_requester;
DROP TABLE rate_counter;
