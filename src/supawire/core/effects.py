"""What the core wants done: orders to the shell, as plain data.

They are performed in order. They compare, print and replay; what may hold a token says so and does not print it.
Structs, not dataclasses: made in a fifth of the time, and eleven dataclasses took 5 ms of every start.
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
    """What we owe a caller: settled exactly once, with a value or a typed error (R31). Each is equal to itself only."""

    number: int
    what: str


class Connect(Struct, frozen=True):
    """Open a socket; what becomes of it comes back with this generation."""

    generation: int


class Disconnect(Struct, frozen=True):
    """Close the socket of this generation: politely and bounded, or at once."""

    generation: int
    abort: bool = False
    code: int = 1000


class Transmit(Struct, frozen=True, gc=False):
    """Write one frame to the socket of this generation."""

    generation: int
    data: bytes
    binary: bool = False
    secret: bool = False
    """Carries a token: phx_join, access_token."""

    def __repr__(self) -> str:
        shown = f"<secret, {len(self.data)} bytes>" if self.secret else repr(self.data)
        return f"Transmit({self.generation}, {shown})"


class FetchToken(Struct, frozen=True):
    """Ask the user's token provider; the answer comes back with this number."""

    number: int


class AskDelay(Struct, frozen=True):
    """Ask the user's backoff callable; the answer comes back with this key."""

    key: tuple[Hashable, ...]
    attempt: int


class Publish(Struct, frozen=True):
    """Send a broadcast by HTTP (`offline="http"`) and settle the ticket with what became of it.

    token: the channel's own one; None: the newest of the client. timeout: seconds, all attempts together.
    """

    ticket: Ticket
    letter: HttpMessage
    token: Secret | None
    timeout: float | None


class PauseReading(Struct, frozen=True):
    """Stop reading the socket of this generation."""

    generation: int


class ResumeReading(Struct, frozen=True):
    """Read the socket of this generation again."""

    generation: int


class Deliver(Struct, frozen=True, gc=False):
    """Hand events to their listeners, one after another."""

    listeners: Listeners
    events: Sequence[Any]


class Settle(Struct, frozen=True):
    """A request is over: `outcome` is its value, or the error that the caller gets."""

    ticket: Ticket
    outcome: Any | RealtimeError


class Ended(Struct, frozen=True):
    """A channel (topic None: the client) will deliver nothing more for now: iterators end, or raise the error."""

    topic: str | None
    error: RealtimeError | None = None


class Report(Struct, frozen=True):
    """Something worth a log line or a call of `on_error`: `error` has no waiter who would get it."""

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
