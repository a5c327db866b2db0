"""Every send has one definite outcome, whatever the state, the acknowledgement, and the reply (R31)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from supawire.core.effects import PublishByHttp, Ticket, TicketKind
from supawire.errors import (
    ClosedError,
    ConnectionLostError,
    OperationTimeout,
    PayloadTooLargeError,
    PushError,
    RealtimeError,
    StateError,
)
from supawire.events import ChannelState, ConnectionState, Sent
from supawire.options import Offline, SessionOptions
from supawire.selectors import changes
from supawire.testing.harness import NOT_YET

from .conftest import Pushed, Story

# --- the states a channel can be in


def joined(story: Story, room: str) -> None:
    """Let the server accept the join."""
    story.join(room)


def joining(story: Story, room: str) -> None:
    """Send the join."""
    story.call(story.session.join, room)


def rejoining(story: Story, room: str) -> None:
    """Send the join for a late listener while the previous join is active."""
    story.join(room)
    story.collect(room, changes("users"))
    story.run_for(0)


def retrying(story: Story, room: str) -> None:
    """Let the join be refused for a transient reason."""
    story.call(story.session.join, room)
    story.refuse_join("RealtimeRestarting: wait")


def idle(story: Story, room: str) -> None:
    """Create the channel without subscribing."""


def failed(story: Story, room: str) -> None:
    """Let the join be refused permanently."""
    story.call(story.session.join, room)
    story.refuse_join("Unauthorized: no")


def waiting(story: Story, room: str) -> None:
    """Lose the connection."""
    story.join(room)
    story.drop(1006)


def leaving(story: Story, room: str) -> None:
    """Send the leave."""
    story.join(room)
    story.call(story.session.leave, room, 10.0)


def removed(story: Story, room: str) -> None:
    """Remove the channel."""
    story.join(room)
    story.call(story.session.remove, room)


def closing(story: Story, room: str) -> None:
    """Start to close the client."""
    story.join(room)
    story.call(story.session.close)


def closed(story: Story, room: str) -> None:
    """Close the client."""
    story.join(room)
    story.call(story.session.close)
    story.drop(1000)


STATES = (joined, joining, rejoining, retrying, idle, failed, waiting, leaving, removed, closing, closed)
NOT_JOINED = (joining, retrying, idle, failed, waiting, leaving)
ENDED = (removed, closing, closed)

# --- events after a frame was written


class Fate(NamedTuple):
    """What happens after the frame was sent, and the outcome of an acked send."""

    does: Callable[[Story, Pushed], None]
    gets: Any


def reply(response: Any, status: str) -> Callable[[Story, Pushed], None]:
    """Return a step in which the server replies."""
    return lambda story, pushed: story.answer_push(pushed, response, status=status)


def silence(story: Story, pushed: Pushed) -> None:
    """Let the server not reply, although it is alive."""
    story.run_alive(10.1)


def lost(written: bool | None) -> Callable[[Story, Pushed], None]:
    """Return a step that loses the connection, with or without the number of written frames."""

    def does(story: Story, pushed: Pushed) -> None:
        total = story.session.sequence
        story.drop(1006, written=None if written is None else total if written else total - 1)

    return does


def end(story: Story, pushed: Pushed) -> None:
    """Let the server end the channel."""
    story.close_channel(pushed.topic, pushed.join_ref)


FATES = {
    "ok": Fate(reply({}, "ok"), Sent("socket", acked=True)),
    "ok with a string": Fate(reply("fine", "ok"), Sent("socket", acked=True)),
    "error object": Fate(reply({"reason": "no"}, "error"), PushError),
    "error object of size": Fate(reply({"reason": "payload_size_exceeded"}, "error"), PayloadTooLargeError),
    "error object with a size": Fate(reply({"error": "payload_size_exceeded"}, "error"), PayloadTooLargeError),
    "bare string error": Fate(reply("payload_size_exceeded", "error"), PayloadTooLargeError),
    "unknown string error": Fate(reply("nope", "error"), PushError),
    "empty error": Fate(reply({}, "error"), PushError),
    "not joined after all": Fate(reply({"reason": "unmatched topic"}, "error"), PushError),
    "none": Fate(silence, OperationTimeout),
    "link lost before written": Fate(lost(written=False), (ConnectionLostError, False)),
    "link lost after written": Fate(lost(written=True), (ConnectionLostError, True)),
    "connection lost, unknown whether written": Fate(lost(written=None), (ConnectionLostError, True)),
    "channel ended": Fate(end, (ConnectionLostError, True)),
    "heartbeat missed": Fate(lambda story, _: story.call(story.session.reconnect), (ConnectionLostError, True)),
    "left": Fate(lambda story, one: drop(story.call(story.session.leave, one.topic, 1.0)), (ConnectionLostError, True)),
    "removed": Fate(lambda story, one: story.call(story.session.remove, one.topic), ClosedError),
    "client closed": Fate(lambda story, _: drop(story.call(story.session.close)), ClosedError),
}


def drop(ticket: Ticket) -> None:
    """Ignore the outcome of the command itself, which other tests check."""


def send(story: Story, room: str, *, ack: bool) -> Any:
    """Return a broadcast's ticket, None, or the error that it raised at once."""
    try:
        return story.broadcast(room, ack=ack, timeout=10.0)
    except RealtimeError as error:
        return error


def is_a(outcome: Any, expected: Any) -> None:
    """Check that the outcome is this value, or an error of this class, perhaps with this `maybe_sent`."""
    if isinstance(expected, tuple):
        kind, maybe_sent = expected
        assert isinstance(outcome, kind), repr(outcome)
        assert outcome.maybe_sent is maybe_sent
    elif isinstance(expected, type):
        assert type(outcome) is expected, repr(outcome)
    else:
        assert outcome == expected


@pytest.fixture(params=["2.0.0", "1.0.0"])
def begin(request: pytest.FixtureRequest) -> Callable[..., tuple[Story, str]]:
    """A function that creates a story in a state, with its channel."""

    def begin(state: Callable[[Story, str], None], offline: Offline = "raise") -> tuple[Story, str]:
        story = Story(SessionOptions(protocol=request.param, offline=offline))
        story.open()
        room = story.channel(ack=True)
        state(story, room)
        return story, room

    return begin


Begin = Callable[..., tuple[Story, str]]


@pytest.mark.parametrize("fate", FATES)
def test_an_acked_send_has_one_outcome(begin: Begin, fate: str) -> None:
    """Joined, with ack: the outcome is the server's reply, or says whether the message may have arrived (R31)."""
    story, room = begin(joined)
    ticket = send(story, room, ack=True)
    assert story.outcome(ticket) is NOT_YET
    (pushed,) = story.pushed()
    FATES[fate].does(story, pushed)
    is_a(story.outcome(ticket), FATES[fate].gets)
    if isinstance(story.outcome(ticket), RealtimeError) and fate != "client closed":
        assert story.outcome(ticket).topic == "room"


@pytest.mark.parametrize("fate", FATES)
def test_an_unacked_send_is_complete_when_written(begin: Begin, fate: str) -> None:
    """Joined, without ack: the send is complete at once, and later events have no effect (R31)."""
    story, room = begin(joined)
    owed = story.session.stats().pending
    assert send(story, room, ack=False) is None
    assert story.session.stats().pending == owed
    (pushed,) = story.pushed()
    before = dict(story.outcomes)
    FATES[fate].does(story, pushed)
    assert {ticket.kind for ticket in story.outcomes.keys() - before.keys()} <= {TicketKind.LEAVE, TicketKind.CLOSE}


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
@pytest.mark.parametrize("state", NOT_JOINED)
def test_a_send_while_not_joined_is_refused_at_once(begin: Begin, state: Any, ack: bool) -> None:
    """Not joined, by default: StateError with the state and, if there is one, the reason (R31)."""
    story, room = begin(state)
    error = send(story, room, ack=ack)
    assert type(error) is StateError
    assert story.state(room).value in str(error)
    assert error.topic == "room"
    assert error.hint
    if state is failed:
        assert "Unauthorized" in str(error)
    assert story.pushed() == []
    assert story.session.stats().queued == 0


@pytest.mark.parametrize("offline", ["raise", "wait", "queue", "http"])
@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
@pytest.mark.parametrize("state", ENDED)
def test_a_send_after_the_end_raises_closed(begin: Begin, state: Any, ack: bool, offline: Offline) -> None:
    """Removed, closing or closed: ClosedError, whatever the `offline` option (R31)."""
    story, room = begin(state, offline)
    assert type(send(story, room, ack=ack)) is ClosedError
    assert story.session.stats().queued == 0


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("state", [joining, rejoining, waiting, retrying, idle, leaving])
def test_a_queued_acked_send_has_one_outcome_after_the_join(begin: Begin, state: Any, fate: str) -> None:
    """Queued until the join, then as if sent while joined: each event has the same outcome (R31, R32)."""
    story, room = begin(state, "wait")
    ticket = send(story, room, ack=True)
    assert story.outcome(ticket) is NOT_YET
    assert story.pushed() == []
    bring_in(story, room)
    (pushed,) = story.pushed()
    assert story.outcome(ticket) is NOT_YET
    FATES[fate].does(story, pushed)
    is_a(story.outcome(ticket), FATES[fate].gets)


@pytest.mark.parametrize("state", [joining, rejoining, waiting, retrying, idle, leaving])
def test_a_queued_unacked_send_is_complete_when_written(begin: Begin, state: Any) -> None:
    """Queued, without ack: the outcome is "sent by socket" at the moment of the join (R31, R32)."""
    story, room = begin(state, "queue")
    ticket = send(story, room, ack=False)
    assert story.outcome(ticket) is NOT_YET
    bring_in(story, room)
    assert story.outcome(ticket) == Sent("socket")
    assert len(story.pushed()) == 1


def bring_in(story: Story, room: str) -> None:
    """Join the channel from any state."""
    if story.session.state is ConnectionState.RETRYING:
        story.reconnect()
    if story.state(room) in (ChannelState.IDLE, ChannelState.LEAVING):
        story.call(story.session.join, room)
    for leave in story.sent("phx_leave"):
        story.reply(leave)
    if story.state(room) is ChannelState.RETRYING:
        story.run_for(1.1)
    story.answer_join()
    assert story.state(room) is ChannelState.JOINED


UNSENT: dict[str, tuple[Callable[[Story, str], Any], type[RealtimeError]]] = {
    "expired": (lambda story, room: story.run_for(10.1), OperationTimeout),
    "refused permanently": (lambda story, room: story.refuse_join("Unauthorized: no"), RealtimeError),
    "left": (lambda story, room: story.call(story.session.leave, room, 1.0), StateError),
    "removed": (lambda story, room: story.call(story.session.remove, room), ClosedError),
    "closed": (lambda story, room: story.call(story.session.close), ClosedError),
}


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
@pytest.mark.parametrize("how", UNSENT)
def test_a_queued_send_that_is_never_sent_fails_with_the_reason(begin: Begin, how: str, ack: bool) -> None:
    """Queued and never sent: the caller gets the reason, and the frame is not sent (R31, R32)."""
    story, room = begin(joining, "wait")
    ticket = send(story, room, ack=ack)
    does, kind = UNSENT[how]
    does(story, room)
    assert isinstance(story.outcome(ticket), kind)
    assert "not sent" in str(story.outcome(ticket)) or how != "expired"
    if how in ("expired", "refused permanently"):
        story.call(story.session.join, room)
        story.answer_join()
    assert story.pushed() == []
    assert story.session.stats().queued == 0


@pytest.mark.parametrize("state", NOT_JOINED)
def test_with_http_a_send_while_not_joined_is_published(begin: Begin, state: Any) -> None:
    """offline="http": the shell publishes with the channel's privacy and resolves the ticket (R31)."""
    story, room = begin(state, "http")
    ticket = send(story, room, ack=True)
    (order,) = [effect for effect in story.effects if isinstance(effect, PublishByHttp)]
    assert order.ticket == ticket
    assert story.outcome(ticket) is NOT_YET
    assert story.pushed() == []


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
def test_an_ack_that_the_server_would_never_send_is_refused(story: Story, ack: bool) -> None:
    """ack=True on a channel joined without ack would wait forever, so it raises at once (R31)."""
    story.open()
    room = story.joined()
    error = send(story, room, ack=ack)
    assert isinstance(error, StateError) is ack


def test_every_state_is_in_the_matrix() -> None:
    """The matrix has every state a channel can be in (R31)."""
    seen = set[ChannelState]()
    for state in STATES:
        story = Story()
        story.open()
        room = story.channel(ack=True)
        channel = story.at(room)
        state(story, room)
        seen.add(channel.state)
    assert seen == set(ChannelState)


def test_written_frames_are_counted_for_each_socket(story: Story) -> None:
    """On a second socket "one frame was written" means that socket's join, not a frame of the first (R31)."""
    story.open()
    room = story.joined(ack=True)
    for _ in range(5):
        story.broadcast(room)
    story.drop(1006, written=6)
    story.reconnect()
    story.answer_join()
    assert story.session.sequence == 1
    first, second = story.broadcast(room, ack=True), story.broadcast(room, ack=True)
    story.drop(1006, written=2)
    is_a(story.outcome(first), (ConnectionLostError, True))
    is_a(story.outcome(second), (ConnectionLostError, False))


def test_a_push_pending_at_the_end_of_a_channel_has_the_reason_as_its_cause(story: Story) -> None:
    """If the channel ends before an ack, the error has the reason as its cause (R31)."""
    story.open()
    room = story.joined(ack=True)
    acked = story.broadcast(room, ack=True)
    story.end_channel(room, "Too many messages per second")
    is_a(story.outcome(acked), (ConnectionLostError, True))
    assert "Too many messages" in str(story.outcome(acked).__cause__)
