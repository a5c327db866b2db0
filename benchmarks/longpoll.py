"""Long polling against a WebSocket: `python -m benchmarks.longpoll`. The server is the local one, in another process.

It prints for each the round trip of a broadcast with `ack=True`, one at a time, and the CPU time of the client for it;
and the rate of broadcasts that are sent 500 at a time and come back, and the CPU time of the client for each.
"""

import asyncio
import multiprocessing
import time
from multiprocessing.synchronize import Event

from supawire import connect_async
from supawire.selectors import broadcast
from supawire.server import LocalServer
from supawire.transport.longpoll import LongPollTransport

ROUND_TRIPS = 500
BURSTS = 10
BURST = 500


def serve(address: "multiprocessing.Queue[tuple[str, str]]", stop: Event) -> None:
    """Run a local server until `stop` is set."""
    with LocalServer() as server:
        address.put((server.url, server.anon_key))
        stop.wait()


async def measure(url: str, key: str, *, longpoll: bool) -> str:
    """Measure one transport and return its line."""
    transport = LongPollTransport() if longpoll else None
    async with connect_async(url, key, protocol="1.0.0", transport=transport) as client:
        acked = client.channel("acked", ack=True)
        await acked.subscribe()
        seconds: list[float] = []
        began = time.process_time()
        for number in range(ROUND_TRIPS):
            sent_at = time.perf_counter()
            await acked.broadcast("x", {"n": number})
            seconds.append(time.perf_counter() - sent_at)
        cpu = (time.process_time() - began) / ROUND_TRIPS
        seconds.sort()

        echoed = client.channel("echoed", echo=True)
        events = echoed.listen(broadcast(), buffer=BURSTS * BURST)
        await echoed.subscribe()
        began, began_at = time.process_time(), time.perf_counter()
        for _ in range(BURSTS):
            await asyncio.gather(*(echoed.broadcast("x", {"n": number}) for number in range(BURST)))
        count = BURSTS * BURST
        for _ in range(count):
            await anext(events)
        rate = count / (time.perf_counter() - began_at)
        each = (time.process_time() - began) / count
    return (
        f"{'long polling' if longpoll else 'WebSocket':12}  round trip {seconds[ROUND_TRIPS // 2] * 1e3:.2f} ms, "
        f"CPU {cpu * 1e3:.2f} ms; bursts {rate:,.0f}/s, CPU {each * 1e6:.0f} µs"
    )


def main() -> None:
    """Measure both, twice in turn."""
    address: multiprocessing.Queue[tuple[str, str]] = multiprocessing.Queue()
    stop = multiprocessing.Event()
    process = multiprocessing.Process(target=serve, args=(address, stop))
    process.start()
    try:
        url, key = address.get(timeout=30)
        for longpoll in (False, True, False, True):
            print(asyncio.run(measure(url, key, longpoll=longpoll)), flush=True)
    finally:
        stop.set()
        process.join()


if __name__ == "__main__":
    main()
