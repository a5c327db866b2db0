"""Row changes made by `emit` (protocol §4)."""

from decimal import Decimal
from typing import Any

import pytest

from supawire.errors import InvalidArgumentError
from supawire.server.bindings import make_change
from supawire.server.limits import ServerLimits
from tests.server.world import Client, World, system

TODOS = {"event": "*", "schema": "public", "table": "todos"}
SUBSCRIBED = system("Subscribed to PostgreSQL", status="ok", extension="postgres_changes")


def listener(world: World, *bindings: dict[str, Any], vsn: str = "2.0.0") -> tuple[Client, list[int]]:
    """A client that has joined with these bindings, and their ids."""
    client = world.connect(vsn=vsn)
    client.join(config={"postgres_changes": list(bindings)})
    reply = client.parts(client.got[0]).payload["response"]["postgres_changes"]
    client.take()
    return client, [element["id"] for element in reply]


def test_bindings_are_live_at_once() -> None:
    """The join's reply, then `Subscribed to PostgreSQL` under the join_ref."""
    client = World().connect()
    ref = client.join(config={"postgres_changes": [TODOS]})
    (_, _, _, event, payload), second = client.got
    assert event == "phx_reply"
    assert [{**TODOS, "id": payload["response"]["postgres_changes"][0]["id"]}] == payload["response"][
        "postgres_changes"
    ]
    assert second == [ref, None, "realtime:lab", "system", SUBSCRIBED]


def test_an_insert_arrives_whole() -> None:
    """All parts of the message, types taken from the values, without an old record; refs are null."""
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
    """A numeric is written with its zeros."""
    world = World()
    sent: list[bytes] = []
    listener(world, TODOS)
    world.clients.clear()
    world.hub.emit(make_change("INSERT", "todos", record={"price": Decimal("12.30")}), world.now)
    while (effect := world.hub.next_effect()) is not None:
        sent.append(getattr(effect, "data", b""))
    assert b'"price":12.30' in sent[0]


def test_an_update_has_the_key_as_its_old_record() -> None:
    """Without an old record of its own, an update carries the primary key, as under the default identity."""
    world = World()
    client, _ = listener(world, TODOS)
    world.emit("UPDATE", "todos", record={"id": 7, "n": 2})
    data = client.events("postgres_changes")[0]["data"]
    assert (data["record"], data["old_record"]) == ({"id": 7, "n": 2}, {"id": 7})


def test_a_delete_has_an_old_record_only() -> None:
    """A key that does not apply is missing, not null."""
    world = World()
    client, _ = listener(world, TODOS)
    world.emit("DELETE", "todos", old_record={"id": 7})
    data = client.events("postgres_changes")[0]["data"]
    assert data["old_record"] == {"id": 7} and "record" not in data


def test_one_frame_lists_every_matching_binding() -> None:
    """All ids of this channel that the row matches are in one frame, equal bindings as often as asked."""
    world = World()
    client, ids = listener(world, TODOS, {**TODOS, "event": "INSERT"}, {**TODOS, "event": "DELETE"}, TODOS)
    world.emit("INSERT", "todos", record={"id": 1})
    (payload,) = client.events("postgres_changes")
    assert sorted(payload["ids"]) == sorted([ids[0], ids[1], ids[3]])


def test_different_select_lists_are_frames_of_their_own() -> None:
    """A selected frame has its columns and the key, nothing else."""
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
def test_filters_look_at_the_new_row(filter: str, row: dict[str, Any], matched: bool) -> None:
    """Every condition must hold; a column that is not there makes it false."""
    world = World()
    client, _ = listener(world, {**TODOS, "filter": filter})
    world.emit("INSERT", "todos", record=row)
    assert bool(client.events("postgres_changes")) is matched


def test_filters_of_a_delete_look_at_the_old_row() -> None:
    """With only the key there, a filter on another column never matches."""
    world = World()
    client, _ = listener(world, {**TODOS, "filter": "n=eq.1"})
    world.emit("DELETE", "todos", old_record={"id": 7})
    assert not client.got
    world.emit("DELETE", "todos", old_record={"id": 7, "n": 1})
    assert client.got


def test_only_who_asked_is_told() -> None:
    """Other tables, schemas, and channels without bindings get nothing."""
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


def test_one_bad_binding_spoils_all() -> None:
    """A system error names the bad one, and no row arrives; the channel stays (protocol §3.6)."""
    world = World()
    client = world.connect()
    client.join(config={"postgres_changes": [TODOS, {**TODOS, "filter": "undefined"}]})
    message = 'Error parsing `filter` params: ["undefined"]'
    assert client.heard()[1:] == [("system", system(message, extension="postgres_changes"))]
    client.take()
    world.emit("INSERT", "todos", record={"id": 1})
    assert not client.got
    client.push("realtime:lab", "broadcast", {"event": "x"}, join_ref="1")
    assert not client.got  # still joined: otherwise `unmatched topic` comes


def test_a_legacy_join_hears_rows_under_their_type() -> None:
    """Without `config` the topic is the binding, and `data` itself the payload (protocol §3.8)."""
    world = World()
    client = world.connect(vsn="1.0.0")
    client.push("realtime:public:todos:n=eq.1", "phx_join", {}, join_ref="1")
    (element,) = client.events("phx_reply")[0]["response"]["postgres_changes"]
    assert {"schema": "public", "table": "todos", "filter": "n=eq.1", "id": element["id"]} == element
    client.take()
    world.emit("INSERT", "todos", record={"id": 1, "n": 1})
    ((event, payload),) = client.heard()
    assert event == "INSERT" and payload["record"] == {"id": 1, "n": 1}


def test_a_plain_topic_joined_without_config_is_no_schema() -> None:
    """The accident has the real server's error; a schema that had changes is known."""
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


def test_error_rows_carry_no_data() -> None:
    """400 and 401 rows have empty columns and record and no time (protocol §4.4)."""
    world = World()
    client, _ = listener(world, TODOS)
    world.emit("INSERT", "todos", record={"id": 1}, errors="Error 401: Unauthorized")
    data = client.events("postgres_changes")[0]["data"]
    assert data["errors"] == ["Error 401: Unauthorized"]
    assert (data["columns"], data["record"], data["commit_timestamp"]) == ([], {}, None)


@pytest.mark.parametrize("limits", [ServerLimits(change_bytes=1000), ServerLimits()])
def test_a_row_that_is_too_large_keeps_its_short_values(limits: ServerLimits) -> None:
    """`Error 413` comes by itself over the limit, or when asked for; long values are left out."""
    world = World(limits=limits)
    client, _ = listener(world, TODOS)
    errors = None if limits.change_bytes else "Error 413: Payload Too Large"
    world.emit("INSERT", "todos", record={"id": 1, "text": "x" * 2000, "short": "y" * 62}, errors=errors)
    data = client.events("postgres_changes")[0]["data"]
    assert data["errors"] == ["Error 413: Payload Too Large"]
    assert data["record"] == {"id": 1, "short": "y" * 62}
    assert len(data["columns"]) == 3 and data["commit_timestamp"]


def test_column_types_may_be_given() -> None:
    """By name, or as the wire lists them."""
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
def test_a_change_that_cannot_be_is_refused(type: str, row: dict[str, Any]) -> None:
    """Each type has its rows, and the error says which."""
    with pytest.raises(InvalidArgumentError):
        make_change(type, "todos", **row)


def test_changes_over_the_rate_are_dropped_in_silence() -> None:
    """With a limit, what comes while the average is over it reaches nobody (protocol §4.6)."""
    world = World(limits=ServerLimits(changes=1))
    client, _ = listener(world, TODOS)
    for n in range(10):
        world.emit("INSERT", "todos", record={"id": n})
    assert len(client.take()) == 10
    world.run(5.0)
    world.emit("INSERT", "todos", record={"id": 11})
    assert not client.got
