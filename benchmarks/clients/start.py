"""The cost of starting a program: `python benchmarks/clients/start.py CLIENT URL TOPIC TASK`.

It is run as a file and imports almost nothing, so that the measured cost of an import belongs to the client.
"""

import sys
import time

STATEMENTS = {
    "ours": "import supawire",
    "bare": "import aiohttp, msgspec",
    "official": "import realtime",
}


def main(client: str, url: str, topic: str, task: str) -> None:
    """Measure the CPU and wall-clock seconds of an import, or of everything up to the first joined channel."""
    print("joined", flush=True)
    sys.stdin.readline()
    print("ready", flush=True)
    began = time.process_time(), time.perf_counter()
    exec(STATEMENTS[client], {})
    if '"start"' in task:
        connect(client, url, topic, fast='"fast": true' in task)
    cpu, wall = time.process_time(), time.perf_counter()
    print(f'{{"cpu": {cpu - began[0]}, "wall": {wall - began[1]}}}', flush=True)


def connect(client: str, url: str, topic: str, *, fast: bool) -> None:
    """Open a client, join one channel, close."""
    sys.path.insert(0, "")
    import asyncio
    from contextlib import AsyncExitStack

    from benchmarks.clients.cold import opener

    async def once() -> None:
        async with AsyncExitStack() as stack:
            await opener(client, fast=fast)(url, topic, 1, stack)

    asyncio.run(once())


if __name__ == "__main__":
    main(*sys.argv[1:])
