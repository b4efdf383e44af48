"""From votes to the deed: votes judged anew, quorum, execution exactly once, and what becomes of the request.

All in the transaction of whoever brought the last vote (or retried), with the request's row locked. The execution row's
primary key is what makes it happen once, whatever else should fail.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import asyncpg

from authz import approval_states, dual_control
from db.unit_of_work import CERTAIN_ABORTS, Row
from schema.errors import ConsoleError, described
from services.approvals import request as requests
from services.command import Act, Counted

logger: Final = logging.getLogger(__name__)

VOTES: Final = "SELECT * FROM approval_vote WHERE request_id = $1 AND withdrawn_at IS NULL ORDER BY at, id"
_JUDGED = "UPDATE approval_vote SET counts = $2, voided_because = $3 WHERE id = $1"
_EXECUTION = "INSERT INTO approval_execution (request_id, at) VALUES ($1, $2)"
POLICY_CHANGED: Final = "POLICY_CHANGED"


async def judge_votes(act: Act[Any], request: Row) -> list[Counted]:
    """Re-judge every standing vote by the store as it is now; the approvals that count, by the grant they rest on now.

    A voter who lost the right keeps his vote with ``counts`` false; who got it back counts again.
    """
    bound, counting = requests.bound(request), []
    for row in await act.uow.fetch(VOTES, request["id"]):
        ballot = act.snapshot.ballot(row["voter_id"], bound, act.uow.now)
        if (ballot.code is None) != row["counts"] or ballot.code != row["voided_because"]:
            await act.uow.execute(_JUDGED, row["id"], ballot.code is None, ballot.code)
        if ballot.code is None and row["vote"] == "APPROVE":
            counting.append((row, ballot.vote(row["voter_id"])))
    return counting


async def settle(act: Act[Any], request: Row) -> Row:
    """Execute when the votes that count reach the quorum; otherwise leave (or put back to) PENDING.

    A rule that refuses ends the request as INVALIDATED. Something that broke leaves it APPROVED with execution FAILED,
    for ``retryApproval`` within the execute-by clock.
    """
    counting = await judge_votes(act, request)
    if not dual_control.fill(requests.bound(request).requirement, [vote for _, vote in counting]).reached:
        return await _short_of_quorum(act, request)
    if requests.policy_changed(request, act.snapshot):
        await act.stored.refused(act, request, counting, POLICY_CHANGED)
        return await requests.close(act, request, "invalidate", because=POLICY_CHANGED)
    if request["state"] == "PENDING":
        state = approval_states.next_state(request["state"], "quorum", request["execution"])
        due = approval_states.execute_by(act.uow.now, request["execute_within_seconds"])
        request = await requests.save(
            act, request, "approved", "Approved.", state=state, execute_by=due, closed_at=act.uow.now
        )
    return await _execute(act, request, counting)


async def _short_of_quorum(act: Act[Any], request: Row) -> Row:
    if request["state"] == "PENDING":
        return request
    return await requests.save(
        act,
        request,
        "quorum_broken",
        "A vote no longer counts; more are needed.",
        state=approval_states.next_state(request["state"], "breakQuorum", request["execution"]),
        execution=approval_states.next_execution(request["execution"], "reset"),
        execution_error=None,
        execute_by=None,
        closed_at=None,
    )


async def _execute(act: Act[Any], request: Row, counting: list[Counted]) -> Row:
    try:
        async with act.uow.savepoint():
            await act.uow.execute(_EXECUTION, request["id"], act.uow.now)
            await act.stored.execute(act, request, counting)
    except CERTAIN_ABORTS:
        raise  # the whole vote is repeated
    except ConsoleError as error:
        if error.retryable:
            return await _failed(act, request, counting, error.code)
        await act.stored.refused(act, request, counting, error.code)
        return await requests.close(act, request, "invalidate", because=error.code)
    except asyncpg.LockNotAvailableError:  # somebody held what it is about for three seconds: it may be run again
        return await _failed(act, request, counting, "DEPENDENCY_UNAVAILABLE")
    except Exception as error:
        if act.uow.conn.is_closed():
            raise  # nothing can be noted; the vote did not happen either
        logger.error("execution of approval request %s failed: %s", request["id"], described(error))  # noqa: TRY400 - PV-1
        return await _failed(act, request, counting, "INTERNAL")
    return await requests.save(
        act,
        request,
        "executed",
        "Executed.",
        execution=approval_states.next_execution(request["execution"], "execute"),
        execution_error=None,
        executed_at=act.uow.now,
    )


async def _failed(act: Act[Any], request: Row, counting: list[Counted], code: str) -> Row:
    await act.stored.refused(act, request, counting, code)
    execution = approval_states.next_execution(request["execution"], "fail")
    return await requests.save(
        act, request, "execution_failed", "The execution failed.", execution=execution, execution_error=code
    )
