"""Phoenix' own client of long polling, as the official JavaScript client has it, against the local server."""

import pytest

from supawire import connect_async
from supawire.server import LocalServer

from .official import Process

pytestmark = pytest.mark.slow


async def test_the_official_client_can_poll(official_javascript: Process, server: LocalServer):
    """It joins, gets a confirmation and its own message, and one of our client, by long polling.

    With long polling it always encodes frames of version 2.0.0, which the local server serves as Phoenix does: as text.
    """
    peer = official_javascript.client()
    url = f"{server.url}/realtime/v1".replace("http", "ws", 1)
    await peer.request("open", url=url, key=server.anon_key, vsn="2.0.0", longpoll=True)
    assert await peer.join("room", echo=True, ack=True) == "SUBSCRIBED"
    assert await peer.request("send", topic="room", event="mine", payload={"a": 1}) == "ok"
    assert await peer.message() == ("mine", {"a": 1})
    async with connect_async(server.url, server.anon_key, protocol="1.0.0") as ours:
        room = ours.channel("room")
        await room.subscribe()
        await room.broadcast("ours", {"b": 2})
    assert await peer.message() == ("ours", {"b": 2})
    await peer.request("close")
