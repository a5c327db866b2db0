"""Mirrors of both clients, over real sockets: a table that is committed to while the server misbehaves."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from supawire import LocalServer, MirrorState, Resynced, RowDeleted, RowInserted, RowUpdated, col
from supawire.errors import ClosedError, HandlerError, InvalidArgumentError, OperationTimeout, RowError
from supawire.options import Backoff
from supawire.server import ServerLimits
from tests.clients.client_api import END, AwaitableProxy, ClientApi, until

pytestmark = pytest.mark.anyio

QUICK = Backoff(initial=0.01, jitter=0)
Rows = dict[int, dict[str, Any]]


def put(server: LocalServer, table: Rows, key: int, **values: Any) -> None:
    """Commit a row."""
    kind = "UPDATE" if key in table else "INSERT"
    table[key] = {"id": key, **values}
    server.emit(kind, "users", record=table[key])


async def mirror_of(client: AwaitableProxy, table: Mapping[int, Any], **options: Any) -> AwaitableProxy:
    """Return a mirror of the table with a plain fetch and short delays."""
    chosen: dict[str, Any] = {"key": "id", "fetch": lambda: list(table.values()), "settle": 0, "backoff": QUICK}
    chosen["pause"] = 0
    return await client.mirror("users", **{**chosen, **options})


async def test_a_mirror_follows_its_table(api: ClientApi, server: LocalServer):
    """A mirror is a mapping, its iterator yields each change, and both agree."""
    table: Rows = {1: {"id": 1, "name": "alice"}}
    async with api.client(server) as client, await mirror_of(client, table) as users:
        assert (users.state, users.live, users.error) == (MirrorState.LIVE, True, None)
        events = await users.listen()
        assert (await events.next()).rows == table
        put(server, table, 2, name="bob")
        put(server, table, 2, name="bert")
        server.emit("UPDATE", "users", record={"id": 3, "name": "bert"}, old_record={"id": 2})
        server.emit("DELETE", "users", old_record={"id": 1})
        added, changed, moved, gone = await events.take(4)
        assert isinstance(added, RowInserted) and (added.key, added.row) == (2, {"id": 2, "name": "bob"})
        assert isinstance(changed, RowUpdated) and changed.old == added.row
        assert isinstance(moved, RowUpdated) and (moved.key, moved.old_key) == (3, 2)
        assert isinstance(gone, RowDeleted) and (gone.key, gone.old) == (1, {"id": 1, "name": "alice"})
        rows = await users.snapshot()
        assert rows == {3: {"id": 3, "name": "bert"}}
        inner = users.inner
        read = lambda: (list(inner), len(inner), 3 in inner, 1 in inner, inner[3], inner.get(1), dict(inner.items()))  # noqa: E731
        seen = read() if api.name == "async" else await asyncio.to_thread(read)
        assert seen == ([3], 1, True, False, rows[3], None, rows)


async def test_a_mirror_is_correct_after_faults(api: ClientApi, server: LocalServer):
    """After cut, refused, crashed and degraded connections the mirror equals the table, and its state was not live
    meanwhile."""
    table: Rows = {1: {"id": 1, "v": 0}}
    faults: list[Callable[[], None]] = [
        server.drop_connections,
        lambda: server.drop_connections(1012),
        lambda: server.crash_channel("*"),
        lambda: server.send_system("mirror:public.users", "error", "Unable to connect", extension="postgres_changes"),
        lambda: server.emit("UPDATE", "users", record={"id": 1}, errors="Error 413: Payload Too Large"),
    ]
    async with api.client(server) as client, await mirror_of(client, table) as users:
        events = await users.listen()
        await events.next()
        for number, fault in enumerate(faults, 1):
            table[number] = {"id": number, "v": number}  # without a change event
            fault()
            if number == 4:
                await until(lambda: users.state is MirrorState.JOINING)
                server.send_system(
                    "mirror:public.users", "ok", "Subscribed to PostgreSQL", extension="postgres_changes"
                )
            event = await events.next()
            assert isinstance(event, Resynced) and event.reason != "first"
            assert event.rows == table and len(event.changes) == 1
        await users.ready()
        put(server, table, 9, v=9)
        assert (await events.next()).key == 9
        assert await users.snapshot() == table


async def test_a_filtered_mirror_removes_rows_that_leave_the_filter(api: ClientApi, server: LocalServer):
    """A row that an UPDATE takes out of the filter is removed, and so is a deleted row."""
    table: Rows = {1: {"id": 1, "v": 5}, 2: {"id": 2, "v": 6}}
    async with (
        api.client(server) as client,
        await mirror_of(client, table, where=col("v") >= 3, model=Thing) as things,
    ):
        events = await things.listen()
        await events.next()
        put(server, table, 1, v=1)
        put(server, table, 3, v=3)
        server.emit("DELETE", "users", old_record={"id": 2})
        assert [type(event) for event in await events.take(3)] == [RowDeleted, RowInserted, RowDeleted]
        assert await things.snapshot() == {3: Thing(3, 3)}


@dataclass
class Thing:
    id: int
    v: int


async def test_a_fetch_may_block_and_raise(api: ClientApi, server: LocalServer):
    """A plain fetch blocks no other task; its exception goes to `on_error`, is in `error`, and the fetch is retried."""
    errors: list[Exception] = []
    gate = threading.Event()

    def fetch() -> list[dict[str, int]]:
        gate.wait(30)
        if len(errors) < 2:
            raise ConnectionError("the database is away")
        return [{"id": 1}]

    async with api.client(server, on_error=errors.append) as client:
        users = await mirror_of(client, {}, fetch=fetch)
        await until(lambda: users.state is MirrorState.FETCHING)
        assert await client.ping() >= 0
        with pytest.raises(OperationTimeout, match="fetching"):
            await users.ready(0.01)
        gate.set()
        await users.ready()
        assert [type(error) for error in errors] == [HandlerError] * 2
        assert await users.snapshot() == {1: {"id": 1}}
        await users.refresh()
        await users.ready()
        await users.close()


LARGE = "y" * 2000
"""A value so long that the server of `small_rows` truncates its row."""


@pytest.fixture
def small_rows() -> Iterator[LocalServer]:
    """Yield a local server that truncates rows of more than a kilobyte."""
    with LocalServer(limits=ServerLimits(change_bytes=1000)) as server:
        yield server


async def test_a_truncated_row_is_fetched_alone(api: ClientApi, small_rows: LocalServer):
    """With `fetch_row` the other rows stay live, and all rows are fetched only once."""
    server = small_rows
    table: Rows = {1: {"id": 1, "name": "alice"}, 2: {"id": 2, "name": "bob"}}
    fetches: list[Any] = []
    gate = threading.Event()

    def fetch() -> list[Any]:
        fetches.append(None)
        return list(table.values())

    def fetch_row(key: dict[str, Any]) -> dict[str, Any] | None:
        fetches.append(key)
        gate.wait(30)
        return table.get(key["id"])

    async with (
        api.client(server) as client,
        await mirror_of(client, table, fetch=fetch, fetch_row=fetch_row) as users,
    ):
        events = await users.listen()
        await events.next()
        put(server, table, 1, name=LARGE)
        await until(lambda: users.state is MirrorState.REFETCHING)
        assert not users.live and users.incomplete == {1} and users.inner[1] == {"id": 1, "name": "alice"}
        put(server, table, 2, name="bert")
        assert (await events.next()).row == {"id": 2, "name": "bert"}
        gate.set()
        changed = await events.next()
        assert isinstance(changed, RowUpdated) and changed.row == {"id": 1, "name": LARGE}
        await users.ready()
        assert users.incomplete == frozenset() and fetches == [None, {"id": 1}]
        put(server, table, 3, name=LARGE)
        added = await events.next()
        assert isinstance(added, RowInserted) and added.row == table[3]
        del table[1]
        put(server, {1: table.pop(3)}, 1, name=LARGE)  # deleted before it is fetched
        assert isinstance(await events.next(), RowDeleted)
        await users.ready()
        assert fetches == [None, {"id": 1}, {"id": 3}, {"id": 1}] and users.error is None


async def test_a_fetch_of_a_row_that_fails_fetches_all_rows(api: ClientApi, small_rows: LocalServer):
    """An error of `fetch_row`, also a result that is not the row, goes to `on_error`, and all rows are fetched."""
    server = small_rows
    errors: list[Exception] = []
    table: Rows = {1: {"id": 1, "name": "alice"}}
    answers = iter([ConnectionError("the database is away"), [{"id": 1}], {"id": 2}])

    def fetch_row(key: dict[str, Any]) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with (
        api.client(server, on_error=errors.append) as client,
        await mirror_of(client, table, fetch_row=fetch_row) as users,
    ):
        for number in range(1, 4):
            put(server, table, 1, name=LARGE, v=number)
            await until(lambda: users.inner[1] == table[1])
            await users.ready()
            await until(lambda number=number: len(errors) == number)
    assert [type(error) for error in errors] == [HandlerError, RowError, RowError]
    assert "the fetch_row test_a_fetch_of_a_row" in str(errors[0]) and "All rows are fetched" in str(errors[0])


async def test_a_slow_iterator_gets_one_resynced(api: ClientApi, server: LocalServer):
    """More changes than the buffer holds become one event, and applying the events gives the rows of the mirror
    (R39)."""
    table: Rows = {}
    async with api.client(server) as client, await mirror_of(client, table) as users:
        events = await users.listen(buffer=3)
        for number in range(40):
            put(server, table, number % 7, v=number)
        await until(lambda: users.inner.get(4) == {"id": 4, "v": 39})
        held: dict[Any, Any] = {}
        reasons: list[str] = []
        while held != table:
            event = await events.next()
            if isinstance(event, Resynced):
                held = event.rows
                reasons.append(event.reason)
            else:
                held[event.key] = event.row
        assert "merged" in reasons and events.dropped == 0


async def test_mirrors_end_with_their_client(api: ClientApi, server: LocalServer):
    """Closing the mirror or the client ends iterators and waits; rows can still be read, and other calls raise."""
    async with api.client(server) as client:
        kept, closed = [await mirror_of(client, {1: {"id": 1}}) for _ in range(2)]
        await kept.ready()
        await closed.ready()
        events, others = await kept.listen(), await closed.listen()
        await closed.close()
        assert isinstance(await others.next(), Resynced) and await others.next() == END
        assert kept.live and not closed.live
        await events.next()
        reading = asyncio.ensure_future(events.next())
        await client.close()
        assert await reading == END
        assert kept.state is MirrorState.CLOSED and await kept.snapshot() == {1: {"id": 1}}
        for call in (kept.listen, kept.ready, kept.refresh, lambda: mirror_of(client, {})):
            with pytest.raises(ClosedError):
                await call()
        await kept.close()


async def test_many_mirrors_are_on_one_client(api: ClientApi, server: LocalServer):
    """Each mirror follows its own table, also where one name is a pattern that matches the other."""
    names = ["user_a", "userXa", *(f"table_{number}" for number in range(8))]
    async with api.client(server) as client:
        mirrors = [await client.mirror(name, key="id", fetch=list, settle=0) for name in names]
        for mirror in mirrors:
            await mirror.ready()
        for name in names:
            server.emit("INSERT", name, record={"id": 1, "of": name})
        for name, mirror in zip(names, mirrors, strict=True):
            event = (await (await mirror.listen()).take(1))[0]
            row = event.row if isinstance(event, RowInserted) else (event.rows or {1: None})[1]
            if row is None:
                await until(lambda mirror=mirror: len(mirror.inner) == 1)
            assert mirror.inner[1] == {"id": 1, "of": name}


async def test_wrong_arguments_raise_in_both_clients(api: ClientApi, server: LocalServer):
    """A wrong key and a fetch that is not a function are refused at once."""
    async with api.client(server) as client:
        for wrong in (
            {"key": ""},
            {"fetch": []},
            {"table": "*"},
            {"fetch_row": {}},
            {"fetch_row": lambda: None},
            {"pause": -1},
        ):
            with pytest.raises(InvalidArgumentError):
                await client.mirror(**{"table": "users", "key": "id", "fetch": list, **wrong})
