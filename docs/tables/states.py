"""The tables of states, from `supawire.core.states`."""

from collections.abc import Mapping
from typing import TypeVar

from docs.tables import rows, table
from supawire._mirror_events import MirrorState
from supawire.core.states import CHANNEL, LINK, MIRROR, ChannelOn, ConnectionOn, MirrorOn, Move
from supawire.events import ChannelState, ConnectionState

S = TypeVar("S", ConnectionState, ChannelState, MirrorState)
E = TypeVar("E", ConnectionOn, ChannelOn, MirrorOn)


def _moves(moves: Mapping[tuple[S, E], Move[S]]) -> str:
    """One line for all states that an event leads to the same place from, in the order in which the code has them."""
    lines: dict[tuple[E, str, str], list[S]] = {}
    for (state, on), move in moves.items():
        following = "same" if move.next is state else move.next.name
        lines.setdefault((on, following, move.then), []).append(state)
    return rows(
        ["state", "on", "next", "and"],
        [
            [", ".join(state.name for state in states), f"{on.name}: {on.value}", following, then]
            for (on, following, then), states in lines.items()
        ],
    )


def _impossible(moves: Mapping[tuple[S, E], Move[S]], states: type[S], events: type[E]) -> str:
    pairs = len(states) * len(events)
    return f"\n{len(moves)} of {pairs} pairs are moves; each of the other {pairs - len(moves)} is impossible.\n"


@table("connection")
def connection() -> str:
    """Every transition of the connection."""
    return _moves(LINK) + _impossible(LINK, ConnectionState, ConnectionOn)


@table("channel")
def channel() -> str:
    """Every transition of a channel."""
    return _moves(CHANNEL) + _impossible(CHANNEL, ChannelState, ChannelOn)


MEANINGS = {
    MirrorState.JOINING: "changes are not live: it waits for the connection, the channel, and the server's word",
    MirrorState.WAITING: "changes are live, and a fetch is due: now, or after a pause or backoff",
    MirrorState.FETCHING: "`fetch` runs; changes are kept",
    MirrorState.SETTLING: "it has answered; changes that it has seen may still come",
    MirrorState.LIVE: "the copy is the table",
    MirrorState.CLOSED: "closed, by you or with the client; the copy stays",
}


@table("mirror-states")
def mirror_states() -> str:
    """What the states of a mirror mean."""
    return rows(["state", "meaning"], [[f"`{state.value}`", MEANINGS[state]] for state in MirrorState])


@table("mirror")
def mirror() -> str:
    """Every transition of a mirror."""
    return _moves(MIRROR) + _impossible(MIRROR, MirrorState, MirrorOn)
