"""Commands of macros: save a draft, put it into force, take it out of force.

Locks: the name of the macro (an advisory lock, so that two drafts are two versions), then its rows. Whoever runs a macro
holds its row in share mode, after the approval request and before the case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from db.unit_of_work import Row, new_id
from schema.errors import ConsoleError
from schema.macros import MacroActionInput, SaveMacroInput
from services.command import Act, Command, Result, Target, check_version
from services.macros import drafts, planning, rules
from services.macros.run import RunMacro
from services.telling import document

_NAME_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('macro:' || $1, 0))"
_VERSIONS = "SELECT * FROM macro WHERE id = $1 ORDER BY version DESC FOR UPDATE"
_NEWEST = "SELECT * FROM macro WHERE id = $1 ORDER BY version DESC LIMIT 1"
_INSERT = """
INSERT INTO macro (id, version, current, state, name, description, allowed_roles, case_kinds, parameters, steps,
  author_id, created_at)
VALUES ($1, $2, $3, 'DRAFT', $4, $5, $6, $7, $8::jsonb, $9::jsonb, $10, $11) RETURNING *
"""
_STATE = "UPDATE macro SET state = $3 WHERE id = $1 AND version = $2"
_NO_LONGER_CURRENT = "UPDATE macro SET current = false WHERE id = $1 AND current"
_CURRENT = "UPDATE macro SET current = true WHERE id = $1 AND version = $2"
NEW: Final = "new"  # the target of a macro that is not there yet


def _target(row: Row) -> Target:
    """One version as target. It is for every city, so whoever changes it must hold every city."""
    domain = rules.domain(planning.kinds_of(row))
    return Target(
        "Macro",
        row["id"],
        row,
        version=row["version"],
        facts={"macroDomain": domain},
        contributor_ids=(row["author_id"],),
    )


async def _versions(act: Act[Any], macro_id: str) -> Sequence[Row]:
    """Every version under its lock, the newest first."""
    await act.uow.execute(_NAME_LOCK, macro_id)
    return await act.uow.fetch(_VERSIONS, macro_id)


async def _settle_current(act: Act[Any], macro_id: str) -> None:
    """Mark the version that is meant by the macro's name: the published one, else the newest."""
    versions = await act.uow.fetch(_VERSIONS, macro_id)
    meant = next((row for row in versions if row["state"] == "PUBLISHED"), versions[0])
    if not meant["current"]:
        await act.uow.execute(_NO_LONGER_CURRENT, macro_id)  # first: at no moment are there two
        await act.uow.execute(_CURRENT, macro_id, meant["version"])


async def _move(act: Act[Any], row: Row, event: rules.MacroEvent) -> Row:
    """Take one locked version through an event of its state table."""
    after = rules.MACRO.next(row["state"], event)
    await act.uow.execute(_STATE, row["id"], row["version"], after)
    return {**row, "state": after}


def _result(row: Row, *changed: str) -> Result:
    refs = {"macro": row["id"], "macroVersion": str(row["version"])}
    return Result(refs=refs, object=("Macro", row["id"]), after=row, changed=changed)


class SaveMacro(Command[SaveMacroInput]):
    """Write the next draft. What is in force stays in force until the draft is published."""

    input_type = SaveMacroInput

    async def locate(self, act: Act[SaveMacroInput]) -> Target:
        if act.input.id is None:
            return Target("Macro", NEW, {})
        return _target(await act.find("Macro", act.input.id))

    def validate(self, act: Act[SaveMacroInput], target: Target) -> None:
        wanted = act.input
        if wanted.id is None and wanted.expected_version is not None:
            raise ConsoleError("BAD_REQUEST", "A new macro has no version yet.", field="expectedVersion")
        rules.check_words(
            wanted.name,
            wanted.description,
            [role.value for role in wanted.allowed_roles],
            [kind.value for kind in wanted.case_kinds],
        )
        drafts.check(wanted.parameters, _steps(wanted), act.steps.offers)

    async def lock(self, act: Act[SaveMacroInput], target: Target) -> Target:
        if target.id == NEW:
            return target
        newest = (await _versions(act, target.id))[0]
        return _target(newest)

    def check(self, act: Act[SaveMacroInput], target: Target) -> None:
        if target.id != NEW:
            check_version(target.row, act.input.expected_version)

    async def execute(self, act: Act[SaveMacroInput], target: Target, entity_id: str | None) -> Result:
        wanted = act.input
        macro_id, version = (new_id("mac"), 1) if target.id == NEW else (target.id, target.row["version"] + 1)
        row = await act.row(
            _INSERT,
            macro_id,
            version,
            target.id == NEW,
            wanted.name.strip(),
            wanted.description,
            [role.value for role in wanted.allowed_roles],
            [kind.value for kind in wanted.case_kinds],
            orjson.dumps(wanted.parameters).decode(),
            orjson.dumps(_steps(wanted)).decode(),
            act.caller.id,
            act.uow.now,
        )
        await _settle_current(act, macro_id)
        return _result(row, "version", "steps")


def _steps(wanted: SaveMacroInput) -> list[dict[str, Any]]:
    return [
        {"key": step.key, "action": step.action, "argsTemplate": step.args_template, "when": step.when}
        for step in wanted.steps
    ]


class PublishMacro(Command[MacroActionInput]):
    """Put the newest draft into force, once a second person has agreed; the version before it is retired."""

    input_type = MacroActionInput

    async def locate(self, act: Act[MacroActionInput]) -> Target:
        await act.find("Macro", act.input.macro_id)  # NOT_FOUND before anything is said of its versions
        return _target(await act.row(_NEWEST, act.input.macro_id))

    async def lock(self, act: Act[MacroActionInput], target: Target) -> Target:
        return _target((await _versions(act, target.id))[0])

    def check(self, act: Act[MacroActionInput], target: Target) -> None:
        rules.MACRO.next(target.row["state"], "publish")
        bound = act.input.expected_version if act.approval is None else act.approval.target_version
        check_version(target.row, bound)

    async def hold(self, act: Act[MacroActionInput], target: Target, entity_id: str | None, request_id: str) -> Result:
        # Nothing is held: the request is bound to the version, and a newer draft makes it void.
        return _result(target.row)

    async def execute(self, act: Act[MacroActionInput], target: Target, entity_id: str | None) -> Result:
        for row in await _versions(act, target.id):
            if row["state"] == "PUBLISHED":
                await _move(act, row, "retire")  # first: at no moment are two in force
        published = await _move(act, target.row, "publish")
        await _settle_current(act, target.id)
        return _result(published, "state")

    def summary(self, act: Act[MacroActionInput], target: Target) -> str:
        return f"Publish version {target.row['version']} of the macro {target.row['name']}"

    def diff(self, act: Act[MacroActionInput], target: Target) -> Mapping[str, Any]:
        row = target.row
        return {
            "state": {"before": row["state"], "after": rules.MACRO.next(row["state"], "publish")},
            "allowedRoles": list(row["allowed_roles"]),
            "caseKinds": list(row["case_kinds"]),
            "parameters": document(row["parameters"]),
            "steps": document(row["steps"]),
        }


class RetireMacro(Command[MacroActionInput]):
    """Take the published version out of force; nothing takes its place."""

    input_type = MacroActionInput

    async def locate(self, act: Act[MacroActionInput]) -> Target:
        return _target(await act.find("Macro", act.input.macro_id))

    async def lock(self, act: Act[MacroActionInput], target: Target) -> Target:
        return _target(next(row for row in await _versions(act, target.id) if row["current"]))

    def check(self, act: Act[MacroActionInput], target: Target) -> None:
        rules.MACRO.next(target.row["state"], "retire")
        check_version(target.row, act.input.expected_version)

    async def execute(self, act: Act[MacroActionInput], target: Target, entity_id: str | None) -> Result:
        retired = await _move(act, target.row, "retire")
        await _settle_current(act, target.id)
        return _result(retired, "state")


COMMANDS: Final[Mapping[str, Command[Any]]] = {
    "saveMacro": SaveMacro(),
    "publishMacro": PublishMacro(),
    "retireMacro": RetireMacro(),
    "runMacro": RunMacro(),
}
SYSTEM_COMMANDS: Final[Mapping[str, Command[Any]]] = {}
