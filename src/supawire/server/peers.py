"""One client's socket as the hub sees it, and the queue in which it stands while a join holds it (protocol §3.2).

One process of the real server serves a socket and waits for the channel that joins, so whatever comes in or is to go
out meanwhile waits in one mailbox, in order. `still` says that something waits or must wait.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from supawire.server.channel import Channel
from supawire.server.effects import Send
from supawire.server.schedule import Timer

MAX_WAITING_IN: Final = 8_000_000
"""Bytes from a client that may wait behind a join before its socket is read no further."""
MAX_WAITING_OUT: Final = 50_000_000
"""Bytes for a client that may wait behind a join before it is cut off (protocol §8: memory of a socket process)."""


class Inbound(NamedTuple):
    """A frame of the client that waits for its turn."""

    data: bytes
    binary: bool


Waiting: TypeAlias = Send | Inbound


@dataclass(slots=True, eq=False)
class Peer:
    """The server's side of one socket."""

    id: int
    v2: bool
    token: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    heard_at: float
    opened_at: float = 0.0
    """By the wall clock."""
    channels: dict[str, Channel] = field(default_factory=dict[str, Channel])
    former: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """The join_ref of the last channel that ended, by topic."""
    mailbox: deque[Waiting] = field(default_factory=deque[Waiting])
    still: bool = False
    holds: int = 0
    waiting_in: int = 0
    waiting_out: int = 0
    unread: bool = False
    """Whether the shell was told to read no further."""
    paused: bool = False
    had_channels: bool = False
    lag: float = 0.0
    lagging_until: float = 0.0
    gone: bool = False
    idle: Timer | None = None
    sweep: Timer | None = None
