"""Types of the sync client: the same unions and checks as in the async client, without coroutines."""

from typing import Any, assert_type

from supawire import (
    Broadcast,
    Channel,
    Client,
    Gap,
    Insert,
    PresenceEvent,
    Sent,
    Stats,
    Status,
    Stream,
    Subscription,
    broadcast,
    changes,
    connect,
    presence,
)


def added(change: Insert[dict[str, Any]]) -> None: ...
async def added_later(change: Insert[dict[str, Any]]) -> None: ...
def takes_no_event() -> None: ...


def main() -> None:
    with connect("https://abc.supabase.co", "key") as client:
        assert_type(client, Client)
        assert_type(client.ping(), float)
        assert_type(client.stats(), Stats)
        assert_type(client.listen(), Stream[Status | Gap])
        with client.channel("room") as room:
            assert_type(room, Channel)
        assert_type(room.listen(broadcast("a"), presence()), Stream[Broadcast[Any] | PresenceEvent])
        for event in room.listen(changes("users", event="INSERT")):
            assert_type(event, Insert[dict[str, Any]])
        assert_type(next(room.listen(broadcast())), Broadcast[Any])
        assert_type(room.listen(broadcast()).get(timeout=1), Broadcast[Any])
        assert_type(room.on(changes("users", event="INSERT"), added), Subscription)
        assert_type(room.on(changes("users", event="INSERT"), added_later), Subscription)
        room.on(changes("users", event="DELETE"), added)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        room.on(broadcast(), takes_no_event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

        @room.on(broadcast("typing"))
        def typing(message: Broadcast[Any]) -> int:
            return 1

        assert_type(typing(Broadcast("t", "e", b"")), int)
        assert_type(room.broadcast("e", {}), Sent)
        room.subscribe(wait="sometime")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        room.subscribe(takes_no_event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        client.channel("room", {})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        client.channel("room", params={})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        room.send()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
