"""Broadcasts that the server stores (`persist=`), and joins that wait until changes are live (`wait=`)."""

from typing import Any

import pytest

from supawire import Broadcast, LocalServer, broadcast, changes
from supawire.errors import InvalidArgumentError, JoinError, PushError, StateError
from tests.clients.client_api import ClientApi

pytestmark = pytest.mark.anyio


async def test_a_persisted_broadcast_is_delivered_and_can_be_replayed(api: ClientApi, server: LocalServer):
    """`persist=True` stores a broadcast: the sender gets its id, and a later join receives it by replay."""
    async with api.client(server, token=server.token()) as client:
        room = client.inner.channel("room", private=True, ack=True, echo=True)
        proxy = await client.channel("room")
        async with await proxy.listen(broadcast("move")) as stream:
            await proxy.subscribe()
            sent = await proxy.broadcast("move", {"x": 1}, persist=True)
            live = await stream.next()
        assert sent.acked
        assert sent.id is not None
        assert live == Broadcast("room", "move", {"x": 1})  # the live copy has no id
        await client.remove_channel(room)
        later = await client.channel("room", private=True, replay_since=0)
        async with await later.listen(broadcast("move")) as stream:
            assert await stream.next() == Broadcast("room", "move", {"x": 1}, sent.id, replayed=True)


async def test_a_persisted_message_of_bytes_is_replayed(api: ClientApi, server: LocalServer):
    """Bytes are stored as bytes, here for a limited time."""
    async with api.client(server, token=server.token()) as client:
        room = await client.channel("room", private=True, ack=True)
        await room.subscribe()
        await room.broadcast("blob", b"\x00\xff", persist=60)
        async with api.client(server, token=server.token()) as other:
            later = await other.channel("room", private=True, replay_since=0)
            async with await later.listen(broadcast()) as stream:
                event = await stream.next()
        assert (event.payload, event.replayed) == (b"\x00\xff", True)


async def test_a_message_that_the_server_does_not_store_is_an_error(api: ClientApi):
    """Without the right to store, the server delivers the message, and the sender gets a PushError that says so."""

    def policy(claims: Any, topic: str, extension: str, action: str) -> bool:
        return extension != "persistence"

    with LocalServer() as server:
        server.policy(policy)
        async with api.client(server) as client:
            room = await client.channel("room", private=True, ack=True, echo=True)
            async with await room.listen(broadcast()) as stream:
                await room.subscribe()
                with pytest.raises(PushError, match="delivered the broadcast and did not store it"):
                    await room.broadcast("move", {}, persist=True)
                assert (await stream.next()).event == "move"


async def test_a_message_that_may_not_be_sent_is_refused(api: ClientApi):
    """Without the right to send, a message to be stored is refused and not delivered."""

    def policy(claims: Any, topic: str, extension: str, action: str) -> bool:
        return action == "read"

    with LocalServer() as server:
        server.policy(policy)
        async with api.client(server) as client:
            room = await client.channel("room", private=True, ack=True)
            await room.subscribe()
            with pytest.raises(PushError, match="unauthorized"):
                await room.broadcast("move", {}, persist=True)


@pytest.mark.parametrize("persist", [0, -1, 259_201, 1.5, "1", None, {"ttl": 5}])
async def test_a_wrong_persist_is_refused_at_once(api: ClientApi, server: LocalServer, persist: Any):
    """`persist` is a bool or a whole number of seconds from 1 to 72 hours."""
    async with api.client(server, token=server.token()) as client:
        room = await client.channel("room", private=True, ack=True)
        await room.subscribe()
        with pytest.raises(InvalidArgumentError, match="persist"):
            await room.broadcast("move", {}, persist=persist)


async def test_persist_is_refused_where_it_cannot_work(api: ClientApi, server: LocalServer):
    """Public channels, channels without ack, protocol 1.0.0 and HTTP cannot store: each is refused before sending."""
    token = server.token()
    async with api.client(server, token=token) as client:
        public = await client.channel("public", ack=True)
        await public.subscribe()
        with pytest.raises(InvalidArgumentError, match="private=True"):
            await public.broadcast("move", {}, persist=True)
        silent = await client.channel("silent", private=True)
        await silent.subscribe()
        with pytest.raises(StateError, match="ack=True"):
            await silent.broadcast("move", {}, persist=True)
    async with api.client(server, token=token, protocol="1.0.0") as client:
        room = await client.channel("room", private=True, ack=True)
        await room.subscribe()
        with pytest.raises(InvalidArgumentError, match=r"protocol='1\.0\.0'"):
            await room.broadcast("move", {}, persist=True)
    async with api.client(server, token=token, offline="http") as client:
        room = await client.channel("room", private=True, ack=True)
        with pytest.raises(StateError, match="by HTTP no answer"):
            await room.broadcast("move", {}, persist=True)
    assert not [frame for frame in server.frames if frame.event == "broadcast"]


async def test_a_join_can_wait_until_changes_are_live(api: ClientApi, server: LocalServer):
    """With `wait`, the join asks the server to answer when changes are live, and changes arrive after `subscribe`."""
    async with api.client(server) as client:
        room = await client.channel("db", wait=5.0)
        async with await room.listen(changes("notes")) as stream:
            await room.subscribe()
            server.emit("INSERT", "notes", record={"id": 1})
            assert (await stream.next()).record == {"id": 1}
    (join,) = [frame for frame in server.frames if frame.event == "phx_join"]
    assert join.payload["config"]["postgres_changes_options"] == {"wait": True, "timeout": 5000}


async def test_a_join_that_waits_for_a_wrong_binding_is_refused(api: ClientApi, server: LocalServer):
    """With `wait`, a filter that the server cannot parse makes `subscribe` raise."""
    async with api.client(server) as client:
        room = await client.channel("db", wait=True)
        async with await room.listen(changes("notes", schema="missing", filter="id=eq.x")):
            await room.subscribe()  # without a database every table is known
    with LocalServer() as strict:
        strict.reject_join("db", "RealtimeDisabledForConfiguration: unknown table")
        async with api.client(strict) as client:
            room = await client.channel("db", wait=True)
            async with await room.listen(changes("notes")):
                with pytest.raises(JoinError, match="unknown table"):
                    await room.subscribe()


@pytest.mark.parametrize("wait", [0, -1, "yes", None])
async def test_a_wrong_wait_is_refused(api: ClientApi, server: LocalServer, wait: Any):
    """`wait` is a bool or seconds above 0."""
    async with api.client(server) as client:
        with pytest.raises(InvalidArgumentError, match="wait"):
            await client.channel("db", wait=wait)
