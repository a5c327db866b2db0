"""One broadcast for each token against a live stream: `python -m benchmarks.streams`.

A producer sends 100 tokens a second, and readers receive them, on a local server. Prints for both ways the messages and
bytes that were sent, the messages that were delivered (which the hosted plans count), and the time from the first token
to its arrival; and for a reader who comes in the middle what it has, and how long that took.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from statistics import median

from supawire import AsyncChannel, Broadcast, LocalServer, broadcast, connect_async

TOKEN = "token "


async def tokens(seconds: float, per_second: float, started: list[float]) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    started.append(time.perf_counter())
    for number in range(int(seconds * per_second)):
        await asyncio.sleep(max(0.0, begin + number / per_second - loop.time()))
        yield TOKEN


async def measure(stack: AsyncExitStack, options: argparse.Namespace, *, merged: bool) -> dict[str, float]:
    server = await stack.enter_async_context(LocalServer())
    client = await stack.enter_async_context(connect_async(server.url, server.anon_key))
    room = await stack.enter_async_context(client.channel("room", ack=merged))
    firsts: list[float] = []
    delivered = 0

    def received(_: Broadcast) -> None:
        nonlocal delivered
        delivered += 1

    async def read(reads: AsyncChannel) -> None:
        first = anext(aiter(await anext(reads.streams()))) if merged else anext(reads.listen(broadcast("token")))
        await first
        firsts.append(time.perf_counter())

    readings: list[asyncio.Task[None]] = []
    for _ in range(options.readers):
        other = await stack.enter_async_context(connect_async(server.url, server.anon_key))
        reads = await stack.enter_async_context(other.channel("room"))
        reads.on(broadcast("stream" if merged else "token"), received)
        readings.append(asyncio.create_task(read(reads)))
    await asyncio.sleep(0.5)
    started: list[float] = []
    before = len(server.frames)
    source = tokens(options.seconds, options.rate, started)
    late: tuple[float, int] = (float("nan"), 0)

    async def come_late() -> None:
        nonlocal late
        other = await stack.enter_async_context(connect_async(server.url, server.anon_key))
        reads = await stack.enter_async_context(other.channel("room"))
        await asyncio.sleep(options.seconds / 2)
        begin = time.perf_counter()
        if merged:
            part = await anext(aiter(await anext(reads.streams())))
            late = time.perf_counter() - begin, len(part)
        else:
            await anext(reads.listen(broadcast("token")))
            late = time.perf_counter() - begin, len(TOKEN)

    coming = asyncio.create_task(come_late())
    if merged:
        await room.stream(source)
    else:
        async for token in source:
            await room.broadcast("token", {"text": token})
    await asyncio.gather(coming, *readings)
    await asyncio.sleep(0.2)
    sent = [frame for frame in server.frames[before:] if frame.user_event in ("stream", "token")]
    return {
        "messages sent a second": len(sent) / options.seconds,
        "bytes of payload sent": sum(len(str(frame.payload)) for frame in sent),
        f"messages delivered to {options.readers} readers": delivered,
        "first token, ms (median)": 1000 * (median(firsts) - started[0]),
        "late reader, ms": 1000 * late[0],
        "late reader has, characters": late[1],
    }


async def main(options: argparse.Namespace) -> None:
    results: list[dict[str, float]] = []
    for merged in (False, True):
        async with AsyncExitStack() as stack:
            results.append(await measure(stack, options, merged=merged))
    print(f"{options.rate:g} tokens a second for {options.seconds:g} s\n")
    print("| | one broadcast a token | stream |\n| --- | --- | --- |")
    for name in results[0]:
        print(f"| {name} | {results[0][name]:,.1f} | {results[1][name]:,.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100.0, help="tokens a second")
    parser.add_argument("--readers", type=int, default=20)
    asyncio.run(main(parser.parse_args()))
