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

from .conftest import Harness, Pushed

# --- the states a channel can be in


def joined(harness: Harness, room: str) -> None:
    """Let the server accept the join."""
    harness.join(room)


def joining(harness: Harness, room: str) -> None:
    """Send the join."""
    harness.call(harness.session.join, room)


def rejoining(harness: Harness, room: str) -> None:
    """Send the join for a late listener while the previous join is active."""
    harness.join(room)
    harness.collect(room, changes("users"))
    harness.run_for(0)


def retrying(harness: Harness, room: str) -> None:
    """Let the join be refused for a transient reason."""
    harness.call(harness.session.join, room)
    harness.refuse_join("RealtimeRestarting: wait")


def idle(harness: Harness, room: str) -> None:
    """Create the channel without subscribing."""


def failed(harness: Harness, room: str) -> None:
    """Let the join be refused permanently."""
    harness.call(harness.session.join, room)
    harness.refuse_join("Unauthorized: no")


def waiting(harness: Harness, room: str) -> None:
    """Lose the connection."""
    harness.join(room)
    harness.drop(1006)


def leaving(harness: Harness, room: str) -> None:
    """Send the leave."""
    harness.join(room)
    harness.call(harness.session.leave, room, 10.0)


def removed(harness: Harness, room: str) -> None:
    """Remove the channel."""
    harness.join(room)
    harness.call(harness.session.remove, room)


def closing(harness: Harness, room: str) -> None:
    """Start to close the client."""
    harness.join(room)
    harness.call(harness.session.close)


def closed(harness: Harness, room: str) -> None:
    """Close the client."""
    harness.join(room)
    harness.call(harness.session.close)
    harness.drop(1000)


STATES = (joined, joining, rejoining, retrying, idle, failed, waiting, leaving, removed, closing, closed)
NOT_JOINED = (joining, retrying, idle, failed, waiting, leaving)
ENDED = (removed, closing, closed)

# --- events after a frame was written


class AfterSend(NamedTuple):
    """What happens after the frame was sent, and the outcome of an acked send."""

    step: Callable[[Harness, Pushed], None]
    outcome: Any


def reply(response: Any, status: str) -> Callable[[Harness, Pushed], None]:
    """Return a step in which the server replies."""
    return lambda harness, pushed: harness.answer_push(pushed, response, status=status)


def silence(harness: Harness, pushed: Pushed) -> None:
    """Let the server answer heartbeats, but not the push."""
    harness.run_alive(10.1)


def lost(written: bool | None) -> Callable[[Harness, Pushed], None]:
    """Return a step that loses the connection, with or without the number of written frames."""

    def step(harness: Harness, pushed: Pushed) -> None:
        total = harness.session.sequence
        harness.drop(1006, written=None if written is None else total if written else total - 1)

    return step


def end(harness: Harness, pushed: Pushed) -> None:
    """Let the server end the channel."""
    harness.close_channel(pushed.topic, pushed.join_ref)


AFTER_SEND = {
    "ok": AfterSend(reply({}, "ok"), Sent("socket", acked=True)),
    "ok with a string": AfterSend(reply("fine", "ok"), Sent("socket", acked=True)),
    "error object": AfterSend(reply({"reason": "no"}, "error"), PushError),
    "error object of size": AfterSend(reply({"reason": "payload_size_exceeded"}, "error"), PayloadTooLargeError),
    "error object with a size": AfterSend(reply({"error": "payload_size_exceeded"}, "error"), PayloadTooLargeError),
    "bare string error": AfterSend(reply("payload_size_exceeded", "error"), PayloadTooLargeError),
    "unknown string error": AfterSend(reply("nope", "error"), PushError),
    "empty error": AfterSend(reply({}, "error"), PushError),
    "not joined after all": AfterSend(reply({"reason": "unmatched topic"}, "error"), PushError),
    "none": AfterSend(silence, OperationTimeout),
    "connection lost before written": AfterSend(lost(written=False), (ConnectionLostError, False)),
    "connection lost after written": AfterSend(lost(written=True), (ConnectionLostError, True)),
    "connection lost, unknown whether written": AfterSend(lost(written=None), (ConnectionLostError, True)),
    "channel ended": AfterSend(end, (ConnectionLostError, True)),
    "heartbeat missed": AfterSend(
        lambda harness, _: harness.call(harness.session.reconnect), (ConnectionLostError, True)
    ),
    "left": AfterSend(
        lambda harness, one: drop(harness.call(harness.session.leave, one.topic, 1.0)), (ConnectionLostError, True)
    ),
    "removed": AfterSend(lambda harness, one: harness.call(harness.session.remove, one.topic), ClosedError),
    "client closed": AfterSend(lambda harness, _: drop(harness.call(harness.session.close)), ClosedError),
}


def drop(ticket: Ticket) -> None:
    """Ignore the outcome of the command itself, which other tests check."""


def send(harness: Harness, room: str, *, ack: bool) -> Any:
    """Return a broadcast's ticket, None, or the error that it raised at once."""
    try:
        return harness.broadcast(room, ack=ack, timeout=10.0)
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
def begin(request: pytest.FixtureRequest) -> Callable[..., tuple[Harness, str]]:
    """A function that creates a harness in a state, with its channel."""

    def begin(state: Callable[[Harness, str], None], offline: Offline = "raise") -> tuple[Harness, str]:
        harness = Harness(SessionOptions(protocol=request.param, offline=offline))
        harness.open()
        room = harness.channel(ack=True)
        state(harness, room)
        return harness, room

    return begin


Begin = Callable[..., tuple[Harness, str]]


@pytest.mark.parametrize("event", AFTER_SEND)
def test_an_acked_send_has_one_outcome(begin: Begin, event: str) -> None:
    """Joined, with ack: the outcome is the server's reply, or an error with `maybe_sent` (R31)."""
    harness, room = begin(joined)
    ticket = send(harness, room, ack=True)
    assert harness.outcome(ticket) is NOT_YET
    (pushed,) = harness.pushed()
    AFTER_SEND[event].step(harness, pushed)
    is_a(harness.outcome(ticket), AFTER_SEND[event].outcome)
    if isinstance(harness.outcome(ticket), RealtimeError) and event != "client closed":
        assert harness.outcome(ticket).topic == "room"


@pytest.mark.parametrize("event", AFTER_SEND)
def test_an_unacked_send_is_complete_when_written(begin: Begin, event: str) -> None:
    """Joined, without ack: the send is complete at once, and later events have no effect (R31)."""
    harness, room = begin(joined)
    pending = harness.session.stats().pending
    assert send(harness, room, ack=False) is None
    assert harness.session.stats().pending == pending
    (pushed,) = harness.pushed()
    before = dict(harness.outcomes)
    AFTER_SEND[event].step(harness, pushed)
    assert {ticket.kind for ticket in harness.outcomes.keys() - before.keys()} <= {TicketKind.LEAVE, TicketKind.CLOSE}


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
@pytest.mark.parametrize("state", NOT_JOINED)
def test_a_send_while_not_joined_is_refused_at_once(begin: Begin, state: Any, ack: bool) -> None:
    """Not joined, by default: StateError with the state and, if there is one, the reason (R31)."""
    harness, room = begin(state)
    error = send(harness, room, ack=ack)
    assert type(error) is StateError
    assert harness.state(room).value in str(error)
    assert error.topic == "room"
    assert error.hint
    if state is failed:
        assert "Unauthorized" in str(error)
    assert harness.pushed() == []
    assert harness.session.stats().queued == 0


@pytest.mark.parametrize("offline", ["raise", "wait", "queue", "http"])
@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
@pytest.mark.parametrize("state", ENDED)
def test_a_send_after_the_end_raises_closed(begin: Begin, state: Any, ack: bool, offline: Offline) -> None:
    """Removed, closing or closed: ClosedError, whatever the `offline` option (R31)."""
    harness, room = begin(state, offline)
    assert type(send(harness, room, ack=ack)) is ClosedError
    assert harness.session.stats().queued == 0


@pytest.mark.parametrize("event", AFTER_SEND)
@pytest.mark.parametrize("state", [joining, rejoining, waiting, retrying, idle, leaving])
def test_a_queued_acked_send_has_one_outcome_after_the_join(begin: Begin, state: Any, event: str) -> None:
    """Queued until the join, then as if sent while joined: each event has the same outcome (R31, R32)."""
    harness, room = begin(state, "wait")
    ticket = send(harness, room, ack=True)
    assert harness.outcome(ticket) is NOT_YET
    assert harness.pushed() == []
    bring_in(harness, room)
    (pushed,) = harness.pushed()
    assert harness.outcome(ticket) is NOT_YET
    AFTER_SEND[event].step(harness, pushed)
    is_a(harness.outcome(ticket), AFTER_SEND[event].outcome)


@pytest.mark.parametrize("state", [joining, rejoining, waiting, retrying, idle, leaving])
def test_a_queued_unacked_send_is_complete_when_written(begin: Begin, state: Any) -> None:
    """Queued, without ack: the outcome is "sent by socket" at the moment of the join (R31, R32)."""
    harness, room = begin(state, "queue")
    ticket = send(harness, room, ack=False)
    assert harness.outcome(ticket) is NOT_YET
    bring_in(harness, room)
    assert harness.outcome(ticket) == Sent("socket")
    assert len(harness.pushed()) == 1


def bring_in(harness: Harness, room: str) -> None:
    """Join the channel from any state."""
    if harness.session.state is ConnectionState.RETRYING:
        harness.reconnect()
    if harness.state(room) in (ChannelState.IDLE, ChannelState.LEAVING):
        harness.call(harness.session.join, room)
    for leave in harness.sent("phx_leave"):
        harness.reply(leave)
    if harness.state(room) is ChannelState.RETRYING:
        harness.run_for(1.1)
    harness.answer_join()
    assert harness.state(room) is ChannelState.JOINED


UNSENT: dict[str, tuple[Callable[[Harness, str], Any], type[RealtimeError]]] = {
    "expired": (lambda harness, room: harness.run_for(10.1), OperationTimeout),
    "refused permanently": (lambda harness, room: harness.refuse_join("Unauthorized: no"), RealtimeError),
    "left": (lambda harness, room: harness.call(harness.session.leave, room, 1.0), StateError),
    "removed": (lambda harness, room: harness.call(harness.session.remove, room), ClosedError),
    "closed": (lambda harness, room: harness.call(harness.session.close), ClosedError),
}


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
@pytest.mark.parametrize("how", UNSENT)
def test_a_queued_send_that_is_never_sent_fails_with_the_reason(begin: Begin, how: str, ack: bool) -> None:
    """Queued and never sent: the caller gets the reason, and the frame is not sent (R31, R32)."""
    harness, room = begin(joining, "wait")
    ticket = send(harness, room, ack=ack)
    step, kind = UNSENT[how]
    step(harness, room)
    assert isinstance(harness.outcome(ticket), kind)
    assert "not sent" in str(harness.outcome(ticket)) or how != "expired"
    if how in ("expired", "refused permanently"):
        harness.call(harness.session.join, room)
        harness.answer_join()
    assert harness.pushed() == []
    assert harness.session.stats().queued == 0


@pytest.mark.parametrize("state", NOT_JOINED)
def test_with_http_a_send_while_not_joined_is_published(begin: Begin, state: Any) -> None:
    """offline="http": the shell publishes with the channel's privacy and resolves the ticket (R31)."""
    harness, room = begin(state, "http")
    ticket = send(harness, room, ack=True)
    (order,) = [effect for effect in harness.effects if isinstance(effect, PublishByHttp)]
    assert order.ticket == ticket
    assert harness.outcome(ticket) is NOT_YET
    assert harness.pushed() == []


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
def test_an_ack_that_the_server_would_never_send_is_refused(harness: Harness, ack: bool) -> None:
    """ack=True on a channel joined without ack would wait forever, so it raises at once (R31)."""
    harness.open()
    room = harness.joined()
    error = send(harness, room, ack=ack)
    assert isinstance(error, StateError) is ack


def test_every_state_is_in_the_matrix() -> None:
    """The matrix has every state a channel can be in (R31)."""
    seen = set[ChannelState]()
    for state in STATES:
        harness = Harness()
        harness.open()
        room = harness.channel(ack=True)
        channel = harness.at(room)
        state(harness, room)
        seen.add(channel.state)
    assert seen == set(ChannelState)


def test_written_frames_are_counted_for_each_socket(harness: Harness) -> None:
    """On a second socket "one frame was written" means that socket's join, not a frame of the first (R31)."""
    harness.open()
    room = harness.joined(ack=True)
    for _ in range(5):
        harness.broadcast(room)
    harness.drop(1006, written=6)
    harness.reconnect()
    harness.answer_join()
    assert harness.session.sequence == 1
    first, second = harness.broadcast(room, ack=True), harness.broadcast(room, ack=True)
    harness.drop(1006, written=2)
    is_a(harness.outcome(first), (ConnectionLostError, True))
    is_a(harness.outcome(second), (ConnectionLostError, False))


def test_a_push_pending_at_the_end_of_a_channel_has_the_reason_as_its_cause(harness: Harness) -> None:
    """If the channel ends before an ack, the error has the reason as its cause (R31)."""
    harness.open()
    room = harness.joined(ack=True)
    acked = harness.broadcast(room, ack=True)
    harness.end_channel(room, "Too many messages per second")
    is_a(harness.outcome(acked), (ConnectionLostError, True))
    assert "Too many messages" in str(harness.outcome(acked).__cause__)
