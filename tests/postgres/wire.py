"""Clients of a local server that show frames unchanged."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from supawire.core import binary
from supawire.server import LocalServer

PATIENCE = 30.0


class ReceivedFrame(NamedTuple):
    """A frame of the server. `binary`: it is of kind 4, and `payload` is raw bytes or JSON."""

    topic: str
    event: str
    payload: Any
    ref: str | None = None
    join_ref: str | None = None


def parse_frame(message: aiohttp.WSMessage) -> ReceivedFrame:
    """Parse a frame of either version; a user broadcast of kind 4 looks like its text form."""
    if message.type is aiohttp.WSMsgType.BINARY:
        frame = binary.unpack(binary.DOWN, message.data)
        assert frame.layout is binary.USER_BROADCAST
        topic, event, metadata = frame.fields
        body = json.loads(frame.payload) if frame.json else frame.payload
        meta = {"meta": json.loads(metadata)} if metadata else {}
        return ReceivedFrame(
            topic.decode(), "broadcast", {"type": "broadcast", "event": event.decode(), "payload": body, **meta}
        )
    assert message.type is aiohttp.WSMsgType.TEXT, message
    value = json.loads(message.data)
    if isinstance(value, dict):
        return ReceivedFrame(value["topic"], value["event"], value["payload"], value["ref"])
    join_ref, ref, topic, event, payload = value
    return ReceivedFrame(topic, event, payload, ref, join_ref)


class Wire:
    """One socket. `got` has every frame so far."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, v2: bool) -> None:
        self.ws = ws
        self.v2 = v2
        self.got: list[ReceivedFrame] = []
        self._ref = 0

    async def push(self, topic: str, event: str, payload: Any, *, join_ref: str | None = None) -> str:
        self._ref += 1
        ref = str(self._ref)
        frame: Any = [join_ref or ref, ref, topic, event, payload]
        if not self.v2:
            names = ("join_ref", "ref", "topic", "event", "payload")
            frame = dict(zip(names, frame, strict=True))
        await self.ws.send_str(json.dumps(frame))
        return ref

    async def join(self, topic: str = "realtime:lab", private: bool = True, **config: Any) -> Any:
        """Join and return the payload of the reply. A socket of these tests joins a topic once."""
        ref = await self.push(topic, "phx_join", {"config": {"private": private, **config}})
        return await self.reply(ref)

    async def request(self, topic: str, event: str, payload: Any, join_ref: str = "1") -> Any:
        """Push, and return the payload of the reply."""
        return await self.reply(await self.push(topic, event, payload, join_ref=join_ref))

    async def reply(self, ref: str) -> Any:
        return (await self.until(lambda frame: frame.event == "phx_reply" and frame.ref == ref)).payload

    async def broadcast(self) -> Any:
        """Return the payload of the next broadcast."""
        return (await self.until(lambda frame: frame.event == "broadcast")).payload

    async def system(self) -> Any:
        """Return the payload of the next system frame."""
        return (await self.until(lambda frame: frame.event == "system")).payload

    async def until(self, wanted: Callable[[ReceivedFrame], bool]) -> ReceivedFrame:
        """Return the next frame that matches; earlier ones are in `got`."""
        async with asyncio.timeout(PATIENCE):
            while True:
                frame = parse_frame(await self.ws.receive())
                self.got.append(frame)
                if wanted(frame):
                    return frame

    async def frames_before_heartbeat(self) -> list[ReceivedFrame]:
        """Send a heartbeat and return the frames that arrived before its reply."""
        before = len(self.got)
        await self.reply(await self.push("phoenix", "heartbeat", {}))
        return self.got[before:-1]


@asynccontextmanager
async def wire(
    server: LocalServer, token: str | None = None, vsn: str = "2.0.0", **headers: str
) -> AsyncGenerator[Wire]:
    """Open a socket with this token, or one of a signed-in user."""
    async with aiohttp.ClientSession() as http:
        query = {"vsn": vsn, "apikey": token or server.token()}
        url = f"{server.url}/socket/websocket"
        async with http.ws_connect(url, params=query, headers=headers, max_msg_size=0) as ws:
            yield Wire(ws, vsn.startswith("2"))
