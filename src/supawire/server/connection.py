"""One joined topic on one socket: what the real server keeps in a channel process.

One client's socket as the hub sees it, and the queue in which it stands while a join holds it (protocol §3.2).

One process of the real server serves a socket and waits for the channel that joins, so whatever comes in or is to go
out meanwhile waits in one mailbox, in order. `still` says that something waits or must wait.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from supawire.core.frames import PREFIX
from supawire.server.bindings import Binding
from supawire.server.effects import Send
from supawire.server.join_config import JoinConfig
from supawire.server.limits import CallWindow
from supawire.server.queries import Who
from supawire.server.schedule import Timer
from supawire.server.tokens import Claims
from supawire.server.wire import encode


@dataclass(slots=True, eq=False)
class ServerChannel:
    """A channel of one peer. `id` is unique in the hub's life; `join_ref` is the JSON text to echo."""

    id: int
    peer: "Peer"
    topic: str
    join_ref: bytes
    config: JoinConfig
    token: str = field(repr=False)
    claims: Claims = field(repr=False)
    presence_key: str = ""
    bindings: tuple[Binding, ...] = ()
    reads_broadcast: bool = True
    reads_presence: bool = True
    hears_presence: bool = True
    """Whether `presence_diff`s are sent to it (protocol §5.4)."""
    writes: dict[str, bool] = field(default_factory=dict[str, bool])
    """Write rights by extension, asked for once and kept until a new token (protocol §7.4)."""
    replayed: set[str] = field(default_factory=set[str])
    calls: CallWindow = field(default_factory=CallWindow)
    subscribed: bool = False
    """Whether its bindings are live."""
    waiting: "deque[Inbound] | None" = None
    """Its frames that wait until it knows whether it may do what it was asked to; None when nothing is open."""
    open: bool = True
    recheck: Timer | None = None
    wire_topic: bytes = b""

    def __post_init__(self) -> None:
        self.wire_topic = encode(self.topic)

    @property
    def sub_topic(self) -> str:
        """The topic without the prefix, as policies and users say it."""
        return self.topic.removeprefix(PREFIX)

    @property
    def who(self) -> Who:
        """On whose behalf it asks for rights."""
        return Who(self.claims, self.peer.headers)

    @property
    def private(self) -> bool:
        """Which of the two rooms of its topic it is in (protocol §7.4)."""
        return self.config.private


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
    last_received_at: float
    opened_at: float = 0.0
    """By the wall clock."""
    channels: dict[str, ServerChannel] = field(default_factory=dict[str, ServerChannel])
    former: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """The join_ref of the last channel that ended, by topic."""
    mailbox: deque[Waiting] = field(default_factory=deque[Waiting])
    suspended: bool = False
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
