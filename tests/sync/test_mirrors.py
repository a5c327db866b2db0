"""Mirrors that many threads read while the table changes."""

import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from supawire import LocalServer, Mirror, Resynced, RowDeleted, Stream, connect
from supawire.errors import HandlerError, InvalidArgumentError

Rows = dict[int, dict[str, int]]


def change(server: LocalServer, table: Rows, number: int) -> None:
    """Commit changes."""
    key = number * 5 % 8
    if number % 3 == 2 and key in table:
        del table[key]
        server.emit("DELETE", "users", old_record={"id": key})
    else:
        kind = "UPDATE" if key in table else "INSERT"
        table[key] = {"id": key, "a": number, "b": number}
        server.emit(kind, "users", record=table[key])


def look(users: Mirror[Any]) -> None:
    """Read the mirror in every way, and check that rows are whole."""
    assert all(row == {"id": key, "a": row["a"], "b": row["a"]} for key, row in users.snapshot().items())
    assert all(isinstance(key, int) for key in users)
    row = users.get(3)
    assert row is None or row["a"] == row["b"]
    assert len(users) <= 8 and (3 in users or 3 not in users)


def follow(events: Stream[Any], held: Rows) -> None:
    """Apply the events of an iterator to a dict."""
    for event in events:
        match event:
            case Resynced():
                held.clear()
                held.update(event.rows)
            case RowDeleted():
                del held[event.key]
            case _:
                held[event.key] = event.row


def test_an_async_fetch_is_refused_by_the_sync_client(server: LocalServer) -> None:
    """The sync client refuses a coroutine function, and a fetch that returns a coroutine fails."""

    async def fetch() -> list[Any]:
        return []

    async def one_by_one() -> AsyncIterator[Any]:
        yield {}

    async def fetch_row(key: dict[str, Any]) -> None: ...

    errors: list[Exception] = []
    with connect(server.url, server.anon_key, on_error=errors.append) as client:
        for wrong in (fetch, one_by_one):
            with pytest.raises(InvalidArgumentError, match="plain function"):
                client.mirror("users", key="id", fetch=wrong)
        with pytest.raises(InvalidArgumentError, match="plain function"):
            client.mirror("users", key="id", fetch=list, fetch_row=fetch_row)
        users = client.mirror("users", key="id", fetch=lambda: fetch())
        while users.error is None:
            threading.Event().wait(0.001)
        assert isinstance(users.error, HandlerError) and isinstance(users.error.__cause__, InvalidArgumentError)


def test_any_thread_may_read(server: LocalServer) -> None:
    """Threads that read and iterate while rows change get whole rows, and in the end all of them (R46)."""
    over, errors = threading.Event(), list[BaseException]()
    table: Rows = {}
    held: Rows = {}

    def on_thread(function: Callable[[], None]) -> threading.Thread:
        def work() -> None:
            try:
                function()
            except BaseException as error:  # noqa: BLE001  the test's thread checks it
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def read_repeatedly() -> None:
        while not over.is_set():
            look(users)

    with connect(server.url, server.anon_key) as client:
        with client.mirror("users", key="id", fetch=lambda: list(table.values()), settle=0) as users:
            events = users.listen(buffer=5)
            threads = [on_thread(read_repeatedly) for _ in range(4)]
            threads.append(on_thread(lambda: follow(events, held)))
            for number in range(300):
                change(server, table, number)
            while not errors and not users.snapshot() == table == held:
                over.wait(0.01)
            over.set()
        for thread in threads:
            thread.join()
    assert errors == []
