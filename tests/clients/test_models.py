"""`model=` with both clients."""

import logging
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from supawire import (
    Broadcast,
    Delete,
    HandlerError,
    Insert,
    InvalidArgumentError,
    LocalServer,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    PresenceUpdate,
    RowError,
    Update,
    broadcast,
    changes,
    presence,
)
from tests.clients.client_api import ClientApi, until

pytestmark = pytest.mark.anyio


@dataclass
class User:
    id: int
    name: str


class UserDict(TypedDict):
    id: int
    name: str


class UserStruct(msgspec.Struct):
    id: int
    name: str


class UserModel(pydantic.BaseModel):
    id: int
    name: str


ALICE: dict[str, Any] = {"id": 1, "name": "alice"}
BOB: dict[str, Any] = {"id": 2, "name": "bob"}


@pytest.mark.parametrize("model", [User, UserDict, UserStruct, UserModel])
async def test_iterators_and_handlers_get_objects(api: ClientApi, server: LocalServer, model: Any):
    """Rows and payloads arrive as objects of the selector's class, in iterators and in handlers (R42)."""
    handled: list[Any] = []
    async with api.client(server) as client:
        room = await client.channel("db", echo=True)
        events = await room.listen(changes("users", model=model), broadcast("hello", model=model))
        await room.on(changes("users", event="INSERT", model=model), lambda change: handled.append(change.record))
        await room.on(broadcast("hello", model=model), lambda message: handled.append(message.payload))
        await room.subscribe(wait="ready")
        server.emit("INSERT", "users", record=ALICE)
        inserted = await events.next()
        server.emit("UPDATE", "users", record=BOB, old_record=ALICE)
        updated = await events.next()
        server.emit("DELETE", "users", old_record={"id": 2})
        deleted = await events.next()
        await room.broadcast("hello", ALICE)
        message = await events.next()
        await until(lambda: len(handled) == 2)
    assert isinstance(inserted, Insert) and inserted.record == model(**ALICE)
    assert isinstance(updated, Update) and (updated.record, updated.old_record) == (model(**BOB), ALICE)
    assert isinstance(deleted, Delete) and deleted.old_record == {"id": 2}
    assert isinstance(message, Broadcast) and message.payload == model(**ALICE)
    assert handled == [model(**ALICE), model(**ALICE)]


@pytest.mark.parametrize("model", [User, UserDict, UserStruct, UserModel])
async def test_presence_arrives_as_objects(api: ClientApi, server: LocalServer, model: Any):
    """Entries of all presence events, and of the state, are objects; a listener without a model receives dicts
    (R42)."""
    handled: list[Any] = []
    threaded: list[Any] = []

    def handle(event: Any) -> None:
        if isinstance(event, PresenceSync):
            handled.extend(entry.payload for entries in event.state.values() for entry in entries)

    def handle_in_thread(event: Any) -> None:
        if isinstance(event, PresenceSync):
            threaded.extend(entry.payload for entries in event.state.values() for entry in entries)

    async with api.client(server) as client:
        room = await client.channel("room", presence_key="alice")
        people = await room.listen(presence(model=model))
        plain = await room.listen(presence())
        await room.on(presence(model=model), handle)
        await room.on(presence(model=model), handle_in_thread, thread=True)
        await room.subscribe()
        await room.track(ALICE)
        first, joined, sync = await people.take(3)
        assert isinstance(first, PresenceSync) and isinstance(joined, PresenceJoin) and isinstance(sync, PresenceSync)
        assert [entry.payload for entry in sync.state["alice"]] == [model(**ALICE)]
        await until(lambda: len(handled) == len(threaded) == 1)  # a state is the one at its first read
        await room.track(BOB)
        updated, _ = await people.take(2)
        await until(lambda: len(handled) == len(threaded) == 2)
        await room.untrack()
        left, empty = await people.take(2)
        _, seen = await plain.take(2)
        assert (await room.presence_state()) == {}
    assert [entry.payload for entry in joined.current] == [model(**ALICE)]
    assert isinstance(updated, PresenceUpdate)
    assert [entry.payload for entry in (*updated.current, *updated.previous)] == [model(**BOB), model(**ALICE)]
    assert isinstance(left, PresenceLeave) and [entry.payload for entry in left.previous] == [model(**BOB)]
    assert isinstance(empty, PresenceSync) and dict(empty.state) == {}
    assert [entry.payload for entry in seen.current] == [ALICE]
    assert handled == threaded == [model(**ALICE), model(**BOB)]


async def test_an_iterator_continues_after_a_row_that_does_not_fit(api: ClientApi, server: LocalServer):
    """R42: a row that does not fit raises RowError with the row when it is read, and the iterator yields the next
    event."""
    async with api.client(server) as client:
        room = await client.channel("db")
        users = await room.listen(changes("users", model=User))
        await room.subscribe(wait="ready")
        server.emit("INSERT", "users", record={"id": "x", "name": "alice"})
        server.emit("INSERT", "users", record=BOB)
        bad, good = await users.take(2)
    with pytest.raises(RowError, match="id: Expected `int`") as caught:
        _ = bad.record
    assert caught.value.raw is not None and msgspec.json.decode(caught.value.raw) == {"id": "x", "name": "alice"}
    assert bad.row == {"id": "x", "name": "alice"}
    assert good.record == User(**BOB)


@pytest.mark.parametrize("how", ["plain", "async", "threaded"])
async def test_a_misfit_in_a_handler_reaches_on_error(api: ClientApi, server: LocalServer, how: str):
    """R42: a payload that does not fit raises RowError in the handler, which goes to `on_error`, and the handler is
    called again."""
    errors: list[Exception] = []
    names: list[str] = []

    def handle(message: Any) -> None:
        names.append(message.payload.name)

    async def handle_async(message: Any) -> None:
        names.append(message.payload.name)

    async with api.client(server, on_error=errors.append) as client:
        room = await client.channel("room")
        handler = handle_async if how == "async" else handle
        await room.on(broadcast("hello", model=UserStruct), handler, **({"thread": True} if how == "threaded" else {}))
        await room.subscribe()
        server.broadcast("room", "hello", {"id": 1})
        server.broadcast("room", "hello", BOB)
        await until(lambda: errors and names)
    (error,) = errors
    assert names == ["bob"]
    assert isinstance(error, HandlerError) and error.topic == "room"
    assert handler.__qualname__ in error.message
    assert isinstance(error.__cause__, RowError) and error.__cause__.raw == b'{"id":1}'


async def test_the_log_of_a_row_that_does_not_fit_shows_no_value(
    api: ClientApi, server: LocalServer, caplog: pytest.LogCaptureFixture
):
    """R48: without `on_error` the RowError is logged without any value of the payload."""
    async with api.client(server) as client:
        room = await client.channel("room")
        await room.on(broadcast("hello", model=UserModel), lambda message: message.payload)
        await room.subscribe()
        with caplog.at_level(logging.ERROR, "supawire"):
            server.broadcast("room", "hello", {"id": "secret-value", "name": "alice"})
            await until(lambda: caplog.records)
    assert "id: Input should be a valid integer" in caplog.text
    assert "secret-value" not in caplog.text


async def test_a_wrong_model_is_refused_before_anything_is_sent(api: ClientApi, server: LocalServer):
    """A class that cannot be a model raises where the selector is made, and the channel is unchanged."""
    async with api.client(server) as client:
        room = await client.channel("room")
        with pytest.raises(InvalidArgumentError, match="model must be"):
            await room.on(changes("users", model=int), print)
        await room.subscribe()
    (join,) = [frame for frame in server.frames if frame.event == "phx_join"]
    assert join.payload["config"]["postgres_changes"] == []
