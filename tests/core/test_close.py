"""Closing permanently, from every state: bounded, complete and final."""

from collections.abc import Callable
from typing import Any

import pytest

from supawire.core.effects import Disconnect, Ended, Settle, TicketKind
from supawire.core.listeners import Listener
from supawire.errors import ClosedError, RemoteProtocolError
from supawire.events import ChannelState, ConnectionState
from supawire.options import Backoff, Secret
from supawire.selectors import broadcast
from supawire.testing.harness import NOT_YET, error_of

from .conftest import Harness, raised


def idle(harness: Harness) -> None:
    """Do nothing."""


def connecting(harness: Harness) -> None:
    """Start the first attempt."""
    harness.call(harness.session.open)


def backing_off(harness: Harness) -> None:
    """Let the first attempt fail."""
    harness.call(harness.session.open)
    harness.drop(text="refused")


def is_open(harness: Harness) -> None:
    """Connect only."""
    harness.open()


def busy(harness: Harness) -> None:
    """Create a channel in each state, with a pending call for each."""
    harness.open()
    for name in ("joined", "leaving", "retrying", "failed"):
        harness.joined(name, ack=True, presence_key="me")
    harness.broadcast("realtime:joined", ack=True, timeout=None)
    harness.call(harness.session.track, "realtime:joined", b"{}", None)
    harness.call(harness.session.ping, None)
    harness.call(harness.session.leave, "realtime:leaving", 10.0)
    harness.close_channel("realtime:retrying", harness.sent("phx_join")[2].ref)
    harness.system("realtime:failed", "Track message size exceeded", status="error", extension="system")
    harness.close_channel("realtime:failed", harness.sent("phx_join")[3].ref)
    harness.call(harness.session.join, harness.channel("joining"))
    harness.channel("idle")
    states = {channel.name: channel.state.value for channel in harness.session.channels.values()}
    assert all(name == state for name, state in states.items()), states


STATES = (idle, connecting, backing_off, is_open, busy)


@pytest.mark.parametrize("begin", STATES)
@pytest.mark.parametrize("peer_answers", [True, False], ids=["answered", "no answer"])
def test_close_from_every_state_leaves_nothing(begin: Callable[[Harness], None], peer_answers: bool) -> None:
    """After close no ticket, deadline or active channel is left, within a time limit, whatever the peer does (R10)."""
    harness = Harness()
    begin(harness)
    pending = harness.session.pending_tickets
    closed = harness.call(harness.session.close)
    if peer_answers and harness.session.state is ConnectionState.CLOSING:
        harness.drop(1000)
    else:
        harness.run_for(5.1)
    assert harness.outcome(closed) is None
    assert harness.session.state is ConnectionState.CLOSED
    assert harness.session.stats().pending == 0
    assert harness.session.next_deadline is None
    assert {channel.state for channel in harness.session.channels.values()} <= {ChannelState.CLOSED}
    for ticket in pending - {ticket for ticket in pending if ticket.kind is TicketKind.LEAVE}:
        assert isinstance(error_of(harness.outcome(ticket)), ClosedError), ticket
    (last,) = [effect for effect in harness.effects if isinstance(effect, Ended) and effect.topic is None]
    assert last.error is None, "iterators end, they do not raise"


@pytest.mark.parametrize("begin", STATES)
def test_close_is_idempotent(begin: Callable[[Harness], None]) -> None:
    """Every close is resolved, also the second and third, before and after the end (R10)."""
    harness = Harness()
    begin(harness)
    tickets = [harness.call(harness.session.close), harness.call(harness.session.close)]
    harness.run_for(6)
    tickets.append(harness.call(harness.session.close))
    assert [harness.outcome(ticket) for ticket in tickets] == [None] * 3
    assert len([effect for effect in harness.effects if isinstance(effect, Disconnect) and not effect.abort]) <= 1


def test_close_leaves_then_closes(harness: Harness) -> None:
    """An open client leaves each joined topic, then closes the socket with 1000 (R10)."""
    harness.open()
    rooms = [harness.joined(name) for name in ("a", "b")]
    harness.call(harness.session.close)
    assert [frame.topic for frame in harness.sent()[-2:]] == rooms
    assert {frame.event for frame in harness.sent()[-2:]} == {"phx_leave"}
    (end,) = [effect for effect in harness.effects if isinstance(effect, Disconnect)]
    assert (end.abort, end.code) == (False, 1000)


def test_a_dead_socket_is_not_lost_while_it_is_being_closed(make_harness: Callable[..., Harness]) -> None:
    """A join deadline between close and its time limit causes no reconnect; close ends in time (R10)."""
    for backoff in (None, Backoff()):
        harness = make_harness(backoff=backoff)
        harness.open()
        harness.run_for(1)
        harness.call(harness.session.join, harness.channel())
        harness.run_for(18)
        closed = harness.call(harness.session.close)
        harness.run_for(2.1)
        assert harness.session.state is ConnectionState.CLOSING
        harness.run_for(3)
        assert harness.outcome(closed) is None
        assert harness.session.next_deadline is None
        assert harness.connects == 1


def test_a_handler_may_close(harness: Harness) -> None:
    """close() called while an event is delivered ends the session like any other (R10)."""
    harness.open()
    room = harness.joined()

    def close(_: object) -> None:
        harness.session.close(harness.now)

    harness.call(harness.session.listen, room, Listener((broadcast(),), close))
    harness.receive(room, "broadcast", {"event": "e", "payload": {}})
    harness.run_for(6)
    assert harness.session.state is ConnectionState.CLOSED


COMMANDS: dict[str, Callable[[Harness, str], Any]] = {
    "open": lambda harness, room: harness.call(harness.session.open),
    "reconnect": lambda harness, room: harness.call(harness.session.reconnect),
    "ping": lambda harness, room: harness.call(harness.session.ping, 1.0),
    "set_token": lambda harness, room: harness.call(harness.session.set_token, Secret("x")),
    "channel": lambda harness, room: harness.channel("new"),
    "channel again": lambda harness, room: harness.channel("room"),
    "join": lambda harness, room: harness.call(harness.session.join, room),
    "leave": lambda harness, room: harness.call(harness.session.leave, room, 1.0),
    "broadcast": lambda harness, room: harness.broadcast(room),
    "track": lambda harness, room: harness.call(harness.session.track, room, b"{}", 1.0),
    "set_channel_token": lambda harness, room: harness.call(harness.session.set_channel_token, room, Secret("x")),
    "listen": lambda harness, room: harness.collect(room, broadcast()),
    "presence_state": lambda harness, room: harness.session.presence_state(room),
}


@pytest.mark.parametrize("closing", [True, False], ids=["closing", "closed"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_calls_of_a_closed_client_raise_closed_error(command: Callable[[Harness, str], Any], closing: bool) -> None:
    """Every command on a closing or closed client raises ClosedError; it never opens again (R10, R11)."""
    harness = Harness()
    harness.open()
    room = harness.joined()
    harness.call(harness.session.close)
    if not closing:
        harness.drop(1000)
    connects, sent = harness.connects, len(harness.sent())
    assert isinstance(raised(lambda: command(harness, room)), ClosedError)
    harness.run_for(60)
    assert (harness.connects, len(harness.sent())) == (connects, sent)
    assert harness.session.state is ConnectionState.CLOSED
    assert harness.state(room) is ChannelState.CLOSED


def test_input_after_the_end_has_no_effect(make_harness: Callable[..., Harness]) -> None:
    """Frames, tokens, sockets and ticks after the end have no effect and set no deadline (R10)."""
    harness = make_harness(has_token_provider=True)
    harness.call(harness.session.open)
    harness.give_token("one")
    harness.accept()
    room = harness.channel()
    received = harness.collect(room, broadcast())
    harness.call(harness.session.join, room)
    fetches = harness.fetches
    harness.call(harness.session.close)
    harness.drop(1000)
    before = len(harness.effects)
    harness.give_token("two")
    harness.receive(room, "broadcast", {"event": "e", "payload": {}})
    harness.accept()
    harness.drop(1006)
    harness.call(harness.session.tick)
    assert harness.effects[before:] == []
    assert received == []
    assert harness.session.next_deadline is None
    assert harness.fetches == fetches


def test_a_clock_jump_while_closing_fetches_no_token(make_harness: Callable[..., Harness]) -> None:
    """A clock jump during close neither sends a heartbeat nor fetches a token (R10)."""
    harness = make_harness(has_token_provider=True)
    harness.call(harness.session.open)
    harness.give_token("one")
    harness.accept()
    fetches = harness.fetches
    harness.call(harness.session.close)
    harness.clock.sleep(3600)
    harness.run_for(6)
    assert harness.session.state is ConnectionState.CLOSED
    assert (harness.fetches, harness.sent("heartbeat")) == (fetches, [])


def test_an_internal_error_ends_the_client_with_its_cause(harness: Harness) -> None:
    """abort() ends at once, without sending anything, and pending calls get the cause (R2, R10)."""
    harness.open()
    room = harness.joined(ack=True)
    acked, joining = harness.broadcast(room, ack=True), harness.call(harness.session.join, harness.channel("other"))
    sent = len(harness.sent())
    cause = RemoteProtocolError("the reader failed")
    harness.call(harness.session.abort, cause)
    assert harness.outcome(acked) is cause
    assert harness.outcome(joining) is cause
    assert len(harness.sent()) == sent
    assert harness.session.state is ConnectionState.CLOSED
    assert harness.session.next_deadline is None
    ended = {effect.topic: effect.error for effect in harness.effects if isinstance(effect, Ended)}
    assert ended[None] is cause
    assert ended[room] is cause
    assert repr(raised(lambda: harness.call(harness.session.open))) == repr(cause)
    harness.call(harness.session.abort, None)


def test_a_permanent_refusal_ends_the_client(harness: Harness) -> None:
    """A client whose connection is refused permanently is closed, and later calls give the reason (R11)."""
    room = harness.channel()
    joining = harness.call(harness.session.join, room)
    harness.drop(status=404, body=b'{"error":"Tenant not found"}')
    assert harness.session.state is ConnectionState.CLOSED
    error = error_of(harness.outcome(joining))
    assert "Tenant not found" in str(error)
    assert repr(raised(lambda: harness.call(harness.session.open))) == repr(error)
    assert repr(raised(lambda: harness.broadcast(room))) == repr(error)


def test_opening_and_closing_two_hundred_times_leaves_nothing() -> None:
    """Two hundred sessions, opened and closed in every state, have nothing pending afterwards (R10)."""
    for turn in range(200):
        harness = Harness(seed=turn)
        STATES[turn % len(STATES)](harness)
        harness.call(harness.session.close)
        harness.run_for(5.1)
        sizes = harness.session.table_sizes()
        assert (sizes["tickets"], sizes["requests"], sizes["deadlines"]) == (0, 0, 0)


def test_removing_a_channel_ends_its_object(harness: Harness) -> None:
    """remove leaves at once, fails pending calls, ends iterators, and later calls on the topic raise (R10, R24)."""
    harness.open()
    room = harness.joined(ack=True)
    acked = harness.broadcast(room, ack=True)
    channel = harness.at(room)
    harness.call(harness.session.remove, room)
    assert isinstance(error_of(harness.outcome(acked)), ClosedError)
    assert channel.state is ChannelState.CLOSED
    assert room not in harness.session.channels
    assert [frame.topic for frame in harness.sent("phx_leave")] == [room]
    assert isinstance(raised(lambda: harness.broadcast(room)), ClosedError)
    assert [effect.topic for effect in harness.effects if isinstance(effect, Ended)] == [room]
    harness.call(harness.session.remove, room)
    assert len(harness.sent("phx_leave")) == 1


def test_every_ticket_is_resolved_once_when_socket_and_client_end_together() -> None:
    """Calls pending when a socket dies and the client closes at the same instant are resolved once (R31)."""
    harness = Harness()
    busy(harness)
    pending = harness.session.pending_tickets
    harness.drop(1006)
    harness.call(harness.session.close)
    harness.run_for(6)
    settled = [effect.ticket for effect in harness.effects if isinstance(effect, Settle)]
    assert len(settled) == len(set(settled))
    assert all(harness.outcome(ticket) is not NOT_YET for ticket in pending)


def test_closing_while_connecting_aborts_the_attempt(harness: Harness) -> None:
    """The socket being opened is aborted; if it opens nevertheless, it is ignored (R10)."""
    opened = harness.call(harness.session.open)
    harness.call(harness.session.close)
    assert harness.aborts == [1]
    assert isinstance(error_of(harness.outcome(opened)), ClosedError)
    harness.call(harness.session.transport_opened, 1)
    assert harness.session.state is ConnectionState.CLOSED
