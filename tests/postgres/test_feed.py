"""What the feed keeps of channels, without a database."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from supawire.server.bindings import bind
from supawire.server.postgres.change_feed import Feed
from supawire.server.postgres.component import BackendContext, Behaviour
from supawire.server.queries import SubscribeQuery


class SlowDatabase:
    """Answers about one published table; a transaction waits at its beginning until it may go on."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()
        self.begun = asyncio.Event()

    async def query(self, text: object, parameters: object = ()) -> list[Any]:
        del text, parameters
        return []

    @asynccontextmanager
    async def transaction(self, *, rollback: bool) -> AsyncGenerator["SlowDatabase"]:
        assert rollback
        self.begun.set()
        await self.may_go_on.wait()
        yield self

    async def execute(self, text: str, parameters: object) -> Any:
        del parameters

        async def fetchall() -> list[Any]:
            return [(1,)] if "pg_publication_tables" in text else []

        return SimpleNamespace(fetchall=fetchall)


def subscription(channel: int) -> SubscribeQuery:
    binding = bind({"event": "*", "schema": "public", "table": "todos"}, database=True)
    who = SimpleNamespace(claims=SimpleNamespace(values={"role": "anon"}))
    return SubscribeQuery(channel, cast("Any", who), (binding,))


@pytest.mark.parametrize("meanwhile", ["nothing", "left"])
async def test_a_channel_that_ends_while_it_is_looked_up_is_not_kept(meanwhile: str):
    """Its listings would stay for as long as the server runs, and be judged with each change."""
    database = SlowDatabase()
    do: Callable[[Any], Any] = lambda act: None  # noqa: E731
    ground = SimpleNamespace(url="", database=database, behaviour=Behaviour(), row_consumers={}, do=do)
    feed = Feed(cast("BackendContext", ground))
    feed._flowing(True)
    asking = asyncio.ensure_future(feed.answers[SubscribeQuery](subscription(5)))
    await database.begun.wait()
    if meanwhile == "left":
        feed.unsubscribe(5)
    database.may_go_on.set()
    assert await asking is None
    assert (5 in feed._book) is (meanwhile == "nothing")
