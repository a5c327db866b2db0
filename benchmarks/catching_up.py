"""Measure how fast stored messages are read: `python -m benchmarks.catching_up --messages 20000`.

A local server with PostgreSQL has the messages. Each line is one way of reading them all, in messages per second.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from typing import Any

from supawire import LocalServer, broadcast, connect, connect_async
from supawire.history import DatabaseHistory, SqliteCursors

SEND = "select realtime.send(jsonb_build_object('n', n), 'e', 'speed', true) from generate_series(1, %s::int) n"


def measure(server: LocalServer, messages: int, folder: str) -> dict[str, float]:
    """Return the messages per second of each way of reading."""
    with DatabaseHistory(server.database_url) as history, SqliteCursors(f"{folder}/cursors.db") as store:
        options: dict[str, Any] = {"token": server.token(), "history": history}

        async def stream(**more: Any) -> None:
            async with connect_async(server.url, server.anon_key, **options) as client:
                messages_left = client.channel("speed", private=True).listen(broadcast(), **more)
                for _ in range(messages):
                    await anext(messages_left)

        async def iterate() -> None:
            async with connect_async(server.url, server.anon_key, **options) as client:
                async for _ in client.channel("speed", private=True).history():
                    pass

        def stream_with_threads() -> None:
            with connect(server.url, server.anon_key, **options) as client:
                found = client.channel("speed", private=True).listen(broadcast(), from_=store, cursor_name="sync")
                for _ in range(messages):
                    next(found)

        def run(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
            return lambda: asyncio.run(work())

        ways: dict[str, Callable[[], None]] = {
            "history()": run(iterate),
            "listen(from_=0)": run(lambda: stream(from_=0)),
            "listen(from_=SqliteCursors), saved after each": run(lambda: stream(from_=store, cursor_name="each")),
            "the same, saved after 100": run(lambda: stream(from_=store, cursor_name="some", save_every=100)),
            "the same with the sync client, saved after each": stream_with_threads,
        }
        figures: dict[str, float] = {}
        for name, way in ways.items():
            began = time.process_time(), time.perf_counter()
            way()
            figures[name] = messages / (time.perf_counter() - began[1])
            cpu = 1e6 * (time.process_time() - began[0]) / messages
            print(f"{name:50} {figures[name]:8.0f}/s, {cpu:6.0f} µs CPU each")
        return figures


def main() -> None:
    """Read the arguments and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catching_up", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    given = parser.parse_args()
    with LocalServer(postgres=True) as server, tempfile.TemporaryDirectory() as folder:
        server.sql("create policy readers on realtime.messages for select to authenticated using (true)")
        for _ in range(0, given.messages, 100):
            server.sql(SEND, 100)
        measure(server, given.messages // 100 * 100, folder)


if __name__ == "__main__":
    main()
