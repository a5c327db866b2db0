"""Types of streams from a cursor and of stored messages."""

from dataclasses import dataclass
from typing import Any, assert_type

from supawire import (
    AsyncClient,
    AsyncHistory,
    AsyncMessageStream,
    AsyncStream,
    Broadcast,
    Client,
    Cursor,
    Gap,
    History,
    MessageStream,
    StoredBroadcast,
    broadcast,
)
from supawire.history import DatabaseHistory, HistorySource, SqliteCursors


@dataclass
class Move:
    x: int


async def async_streams(client: AsyncClient, store: SqliteCursors, cursor: Cursor) -> None:
    room = client.channel("room", private=True)
    assert_type(room.listen(broadcast()), AsyncStream[Broadcast[Any]])
    assert_type(room.listen(broadcast("move", model=Move), from_=store), AsyncMessageStream[Move])
    assert_type(room.history(), AsyncHistory[Any])
    async for message in room.listen(broadcast("move", model=Move), from_=cursor, commit="manual"):
        assert_type(message, StoredBroadcast[Move] | Gap)
        if not isinstance(message, Gap):
            assert_type(message.payload, Move)
            assert_type(message.cursor, Cursor | None)


def sync_streams(client: Client, store: SqliteCursors) -> None:
    room = client.channel("room", private=True)
    assert_type(room.listen(broadcast("move", model=Move), from_=store), MessageStream[Move])
    assert_type(room.history(broadcast("move", model=Move), since=0.0), History[Move])
    for message in room.listen(broadcast(), from_=store):
        assert_type(message, StoredBroadcast[Any] | Gap)


def sources(history: DatabaseHistory) -> HistorySource:
    return history
