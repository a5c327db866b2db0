"""One joined topic on one socket: what the real server keeps in a channel process."""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supawire.core.frames import PREFIX
from supawire.server.bindings import Binding
from supawire.server.joins import JoinConfig
from supawire.server.limits import CallWindow
from supawire.server.questions import Who
from supawire.server.schedule import Timer
from supawire.server.tokens import Claims
from supawire.server.wire import encode

if TYPE_CHECKING:
    from supawire.server.peers import Inbound, Peer


@dataclass(slots=True, eq=False)
class Channel:
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
