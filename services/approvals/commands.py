"""Commands of dual control: vote, withdraw, cancel, retry, a change of policy; and the timers' expiries and warning.

Lock: the approval request first; executing or abandoning it then takes what the stored command takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from authz import approval_states, dual_control
from authz.approval_states import ApprovalEvent
from authz.dual_control import Ballot
from db.clock import REFUSED_SECONDS
from db.unit_of_work import Row, new_id
from schema.approvals import ApprovalActionInput, VoteInput
from schema.errors import ConsoleError, InvalidTransitionError
from services.approvals import execution, pairs
from services.approvals import request as requests
from services.approvals.policies import SaveApprovalPolicy
from services.command import Act, Command, Result, Target, check_version
from services.telling import raise_alert, tell

_OWN_VOTES = "SELECT * FROM approval_vote WHERE request_id = $1 AND voter_id = $2 ORDER BY at DESC, id DESC"
_VOTE = """
INSERT INTO approval_vote (id, request_id, voter_id, role, tier, vote, payload_hash, comment, at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_WITHDRAW = """
UPDATE approval_vote SET withdrawn_at = $3 WHERE request_id = $1 AND voter_id = $2 AND withdrawn_at IS NULL
"""
_WARNED = "UPDATE approval_request SET expiring_alerted = true WHERE id = $1"
_COMMENT_MAXIMUM: Final = 2_000


@dataclass(frozen=True)
class RequestInput:
    """Arguments of ``withdrawVote`` and of the timers."""

    request_id: str


def _target(row: Row, **facts: Any) -> Target:
    return Target(
        "ApprovalRequest",
        row["id"],
        row,
        city_id=row["city_id"],
        content_category=row["content_category"],
        version=row["version"],
        facts=facts,
    )


async def _find(act: Act[Any], request_id: str, **facts: Any) -> Target:
    return _target(await act.find("ApprovalRequest", request_id), **facts)


async def _locked(act: Act[Any], target: Target) -> Target:
    row = await requests.lock(act, target.id)
    return replace(target, row=row, version=row["version"])


def _result(row: Row, *changed: str) -> Result:
    return Result(refs={"request": row["id"]}, after=row, changed=changed, parents=(row["target_id"],))


def _ballot(act: Act[Any], request: Row) -> Ballot:
    return dual_control.ballot(act.caller.id, act.caller.grants, requests.bound(request), act.snapshot.permits)


class VoteOnApproval(Command[VoteInput]):
    """Approve or reject what one was shown. The quorum's last vote executes; one rejection ends the request."""

    input_type = VoteInput

    async def locate(self, act: Act[VoteInput]) -> Target:
        # Whether he holds the vote row for this request is told by code in ``authorize``; who may not even know of the
        # request was told NOT_FOUND.
        return await _find(act, act.input.request_id, voteRow="HELD")

    def authorize(self, act: Act[VoteInput], target: Target) -> None:
        code = _ballot(act, target.row).code
        if code is not None:
            raise ConsoleError("NOT_ELIGIBLE", ineligibleCode=code)

    def validate(self, act: Act[VoteInput], target: Target) -> None:
        if len(act.input.comment or "") > _COMMENT_MAXIMUM:
            raise ConsoleError(
                "BAD_REQUEST", f"A comment has at most {_COMMENT_MAXIMUM:,} characters.", field="comment"
            )
        if act.input.payload_hash != target.row["payload_hash"]:
            raise ConsoleError("PAYLOAD_MISMATCH", field="payloadHash")

    async def lock(self, act: Act[VoteInput], target: Target) -> Target:
        return await _locked(act, target)

    async def repeated(self, act: Act[VoteInput], target: Target) -> Result | None:
        votes = await act.uow.fetch(_OWN_VOTES, target.id, act.caller.id)
        vote = next((one for one in votes if one["withdrawn_at"] is None), None)
        if vote is None:
            return None
        if vote["vote"] != act.input.vote.value:
            raise ConsoleError("ALREADY_VOTED", vote=vote["vote"])
        return _result(target.row)

    def check(self, act: Act[VoteInput], target: Target) -> None:
        _check_waiting(act, target.row, "vote")

    async def execute(self, act: Act[VoteInput], target: Target, entity_id: str | None) -> Result:
        _check_clocks(act)
        row, vote = target.row, act.input.vote.value
        cast = _ballot(act, row).vote(act.caller.id)
        await act.uow.execute(
            _VOTE,
            new_id("vote"),
            row["id"],
            act.caller.id,
            cast.role,
            cast.tier,
            vote,
            row["payload_hash"],
            act.input.comment,
            act.uow.now,
        )
        if vote == "REJECT":
            await tell(act, ("ApprovalRequest", row["id"]), row["city_id"], "vote_reject", "Voted to reject.")
            row = await requests.close(act, row, "reject")
            await pairs.watch(act, row["requester_id"], row["city_id"])
            return _result(row, "votes", "state")
        row = await requests.save(
            act,
            row,
            "vote_approve",
            "Voted to approve.",
            state=approval_states.next_state(row["state"], "vote", row["execution"]),
        )
        row = await execution.settle(act, row)
        await pairs.watch(act, row["requester_id"], row["city_id"])
        return _result(row, "votes", "state", "execution")


class WithdrawVote(Command[RequestInput]):
    """Take one's vote back while the request waits."""

    input_type = RequestInput

    async def locate(self, act: Act[RequestInput]) -> Target:
        return await _find(act, act.input.request_id, voteRow="HELD")

    async def lock(self, act: Act[RequestInput], target: Target) -> Target:
        return await _locked(act, target)

    async def repeated(self, act: Act[RequestInput], target: Target) -> Result | None:
        votes = await act.uow.fetch(_OWN_VOTES, target.id, act.caller.id)
        if not votes:
            raise ConsoleError("BAD_REQUEST", "You have no vote on this request.", field="requestId")
        return _result(target.row) if votes[0]["withdrawn_at"] is not None else None

    def check(self, act: Act[RequestInput], target: Target) -> None:
        _check_waiting(act, target.row, "withdraw")

    async def execute(self, act: Act[RequestInput], target: Target, entity_id: str | None) -> Result:
        await act.uow.execute(_WITHDRAW, target.id, act.caller.id, act.uow.now)
        state = approval_states.next_state(target.row["state"], "withdraw", target.row["execution"])
        return _result(
            await requests.save(act, target.row, "vote_withdrawn", "Withdrew the vote.", state=state), "votes"
        )


def _check_waiting(act: Act[Any], request: Row, event: ApprovalEvent) -> None:
    approval_states.next_state(request["state"], event, request["execution"])
    if _overdue(act, request) is not None:  # the timer has not come by yet
        raise ConsoleError("APPROVAL_NOT_PENDING", state="EXPIRED", execution=request["execution"])


def _check_clocks(act: Act[Any]) -> None:
    """Refuse to approve where this process and the database disagree on the time: it judges who signed in, and until when (FC-8)."""
    if abs(act.uow.ahead_seconds) > REFUSED_SECONDS:
        raise ConsoleError(
            "DEPENDENCY_UNAVAILABLE",
            f"The server's clock is more than {REFUSED_SECONDS:.0f} s from the database's, so it takes no approvals;"
            " ask an administrator to set the clocks by one source, then try again.",
        )


def _overdue(act: Act[Any], request: Row) -> str | None:
    return approval_states.overdue(
        request["state"],
        request["execution"],
        act.uow.now,
        approve_by=request["approve_by"],
        execute_by=request["execute_by"],
    )


class CancelApproval(Command[ApprovalActionInput]):
    """The requester, or a lead of his team, ends a request that was not executed."""

    input_type = ApprovalActionInput
    event: ClassVar[ApprovalEvent] = "cancel"

    async def locate(self, act: Act[ApprovalActionInput]) -> Target:
        target = await _find(act, act.input.request_id)
        return replace(target, owner_id=target.row["requester_id"])

    async def lock(self, act: Act[ApprovalActionInput], target: Target) -> Target:
        return await _locked(act, target)

    def check(self, act: Act[ApprovalActionInput], target: Target) -> None:
        _check_waiting(act, target.row, self.event)
        check_version(target.row, act.input.expected_version)

    async def execute(self, act: Act[ApprovalActionInput], target: Target, entity_id: str | None) -> Result:
        return _result(await requests.close(act, target.row, "cancel"), "state")


class RetryApproval(CancelApproval):
    """The requester has the approved command run again after something broke, within the execute-by clock."""

    event = "retry"

    def authorize(self, act: Act[ApprovalActionInput], target: Target) -> None:
        if target.row["requester_id"] != act.caller.id:
            raise ConsoleError("Unauthorized", "Only the requester may have it run again.")

    async def execute(self, act: Act[ApprovalActionInput], target: Target, entity_id: str | None) -> Result:
        _check_clocks(act)
        row = await execution.settle(act, target.row)
        await pairs.watch(act, row["requester_id"], row["city_id"])
        return _result(row, "execution", "state")


# ---------- timers ----------
class _Timed(Command[RequestInput]):
    """What the clock does to a request."""

    input_type = RequestInput

    async def locate(self, act: Act[RequestInput]) -> Target:
        return await _find(act, act.input.request_id)

    async def lock(self, act: Act[RequestInput], target: Target) -> Target:
        return await _locked(act, target)


class ExpireApproval(_Timed):
    """One of the two clocks ran out: silence is refusal, and an execution that did not come does not come any more."""

    def check(self, act: Act[RequestInput], target: Target) -> None:
        if _overdue(act, target.row) is None:
            raise InvalidTransitionError("approval request", target.row["state"], "expire")

    async def execute(self, act: Act[RequestInput], target: Target, entity_id: str | None) -> Result:
        row = target.row
        if _overdue(act, row) == "approve":
            return _result(await requests.close(act, row, "expire"), "state")
        after = approval_states.next_execution(row["execution"], "expire")
        row = await requests.save(act, row, "execution_expired", "It was not executed in time.", execution=after)
        await act.stored.abandon(act, row, "EXPIRED")
        return _result(row, "execution")


class WarnExpiring(_Timed):
    """Four fifths of the time are gone: those who may still vote are told, once."""

    def check(self, act: Act[RequestInput], target: Target) -> None:
        row = target.row
        due = approval_states.expiring_at(row["created_at"], row["approve_by"])
        if row["state"] != "PENDING" or row["expiring_alerted"] or act.uow.now < due:
            raise InvalidTransitionError("approval request", row["state"], "be warned of")

    async def execute(self, act: Act[RequestInput], target: Target, entity_id: str | None) -> Result:
        row = target.row
        await act.uow.execute(_WARNED, row["id"])
        voted = {vote["voter_id"] for vote in await act.uow.fetch(execution.VOTES, row["id"])}
        pool = act.snapshot.approvers(requests.bound(row), act.uow.now)
        await raise_alert(
            act.uow,
            "APPROVAL_EXPIRING",
            2,
            city_id=row["city_id"],
            target=("ApprovalRequest", row["id"]),
            summary=row["summary"],
            recipients=[vote.voter_id for vote in pool if vote.voter_id not in voted],
        )
        return Result()


COMMANDS: Final[Mapping[str, Command[Any]]] = {
    "voteOnApproval": VoteOnApproval(),
    "withdrawVote": WithdrawVote(),
    "cancelApproval": CancelApproval(),
    "retryApproval": RetryApproval(),
    "saveApprovalPolicy": SaveApprovalPolicy(),
}
SYSTEM_COMMANDS: Final[Mapping[str, Command[Any]]] = {
    "approval.expire": ExpireApproval(),
    "approval.warn": WarnExpiring(),
}
