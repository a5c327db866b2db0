"""The state tables, from `supawire.core.states`."""

from collections.abc import Mapping
from typing import TypeVar

from docs.tables import rows, table
from supawire._mirror_events import MirrorState
from supawire.core.states import (
    CHANNEL,
    CONNECTION,
    MIRROR,
    ChannelTrigger,
    ConnectionTrigger,
    MirrorTrigger,
    Transition,
)
from supawire.events import ChannelState, ConnectionState

S = TypeVar("S", ConnectionState, ChannelState, MirrorState)
E = TypeVar("E", ConnectionTrigger, ChannelTrigger, MirrorTrigger)


def _moves(moves: Mapping[tuple[S, E], Transition[S]]) -> str:
    """Return a table with one line for all states in which an event has the same effect, in the order of the code."""
    lines: dict[tuple[E, str, str], list[S]] = {}
    for (state, on), move in moves.items():
        following = "same" if move.next is state else move.next.name
        lines.setdefault((on, following, move.action), []).append(state)
    return rows(
        ["state", "event", "next state", "action"],
        [
            [", ".join(state.name for state in states), f"{on.name}: {on.value}", following, then]
            for (on, following, then), states in lines.items()
        ],
    )


def _impossible(moves: Mapping[tuple[S, E], Transition[S]], states: type[S], events: type[E]) -> str:
    pairs = len(states) * len(events)
    return f"\n{len(moves)} of {pairs} pairs are transitions; each of the other {pairs - len(moves)} is impossible.\n"


@table("connection")
def connection() -> str:
    """Return the table of transitions of the connection."""
    return _moves(CONNECTION) + _impossible(CONNECTION, ConnectionState, ConnectionTrigger)


@table("channel")
def channel() -> str:
    """Return the table of transitions of a channel."""
    return _moves(CHANNEL) + _impossible(CHANNEL, ChannelState, ChannelTrigger)


MEANINGS = {
    MirrorState.JOINING: "changes are not live: waiting for the connection, the channel and the server's report",
    MirrorState.WAITING: "changes are live; waiting for the next fetch, after a pause or backoff",
    MirrorState.FETCHING: "`fetch` is running; changes are kept",
    MirrorState.SETTLING: "it has returned; changes that it already includes may still arrive",
    MirrorState.LIVE: "the copy equals the table",
    MirrorState.REFETCHING: "as live, except for single rows that `fetch_row` is fetching",
    MirrorState.CLOSED: "closed, by you or with the client; the rows stay readable",
}


@table("mirror-states")
def mirror_states() -> str:
    """Return the table of the states of a mirror."""
    return rows(["state", "meaning"], [[f"`{state.value}`", MEANINGS[state]] for state in MirrorState])


@table("mirror")
def mirror() -> str:
    """Return the table of transitions of a mirror."""
    return _moves(MIRROR) + _impossible(MIRROR, MirrorState, MirrorTrigger)
