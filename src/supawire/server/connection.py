"""State of one client connection and of its joined channels.

On the real server one process serves a socket and waits for the channel process during a join, so incoming and
outgoing frames wait in its mailbox, in order. `Peer.suspended` is true while something waits or must wait in this
mailbox. See docs/protocol.md, Joins block the connection.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from supawire.server.bindings import Binding
from supawire.server.effects import Send
from supawire.server.join_config import JoinConfig
from supawire.server.limits import CallWindow
from supawire.server.queries import Requester
from supawire.server.schedule import Timer
from supawire.server.tokens import Claims
from supawire.server.wire import encode, sub_topic


@dataclass(slots=True, eq=False)
class ServerChannel:
    """One joined topic on one connection; the real server keeps it in a channel process.

    `id` is unique within a hub; `join_ref` is the JSON text to send back.
    """

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
    receives_presence_diffs: bool = True
    """Whether `presence_diff` frames are sent to this channel."""
    writes: dict[str, bool] = field(default_factory=dict[str, bool])
    """Cached write access by extension; cleared by a new token."""
    replayed: set[str] = field(default_factory=set[str])
    calls: CallWindow = field(default_factory=CallWindow)
    subscribed: bool = False
    """Whether the bindings are subscribed."""
    queued: "deque[Inbound] | None" = None
    """Frames that wait for an authorization query of this channel; None without a pending query."""
    open: bool = True
    expiry_timer: Timer | None = None
    wire_topic: bytes = b""

    def __post_init__(self) -> None:
        self.wire_topic = encode(self.topic)

    @property
    def sub_topic(self) -> str:
        """The topic without the `realtime:` prefix, as policies and users write it."""
        return sub_topic(self.topic)

    @property
    def requester(self) -> Requester:
        """The identity for authorization queries."""
        return Requester(self.claims, self.peer.headers)

    @property
    def private(self) -> bool:
        """Whether the channel is private; private and public channels of a topic are in different rooms."""
        return self.config.private


MAX_QUEUED_IN: Final = 8_000_000
"""Maximum bytes received behind a join before reading from the socket is paused."""
MAX_QUEUED_OUT: Final = 50_000_000
"""Maximum bytes to send that wait behind a join before the connection is aborted."""


class Inbound(NamedTuple):
    """A frame received from the client that waits to be handled."""

    data: bytes
    binary: bool


QueuedFrame: TypeAlias = Send | Inbound


@dataclass(slots=True, eq=False)
class Peer:
    """The server's state of one client connection."""

    id: int
    v2: bool
    token: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    last_received_at: float
    opened_at: float = 0.0
    """Wall time."""
    channels: dict[str, ServerChannel] = field(default_factory=dict[str, ServerChannel])
    former_join_refs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """The join_ref of the last channel that ended, by topic."""
    mailbox: deque[QueuedFrame] = field(default_factory=deque[QueuedFrame])
    suspended: bool = False
    suspensions: int = 0
    queued_in: int = 0
    queued_out: int = 0
    reading_paused: bool = False
    """Whether reading from the socket is paused (`effects.PauseReading`)."""
    paused: bool = False
    had_channels: bool = False
    lag: float = 0.0
    lag_until: float = 0.0
    closed: bool = False
    longpoll: bool = False
    """Whether the client polls instead of using a WebSocket."""
    idle_timer: Timer | None = None
    sweep_timer: Timer | None = None
