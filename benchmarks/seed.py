"""The data: cases with subjects and reports, people who ask, and some claimed cases whose leases can be renewed.

Written in the database by ``generate_series``, so that the size costs disk rather than patience. Cases have the shape of
the console's own: three cities of which the people see two, history and open work, reports on each.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

CITIES: Final = ("lisbon", "berlin", "austin")
OPEN_CITIES: Final = CITIES[:2]  # those that the people's grants name
KINDS: Final = ("MODERATION", "ACCOUNT", "VERIFICATION", "APPEAL")
FIRST: Final = datetime(2026, 1, 1, tzinfo=UTC)  # creation of the oldest case; one a minute from there
REPORTS: Final = 4
_LEASES: Final = 1_000

# $1 cases, $2 people, $3 cities, $4 kinds, $5 first creation, $6 leases: literals, since a script takes no parameters.
_SCRIPT: Final = """
INSERT INTO staff (id, handle, display_name, email)
SELECT 'bp_' || n, 'bench-' || n, 'Person Number ' || n, 'bench-' || n || '@staff.example' FROM generate_series(0, {people} - 1) n;
INSERT INTO staff_grant (id, staff_id, role, tier, city_ids, content_categories)
SELECT 'bg_' || n, 'bp_' || n, 'TRUST_SAFETY', 'AGENT', '{{lisbon,berlin}}', '{{SFW,SUGGESTIVE,NSFW}}' FROM generate_series(0, {people} - 1) n;
INSERT INTO sla_policy (id, name, kind, first_response_seconds, resolve_seconds)
SELECT 'bs_' || lower(kind), kind, kind, 28800, 259200 FROM unnest({kinds}) kind;
INSERT INTO queue (id, name, kind, city_ids, content_categories, sla_policy_id)
SELECT 'bq_' || lower(kind) || '_' || city, kind || ' ' || city, kind, ARRAY[city], '{{SFW,SUGGESTIVE,NSFW}}', 'bs_' || lower(kind)
FROM unnest({kinds}) kind, unnest({cities}) city;
INSERT INTO subject (id, kind, city_id, content_category, display_name)
SELECT 'bu_' || n, (ARRAY['STUDIO','USER','LISTING','CREATOR'])[1 + n % 4], ({cities})[1 + n % 3],
       (ARRAY['SFW','SUGGESTIVE','NSFW'])[1 + n / 3 % 3], 'Subject Number ' || n
FROM generate_series(0, {cases} - 1) n;
INSERT INTO case_file (id, kind, state, subject_id, city_id, content_category, queue_id, priority, created_at, first_claimed_at,
  last_claimed_at, resolved_at, assignee_id, lease_token, lease_started_at, lease_expires_at, sla_policy_id,
  first_response_due_at, resolve_due_at, version)
SELECT 'bc_' || n, kind, state, 'bu_' || n, city, (ARRAY['SFW','SUGGESTIVE','NSFW'])[1 + n / 3 % 3],
       'bq_' || lower(kind) || '_' || city, n * 7919 % 480, at, CASE WHEN state <> 'OPEN' THEN at + interval '1 hour' END,
       CASE WHEN state <> 'OPEN' THEN at + interval '1 hour' END, CASE WHEN state = 'RESOLVED' THEN at + interval '2 hours' END,
       CASE WHEN state <> 'OPEN' THEN 'bp_' || n / 3 % {people} END, CASE WHEN state = 'CLAIMED' THEN 'lease-' || n END,
       CASE WHEN state = 'CLAIMED' THEN now() END, CASE WHEN state = 'CLAIMED' THEN now() + interval '6 hours' END,
       'bs_' || lower(kind), at + interval '8 hours', at + interval '3 days', 1
FROM (
  SELECT n, ({kinds})[1 + n / 3 % 4] AS kind, ({cities})[1 + n % 3] AS city, timestamptz '{first}' + n * interval '1 minute' AS at,
         CASE WHEN n % 3 = 0 AND n < 3 * {leases} THEN 'CLAIMED' WHEN n % 2 = 0 THEN 'OPEN' ELSE 'RESOLVED' END AS state
  FROM generate_series(0, {cases} - 1) n
) made;
INSERT INTO report (id, state, subject_id, case_id, city_id, content_category, category, source, external_id, created_at)
SELECT 'br_' || n || '_' || k, 'ATTACHED', 'bu_' || n, 'bc_' || n, c.city_id, c.content_category,
       (ARRAY['SPAM','SCAM_FRAUD','HARASSMENT','IMPERSONATION'])[1 + (n + k) % 4], 'app', n || '-' || k, c.created_at - k * interval '1 minute'
FROM generate_series(0, {cases} - 1) n JOIN case_file c ON c.id = 'bc_' || n, generate_series(1, {reports}) k;
"""


@dataclass(frozen=True)
class Seed:
    """How much there is, and how to name any of it without asking."""

    cases: int
    people: int

    @property
    def people_ids(self) -> list[str]:
        return [f"bp_{n}" for n in range(self.people)]

    @property
    def open_cities(self) -> tuple[str, ...]:
        return OPEN_CITIES

    @property
    def open_queues(self) -> list[str]:
        return [f"bq_{kind.lower()}_{city}" for kind in KINDS for city in OPEN_CITIES]

    @property
    def visible(self) -> list[str]:
        """Some cases of the cities that the people see."""
        step = max(1, self.cases // 3_000)
        return [self.case_id(n) for n in range(0, self.cases, step) if n % len(CITIES) < len(OPEN_CITIES)]

    def moment(self, rng: random.Random) -> str:
        """A time with more than a page of cases before it."""
        minute = rng.randrange(self.cases // 2, self.cases)
        return (FIRST + timedelta(minutes=minute)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def leased(self) -> range:
        """Numbers of the claimed cases; all of them in the first city."""
        return range(0, min(3 * _LEASES, self.cases), 3)

    @staticmethod
    def case_id(n: int) -> str:
        return f"bc_{n}"

    @staticmethod
    def lease(n: int) -> str:
        return f"lease-{n}"

    def holder(self, n: int) -> str:
        return f"bp_{n // 3 % self.people}"

    async def write(self, owner: dict[str, Any], superuser: dict[str, Any]) -> None:
        """Write it as the owner, then leave the tables as a database that runs for long has them: vacuumed and counted."""
        settings = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
        conn: asyncpg.Connection[Any] = await asyncpg.connect(**{**owner, "server_settings": settings})
        try:
            await conn.execute(
                _SCRIPT.format(
                    cases=self.cases,
                    people=self.people,
                    leases=_LEASES,
                    reports=REPORTS,
                    first=FIRST.isoformat(),
                    cities=_array(CITIES),
                    kinds=_array(KINDS),
                ),
                timeout=600,
            )
        finally:
            await conn.close()
        await tidy(superuser, everything=True)


async def tidy(superuser: dict[str, Any], *, everything: bool = False) -> None:
    """Vacuum what the mutation leaves behind, outside the measured time; ``everything`` once, after the seed, with a checkpoint."""
    conn: asyncpg.Connection[Any] = await asyncpg.connect(**superuser)
    try:
        await conn.execute("VACUUM ANALYZE" if everything else "VACUUM case_file", timeout=300)
        if everything:
            await conn.execute("CHECKPOINT", timeout=300)
    finally:
        await conn.close()


def _array(values: tuple[str, ...]) -> str:
    return "ARRAY[" + ",".join(f"'{value}'" for value in values) + "]"
