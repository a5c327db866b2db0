"""Gaps: always reported, replayed where the server can, each message delivered once (R44)."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from supawire.core.effects import GapReported
from supawire.core.gaps import Gaps, ServerClock
from supawire.events import ConnectionState, Gap, Instant
from supawire.options import PROTOCOLS, ChannelOptions, Protocol, SessionOptions
from supawire.selectors import broadcast, changes, gaps, presence
from supawire.server.hub_options import HubOptions
from supawire.testing.harness import NOT_YET
from supawire.testing.linked import SECRET, LinkedClient, World

from .conftest import SUBSCRIBED, TROUBLE, Harness


def stored(harness: Harness, topic: str, identity: str, *, replayed: bool = False, event: str = "e") -> None:
    """Deliver a stored message."""
    meta = {"id": identity, "replayed": True} if replayed else {"id": identity}
    join_ref = harness.sent("phx_join")[-1].ref if replayed and harness.options.protocol == "2.0.0" else None
    harness.receive(topic, "broadcast", {"event": event, "payload": {"id": identity}, "meta": meta}, join_ref=join_ref)


def replays(harness: Harness) -> list[dict[str, int] | None]:
    """Return the replay request of each join."""
    return [frame.payload["config"]["broadcast"].get("replay") for frame in harness.sent("phx_join")]


def again(harness: Harness) -> None:
    """Lose the connection, reconnect, and join the channel again."""
    harness.drop(1006)
    harness.reconnect()
    harness.answer_join()


# --- reports


def test_each_lost_connection_is_reported_as_a_gap_with_time_reason_and_kinds(each: Harness) -> None:
    """A lost connection is a gap from the last received frame to the join, with the kinds that have listeners (R44)."""
    each.open()
    room = each.channel()
    reported = each.collect(room, gaps())
    each.collect(room, broadcast(), presence())
    each.join(room)
    last_received_at = each.now.at()
    each.run_for(5)
    again(each)
    lost = frozenset({"broadcast", "presence"})
    assert reported == [Gap("room", last_received_at, each.now.at(), "connection_lost", 0, "not_replayable", lost)]
    again(each)
    assert len(reported) == 2


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("channel_closed", lambda harness, room: harness.close_channel(room, harness.sent("phx_join")[-1].ref)),
        (
            "channel_crashed",
            lambda harness, room: harness.close_channel(room, harness.sent("phx_join")[-1].ref, event="phx_error"),
        ),
        ("connection_lost", lambda harness, room: harness.drop(1006)),
        ("connection_lost", lambda harness, room: harness.call(harness.session.reconnect)),
    ],
)
def test_a_gap_has_the_reason_that_ended_the_join(
    harness: Harness, reason: str, end: Callable[[Harness, str], None]
) -> None:
    """The reason names what ended the join (R44)."""
    harness.open()
    room = harness.channel()
    reported = harness.collect(room, gaps())
    harness.collect(room, broadcast())
    harness.join(room)
    end(harness, room)
    harness.run_for(1.6)
    if harness.session.state is ConnectionState.CONNECTING:
        harness.accept()
    harness.answer_join()
    assert [gap.reason for gap in reported] == [reason]


def test_several_lost_connections_are_one_gap(harness: Harness) -> None:
    """Losing the connection again before the rejoin opens no second gap and keeps the start (R44)."""
    harness.open()
    room = harness.channel()
    reported = harness.collect(room, gaps())
    harness.join(room)
    began = harness.now.at()
    for _ in range(3):
        harness.drop(1006)
        harness.reconnect()
    harness.answer_join()
    assert [(gap.started_at, gap.ended_at) for gap in reported] == [(began, harness.now.at())]


def test_a_gap_is_delivered_to_the_client_and_logged_without_listeners(harness: Harness) -> None:
    """client.listen() receives gaps of every channel; without any listener the gap is logged once (R44)."""
    harness.open()
    room = harness.joined()
    again(harness)
    assert [report.gap.topic for report in harness.reports(GapReported)] == ["room"]
    received = harness.watch()
    again(harness)
    assert [event.topic for event in received if isinstance(event, Gap)] == ["room"]
    assert len(harness.reports(GapReported)) == 1
    assert room


def test_the_gap_of_changes_is_reported_when_they_are_live(each: Harness) -> None:
    """With change listeners the gap is reported at ready, so that a refetch in response misses nothing (R44)."""
    each.open()
    db = each.channel("db")
    reported = each.collect(db, gaps())
    each.collect(db, changes("users"))
    each.join(db)
    each.system(db, SUBSCRIBED)
    again(each)
    assert reported == []
    each.run_for(4)
    each.system(db, SUBSCRIBED)
    assert [(gap.lost, gap.ended_at) for gap in reported] == [(frozenset({"changes"}), each.now.at())]


def test_an_open_gap_is_reported_when_the_channel_is_left(harness: Harness) -> None:
    """A leave during a gap reports the gap; the next join counts as the first, without a gap (R44)."""
    harness.open()
    room = harness.channel(private=True)
    reported = harness.collect(room, gaps())
    harness.join(room)
    harness.drop(1006)
    harness.run_for(0.01)
    harness.call(harness.session.leave, room, 10.0)
    assert [gap.verdict for gap in reported] == ["not_replayable"]
    harness.reconnect()
    harness.join(room)
    assert len(reported) == 1
    assert replays(harness) == [None, None]


def test_a_leave_by_the_user_is_not_a_gap(each: Harness) -> None:
    """Events between a leave and the next subscribe are not reported as missed (R44)."""
    each.open()
    room = each.channel()
    reported = each.collect(room, gaps())
    for _ in range(2):
        each.join(room)
        each.call(each.session.leave, room, 10.0)
        each.reply(each.sent("phx_leave")[-1])
    assert reported == []


def test_kinds_added_during_a_gap_are_included(harness: Harness) -> None:
    """The gap also names the kind of a listener that was added during it (R44)."""
    harness.open()
    room = harness.channel()
    reported = harness.collect(room, gaps())
    harness.collect(room, broadcast())
    harness.join(room)
    harness.drop(1006)
    harness.collect(room, presence())
    harness.reconnect()
    harness.answer_join()
    assert [sorted(gap.lost) for gap in reported] == [["broadcast", "presence"]]


# --- replay


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ten_messages_stored_in_a_gap_arrive_once_and_in_order(protocol: Protocol) -> None:
    """A private channel loses its connection, ten messages are stored, and the rejoin delivers all ten (R44)."""
    world, ada, received, reported = linked_private(protocol)
    world.act(world.hub.send, "lobby", "e", {"n": 0}, world.clock.now)
    world.run_for(6)
    cut_off(world, ada)
    for number in range(1, 11):
        world.act(world.hub.send, "lobby", "e", {"n": number}, world.clock.now)
        world.run_for(0.01)
    world.run_for(5)
    world.act(world.hub.send, "lobby", "e", {"n": 11}, world.clock.now)
    world.run_for(2)
    assert [message.payload["n"] for message in received] == list(range(12))
    assert [message.replayed for message in received] == [False] + [True] * 10 + [False]
    assert len({message.id for message in received}) == 12
    assert [(gap.replayed, gap.verdict) for gap in reported] == [(10, "complete")]


def test_messages_just_before_the_gap_are_not_delivered_twice() -> None:
    """The replay starts some seconds before the gap, as clocks differ; known messages are dropped by id (R44)."""
    world, ada, received, reported = linked_private("2.0.0")
    for number in range(5):
        world.act(world.hub.send, "lobby", "e", {"n": number}, world.clock.now)
    world.run_for(0.1)
    cut_off(world, ada)
    for number in range(5, 8):
        world.act(world.hub.send, "lobby", "e", {"n": number}, world.clock.now)
    world.run_for(5)
    assert [message.payload["n"] for message in received] == list(range(8))
    assert [gap.verdict for gap in reported] == ["complete"]


def test_a_gap_with_more_messages_than_the_limit_is_truncated() -> None:
    """Of thirty messages in a gap the newest 25 arrive, and the gap is marked as truncated (R44)."""
    world, ada, received, reported = linked_private("2.0.0")
    world.run_for(6)
    cut_off(world, ada)
    for number in range(30):
        world.act(world.hub.send, "lobby", "e", {"n": number}, world.clock.now)
    world.run_for(5)
    assert [message.payload["n"] for message in received] == list(range(5, 30))
    assert [(gap.replayed, gap.verdict) for gap in reported] == [(25, "truncated")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("skew", [4.0, 6.0, 3600.0, -6.0, -3600.0])
def test_a_wrong_clock_loses_no_stored_message(protocol: Protocol, skew: float) -> None:
    """Whatever the difference between the two clocks, all messages stored in the gap are replayed (R44)."""
    world, ada, received, reported = linked_private(protocol, skew)
    world.act(world.hub.send, "lobby", "e", {"n": 0}, world.clock.now)
    world.run_for(30)
    cut_off(world, ada)
    for number in range(1, 11):
        world.act(world.hub.send, "lobby", "e", {"n": number}, world.clock.now)
    world.run_for(5)
    assert [message.payload["n"] for message in received] == list(range(11))
    assert [(gap.replayed, gap.verdict) for gap in reported] == [(10, "complete")]


@pytest.mark.parametrize("correction", [3600.0, -3600.0])
@pytest.mark.parametrize("when", ["joined", "away"])
def test_setting_the_clock_loses_no_stored_message(when: str, correction: float) -> None:
    """Setting the clock while joined or disconnected does not move the replay, and no gap ends before it starts."""
    world, ada, received, reported = linked_private("2.0.0", -correction)
    if when == "joined":
        ada.skew = 0.0
        world.run_for(30)
    cut_off(world, ada)
    world.act(world.hub.send, "lobby", "e", {"n": 1}, world.clock.now)
    ada.skew = 0.0
    world.run_for(5)
    assert [message.payload["n"] for message in received] == [1]
    assert [gap.verdict for gap in reported] == ["complete"]
    assert all(gap.started_at <= gap.ended_at for gap in reported)


@pytest.mark.parametrize("correction", [-30.0, 30.0])
def test_setting_the_clock_of_the_server_loses_no_stored_message(correction: float) -> None:
    """If all clocks are set during a connection, the next handshake corrects the start of the replay."""
    world, ada, received, reported = linked_private("2.0.0", 0.0)
    world.run_for(10)
    world.clock.sleep(correction)
    world.run_for(10)
    cut_off(world, ada)
    world.act(world.hub.send, "lobby", "e", {"n": 1}, world.clock.now)
    world.run_for(5)
    assert [message.payload["n"] for message in received] == [1]
    assert [gap.verdict for gap in reported] == ["complete"]


@pytest.mark.parametrize("offset", [None, float("nan"), float("inf"), 1e12])
def test_no_gap_is_complete_without_the_time_of_the_server(each: Harness, offset: float | None) -> None:
    """If the server gives no plausible time, no gap is reported as complete (R44)."""
    each.call(each.session.open)
    each.accept(clock_offset=offset)
    room = each.channel(private=True)
    reported = each.collect(room, gaps())
    each.join(room)
    each.drop(1006)
    each.run_to_attempt()
    each.accept(clock_offset=0.0)  # the server's time may differ now: its clock may have been set in between
    each.answer_join()
    each.run_alive(1.1)
    assert [gap.verdict for gap in reported] == ["truncated"]


def test_the_estimated_time_of_the_server_is_never_late() -> None:
    """The monotonic clock may be slightly fast, so the estimated server time lags by seconds after a day (R44)."""
    clock = ServerClock()
    clock.set_offset(5.0, Instant(100.0, 1000.0))
    assert clock.earliest(Instant(100.0, 1000.0)) == 1005.0
    after_a_day = clock.earliest(Instant(86500.0, 0.0))
    assert after_a_day is not None
    assert 1005.0 + 86400 - 10 < after_a_day < 1005.0 + 86400 - 5
    assert clock.earliest(Instant(99.0, 999.0)) is None, "the machine may have slept before the connection was open"


def test_a_gap_is_reported_after_a_slow_replay(each: Harness) -> None:
    """A gap is reported when the queued messages have arrived, however long that takes (R44)."""
    each.open()
    room = each.channel(private=True)
    reported = each.collect(room, gaps())
    each.join(room)
    again(each)
    for number in range(25 - 1):
        each.run_for(1)
        stored(each, room, f"{number}", replayed=True)
    assert reported == []
    each.reply(each.sent("heartbeat")[0])
    assert [(gap.replayed, gap.verdict) for gap in reported] == [(24, "complete")]
    each.run_alive(60)
    assert len(reported) == 1


def test_a_heartbeat_behind_a_replay_does_not_end_the_connection(harness: Harness) -> None:
    """A reply may wait behind replayed messages for minutes; the reply to the next heartbeat is enough (R44)."""
    harness.open()
    room = harness.channel(private=True)
    reported = harness.collect(room, gaps())
    harness.join(room)
    again(harness)
    harness.run_for(25.5)
    assert len(harness.sent("heartbeat")) == 2
    assert harness.session.state is ConnectionState.OPEN
    assert reported == []
    harness.reply(harness.sent("heartbeat")[1])
    assert [gap.verdict for gap in reported] == ["complete"]
    harness.reply(harness.sent("heartbeat")[0])
    assert len(reported) == 1


def test_an_earlier_heartbeat_does_not_end_a_replay(harness: Harness) -> None:
    """Only the reply to a heartbeat sent after the messages were queued arrives after them (R44)."""
    harness.open()
    room = harness.channel(private=True)
    reported = harness.collect(room, gaps())
    harness.join(room)
    again(harness)
    ping = harness.call(harness.session.ping, None)
    harness.run_for(1.1)
    before, behind = harness.sent("heartbeat")
    harness.reply(before)
    assert harness.outcome(ping) is not NOT_YET
    assert reported == []
    harness.reply(behind)
    assert len(reported) == 1


def test_messages_replayed_by_several_joins_are_counted_together(each: Harness) -> None:
    """A gap that needs two joins counts the new messages of both (R44)."""
    each.open()
    room = each.channel(private=True)
    reported = each.collect(room, gaps())
    each.join(room)
    again(each)
    for identity in ("a", "b", "c"):
        stored(each, room, identity, replayed=True)
    again(each)
    for identity in ("b", "c", "d"):
        stored(each, room, identity, replayed=True)
    each.run_alive(1.1)
    assert [(gap.replayed, gap.verdict) for gap in reported] == [(4, "complete")]
    again(each)
    each.run_alive(1.1)
    assert reported[1].replayed == 0


@pytest.mark.parametrize("end", ["leave", "replaced"])
def test_the_replay_of_an_ended_join_does_not_count(each: Harness, end: str) -> None:
    """The expected replay of an ended join does not count for a later gap, which has no replay yet (R44)."""
    each.open()
    room = each.channel(private=True, replay_gaps=False, replay_since=1.0)
    reported = each.collect(room, gaps())
    each.join(room)
    if end == "leave":
        each.call(each.session.leave, room, 10.0)
        each.reply(each.sent("phx_leave")[-1])
        each.join(room, {"postgres_changes": []})
    again(each)
    each.run_alive(1.1)
    assert [(gap.replayed, gap.verdict) for gap in reported] == [(0, "not_replayable")]


def test_a_replay_does_not_cover_a_later_gap(each: Harness) -> None:
    """The replay of a join does not cover what is missed later during the same join (R44)."""
    each.open()
    room = each.channel(private=True)
    reported = each.collect(room, changes("users"), gaps())
    each.join(room)
    each.system(room, SUBSCRIBED)
    again(each)
    each.system(room, SUBSCRIBED)
    each.run_alive(1.1)
    each.system(room, TROUBLE, status="error")
    each.run_alive(5)
    each.system(room, SUBSCRIBED)
    assert [(gap.reason, gap.verdict) for gap in reported] == [
        ("connection_lost", "complete"),
        ("degraded", "not_replayable"),
    ]


def test_a_replay_interrupted_by_a_leave_is_not_complete(each: Harness) -> None:
    """A leave ends the gap and the replay; it is unknown whether the messages so far were all (R44)."""
    each.open()
    room = each.channel(private=True)
    reported = each.collect(room, gaps())
    each.join(room)
    again(each)
    each.call(each.session.leave, room, 10.0)
    each.reply(each.sent("phx_leave")[-1])
    assert [gap.verdict for gap in reported] == ["not_replayable"]


def linked_private(protocol: Protocol, skew: float = 0.0) -> tuple[World, LinkedClient, list[Any], list[Any]]:
    """Return a client on a private channel of the local server, with its events and gaps."""
    world = World(hub=HubOptions(secret=SECRET))
    ada = world.client(SessionOptions(protocol=protocol), token=world.token())
    ada.skew = skew
    room = ada.channel("lobby", private=True)
    received, reported = ada.collect(room, broadcast()), ada.collect(room, gaps())
    ada.start(ada.session.join, room)
    world.run_for(1)
    return world, ada, received, reported


def cut_off(world: World, ada: LinkedClient) -> None:
    """Break the connection."""
    assert ada.wire is not None
    world.cut(ada.wire)
    world.run_for(0.001)


def test_the_replay_begins_at_the_gap(each: Harness) -> None:
    """The join after a loss requests messages stored since the last received frame, minus the clock skew (R44)."""
    each.open()
    room = each.channel(private=True)
    each.join(room)
    wall = each.now.wall
    each.run_for(3)
    again(each)
    assert replays(each) == [None, {"since": int((wall - 5) * 1000), "limit": 25}]


def test_public_channels_request_no_replay(each: Harness) -> None:
    """A replay on a public channel would make the server refuse the join, so the key is omitted (R44)."""
    each.open()
    each.joined()
    again(each)
    assert replays(each) == [None, None]
    assert all("replay" not in frame.payload["config"]["broadcast"] for frame in each.sent("phx_join"))


def test_the_first_join_replays_what_the_options_request(each: Harness) -> None:
    """replay_since and replay_limit apply to the first join after a subscribe; gaps use their own time (R44)."""
    each.open()
    since = datetime(2026, 1, 5, 10, 11, 12, 345600, tzinfo=UTC)
    room = each.channel(private=True, replay_since=since, replay_limit=7)
    received = each.collect(room, broadcast())
    each.join(room)
    assert replays(each) == [{"since": 1767607872345, "limit": 7}]
    stored(each, room, "a", replayed=True)
    assert [(message.id, message.replayed) for message in received] == [("a", True)]
    since_gap = int((each.now.wall - 5) * 1000)
    again(each)
    assert replays(each)[1] == {"since": since_gap, "limit": 25}, "replay_limit is for the first join"
    each.call(each.session.leave, room, 10.0)
    each.reply(each.sent("phx_leave")[-1])
    each.join(room)
    assert replays(each)[2] == replays(each)[0]


def test_replay_of_gaps_can_be_disabled(each: Harness) -> None:
    """With replay_gaps=False a rejoin requests no replay, and the gap reports that (R44)."""
    each.open()
    room = each.channel(private=True, replay_gaps=False)
    reported = each.collect(room, gaps())
    each.join(room)
    again(each)
    assert replays(each) == [None, None]
    assert [gap.verdict for gap in reported] == ["not_replayable"]


@pytest.mark.parametrize(("count", "verdict"), [(0, "complete"), (24, "complete"), (25, "truncated")])
def test_exactly_the_limit_may_be_truncated(each: Harness, count: int, verdict: str) -> None:
    """If as many messages arrive as were requested, some may be missing; if fewer arrive, none is (R44)."""
    each.open()
    room = each.channel(private=True)
    reported, received = each.collect(room, gaps()), each.collect(room, broadcast())
    each.join(room)
    again(each)
    for number in range(count):
        stored(each, room, f"{number}", replayed=True)
    each.run_alive(1.1)
    assert len(received) == count
    assert [(gap.replayed, gap.verdict) for gap in reported] == [(count, verdict)]


def test_copies_of_a_message_are_delivered_once(each: Harness) -> None:
    """Live and replayed copies of a stored message are delivered once, also to wildcard listeners (R44)."""
    each.open()
    room = each.channel(private=True)
    every, named = each.collect(room, broadcast()), each.collect(room, broadcast("e"))
    each.join(room)
    for replayed in (False, True, False):
        stored(each, room, "one", replayed=replayed)
    for replayed in (True, False):
        stored(each, room, "two", replayed=replayed)
    assert [message.id for message in every] == ["one", "two"] == [message.id for message in named]


def test_messages_without_an_id_are_not_copies(each: Harness) -> None:
    """Broadcasts that are not stored have no id, and all are delivered (R44)."""
    each.open()
    room = each.channel()
    received = each.collect(room, broadcast())
    each.join(room)
    for meta in ({}, None, {"replayed": False}, {"id": None}):
        each.receive(room, "broadcast", {"event": "e", "payload": {}, "meta": meta})
    assert len(received) == 4


def test_the_number_of_remembered_ids_is_bounded() -> None:
    """At most ten thousand ids are remembered to detect copies; an id of a copy counts as new again (R44)."""
    memory = Gaps("room", ChannelOptions(private=True), ServerClock())
    for number in range(15_000):
        assert memory.add_stored(f"{number}", 0.0, replayed=False)
        assert not memory.add_stored("0", 0.0, replayed=False)
    assert not memory.add_stored("14999", 0.0, replayed=True)
    assert not memory.add_stored("5001", 0.0, replayed=True)
    assert memory.add_stored("5000", 0.0, replayed=True), "the oldest ids are dropped"


def test_long_ids_are_not_remembered() -> None:
    """An id that is much longer than a UUID takes no memory, and a message with it is always new (R44)."""
    memory = Gaps("room", ChannelOptions(), ServerClock())
    for text, is_kept in (("x" * 64, True), ("x" * 65, False), ("x" * 100_000, False)):
        assert memory.add_stored(text, 0.0, replayed=False)
        assert memory.add_stored(text, 0.0, replayed=False) is not is_kept


def test_old_ids_are_dropped() -> None:
    """After ten minutes an id is dropped, except for the last thousand (R44)."""
    memory = Gaps("room", ChannelOptions(), ServerClock())
    for number in range(2000):
        memory.add_stored(f"{number}", 0.0, replayed=False)
    memory.add_stored("later", 599.0, replayed=False)
    assert not memory.add_stored("0", 599.0, replayed=False)
    memory.add_stored("late", 601.0, replayed=False)
    assert not memory.add_stored("1999", 601.0, replayed=False)
    assert not memory.add_stored("1100", 601.0, replayed=False)
    assert memory.add_stored("900", 601.0, replayed=False)


def test_a_gap_keeps_its_earliest_start() -> None:
    """Of several starts the earliest counts, in whatever order they are reported (R44)."""
    memory = Gaps("room", ChannelOptions(), ServerClock())
    for mono in (20.0, 10.0, 30.0):
        memory.open(Instant(mono, mono), f"at {mono:g}", frozenset({f"{mono:g}"}))
    memory.joined()
    gap = memory.close(Instant(40.0, 40.0))
    assert gap is not None
    assert (gap.started_at.timestamp(), gap.reason, gap.lost) == (10.0, "at 10", {"10", "20", "30"})
    assert memory.close(Instant(50.0, 50.0)) is None


def test_a_gap_starts_at_the_unanswered_join(harness: Harness) -> None:
    """A close received after an unanswered join may be as old as the join: the gap starts there (R44)."""
    harness.open()
    room = harness.channel()
    reported = harness.collect(room, gaps())
    harness.join(room)
    harness.run_for(10)
    blocked_at = harness.now.at()
    slow = harness.channel("slow")
    harness.call(harness.session.join, slow)
    harness.run_for(15)
    harness.answer_join()
    harness.run_for(0.1)
    harness.close_channel(room, harness.sent("phx_join")[0].ref)
    harness.run_for(1.1)
    harness.answer_join()
    assert [gap.started_at for gap in reported] == [blocked_at]


def test_a_gap_starts_at_a_join_that_timed_out(harness: Harness) -> None:
    """A gap starts at a join that timed out, which the server may process until its late reply (R44)."""
    harness.open()
    room, other = harness.channel(), harness.joined("other")
    reported = harness.collect(room, gaps())
    harness.join(room)
    blocked_at = harness.now.at()
    harness.call(harness.session.join, harness.channel("slow"))
    slow = harness.sent("phx_join")[-1]
    harness.run_for(10)
    harness.receive(other, "broadcast", {"event": "e", "payload": {}})
    harness.run_for(10.1)
    harness.reply(slow, {"reason": "Unauthorized: no"}, status="error")
    harness.close_channel(room, harness.sent("phx_join")[1].ref)
    harness.run_for(1.1)
    rejoin = [frame for frame in harness.sent("phx_join") if frame.topic == room][-1]
    harness.reply(rejoin, {"postgres_changes": []})
    assert [gap.started_at for gap in reported] == [blocked_at]


def test_a_join_answered_long_ago_does_not_move_a_gap(harness: Harness) -> None:
    """A join that was slow a minute ago does not move a gap: it starts when the channel ended (R44)."""
    harness.open()
    room = harness.channel()
    reported = harness.collect(room, gaps())
    harness.join(room)
    harness.call(harness.session.join, harness.channel("slow"))
    harness.run_for(5)
    harness.answer_join()
    harness.run_alive(60)
    ended_at = harness.now.at()
    harness.close_channel(room, harness.sent("phx_join")[0].ref)
    harness.run_for(1.1)
    harness.answer_join()
    assert [gap.started_at for gap in reported] == [ended_at]
