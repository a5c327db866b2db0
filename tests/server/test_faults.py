"""Fault injection: the effect of every fault on clients."""

from typing import Any

import pytest

from supawire.server.effects import Refusal
from tests.server.world import OK, Client, World, denied, system

LAB = "realtime:lab"
ACK = {"broadcast": {"ack": True, "self": True}}
PING = {"type": "broadcast", "event": "ping", "payload": {}}


def joined(world: World, topic: str = LAB) -> Client:
    client = world.connect()
    client.join(topic, config=ACK)
    client.take()
    return client


def ping(client: Client, ref: str = "9") -> None:
    client.push("phoenix", "heartbeat", {}, ref=ref)


@pytest.mark.parametrize("code", [None, 1000, 1012, 4000])
def test_connections_are_dropped(code: int | None) -> None:
    """They are closed with any code, or aborted without one, and their channels end."""
    world = World()
    one, two = joined(world), joined(world)
    two.track(LAB, {})
    one.take()
    world.fault("drop_connections", code, connection=two.number)
    assert (one.closed, two.closed) == (None, (code,))
    assert one.events("presence_diff")[0]["leaves"]
    world.fault("drop_connections", code)
    assert one.closed == (code,)


def refused(world: World) -> int | None:
    answer = world.handshake(99, {"apikey": world.token()})
    return answer.status if isinstance(answer, Refusal) else None


def test_a_number_of_connections_is_refused() -> None:
    """They get the given status, and the next ones are accepted."""
    world = World()
    world.fault("refuse_connections", times=2, status=502)
    assert [refused(world) for _ in range(3)] == [502, 502, None]


def test_connections_are_refused_for_a_time() -> None:
    """They are refused for the given time, or until they are accepted again."""
    world = World()
    world.fault("refuse_connections", seconds=5)
    assert refused(world) == 503
    world.run(5)
    assert refused(world) is None
    world.fault("refuse_connections")
    world.run(10_000)
    assert refused(world) == 503
    world.fault("accept_connections")
    assert refused(world) is None


def test_a_paused_server_reads_but_does_not_answer() -> None:
    """This includes new sockets; after `resume` everything is answered in order."""
    world = World()
    client, other = joined(world), joined(world)
    world.fault("pause")
    late = world.connect()
    for each in (client, late):
        ping(each, "1")
    client.push(LAB, "broadcast", PING, ref="2", join_ref="1")
    late.join()
    world.run(20)
    assert (client.got, other.got, late.got) == ([], [], [])
    world.fault("resume")
    assert [(part.ref, part.event) for part in map(client.parts, client.got)] == [
        ("1", "phx_reply"),
        (None, "broadcast"),
        ("2", "phx_reply"),
    ]
    assert [event for event, _ in other.received()] == ["broadcast"]
    assert [event for event, _ in late.received()] == ["phx_reply", "phx_reply"]


def test_one_connection_is_paused() -> None:
    """Other connections are not affected."""
    world = World()
    client, other = joined(world), joined(world)
    world.fault("pause", connection=client.number)
    ping(client)
    ping(other)
    assert client.got == [] and other.got
    world.fault("resume", connection=client.number)
    assert client.got


def test_a_join_answered_during_a_pause_keeps_its_place() -> None:
    """The delayed reply is sent first when the pause ends."""
    world = World()
    client = world.connect()
    world.fault("delay_join", "lab", 3)
    client.join(config={"presence": {"enabled": True}})
    ping(client)
    world.fault("pause")
    world.run(5)
    assert client.got == []
    world.fault("resume")
    events = [(part.event, part.topic) for part in map(client.parts, client.got)]
    assert events[0] == ("phx_reply", LAB)
    assert sorted(events[1:]) == [("phx_reply", "phoenix"), ("presence_state", LAB)]


def test_frames_are_delayed_in_order() -> None:
    """Frames sent after the lag has ended do not overtake delayed ones."""
    world = World()
    client = joined(world)
    world.fault("lag", 2.0)
    ping(client, "1")
    world.run(1)
    ping(client, "2")
    world.fault("lag", 0.0)
    ping(client, "3")
    world.run(0.9)
    assert client.got == []
    world.run(2)
    assert [part.ref for part in map(client.parts, client.got)] == ["1", "2", "3"]
    assert client.times[-3:] == [2.0, 3.0, 3.0]
    late = world.connect()
    ping(late)
    assert late.got


def test_a_delayed_frame_is_not_sent_on_a_closed_socket() -> None:
    """Frames that are still delayed when the socket closes are dropped."""
    world = World()
    client = joined(world)
    world.fault("lag", 2.0)
    ping(client)
    world.fault("drop_connections", 1012)
    world.run(5)
    assert client.got == []


def test_replies_are_delayed() -> None:
    """Only replies are delayed, and the reply to a join suspends its socket meanwhile."""
    world = World()
    client = joined(world)
    world.fault("delay_replies", 3)
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert [event for event, _ in client.received()] == ["broadcast"]
    world.run(3)
    assert [event for event, _ in client.received()] == ["broadcast", "phx_reply"]
    client.take()
    client.join("realtime:other", config={"presence": {"enabled": True}})
    world.run(2.9)
    assert client.got == []
    world.run(0.2)
    assert [event for event, _ in client.received()] == ["phx_reply", "presence_state"]


@pytest.mark.parametrize("event", ["phx_join", "heartbeat", "broadcast", "phx_leave", "presence"])
def test_a_reply_is_dropped(event: str) -> None:
    """The given number of replies is dropped, and the pushes are executed."""
    world = World()
    client = joined(world)
    world.fault("drop_reply", event, 1)
    pushes: dict[str, tuple[str, Any, str | None]] = {
        "phx_join": ("realtime:new", {"config": {}}, "7"),
        "heartbeat": ("phoenix", {}, None),
        "broadcast": (LAB, PING, "1"),
        "phx_leave": (LAB, {}, "1"),
        "presence": (LAB, {"event": "track", "payload": {}}, "1"),
    }
    topic, payload, join_ref = pushes[event]
    client.push(topic, event, payload, join_ref=join_ref)
    assert "phx_reply" not in [name for name, _ in client.received()]
    client.push(topic, event, payload, join_ref=join_ref)
    assert "phx_reply" in [name for name, _ in client.received()]


def test_every_reply_is_dropped_without_a_number() -> None:
    """Replies are dropped until the faults are reset."""
    world = World()
    client = joined(world)
    world.fault("drop_reply", "heartbeat")
    for _ in range(5):
        ping(client)
    assert client.got == []
    world.fault("reset")
    ping(client)
    assert client.got


def test_joins_are_rejected_with_a_reason() -> None:
    """The rule is for one topic or for all."""
    world = World()
    client = world.connect()
    world.fault("reject_join", "lab", "RealtimeRestarting: Realtime is restarting, please standby")
    client.join()
    client.join("realtime:other")
    replies = client.events("phx_reply")
    assert replies[0] == denied("RealtimeRestarting: Realtime is restarting, please standby")
    assert replies[1]["status"] == "ok"
    world.fault("reject_join", "*", "Unknown Error on Channel")
    client.join("realtime:third")
    assert client.events("phx_reply")[-1] == denied("Unknown Error on Channel")


def test_a_delayed_join_suspends_its_socket() -> None:
    """Other frames on that socket wait, and joins of other topics are not delayed."""
    world = World()
    client = world.connect()
    world.fault("delay_join", LAB, 4)
    client.join()
    ping(client)
    world.run(3.9)
    assert client.got == []
    world.run(0.2)
    assert [part.topic for part in map(client.parts, client.got)] == [LAB, "phoenix"]
    client.join("realtime:other")
    assert client.got[-1][2] == "realtime:other"


def test_a_channel_is_closed() -> None:
    """Every socket with the topic gets `phx_close`, and the topic can be joined again."""
    world = World()
    one, two, other = joined(world), joined(world), joined(world, "realtime:other")
    world.fault("close_channel", "lab")
    assert one.got == two.got == [["1", "1", LAB, "phx_close", {}]]
    assert other.got == []
    one.join()
    assert one.got[-1][4]["status"] == "ok"


def test_a_stale_close_has_the_previous_join_ref() -> None:
    """The present channel stays open."""
    world = World()
    client = joined(world)
    client.push(LAB, "phx_leave", {}, join_ref="1")
    ref = client.join(config=ACK)
    client.take()
    world.fault("close_channel", "lab", stale=True)
    assert client.got == [["1", "1", LAB, "phx_close", {}]]
    client.push(LAB, "broadcast", PING, join_ref=ref)
    assert client.got[-1][4] == OK


def test_a_stale_close_without_an_earlier_join_has_no_known_join_ref() -> None:
    """The first channel of a topic stays open."""
    world = World()
    client = joined(world)
    world.fault("close_channel", "lab", stale=True)
    assert client.got == [["0", "0", LAB, "phx_close", {}]]


def test_a_channel_crashes() -> None:
    """It gets `phx_error` and ends."""
    world = World()
    client = joined(world)
    world.fault("crash_channel", "*")
    assert client.got == [["1", "1", LAB, "phx_error", {"reason": "channel_crash"}]]
    client.push(LAB, "broadcast", PING)
    assert client.got[-1][4] == denied("unmatched topic")


def test_tokens_expire() -> None:
    """The channels of one or all topics get the system error and the close; the socket stays open."""
    world = World()
    client, other = joined(world), joined(world, "realtime:other")
    world.fault("expire_tokens", "lab")
    assert client.received() == [("system", system("Token has expired 0 seconds ago")), ("phx_close", {})]
    assert other.got == [] and client.closed is None
    world.fault("expire_tokens")
    assert other.got


def test_a_system_message_is_sent() -> None:
    """It has the given text and the join_ref, and the channel stays open."""
    world = World()
    client = joined(world)
    world.fault("send_system", "lab", "error", "trouble", extension="postgres_changes")
    assert client.got == [["1", None, LAB, "system", system("trouble", extension="postgres_changes")]]
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert client.got[-1][4] == OK


def test_raw_data_is_sent() -> None:
    """Any text or bytes are sent to one or all connections."""
    world = World()
    client, other = joined(world), joined(world)
    world.fault("send_raw", "[1,2]")
    world.fault("send_raw", b"\x09", binary=True, connection=other.number)
    assert client.got == [[1, 2]]
    assert other.got == [[1, 2], b"\x09"]


def test_garbage_is_sent() -> None:
    """A dozen invalid frames of both kinds are sent."""
    world = World()
    client = joined(world)
    world.fault("garbage")
    assert len(client.got) == 12
    assert {isinstance(frame, bytes) for frame in client.got} == {True, False}


def test_a_reset_removes_all_fault_rules() -> None:
    """Joins, replies and handshakes are handled normally again."""
    world = World()
    for name, arguments in (
        ("refuse_connections", ()),
        ("pause", ()),
        ("lag", (5.0,)),
        ("delay_replies", (5.0,)),
        ("drop_reply", ("phx_join",)),
        ("reject_join", ("*", "x")),
        ("delay_join", ("*", 5.0)),
    ):
        world.fault(name, *arguments)
    world.fault("reset")
    client = world.connect()
    client.join()
    assert client.got[0][4]["status"] == "ok"
