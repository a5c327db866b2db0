"""The tables of states, from `supawire.core.states`."""

from collections.abc import Mapping
from typing import TypeVar

from docs.tables import rows, table
from supawire.core.states import CHANNEL, LINK, ChannelOn, LinkOn, Move
from supawire.types import ChannelState, LinkState

S = TypeVar("S", LinkState, ChannelState)
E = TypeVar("E", LinkOn, ChannelOn)


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


@table("link")
def link() -> str:
    """Every move of the link."""
    return _moves(LINK) + _impossible(LINK, LinkState, LinkOn)


@table("channel")
def channel() -> str:
    """Every move of a channel."""
    return _moves(CHANNEL) + _impossible(CHANNEL, ChannelState, ChannelOn)
