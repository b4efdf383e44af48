"""The demo's messages: what its cities speak, two templates in their languages, and one message that could not be delivered.

The help center of the demo works, so whoever retries that one sees it delivered.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from countersign.demo_rows import Demo, staff_id
from services.messages import rules, writing

SPOKEN: Final = {"lisbon": ("Lisboa", "pt"), "berlin": ("Berlin", "de"), "austin": ("Austin", "en")}
TEMPLATES: Final = {
    "refund_done": {
        "en": ("Your refund", "{{amount}} {{currency}} for order {{orderId}} are on their way back to you."),
        "de": ("Ihre Erstattung", "{{amount}} {{currency}} für die Bestellung {{orderId}} sind auf dem Weg zu Ihnen."),
        "pt": ("O seu reembolso", "{{amount}} {{currency}} da encomenda {{orderId}} estão a caminho."),
    },
    "info_needed": {
        "en": ("We need to hear from you", "Please tell us more about case {{caseId}}. Your team in {{cityName}}"),
        "de": ("Wir brauchen Ihre Hilfe", "Bitte schreiben Sie uns mehr zum Fall {{caseId}}. Ihr Team in {{cityName}}"),
        "pt": ("Precisamos de si", "Conte-nos mais sobre o caso {{caseId}}. A sua equipa em {{cityName}}"),
    },
}
DEAD_CASE: Final = "case_019"  # in Berlin, and waiting for the user


def template_id(name: str, locale: str) -> str:
    return f"tpl_{name}_{locale}"


def add(demo: Demo) -> None:
    """Add cities, templates and the dead letter with everything that it left."""
    for city, (name, locale) in SPOKEN.items():
        demo.add("city", id=city, name=name, locale=locale)
    for name, texts in TEMPLATES.items():
        for locale, (subject, body) in texts.items():
            _template(demo, name, locale, subject, body, staff_id("support-lead"))
    _dead_letter(demo)


def _template(demo: Demo, name: str, locale: str, subject: str, body: str, author: str) -> None:
    id_ = template_id(name, locale)
    demo.add(
        "template",
        id=id_,
        name=name,
        locale=locale,
        subject=subject,
        body=body,
        variables=list(rules.placeholders(subject, body)),
        disabled=False,
        version=1,
    )
    demo.add(
        "template_version",
        template_id=id_,
        version=1,
        subject=subject,
        body=body,
        saved_by_id=author,
        saved_at=demo.ago(days=90),
    )


def _dead_letter(demo: Demo) -> None:
    case = next(one for one in demo.rows["case_file"] if one["id"] == DEAD_CASE)
    city, locale = SPOKEN[case["city_id"]]
    subject, body = TEMPLATES["info_needed"][locale]
    values = {"caseId": case["id"], "cityName": city}
    author, at = staff_id("ts-agent-berlin"), case["last_claimed_at"] + timedelta(minutes=2)
    note = demo.add(
        "note",
        id="note_019",
        case_id=case["id"],
        city_id=case["city_id"],
        author_id=author,
        body=f"{rules.render(subject, values)}\n\n{rules.render(body, values)}",
        internal=False,
        mention_ids=[],
        created_at=at,
        template_id=template_id("info_needed", locale),
        template_version=1,
    )
    delivery = demo.add(
        "outbox",
        id="dlv_019",
        port=writing.PORT,
        operation=writing.SEND,
        key=note["id"],
        target_type="Note",
        target_id=note["id"],
        city_id=case["city_id"],
        arguments={
            "template": "info_needed",
            "locale": locale,
            "version": 1,
            "variables": values,
            "recipient": case["subject_id"],
        },
        state="DEAD",
        attempts=10,
        last_error_code="UNAVAILABLE",
        created_at=at,
        lane=case["id"],
    )
    failed = at + timedelta(minutes=14)
    for when, who, kind, summary in (
        (at, author, "note_added", "A note was added."),
        (at, author, "message_queued", "A message was queued."),
        (failed, None, "message_failed", "A message could not be delivered."),
    ):
        _told(demo, case, at=when, actor_id=who, kind=kind, summary=summary)
    demo.add(
        "alert",
        id="alt_019",
        kind="DELIVERY_FAILED",
        severity=2,
        city_id=case["city_id"],
        target_type="Delivery",
        target_id=delivery["id"],
        summary="HelpCenter.send was given up after 10 attempts.",
        recipient_ids=sorted(
            staff_id(one) for one in ("admin", "admin-2", "ts-agent-berlin", "ts-lead", "ts-lead-2", "ts-lead-3")
        ),
        created_at=failed,
    )


def _told(demo: Demo, case: dict[str, Any], **entry: Any) -> None:
    demo.add("timeline", target_type="Case", target_id=case["id"], city_id=case["city_id"], **entry)
