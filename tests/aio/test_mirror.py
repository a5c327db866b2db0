"""Mirrors of the async client with the hub in virtual time: lost connections, hanging fetches, recovery."""

import asyncio
from typing import Any

import pytest

from supawire import ChannelState, MirrorState, Resynced, RowInserted, RowUpdated, col
from supawire.errors import ClosedError, InvalidArgumentError, JoinError, RateLimitedError, StateError
from supawire.options import Backoff, Limits
from tests.aio.mirror_scenarios import Scene, now, scenario
from tests.aio.peer import until

# --- the order of changes on a slow connection


@scenario()
async def test_rows_committed_around_a_fetch_are_in_the_mirror(scene: Scene) -> None:
    """Rows that change before, during and after the fetch on a slow connection are as in the table (R44)."""
    table = scene.table
    table.early = table.late = 1.0
    scene.server.lag(0.4)
    table.put(1, v=1)
    users = scene.mirror()
    events = users.listen()
    table.put(2, v=1)
    await until(lambda: users.state is MirrorState.FETCHING)
    table.put(1, v=2)
    await asyncio.sleep(1)  # here the query reads the table
    table.put(1, v=3)
    table.delete(2)
    table.put(3, v=1)
    await asyncio.sleep(0.9)
    table.put(3, v=2)
    await users.ready()
    assert users.snapshot() == table.rows
    first = await anext(events)
    assert isinstance(first, Resynced) and first.rows == table.rows
    assert table.queries == 1


@scenario()
async def test_changes_missed_while_disconnected_are_fetched(scene: Scene) -> None:
    """Changes missed while disconnected are in the mirror when it is live again; until then it has the old rows
    (R44)."""
    table, server = scene.table, scene.server
    table.put(1, v=1)
    async with scene.mirror() as users:
        events = users.listen()
        assert isinstance(await anext(events), Resynced)
        server.refuse_connections(seconds=600)
        server.drop_connections()
        await asyncio.sleep(1)
        table.put(1, v=2)
        table.put(2, v=1)
        assert not users.live and users.state is MirrorState.JOINING and users.error is not None
        assert users.snapshot() == {1: {"id": 1, "v": 1}}
        event = await anext(events)
        assert isinstance(event, Resynced) and event.reason == "gap: connection_lost"
        assert [type(one) for one in event.changes] == [RowUpdated, RowInserted]
        assert users.live and users.error is None and users.snapshot() == table.rows


@scenario()
async def test_after_a_postgres_changes_error_the_mirror_is_not_live(scene: Scene) -> None:
    """After a `system` error of postgres_changes the mirror is not live; the next ok starts a fetch that restores it
    (R19)."""
    async with scene.mirror() as users:
        scene.server.send_system(
            "mirror:public.users", "error", "Unable to connect to the project database", extension="postgres_changes"
        )
        await asyncio.sleep(0.1)
        assert users.state is MirrorState.JOINING
        scene.server.send_system("mirror:public.users", "ok", "Subscribed to PostgreSQL", extension="postgres_changes")
        await users.ready()
        assert scene.table.queries == 2


@scenario()
async def test_rows_are_fetched_again_after_a_new_subscription_of_the_server(scene: Scene) -> None:
    """After its worker restarts, the server sends only another confirmation that changes are live; missed rows are
    fetched."""
    async with scene.mirror() as users:
        scene.table.rows[1] = {"id": 1, "v": 1}  # without a change event
        scene.server.send_system("mirror:public.users", "ok", "Subscribed to PostgreSQL", extension="postgres_changes")
        await asyncio.sleep(5)
        assert users.live and users.snapshot() == scene.table.rows and scene.table.queries == 2


@scenario()
async def test_a_gap_during_a_fetch_starts_another(scene: Scene) -> None:
    """A fetch during which the connection is lost is cancelled, and the fetch after the gap is used."""
    table = scene.table
    table.put(1, v=1)
    table.late = 30.0
    users = scene.mirror()
    await until(lambda: table.queries == 1)
    await asyncio.sleep(1)
    scene.server.drop_connections()
    await asyncio.sleep(0.001)
    table.put(1, v=2)
    table.late = 0.0
    began = now()
    await users.ready()
    assert now() - began < 10 and users.snapshot() == table.rows and table.queries == 2


# --- filters


@scenario()
async def test_a_row_that_leaves_the_filter_leaves_the_mirror(scene: Scene) -> None:
    """The server does not report a row that leaves a filter; the mirror removes it, and adds it when it returns."""
    table = scene.table
    table.least = 3
    table.put(1, v=5)
    async with scene.mirror(where=col("v") >= 3) as users:
        table.put(1, v=1)
        await asyncio.sleep(0.1)
        assert users.snapshot() == {}
        table.put(1, v=4)
        table.put(2, v=2)
        await asyncio.sleep(0.1)
        assert users.snapshot() == {1: {"id": 1, "v": 4}}
        table.delete(1)
        await asyncio.sleep(0.1)
        assert users.snapshot() == {} and table.queries == 1


@scenario()
async def test_a_narrow_mirror_receives_only_matching_changes(scene: Scene) -> None:
    """With narrow=True a row that leaves the filter stays until the next fetch, as documented."""
    table = scene.table
    table.least = 3
    table.put(1, v=5)
    async with scene.mirror(filter="v=gte.3", narrow=True) as users:
        table.put(1, v=1)
        table.put(2, v=7)
        await asyncio.sleep(0.1)
        assert sorted(users) == [1, 2]
        users.refresh()
        await asyncio.sleep(0.01)
        assert not users.live
        await users.ready()
        assert sorted(users) == [2]


# --- closing and refusals


@scenario()
async def test_closing_the_client_closes_its_mirrors(scene: Scene) -> None:
    """Waiting calls raise ClosedError, the fetch is cancelled, and no timer and no task is left (R10)."""
    scene.table.early = 1000.0
    users = scene.mirror(timeout=None)
    waiting = asyncio.create_task(users.ready(None))
    await until(lambda: users.state is MirrorState.FETCHING)
    await scene.client.close()
    with pytest.raises(ClosedError):
        await waiting
    assert users.state is MirrorState.CLOSED and users._timer is None
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("supawire-fetch")]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@scenario()
async def test_a_closed_mirror_leaves_nothing_on_the_client(scene: Scene) -> None:
    """After `close` its channel has left, its listeners are unregistered, and its topic is free (R24)."""
    async with scene.mirror() as one, scene.mirror() as two:
        assert {one._core.name, two._core.name} == {"mirror:public.users", "mirror:public.users:2"}
        assert dict(scene.client.channels) == {}
    await asyncio.sleep(0.1)
    assert not scene.client._driver.session.channels and not scene.client._driver.registry
    async with scene.mirror() as again:
        assert again._core.name == "mirror:public.users"


@scenario()
async def test_changes_that_the_server_refuses_raise(scene: Scene) -> None:
    """A table outside the publication raises in `ready`, and a failed entry leaves no channel."""
    scene.server.reject_join("mirror:public.users", "Unauthorized: You do not have permissions to read")
    users = scene.mirror()
    events = users.listen()
    with pytest.raises(JoinError):
        await users.ready()
    assert isinstance(users.error, JoinError)
    with pytest.raises(JoinError):
        await anext(events)
    scene.server.reset_faults()
    await users.ready()
    assert users.live
    scene.server.reject_join("*", "Unauthorized: You do not have permissions to read")
    with pytest.raises(JoinError):
        async with scene.mirror(topic="other"):
            pass
    assert "realtime:other" not in scene.client._driver.session.channels


@scenario()
async def test_permanently_rejected_changes_raise_in_ready(scene: Scene) -> None:
    """Changes that the server rejects permanently, such as those of a table outside the publication, raise in
    `ready` (R18)."""
    users = scene.mirror()
    text = "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given"
    waiting = asyncio.create_task(users.ready())
    await until(lambda: users._core.state is ChannelState.JOINED)
    scene.server.send_system("mirror:public.users", "error", text, extension="postgres_changes")
    for call in (waiting, users.ready()):
        with pytest.raises(JoinError, match="Unable to subscribe"):
            await call
    assert isinstance(users.error, JoinError) and users.state is MirrorState.JOINING


@scenario(limits=Limits(channels=1))
async def test_a_mirror_is_a_channel_of_the_connection(scene: Scene) -> None:
    """A mirror counts against the limit of channels; one too many raises at once and leaves no channel (R35)."""
    async with scene.mirror() as users:
        with pytest.raises(RateLimitedError):
            scene.mirror()
        scene.table.put(1, v=1)
        await asyncio.sleep(0.1)
        assert len(users) == 1 and len(scene.client._driver.session.channels) == 1


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({"key": ()}, "key must be"),
    "a key twice": ({"key": ("id", "id")}, "key must be"),
    "a key that is none": ({"key": 5}, "key must be"),
    "no function": ({"fetch": [{"id": 1}]}, "fetch must be"),
    "all tables": ({"table": "*"}, "of one table"),
    "all schemas": ({"schema": "*"}, "of one table"),
    "a filter that is none": ({"filter": "v=>3"}, "operator"),
    "both filters": ({"filter": "v=gt.3", "where": col("v") > 3}, "one of them"),
    "narrow without a filter": ({"narrow": True}, "neither is given"),
    "an end of attempts": ({"backoff": Backoff(max_attempts=3)}, "max_attempts"),
    "no room": ({"buffer": 0}, "buffer"),
    "no time": ({"timeout": 0}, "timeout"),
    "time that runs back": ({"settle": -1}, "settle"),
    "no class": ({"model": dict}, "model"),
    "no topic": ({"topic": ""}, "topic"),
}


@scenario()
async def test_wrong_arguments_raise_at_once(scene: Scene) -> None:
    """Each wrong argument is named in the error, and no channel is made."""
    for options, words in WRONG.values():
        chosen: dict[str, Any] = {"table": "users", "key": "id", "fetch": scene.table.fetch, **options}
        with pytest.raises(InvalidArgumentError, match=words):
            scene.client.mirror(chosen.pop("table"), **chosen)
    assert not scene.client._driver.session.channels


@scenario()
async def test_a_draining_client_makes_no_mirror(scene: Scene) -> None:
    """`mirror` of a draining client raises."""
    scene.client._driver.draining = True
    with pytest.raises(StateError, match="draining"):
        scene.mirror()
