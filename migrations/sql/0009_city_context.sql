-- The same condition as before, as sub-selects: evaluated once per statement instead of once per row. And while a statement is
-- planned no cities are set, so that the old form was taken to let no row through: lists were sorted whole instead of being
-- read from their index until the page is full.
DO $$
DECLARE
    sees constant text := $sql$(SELECT current_setting('countersign.cities', true)) = '*'
        OR city_id = ANY ((SELECT string_to_array(nullif(current_setting('countersign.cities', true), ''), ','))::text[])$sql$;
    policy record;
BEGIN
    FOR policy IN SELECT policyname, schemaname, tablename FROM pg_policies
                  WHERE schemaname = 'public' AND policyname IN ('cities_seen', 'cities_changed') LOOP
        EXECUTE format('ALTER POLICY %I ON %I.%I USING (%s)', policy.policyname, policy.schemaname, policy.tablename, sees);
        COMMIT;  -- one table after the other, so that nobody waits for one while another is held
    END LOOP;
END
$$;
