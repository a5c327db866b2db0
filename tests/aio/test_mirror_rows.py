"""Reading a mirror as a mapping and as objects, and the events of its iterators."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from supawire import MirrorState, Resynced, RowDeleted, RowInserted, changes, col
from supawire.errors import ClosedError, OperationTimeout, RowError
from tests.aio.mirror_scenarios import Scene, scenario

# --- reading


@scenario()
async def test_a_mirror_is_a_mapping_of_copies(scene: Scene) -> None:
    """A mirror reads like a dict, and changing a row that was read does not change the mirror."""
    scene.table.put(1, tags=["a"])
    async with scene.mirror() as users:
        users[1]["tags"].append("b")
        users.snapshot()[1]["tags"].append("c")
        assert users[1] == {"id": 1, "tags": ["a"]} == users.get(1)
        assert (len(users), list(users), 1 in users, 2 in users, users.get(2)) == (1, [1], True, False, None)
        assert list(users.items()) == [(1, {"id": 1, "tags": ["a"]})]
        with pytest.raises(KeyError):
            users[2]
        assert repr(users) == "<AsyncMirror of 'users' live, 1 rows>"


@dataclass
class User:
    id: int
    name: str


@scenario()
async def test_rows_can_be_objects(scene: Scene) -> None:
    """With `model=` rows are converted when they are read; a row that does not fit raises only there."""
    table = scene.table
    table.put(1, name="alice")
    users = scene.client.mirror("users", key="id", fetch=table.fetch, model=User)
    await users.ready()
    events = users.listen()
    table.put(2, name="bob")
    table.put(3, name=None)
    assert users[1] == User(1, "alice")
    await anext(events)
    added, odd = await anext(events), await anext(events)
    assert isinstance(added, RowInserted) and added.row == User(2, "bob")
    assert isinstance(odd, RowInserted) and odd.key == 3
    with pytest.raises(RowError):
        _ = odd.row
    with pytest.raises(RowError):
        users.snapshot()
    assert sorted(users) == [1, 2, 3] and users.live and scene.errors == []


@scenario()
async def test_a_mirror_does_not_affect_other_channels_of_its_table(scene: Scene) -> None:
    """Other listeners of the same table receive each change once, with a mirror or without."""
    room = scene.client.channel("db")
    received = room.listen(changes("users"))
    await room.subscribe(wait="ready")
    async with scene.mirror(where=col("v") >= 3):
        scene.table.put(1, v=1)
        assert (await anext(received)).type == "INSERT"
        await asyncio.sleep(0.1)
        with pytest.raises(OperationTimeout):
            await received.get(timeout=0)


# --- iterators


@scenario()
async def test_a_later_iterator_begins_with_all_rows(scene: Scene) -> None:
    """A later iterator yields all rows first, and then every change without a gap."""
    scene.table.put(1, v=1)
    async with scene.mirror() as users:
        events = users.listen()
        scene.table.put(2, v=1)
        begin, added = await anext(events), await anext(events)
        assert isinstance(begin, Resynced) and begin.reason == "begin" and begin.rows == {1: {"id": 1, "v": 1}}
        assert isinstance(added, RowInserted) and added.row == {"id": 2, "v": 1}


@scenario()
async def test_a_slow_iterator_gets_merged_events(scene: Scene) -> None:
    """More events than the buffer holds are merged into one that has their combined effect (R39)."""
    table = scene.table
    for key in (1, 2, 3):
        table.put(key, v=1)
    async with scene.mirror() as users:
        events = users.listen(buffer=4)
        await anext(events)
        table.put(1, v=2)
        table.delete(2)
        table.move(3, 4)
        table.put(5, v=1)
        table.put(1, v=3)
        await asyncio.sleep(0.1)
        merged = await anext(events)
        assert isinstance(merged, Resynced) and merged.reason == "merged" and merged.rows == table.rows
        assert sorted((type(one).__name__, one.key) for one in merged.changes) == [
            ("RowDeleted", 2), ("RowDeleted", 3), ("RowInserted", 4), ("RowInserted", 5), ("RowUpdated", 1),
        ]  # fmt: skip
        assert events.dropped == 0


@scenario()
async def test_a_slow_iterator_gets_several_fetched_rows(scene: Scene) -> None:
    """Events of rows whose fetches end at the same time are merged one by one, each with the rows so far."""
    table = scene.table

    async def fetch_row(key: dict[str, Any]) -> dict[str, Any] | None:
        return table.rows.get(key["id"])

    for key in (1, 2):
        table.put(key, v=1)
    async with scene.mirror(fetch_row=fetch_row) as users:
        events = users.listen(buffer=2)
        await anext(events)
        table.put(3, v=1)
        table.put(2, v=2)
        for key in (1, 2):
            scene.server.emit("UPDATE", "users", record={"id": key}, errors="Error 413: Payload Too Large")
        table.rows[1] = {"id": 1, "v": 9}
        del table.rows[2]  # its delete is reported later
        await asyncio.sleep(3)
        assert users.live and users.snapshot() == table.rows
        merged, deleted = await anext(events), await anext(events)
        assert isinstance(merged, Resynced) and isinstance(deleted, RowDeleted) and deleted.key == 2
        assert merged.rows == {1: {"id": 1, "v": 9}, 2: {"id": 2, "v": 2}, 3: {"id": 3, "v": 1}}
        assert sorted((type(one).__name__, one.key) for one in merged.changes) == [
            ("RowInserted", 3), ("RowUpdated", 1), ("RowUpdated", 2),
        ]  # fmt: skip


@scenario()
async def test_iterators_end_with_the_mirror(scene: Scene) -> None:
    """After `close` an iterator ends after its remaining events; later calls raise ClosedError, and rows can still
    be read."""
    scene.table.put(1, v=1)
    async with scene.mirror() as users:
        events = users.listen()
    assert [type(event) async for event in events] == [Resynced]
    for call in (users.listen, users.refresh):
        with pytest.raises(ClosedError):
            call()
    with pytest.raises(ClosedError):
        await users.ready()
    await users.close()
    assert users.state is MirrorState.CLOSED and users[1] == {"id": 1, "v": 1}


@scenario()
async def test_an_unreferenced_iterator_is_unregistered(scene: Scene) -> None:
    """An iterator that is dropped or closed is unregistered, and receives no further events."""
    async with scene.mirror() as users:
        kept, closed = users.listen(), users.listen()
        users.listen()
        closed.close()
        await asyncio.sleep(0)
        scene.table.put(1, v=1)
        await asyncio.sleep(0.1)
        assert len(users._iterators) == 1
        assert [type(await anext(kept)) for _ in range(2)] == [Resynced, RowInserted]
