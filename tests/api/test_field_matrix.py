"""AZ-3: who sees what of every field, executed and compared with the reviewed file beside this one (field_matrix.txt).

A cell that changes shows in the diff; ``pytest --update-golden`` writes the file anew. AZ-4: a plain table written from the
console domain, without the engine, denies exactly what the console denies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from schema.build import console
from tests.api import field_oracle
from tests.api.field_cells import Asking, Cells, Selections
from tests.api.field_stage import HANDLES, PLACES, opened
from tests.conftest import Database

GOLDEN = Path(__file__).with_name("field_matrix.txt")
LEGEND = """\
# Who sees what: one line per field, one column per handle of the demo, one letter per place.
# Places: own city; other city; own city in a category that few hold (PROHIBITED), or about a colleague.
# V value, M masked, D denied, A absent (out of reach, or empty on these objects). A mutation: V would be accepted.
# A case is of the asker's own kind (finance REFUND, city operations CITY, else MODERATION), an approval of his trade.
# Written by: pytest tests/api/test_field_matrix.py --update-golden. A cell that opens needs a line in the changelog.
"""
Matrix = dict[str, dict[str, str]]  # Type.field -> handle -> letters


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def asked(shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Asking]]:
    """Everybody, everywhere: four at a time."""
    selections, turn = Selections(console().core), asyncio.Semaphore(4)
    async with opened(shared_database, tmp_path_factory.mktemp("matrix")) as stage:

        async def ask(handle: str, place: str) -> Asking:
            async with turn:
                return await Asking(stage, selections, handle, place).run()

        yield await asyncio.gather(*(ask(handle, place) for handle in HANDLES for place in PLACES))


def matrix(asked: list[Asking]) -> Matrix:
    cells: list[Cells] = [one.cells for one in asked]
    letters = {handle: cells[3 * n : 3 * n + 3] for n, handle in enumerate(HANDLES)}
    return {
        name: {handle: "".join(place[name] for place in places) for handle, places in letters.items()}
        for name in sorted(Selections(console().core).every())
    }


def rendered(found: Matrix) -> str:
    width = max(map(len, found))
    heads = [" " * width + " " + " ".join(handle.ljust(len(handle)) for handle in HANDLES)]
    lines = [
        f"{name.ljust(width)} " + " ".join(cells[handle].ljust(len(handle)) for handle in HANDLES).rstrip()
        for name, cells in found.items()
    ]
    return "\n".join([LEGEND, *heads, *lines]) + "\n"


def test_every_field_of_the_schema_is_asked() -> None:
    asked = Selections(console().core).every()
    assert len(asked) == len(set(asked))
    assert set(asked) == {f"{of}.{name}" for of, name in console().rules}


@pytest.mark.contract("AZ-3")
async def test_no_cell_is_an_error(asked: list[Asking]) -> None:
    assert [problem for one in asked for problem in one.problems] == []


@pytest.mark.contract("AZ-3")
async def test_the_matrix_is_the_reviewed_one(asked: list[Asking], request: pytest.FixtureRequest) -> None:
    found = rendered(matrix(asked))
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(found, encoding="utf-8")
    kept = GOLDEN.read_text(encoding="utf-8").splitlines()
    changed = [line for line in found.splitlines() if line not in set(kept)]
    gone = [line for line in kept if line not in set(found.splitlines())]
    assert (changed, gone) == ([], [])


@pytest.mark.contract("AZ-4")
async def test_a_plain_table_denies_exactly_what_the_console_denies(asked: list[Asking]) -> None:
    differing = [
        f"{name} {handle} {place}: console {letters[n]}, table {'D' if field_oracle.denied(name, handle, place) else 'not D'}"
        for name, cells in matrix(asked).items()
        for handle, letters in cells.items()
        for n, place in enumerate(PLACES)
        if (letters[n] == "D") != field_oracle.denied(name, handle, place)
    ]
    assert differing == []


@pytest.mark.contract("AZ-3")
async def test_personal_data_is_clear_to_nobody_but_whom_its_row_names(asked: list[Asking]) -> None:
    found = matrix(asked)
    masked = ("Reason.note", "Report.reporterMasked", "Report.detail", "Subject.displayNameMasked")
    assert {letter for name in masked for cells in found[name].values() for letter in cells} <= set("MDA")
    assert {handle for handle, cells in found["StaffMember.email"].items() if "V" in cells} == {"admin", "admin-2"}
