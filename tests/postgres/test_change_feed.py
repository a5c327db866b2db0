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
    """Has one published table; a transaction waits at its beginning for the event `may_continue`."""

    def __init__(self) -> None:
        self.may_continue = asyncio.Event()
        self.begun = asyncio.Event()

    async def query(self, text: object, parameters: object = ()) -> list[Any]:
        del text, parameters
        return []

    @asynccontextmanager
    async def transaction(self, *, rollback: bool) -> AsyncGenerator["SlowDatabase"]:
        assert rollback
        self.begun.set()
        await self.may_continue.wait()
        yield self

    async def execute(self, text: str, parameters: object) -> Any:
        del parameters

        async def fetchall() -> list[Any]:
            return [(1,)] if "pg_publication_tables" in text else []

        return SimpleNamespace(fetchall=fetchall)


def subscription(channel: int) -> SubscribeQuery:
    binding = bind({"event": "*", "schema": "public", "table": "todos"}, database=True)
    requester = SimpleNamespace(claims=SimpleNamespace(values={"role": "anon"}))
    return SubscribeQuery(channel, cast("Any", requester), (binding,))


def ignore_call(*args: Any) -> Any:
    del args


class SilentStream:
    async def read(self) -> Any:
        await asyncio.Event().wait()

    async def close(self) -> None: ...


async def open_idle_stream(url: str, publications: Sequence[str]) -> ReplicationStream:
    del url, publications
    return cast("ReplicationStream", SilentStream())


@pytest.mark.parametrize("action", ["stay", "unsubscribe"])
async def test_a_channel_that_ends_while_its_bindings_are_resolved_is_not_subscribed(action: str):
    """Its subscriptions would otherwise stay until the server stops, and slow down each change."""
    database = SlowDatabase()
    feed = ChangeFeed("", cast("Database", database), cast("HubCall", ignore_call), open_stream=open_idle_stream)
    await feed.start()
    running = asyncio.create_task(feed.run())
    subscribing = asyncio.ensure_future(feed.subscribe(subscription(5)))
    await database.begun.wait()
    if action == "unsubscribe":
        feed.unsubscribe(5)
    database.may_continue.set()
    assert await subscribing is None
    assert (5 in feed.channels) is (action == "stay")
    running.cancel()
    await asyncio.wait([running])
