"""AZ-2: the same object shows the same by every path. Generated from the live schema, executed on the real reader.

For each root all paths of up to four hops; whatever object a path reaches, its fields, values, masks and refusals are those
of the object's own ``get`` under the same rights, and no path hides what the ``get`` shows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import pytest_asyncio
from graphql import GraphQLField, GraphQLObjectType, get_named_type, is_required_argument

from authz.caller import Caller
from db.unit_of_work import begin
from resolvers.source_fields import snake
from resolvers.sources import SOURCES
from schema.build import console
from services.command import Result
from tests.api.field_cells import MUTATIONS, Asking, Selections
from tests.api.field_stage import PLACES, FieldStage, opened
from tests.conftest import Database

HOPS = 4
PAGE = 4  # of each list on the way; what a path may hide is asked where the page is not full
# Roles, tiers, cities and categories mixed: everybody's cells are in the field matrix, here the paths are many.
HANDLES = ("support-lead", "ts-lead", "finance-agent", "content-agent", "auditor", "support-agent-berlin")
SHOWN = Any
CORE = console().core


# ---------- the schema as paths ----------
@cache
def is_entity(name: str) -> bool:
    """A type with rows of its own and a policy row that opens them; other objects are parts of one."""
    of = CORE.type_map[name]
    if not isinstance(of, GraphQLObjectType) or name in ("Query", "Mutation", "Subscription", "Viewer"):
        return False
    return any(console().rules[name, one].policy for one in of.fields) and name in SOURCES


@cache
def getter(name: str) -> tuple[str, str] | None:
    """(root field, key argument) of a type's own ``get``."""
    assert CORE.query_type
    field = CORE.query_type.fields.get(f"get{name}")
    keys = [one for one, argument in field.args.items() if is_required_argument(argument)] if field else []
    return (f"get{name}", keys[0]) if field and keys else None


def key_of(name: str) -> str:
    return next(one for one in of_type(name).fields if snake(one) == SOURCES[name].key)


def of_type(name: str) -> GraphQLObjectType:
    found = CORE.type_map[name]
    assert isinstance(found, GraphQLObjectType)
    return found


def asked(field_: GraphQLField) -> str:
    return f"(limit: {PAGE})" if "limit" in field_.args else ""


def parts(name: str, within: tuple[str, ...] = ()) -> str:
    """Everything that an object says of itself, without the objects it leads to and without tokens of pages."""
    text = []
    for one, field_ in of_type(name).fields.items():
        below = get_named_type(field_.type)
        if one == "nextToken" or any(is_required_argument(argument) for argument in field_.args.values()):
            continue
        if not isinstance(below, GraphQLObjectType):
            text.append(one)
        elif not leads_to(below.name) and below.name not in within:
            text.append(f"{one}{asked(field_)} {parts(below.name, (*within, name))}")
    return "{ __typename " + " ".join(text) + " }"


@cache
def leads_to(name: str) -> str | None:
    """The entity that an object is, or is a page of."""
    if is_entity(name):
        return name
    items = of_type(name).fields.get("items")
    inner = get_named_type(items.type).name if items else ""
    return inner if items and isinstance(CORE.type_map[inner], GraphQLObjectType) and is_entity(inner) else None


def hops(name: str) -> Iterator[tuple[str, GraphQLField, str]]:
    """(field, definition, entity) of each way on."""
    for one, field_ in of_type(name).fields.items():
        below = get_named_type(field_.type)
        if isinstance(below, GraphQLObjectType) and (entity := leads_to(below.name)):
            yield one, field_, entity


def tree(name: str, left: int) -> str:
    """An entity with its parts and, as far as there are hops left, all it leads to."""
    on = [
        f"{one}{asked(field_)} {page(get_named_type(field_.type).name, entity, left - 1)}"
        for one, field_, entity in (hops(name) if left > 1 else ())
    ]
    return "{ __parts: __typename " + parts(name)[1:-1] + " ".join(on) + " }"


def page(reached: str, entity: str, left: int) -> str:
    below = tree(entity, left)
    return below if reached == entity else f"{{ items {below} }}"


# ---------- what was seen ----------
Place = tuple[str, str]  # (type, key)


@dataclass
class Seen:
    """What one person saw: of each object by each path, and which objects each edge leads to."""

    shown: dict[Place, dict[str, SHOWN]] = field(default_factory=dict)  # object -> path -> what it says
    edges: dict[tuple[Place, str], set[Place]] = field(default_factory=dict)

    def add(self, place: Place, path: str, said: SHOWN) -> None:
        self.shown.setdefault(place, {})[path] = said

    def walk(self, name: str, value: Any, errors: Any, path: tuple[Any, ...], steps: str) -> Place | None:
        """One object of an answer and all below it."""
        ways = {one: entity for one, _, entity in hops(name)}
        said = {one: part for one, part in value.items() if one not in ways}
        refused = frozenset(
            (".".join(map(str, at[len(path) :])), error["errorType"])
            for at, error in errors.items()
            if at[: len(path)] == path and len(at) > len(path) and at[len(path)] not in ways
        )
        if value.get(key_of(name)) is None:
            return None
        place = (name, str(value[key_of(name)]))
        self.add(place, steps, (said, refused))
        for one, entity in ways.items():
            if one in value and (*path, one) not in errors:
                self.follow((place, one), entity, value[one], errors, (*path, one), f"{steps}.{one}")
        return place

    def follow(
        self, edge: tuple[Place, str], entity: str, value: Any, errors: Any, path: tuple[Any, ...], steps: str
    ) -> None:
        """What an edge leads to: one object, a list, or a page of a list."""
        if isinstance(value, dict) and value.keys() == {"items"}:
            value, path = value["items"], (*path, "items")
        found = self.edges.setdefault(edge, set())
        for position, item in enumerate(value if isinstance(value, list) else [value]):
            if item is not None:
                at = (*path, position) if isinstance(value, list) else path
                place = self.walk(entity, item, errors, at, steps)
                if place:
                    found.add(place)


class Walker:
    """One person on the stage."""

    def __init__(self, stage: FieldStage, handle: str) -> None:
        self.stage, self.handle = stage, handle
        self.caller: Caller = stage.caller(handle)
        self.seen = Seen()
        self._own: dict[Place, SHOWN] = {}

    async def ask(self, text: str, variables: dict[str, Any]) -> tuple[dict[str, Any], dict[tuple[Any, ...], Any]]:
        operation = self.stage.documents.operation(text)
        bound = operation.bind(CORE, variables)
        answer = await self.stage.reader.query(self.caller, self.stage.snapshot, operation, bound)
        return answer.data or {}, {tuple(error["path"] or ()): error for error in answer.errors}

    async def own(self, place: Place) -> SHOWN:
        """What the type's own ``get`` shows of an object; None: it is out of reach, or denied."""
        if place not in self._own:
            root = getter(place[0])
            assert root
            text = f"query($key: ID!) {{ {root[0]}({root[1]}: $key) {tree(place[0], 1)} }}"
            data, errors = await self.ask(text, {"key": place[1]})
            alone = Seen()
            if data.get(root[0]):
                alone.walk(place[0], data[root[0]], errors, (root[0],), "")
            self._own[place] = alone.shown.get(place, {}).get("")
        return self._own[place]

    async def roots(self) -> None:
        """Every root that leads to an entity, about the objects of each place."""
        assert CORE.query_type
        selections = Selections(CORE)
        for where in PLACES:
            asking = Asking(self.stage, selections, self.handle, where)
            for name, field_ in CORE.query_type.fields.items():
                reached = get_named_type(field_.type)
                entity = leads_to(reached.name) if isinstance(reached, GraphQLObjectType) else None
                if entity is None:
                    continue
                given = asking._arguments(name)
                declared = ", ".join(f"${one}: {field_.args[one].type}" for one in given)
                bound = ", ".join(f"{one}: ${one}" for one in given)
                text = f"query{f'({declared})' if declared else ''} {{ {name}{f'({bound})' if bound else ''} {page(reached.name, entity, HOPS)} }}"
                data, errors = await self.ask(text, given)
                if data.get(name) is not None:
                    self.seen.follow((("Query", where), name), entity, data[name], errors, (name,), name)

    async def payloads(self) -> None:
        """Every payload, of the objects of the person's own place, on a unit of work that ends without a commit."""
        assert CORE.mutation_type
        objects, met = self.stage.objects(self.handle, "own"), set[str]()
        for name, field_ in CORE.mutation_type.fields.items():
            payload = get_named_type(field_.type)
            if name not in MUTATIONS or not isinstance(payload, GraphQLObjectType) or payload.name in met:
                continue
            met.add(payload.name)
            ways = [(one, entity) for one, _, entity in hops(payload.name)]
            for one, entity in ways:
                given = MUTATIONS[name](objects)
                declared = ", ".join(f"${arg}: {field_.args[arg].type}" for arg in given)
                bound = ", ".join(f"{arg}: ${arg}" for arg in given)
                text = f"mutation({declared}) {{ {name}({bound}) {{ {one} {tree(entity, HOPS - 1)} }} }}"
                operation = self.stage.documents.operation(text)
                [chosen] = operation.definition.selection_set.selections
                result = Result(refs={one: objects.ids[entity]})
                cities = "*" if self.caller.grants[0].every_city else ",".join(self.caller.grants[0].city_ids)
                async with begin(self.stage.app, self.stage.writer.recorder, cities=cities) as uow:
                    answer = await self.stage.reader.payload(
                        uow, self.caller, self.stage.snapshot, operation, operation.bind(CORE, given), chosen, result,  # type: ignore[arg-type]
                        {"outcome": "EXECUTED", "audit": {}},
                    )  # fmt: skip
                errors = {tuple(error["path"] or ()): error for error in answer.errors}
                value = ((answer.data or {}).get(name) or {}).get(one)
                if value:
                    self.seen.walk(entity, value, errors, (name, one), f"{name}.{one}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def walkers(shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Walker]]:
    async with opened(shared_database, tmp_path_factory.mktemp("paths")) as stage:
        made = [Walker(stage, handle) for handle in HANDLES]
        for one in made:
            await one.roots()
            await one.payloads()
        yield made


def entities() -> set[str]:
    return {name for name in SOURCES if is_entity(name)}


@pytest.mark.contract("AZ-2")
async def test_every_type_with_a_policy_row_is_reached(walkers: list[Walker]) -> None:
    reached = {of for one in walkers for of, _ in one.seen.shown}
    assert reached == entities()
    assert {name for name in entities() if getter(name) is None} == set()
    by = {
        of: {path for one in walkers for (at, _), paths in one.seen.shown.items() if at == of for path in paths}
        for of in reached
    }
    assert sum(map(len, by.values())) > 80
    assert len(by["Subject"]) > 4


@pytest.mark.contract("AZ-2")
async def test_an_object_shows_by_every_path_what_its_own_get_shows(walkers: list[Walker]) -> None:
    differing = []
    for one in walkers:
        for place, paths in one.seen.shown.items():
            own = await one.own(place)
            for path, said in paths.items():
                if said != own:
                    differing.append(f"{one.handle} {place} by {path}: {difference(said, own)}")
    assert differing == []


def difference(said: SHOWN, own: SHOWN) -> str:
    if own is None:
        return "its own get shows nothing"
    fields = [
        f"{name} {said[0].get(name)!r}, own get {value!r}"
        for name, value in own[0].items()
        if said[0].get(name) != value
    ]
    return "; ".join([*fields, *(f"refused {one}" for one in sorted(said[1] ^ own[1]))])


@pytest.mark.contract("AZ-2", "AZ-5")
async def test_no_path_hides_what_an_objects_own_get_shows(walkers: list[Walker]) -> None:
    """What anybody sees at the end of an edge, everybody sees there who sees its start, may follow it, and may see the end."""
    ends: dict[Any, set[Place]] = {}
    for one in walkers:
        for edge, found in one.seen.edges.items():
            ends.setdefault(edge, set()).update(found)
    hidden = []
    for one in walkers:
        for edge, found in one.seen.edges.items():
            if edge[0][0] == "Query":  # each is asked about objects of his own
                continue
            for place in ends[edge] - found if len(found) < PAGE else ():
                if await one.own(place) is not None:
                    hidden.append(f"{one.handle} {edge}: {place} is not shown, its own get shows it")
    assert hidden == []
