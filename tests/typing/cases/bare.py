"""Generic types without a parameter pass strict checkers, and have the parameter of listeners without `model=`."""

from typing import Any, assert_type

from supawire import (
    AsyncChannel,
    AsyncMirror,
    AsyncStream,
    Broadcast,
    Change,
    Client,
    ClientOpener,
    Delete,
    Insert,
    Mirror,
    MirrorEvent,
    Presence,
    PresenceEvent,
    PresenceJoin,
    PresenceState,
    PresenceSync,
    Resynced,
    RowDeleted,
    RowInserted,
    RowUpdated,
    Selector,
    Stream,
    Update,
    broadcast,
    changes,
    presence,
)


def typing(message: Broadcast) -> None:
    assert_type(message.payload, Any)


def added(change: Insert) -> None:
    assert_type(change.record, dict[str, Any])


def changed(change: Update) -> None:
    assert_type(change.record, dict[str, Any])
    assert_type(change.old_record, dict[str, Any])


def deleted(change: Delete) -> None:
    assert_type(change.old_record, dict[str, Any])


def any_change(change: Change) -> None:
    match change:
        case Insert() | Update():
            assert_type(change.record, dict[str, Any])
        case Delete():
            deleted(change)


def any_presence(event: PresenceEvent) -> None:
    match event:
        case PresenceSync():
            full_state(event.state)
        case _:
            assert_type([entry.payload for entry in event.current], list[dict[str, Any]])


def joined(event: PresenceJoin) -> None:
    entry(event.current[0])


def entry(one: Presence) -> None:
    assert_type(one.payload, dict[str, Any])


def full_state(state: PresenceState) -> None:
    assert_type(state["alice"][0].payload, dict[str, Any])


def of_a_mirror(event: MirrorEvent, mirror: Mirror, live: AsyncMirror) -> None:
    match event:
        case RowInserted() | RowUpdated():
            assert_type(event.row, dict[str, Any])
        case RowDeleted():
            assert_type(event.old, dict[str, Any])
        case Resynced():
            assert_type(event.rows, dict[Any, dict[str, Any]])
    assert_type(mirror[1], dict[str, Any])
    assert_type(live[1], dict[str, Any])


def pick(selector: Selector, stream: Stream, events: AsyncStream, opening: ClientOpener) -> Selector:
    print(stream, events, opening)
    return selector


def register(channel: AsyncChannel, client: Client) -> None:
    channel.on(broadcast("typing"), typing)
    channel.on(changes("users", event="INSERT"), added)
    channel.on(changes("users"), any_change)
    channel.on(changes("users", event="DELETE"), deleted)
    channel.on(presence(), any_presence)
    full_state(channel.presence_state())
    for change in client.channel("db").listen(changes("users")):
        any_change(change)
