"""``previewMacro``: the plan of a macro on a case, from a unit of work that never commits.

The read's record is written by who answers the query; nothing else of it is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from db.unit_of_work import CERTAIN_ABORTS
from resolvers.computed import Call, Function
from resolvers.judging import judge
from resolvers.labels import ROW
from resolvers.pipeline import REPEATS, Pipeline, StaleError
from resolvers.reader import StaleSnapshotError
from schema.build import console
from schema.errors import ConsoleError
from schema.inputs import convert
from schema.macros import PreviewMacroInput
from services.command import Act
from services.macros import run
from services.macros.planning import Plan

_FIELD: Final = ("Query", "previewMacro")
# Queries that hold a write's locks while they are answered, and so count as writes where these are counted.
TRIED: Final = frozenset({_FIELD[1]})


def functions(pipeline: Callable[[], Pipeline]) -> Mapping[str, Function]:
    """By root field. ``pipeline`` is asked at each call: it is made after the reader that it finds rows by."""

    async def preview_macro(call: Call) -> dict[str, Any]:
        wanted = convert(PreviewMacroInput, call.arguments["input"])

        async def work(act: Act[Any]) -> Plan:
            target = await run.locate(act, wanted.macro_id, wanted.case_id)
            judge(act, console().rules[_FIELD], target)
            return await run.preview(act, target, wanted)

        plan = (await _undisturbed(pipeline(), call, work)).to_json()
        return {ROW: plan["planHash"], **plan}

    return {"previewMacro": preview_macro}


async def _undisturbed(pipeline: Pipeline, call: Call, work: Callable[[Act[Any]], Any]) -> Plan:
    for _ in range(REPEATS):
        try:
            found: Plan = await pipeline.rehearse(call.caller, call.snapshot, work)
        except StaleError as error:
            raise StaleSnapshotError from error  # the whole query is decided again
        except CERTAIN_ABORTS:
            continue  # certain aborts: whoever runs the same steps came in between
        return found
    raise ConsoleError("DEPENDENCY_UNAVAILABLE", "Too much at once on this case; try again.")
