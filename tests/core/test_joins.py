"""One join after another: which one counts, what it asks for, and how long it may take."""

from collections.abc import Callable

import pytest

from supawire.errors import ConnectionLostError, JoinDeniedError, JoinError, OperationTimeout
from supawire.options import Backoff, Limits, Secret
from supawire.selectors import broadcast, changes, presence, status, system
from supawire.testing.pilot import NOT_YET, error_of
from supawire.types import ChannelState, LinkState

from .conftest import Story

HELLO = {"type": "broadcast", "event": "hello", "payload": {"n": 1}}


def hears(story: Story, topic: str) -> bool:
    """Whether a broadcast gets through, both ways."""
    heard = story.collect(topic, broadcast("hello"))
    story.hear(topic, "broadcast", HELLO)
    before = len(story.pushed())
    story.broadcast(topic, b'{"n":2}')
    return len(heard) == 1 and len(story.pushed()) == before + 1


# --- which join counts


def timed_out_then_joined(story: Story) -> tuple[str, str]:
    """A channel whose first join was not answered, and whose second was; its topic and the first join's ref."""
    story.open()
    other, room = story.channel("other"), story.channel()
    story.join(other)
    story.do(story.session.join, room)
    old = story.sent("phx_join")[-1].ref
    story.run_for(10)
    story.hear(other, "broadcast", HELLO)
    story.run_for(11.1)
    assert len(story.sent("phx_join")) == 3
    story.answer_join()
    assert story.state(room) is ChannelState.JOINED
    assert old is not None
    return room, old


@pytest.mark.parametrize("event", ["phx_close", "phx_error"])
def test_the_late_end_of_a_join_that_timed_out_is_ignored(each: Story, event: str) -> None:
    """A join times out, the next is accepted, the late phx_close or phx_error of the first ends nothing (R12)."""
    room, old = timed_out_then_joined(each)
    stale = each.session.stats().stale_frames
    each.close_channel(room, old, event=event)
    assert each.state(room) is ChannelState.JOINED
    assert each.session.stats().stale_frames == stale + 1
    assert hears(each, room)
    assert len(each.sent("phx_join")) == 3


@pytest.mark.parametrize("event", ["phx_close", "phx_error"])
def test_the_late_end_of_a_join_that_was_left_is_ignored(each: Story, event: str) -> None:
    """A topic is left and joined again at once; the late end of its first join ends nothing (R12)."""
    each.open()
    room = each.joined()
    old = each.sent("phx_join")[-1].ref
    each.do(each.session.leave, room, 10.0)
    again = each.do(each.session.join, room)
    each.reply(each.sent("phx_leave")[-1])
    each.answer_join()
    assert each.outcome(again) is None
    each.close_channel(room, old, event=event)
    assert each.state(room) is ChannelState.JOINED
    assert hears(each, room)


@pytest.mark.parametrize("status", ["ok", "error"])
def test_a_late_reply_to_an_old_join_moves_nothing(each: Story, status: str) -> None:
    """A reply to the join that timed out, ok or not, neither joins nor fails the channel (R12)."""
    each.open()
    other, room = each.joined("other"), each.channel()
    joining = each.do(each.session.join, room)
    old = each.sent("phx_join")[-1]
    each.run_for(10)
    each.hear(other, "broadcast", HELLO)
    each.run_for(10.01)
    assert each.state(room) is ChannelState.RETRYING
    each.reply(old, {"reason": "Unauthorized: no"}, status=status)
    assert each.state(room) is ChannelState.RETRYING
    assert each.outcome(joining) is NOT_YET
    each.run_for(1.1)
    assert each.state(room) is ChannelState.JOINING
    each.reply(old, {"reason": "Unauthorized: no"}, status=status)
    assert each.state(room) is ChannelState.JOINING
    each.answer_join()
    each.reply(old, {"reason": "Unauthorized: no"}, status=status)
    assert each.state(room) is ChannelState.JOINED
    assert each.session.stats().late_replies == 3


def test_data_of_an_older_join_is_dropped_and_counted(story: Story) -> None:
    """Events, system messages and presence that name an older join reach nobody (R12)."""
    room, old = timed_out_then_joined(story)
    heard = story.collect(room, broadcast(), system(), presence())
    stale = story.session.stats().stale_frames
    said = {"extension": "system", "status": "error", "message": "Token has expired 1 seconds ago"}
    diff = {"joins": {"bob": {"metas": [{"phx_ref": "A"}]}}, "leaves": {}}
    for event, payload in (("broadcast", HELLO), ("system", said), ("presence_state", {}), ("presence_diff", diff)):
        story.hear(room, event, payload, join_ref=old)
    assert heard == []
    assert story.session.stats().stale_frames == stale + 4
    story.hear(room, "broadcast", HELLO, join_ref=story.sent("phx_join")[-1].ref)
    assert len(heard) == 1, "replayed messages carry the join_ref of the living join"


def test_nothing_is_delivered_while_the_channel_is_not_joined(each: Story) -> None:
    """Live data counts only while a join is living: not before the ok, and not after the end (R12)."""
    each.open()
    room = each.channel()
    heard = each.collect(room, broadcast())
    each.hear(room, "broadcast", HELLO)
    each.do(each.session.join, room)
    each.hear(room, "broadcast", HELLO)
    each.answer_join()
    each.hear(room, "broadcast", HELLO)
    each.close_channel(room, each.sent("phx_join")[-1].ref)
    each.hear(room, "broadcast", HELLO)
    assert len(heard) == 1


def test_the_end_of_the_living_join_is_followed_by_another(each: Story) -> None:
    """phx_close and phx_error of the present join are taken: the channel is joined again after the backoff (R12)."""
    each.open()
    room = each.joined()
    for event in ("phx_close", "phx_error"):
        each.close_channel(room, each.sent("phx_join")[-1].ref, event=event)
        assert each.state(room) is ChannelState.RETRYING
        each.run_for(2.1)
        each.answer_join()
        assert each.state(room) is ChannelState.JOINED


# --- leaving what may still be held


def test_a_join_that_timed_out_is_left_before_the_next(each: Story) -> None:
    """Before the next join goes out, phx_leave names the one that was not answered (R13)."""
    room, old = timed_out_then_joined(each)
    ours = [(frame.event, frame.join_ref) for frame in each.sent() if frame.topic == room]
    assert ours == [("phx_join", old), ("phx_leave", old), ("phx_join", ours[2][1])]


def test_a_rejoin_that_timed_out_leaves_both_joins(each: Story) -> None:
    """When a join over a living one is not answered, both are left: the server holds one of them (R13)."""
    each.open()
    other, db = each.joined("other"), each.joined("db")
    first = each.sent("phx_join")[-1].ref
    each.collect(db, changes("users"))
    each.run_for(10)
    each.hear(other, "broadcast", HELLO)
    second = each.sent("phx_join")[-1].ref
    each.run_for(10.1)
    assert each.state(db) is ChannelState.RETRYING
    assert [frame.join_ref for frame in each.sent("phx_leave")] == [first, second]


def test_a_topic_is_joined_once_while_it_is_held(each: Story) -> None:
    """Repeated wishes, listeners that need no join, and replies to other requests send no second join (R13)."""
    each.open()
    room = each.joined()
    for _ in range(3):
        assert each.outcome(each.do(each.session.join, room)) is None
    each.collect(room, broadcast(), system(), status())
    each.run_alive(120)
    assert len(each.sent("phx_join")) == 1


# --- join_ref on the wire


def test_every_push_of_a_channel_carries_the_join_ref_of_its_join(each: Story) -> None:
    """After each of three joins, broadcasts, presence, tokens and the leave carry that join's ref (R14)."""
    each.open()
    room = each.channel(ack=True, presence_key="ada")
    each.do(each.session.track, room, b"{}", 10.0)
    for turn in range(3):
        seen, pushed = len(each.sent()), len(each.pushed())
        each.do(each.session.join, room)
        each.answer_join()
        join = each.sent("phx_join")[-1]
        each.broadcast(room, ack=True)
        each.broadcast(room)
        each.do(each.session.set_channel_token, room, Secret(f"token {turn}"))
        each.do(each.session.leave, room, 10.0)
        fresh = [frame for frame in each.sent()[seen:] if frame.topic == room]
        assert {frame.event for frame in fresh} >= {"phx_join", "presence", "access_token", "phx_leave"}
        assert {frame.join_ref for frame in fresh} == {join.ref}
        assert {one.join_ref for one in each.pushed()[pushed:]} == {join.ref}
        assert len(each.pushed()[pushed:]) == 2
        each.reply(each.sent("phx_leave")[-1])
    refs = [frame.ref for frame in each.sent()]
    assert len(refs) == len(set(refs)), "a ref is never used twice"


# --- what a join asks for


def test_bindings_find_their_listeners_after_every_drop(each: Story) -> None:
    """Five bindings, twenty drops, other ids each time: each row reaches exactly its own listener, once (R15)."""
    each.open()
    db = each.channel("db")
    tables = ["a", "b", "c", "d", "e"]
    heard = {table: each.collect(db, changes(table)) for table in tables}
    each.do(each.session.join, db)
    for turn in range(21):
        join = each.sent("phx_join")[-1]
        wanted = join.payload["config"]["postgres_changes"]
        assert [binding["table"] for binding in wanted] == tables
        ids = {binding["table"]: 1000 * turn + (7 * place + turn) % 5 for place, binding in enumerate(wanted)}
        each.answer_join({"postgres_changes": [{**binding, "id": ids[binding["table"]]} for binding in wanted]})
        for place, table in enumerate(tables):
            each.row(db, ids[table], id=turn * 10 + place)
            each.row(db, ids[table] - 1000, id=-1)  # an id of the join before
        if turn < 20:
            each.drop(1006)
            each.come_back()
    for place, table in enumerate(tables):
        assert [change.record["id"] for change in heard[table]] == [turn * 10 + place for turn in range(21)]


def test_each_join_asks_for_what_is_wanted_then(story: Story) -> None:
    """Listeners that came and went while the socket was down are and are not in the next join (R15)."""
    story.open()
    db = story.channel("db")
    gone = story.collect(db, changes("users"))
    story.join(db)
    story.drop(1006)
    (old,) = story.at(db).membership.index._listeners
    story.session.unlisten(db, old)
    story.collect(db, changes("orders", event="DELETE", where=None), presence())
    story.come_back()
    config = story.sent("phx_join")[-1].payload["config"]
    assert config["postgres_changes"] == [{"event": "DELETE", "schema": "public", "table": "orders"}]
    assert config["presence"] == {"enabled": True}
    story.answer_join()
    story.row(db, 100, kind="DELETE", id=1)
    assert gone == []


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
def test_an_echo_that_says_the_same_is_no_mismatch(story: Story, echo: dict[str, object]) -> None:
    """Null, missing and default members, case and unknown keys in the server's echo are no difference (R16)."""
    story.open()
    db = story.channel("db")
    heard = story.collect(db, changes("users", event="INSERT"))
    story.join(db, {"postgres_changes": [echo]})
    assert story.errors == []
    story.row(db, 5, id=1)
    assert len(heard) == 1


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
def test_a_real_mismatch_is_an_error_that_names_the_binding_and_ends_nothing(story: Story, echoed: object) -> None:
    """A binding that the server did not take as sent is told with a typed error; the channel stays joined (R16)."""
    story.open()
    db = story.channel("db")
    story.collect(db, changes("users", event="INSERT"))
    joined = story.join(db, {"postgres_changes": echoed})
    assert story.outcome(joined) is None
    (error,) = story.errors
    assert isinstance(error, JoinError)
    assert "'users'" in str(error)
    assert error.topic == "db"
    assert story.state(db) is ChannelState.JOINED
    assert story.sent("phx_leave") == []


def test_listeners_added_late_just_work(story: Story) -> None:
    """Broadcast, system and status listeners hear at once, without a new join (R17)."""
    story.open()
    room = story.joined()
    heard = story.collect(room, broadcast("hello"), system(), status())
    story.hear(room, "broadcast", HELLO)
    story.system(room, "something", extension="other")
    story.run_for(1)
    assert len(heard) == 2
    assert len(story.sent("phx_join")) == 1


def test_the_first_presence_listener_added_late_joins_again(story: Story) -> None:
    """Presence that was not enabled in the join is enabled by another; the second listener costs nothing (R17)."""
    story.open()
    room = story.joined()
    assert story.sent("phx_join")[0].payload["config"]["presence"] == {"enabled": False}
    story.collect(room, presence())
    story.run_for(0)
    assert story.sent("phx_join")[1].payload["config"]["presence"] == {"enabled": True}
    story.answer_join()
    heard = story.collect(room, presence())
    story.run_for(1)
    assert len(story.sent("phx_join")) == 2
    story.hear(room, "presence_state", {"bob": {"metas": [{"phx_ref": "A"}]}})
    assert len(heard) == 2


def test_the_old_join_counts_until_the_new_one_does(each: Story) -> None:
    """While a channel joins again for a late listener, rows, broadcasts and sends of the rest go on (R17)."""
    each.open()
    db = each.channel("db", ack=True)
    rows, heard = each.collect(db, changes("users")), each.collect(db, broadcast())
    each.join(db)
    late = each.collect(db, changes("orders"))
    each.run_for(0)
    assert each.state(db) is ChannelState.REJOINING
    each.row(db, 100, id=1)
    each.hear(db, "broadcast", HELLO)
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
    assert len(heard) == 1
    assert each.outcome(sent).via == "socket"
    assert [one.join_ref for one in each.pushed()] == [second]


def test_the_close_of_the_old_join_may_come_first(each: Story) -> None:
    """When the server closes the old join before it answers the new one, the new one still lives (R17)."""
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


# --- time


def test_a_join_has_its_full_time_after_a_drop(story: Story) -> None:
    """A drop at 80 % of a join's timeout gives the next join the full timeout again (R22)."""
    story.open()
    room = story.channel()
    story.do(story.session.join, room)
    story.run_for(16)
    story.drop(1006)
    story.come_back()
    story.run_for(19.9)
    assert story.state(room) is ChannelState.JOINING
    story.answer_join()
    assert story.state(room) is ChannelState.JOINED
    story.run_alive(60)
    assert story.state(room) is ChannelState.JOINED
    assert len(story.sent("phx_join")) == 2
    assert story.sent("phx_leave") == []


@pytest.mark.parametrize("end", ["reply", "leave", "drop"])
def test_the_join_timer_is_over_with_its_attempt(story: Story, end: str) -> None:
    """After its reply, a leave or a drop, the deadline of a join does nothing (R22)."""
    story.open()
    room = story.channel()
    story.do(story.session.join, room)
    story.run_for(19)
    if end == "reply":
        story.answer_join()
    elif end == "leave":
        story.do(story.session.leave, room, 0.5)
        story.reply(story.sent("phx_join")[0], {"postgres_changes": []})
        story.reply(story.sent("phx_leave")[0])
    else:
        story.drop(1006)
    state = story.state(room)
    story.run_for(1.2)
    if end != "drop":
        assert story.state(room) is state
        assert story.session.state is LinkState.OPEN
    assert "join_timeout" not in [report.detail.get("reason") for report in story.reports("state")]
    assert not [error for error in story.errors if isinstance(error, OperationTimeout)]


def test_a_join_that_waits_behind_another_has_its_own_time(story: Story) -> None:
    """The deadline of a join starts when the one before it on this socket is answered (R22)."""
    story.open()
    one, two = story.channel("one"), story.channel("two")
    story.do(story.session.join, one)
    story.do(story.session.join, two)
    first, second = story.sent("phx_join")
    story.run_for(19)
    story.reply(first, {"postgres_changes": []})
    story.run_for(19)
    assert story.state(two) is ChannelState.JOINING
    story.reply(second, {"postgres_changes": []})
    assert story.state(two) is ChannelState.JOINED
    assert story.session.state is LinkState.OPEN


def test_a_dead_socket_is_noticed_at_the_deadline_of_a_join(story: Story) -> None:
    """A join deadline that passes without any frame since the join was sent ends the socket, not the join."""
    story.open()
    story.joined("other")
    room = story.channel()
    story.run_for(1)
    story.do(story.session.join, room)
    story.run_for(20.1)
    assert story.session.state is LinkState.RETRYING
    assert story.state(room) is ChannelState.WAITING
    assert story.sent("phx_leave") == []
    assert len(story.aborts) == 1


def test_acks_stand_still_while_a_join_is_unanswered(story: Story) -> None:
    """The deadline of an ack runs only while no join of its socket is unanswered."""
    story.open()
    room, slow = story.joined(ack=True), story.channel("slow")
    story.run_for(1)
    acked = story.broadcast(room, ack=True, timeout=2.0)
    story.run_for(1.5)
    story.do(story.session.join, slow)
    story.run_for(15)
    assert story.outcome(acked) is NOT_YET
    story.answer_join()
    story.run_for(0.4)
    assert story.outcome(acked) is NOT_YET
    story.run_for(0.2)
    assert isinstance(error_of(story.outcome(acked)), OperationTimeout)


# --- subscribe


def test_subscribe_is_settled_by_the_join_not_before(story: Story) -> None:
    """subscribe returns when joined, also through a connection that has to be opened first (R23)."""
    room = story.channel()
    joining = story.do(story.session.join, room)
    assert story.session.state is LinkState.CONNECTING
    story.accept()
    assert story.outcome(joining) is NOT_YET
    story.answer_join()
    assert story.outcome(joining) is None


def test_a_fatal_refusal_is_raised_at_once_with_the_reason(story: Story) -> None:
    """subscribe gets the server's reason, code and what can be done, as one typed error (R23)."""
    story.open()
    room = story.channel()
    joining = story.do(story.session.join, room)
    story.refuse_join("Unauthorized: You do not have permissions to read from this Channel topic: room")
    error = error_of(story.outcome(joining))
    assert isinstance(error, JoinDeniedError)
    assert (error.code, error.topic, error.retryable) == ("Unauthorized", "room", False)
    assert "You do not have permissions" in str(error)
    assert story.at(room).error is error


def test_subscribe_waits_through_refusals_that_pass(story: Story) -> None:
    """A refusal that may pass is tried again; the timeout then says what the last refusal was (R23)."""
    story.open()
    room = story.channel()
    joining = story.do(story.session.join, room, timeout=20.0)
    story.refuse_join("RealtimeRestarting: Realtime is restarting, please standby")
    story.run_for(1.1)
    assert story.outcome(joining) is NOT_YET
    assert len(story.sent("phx_join")) == 2
    story.refuse_join("RealtimeRestarting: Realtime is restarting, please standby")
    story.run_for(19)
    error = error_of(story.outcome(joining))
    assert isinstance(error, OperationTimeout)
    assert "Realtime is restarting" in str(error)


def test_statuses_tell_every_move_with_its_cause(story: Story) -> None:
    """A status listener hears each move of its channel in order, with the error that caused it (R23)."""
    story.open()
    room = story.channel()
    moves = story.collect(room, status())
    story.join(room)
    story.drop(1006)
    story.come_back()
    story.refuse_join("Unauthorized: no")
    S = ChannelState  # noqa: N806
    assert [(move.previous, move.state) for move in moves] == [
        (S.IDLE, S.WAITING),
        (S.WAITING, S.JOINING),
        (S.JOINING, S.JOINED),
        (S.JOINED, S.WAITING),
        (S.WAITING, S.JOINING),
        (S.JOINING, S.FAILED),
    ]
    assert [type(move.cause) for move in moves] == [
        type(None),
        type(None),
        type(None),
        ConnectionLostError,
        type(None),
        JoinDeniedError,
    ]


def test_patience_does_not_count_what_others_cost(story: Story) -> None:
    """A patient timeout stands still behind other unanswered joins; a plain one does not."""
    story.open()
    slow, patient, plain = story.channel("slow"), story.channel("patient"), story.channel("plain")
    story.do(story.session.join, slow)
    one = story.do(story.session.join, patient, timeout=5.0, patient=True)
    two = story.do(story.session.join, plain, timeout=5.0)
    story.run_for(15)
    assert story.outcome(one) is NOT_YET
    assert isinstance(error_of(story.outcome(two)), OperationTimeout)
    story.reply(story.sent("phx_join")[0], {"postgres_changes": []})
    story.run_for(4.9)
    assert story.outcome(one) is NOT_YET
    story.run_for(0.2)
    assert isinstance(error_of(story.outcome(one)), OperationTimeout)


def test_patience_ends_with_the_socket(story: Story) -> None:
    """Time while there is no connection counts, also for who waited behind others when it was lost."""
    story.open()
    first, last = story.channel("first"), story.channel("last")
    story.do(story.session.join, first)
    waiting = story.do(story.session.join, last, timeout=5.0, patient=True)
    story.run_for(3)
    story.drop(1006)
    story.run_for(4.9)
    assert story.outcome(waiting) is NOT_YET
    story.run_for(0.2)
    assert isinstance(error_of(story.outcome(waiting)), OperationTimeout)


def test_patience_does_not_count_pacing(make_story: Callable[..., Story]) -> None:
    """Time behind the limit on joins is not counted either."""
    story = make_story(limits=Limits(joins_per_second=0.1))
    story.open()
    story.joined("first")
    waiting = story.do(story.session.join, story.channel("second"), timeout=5.0, patient=True)
    story.run_alive(9)
    assert story.outcome(waiting) is NOT_YET
    story.run_alive(1.1)
    story.answer_join()
    assert story.outcome(waiting) is None


def test_rejoin_attempts_that_are_used_up_fail_the_channel(make_story: Callable[..., Story]) -> None:
    """With max_attempts for rejoins a channel ends FAILED with the reason, refused or never answered alike (R3)."""
    for answered in (True, False):
        story = make_story(rejoin_backoff=Backoff(initial=1, max_attempts=2))
        story.open()
        other, room = story.joined("other"), story.channel()
        joining = story.do(story.session.join, room)
        for _ in range(3):
            assert story.state(room) is ChannelState.JOINING
            if answered:
                story.refuse_join("RealtimeRestarting: wait")
            else:
                story.run_alive(10)
                story.hear(other, "broadcast", HELLO)
                story.run_alive(10.01)
            if story.state(room) is ChannelState.RETRYING:
                story.run_alive(4)
        assert story.state(room) is ChannelState.FAILED, f"answered={answered}"
        assert story.outcome(joining) is not NOT_YET
        assert len(story.sent("phx_join")) == 4
