"""A loop of supawire's libraries without a client: the minimum for receiving and decoding, or encoding and sending.

`python -m benchmarks.clients.bare URL TOPIC TASK`
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from benchmarks.clients.meter import Meter, above_pauses, breath, round_trips
from benchmarks.frames import EVENT, message, table_of, topic_of
from benchmarks.scenarios import Task

Socket = aiohttp.ClientWebSocketResponse[bool]

decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode


def decode_binary(data: bytes) -> tuple[str, str, Any]:
    """Return topic, event and payload of a broadcast in a binary frame."""
    topic_end = 5 + data[1]
    event_end = topic_end + data[2]
    return data[5:topic_end].decode(), data[topic_end:event_end].decode(), decode(data[event_end + data[3] :])


def encode_binary(ref: int, topic: str, event: str, payload: Any) -> bytes:
    """Return a broadcast as a binary frame to the server."""
    fields = [b"1", b"%d" % ref, topic.encode(), event.encode(), b""]
    return b"".join((bytes((3, *map(len, fields), 1)), *fields, encode(payload)))


async def main(url: str, topic: str, text: str) -> None:
    """Join, then execute the task."""
    task, meter = Task(**json.loads(text)), Meter()
    topic = f"realtime:{topic}"
    async with connected(url) as socket, asyncio.TaskGroup() as tasks:
        if task.does == "state":
            await meter.obey(state_taker(socket, topic, task.members))
            return
        await join(socket, topic, task)
        if task.does == "receive":
            reader = tasks.create_task(read(socket, meter, decode_binary if task.kind == "binary" else decode))
            await meter.obey()
            reader.cancel()
        else:
            await meter.obey((sender if task.does == "send" else acked)(socket, topic))


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Socket]:
    """Open a socket."""
    url = f"{url.replace('http', 'ws')}/realtime/v1/websocket?apikey=key&vsn=2.0.0"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, decode_text=False, compress=0, max_msg_size=16_000_000) as socket,
    ):
        yield socket


async def join(socket: Socket, topic: str, task: Task) -> None:
    """Join, and wait for all frames that precede the data."""
    bindings = [{"event": "*", "schema": "public", "table": table_of(number)} for number in range(task.bindings)]
    presence = {"enabled": bool(task.members), "key": str(task.members or "")}
    config = {"postgres_changes": bindings, "presence": presence, "broadcast": {"ack": task.does == "ack"}}
    for number in range(task.channels):
        await socket.send_str(encode(["1", "1", topic_of(topic, number), "phx_join", {"config": config}]).decode())
    for _ in range(task.channels * (1 + bool(bindings) + bool(task.members))):
        await socket.receive()


async def read(socket: Socket, meter: Meter, decode: Callable[[bytes], object]) -> None:
    """Receive and decode frames in a loop."""
    receive, text, binary = socket.receive, aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY
    while True:
        message = await receive()
        if message.type is not text and message.type is not binary:
            raise EOFError(str(message))
        decode(message.data)
        meter.left -= 1
        if not meter.left:
            meter.stop()


Act = Callable[[int], Awaitable[dict[str, float] | None]]


def sender(socket: Socket, topic: str) -> Act:
    """Return a function that sends broadcasts as text, which costs less here than building binary frames."""
    payloads = [message(number) for number in range(512)]
    text = aiohttp.WSMsgType.TEXT

    async def send(count: int) -> None:
        for number in range(count):
            body = {"type": "broadcast", "event": EVENT, "payload": payloads[number % 512]}
            await socket.send_frame(encode(["1", str(number), topic, "broadcast", body]), text)
            await breath(number)

    return lambda count: above_pauses(count, send)


def acked(socket: Socket, topic: str) -> Act:
    """Return a function that sends broadcasts, each after the ack of the previous one."""
    payload = message(1)

    async def once() -> None:
        await socket.send_bytes(encode_binary(1, topic, EVENT, payload))
        decode((await socket.receive()).data)

    return lambda count: round_trips(count, once)


def state_taker(socket: Socket, topic: str, members: int) -> Act:
    """Return a function that joins channels with many members and decodes the presence state."""
    presence = {"enabled": True, "key": str(members)}
    asked = encode(["1", "1", topic, "phx_join", {"config": {"presence": presence}}]).decode()

    async def take(count: int) -> None:
        for _ in range(count):
            await socket.send_str(asked)
            await socket.receive()
            assert len(decode((await socket.receive()).data)[4]) == members

    return take


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
