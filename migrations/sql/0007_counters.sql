-- Rates that processes share, and the figures of who decides whose requests.

-- A bucket of tokens as the moment when it will be full again: a row that is full again says nothing and may be deleted.
CREATE TABLE rate_counter (
    name text NOT NULL,
    person_id text NOT NULL,
    full_at timestamptz NOT NULL,
    CONSTRAINT rate_counter_pkey PRIMARY KEY (name, person_id)
);
CREATE INDEX rate_counter_by_time ON rate_counter (full_at);
GRANT SELECT, INSERT, UPDATE ON rate_counter TO cs_app;
GRANT SELECT, DELETE ON rate_counter TO cs_worker;

CREATE INDEX approval_by_requester ON approval_request (requester_id, created_at);
CREATE INDEX alert_pair ON alert (target_id, created_at) WHERE kind = 'APPROVAL_PAIR';

-- The one statement behind approvalMetrics and behind the alert about a pair (DC-8). Whoever calls it sees the requests of his
-- cities; without a pinned search path, so that the planner reads through it. ``decided``: requests of the requester that people
-- approved or rejected; ``agreed``: those of them that this approver approved.
CREATE FUNCTION approval_pairs(since timestamptz, until timestamptz)
RETURNS TABLE (requester_id text, approver_id text, approved bigint, rejected bigint, share double precision, median_seconds integer,
               votes bigint, agreed bigint, decided bigint)
LANGUAGE sql STABLE AS $$
    SELECT r.requester_id, v.voter_id,
           count(*) FILTER (WHERE v.vote = 'APPROVE'), count(*) FILTER (WHERE v.vote = 'REJECT'),
           (count(*) * 1.0 / sum(count(*)) OVER (PARTITION BY r.requester_id))::double precision,
           (percentile_cont(0.5) WITHIN GROUP (ORDER BY date_part('epoch', v.at - r.created_at)))::integer,
           count(*), count(*) FILTER (WHERE v.vote = 'APPROVE' AND r.state IN ('APPROVED', 'REJECTED')),
           (SELECT count(*) FROM public.approval_request d
            WHERE d.requester_id = r.requester_id AND d.created_at >= since AND d.created_at < until AND d.state IN ('APPROVED', 'REJECTED'))
    FROM public.approval_request r JOIN public.approval_vote v ON v.request_id = r.id
    WHERE v.withdrawn_at IS NULL AND v.counts AND r.created_at >= since AND r.created_at < until
    GROUP BY r.requester_id, v.voter_id
$$;

-- Of one requester and all cities, whichever the asker sees: two who help each other may do so anywhere. ``told``: already, since then.
CREATE FUNCTION pairs_of(requester text, since timestamptz, until timestamptz, told_since timestamptz)
RETURNS TABLE (approver_id text, agreed bigint, decided bigint, told boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.approver_id, p.agreed, p.decided,
           EXISTS (SELECT 1 FROM public.alert a WHERE a.kind = 'APPROVAL_PAIR' AND a.target_id = requester || '/' || p.approver_id
                   AND a.created_at > told_since)
    FROM public.approval_pairs(since, until) p WHERE p.requester_id = requester
$$;
REVOKE ALL ON FUNCTION approval_pairs(timestamptz, timestamptz), pairs_of(text, timestamptz, timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION approval_pairs(timestamptz, timestamptz), pairs_of(text, timestamptz, timestamptz, timestamptz) TO cs_app, cs_worker;
