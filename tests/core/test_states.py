"""The three state tables."""

import pytest

from supawire._mirror_events import MirrorState
from supawire.core.states import CHANNEL, CONNECTION, MIRROR, ChannelTrigger, ConnectionTrigger, MirrorTrigger
from supawire.events import ChannelState, ConnectionState

IMPOSSIBLE_CONNECTION = {
    ConnectionState.IDLE: "OPENED FAILED REFUSED STABLE LOST IDLED DUE EXHAUSTED ENDED",
    ConnectionState.CONNECTING: "STABLE LOST IDLED DUE ENDED",
    ConnectionState.OPEN: "OPENED FAILED REFUSED DUE EXHAUSTED ENDED",
    ConnectionState.RETRYING: "OPENED FAILED STABLE LOST IDLED ENDED",
    ConnectionState.CLOSING: "WANTED OPENED FAILED REFUSED STABLE IDLED DUE EXHAUSTED",
    ConnectionState.CLOSED: "WANTED OPENED FAILED REFUSED STABLE LOST IDLED DUE EXHAUSTED ENDED",
}

IMPOSSIBLE_CHANNEL = {
    ChannelState.IDLE: "SEND OK TIMEOUT CHANGED RETRY GIVE_UP CONNECTION_LOST DUE DEGRADED RECOVERED LEFT LEFT_WANTED",
    ChannelState.WAITING: "OK TIMEOUT CHANGED RETRY DUE DEGRADED RECOVERED LEFT LEFT_WANTED",
    ChannelState.JOINING: "SEND CHANGED DUE DEGRADED RECOVERED LEFT LEFT_WANTED",
    ChannelState.JOINED: "SEND OK TIMEOUT DUE LEFT LEFT_WANTED",
    ChannelState.REJOINING: "SEND CHANGED DUE LEFT LEFT_WANTED",
    ChannelState.RETRYING: "SEND OK TIMEOUT CHANGED RETRY DEGRADED RECOVERED LEFT LEFT_WANTED",
    ChannelState.LEAVING: "SEND OK TIMEOUT CHANGED RETRY GIVE_UP CONNECTION_LOST DUE DEGRADED RECOVERED",
    ChannelState.FAILED: "SEND OK TIMEOUT CHANGED RETRY GIVE_UP CONNECTION_LOST DUE DEGRADED RECOVERED LEFT "
    "LEFT_WANTED",
    ChannelState.CLOSED: "SUBSCRIBE SEND OK TIMEOUT CHANGED RETRY GIVE_UP CONNECTION_LOST DUE DEGRADED RECOVERED "
    "UNSUBSCRIBE LEFT LEFT_WANTED",
}


IMPOSSIBLE_MIRROR = {
    MirrorState.JOINING: "DUE FETCHED FAILED SETTLED UNSETTLED INCOMPLETE COMPLETE",
    MirrorState.WAITING: "FETCHED FAILED SETTLED UNSETTLED INCOMPLETE COMPLETE",
    MirrorState.FETCHING: "DUE SETTLED UNSETTLED INCOMPLETE COMPLETE",
    MirrorState.SETTLING: "DUE FETCHED FAILED INCOMPLETE COMPLETE",
    MirrorState.LIVE: "DUE FETCHED FAILED SETTLED UNSETTLED COMPLETE",
    MirrorState.REFETCHING: "DUE FETCHED FAILED SETTLED UNSETTLED",
    MirrorState.CLOSED: "READY LOST DUE FETCHED FAILED SETTLED UNSETTLED DOUBT INCOMPLETE COMPLETE",
}


@pytest.mark.parametrize("state", ConnectionState)
def test_every_pair_of_the_connection_is_a_transition_or_impossible(state: ConnectionState) -> None:
    """Each state of the connection has a cell, or a listed impossibility, for each event."""
    moves = {on.name for at, on in CONNECTION if at is state}
    impossible = set(IMPOSSIBLE_CONNECTION[state].split())
    assert moves | impossible == {on.name for on in ConnectionTrigger}
    assert not moves & impossible


@pytest.mark.parametrize("state", ChannelState)
def test_every_pair_of_a_channel_is_a_transition_or_impossible(state: ChannelState) -> None:
    """Each state of a channel has a cell, or a listed impossibility, for each event."""
    moves = {on.name for at, on in CHANNEL if at is state}
    impossible = set(IMPOSSIBLE_CHANNEL[state].split())
    assert moves | impossible == {on.name for on in ChannelTrigger}
    assert not moves & impossible


@pytest.mark.parametrize("state", MirrorState)
def test_every_pair_of_a_mirror_is_a_transition_or_impossible(state: MirrorState) -> None:
    """Each state of a mirror has a cell, or a listed impossibility, for each event."""
    moves = {on.name for at, on in MIRROR if at is state}
    impossible = set(IMPOSSIBLE_MIRROR[state].split())
    assert moves | impossible == {on.name for on in MirrorTrigger}
    assert not moves & impossible


def test_closed_is_final() -> None:
    """No transition leaves CLOSED, for the connection, a channel or a mirror (R10, R11)."""
    assert {move.next for (at, _), move in MIRROR.items() if at is MirrorState.CLOSED} == {MirrorState.CLOSED}
    assert {move.next for (at, _), move in CONNECTION.items() if at is ConnectionState.CLOSED} == {
        ConnectionState.CLOSED
    }
    assert {move.next for (at, _), move in CHANNEL.items() if at is ChannelState.CLOSED} == {ChannelState.CLOSED}
