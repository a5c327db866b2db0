"""Our own libraries without our client: what receiving and decoding costs at the least.

`python -m benchmarks.clients.bare URL TOPIC SCENARIO`
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from benchmarks.clients.meter import Meter

decode = msgspec.json.Decoder().decode


def decode_binary(data: bytes) -> tuple[str, str, Any]:
    """Topic, event and payload of a user's broadcast: what a text frame says too."""
    topic_end = 5 + data[1]
    event_end = topic_end + data[2]
    return data[5:topic_end].decode(), data[topic_end:event_end].decode(), decode(data[event_end + data[3] :])


async def main(url: str, topic: str, scenario: str) -> None:
    """Join, then decode whatever comes."""
    meter = Meter()
    bindings = [{"event": "*", "schema": "public", "table": "todos"}] if scenario.startswith("change") else []
    url = f"{url.replace('http', 'ws')}/realtime/v1/websocket?apikey=key&vsn=2.0.0"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, decode_text=False, compress=0, max_msg_size=16_000_000) as socket,
        asyncio.TaskGroup() as tasks,
    ):
        await socket.send_json(["1", "1", f"realtime:{topic}", "phx_join", {"config": {"postgres_changes": bindings}}])
        for _ in range(2 if bindings else 1):
            await socket.receive()
        reader = tasks.create_task(read(socket, meter, decode_binary if scenario == "binary" else decode))
        await meter.obey()
        reader.cancel()


async def read(socket: aiohttp.ClientWebSocketResponse[bool], meter: Meter, decode: Callable[[bytes], object]) -> None:
    """The loop."""
    receive, text, binary = socket.receive, aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY
    while True:
        message = await receive()
        if message.type is not text and message.type is not binary:
            raise EOFError(str(message))
        decode(message.data)
        meter.left -= 1
        if not meter.left:
            meter.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
