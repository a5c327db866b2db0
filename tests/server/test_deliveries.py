"""Rows that a database has found for channels, as the hub passes them on (protocol §4.4, §4.6)."""

from typing import Any

import pytest

from supawire.server.changes import Delivery
from supawire.server.limits import ServerLimits
from supawire.server.queries import SubscribeQuery
from tests.server.world import Client, World, system

TODOS = {"event": "*", "schema": "public", "table": "todos"}
LIVE = system("Subscribed to PostgreSQL", status="ok", extension="postgres_changes")
LOST = system('{:error, "Too many database timeouts"}', extension="postgres_changes")


def listener(world: World, topic: str = "realtime:lab", vsn: str = "2.0.0") -> tuple[Client, int]:
    """A client with a live binding, and the number of its channel."""
    client = world.connect(vsn=vsn)
    client.join(topic, {"postgres_changes": [TODOS]})
    question = world.answer(None)
    assert isinstance(question, SubscribeQuery)
    client.take()
    return client, question.channel


def changed(world: World, *deliveries: Delivery) -> None:
    world.hub.deliver_changes(deliveries, world.now)
    world.pump()


@pytest.fixture
def world() -> World:
    return World(database=True)


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_a_delivery_is_a_frame_for_its_channel(world: World, vsn: str) -> None:
    """With the bytes of the database as they are, in both versions of the wire, and refs that are null."""
    client, number = listener(world, vsn=vsn)
    other, _ = listener(world)
    changed(world, Delivery(number, (7, 7, 9), "INSERT", b'{"record":{"price":12.30}}'))
    (frame,) = client.got
    parts = client.parts(frame)
    assert (parts.join_ref, parts.ref, parts.topic) == (None, None, "realtime:lab")
    assert (parts.event, parts.payload) == (
        "postgres_changes",
        {"ids": [7, 7, 9], "data": {"record": {"price": 12.3}}},
    )
    assert other.got == []


def test_rows_may_come_before_the_word_that_they_are_live(world: World) -> None:
    """They match as soon as the bindings are in the books of the database (§3.7)."""
    client = world.connect()
    client.join(config={"postgres_changes": [TODOS]})
    client.take()
    (question,) = world.asked.values()
    assert isinstance(question, SubscribeQuery)
    changed(world, Delivery(question.channel, (1,), "INSERT", b"{}"))
    world.answer(None)
    assert [event for event, _ in client.heard()] == ["postgres_changes", "system"]


def test_a_channel_that_ended_gets_no_rows(world: World) -> None:
    """Its number means nothing any more."""
    client, number = listener(world)
    client.push("realtime:lab", "phx_leave", {}, join_ref="1")
    client.take()
    changed(world, Delivery(number, (1,), "INSERT", b"{}"), Delivery(999, (1,), "INSERT", b"{}"))
    assert client.got == []


def test_over_the_rate_rows_are_dropped(world: World) -> None:
    """In silence, and they come again when the rate has fallen."""
    world = World(database=True, limits=ServerLimits(changes=10))
    client, number = listener(world)
    for _ in range(200):
        changed(world, Delivery(number, (1,), "INSERT", b"{}"))
        world.run(0.05)
    seen = len(client.got)
    assert 0 < seen < 200
    world.run(45)
    changed(world, Delivery(number, (1,), "INSERT", b"{}"))
    assert len(client.got) == seen + 1


def test_an_interruption_is_told_once_and_so_is_its_end(world: World) -> None:
    """Every channel with live bindings hears of both; nobody else does."""
    first, one = listener(world)
    second, two = listener(world, "realtime:other")
    idle = world.connect()
    idle.join(config={})
    idle.take()
    for _ in range(2):
        world.hub.changes_interrupted(world.now)
    world.hub.resubscribed(one, None, world.now)
    world.hub.resubscribed(two, "no such table", world.now)
    world.hub.resubscribed(999, None, world.now)
    world.pump()
    assert first.events("system") == [LOST, LIVE]
    refused: list[dict[str, Any]] = [{**LOST, "channel": "other"}]
    assert second.events("system") == [*refused, {**refused[0], "message": "no such table"}]
    assert idle.got == []
