"""An alarm of the audit log reaches the people who answer for it."""

from __future__ import annotations

from services.alerts.chain import AlarmInput
from tests import factories
from tests.services.bench import Bench


async def test_administrators_and_auditors_are_told_once_per_cause_and_the_deed_is_recorded(bench: Bench) -> None:
    await factories.staff(bench.conn, "ADMIN", id="st_admin", cities=("*",))
    await factories.staff(bench.conn, "AUDITOR", id="st_auditor", cities=("*",))
    await factories.staff(bench.conn, "SUPPORT", "LEAD", id="st_support")
    assert await bench.pipeline.system("audit.alarm", AlarmInput("FORK", "two heads of one size")) is not None
    assert await bench.pipeline.system("audit.alarm", AlarmInput("FORK", "two heads of one size")) is None
    assert (
        await bench.pipeline.system("audit.alarm", AlarmInput("ROLLBACK", "the log is shorter than its anchor"))
        is not None
    )
    alerts = await bench.alerts("AUDIT_CHAIN")
    assert [(a["severity"], a["target_id"], a["recipient_ids"]) for a in alerts] == [
        (1, "FORK", ["st_admin", "st_auditor"]),
        (1, "ROLLBACK", ["st_admin", "st_auditor"]),
    ]
    records = await bench.records()
    assert [(r["action"], r["object"]["id"]) for r in records] == [("audit.alarm", "FORK"), ("audit.alarm", "ROLLBACK")]
