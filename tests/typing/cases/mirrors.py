"""Types of mirrors: rows are dicts, or objects of the model, in both clients and in every event."""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, assert_type

from supawire import (
    AsyncClient,
    AsyncMirror,
    AsyncStream,
    Client,
    Mirror,
    MirrorEvent,
    MirrorState,
    Resynced,
    RowDeleted,
    RowInserted,
    RowUpdated,
    Stream,
    col,
)
from supawire.errors import RealtimeError


@dataclass
class User:
    id: int
    name: str


def rows() -> list[dict[str, Any]]:
    return []


def generated() -> Iterator[Mapping[str, object]]:
    yield {}


async def fetched() -> list[dict[str, Any]]:
    return []


async def one_by_one() -> AsyncIterator[dict[str, Any]]:
    yield {}


async def fetched_one(key: dict[str, Any]) -> dict[str, Any] | None:
    return None


def one_row(key: dict[str, Any]) -> Mapping[str, object] | None:
    return None


async def with_the_async_client(client: AsyncClient) -> None:
    plain = client.mirror("users", key="id", fetch=fetched)
    assert_type(plain, AsyncMirror[dict[str, Any]])
    assert_type(plain[1], dict[str, Any])
    users = client.mirror("users", key=("a", "b"), fetch=one_by_one, model=User, where=col("a") == 1)
    assert_type(users, AsyncMirror[User])
    assert_type(users.listen(), AsyncStream[MirrorEvent[User]])
    assert_type(users.snapshot(), dict[Any, User])
    assert_type(users.get(1), User | None)
    async with users as entered:
        assert_type(entered, AsyncMirror[User])
        await users.ready()
        async for event in users.listen():
            print_event(event)
    for key, user in users.items():
        print(key)
        assert_type(user, User)
    assert_type(client.mirror("t", key="id", fetch=rows, fetch_row=fetched_one), AsyncMirror[dict[str, Any]])
    assert_type(users.incomplete, frozenset[Any])
    client.mirror("users", key="id", fetch=rows, fetch_row=rows)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.mirror("users", key="id")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    client.mirror("users", key=1, fetch=rows)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.mirror("users", key="id", fetch=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.mirror("users", key="id", fetch=rows, modle=User)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def print_event(event: MirrorEvent[User]) -> str:
    match event:
        case RowInserted():
            assert_type(event.row, User)
            return event.row.name
        case RowUpdated():
            assert_type(event.old, User)
            return event.row.name
        case RowDeleted():
            return event.old.name
        case Resynced():
            assert_type(event.rows, dict[Any, User])
            assert_type(event.changes, tuple[RowInserted[User] | RowUpdated[User] | RowDeleted[User], ...])
            return event.reason


def with_the_sync_client(client: Client) -> None:
    with client.mirror("users", key="id", fetch=rows, model=User, filter="a=eq.1", plain=True) as users:
        assert_type(users, Mirror[User])
        assert_type(users.listen(buffer=5), Stream[MirrorEvent[User]])
        assert_type(users.state, MirrorState)
        assert_type(users.error, RealtimeError | None)
        assert_type(users.live, bool)
        assert_type(list(users.values()), list[User])
        users.refresh()
        for event in users.listen():
            print_event(event)
    assert_type(client.mirror("t", key="id", fetch=generated), Mirror[dict[str, Any]])
    assert_type(client.mirror("t", key="id", fetch=rows, fetch_row=one_row), Mirror[dict[str, Any]])
