"""The payload of a join, the echo in its reply, and the effect of late listeners (R15-R17)."""

import pytest

from supawire.core.listeners import Listener
from supawire.errors import JoinError
from supawire.events import ChannelState
from supawire.selectors import broadcast, changes, presence, status, system

from .conftest import Harness

HELLO = {"type": "broadcast", "event": "hello", "payload": {"n": 1}}


def test_rows_reach_their_listeners_after_each_reconnect(each: Harness) -> None:
    """Five bindings, twenty reconnects, new ids each time: each row reaches exactly its own listener, once (R15)."""
    each.open()
    db = each.channel("db")
    tables = ["a", "b", "c", "d", "e"]
    received = {table: each.collect(db, changes(table)) for table in tables}
    each.call(each.session.join, db)
    for turn in range(21):
        join = each.sent("phx_join")[-1]
        bindings = join.payload["config"]["postgres_changes"]
        assert [binding["table"] for binding in bindings] == tables
        ids = {binding["table"]: 1000 * turn + (7 * place + turn) % 5 for place, binding in enumerate(bindings)}
        each.answer_join({"postgres_changes": [{**binding, "id": ids[binding["table"]]} for binding in bindings]})
        for place, table in enumerate(tables):
            each.row(db, ids[table], id=turn * 10 + place)
            each.row(db, ids[table] - 1000, id=-1)  # an id of the previous join
        if turn < 20:
            each.drop(1006)
            each.reconnect()
    for place, table in enumerate(tables):
        assert [change.record["id"] for change in received[table]] == [turn * 10 + place for turn in range(21)]


def test_each_join_requests_the_bindings_of_its_time(harness: Harness) -> None:
    """The next join has listeners added while disconnected, and not those that were removed (R15)."""
    harness.open()
    db = harness.channel("db")
    removed: list[object] = []
    listener = Listener((changes("users"),), removed.append)
    harness.call(harness.session.listen, db, listener)
    harness.join(db)
    harness.drop(1006)
    harness.session.unlisten(db, listener)
    harness.collect(db, changes("orders", event="DELETE", where=None), presence())
    harness.reconnect()
    config = harness.sent("phx_join")[-1].payload["config"]
    assert config["postgres_changes"] == [{"event": "DELETE", "schema": "public", "table": "orders"}]
    assert config["presence"] == {"enabled": True}
    harness.answer_join()
    harness.row(db, 100, kind="DELETE", id=1)
    assert removed == []


ECHOES = {
    "as sent": {"event": "INSERT", "schema": "public", "table": "users", "id": 5},
    "null filter": {"event": "INSERT", "schema": "public", "table": "users", "filter": None, "id": 5},
    "empty filter": {"event": "INSERT", "schema": "public", "table": "users", "filter": "", "id": 5},
    "lower case": {"event": "insert", "schema": "public", "table": "users", "id": 5},
    "schema defaulted": {"event": "INSERT", "table": "users", "id": 5},
    "unknown keys": {"event": "INSERT", "schema": "public", "table": "users", "id": 5, "since": 1, "x": {}},
    "empty select": {"event": "INSERT", "schema": "public", "table": "users", "select": [], "id": 5},
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_an_equivalent_echo_is_not_a_mismatch(harness: Harness, echo: dict[str, object]) -> None:
    """Null, missing and default members, letter case and unknown keys in the echo are not a difference (R16)."""
    harness.open()
    db = harness.channel("db")
    received = harness.collect(db, changes("users", event="INSERT"))
    harness.join(db, {"postgres_changes": [echo]})
    assert harness.errors == []
    harness.row(db, 5, id=1)
    assert len(received) == 1


@pytest.mark.parametrize(
    "echoed",
    [
        [],
        None,
        "nonsense",
        [None],
        [{"event": "INSERT", "schema": "public", "table": "orders", "id": 5}],
        [{"event": "INSERT", "schema": "public", "table": "users", "filter": "id=eq.1", "id": 5}],
        [{"event": "INSERT", "schema": "public", "table": "users"}],
        [{"event": "INSERT", "schema": "public", "table": "users", "id": True}],
    ],
)
def test_a_mismatch_is_reported_with_the_binding_and_the_channel_stays_joined(harness: Harness, echoed: object) -> None:
    """A binding not confirmed as sent is reported with a typed error; the channel stays joined (R16)."""
    harness.open()
    db = harness.channel("db")
    harness.collect(db, changes("users", event="INSERT"))
    joined = harness.join(db, {"postgres_changes": echoed})
    assert harness.outcome(joined) is None
    (error,) = harness.errors
    assert isinstance(error, JoinError)
    assert "'users'" in str(error)
    assert error.topic == "db"
    assert harness.state(db) is ChannelState.JOINED
    assert harness.sent("phx_leave") == []


def test_listeners_added_after_the_join_receive_events(harness: Harness) -> None:
    """Broadcast, system and status listeners receive events at once, without a new join (R17)."""
    harness.open()
    room = harness.joined()
    received = harness.collect(room, broadcast("hello"), system(), status())
    harness.receive(room, "broadcast", HELLO)
    harness.system(room, "something", extension="other")
    harness.run_for(1)
    assert len(received) == 2
    assert len(harness.sent("phx_join")) == 1


def test_the_first_presence_listener_after_the_join_causes_a_rejoin(harness: Harness) -> None:
    """Presence not enabled in the join is enabled by another; the second listener needs no join (R17)."""
    harness.open()
    room = harness.joined()
    assert harness.sent("phx_join")[0].payload["config"]["presence"] == {"enabled": False}
    harness.collect(room, presence())
    harness.run_for(0)
    assert harness.sent("phx_join")[1].payload["config"]["presence"] == {"enabled": True}
    harness.answer_join()
    received = harness.collect(room, presence())
    harness.run_for(1)
    assert len(harness.sent("phx_join")) == 2
    harness.receive(room, "presence_state", {"bob": {"metas": [{"phx_ref": "A"}]}})
    assert len(received) == 2


def test_the_old_join_is_active_until_the_new_one_is_accepted(each: Harness) -> None:
    """During a rejoin for a late listener, rows, broadcasts and sends of the others continue (R17)."""
    each.open()
    db = each.channel("db", ack=True)
    rows, received = each.collect(db, changes("users")), each.collect(db, broadcast())
    each.join(db)
    late = each.collect(db, changes("orders"))
    each.run_for(0)
    assert each.state(db) is ChannelState.REJOINING
    each.row(db, 100, id=1)
    each.receive(db, "broadcast", HELLO)
    sent = each.broadcast(db)
    assert each.pushed() == [], "a send waits for the join"
    first, second = (frame.ref for frame in each.sent("phx_join"))
    each.answer_join()
    each.close_channel(db, first)
    assert each.state(db) is ChannelState.JOINED
    each.row(db, 100, id=2)
    each.row(db, 101, id=3)
    assert [change.record["id"] for change in rows] == [1, 2]
    assert [change.record["id"] for change in late] == [3]
    assert len(received) == 1
    assert each.outcome(sent).via == "socket"
    assert [one.join_ref for one in each.pushed()] == [second]


def test_the_close_of_the_old_join_may_come_first(each: Harness) -> None:
    """If the server closes the old join before it answers the new one, the new one continues (R17)."""
    each.open()
    db = each.joined("db")
    late = each.collect(db, changes("users"))
    each.run_for(0)
    each.close_channel(db, each.sent("phx_join")[0].ref)
    assert each.state(db) is ChannelState.REJOINING
    each.answer_join()
    assert each.state(db) is ChannelState.JOINED
    each.row(db, 100, id=1)
    assert len(late) == 1
