"""The official Python client, in an environment of its own: `python -m benchmarks.clients.official URL TOPIC SCENARIO`.

It speaks version 1.0.0 only, and knows no types of columns.
"""

import asyncio
import sys
from typing import Any

from realtime import AsyncRealtimeClient  # pyright: ignore[reportMissingImports]

from benchmarks.clients.meter import Meter


async def main(url: str, topic: str, scenario: str) -> None:
    """Join with the listener of this scenario, then let it count."""
    meter = Meter()
    client: Any = AsyncRealtimeClient(f"{url.replace('http', 'ws')}/realtime/v1", token="key")
    channel = client.channel(topic)

    def message(event: dict[str, Any]) -> None:
        _ = event["payload"]
        meter.left -= 1
        if not meter.left:
            meter.stop()

    def change(event: dict[str, Any]) -> None:
        _ = event["data"]["record"]
        meter.left -= 1
        if not meter.left:
            meter.stop()

    if scenario.startswith("change"):
        channel.on_postgres_changes("*", change, table="todos", schema="public")
    else:
        channel.on_broadcast("cursor", message)
    joined = asyncio.Event()
    await channel.subscribe(lambda state, error: joined.set())
    await joined.wait()
    await meter.obey()
    await client.remove_all_channels()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
