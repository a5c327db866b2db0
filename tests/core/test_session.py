"""Join, send, receive, leave: the normal life of a session, frame by frame."""

from typing import Any

from supawire.core.effects import Disconnect, GapReported, Transmit
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import ClosedError, RealtimeError, StateError
from supawire.events import ChannelState, ConnectionState, Insert, PresenceJoin, PresenceSync, Sent
from supawire.selectors import broadcast, changes, presence, status, system
from supawire.testing.harness import NOT_YET, error_of

from .conftest import Story


def test_open_join_broadcast_leave_close(story: Story) -> None:
    """A channel is joined, sends, receives, is left; the client closes, and no call is pending."""
    opened = story.call(story.session.open)
    assert story.session.state is ConnectionState.CONNECTING
    story.accept()
    assert story.outcome(opened) is None

    room = story.channel("lobby")
    received = story.collect(room, broadcast("typing"))
    joined = story.call(story.session.join, room)
    (join,) = story.new_frames("phx_join")
    assert join.ref == join.join_ref
    assert join.payload == {
        "config": {
            "broadcast": {"self": False, "ack": False},
            "presence": {"enabled": False},
            "postgres_changes": [],
            "private": False,
        }
    }
    assert story.outcome(joined) is NOT_YET
    story.reply(join, {"postgres_changes": []})
    assert story.outcome(joined) is None

    assert story.call(story.session.broadcast, room, OutgoingBroadcast("typing", b'{"n":1}')) is None
    (frame,) = [effect.data for effect in story.effects if isinstance(effect, Transmit) and effect.binary]
    assert frame.endswith(b'typing{"n":1}')

    story.receive(room, "broadcast", {"type": "broadcast", "event": "typing", "payload": {"user": "alice"}})
    story.receive(room, "broadcast", {"type": "broadcast", "event": "other", "payload": {}})
    assert [(message.topic, message.event, message.payload) for message in received] == [
        ("lobby", "typing", {"user": "alice"})
    ]

    left = story.call(story.session.leave, room, 10.0)
    (leave,) = story.new_frames("phx_leave")
    assert leave.join_ref == join.ref
    story.reply(leave)
    assert story.outcome(left) is None
    assert story.session.channels[room].state is ChannelState.IDLE

    closed = story.call(story.session.close)
    story.drop(code=1000)
    assert story.outcome(closed) is None
    assert story.session.state is ConnectionState.CLOSED
    assert story.session.stats().pending == 0
    assert story.session.next_deadline is None


def test_binary_broadcasts_arrive_on_the_same_channel(story: Story) -> None:
    """Kind 4 frames, JSON and raw, reach the listeners of their event and of the wildcard (R41)."""
    story.open()
    room = story.channel("lab")
    blobs, every = story.collect(room, broadcast("blob")), story.collect(room, broadcast())
    story.join(room)
    story.receive_raw(
        bytes.fromhex("040c040c017265616c74696d653a6c616270696e677b226964223a226d2d31227d7b226e223a317d"), binary=True
    )
    story.receive_raw(
        bytes.fromhex("040c0411007265616c74696d653a6c6162626c6f627b227265706c61796564223a747275657d00ff10"), binary=True
    )
    assert [(message.event, message.payload, message.id, message.replayed) for message in every] == [
        ("ping", {"n": 1}, "m-1", False),
        ("blob", b"\x00\xff\x10", None, True),
    ]
    assert blobs == every[1:]


def test_changes_reach_each_listener_of_the_binding_once(story: Story) -> None:
    """A row is delivered by binding id, once to each listener, also with id 0 and several ids (R15, R41)."""
    story.open()
    db = story.channel("db")
    inserts = story.collect(db, changes("users", event="INSERT"))
    both = story.collect(db, changes("users"), changes("users", event="INSERT"))
    bindings = [
        {"event": "INSERT", "schema": "public", "table": "users"},
        {"event": "*", "schema": "public", "table": "users"},
    ]
    story.join(db, {"postgres_changes": [{**bindings[0], "id": 0}, {**bindings[1], "id": 7}]})
    assert story.sent("phx_join")[0].payload["config"]["postgres_changes"] == bindings
    story.receive(db, "postgres_changes", {"ids": [0, 7], "data": _insert({"id": 2**60})})
    story.receive(db, "postgres_changes", {"ids": [99], "data": _insert({"id": 1})})
    assert [change.record for change in inserts] == [{"id": 2**60}] == [change.record for change in both]
    assert isinstance(inserts[0], Insert)


def test_a_change_of_another_kind_is_not_delivered(story: Story) -> None:
    """A change whose binding id matches another kind is dropped, as older servers send every kind."""
    story.open()
    db = story.channel("db")
    updates = story.collect(db, changes("users", event="UPDATE"))
    story.join(db)
    story.receive(db, "postgres_changes", {"ids": [100], "data": _insert({"id": 1})})
    assert updates == []


def test_ready_comes_after_joined(story: Story) -> None:
    """With changes, ready waits for "Subscribed to PostgreSQL", and joined does not (R18)."""
    story.open()
    db = story.channel("db")
    moves, messages = story.collect(db, status()), story.collect(db, system())
    story.collect(db, changes("users"))
    joined = story.call(story.session.join, db)
    ready = story.call(story.session.join, db, ready=True)
    story.answer_join()
    assert story.outcome(joined) is None
    assert story.outcome(ready) is NOT_YET
    message = "Subscribed to PostgreSQL"
    story.receive(db, "system", {"extension": "postgres_changes", "status": "ok", "message": message, "channel": "db"})
    assert story.outcome(ready) is None
    assert [(move.state, move.ready) for move in moves][-2:] == [
        (ChannelState.JOINED, False),
        (ChannelState.JOINED, True),
    ]
    assert [one.message for one in messages] == [message]


def test_presence_is_tracked_and_reported(story: Story) -> None:
    """A presence listener enables presence; a payload is tracked after the join, diffs are delivered (R45)."""
    story.open()
    room = story.channel("lobby", presence_key="ada")
    received = story.collect(room, presence())
    tracked = story.call(story.session.track, room, b'{"at":"desk"}', 10.0)
    assert story.outcome(tracked) is None, "not joined: it is stored, and the call returns at once"
    story.join(room)
    assert story.sent("phx_join")[0].payload["config"]["presence"] == {"enabled": True, "key": "ada"}
    (push,) = story.sent("presence")
    assert push.payload == {"type": "presence", "event": "track", "payload": {"at": "desk"}}
    story.reply(push)
    story.receive(room, "presence_state", {})
    meta = {"at": "desk", "phx_ref": "A"}
    story.receive(room, "presence_diff", {"joins": {"ada": {"metas": [meta]}}, "leaves": {}})
    assert [type(event) for event in received] == [PresenceSync, PresenceJoin, PresenceSync]
    assert {key: [one.payload for one in metas] for key, metas in received[-1].state.items()} == {
        "ada": [{"at": "desk"}]
    }


def test_an_acked_broadcast_waits_for_its_reply(story: Story) -> None:
    """With ack the outcome is the server's reply: confirmed, or refused with a bare string (R31)."""
    story.open()
    room = story.channel("lobby", ack=True)
    story.join(room)
    good = story.call(story.session.broadcast, room, OutgoingBroadcast("e", b"{}", ack=True, timeout=10.0))
    bad = story.call(story.session.broadcast, room, OutgoingBroadcast("e", b"{}", ack=True, timeout=10.0))
    refs = [int(story.sent("phx_join")[0].ref or 0) + more for more in (1, 2)]
    story.receive(room, "phx_reply", {"status": "ok", "response": {}}, ref=str(refs[0]), join_ref="1")
    story.receive(
        room, "phx_reply", {"status": "error", "response": "payload_size_exceeded"}, ref=str(refs[1]), join_ref="1"
    )
    assert story.outcome(good) == Sent("socket", acked=True)
    assert "payload_size_exceeded" in str(error_of(story.outcome(bad)))


def test_a_late_listener_for_changes_rejoins_and_reports_a_gap(story: Story) -> None:
    """Changes added after the join cause one more join for all of them, and a Gap for the time between (R17)."""
    story.open()
    db = story.channel("db")
    story.join(db)
    story.collect(db, changes("users"))
    story.collect(db, changes("orders"))
    assert len(story.sent("phx_join")) == 1, "not before the loop turn is over"
    story.run_for(0)
    assert len(story.sent("phx_join")) == 2
    assert story.session.channels[db].state is ChannelState.REJOINING
    story.answer_join()
    story.receive(
        db, "system", {"extension": "postgres_changes", "status": "ok", "message": "Subscribed to PostgreSQL"}
    )
    (gap,) = [report.gap for report in story.reports(GapReported)]
    assert (gap.topic, gap.reason) == ("db", "rejoin")
    assert gap.lost == {"changes"}


def test_commands_after_close_raise_closed_error(story: Story) -> None:
    """After close every command raises ClosedError, and pending calls get it (R10, R11)."""
    story.open()
    room = story.channel("lobby")
    joining = story.call(story.session.join, room)
    story.call(story.session.close)
    assert isinstance(error_of(story.outcome(joining)), ClosedError)
    for command in (story.session.open, story.session.reconnect):
        assert isinstance(_raised(lambda command=command: story.call(command)), ClosedError)
    assert isinstance(_raised(lambda: story.call(story.session.join, room)), ClosedError)
    assert [effect.abort for effect in story.effects if isinstance(effect, Disconnect)] == [False]


def test_a_send_while_not_joined_is_refused_with_the_reason(story: Story) -> None:
    """By default a broadcast on a channel that is not joined raises at once (R31)."""
    story.open()
    room = story.channel("lobby")
    error = _raised(lambda: story.call(story.session.broadcast, room, OutgoingBroadcast("e", b"{}")))
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
