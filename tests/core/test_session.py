"""Join, send, receive, leave: the normal life of a session, frame by frame."""

from typing import Any

from supawire.core.effects import Disconnect, GapReported, Transmit
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import ClosedError, RealtimeError, StateError
from supawire.events import ChannelState, ConnectionState, Insert, PresenceJoin, PresenceSync, Sent
from supawire.selectors import broadcast, changes, presence, status, system
from supawire.testing.harness import NOT_YET, error_of

from .conftest import Harness


def test_open_join_broadcast_leave_close(harness: Harness) -> None:
    """A channel is joined, sends, receives, is left; the client closes, and no call is pending."""
    opened = harness.call(harness.session.open)
    assert harness.session.state is ConnectionState.CONNECTING
    harness.accept()
    assert harness.outcome(opened) is None

    room = harness.channel("lobby")
    received = harness.collect(room, broadcast("typing"))
    joined = harness.call(harness.session.join, room)
    (join,) = harness.new_frames("phx_join")
    assert join.ref == join.join_ref
    assert join.payload == {
        "config": {
            "broadcast": {"self": False, "ack": False},
            "presence": {"enabled": False},
            "postgres_changes": [],
            "private": False,
        }
    }
    assert harness.outcome(joined) is NOT_YET
    harness.reply(join, {"postgres_changes": []})
    assert harness.outcome(joined) is None

    assert harness.call(harness.session.broadcast, room, OutgoingBroadcast("typing", b'{"n":1}')) is None
    (frame,) = [effect.data for effect in harness.effects if isinstance(effect, Transmit) and effect.binary]
    assert frame.endswith(b'typing{"n":1}')

    harness.receive(room, "broadcast", {"type": "broadcast", "event": "typing", "payload": {"user": "alice"}})
    harness.receive(room, "broadcast", {"type": "broadcast", "event": "other", "payload": {}})
    assert [(message.topic, message.event, message.payload) for message in received] == [
        ("lobby", "typing", {"user": "alice"})
    ]

    left = harness.call(harness.session.leave, room, 10.0)
    (leave,) = harness.new_frames("phx_leave")
    assert leave.join_ref == join.ref
    harness.reply(leave)
    assert harness.outcome(left) is None
    assert harness.session.channels[room].state is ChannelState.IDLE

    closed = harness.call(harness.session.close)
    harness.drop(code=1000)
    assert harness.outcome(closed) is None
    assert harness.session.state is ConnectionState.CLOSED
    assert harness.session.stats().pending == 0
    assert harness.session.next_deadline is None


def test_binary_broadcasts_arrive_on_the_same_channel(harness: Harness) -> None:
    """Kind 4 frames, JSON and raw, reach the listeners of their event and of the wildcard (R41)."""
    harness.open()
    room = harness.channel("lab")
    blobs, every = harness.collect(room, broadcast("blob")), harness.collect(room, broadcast())
    harness.join(room)
    harness.receive_raw(
        bytes.fromhex("040c040c017265616c74696d653a6c616270696e677b226964223a226d2d31227d7b226e223a317d"), binary=True
    )
    harness.receive_raw(
        bytes.fromhex("040c0411007265616c74696d653a6c6162626c6f627b227265706c61796564223a747275657d00ff10"), binary=True
    )
    assert [(message.event, message.payload, message.id, message.replayed) for message in every] == [
        ("ping", {"n": 1}, "m-1", False),
        ("blob", b"\x00\xff\x10", None, True),
    ]
    assert blobs == every[1:]


def test_changes_reach_each_listener_of_the_binding_once(harness: Harness) -> None:
    """A row is delivered by binding id, once to each listener, also with id 0 and several ids (R15, R41)."""
    harness.open()
    db = harness.channel("db")
    inserts = harness.collect(db, changes("users", event="INSERT"))
    both = harness.collect(db, changes("users"), changes("users", event="INSERT"))
    bindings = [
        {"event": "INSERT", "schema": "public", "table": "users"},
        {"event": "*", "schema": "public", "table": "users"},
    ]
    harness.join(db, {"postgres_changes": [{**bindings[0], "id": 0}, {**bindings[1], "id": 7}]})
    assert harness.sent("phx_join")[0].payload["config"]["postgres_changes"] == bindings
    harness.receive(db, "postgres_changes", {"ids": [0, 7], "data": _insert({"id": 2**60})})
    harness.receive(db, "postgres_changes", {"ids": [99], "data": _insert({"id": 1})})
    assert [change.record for change in inserts] == [{"id": 2**60}] == [change.record for change in both]
    assert isinstance(inserts[0], Insert)


def test_a_change_of_another_kind_is_not_delivered(harness: Harness) -> None:
    """A change whose binding id matches another kind is dropped, as older servers send every kind."""
    harness.open()
    db = harness.channel("db")
    updates = harness.collect(db, changes("users", event="UPDATE"))
    harness.join(db)
    harness.receive(db, "postgres_changes", {"ids": [100], "data": _insert({"id": 1})})
    assert updates == []


def test_ready_comes_after_joined(harness: Harness) -> None:
    """With changes, ready waits for "Subscribed to PostgreSQL", and joined does not (R18)."""
    harness.open()
    db = harness.channel("db")
    moves, messages = harness.collect(db, status()), harness.collect(db, system())
    harness.collect(db, changes("users"))
    joined = harness.call(harness.session.join, db)
    ready = harness.call(harness.session.join, db, ready=True)
    harness.answer_join()
    assert harness.outcome(joined) is None
    assert harness.outcome(ready) is NOT_YET
    message = "Subscribed to PostgreSQL"
    harness.receive(
        db, "system", {"extension": "postgres_changes", "status": "ok", "message": message, "channel": "db"}
    )
    assert harness.outcome(ready) is None
    assert [(move.state, move.ready) for move in moves][-2:] == [
        (ChannelState.JOINED, False),
        (ChannelState.JOINED, True),
    ]
    assert [one.message for one in messages] == [message]


def test_presence_is_tracked_and_reported(harness: Harness) -> None:
    """A presence listener enables presence; a payload is tracked after the join, diffs are delivered (R45)."""
    harness.open()
    room = harness.channel("lobby", presence_key="ada")
    received = harness.collect(room, presence())
    tracked = harness.call(harness.session.track, room, b'{"at":"desk"}', 10.0)
    assert harness.outcome(tracked) is None, "not joined: it is stored, and the call returns at once"
    harness.join(room)
    assert harness.sent("phx_join")[0].payload["config"]["presence"] == {"enabled": True, "key": "ada"}
    (push,) = harness.sent("presence")
    assert push.payload == {"type": "presence", "event": "track", "payload": {"at": "desk"}}
    harness.reply(push)
    harness.receive(room, "presence_state", {})
    meta = {"at": "desk", "phx_ref": "A"}
    harness.receive(room, "presence_diff", {"joins": {"ada": {"metas": [meta]}}, "leaves": {}})
    assert [type(event) for event in received] == [PresenceSync, PresenceJoin, PresenceSync]
    assert {key: [one.payload for one in metas] for key, metas in received[-1].state.items()} == {
        "ada": [{"at": "desk"}]
    }


def test_an_acked_broadcast_waits_for_its_reply(harness: Harness) -> None:
    """With ack the outcome is the server's reply: confirmed, or refused with a bare string (R31)."""
    harness.open()
    room = harness.channel("lobby", ack=True)
    harness.join(room)
    good = harness.call(harness.session.broadcast, room, OutgoingBroadcast("e", b"{}", ack=True, timeout=10.0))
    bad = harness.call(harness.session.broadcast, room, OutgoingBroadcast("e", b"{}", ack=True, timeout=10.0))
    refs = [int(harness.sent("phx_join")[0].ref or 0) + more for more in (1, 2)]
    harness.receive(room, "phx_reply", {"status": "ok", "response": {}}, ref=str(refs[0]), join_ref="1")
    harness.receive(
        room, "phx_reply", {"status": "error", "response": "payload_size_exceeded"}, ref=str(refs[1]), join_ref="1"
    )
    assert harness.outcome(good) == Sent("socket", acked=True)
    assert "payload_size_exceeded" in str(error_of(harness.outcome(bad)))


def test_a_late_listener_for_changes_rejoins_and_reports_a_gap(harness: Harness) -> None:
    """Changes added after the join cause one more join for all of them, and a Gap for the time between (R17)."""
    harness.open()
    db = harness.channel("db")
    harness.join(db)
    harness.collect(db, changes("users"))
    harness.collect(db, changes("orders"))
    assert len(harness.sent("phx_join")) == 1, "not before the next iteration of the event loop"
    harness.run_for(0)
    assert len(harness.sent("phx_join")) == 2
    assert harness.session.channels[db].state is ChannelState.REJOINING
    harness.answer_join()
    harness.receive(
        db, "system", {"extension": "postgres_changes", "status": "ok", "message": "Subscribed to PostgreSQL"}
    )
    (gap,) = [report.gap for report in harness.reports(GapReported)]
    assert (gap.topic, gap.reason) == ("db", "rejoin")
    assert gap.lost == {"changes"}


def test_commands_after_close_raise_closed_error(harness: Harness) -> None:
    """After close every command raises ClosedError, and pending calls get it (R10, R11)."""
    harness.open()
    room = harness.channel("lobby")
    joining = harness.call(harness.session.join, room)
    harness.call(harness.session.close)
    assert isinstance(error_of(harness.outcome(joining)), ClosedError)
    for command in (harness.session.open, harness.session.reconnect):
        assert isinstance(_raised(lambda command=command: harness.call(command)), ClosedError)
    assert isinstance(_raised(lambda: harness.call(harness.session.join, room)), ClosedError)
    assert [effect.abort for effect in harness.effects if isinstance(effect, Disconnect)] == [False]


def test_a_send_while_not_joined_is_refused_with_the_reason(harness: Harness) -> None:
    """By default a broadcast on a channel that is not joined raises at once (R31)."""
    harness.open()
    room = harness.channel("lobby")
    error = _raised(lambda: harness.call(harness.session.broadcast, room, OutgoingBroadcast("e", b"{}")))
    assert isinstance(error, StateError)
    assert "idle" in str(error)


def _insert(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": "public",
        "table": "users",
        "type": "INSERT",
        "commit_timestamp": "2026-01-05T10:11:12.345Z",
        "columns": [{"name": "id", "type": "int8"}],
        "record": record,
        "errors": None,
    }


def _raised(call: Any) -> BaseException | None:
    try:
        call()
    except RealtimeError as error:
        return error
    return None
