"""Commands of messages: saving a template; the help center's answer settles a message.

Locks: the template's row, or for a new one the unique index on name and locale; a message takes its outbox row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from db.unit_of_work import Row, new_id
from schema.errors import ConsoleError
from schema.messages import TemplateInput
from services.command import Act, Command, Result, Target, check_version
from services.deliveries.giving_up import LOCK, About, about, check_open, give_up
from services.messages import rules
from services.telling import publish_case, tell

_LOCK = "SELECT * FROM template WHERE id = $1 FOR UPDATE"
_INSERT = """
INSERT INTO template (id, name, locale, subject, body, variables, disabled) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (name, locale) DO NOTHING RETURNING *
"""
_VERSION = """
INSERT INTO template_version (template_id, version, subject, body, saved_by_id, saved_at) VALUES ($1, $2, $3, $4, $5, $6)
"""


class SaveTemplate(Command[TemplateInput]):
    """Write a template, or a new version of one. Its name and locale are how others know it, so they stay."""

    input_type = TemplateInput

    async def locate(self, act: Act[TemplateInput]) -> Target:
        if act.input.id is None:
            return Target("Template", new_id("tpl"), {}, everywhere=True)
        row = await act.find("Template", act.input.id)
        return Target("Template", row["id"], row, version=row["version"], everywhere=True)

    def validate(self, act: Act[TemplateInput], target: Target) -> None:
        wanted = act.input
        rules.check_template(wanted.name, wanted.locale, wanted.subject, wanted.body)
        if wanted.id is None:
            if wanted.expected_version is not None:
                raise ConsoleError("BAD_REQUEST", "A new template has no version yet.", field="expectedVersion")
            return
        if wanted.expected_version is None:
            raise ConsoleError("BAD_REQUEST", "Say which version you have read.", field="expectedVersion")
        for name in ("name", "locale"):
            if getattr(wanted, name) != target.row[name]:
                raise ConsoleError("BAD_REQUEST", f"A template keeps its {name}; save another one.", field=name)

    async def lock(self, act: Act[TemplateInput], target: Target) -> Target:
        if act.input.id is None:
            return target
        row = await act.row(_LOCK, target.id)
        return replace(target, row=row, version=row["version"])

    def check(self, act: Act[TemplateInput], target: Target) -> None:
        if act.input.id is not None:
            check_version(target.row, act.input.expected_version)

    async def execute(self, act: Act[TemplateInput], target: Target, entity_id: str | None) -> Result:
        row = await (self._insert(act, target.id) if act.input.id is None else self._update(act, target.id))
        await act.uow.execute(
            _VERSION, row["id"], row["version"], row["subject"], row["body"], act.caller.id, act.uow.now
        )
        return Result(refs={"template": row["id"]}, after=row, changed=_changed(target.row, row))

    async def _insert(self, act: Act[TemplateInput], id_: str) -> Row:
        wanted = act.input
        row = await act.uow.fetchrow(
            _INSERT,
            id_,
            wanted.name,
            wanted.locale,
            wanted.subject,
            wanted.body,
            list(rules.placeholders(wanted.subject, wanted.body)),
            wanted.disabled,
        )
        if row is None:
            raise ConsoleError("BAD_REQUEST", "There is a template of this name and locale.", field="name")
        return row

    async def _update(self, act: Act[TemplateInput], id_: str) -> Row:
        wanted = act.input
        changes = {
            "subject": wanted.subject,
            "body": wanted.body,
            "variables": list(rules.placeholders(wanted.subject, wanted.body)),
            "disabled": wanted.disabled,
        }
        return await act.update("template", id_, changes)


def _changed(before: Row, after: Row) -> tuple[str, ...]:
    """The fields of a template that a save changed; those of a new one are all new."""
    names = ("name", "locale", "subject", "body", "variables", "disabled")
    return tuple(name for name in names if name not in before or before[name] != after[name])


@dataclass(frozen=True)
class MessageAnswer:
    """What became of a message: sent, or given up with the last error's code."""

    delivery_id: str
    failure_code: str | None = None


class SettleMessage(Command[MessageAnswer]):
    """Note what became of a message, in the timeline of its case. Said twice, it counts once."""

    input_type = MessageAnswer

    async def locate(self, act: Act[MessageAnswer]) -> Target:
        delivery = await act.find("Delivery", act.input.delivery_id)
        note = await act.find("Note", delivery["target_id"])
        concerned = await about(act, delivery)
        return Target(
            "Note",
            note["id"],
            {**dict(note), "delivery": delivery},
            city_id=note["city_id"],
            subject_id=concerned.subject_id,
        )

    async def lock(self, act: Act[MessageAnswer], target: Target) -> Target:
        return replace(target, row={**target.row, "delivery": await act.row(LOCK, act.input.delivery_id)})

    def check(self, act: Act[MessageAnswer], target: Target) -> None:
        check_open(target.row["delivery"])

    async def execute(self, act: Act[MessageAnswer], target: Target, entity_id: str | None) -> Result:
        delivery, code = target.row["delivery"], act.input.failure_code
        concerned = await about(act, delivery)
        if code is None:
            await _tell(act, concerned, "message_delivered", "A message was delivered.")
        else:
            await give_up(act, delivery, code, concerned, also=[target.row["author_id"]])
            await _tell(act, concerned, "message_failed", "A message could not be delivered.")
        return Result(parents=(target.row["case_id"], delivery["id"]))


async def _tell(act: Act[Any], concerned: About, kind: str, summary: str) -> None:
    case = concerned.case
    if case is not None:
        await tell(act, ("Case", case["id"]), case["city_id"], kind, summary)
        publish_case(act.uow, case, kind)


COMMANDS: Final[Mapping[str, Command[Any]]] = {"saveTemplate": SaveTemplate()}
SYSTEM_COMMANDS: Final[Mapping[str, Command[Any]]] = {"message.settle": SettleMessage()}
