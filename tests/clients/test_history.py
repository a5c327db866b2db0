"""Streams from a cursor and stored messages: with the server's replay alone, and with a reader of the table."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from supawire import Cursor, Gap, LocalServer, broadcast, changes
from supawire.cursors import Page, PageQuery, StoredRow
from supawire.errors import (
    HandlerError,
    InvalidArgumentError,
    JoinDeniedError,
    OperationTimeout,
    StateError,
)
from supawire.history import SqliteCursors
from supawire.selectors import gaps
from tests.clients.client_api import END, ClientApi, until

pytestmark = pytest.mark.anyio


@dataclass
class Table:
    """A reader of the messages in this list, whose times are those of the test."""

    rows: list[StoredRow] = field(default_factory=list[StoredRow])
    errors: list[Exception] = field(default_factory=list[Exception])
    reads: int = 0

    def add(self, server: LocalServer, payload: bytes = b"{}", event: str = "e") -> None:
        """Store a message, and deliver it with its id."""
        number = f"00000000-0000-4000-8000-{len(self.rows):012d}"
        self.rows.append(StoredRow(number, event, payload, True, int(time.time() * 1e6), len(self.rows)))
        server.send_raw(
            b'[null,null,"realtime:room","broadcast",{"event":"%b","payload":%b,"type":"broadcast","meta":{"id":"%b"}}]'
            % (event.encode(), payload, number.encode())
        )

    def read(self, query: PageQuery, /) -> Page:
        """Return the rows after the position."""
        self.reads += 1
        if self.errors:
            raise self.errors.pop()
        now = int(time.time() * 1e6)
        rows = [
            row
            for row in self.rows
            if row.position > query.after
            and row.id not in query.seen
            and row.event in (query.events or [row.event])
            and not (query.settled_only and row.at >= now - int(query.settle * 1e6))
        ]
        found = tuple(row for row in self.rows if row.id in query.ids and row not in rows[: query.limit])
        return Page(tuple(rows[: query.limit]), now, now - int(query.settle * 1e6), found=found)


class AsyncTable(Table):
    """The same with an async method."""

    async def read(self, query: PageQuery, /) -> Page:  # pyright: ignore[reportIncompatibleMethodOverride]
        await asyncio.sleep(0)
        return super().read(query)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteCursors]:
    """Yield an empty store of cursors."""
    with SqliteCursors(tmp_path / "cursors.db") as store:
        yield store


def numbers(messages: list[Any]) -> list[Any]:
    return [one if isinstance(one, Gap) else one.payload["n"] for one in messages]


# --- with the replay alone


async def test_a_stream_without_a_table_continues_by_replay(api: ClientApi, server: LocalServer, store: SqliteCursors):
    """Messages stored since the cursor are replayed at the join, then live ones come, each once over restarts."""
    for first in (0, 4):
        async with api.client(server, token=server.token()) as client:
            if first:
                server.send("room", "e", {"n": 3})
                room = await client.channel("room", private=True)
                async with await room.listen(broadcast("e"), from_=store) as stream:
                    assert numbers(await stream.take(2)) == [2, 3]  # 2 was not handled
                    server.send("room", "e", {"n": 4})
                    server.broadcast("room", "e", {"n": "unstored"}, private=True)
                    server.send("room", "e", {"n": 5})
                    assert numbers(await stream.take(2)) == [4, 5]
            else:
                server.send("room", "e", {"n": 0})
                room = await client.channel("room", private=True)
                async with await room.listen(broadcast("e"), from_=store) as stream:
                    assert numbers(await stream.take(1)) == [0]
                    server.send("room", "e", {"n": 1})
                    server.send("room", "e", {"n": 2})
                    assert numbers(await stream.take(2)) == [1, 2]


async def test_more_messages_than_the_replay_returns_give_a_gap(api: ClientApi, server: LocalServer):
    """The server replays the newest 25: with more, a gap says that older ones may be missing."""
    for n in range(30):
        server.send("room", "e", {"n": n})
    async with api.client(server, token=server.token()) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=time.time() - 60) as stream:
            got = await stream.take(26)
    assert sorted(one for one in numbers(got) if not isinstance(one, Gap)) == list(range(5, 30))
    (gap,) = [one for one in got if isinstance(one, Gap)]
    assert (gap.verdict, gap.reason) == ("truncated", "resume")


async def test_a_lost_connection_is_bridged_by_replay(api: ClientApi, server: LocalServer):
    """Messages stored while the connection was lost are delivered, and a gap that was closed is not reported."""
    async with api.client(server, token=server.token()) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=time.time()) as stream:
            server_sends = asyncio.create_task(stream.next())
            await until(lambda: room.state == "joined")
            server.send("room", "e", {"n": 0})
            assert numbers([await server_sends]) == [0]
            server.drop_connections()
            server.send("room", "e", {"n": 1})
            assert numbers(await stream.take(1)) == [1]
            server.send("room", "e", {"n": 2})
            assert numbers(await stream.take(1)) == [2]


async def test_without_a_table_the_channel_must_not_be_subscribed(api: ClientApi, server: LocalServer):
    """The replay is requested by the join, so a channel that has joined cannot continue from a cursor."""
    async with api.client(server, token=server.token()) as client:
        room = await client.channel("room", private=True)
        await room.subscribe()
        stream = await room.listen(broadcast(), from_=time.time())
        with pytest.raises(StateError, match="subscribed already"):
            await stream.next()


# --- with a table


@pytest.mark.parametrize("table", [Table, AsyncTable])
async def test_stored_messages_come_first_and_then_live_ones(api: ClientApi, server: LocalServer, table: type[Table]):
    """A stream reads the table in pages, and is woken by live messages."""
    history = table()
    async with api.client(server, token=server.token(), history=history) as client:
        room = await client.channel("room", private=True)
        for n in range(10):
            history.add(server, b'{"n":%d}' % n)
        async with await room.listen(broadcast(), from_=0, page=3) as stream:
            assert numbers(await stream.take(10)) == list(range(10))
            await until(lambda: room.state == "joined")
            history.add(server, b'{"n":10}')
            (message,) = await stream.take(1)
            assert (message.payload, message.topic, message.replayed) == ({"n": 10}, "room", False)
            assert message.cursor is not None
            with pytest.raises(OperationTimeout):
                await stream.get(timeout=0.05)
            assert stream.caught_up
            assert stream.count == 11


async def test_a_cursor_value_continues_another_stream(api: ClientApi, server: LocalServer):
    """The cursor of a message, also as text, is where another stream begins."""
    history = Table()
    for n in range(5):
        history.add(server, b'{"n":%d}' % n)
    async with api.client(server, token=server.token(), history=history) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=0) as stream:
            third = (await stream.take(3))[-1]
        async with await room.listen(broadcast(), from_=Cursor.parse(str(third.cursor))) as stream:
            assert numbers(await stream.take(2)) == [3, 4]


async def test_only_the_selected_events_are_delivered(api: ClientApi, server: LocalServer):
    """Selectors choose the events, and their models convert the payloads."""

    @dataclass
    class Move:
        n: int

    history = Table()
    history.add(server, b'{"n":0}', "other")
    history.add(server, b'{"n":1}', "move")
    async with api.client(server, token=server.token(), history=history) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast("move", model=Move), from_=0) as stream:
            (message,) = await stream.take(1)
            assert message.payload == Move(1)


async def test_the_cursor_is_committed_by_hand(api: ClientApi, server: LocalServer, store: SqliteCursors):
    """With commit="manual" only `commit()` saves the cursor, after all messages delivered until then."""
    history = Table()
    for n in range(5):
        history.add(server, b'{"n":%d}' % n)
    async with api.client(server, token=server.token(), history=history) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=store, commit="manual") as stream:
            await stream.take(2)
            assert store.load("room") is None
            await stream.commit()
            await stream.take(2)
        async with await room.listen(broadcast(), from_=store) as stream:
            assert numbers(await stream.take(1)) == [2]


async def test_a_cursor_is_saved_after_some_messages_and_before_waiting(
    api: ClientApi, server: LocalServer, store: SqliteCursors
):
    """With save_every, the store is used less often; before waiting the cursor is saved all the same."""
    history = Table()
    for n in range(5):
        history.add(server, b'{"n":%d}' % n)
    async with api.client(server, token=server.token(), history=history) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=store, save_every=100) as stream:
            await stream.take(5)
            assert store.load("room") is None
            with pytest.raises(OperationTimeout):
                await stream.get(timeout=0.05)
            assert store.load("room") is not None


async def test_a_reader_that_starts_with_the_newest_continues_there(
    api: ClientApi, server: LocalServer, store: SqliteCursors
):
    """With start="newest" stored messages are skipped, and a restart before the first message does not skip more."""
    history = Table()
    history.add(server, b'{"n":0}')
    async with api.client(server, token=server.token(), history=history) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=store, start="newest") as stream:
            with pytest.raises(OperationTimeout):
                await stream.get(timeout=0.05)
        history.add(server, b'{"n":1}')
        async with await room.listen(broadcast(), from_=store, start="newest") as stream:
            assert numbers(await stream.take(1)) == [1]


async def test_history_ends_with_what_is_stored_now(api: ClientApi, server: LocalServer):
    """`history()` needs no join, and `limit` bounds it."""
    history = Table()
    for n in range(5):
        history.add(server, b'{"n":%d}' % n)
    async with api.client(server, history=history) as client:
        room = await client.channel("room", private=True)
        iterator = await room.history(page=2)
        assert numbers(await iterator.take(5)) == list(range(5))
        assert await iterator.next() == END
        limited = await room.history(broadcast("e"), limit=3)
        assert numbers(await limited.take(3)) == [0, 1, 2]
        assert await limited.next() == END
        assert room.state == "idle"


async def test_history_returns_messages_that_have_not_settled(api: ClientApi, server: LocalServer):
    """`history()` returns all messages, also if more of them are new than a cursor has ids."""
    now = int(time.time() * 1e6)
    history = Table([StoredRow(str(UUID(int=n)), "e", b'{"n":%d}' % n, True, now + n, n) for n in range(1200)])
    async with api.client(server, history=history) as client:
        iterator = await (await client.channel("room", private=True)).history()
        assert numbers(await iterator.take(1200)) == list(range(1200))
        assert await iterator.next() == END


async def test_a_failing_read_is_repeated_or_raised(api: ClientApi, server: LocalServer):
    """An error that may pass is reported and the read repeated; any other is raised, and the stream can continue."""
    history = Table(errors=[ValueError("broken"), StateError("away", retryable=True)])
    history.add(server, b'{"n":0}')
    errors: list[Exception] = []
    async with api.client(server, token=server.token(), history=history, on_error=errors.append) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=0) as stream:
            with pytest.raises(HandlerError, match="ValueError: broken"):
                await stream.next()
            assert numbers(await stream.take(1)) == [0]
    assert [str(error) for error in errors] == ["away"]


class SlowStore:
    """A store whose saves wait until they may continue, after the first one has begun."""

    def __init__(self) -> None:
        self.cursor: Cursor | None = None
        self.began = threading.Event()
        self.may_continue = threading.Event()

    def load(self, name: str, /) -> Cursor | None:
        return self.cursor

    def save(self, name: str, cursor: Cursor, /) -> None:
        self.began.set()
        assert self.may_continue.wait(10)
        self.cursor = cursor


@pytest.mark.parametrize("reads_table", [False, True])
async def test_a_message_that_comes_while_the_cursor_is_saved_is_delivered_at_once(
    api: ClientApi, server: LocalServer, reads_table: bool
):
    """A save before waiting takes time: a message that is received meanwhile does not wait for the next one."""
    history, store, received, resumed = Table(), SlowStore(), list[Any](), list[Gap]()

    def send(n: int) -> None:
        if reads_table:
            history.add(server, b'{"n":%d}' % n)
        else:
            server.send("room", "e", {"n": n})

    async with api.client(server, token=server.token(), history=history if reads_table else None) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=store, save_every=100, settle=60) as stream:
            reading = asyncio.create_task(stream.next())
            await room.on(broadcast(), received.append)
            await room.on(gaps(), resumed.append)
            await until(lambda: room.state == "joined" and (reads_table or resumed))
            send(0)
            assert numbers([await reading]) == [0]
            reading = asyncio.create_task(stream.next())
            await until(store.began.is_set)
            send(1)
            await until(lambda: len(received) == 2)
            store.may_continue.set()
            async with asyncio.timeout(10):
                assert numbers([await reading]) == [1]


async def test_a_replayed_copy_does_not_repeat_a_handled_message(api: ClientApi, server: LocalServer):
    """With a table, a copy that the server replays at a join does not bring back a message before the cursor."""
    history = Table()
    first = StoredRow(server.send("room", "e", {"n": 0}), "e", b'{"n":0}', True, int((time.time() - 60) * 1e6), 0)
    history.rows.append(first)
    async with api.client(server, token=server.token(), history=history) as client:
        room = await client.channel("room", private=True, replay_since=time.time() - 100)
        received: list[Any] = []
        await room.on(broadcast(), received.append)
        async with await room.listen(broadcast(), from_=Cursor("room", first.at, 0, first.id)) as stream:
            reading = asyncio.create_task(stream.next())
            await until(lambda: received)
            history.add(server, b'{"n":1}')
            assert numbers([await reading]) == [1]
            with pytest.raises(OperationTimeout):
                await stream.get(timeout=0.05)


async def test_a_channel_that_is_refused_ends_the_stream(api: ClientApi, server: LocalServer):
    """A join that the server refuses is raised by the stream; a channel that is left ends it."""
    history = Table()
    async with api.client(server, history=history) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=0) as stream:
            with pytest.raises(JoinDeniedError):
                await stream.next()
    async with api.client(server, token=server.token(), history=history) as client:
        room = await client.channel("room", private=True)
        async with await room.listen(broadcast(), from_=0) as stream:
            reading = asyncio.create_task(stream.next())
            await until(lambda: room.state == "joined")
            await room.unsubscribe()
            assert await reading == END


async def test_the_thread_of_a_stream_ends_with_the_client(api: ClientApi, server: LocalServer):
    """A stream that was not closed leaves no thread when its client is closed."""
    history = Table()
    history.add(server, b'{"n":0}')
    async with api.client(server, token=server.token(), history=history) as client:
        room = await client.channel("room", private=True)
        stream = await room.listen(broadcast(), from_=0)
        await stream.take(1)
    await until(lambda: not [one for one in threading.enumerate() if one.name.startswith("supawire-history")])
    assert stream.count == 1  # it was kept until here


async def test_wrong_arguments_are_refused_at_once(api: ClientApi, server: LocalServer, store: SqliteCursors):
    """Each argument of `listen(from_=…)` and `history()` is checked before anything is sent."""
    store.save("other", Cursor("elsewhere", 5))
    async with api.client(server, token=server.token()) as client:
        room = await client.channel("room", private=True)
        public = await client.channel("public")
        for selector, options in [
            (changes("notes"), {"from_": 0}),
            (broadcast(), {"from_": "1;0;0;;;room"}),
            (broadcast(), {"from_": Cursor("elsewhere", 5)}),
            (broadcast(), {"from_": -1}),
            (broadcast(), {"from_": float("nan")}),
            (broadcast(), {"from_": 0, "cursor_name": "mine"}),
            (broadcast(), {"from_": store, "start": "middle"}),
            (broadcast(), {"from_": store, "commit": "never"}),
            (broadcast(), {"from_": store, "save_every": 0}),
            (broadcast(), {"from_": store, "settle": -1}),
            (broadcast(), {"from_": store, "poll": 0}),
            (broadcast(), {"from_": store, "page": 100_000}),
            (broadcast(), {"from_": store, "strict": 1}),
            (broadcast(), {"from_": store, "overflow": "drop_oldest"}),
        ]:
            with pytest.raises(InvalidArgumentError):
                await room.listen(selector, **options)
        with pytest.raises(InvalidArgumentError, match="private=True"):
            await public.listen(broadcast(), from_=0)
        with pytest.raises(InvalidArgumentError, match="private=True"):
            await public.history()
        with pytest.raises(StateError, match="without history="):
            await room.history()
        stream = await room.listen(broadcast(), from_=store, cursor_name="other")
        with pytest.raises(InvalidArgumentError, match="elsewhere"):
            await stream.next()
