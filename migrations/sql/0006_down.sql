-- Takes back 0006.
DROP TABLE macro_run, macro;
DROP FUNCTION macro_is_append_only(), macro_run_is_append_only();
ALTER TABLE case_file DROP CONSTRAINT case_city;
