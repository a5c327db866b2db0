"""The change feed without a database."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from supawire.server.app import HubCall
from supawire.server.bindings import bind
from supawire.server.postgres.change_feed import ChangeFeed
from supawire.server.postgres.database import Database
from supawire.server.postgres.replication import ReplicationStream
from supawire.server.queries import SubscribeQuery


class SlowDatabase:
    """Has one published table; a transaction waits at its beginning for the event `may_go_on`."""

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


def do_nothing(*args: Any) -> Any:
    del args


class SilentStream:
    async def read(self) -> Any:
        await asyncio.Event().wait()

    async def close(self) -> None: ...


async def open_silent_stream(url: str, publications: Sequence[str]) -> ReplicationStream:
    del url, publications
    return cast("ReplicationStream", SilentStream())


@pytest.mark.parametrize("meanwhile", ["nothing", "unsubscribe"])
async def test_a_channel_that_ends_while_its_bindings_are_resolved_is_not_subscribed(meanwhile: str):
    """Otherwise its subscriptions would stay as long as the server runs, and cost time with each change."""
    database = SlowDatabase()
    feed = ChangeFeed("", cast("Database", database), cast("HubCall", do_nothing), open_stream=open_silent_stream)
    await feed.start()
    running = asyncio.create_task(feed.run())
    subscribing = asyncio.ensure_future(feed.subscribe(subscription(5)))
    await database.begun.wait()
    if meanwhile == "unsubscribe":
        feed.unsubscribe(5)
    database.may_go_on.set()
    assert await subscribing is None
    assert (5 in feed.channels) is (meanwhile == "nothing")
    running.cancel()
    await asyncio.wait([running])
