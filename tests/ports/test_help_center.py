"""What every adapter of ``HelpCenter`` promises. Another adapter joins ``ADAPTERS`` with a world of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol, TypeAlias

import asyncpg
import pytest
import pytest_asyncio

from services.adapters.help_center_embedded import EmbeddedHelpCenter, Plan, plan
from services.ports import HelpCenter, HelpMessage, PortRefusedError, PortUnavailableError
from tests import factories
from tests.conftest import Database, Pools


class World(Protocol):
    """An adapter, and the hands that arrange its catalogue and what goes wrong."""

    port: HelpCenter

    async def has(self, name: str, locale: str, *, version: int, subject: str, body: str) -> None:
        """The catalogue holds this version of a template; it is the newest."""

    async def disable(self, name: str, locale: str) -> None: ...
    async def fails_once(self, recipient: str) -> None:
        """The next call for this recipient is not answered, and nothing is sent."""

    async def loses_an_answer(self, recipient: str) -> None:
        """The next message to this recipient is sent, and the answer never comes."""


class Embedded:
    """The help center that lives in the same Postgres."""

    def __init__(self, pool: asyncpg.Pool[Any], conn: asyncpg.Connection[Any]) -> None:
        self.port: HelpCenter = EmbeddedHelpCenter(pool)
        self._conn = conn

    async def has(self, name: str, locale: str, *, version: int, subject: str, body: str) -> None:
        found = await self._conn.fetchval("SELECT id FROM template WHERE name = $1 AND locale = $2", name, locale)
        if found is None:
            await factories.template(self._conn, name, locale, version=version, subject=subject, body=body)
            return
        await self._conn.execute(
            "UPDATE template SET version = $2, subject = $3, body = $4 WHERE id = $1", found, version, subject, body
        )
        await self._conn.execute(
            "INSERT INTO template_version VALUES ($1, $2, $3, $4, 'st_lead', now())", found, version, subject, body
        )

    async def disable(self, name: str, locale: str) -> None:
        await self._conn.execute("UPDATE template SET disabled = true WHERE name = $1 AND locale = $2", name, locale)

    async def fails_once(self, recipient: str) -> None:
        await self._sim(recipient, "unavailable:1")

    async def loses_an_answer(self, recipient: str) -> None:
        await self._sim(recipient, "lost:1")

    async def _sim(self, recipient: str, sim: str) -> None:
        await self._conn.execute("INSERT INTO help_sim VALUES ('recipient', $1, $2)", recipient, sim)


@asynccontextmanager
async def embedded(database: Database, pools: Pools) -> AsyncIterator[World]:
    conn = await asyncpg.connect(**database.superuser)
    yield Embedded(await pools("cs_worker"), conn)
    await conn.close()


Open: TypeAlias = Callable[[Database, Pools], AbstractAsyncContextManager[World]]
ADAPTERS: Final[dict[str, Open]] = {"embedded": embedded}


@pytest_asyncio.fixture(loop_scope="session", params=list(ADAPTERS))
async def world(request: pytest.FixtureRequest, database: Database, pools: Pools) -> AsyncIterator[World]:
    async with ADAPTERS[request.param](database, pools) as made:
        await made.has("refund_done", "en", version=1, subject="Order {{orderId}}", body="{{amount}} {{ currency }}.")
        yield made


FILLED: Final[Mapping[str, str]] = {"orderId": "o_7", "amount": "12.00", "currency": "EUR"}
CONTENT: Final[dict[str, Any]] = {
    "template": "refund_done", "locale": "en", "version": 1, "variables": FILLED, "recipient": "sub_1",
}  # fmt: skip


async def send(world: World, key: str = "note_1", **other: Any) -> HelpMessage:
    return await world.port.send(key=key, **{**CONTENT, **other})


async def refusal(world: World, key: str = "note_1", **other: Any) -> PortRefusedError:
    with pytest.raises(PortRefusedError) as caught:
        await send(world, key, **other)
    return caught.value


async def test_a_sent_message_is_there_once_it_returns(world: World) -> None:
    made = await send(world)
    assert (made.key, made.subject, made.body) == ("note_1", "Order o_7", "12.00 EUR.")
    assert made.external_ref
    assert await world.port.get_message("note_1") == made
    assert await world.port.get_message("note_none") is None


@pytest.mark.contract("ID-3")
async def test_the_same_key_is_the_same_message_also_at_once(world: World) -> None:
    made = await asyncio.gather(*(send(world) for _ in range(4)))
    assert len(set(made)) == 1
    await world.has("refund_done", "en", version=2, subject="Order {{orderId}}", body="{{amount}} {{currency}}.")
    for other in (
        {"recipient": "sub_2"},
        {"version": 2},
        {"locale": "pt"},
        {"template": "info_needed"},
        {"variables": {**FILLED, "amount": "13.00"}},
    ):
        assert (await refusal(world, **other)).code == "KEY_REUSED"
    assert await world.port.get_message("note_1") == made[0]


@pytest.mark.contract("ID-3")
async def test_a_message_stays_itself_when_its_template_moves_on(world: World) -> None:
    made = await send(world)
    await world.has("refund_done", "en", version=2, subject="Changed", body="Changed.")
    await world.disable("refund_done", "en")
    assert await send(world) == made


async def test_the_version_that_was_asked_for_is_sent_and_not_the_newest(world: World) -> None:
    await world.has("refund_done", "en", version=2, subject="Changed", body="Changed.")
    assert (await send(world)).subject == "Order o_7"
    assert (await send(world, "note_2", version=2)).subject == "Changed"


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({"template": "no_such"}, "TEMPLATE_UNKNOWN"),
        ({"locale": "de"}, "TEMPLATE_UNKNOWN"),
        ({"version": 9}, "TEMPLATE_UNKNOWN"),
        ({"variables": {"orderId": "o_7", "amount": "12.00"}}, "PLACEHOLDER_MISSING"),
        ({"variables": {**FILLED, "amount": ""}}, "PLACEHOLDER_MISSING"),
        ({"variables": {}}, "PLACEHOLDER_MISSING"),
    ],
)
async def test_what_cannot_be_sent_is_refused_for_good_with_a_code_and_nothing_else(
    world: World, other: dict[str, Any], code: str
) -> None:
    refused = await refusal(world, **other)
    assert (refused.code, str(refused)) == (code, code)
    assert await world.port.get_message("note_1") is None
    assert (await send(world)).key == "note_1", "a refusal uses up no key"


async def test_a_disabled_template_is_refused(world: World) -> None:
    await world.disable("refund_done", "en")
    assert (await refusal(world)).code == "TEMPLATE_DISABLED"


async def test_a_text_with_braces_that_are_no_placeholder_is_never_sent(world: World) -> None:
    await world.has("odd", "en", version=1, subject="Odd", body="Dear {{name")
    assert (await refusal(world, template="odd")).code == "PLACEHOLDER_MISSING"


async def test_a_value_is_text_and_not_a_template(world: World) -> None:
    made = await send(world, variables={**FILLED, "orderId": "{{amount}}"})
    assert made.subject == "Order {{amount}}"


async def test_a_call_that_is_not_answered_may_be_made_again(world: World) -> None:
    await world.fails_once("sub_1")
    with pytest.raises(PortUnavailableError):
        await send(world)
    assert await world.port.get_message("note_1") is None
    assert (await send(world)).key == "note_1"


@pytest.mark.contract("ID-3")
async def test_a_lost_answer_is_given_again_and_nothing_is_sent_twice(world: World) -> None:
    await world.loses_an_answer("sub_1")
    with pytest.raises(PortUnavailableError):
        await send(world)
    sent = await world.port.get_message("note_1")
    assert sent is not None
    assert await send(world) == sent


def test_what_is_to_go_wrong_depends_on_how_often_it_was_asked() -> None:
    assert [plan("unavailable:2", calls).unavailable for calls in (1, 2, 3)] == [True, True, False]
    assert [plan("lost:1", calls).lost for calls in (1, 2)] == [True, False]
    assert plan("slow:0.5", 9) | plan("refuse:BOUNCED", 9) == Plan(slow_seconds=0.5, refusal="BOUNCED")
    with pytest.raises(ValueError, match="no such sim"):
        plan("explode", 1)
