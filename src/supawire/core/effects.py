"""Effects: what the core asks the shell to do, as plain data.

The shell performs them in order. They can be compared, printed and replayed; those that may contain a token are marked
and do not print it. They are msgspec structs because these are five times faster to create than dataclasses, and
eleven dataclasses added 5 ms to every start.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from msgspec import Struct

from supawire.core.http_broadcast import HttpMessage
from supawire.errors import RealtimeError
from supawire.options import Secret

Listeners = tuple[Callable[[Any], None], ...]


class Ticket(Struct, frozen=True, eq=False):
    """A pending call, resolved exactly once with a value or a typed error. Tickets are compared by identity."""

    number: int
    what: str


class Connect(Struct, frozen=True):
    """Open a socket. Its events come back with this generation."""

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
    """Call the user's backoff function. The answer comes back with this key."""

    key: tuple[Hashable, ...]
    attempt: int


class Publish(Struct, frozen=True):
    """Send a broadcast by HTTP (`offline="http"`) and resolve the ticket with the outcome.

    token: the channel's own token; None: the current token of the client. timeout: seconds for all attempts together.
    """

    ticket: Ticket
    letter: HttpMessage
    token: Secret | None
    timeout: float | None


class PauseReading(Struct, frozen=True):
    """Stop reading the socket of this generation."""

    generation: int


class ResumeReading(Struct, frozen=True):
    """Resume reading the socket of this generation."""

    generation: int


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


class Report(Struct, frozen=True):
    """Something to log or to pass to `on_error`; no caller is waiting for the error."""

    what: str
    topic: str | None = None
    error: RealtimeError | None = None
    detail: dict[str, Any] = {}


Effect = (
    Connect
    | Disconnect
    | Transmit
    | FetchToken
    | AskDelay
    | Publish
    | PauseReading
    | ResumeReading
    | Deliver
    | Settle
    | Ended
    | Report
)
Effects = deque[Effect]
