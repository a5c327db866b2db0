"""Producers and readers of live streams with the hub in virtual time, also with random faults.

`python -m tests.aio.stream_scenarios --schedules 1000` plays random faults and prints what readers got.
"""

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec

from supawire import AsyncChannel, AsyncStreamReader, Backoff, StreamError, StreamResult
from supawire.errors import ClosedError, OperationTimeout, StateError
from supawire.testing import VirtualServer, VirtualTimeLoop

P = ParamSpec("P")
BACKOFF = Backoff(initial=0.5, maximum=2.0)


def in_virtual_time(function: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a plain test of a coroutine function, which runs in virtual time."""

    @wraps(function)
    def test(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(function(*args, **kwargs))

    return test


@asynccontextmanager
async def two(server: VirtualServer, *, ack: bool = True) -> AsyncGenerator[tuple[AsyncChannel, AsyncChannel]]:
    """Yield the channel of a producer and that of a reader, both joined."""
    async with (
        server.connect(backoff=BACKOFF) as one,
        server.connect(backoff=BACKOFF) as other,
        one.channel("room", ack=ack) as sends,
        other.channel("room") as reads,
    ):
        yield sends, reads


async def tokens(count: int, per_second: float = 100.0) -> AsyncIterator[str]:
    for number in range(count):
        await asyncio.sleep(1 / per_second)
        yield f"tök{number} "


async def send(channel: AsyncChannel, source: AsyncIterator[str], **options: Any) -> StreamResult:
    return await channel.stream(source, **options)


def text_of(count: int) -> str:
    return "".join(f"tök{number} " for number in range(count))


async def outcome(reader: AsyncStreamReader) -> str | StreamError:
    """Return the text of a stream, or the error."""
    try:
        return await reader.text()
    except StreamError as error:
        return error


async def with_faults(seed: int) -> tuple[str | StreamError, str]:
    """Send a stream while faults happen at random times; return what the reader has got, and what was sent."""
    chance = random.Random(seed)
    server = VirtualServer(seed=seed)
    count = chance.randrange(1, 400)

    async def break_things() -> None:
        for _ in range(chance.randrange(1, 6)):
            await asyncio.sleep(chance.uniform(0, 1.5))
            side = chance.choice([None, 1, 2])
            match chance.randrange(7):
                case 0:
                    server.refuse_connections(seconds=chance.uniform(0.1, 8))
                    server.drop_connections()
                case 1:
                    server.drop_connections(connection=side if server_has(server, side) else None)
                case 2:
                    server.drop_reply("broadcast", times=chance.randrange(1, 4))
                case 3:
                    server.delay_replies(chance.uniform(0, 3))
                case 4:
                    server.crash_channel("room")
                case 5:
                    server.close_channel("room")
                case _:
                    server.garbage()

    async with two(server, ack=chance.random() < 0.7) as (sends, reads):
        streams = reads.streams("s", idle=5)
        reader = await anext(streams)
        faults = asyncio.create_task(break_things())
        failed: BaseException | None = None
        try:
            await sends.stream(tokens(count), id="s", rate=chance.choice([5, 15, 50]))
        except (StateError, ClosedError, OperationTimeout) as error:
            failed = error
        await faults
        got = await outcome(reader)
        assert not (failed is None and isinstance(got, StreamError) and got.status == "corrupt")
        return got, text_of(count)


def server_has(server: VirtualServer, connection: int | None) -> bool:
    return connection is None or any(frame.connection == connection for frame in server.frames)


def play_faults(seed: int) -> str:
    """Play one schedule; return "complete", or the status of the error. Raises: AssertionError: the text is wrong."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        got, sent = runner.run(with_faults(seed))
    if isinstance(got, StreamError):
        return got.status
    assert got == sent, f"seed {seed}: a wrong text"
    return "complete"


def main() -> None:
    parser = argparse.ArgumentParser(description="Play random faults while a stream is sent.")
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule")
    options = parser.parse_args()
    print(dict(Counter(play_faults(options.seed + number) for number in range(options.schedules))))


if __name__ == "__main__":
    main()
