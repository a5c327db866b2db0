"""Row changes: from `emit`, and from a database for its channels."""

from decimal import Decimal
from typing import Any

import pytest

from supawire.errors import InvalidArgumentError
from supawire.server.bindings import make_change
from supawire.server.changes import Delivery
from supawire.server.limits import ServerLimits
from supawire.server.queries import SubscribeQuery
from tests.server.world import Client, World, system

TODOS = {"event": "*", "schema": "public", "table": "todos"}
SUBSCRIBED = system("Subscribed to PostgreSQL", status="ok", extension="postgres_changes")


def listener(world: World, *bindings: dict[str, Any], vsn: str = "2.0.0") -> tuple[Client, list[int]]:
    """Return a client that has joined with these bindings, and their ids."""
    client = world.connect(vsn=vsn)
    client.join(config={"postgres_changes": list(bindings)})
    reply = client.parts(client.got[0]).payload["response"]["postgres_changes"]
    client.take()
    return client, [element["id"] for element in reply]


def test_bindings_are_subscribed_at_once() -> None:
    """The reply to the join is followed by `Subscribed to PostgreSQL` with the join_ref."""
    client = World().connect()
    ref = client.join(config={"postgres_changes": [TODOS]})
    (_, _, _, event, payload), second = client.got
    assert event == "phx_reply"
    assert [{**TODOS, "id": payload["response"]["postgres_changes"][0]["id"]}] == payload["response"][
        "postgres_changes"
    ]
    assert second == [ref, None, "realtime:lab", "system", SUBSCRIBED]


def test_an_insert_arrives_complete() -> None:
    """The frame has all parts, types inferred from the values, no old record, and null refs."""
    world = World()
    client, ids = listener(world, TODOS)
    world.emit("INSERT", "todos", record={"id": 7, "price": Decimal("12.30"), "done": False})
    assert client.got == [
        [
            None,
            None,
            "realtime:lab",
            "postgres_changes",
            {
                "ids": ids,
                "data": {
                    "schema": "public",
                    "table": "todos",
                    "type": "INSERT",
                    "commit_timestamp": "2027-01-15T08:00:00.000Z",
                    "columns": [
                        {"name": "id", "type": "int8"},
                        {"name": "price", "type": "numeric"},
                        {"name": "done", "type": "bool"},
                    ],
                    "record": {"id": 7, "price": 12.3, "done": False},
                    "errors": None,
                },
            },
        ]
    ]


def test_decimals_keep_their_scale() -> None:
    """Trailing zeros of a numeric value are sent."""
    world = World()
    sent: list[bytes] = []
    listener(world, TODOS)
    world.clients.clear()
    world.hub.emit(make_change("INSERT", "todos", record={"price": Decimal("12.30")}), world.now)
    while (effect := world.hub.next_effect()) is not None:
        sent.append(getattr(effect, "data", b""))
    assert b'"price":12.30' in sent[0]


def test_an_update_has_the_key_as_its_old_record() -> None:
    """By default an update has the primary key as its old record, as with the default replica identity."""
    world = World()
    client, _ = listener(world, TODOS)
    world.emit("UPDATE", "todos", record={"id": 7, "n": 2})
    data = client.events("postgres_changes")[0]["data"]
    assert (data["record"], data["old_record"]) == ({"id": 7, "n": 2}, {"id": 7})


def test_a_delete_has_an_old_record_only() -> None:
    """The key `record` is missing rather than null."""
    world = World()
    client, _ = listener(world, TODOS)
    world.emit("DELETE", "todos", old_record={"id": 7})
    data = client.events("postgres_changes")[0]["data"]
    assert data["old_record"] == {"id": 7} and "record" not in data


def test_one_frame_lists_every_matching_binding() -> None:
    """One frame has the ids of all matching bindings of a channel, repeated for equal bindings."""
    world = World()
    client, ids = listener(world, TODOS, {**TODOS, "event": "INSERT"}, {**TODOS, "event": "DELETE"}, TODOS)
    world.emit("INSERT", "todos", record={"id": 1})
    (payload,) = client.events("postgres_changes")
    assert sorted(payload["ids"]) == sorted([ids[0], ids[1], ids[3]])


def test_each_select_list_gets_its_own_frame() -> None:
    """The frame has the selected columns and the key only."""
    world = World()
    client, (narrow, wide) = listener(world, {**TODOS, "select": ["n"]}, TODOS)
    world.emit("UPDATE", "todos", record={"id": 1, "n": 2, "s": "x"}, old_record={"id": 1, "n": 1, "s": "x"})
    frames = {tuple(payload["ids"]): payload["data"] for payload in client.events("postgres_changes")}
    assert frames[narrow,]["record"] == {"id": 1, "n": 2}
    assert frames[narrow,]["old_record"] == {"id": 1, "n": 1}
    assert [column["name"] for column in frames[narrow,]["columns"]] == ["id", "n"]
    assert frames[wide,]["record"] == {"id": 1, "n": 2, "s": "x"}


@pytest.mark.parametrize(
    ("filter", "row", "matched"),
    [
        ("n=gt.5", {"id": 1, "n": 6}, True),
        ("n=gt.5", {"id": 1, "n": 5}, False),
        ("n=gt.5,s=eq.x", {"id": 1, "n": 6, "s": "y"}, False),
        ("missing=eq.1", {"id": 1}, False),
        ("n=is.null", {"id": 1, "n": None}, True),
    ],
)
def test_filters_compare_the_new_row(filter: str, row: dict[str, Any], matched: bool) -> None:
    """All conditions must hold; a condition on a missing column is false."""
    world = World()
    client, _ = listener(world, {**TODOS, "filter": filter})
    world.emit("INSERT", "todos", record=row)
    assert bool(client.events("postgres_changes")) is matched


def test_filters_of_a_delete_compare_the_old_row() -> None:
    """A filter on another column than the key never matches when the old row has only the key."""
    world = World()
    client, _ = listener(world, {**TODOS, "filter": "n=eq.1"})
    world.emit("DELETE", "todos", old_record={"id": 7})
    assert not client.got
    world.emit("DELETE", "todos", old_record={"id": 7, "n": 1})
    assert client.got


def test_changes_are_sent_to_matching_channels_only() -> None:
    """Bindings of other tables and schemas, and channels without bindings, get nothing."""
    world = World()
    client, _ = listener(world, TODOS)
    idle = world.connect()
    idle.join()
    idle.take()
    world.emit("INSERT", "other", record={"id": 1})
    world.emit("INSERT", "todos", record={"id": 1}, schema="shop")
    assert not client.got
    world.emit("INSERT", "todos", record={"id": 1})
    assert client.got and not idle.got


def test_one_invalid_binding_prevents_all() -> None:
    """A system error names the invalid one and no change is delivered; the channel stays open."""
    world = World()
    client = world.connect()
    client.join(config={"postgres_changes": [TODOS, {**TODOS, "filter": "undefined"}]})
    message = 'Error parsing `filter` params: ["undefined"]'
    assert client.received()[1:] == [("system", system(message, extension="postgres_changes"))]
    client.take()
    world.emit("INSERT", "todos", record={"id": 1})
    assert not client.got
    client.push("realtime:lab", "broadcast", {"event": "x"}, join_ref="1")
    assert not client.got  # still joined: otherwise `unmatched topic` is sent


def test_a_join_without_config_receives_changes_by_type() -> None:
    """The topic is the binding, the type is the event, and the payload is `data` itself."""
    world = World()
    client = world.connect(vsn="1.0.0")
    client.push("realtime:public:todos:n=eq.1", "phx_join", {}, join_ref="1")
    (element,) = client.events("phx_reply")[0]["response"]["postgres_changes"]
    assert {"schema": "public", "table": "todos", "filter": "n=eq.1", "id": element["id"]} == element
    client.take()
    world.emit("INSERT", "todos", record={"id": 1, "n": 1})
    ((event, payload),) = client.received()
    assert event == "INSERT" and payload["record"] == {"id": 1, "n": 1}


def test_a_join_without_config_to_an_unknown_schema_is_refused() -> None:
    """The error is the real server's; a schema with an earlier change is known."""
    world = World()
    world.emit("INSERT", "t", record={"id": 1}, schema="shop")
    client = world.connect()
    client.push("realtime:jp2", "phx_join", {}, join_ref="1")
    client.push("realtime:shop", "phx_join", {}, join_ref="2")
    messages = [payload["message"] for payload in client.events("system")]
    unknown = (
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect "
        "parameters: [event: *, schema: jp2, table: *, filters: [], select: nil]"
    )
    assert messages == [unknown, "Subscribed to PostgreSQL"]


def test_changes_with_an_error_have_no_data() -> None:
    """Changes with 400 and 401 have empty columns and records, and no timestamp."""
    world = World()
    client, _ = listener(world, TODOS)
    world.emit("INSERT", "todos", record={"id": 1}, errors="Error 401: Unauthorized")
    data = client.events("postgres_changes")[0]["data"]
    assert data["errors"] == ["Error 401: Unauthorized"]
    assert (data["columns"], data["record"], data["commit_timestamp"]) == ([], {}, None)


@pytest.mark.parametrize("limits", [ServerLimits(change_bytes=1000), ServerLimits()])
def test_a_row_that_is_too_large_keeps_its_short_values(limits: ServerLimits) -> None:
    """`Error 413` is added over the limit or on request, and long values are left out."""
    world = World(limits=limits)
    client, _ = listener(world, TODOS)
    errors = None if limits.change_bytes else "Error 413: Payload Too Large"
    world.emit("INSERT", "todos", record={"id": 1, "text": "x" * 2000, "short": "y" * 62}, errors=errors)
    data = client.events("postgres_changes")[0]["data"]
    assert data["errors"] == ["Error 413: Payload Too Large"]
    assert data["record"] == {"id": 1, "short": "y" * 62}
    assert len(data["columns"]) == 3 and data["commit_timestamp"]


def test_column_types_may_be_given() -> None:
    """They are given by name, or as the list that frames have."""
    for columns in ({"id": "int4", "kind": "mood"}, [{"name": "id", "type": "int4"}, {"name": "kind", "type": "mood"}]):
        change = make_change("INSERT", "t", record={"id": 1, "kind": "happy"}, columns=columns)
        assert change.columns == (("id", "int4"), ("kind", "mood"))


@pytest.mark.parametrize(
    ("type", "row"),
    [
        ("TRUNCATE", {}),
        ("INSERT", {}),
        ("UPDATE", {"old_record": {"id": 1}}),
        ("DELETE", {}),
        ("DELETE", {"record": {"id": 1}}),
        ("INSERT", {"record": {"id": 1}, "old_record": {"id": 1}}),
    ],
)
def test_an_invalid_change_is_refused(type: str, row: dict[str, Any]) -> None:
    """The error names the rows that each type needs."""
    with pytest.raises(InvalidArgumentError):
        make_change(type, "todos", **row)


def test_changes_over_the_rate_limit_are_dropped() -> None:
    """While the average is over the limit, changes are delivered to no channel."""
    world = World(limits=ServerLimits(changes=1))
    client, _ = listener(world, TODOS)
    for n in range(10):
        world.emit("INSERT", "todos", record={"id": n})
    assert len(client.take()) == 10
    world.run(5.0)
    world.emit("INSERT", "todos", record={"id": 11})
    assert not client.got


# --- changes of a database ---

LOST = system('{:error, "Too many database timeouts"}', extension="postgres_changes")


def database_listener(world: World, topic: str = "realtime:lab", vsn: str = "2.0.0") -> tuple[Client, int]:
    """Return a client with a subscribed binding, and the number of its channel."""
    client = world.connect(vsn=vsn)
    client.join(topic, {"postgres_changes": [TODOS]})
    query = world.answer(None)
    assert isinstance(query, SubscribeQuery)
    client.take()
    return client, query.channel


def changed(world: World, *deliveries: Delivery) -> None:
    world.hub.deliver_changes(deliveries, world.now)
    world.pump()


@pytest.fixture
def database() -> World:
    return World(database=True)


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_a_database_change_is_sent_to_its_channel_only(database: World, vsn: str) -> None:
    """The bytes of the database are sent unchanged, in both protocol versions, with null refs."""
    client, number = database_listener(database, vsn=vsn)
    other, _ = database_listener(database)
    changed(database, Delivery(number, (7, 7, 9), "INSERT", b'{"record":{"price":12.30}}'))
    (frame,) = client.got
    parts = client.parts(frame)
    assert (parts.join_ref, parts.ref, parts.topic) == (None, None, "realtime:lab")
    assert (parts.event, parts.payload) == (
        "postgres_changes",
        {"ids": [7, 7, 9], "data": {"record": {"price": 12.3}}},
    )
    assert other.got == []


def test_changes_may_arrive_before_the_subscription_is_confirmed(database: World) -> None:
    """They match as soon as the backend has subscribed the bindings."""
    client = database.connect()
    client.join(config={"postgres_changes": [TODOS]})
    client.take()
    (query,) = database.pending.values()
    assert isinstance(query, SubscribeQuery)
    changed(database, Delivery(query.channel, (1,), "INSERT", b"{}"))
    database.answer(None)
    assert [event for event, _ in client.received()] == ["postgres_changes", "system"]


def test_an_ended_channel_gets_no_changes(database: World) -> None:
    """Its number is never used again."""
    client, number = database_listener(database)
    client.push("realtime:lab", "phx_leave", {}, join_ref="1")
    client.take()
    changed(database, Delivery(number, (1,), "INSERT", b"{}"), Delivery(999, (1,), "INSERT", b"{}"))
    assert client.got == []


def test_database_changes_over_the_rate_limit_are_dropped(database: World) -> None:
    """They are delivered again when the rate has fallen."""
    database = World(database=True, limits=ServerLimits(changes=10))
    client, number = database_listener(database)
    for _ in range(200):
        changed(database, Delivery(number, (1,), "INSERT", b"{}"))
        database.run(0.05)
    count = len(client.got)
    assert 0 < count < 200
    database.run(45)
    changed(database, Delivery(number, (1,), "INSERT", b"{}"))
    assert len(client.got) == count + 1


def test_an_interruption_and_its_end_are_announced_once(database: World) -> None:
    """Every channel with subscribed bindings gets both messages, and no other channel."""
    first, one = database_listener(database)
    second, two = database_listener(database, "realtime:other")
    idle = database.connect()
    idle.join(config={})
    idle.take()
    for _ in range(2):
        database.hub.changes_interrupted(database.now)
    database.hub.resubscribed(one, None, database.now)
    database.hub.resubscribed(two, "no such table", database.now)
    database.hub.resubscribed(999, None, database.now)
    database.pump()
    assert first.events("system") == [LOST, SUBSCRIBED]
    refused: list[dict[str, Any]] = [{**LOST, "channel": "other"}]
    assert second.events("system") == [*refused, {**refused[0], "message": "no such table"}]
    assert idle.got == []
