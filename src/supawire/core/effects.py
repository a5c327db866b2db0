"""What the core wants done: orders to the shell, as plain data.

They are performed in order. They compare, print and replay; what may hold a token says so and does not print it.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from supawire.core.rest import Letter
from supawire.errors import RealtimeError
from supawire.options import Secret

Listeners = tuple[Callable[[Any], None], ...]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What we owe a caller: settled exactly once, with a value or a typed error (R31)."""

    number: int
    what: str


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a socket; what becomes of it comes back with this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the socket of this generation: politely and bounded, or at once."""

    generation: int
    abort: bool = False
    code: int = 1000


class Transmit(Struct, frozen=True, gc=False):
    """Write one frame to the socket of this generation. Made for every frame, so a struct: a tenth of the cost."""

    generation: int
    data: bytes
    binary: bool = False
    secret: bool = False
    """Carries a token: phx_join, access_token."""

    def __repr__(self) -> str:
        shown = f"<secret, {len(self.data)} bytes>" if self.secret else repr(self.data)
        return f"Transmit({self.generation}, {shown})"


@dataclass(frozen=True, slots=True)
class FetchToken:
    """Ask the user's token provider; the answer comes back with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class AskDelay:
    """Ask the user's backoff callable; the answer comes back with this key."""

    key: tuple[Hashable, ...]
    attempt: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a broadcast by HTTP (`offline="http"`) and settle the ticket with what became of it.

    token: the channel's own one; None: the newest of the client. timeout: seconds, all attempts together.
    """

    ticket: Ticket
    letter: Letter
    token: Secret | None
    timeout: float | None


@dataclass(frozen=True, slots=True)
class PauseReading:
    """Stop reading the socket of this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class ResumeReading:
    """Read the socket of this generation again."""

    generation: int


class Deliver(Struct, frozen=True, gc=False):
    """Hand events to their listeners, one after another. Made for every presence frame, so a struct."""

    listeners: Listeners
    events: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Settle:
    """A request is over: `outcome` is its value, or the error that the caller gets."""

    ticket: Ticket
    outcome: Any | RealtimeError


@dataclass(frozen=True, slots=True)
class Ended:
    """A channel (topic None: the client) will deliver nothing more for now: iterators end, or raise the error."""

    topic: str | None
    error: RealtimeError | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Something worth a log line or a call of `on_error`: `error` has no waiter who would get it."""

    what: str
    topic: str | None = None
    error: RealtimeError | None = None
    detail: dict[str, Any] = field(default_factory=dict[str, Any])


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
