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

from .conftest import Story, raised


def idle(story: Story) -> None:
    """Do nothing."""


def connecting(story: Story) -> None:
    """Start the first attempt."""
    story.call(story.session.open)


def backing_off(story: Story) -> None:
    """Let the first attempt fail."""
    story.call(story.session.open)
    story.drop(text="refused")


def is_open(story: Story) -> None:
    """Connect only."""
    story.open()


def busy(story: Story) -> None:
    """Create a channel in each state, with a pending call for each."""
    story.open()
    for name in ("joined", "leaving", "retrying", "failed"):
        story.joined(name, ack=True, presence_key="me")
    story.broadcast("realtime:joined", ack=True, timeout=None)
    story.call(story.session.track, "realtime:joined", b"{}", None)
    story.call(story.session.ping, None)
    story.call(story.session.leave, "realtime:leaving", 10.0)
    story.close_channel("realtime:retrying", story.sent("phx_join")[2].ref)
    story.system("realtime:failed", "Track message size exceeded", status="error", extension="system")
    story.close_channel("realtime:failed", story.sent("phx_join")[3].ref)
    story.call(story.session.join, story.channel("joining"))
    story.channel("idle")
    states = {channel.name: channel.state.value for channel in story.session.channels.values()}
    assert all(name == state for name, state in states.items()), states


STATES = (idle, connecting, backing_off, is_open, busy)


@pytest.mark.parametrize("begin", STATES)
@pytest.mark.parametrize("polite", [True, False], ids=["answered", "peer is silent"])
def test_close_from_every_state_leaves_nothing(begin: Callable[[Story], None], polite: bool) -> None:
    """After close no ticket, deadline or active channel is left, within a time limit, whatever the peer does (R10)."""
    story = Story()
    begin(story)
    pending = story.session.pending_tickets
    closed = story.call(story.session.close)
    if polite and story.session.state is ConnectionState.CLOSING:
        story.drop(1000)
    else:
        story.run_for(5.1)
    assert story.outcome(closed) is None
    assert story.session.state is ConnectionState.CLOSED
    assert story.session.stats().pending == 0
    assert story.session.next_deadline is None
    assert {channel.state for channel in story.session.channels.values()} <= {ChannelState.CLOSED}
    for ticket in pending - {ticket for ticket in pending if ticket.kind is TicketKind.LEAVE}:
        assert isinstance(error_of(story.outcome(ticket)), ClosedError), ticket
    (last,) = [effect for effect in story.effects if isinstance(effect, Ended) and effect.topic is None]
    assert last.error is None, "iterators end, they do not raise"


@pytest.mark.parametrize("begin", STATES)
def test_close_is_idempotent(begin: Callable[[Story], None]) -> None:
    """Every close is resolved, also the second and third, before and after the end (R10)."""
    story = Story()
    begin(story)
    tickets = [story.call(story.session.close), story.call(story.session.close)]
    story.run_for(6)
    tickets.append(story.call(story.session.close))
    assert [story.outcome(ticket) for ticket in tickets] == [None] * 3
    assert len([effect for effect in story.effects if isinstance(effect, Disconnect) and not effect.abort]) <= 1


def test_close_leaves_then_closes(story: Story) -> None:
    """An open client leaves each joined topic, then closes the socket with 1000 (R10)."""
    story.open()
    rooms = [story.joined(name) for name in ("a", "b")]
    story.call(story.session.close)
    assert [frame.topic for frame in story.sent()[-2:]] == rooms
    assert {frame.event for frame in story.sent()[-2:]} == {"phx_leave"}
    (end,) = [effect for effect in story.effects if isinstance(effect, Disconnect)]
    assert (end.abort, end.code) == (False, 1000)


def test_a_dead_socket_is_not_lost_while_it_is_being_closed(make_story: Callable[..., Story]) -> None:
    """A join deadline between close and its time limit causes no reconnect; close ends in time (R10)."""
    for backoff in (None, Backoff()):
        story = make_story(backoff=backoff)
        story.open()
        story.run_for(1)
        story.call(story.session.join, story.channel())
        story.run_for(18)
        closed = story.call(story.session.close)
        story.run_for(2.1)
        assert story.session.state is ConnectionState.CLOSING
        story.run_for(3)
        assert story.outcome(closed) is None
        assert story.session.next_deadline is None
        assert story.connects == 1


def test_a_handler_may_close(story: Story) -> None:
    """close() called while an event is delivered ends the session like any other (R10)."""
    story.open()
    room = story.joined()

    def close(_: object) -> None:
        story.session.close(story.now)

    story.call(story.session.listen, room, Listener((broadcast(),), close))
    story.receive(room, "broadcast", {"event": "e", "payload": {}})
    story.run_for(6)
    assert story.session.state is ConnectionState.CLOSED


COMMANDS: dict[str, Callable[[Story, str], Any]] = {
    "open": lambda story, room: story.call(story.session.open),
    "reconnect": lambda story, room: story.call(story.session.reconnect),
    "ping": lambda story, room: story.call(story.session.ping, 1.0),
    "set_token": lambda story, room: story.call(story.session.set_token, Secret("x")),
    "channel": lambda story, room: story.channel("new"),
    "channel again": lambda story, room: story.channel("room"),
    "join": lambda story, room: story.call(story.session.join, room),
    "leave": lambda story, room: story.call(story.session.leave, room, 1.0),
    "broadcast": lambda story, room: story.broadcast(room),
    "track": lambda story, room: story.call(story.session.track, room, b"{}", 1.0),
    "set_channel_token": lambda story, room: story.call(story.session.set_channel_token, room, Secret("x")),
    "listen": lambda story, room: story.collect(room, broadcast()),
    "presence_state": lambda story, room: story.session.presence_state(room),
}


@pytest.mark.parametrize("closing", [True, False], ids=["closing", "closed"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_calls_of_a_closed_client_raise_closed_error(command: Callable[[Story, str], Any], closing: bool) -> None:
    """Every command on a closing or closed client raises ClosedError; it never opens again (R10, R11)."""
    story = Story()
    story.open()
    room = story.joined()
    story.call(story.session.close)
    if not closing:
        story.drop(1000)
    connects, sent = story.connects, len(story.sent())
    assert isinstance(raised(lambda: command(story, room)), ClosedError)
    story.run_for(60)
    assert (story.connects, len(story.sent())) == (connects, sent)
    assert story.session.state is ConnectionState.CLOSED
    assert story.state(room) is ChannelState.CLOSED


def test_input_after_the_end_has_no_effect(make_story: Callable[..., Story]) -> None:
    """Frames, tokens, sockets and ticks after the end have no effect and set no deadline (R10)."""
    story = make_story(has_token_provider=True)
    story.call(story.session.open)
    story.give_token("one")
    story.accept()
    room = story.channel()
    received = story.collect(room, broadcast())
    story.call(story.session.join, room)
    fetches = story.fetches
    story.call(story.session.close)
    story.drop(1000)
    before = len(story.effects)
    story.give_token("two")
    story.receive(room, "broadcast", {"event": "e", "payload": {}})
    story.accept()
    story.drop(1006)
    story.call(story.session.tick)
    assert story.effects[before:] == []
    assert received == []
    assert story.session.next_deadline is None
    assert story.fetches == fetches


def test_a_clock_jump_while_closing_fetches_no_token(make_story: Callable[..., Story]) -> None:
    """A clock jump during close neither sends a heartbeat nor fetches a token (R10)."""
    story = make_story(has_token_provider=True)
    story.call(story.session.open)
    story.give_token("one")
    story.accept()
    fetches = story.fetches
    story.call(story.session.close)
    story.clock.sleep(3600)
    story.run_for(6)
    assert story.session.state is ConnectionState.CLOSED
    assert (story.fetches, story.sent("heartbeat")) == (fetches, [])


def test_an_internal_error_ends_the_client_with_its_cause(story: Story) -> None:
    """abort() ends at once, without sending anything, and pending calls get the cause (R2, R10)."""
    story.open()
    room = story.joined(ack=True)
    acked, joining = story.broadcast(room, ack=True), story.call(story.session.join, story.channel("other"))
    sent = len(story.sent())
    cause = RemoteProtocolError("the reader failed")
    story.call(story.session.abort, cause)
    assert story.outcome(acked) is cause
    assert story.outcome(joining) is cause
    assert len(story.sent()) == sent
    assert story.session.state is ConnectionState.CLOSED
    assert story.session.next_deadline is None
    ended = {effect.topic: effect.error for effect in story.effects if isinstance(effect, Ended)}
    assert ended[None] is cause
    assert ended[room] is cause
    assert repr(raised(lambda: story.call(story.session.open))) == repr(cause)
    story.call(story.session.abort, None)


def test_a_permanent_refusal_ends_the_client(story: Story) -> None:
    """A client whose connection is refused permanently is closed, and later calls give the reason (R11)."""
    room = story.channel()
    joining = story.call(story.session.join, room)
    story.drop(status=404, body=b'{"error":"Tenant not found"}')
    assert story.session.state is ConnectionState.CLOSED
    error = error_of(story.outcome(joining))
    assert "Tenant not found" in str(error)
    assert repr(raised(lambda: story.call(story.session.open))) == repr(error)
    assert repr(raised(lambda: story.broadcast(room))) == repr(error)


def test_opening_and_closing_two_hundred_times_leaves_nothing() -> None:
    """Two hundred sessions, opened and closed in every state, have nothing pending afterwards (R10)."""
    for turn in range(200):
        story = Story(seed=turn)
        STATES[turn % len(STATES)](story)
        story.call(story.session.close)
        story.run_for(5.1)
        sizes = story.session.table_sizes()
        assert (sizes["tickets"], sizes["requests"], sizes["deadlines"]) == (0, 0, 0)


def test_removing_a_channel_ends_its_object(story: Story) -> None:
    """remove leaves at once, fails pending calls, ends iterators, and later calls on the topic raise (R10, R24)."""
    story.open()
    room = story.joined(ack=True)
    acked = story.broadcast(room, ack=True)
    channel = story.at(room)
    story.call(story.session.remove, room)
    assert isinstance(error_of(story.outcome(acked)), ClosedError)
    assert channel.state is ChannelState.CLOSED
    assert room not in story.session.channels
    assert [frame.topic for frame in story.sent("phx_leave")] == [room]
    assert isinstance(raised(lambda: story.broadcast(room)), ClosedError)
    assert [effect.topic for effect in story.effects if isinstance(effect, Ended)] == [room]
    story.call(story.session.remove, room)
    assert len(story.sent("phx_leave")) == 1


def test_every_ticket_is_resolved_once_when_socket_and_client_end_together() -> None:
    """Calls pending when a socket dies and the client closes at the same instant are resolved once (R31)."""
    story = Story()
    busy(story)
    pending = story.session.pending_tickets
    story.drop(1006)
    story.call(story.session.close)
    story.run_for(6)
    settled = [effect.ticket for effect in story.effects if isinstance(effect, Settle)]
    assert len(settled) == len(set(settled))
    assert all(story.outcome(ticket) is not NOT_YET for ticket in pending)


def test_closing_while_connecting_aborts_the_attempt(story: Story) -> None:
    """The socket being opened is aborted; if it opens nevertheless, it is ignored (R10)."""
    opened = story.call(story.session.open)
    story.call(story.session.close)
    assert story.aborts == [1]
    assert isinstance(error_of(story.outcome(opened)), ClosedError)
    story.call(story.session.transport_opened, 1)
    assert story.session.state is ConnectionState.CLOSED
