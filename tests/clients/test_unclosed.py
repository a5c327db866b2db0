"""Clients and servers that are collected without `close`."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from supawire import LocalServer, broadcast, connect, connect_async, presence
from supawire.sync.portal import open_portals
from tests.held import Held

HERE = __file__


def collected(make: Callable[[], Any]) -> list[str]:
    """Return the warnings of objects that are made, dropped and collected; each names a line of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
        gc.collect()
    found = [one for one in caught if one.category is ResourceWarning and "never closed" in str(one.message)]
    assert all(one.filename == HERE and f"{HERE}:{one.lineno} " in str(one.message) for one in found)
    return [str(one.message) for one in found]


def lines_of(function: Callable[..., Any]) -> range:
    code = function.__code__
    return range(code.co_firstlineno, code.co_firstlineno + 20)


def threads(prefix: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_a_sync_client_that_is_collected_ends_and_warns():
    """A collected sync client ends its thread, socket and presence, and a ResourceWarning names the line that opened
    it."""

    def forget(server: LocalServer) -> None:
        room = connect(server.url, server.anon_key).channel("room")
        room.subscribe()
        room.track({"here": True})

    with LocalServer() as server, connect(server.url, server.anon_key) as watcher:
        seen = watcher.channel("room").listen(presence())
        watcher.channel("room").subscribe()
        before = set(threads("supawire-io"))
        warned = collected(lambda: [forget(server) for _ in range(3)])
        assert len(warned) == 3 and all("a client that was opened at" in text for text in warned)
        for thread in set(threads("supawire-io")) - before:
            thread.join(10)
            assert not thread.is_alive()
        left = 0
        while left < 3:
            left += type(seen.get(timeout=10)).__name__ == "PresenceLeave"


def test_objects_in_use_keep_their_sync_client():
    """A channel, an iterator or a handler keeps its client open, and a closed client causes no warning."""
    with LocalServer() as server:
        received = threading.Event()
        kept: list[Any] = []

        def use() -> None:
            kept.append(connect(server.url, server.anon_key).channel("room", echo=True))
            kept[0].subscribe()
            kept.append(connect(server.url, server.anon_key).listen())
            handling = connect(server.url, server.anon_key).channel("room")
            handling.on(broadcast(), lambda _: received.set())
            handling.subscribe()
            with connect(server.url, server.anon_key):
                pass

        assert collected(use) == []
        kept[0].broadcast("x", {})
        assert received.wait(10)
        assert len(threads("supawire-io")) == 3
        server.stop()
        ended = threads("supawire-io")
        for thread in ended:
            end_client_of(thread)
            thread.join(10)


def end_client_of(thread: threading.Thread) -> None:
    """End the client of a thread."""
    for portal in list(open_portals):
        if portal.thread is thread:
            portal.end_soon()


@pytest.mark.anyio
async def test_an_async_client_that_is_collected_ends_and_warns():
    """A collected async client leaves no task and no socket, and a ResourceWarning names the line that opened it."""
    async with LocalServer() as server:
        before = Held.now()
        tasks = asyncio.all_tasks()

        async def forget() -> None:
            client = await connect_async(server.url, server.anon_key)
            await client.channel("room").subscribe()

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await asyncio.create_task(forget())
            gc.collect()
        warned = [one for one in caught if "never closed" in str(one.message)]
        assert [(one.category, one.filename) for one in warned] == [(ResourceWarning, HERE)]
        assert warned[0].lineno in lines_of(forget)
        for _ in range(500):
            if asyncio.all_tasks() == tasks and not Held.now().since(before):
                break
            await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == tasks


def test_a_local_server_that_is_collected_ends_and_warns():
    """The thread of a collected server ends, and a ResourceWarning names the line that made the server."""

    def forget() -> None:
        LocalServer().start()

    warned = collected(forget)
    assert len(warned) == 1 and "a local server that was opened at" in warned[0]
    for thread in threads("supawire-local-server"):
        thread.join(10)
        assert not thread.is_alive()
