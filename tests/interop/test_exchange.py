"""Messages between our client and the official ones, in both directions, through the local server."""

from asyncio import timeout
from typing import Any, Final

import pytest

from supawire import (
    ChannelState,
    JoinDeniedError,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    PresenceUpdate,
    broadcast,
    changes,
    presence,
    status,
)
from supawire.aio.stream import AsyncStream
from supawire.events import Sent

from .conftest import Pair
from .official import TIMEOUT

pytestmark = pytest.mark.slow

PAYLOADS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"n": 1, "text": "grüße ☃ 😀", "nested": {"list": [1, 2.5, None, True, "x"], "empty": []}},
    {"event": "x", "type": "y", "payload": {"z": 1}, "topic": "realtime:other"},
    {"long": "a" * 100_000},
)
BYTES: Final = bytes(range(256))


async def take(stream: AsyncStream[Any], kind: type | tuple[type, ...] = object) -> Any:
    """Return the next event, or the next one of these kinds."""
    async with timeout(TIMEOUT):
        async for event in stream:
            if isinstance(event, kind):
                return event
    raise AssertionError("the iterator ended")


def people(state: Any) -> dict[str, list[dict[str, Any]]]:
    return {key: [meta.payload for meta in metas] for key, metas in state.items()}


async def test_broadcasts_go_both_ways(pair: Pair):
    """All JSON payloads that the official clients support arrive unchanged, and acks are understood."""
    room = pair.ours.channel("room:lobby", ack=True)
    received = room.listen(broadcast())
    await room.subscribe()
    assert await pair.peer.join("room:lobby", ack=True) == "SUBSCRIBED"
    for number, payload in enumerate(PAYLOADS):
        assert await room.broadcast(f"ours-{number}", payload) == Sent("socket", acked=True)
        assert await pair.peer.message() == (f"ours-{number}", payload)
        assert await pair.peer.request("send", topic="room:lobby", event=f"theirs-{number}", payload=payload) == "ok"
        message = await take(received)
        assert (message.event, message.payload, message.id) == (f"theirs-{number}", payload, None)


async def test_names_with_many_bytes_go_both_ways(pair: Pair):
    """Topics and events are measured in bytes of UTF-8 on both sides."""
    topic, event = "räume/☃/😀", "é" * 120
    room = pair.ours.channel(topic)
    received = room.listen(broadcast(event))
    await room.subscribe()
    assert await pair.peer.join(topic) == "SUBSCRIBED"
    await room.broadcast(event, {"n": 1})
    assert await pair.peer.message() == (event, {"n": 1})
    await pair.peer.request("send", topic=topic, event=event, payload={"n": 2})
    assert (await take(received)).payload == {"n": 2}


async def test_bytes_go_both_ways_in_version_2(pair: Pair):
    """Bytes arrive unchanged between clients of 2.0.0; clients of 1.0.0 receive nothing and continue."""
    room = pair.ours.channel("bytes")
    received = room.listen(broadcast())
    await room.subscribe()
    assert await pair.peer.join("bytes") == "SUBSCRIBED"
    if pair.our_version == "2.0.0":
        await room.broadcast("raw", BYTES)
    await room.broadcast("after", {"n": 1})
    if pair.supports_bytes:
        assert await pair.peer.message() == ("raw", {"hex": BYTES.hex()})
    assert await pair.peer.message() == ("after", {"n": 1})

    if pair.peer_version == "2.0.0":
        await pair.peer.request("send", topic="bytes", event="raw", payload={"hex": BYTES.hex()})
    await pair.peer.request("send", topic="bytes", event="after", payload={"n": 2})
    if pair.supports_bytes:
        message = await take(received)
        assert (message.event, message.payload) == ("raw", BYTES)
    assert (await take(received)).payload == {"n": 2}


async def test_own_broadcasts_are_received_on_request(pair: Pair):
    """`echo` of ours and `self` of theirs mean the same: with it a sender receives its own broadcasts."""
    room = pair.ours.channel("echo", echo=True)
    received = room.listen(broadcast())
    await room.subscribe()
    assert await pair.peer.join("echo") == "SUBSCRIBED"
    await room.broadcast("ours", {})
    assert (await take(received)).event == "ours"
    assert (await pair.peer.message())[0] == "ours"
    await pair.peer.request("send", topic="echo", event="theirs", payload={})
    assert (await take(received)).event == "theirs"
    await room.broadcast("last", {})
    assert (await pair.peer.message())[0] == "last"


async def test_presence_is_received_by_both(pair: Pair):
    """Each receives joins, changes and leaves of the other, and both have the same state."""
    room = pair.ours.channel("presence", presence_key="ours")
    presences = room.listen(presence())
    await room.subscribe()
    assert people((await take(presences, PresenceSync)).state) == {}
    assert await pair.peer.join("presence", presence="theirs") == "SUBSCRIBED"

    await room.track({"at": "desk"})
    assert (await pair.peer.next("join"))["key"] == "ours"
    assert await pair.peer.request("track", topic="presence", payload={"at": "door", "n": 1}) == "ok"
    joined = await take(presences, PresenceJoin)
    while joined.key != "theirs":
        joined = await take(presences, PresenceJoin)
    both = {"ours": [{"at": "desk"}], "theirs": [{"at": "door", "n": 1}]}
    assert (await pair.peer.next("sync", lambda event: len(event["state"]) == 2))["state"] == both
    assert people(room.presence_state()) == both

    await pair.peer.request("track", topic="presence", payload={"at": "window"})
    update = await take(presences, PresenceUpdate)
    assert (update.key, [meta.payload for meta in update.current]) == ("theirs", [{"at": "window"}])
    await room.track({"at": "sofa"})
    await pair.peer.next("sync", lambda event: event["state"].get("ours") == [{"at": "sofa"}])

    assert await pair.peer.request("untrack", topic="presence") == "ok"
    assert (await take(presences, PresenceLeave)).key == "theirs"
    pair.peer.discard()  # it also received an empty state at the beginning
    await room.untrack()
    await pair.peer.next("sync", lambda event: event["state"] == {})
    assert await pair.peer.request("state", topic="presence") == {}
    assert people(room.presence_state()) == {}


async def test_leaving_a_channel_removes_the_presence(pair: Pair):
    """Leaving a channel on either side removes its presence on the other."""
    room = pair.ours.channel("theirs-leaves")
    presences = room.listen(presence())
    await room.subscribe()
    assert await pair.peer.join("theirs-leaves", presence="theirs") == "SUBSCRIBED"
    assert await pair.peer.request("track", topic="theirs-leaves", payload={}) == "ok"
    assert (await take(presences, PresenceJoin)).key == "theirs"
    assert await pair.peer.request("leave", topic="theirs-leaves") == "ok"
    assert (await take(presences, PresenceLeave)).key == "theirs"

    room = pair.ours.channel("ours-leaves", presence_key="ours")
    await room.subscribe()
    assert await pair.peer.join("ours-leaves", presence="theirs") == "SUBSCRIBED"
    await room.track({})
    await pair.peer.next("sync", lambda event: "ours" in event["state"])
    await room.unsubscribe()
    await pair.peer.next("leave", lambda event: event["key"] == "ours")


async def test_changes_reach_both(pair: Pair):
    """Inserts, updates and deletes arrive at the matching bindings of both sides, with the same rows."""
    pair.owner.orders()
    room = pair.ours.channel("db")
    everything, paid = room.listen(changes("orders")), room.listen(changes("orders", filter="status=eq.paid"))
    await room.subscribe(wait="ready")
    bindings = (
        {"event": "*", "schema": "public", "table": "orders"},
        {"event": "UPDATE", "schema": "public", "table": "orders", "filter": "status=eq.paid"},
    )
    assert await pair.peer.join("db", changes=bindings) == "SUBSCRIBED"
    await pair.peer.next("system", lambda event: event["payload"]["extension"] == "postgres_changes")
    new, old = {"id": 7, "status": "new", "tags": ["a"]}, {"id": 7}
    pair.owner.insert("orders", new)
    pair.owner.update({**new, "status": "paid"})
    pair.owner.delete(7)
    pair.owner.insert("customers", {"id": 1})

    insert, update, delete = [await take(everything) for _ in range(3)]
    assert (insert.type, insert.record) == ("INSERT", new)
    assert (update.type, update.record, update.old_record) == ("UPDATE", {**new, "status": "paid"}, old)
    assert (delete.type, delete.old_record) == ("DELETE", old)
    assert (await take(paid)).record == update.record

    theirs = [await pair.peer.next("change", lambda event: event["number"] == 0) for _ in range(3)]
    rows = [(change["type"], change["record"], change["old_record"]) for change in theirs]
    assert rows == [("INSERT", new, {}), ("UPDATE", update.record, old), ("DELETE", {}, old)]
    filtered = await pair.peer.next("change", lambda event: event["number"] == 1)
    assert (filtered["type"], filtered["record"]) == ("UPDATE", update.record)


async def test_stored_messages_reach_both(pair: Pair):
    """A message sent by the database arrives on a private channel with the same id on both sides."""
    room = pair.ours.channel("stored", private=True)
    received = room.listen(broadcast())
    await room.subscribe()
    assert await pair.peer.join("stored", private=True) == "SUBSCRIBED"
    number = pair.owner.send("stored", "note", {"n": 1})
    message = await take(received)
    assert (message.payload, message.id) == ({"n": 1, "id": number}, number)
    theirs = await pair.peer.next("broadcast")
    assert (theirs["payload"], theirs["meta"]) == ({"n": 1, "id": number}, {"id": number})


async def test_stored_messages_are_replayed_to_both(pair: Pair):
    """A join with replay receives the stored messages, marked as replayed, on both sides."""
    number = pair.owner.send("history", "note", {"n": 1})
    room = pair.ours.channel("history", private=True, replay_since=0, replay_limit=5)
    received = room.listen(broadcast())
    await room.subscribe()
    message = await take(received)
    assert (message.payload["n"], message.id, message.replayed) == (1, number, True)
    assert await pair.peer.join("history", private=True, replay={"since": 0, "limit": 5}) == "SUBSCRIBED"
    assert (await pair.peer.next("broadcast"))["meta"] == {"id": number, "replayed": True}


async def test_policies_apply_to_both(pair: Pair):
    """A policy denies both a private channel, and allows another; the public channel is separate."""
    pair.owner.allow_topic("open")
    with pytest.raises(JoinDeniedError, match="Unauthorized"):
        await pair.ours.channel("closed", private=True).subscribe()
    assert "Unauthorized" in await pair.peer.join("closed", private=True)
    room = pair.ours.channel("open", private=True)
    received = room.listen(broadcast())
    await room.subscribe()
    assert await pair.peer.join("open", private=True) == "SUBSCRIBED"
    pair.server.broadcast("open", "public", {})
    await pair.peer.request("send", topic="open", event="private", payload={})
    assert (await take(received)).event == "private"


async def test_a_token_refresh_works_for_both(pair: Pair):
    """After a token refresh on either side the channels continue."""
    room = pair.ours.channel("token", private=True)
    received = room.listen(broadcast())
    await room.subscribe()
    assert await pair.peer.join("token", private=True) == "SUBSCRIBED"
    await pair.peer.request("set_auth", token=pair.server.token(fresh="theirs"))
    await pair.ours.set_auth(pair.server.token(fresh="ours"))
    await room.broadcast("ours", {})
    assert (await pair.peer.message())[0] == "ours"
    await pair.peer.request("send", topic="token", event="theirs", payload={})
    assert (await take(received)).event == "theirs"
    refresh_frames = [frame for frame in pair.server.frames if frame.event == "access_token"]
    assert len({frame.connection for frame in refresh_frames}) == 2


async def test_http_messages_of_official_clients_arrive(pair: Pair):
    """Messages of the official clients over HTTP arrive, bytes too where our version supports them."""
    room = pair.ours.channel("http/ü")
    received = room.listen(broadcast())
    await room.subscribe()
    assert await pair.peer.join("http/ü") == "SUBSCRIBED"
    if pair.our_version == "2.0.0":
        await pair.peer.request("http", topic="http/ü", event="raw", payload={"hex": BYTES.hex()})
        assert (await take(received)).payload == BYTES
    await pair.peer.request("http", topic="http/ü", event="a b/c", payload={"n": 1})
    message = await take(received)
    assert (message.event, message.payload) == ("a b/c", {"n": 1})


async def test_both_reconnect_after_a_lost_connection(pair: Pair):
    """When every socket is dropped, both reconnect and receive each other's messages and presence."""
    room = pair.ours.channel("again", presence_key="ours")
    received, moves = room.listen(broadcast()), room.listen(status())
    await room.subscribe()
    await room.track({"n": 1})
    assert await pair.peer.join("again", presence="theirs") == "SUBSCRIBED"
    await pair.peer.next("sync", lambda event: "ours" in event["state"])
    pair.peer.discard()
    pair.server.drop_connections()
    for state in (ChannelState.WAITING, ChannelState.JOINED):
        while (await take(moves)).state is not state:
            pass
    await pair.peer.next("status", lambda event: event["status"] == "CHANNEL_ERROR")
    await pair.peer.next("status", lambda event: event["status"] == "SUBSCRIBED")
    await pair.peer.next("sync", lambda event: event["state"] == {"ours": [{"n": 1}]})
    await pair.peer.request("send", topic="again", event="theirs", payload={})
    assert (await take(received)).event == "theirs"
    await room.broadcast("ours", {})
    assert (await pair.peer.message())[0] == "ours"
