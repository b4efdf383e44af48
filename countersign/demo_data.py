"""The demo's rows: the same ids, amounts and states on every machine; only the times follow the day of seeding.

Written as the owner before anyone works with the console. Whatever waits for people (pending approvals) is not made
here but asked for through the console's own pipeline, so that it is as real as what a person would leave.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any, Final

from authz import dual_control, requirements
from countersign import demo_macros, demo_messages
from countersign.demo_rows import Demo, staff_id
from services.cases.rules import FAMILIES

# The order of the README and of `countersign demo`: in Lisbon, large enough for every amount of the tour.
TOUR_ORDER: Final = 1042
# Orders of waiting refund cases in Lisbon that a macro may refund in full: by an agent alone, and with a second person.
MACRO_ORDERS: Final = {1084: 4_900, 1048: 12_000}
SUBJECTS: Final = 200
CASES: Final = 400
DISPUTED: Final = 7  # of every fifty orders, the one in dispute
AUTOMATED_SHARE: Final = 0.2
CITIES: Final = ("lisbon", "berlin", "austin")
CURRENCY: Final = {"lisbon": "EUR", "berlin": "EUR", "austin": "EUR"}
ALL_CATEGORIES: Final = ("SFW", "SUGGESTIVE", "NSFW", "PROHIBITED")
# Role of a handle's first word, and the content categories that its grants name.
ROLES: Final = {
    "support": ("SUPPORT", "Support", ALL_CATEGORIES[:3]),
    "ts": ("TRUST_SAFETY", "Trust & Safety", ALL_CATEGORIES),
    "finance": ("FINANCE", "Finance", ALL_CATEGORIES[:3]),
    "content": ("CONTENT_EDITOR", "Content", ALL_CATEGORIES[:2]),
    "cityops": ("CITY_OPS", "City Operations", ALL_CATEGORIES[:3]),
    "admin": ("ADMIN", "Administrator", ALL_CATEGORIES),
    "auditor": ("AUDITOR", "Auditor", ALL_CATEGORIES),
}
HANDLES: Final = (
    "support-agent",
    "support-senior",
    "support-lead",
    "ts-agent",
    "ts-senior",
    "ts-lead",
    "ts-lead-2",
    "ts-lead-3",
    "finance-agent",
    "finance-senior",
    "finance-lead",
    "finance-lead-2",
    "content-agent",
    "content-lead",
    "cityops-agent",
    "cityops-lead",
    "cityops-lead-2",
    "admin",
    "admin-2",
    "auditor",
    "support-agent-berlin",
    "ts-agent-berlin",
    "finance-senior-berlin",
)
QUEUE_KINDS: Final = ("MODERATION", "REFUND", "ACCOUNT", "VERIFICATION", "CITY")
SLA_SECONDS: Final = {
    "MODERATION": (8 * 3600, 72 * 3600),
    "REFUND": (4 * 3600, 48 * 3600),
    "ACCOUNT": (8 * 3600, 72 * 3600),
    "VERIFICATION": (8 * 3600, 72 * 3600),
    "CITY": (24 * 3600, 14 * 86400),
}
SUBJECT_KINDS: Final = ("STUDIO", "USER", "LISTING", "CREATOR", "PROFILE", "REVIEW")
REPORT_CATEGORIES: Final = (
    "SPAM",
    "SCAM_FRAUD",
    "IMPERSONATION",
    "HARASSMENT",
    "MISLEADING_LISTING",
    "UNLABELED_ADULT",
)
REFUND_REASONS: Final = ("SERVICE_NOT_PROVIDED", "DUPLICATE", "QUALITY_ISSUE", "CANCELED_BY_STUDIO", "PRICE_ERROR")


def build(now: datetime) -> Demo:
    """Make the whole demo as of ``now``; the same seed gives the same rows but for their times."""
    demo = Demo(now)
    rng = random.Random(20261124)  # noqa: S311 - demo data, the same everywhere
    _people(demo)
    _queues(demo)
    subjects = _subjects(demo, rng)
    ledgers = _orders(demo, rng)
    _cases(demo, rng, subjects)
    _refunds(demo, rng, ledgers)
    demo_messages.add(demo)
    demo_macros.add(demo)
    return demo


def display_name(handle: str) -> str:
    """What the directory calls the holder of a demo handle: his job, never a person's name."""
    area, *rest = handle.split("-")
    title = ROLES[area][1] if area in ("admin", "auditor") else f"{ROLES[area][1]} {_tier(handle).capitalize()}"
    number = next((part for part in rest if part.isdigit()), None)
    return " ".join(filter(None, (title, number, "(Berlin)" if "berlin" in rest else None)))


def _tier(handle: str) -> str:
    return next((tier for tier in ("AGENT", "SENIOR", "LEAD") if tier.lower() in handle.split("-")), "LEAD")


def _people(demo: Demo) -> None:
    for handle in HANDLES:
        role, _, categories = ROLES[handle.partition("-")[0]]
        demo.add(
            "staff",
            id=staff_id(handle),
            handle=handle,
            display_name=display_name(handle),
            email=f"{handle}@staff.example",
            state="ACTIVE",
            version=1,
        )
        demo.add(
            "staff_grant",
            id=f"gr_{handle.replace('-', '_')}",
            staff_id=staff_id(handle),
            role=role,
            tier=_tier(handle),
            city_ids=["berlin"] if handle.endswith("-berlin") else ["*"],
            content_categories=list(categories),
        )


def _queues(demo: Demo) -> None:
    for kind in QUEUE_KINDS:
        first, resolve = SLA_SECONDS[kind]
        demo.add(
            "sla_policy",
            id=f"sla_{kind.lower()}",
            name=f"{kind.capitalize()} default",
            kind=kind,
            first_response_seconds=first,
            resolve_seconds=resolve,
            at_risk_percent=75,
            version=1,
        )
        for city in CITIES:
            categories = ["SFW"] if kind == "CITY" else list(ALL_CATEGORIES[:3])
            demo.add(
                "queue",
                id=f"q_{kind.lower()}_{city}",
                name=f"{kind.capitalize()} {city.capitalize()}",
                kind=kind,
                city_ids=[city],
                content_categories=categories,
                enabled=True,
                hidden_actions=[],
                sla_policy_id=f"sla_{kind.lower()}",
                version=1,
            )


def _subjects(demo: Demo, rng: random.Random) -> list[dict[str, Any]]:
    subjects = []
    for n in range(1, SUBJECTS + 1):
        kind = SUBJECT_KINDS[n % len(SUBJECT_KINDS)]
        protected = ["HIGH_PROFILE"] if n % 40 == 0 else ["LEGAL_HOLD"] if n % 67 == 0 else []
        subjects.append(
            demo.add(
                "subject",
                id=f"sub_{n:03d}",
                kind=kind,
                state="ACTIVE",
                city_id=CITIES[n % 3],
                content_category=rng.choices(("SFW", "SUGGESTIVE", "NSFW"), (6, 3, 1))[0],
                display_name=f"{kind.capitalize()} Number {n:03d}",
                staff_id=staff_id("ts-agent") if n == SUBJECTS - 1 else None,
                protected_tags=protected,
                tags=[],
                total_strikes=0,
                version=1,
            )
        )
    return subjects


def _orders(demo: Demo, rng: random.Random) -> list[dict[str, Any]]:
    ledgers = []
    for n in range(1001, 1301):
        city = CITIES[(n + 2) % 3]
        captured = 90_000 if n == TOUR_ORDER else rng.randrange(2_000, 400_000, 50)
        captured = MACRO_ORDERS.get(n, captured)
        ledgers.append(
            demo.add(
                "order_ledger",
                order_id=f"o_{n}",
                buyer_id=f"buyer_{n % 90:03d}",
                city_id=city,
                currency=CURRENCY[city],
                captured_minor=captured,
                succeeded_minor=0,
                reserved_minor=0,
                disputed_minor=captured // 4 if n % 50 == DISPUTED else 0,
                charge_refundable=n % 50 != DISPUTED,
                version=1,
            )
        )
        sim = {1: "fail:declined", 2: "pending:20", 3: "requires_action"}.get(
            n % 25 if n != TOUR_ORDER else 0, "succeed"
        )
        demo.add("kernel_order", order_id=f"o_{n}", sim=sim)
    return ledgers


def _cases(demo: Demo, rng: random.Random, subjects: list[dict[str, Any]]) -> None:
    # Terminal states first in number: a back office's history is longer than its queue.
    states = ["OPEN"] * 12 + ["RESOLVED"] * 4 + ["CLOSED"] * 2 + ["ESCALATED", "PENDING_INFO"]
    deciders = [staff_id("ts-agent"), staff_id("ts-senior"), staff_id("content-agent")]
    for n in range(1, CASES + 1):
        subject = subjects[(n - 1) % SUBJECTS]
        kind = "MODERATION" if n <= SUBJECTS else QUEUE_KINDS[1 + n % 4]
        if kind == "CITY":
            subject = {**subject, "content_category": "SFW"}
        state = states[n % len(states)]
        created = demo.ago(
            minutes=rng.randrange(20, 4000)
            if state in ("OPEN", "ESCALATED", "PENDING_INFO")
            else rng.randrange(5000, 40000)
        )
        first, resolve = SLA_SECONDS[kind]
        worked = state in ("RESOLVED", "CLOSED")
        claimed = created + timedelta(minutes=rng.randrange(5, 300)) if state != "OPEN" else None
        resolved = claimed + timedelta(minutes=rng.randrange(3, 90)) if worked and claimed else None
        case = demo.add(
            "case_file",
            id=f"case_{n:03d}",
            kind=kind,
            state=state,
            subject_id=subject["id"],
            city_id=subject["city_id"],
            content_category=subject["content_category"],
            queue_id=f"q_{kind.lower()}_{subject['city_id']}",
            order_id=f"o_{1000 + n - SUBJECTS}" if kind == "REFUND" else None,
            priority=rng.randrange(0, 480),
            skips=0,
            created_at=created,
            first_claimed_at=claimed,
            last_claimed_at=claimed,
            resolved_at=resolved,
            assignee_id=rng.choice(deciders) if worked else None,
            sla_policy_id=f"sla_{kind.lower()}",
            first_response_due_at=created + timedelta(seconds=first),
            resolve_due_at=created + timedelta(seconds=resolve),
            sla_paused_at=claimed if state == "PENDING_INFO" else None,
            sla_paused_seconds=0,
            version=1 + (3 if worked else 0),
        )
        demo.add(
            "timeline",
            target_type="Case",
            target_id=case["id"],
            city_id=case["city_id"],
            at=created,
            actor_id=None,
            kind="opened",
            summary="The case was opened.",
        )
        if kind == "MODERATION":
            _reports(demo, rng, case)
            if worked:
                _decision(demo, rng, case, resolved or created)


def _reports(demo: Demo, rng: random.Random, case: dict[str, Any]) -> None:
    state = "ATTACHED" if case["state"] not in ("RESOLVED", "CLOSED") else "ACTIONED"
    for k in range(1 + rng.randrange(4)):
        automated = rng.random() < AUTOMATED_SHARE
        demo.add(
            "report",
            id=f"rep_{case['id'][5:]}_{k}",
            state=state,
            subject_id=case["subject_id"],
            case_id=case["id"],
            city_id=case["city_id"],
            content_category=case["content_category"],
            category=rng.choice(REPORT_CATEGORIES),
            source="app",
            external_id=f"{case['id']}-{k}",
            reporter_id=None if automated else f"user_{rng.randrange(900):03d}",
            reporter_accuracy=None if automated else rng.randrange(1, 11) / 10,
            reporter_muted=False,
            automated=automated,
            detail="Asked me to pay outside the app; wrote to me at buyer@mail.example and +351 21 000 00 00."
            if k == 0
            else None,
            created_at=case["created_at"] - timedelta(minutes=k),
        )


def _decision(demo: Demo, rng: random.Random, case: dict[str, Any], at: datetime) -> None:
    kind, severity, strikes = rng.choice((("NO_ACTION", 0, 0), ("WARN", 1, 1), ("REMOVE_CONTENT", 2, 2)))
    statement = None
    if kind == "REMOVE_CONTENT":
        statement = {
            "ground": "INCOMPATIBLE_CONTENT",
            "groundReference": "Community rules, section 4",
            "facts": "The listing asks for payment outside the marketplace.",
            "explanation": "Such payments take away the buyer's protection.",
            "restrictions": ["REMOVE_CONTENT"],
            "category": "SCAM_AND_FRAUD",
            "contentType": ["TEXT"],
            "sourceType": "NOTICE",
            "automatedDetection": False,
            "automatedDecision": "NOT_AUTOMATED",
            "territorialScope": ["EU"],
            "applicationDate": at.date().isoformat(),
        }
    demo.add(
        "decision",
        id=f"dec_{case['id'][5:]}",
        case_id=case["id"],
        subject_id=case["subject_id"],
        city_id=case["city_id"],
        content_category=case["content_category"],
        kind=kind,
        family=FAMILIES[kind],
        state="EFFECTIVE",
        reason_code="NO_VIOLATION" if kind == "NO_ACTION" else "OFF_PLATFORM_PAYMENT",
        decided_by_id=case["assignee_id"],
        approved_by_ids=[],
        effective_at=at,
        severity=severity,
        strikes=strikes,
        statement=statement,
        created_at=at,
    )
    subject = next(s for s in demo.rows["subject"] if s["id"] == case["subject_id"])
    subject["total_strikes"] += strikes


def _refunds(demo: Demo, rng: random.Random, ledgers: list[dict[str, Any]]) -> None:
    """Thirty days of refunds; those above their requester's own ceiling went through a second person."""
    requesters = [("support-agent", 5_000), ("support-senior", 10_000), ("finance-agent", 20_000)]
    approvers = ["finance-senior", "finance-lead", "finance-senior", "finance-lead-2", "finance-senior"]
    outcomes = ["SUCCEEDED"] * 7 + ["FAILED", "REJECTED", "EXPIRED", "CANCELED"]
    for n, ledger in enumerate(ledgers):
        if n % 2 or ledger["order_id"] == f"o_{TOUR_ORDER}" or not ledger["charge_refundable"]:
            continue
        handle, alone = requesters[n // 2 % 3]
        amount = min(ledger["captured_minor"] - ledger["disputed_minor"], rng.randrange(500, 45_000, 10))
        created = demo.ago(hours=30 + rng.randrange(24 * 29))
        state = outcomes[n // 2 % len(outcomes)]
        countersigned = amount > alone or state in ("REJECTED", "EXPIRED")
        refund_id = f"rf_{n:03d}"
        approver = approvers[n // 2 % len(approvers)]
        approved = countersigned and state not in ("REJECTED", "EXPIRED", "CANCELED")
        refund = demo.add(
            "refund",
            id=refund_id,
            order_id=ledger["order_id"],
            buyer_id=ledger["buyer_id"],
            city_id=ledger["city_id"],
            amount_minor=amount,
            currency=ledger["currency"],
            state=state,
            destination="ORIGINAL",
            reason_code=REFUND_REASONS[n % len(REFUND_REASONS)],
            requester_id=staff_id(handle),
            approved_by_ids=[staff_id(approver)] if approved else [],
            approval_request_id=f"apr_{n:03d}" if countersigned else None,
            external_ref=f"kr_{refund_id}" if state in ("SUCCEEDED", "FAILED") else None,
            failure_reason="declined" if state == "FAILED" else None,
            created_at=created,
            version=4,
        )
        if state == "SUCCEEDED":
            ledger["succeeded_minor"] += amount
        if state in ("SUCCEEDED", "FAILED"):
            demo.add(
                "kernel_refund",
                key=refund_id,
                order_id=ledger["order_id"],
                amount_minor=amount,
                currency=ledger["currency"],
                state=state,
                external_ref=f"kr_{refund_id}",
                failure_code=refund["failure_reason"],
                created_at=created,
                settles_at=created,
                outcome=state,
                notified_at=created,
            )
        if countersigned:
            _approval(demo, rng, refund, handle, approver)


def _approval(demo: Demo, rng: random.Random, refund: dict[str, Any], handle: str, approver: str) -> None:
    role = ROLES[handle.partition("-")[0]][0]
    tier = handle.split("-")[1].upper()
    request_id, created = refund["approval_request_id"], refund["created_at"]
    facts = {"amountMinor": refund["amount_minor"], "sum24hMinor": refund["amount_minor"]}
    requirement = requirements.required("refund.request", facts, protected=False, book=requirements.shipped())
    if requirement is None:  # what the facts leave open counts against the requester
        raise ValueError("a countersigned refund of the demo needs no approval")
    arguments = {
        "orderId": refund["order_id"],
        "amount": {"amountMinor": refund["amount_minor"], "currency": refund["currency"]},
    }
    canonical, digest = dual_control.payload(
        action="refund.request",
        arguments=arguments,
        target_id=refund["order_id"],
        target_version=1,
        requester_id=refund["requester_id"],
        policy_id=requirement.policy_id,
        policy_version=1,
    )
    state, vote = {
        "REJECTED": ("REJECTED", "REJECT"),
        "EXPIRED": ("EXPIRED", None),
        "CANCELED": ("CANCELED", None),
    }.get(refund["state"], ("APPROVED", "APPROVE"))
    voted = created + timedelta(minutes=rng.randrange(2, 400)) if vote else None
    executed = voted if state == "APPROVED" else None
    demo.add(
        "approval_request",
        id=request_id,
        action="refund.request",
        command="requestRefund",
        target_type="OrderLedger",
        target_id=refund["order_id"],
        target_version=1,
        entity_id=refund["id"],
        city_id=refund["city_id"],
        summary=f"Refund {refund['amount_minor'] / 100:.2f} {refund['currency']} on order {refund['order_id']}",
        payload=canonical,
        payload_hash=digest,
        diff={},
        facts=facts,
        policy_id=requirement.policy_id,
        policy_version=1,
        seats=requirement.to_json(),
        approvals_needed=requirement.approvals,
        requester_id=refund["requester_id"],
        requester_role=role,
        requester_tier=tier,
        amount_minor=refund["amount_minor"],
        window_sum_minor=refund["amount_minor"],
        currency=refund["currency"],
        reason_code=refund["reason_code"],
        state=state,
        execution="EXECUTED" if executed else "NOT_STARTED",
        execute_within_seconds=3600,
        created_at=created,
        approve_by=created + timedelta(hours=24),
        closed_at=voted or created + timedelta(hours=24),
        executed_at=executed,
        expiring_alerted=True,
        version=2,
    )
    demo.add(
        "timeline",
        target_type="ApprovalRequest",
        target_id=request_id,
        city_id=refund["city_id"],
        at=created,
        actor_id=refund["requester_id"],
        kind="requested",
        summary="Asked for a second person.",
    )
    if vote and voted:
        demo.add(
            "approval_vote",
            id=f"vote_{request_id[4:]}",
            request_id=request_id,
            voter_id=staff_id(approver),
            role="FINANCE",
            tier="LEAD" if "lead" in approver else "SENIOR",
            vote=vote,
            payload_hash=digest,
            counts=True,
            at=voted,
        )
        demo.add(
            "timeline",
            target_type="ApprovalRequest",
            target_id=request_id,
            city_id=refund["city_id"],
            at=voted,
            actor_id=staff_id(approver),
            kind=f"vote_{vote.lower()}",
            summary="Voted.",
        )
    if executed:
        demo.add("approval_execution", request_id=request_id, at=executed)
