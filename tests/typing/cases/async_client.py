"""Types of the async client: iterators have the union of their events, handlers are checked against their selector."""

from typing import Any, assert_type

from supawire import (
    AsyncChannel,
    AsyncClient,
    AsyncStream,
    Broadcast,
    ClientOpener,
    Gap,
    Insert,
    PresenceEvent,
    Sent,
    Status,
    Subscription,
    System,
    broadcast,
    changes,
    connect_async,
    presence,
    status,
    system,
)


def added(change: Insert[dict[str, Any]]) -> None: ...
def takes_no_event() -> None: ...


async def main() -> None:
    opening = connect_async("https://abc.supabase.co", "key")
    assert_type(opening, ClientOpener[AsyncClient])
    async with opening as client:
        assert_type(client, AsyncClient)
        assert_type(await client.ping(), float)
        assert_type(client.listen(), AsyncStream[Status | Gap])
        room = client.channel("room")
        assert_type(room, AsyncChannel)
        assert_type(room.listen(broadcast()), AsyncStream[Broadcast[Any]])
        assert_type(
            room.listen(broadcast("a"), changes("users", event="INSERT")),
            AsyncStream[Broadcast[Any] | Insert[dict[str, Any]]],
        )
        assert_type(
            room.listen(broadcast(), presence(), system(), status()),
            AsyncStream[Broadcast[Any] | PresenceEvent | System | Status],
        )
        async for event in room.listen(changes("users", event="INSERT")):
            assert_type(event, Insert[dict[str, Any]])
        assert_type(room.on(changes("users", event="INSERT"), added), Subscription)
        room.on(changes("users", event="DELETE"), added)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        room.on(broadcast(), takes_no_event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

        @room.on(broadcast("typing"))
        async def typing(message: Broadcast[Any]) -> int:
            return 1

        assert_type(await typing(Broadcast("t", "e", b"")), int)
        assert_type(await room.broadcast("e", {}), Sent)
        await room.subscribe(wait="sometime")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await room.subscribe(takes_no_event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        client.channel("room", {})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        client.channel("room", params={})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        room.send()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
