"""Effects: what the core asks the shell to do, as plain data.

The shell performs them in order. They can be compared, printed and replayed; those that may contain a token are marked
and do not print it. They are msgspec structs because these are five times faster to create than dataclasses, and
eleven dataclasses added 5 ms to every start.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from msgspec import Struct

from supawire.core.http_broadcast import HttpMessage
from supawire.errors import RealtimeError
from supawire.events import Gap, Status
from supawire.options import Secret

Listeners = tuple[Callable[[Any], None], ...]


class TicketKind(Enum):
    """The calls that a ticket can stand for."""

    OPEN = auto()
    CLOSE = auto()
    PING = auto()
    TOKEN = auto()
    """A caller that waits for the token provider."""
    JOIN = auto()
    READY = auto()
    """A join whose caller waits until the channel is ready."""
    LEAVE = auto()
    BROADCAST = auto()
    TRACK = auto()
    PUBLISH = auto()
    """A broadcast by HTTP."""


class Ticket(Struct, frozen=True, eq=False):
    """A pending call, resolved exactly once with a value or a typed error. Tickets are compared by identity."""

    number: int
    kind: TicketKind


class Connect(Struct, frozen=True):
    """Open a socket. Its events come back with this generation."""

    generation: int
    longpoll: bool = False
    """Whether to use long polling instead of the client's transport."""


class ProbeWebSocket(Struct, frozen=True):
    """Open a socket with the client's transport, close it, and report whether it could be opened."""

    generation: int


class Disconnect(Struct, frozen=True):
    """Close the socket of this generation: gracefully within a time limit, or at once."""

    generation: int
    abort: bool = False
    code: int = 1000


class Transmit(Struct, frozen=True, gc=False):
    """Write one frame to the socket of this generation."""

    generation: int
    data: bytes
    binary: bool = False
    secret: bool = False
    """Whether the frame contains a token: phx_join, access_token."""

    def __repr__(self) -> str:
        shown = f"<secret, {len(self.data)} bytes>" if self.secret else repr(self.data)
        return f"Transmit({self.generation}, {shown})"


class FetchToken(Struct, frozen=True):
    """Call the user's token provider. The answer comes back with this number."""

    number: int


class AskDelay(Struct, frozen=True):
    """Call the user's backoff function for a channel (topic None: for the connection of this socket)."""

    topic: str | None
    attempt: int
    socket: int = 0


class PublishByHttp(Struct, frozen=True):
    """Send a broadcast by HTTP (`offline="http"`) and resolve the ticket with the outcome.

    token: the channel's own token; None: the current token of the client. timeout: seconds for all attempts together.
    """

    ticket: Ticket
    message: HttpMessage
    token: Secret | None
    timeout: float | None


class Deliver(Struct, frozen=True, gc=False):
    """Deliver events to their listeners, in order."""

    listeners: Listeners
    events: Sequence[Any]


class Settle(Struct, frozen=True):
    """Resolve a ticket: `outcome` is the result, or the error that the caller gets."""

    ticket: Ticket
    outcome: Any | RealtimeError


class Ended(Struct, frozen=True):
    """End the iterators of a channel (topic None: of the client), or make them raise the error."""

    topic: str | None
    error: RealtimeError | None = None


# --- reports: what is logged, or passed to `on_error` because no caller is waiting for it


class StatusChanged(Struct, frozen=True):
    """The connection or a channel has another state."""

    status: Status


class SocketChanged(Struct, frozen=True):
    """One of several sockets has another state; `StatusChanged` follows if this changes the state of the client."""

    number: int
    status: Status


class ChannelLimitLearned(Struct, frozen=True):
    """The server accepts only this number of channels on a connection, fewer than the options say."""

    channels: int


class UnknownEvent(Struct, frozen=True):
    """A frame with an event that this client does not know was dropped."""

    event: str
    topic: str | None = None


class UnreadableFrame(Struct, frozen=True):
    """A frame, or a part of one, could not be read and was dropped."""

    reason: str
    topic: str | None = None


class GapReported(Struct, frozen=True):
    """Events may be missing, and no listener receives the gap."""

    gap: Gap


class ClockJumped(Struct, frozen=True):
    """The wall clock and the monotonic clock moved apart by this many seconds."""

    seconds: float


class FallbackChosen(Struct, frozen=True):
    """Long polling is used from now on, or WebSockets again."""

    longpoll: bool
    reason: str


class ErrorReport(Struct, frozen=True):
    """An error that no caller is waiting for. topic: the channel's name, None for the client itself."""

    error: RealtimeError
    topic: str | None = None


class ClientEnded(ErrorReport, frozen=True):
    """The client ended because of this error."""


class TokenFailed(ErrorReport, frozen=True):
    """The token provider failed, or returned a token that the server refuses."""


class ChangesFailed(ErrorReport, frozen=True):
    """The server will not deliver the changes that a channel requested."""


class BindingMismatch(ErrorReport, frozen=True):
    """The server confirmed other changes than those that were requested."""


class TrackFailed(ErrorReport, frozen=True):
    """Presence could not be tracked again after a rejoin."""


class TransitionMissing(ErrorReport, frozen=True):
    """An input in a state for which the state table has no entry: a bug of this library."""


Report = (
    StatusChanged
    | SocketChanged
    | ChannelLimitLearned
    | UnknownEvent
    | UnreadableFrame
    | GapReported
    | FallbackChosen
    | ClockJumped
    | ErrorReport
)

Effect = (
    Connect
    | ProbeWebSocket
    | Disconnect
    | Transmit
    | FetchToken
    | AskDelay
    | PublishByHttp
    | Deliver
    | Settle
    | Ended
    | Report
)
Effects = deque[Effect]
