"""What waits for people in the demo: asked for by the demo's people through the console itself, so it is as real as theirs.

Run once by the first start, as a process of its own: the supervisor need not carry the application for it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from authz.dev_issuer import DevIssuer
from countersign.demo_rows import staff_id
from countersign.one_operation import Post, session
from countersign.settings import Settings, load

REFUND: Final = "mutation ($input: RequestRefundInput!) { requestRefund(input: $input) { outcome } }"
CLAIM: Final = """mutation ($queue: ID!) { claimNextCase(queueId: $queue) {
  leaseToken case { id version } } }"""
DECIDE: Final = "mutation ($input: DecideInput!) { decideCase(input: $input) { outcome } }"

# Who asks to refund what; the last one needs two people, one of them a finance lead.
REFUNDS: Final = (
    ("support-agent", "o_1060", 12_000, "SERVICE_NOT_PROVIDED"),
    ("support-senior", "o_1066", 18_000, "CANCELED_BY_STUDIO"),
    ("finance-agent", "o_1070", 24_000, "QUALITY_ISSUE"),
    ("finance-senior", "o_1080", 210_000, "DUPLICATE"),
)
CLAIMS: Final = (("ts-senior", "q_moderation_berlin"), ("content-agent", "q_moderation_austin"))
BANS: Final = (("ts-agent", "q_moderation_austin"), ("ts-senior", "q_moderation_lisbon"))
STATEMENT: Final = {
    "ground": "ILLEGAL_CONTENT",
    "groundReference": "Community rules, section 2",
    "facts": "The account sold the same stay to several people.",
    "explanation": "Fraud of this kind ends an account.",
    "category": "SCAM_AND_FRAUD",
    "contentType": ["TEXT"],
    "automatedDetection": False,
}


async def ask(settings: Settings) -> None:
    """Make all requests. Raises ``RuntimeError`` with the first answer that carries an error."""
    dev = DevIssuer(settings.dev_issuer_dir)
    async with session(settings) as post:
        for handle, order, amount, code in REFUNDS:
            await _say(post, dev.token(staff_id(handle)), REFUND, input={
                "orderId": order, "amount": {"amountMinor": amount, "currency": "EUR"}, "idempotencyKey": f"demo-{order}", "reason": {"code": code},
            })  # fmt: skip
        for handle, queue in CLAIMS:
            await _say(post, dev.token(staff_id(handle)), CLAIM, queue=queue)
        for handle, queue in BANS:
            token = dev.token(staff_id(handle))
            claimed = (await _say(post, token, CLAIM, queue=queue))["claimNextCase"]
            case = claimed["case"]
            await _say(post, token, DECIDE, input={
                "caseId": case["id"], "leaseToken": claimed["leaseToken"], "expectedVersion": case["version"], "idempotencyKey": f"demo-{case['id']}",
                "kind": "BAN", "severity": 4, "reason": {"code": "SCAM_FRAUD"}, "statement": STATEMENT,
            })  # fmt: skip


async def _say(post: Post, token: str, document: str, **variables: Any) -> dict[str, Any]:
    answer = await post(token, {"query": document, "variables": variables})
    if answer.get("errors"):
        raise RuntimeError(f"{document.split('{', 2)[1].partition('(')[0].strip()} {variables}: {answer['errors'][0]}")
    data: dict[str, Any] = answer["data"]
    return data


if __name__ == "__main__":
    try:
        asyncio.run(ask(load()))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
