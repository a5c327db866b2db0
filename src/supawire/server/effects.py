"""Effects that the hub returns to its shell as frozen data, and the results of a handshake."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from supawire.server.queries import Query


class Send(Struct, frozen=True, gc=False):
    """Write one frame to a socket. A frame for many sockets has the same `data` object in each effect."""

    conn: int
    data: bytes
    binary: bool


class CloseSocket(NamedTuple):
    """Close a socket with a close code. With `code` None abort the connection; the client reports 1006."""

    conn: int
    code: int | None


class PauseReading(NamedTuple):
    """Pause reading from a socket that has too many frames waiting behind a join."""

    conn: int


class ResumeReading(NamedTuple):
    """Resume reading from a socket."""

    conn: int


class Report(NamedTuple):
    """Log a message for the operator. It contains no token."""

    text: str


class SendQuery(NamedTuple):
    """Query the backend and pass the result to `Hub.answered(number, …)`; only with `HubOptions(database=True)`."""

    number: int
    query: Query[Any]


class Unsubscribe(NamedTuple):
    """Remove the subscriptions (`queries.SubscribeQuery`) of a channel that has ended."""

    channel: int


@dataclass(frozen=True, slots=True)
class RestRequest:
    """An HTTP request. Header names are lower case; `path` is percent-encoded."""

    method: str
    path: str
    host: str
    query: dict[str, str] = field(default_factory=dict[str, str])
    headers: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """The response to an HTTP request."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Later(NamedTuple):
    """The response to an HTTP request is not available yet; it follows in a `Respond` with this number."""

    number: int


class Respond(NamedTuple):
    """Send the response to the HTTP request that was answered with `Later`."""

    number: int
    answer: RestAnswer


Effect: TypeAlias = Send | CloseSocket | PauseReading | ResumeReading | Report | SendQuery | Unsubscribe | Respond


@dataclass(frozen=True, slots=True)
class Request:
    """An upgrade request. Header names are lower case; `query` has decoded values."""

    host: str
    query: dict[str, str] = field(default_factory=dict[str, str])
    headers: dict[str, str] = field(default_factory=dict[str, str])
    longpoll: bool = False
    """Whether it starts a session of long polling instead of a WebSocket."""

    def __repr__(self) -> str:
        return f"Request({self.host!r})"  # the other fields contain the key


@dataclass(frozen=True, slots=True)
class Accepted:
    """The handshake is accepted: answer with 101."""

    v2: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """The handshake is refused: send this response after `delay` seconds. in_front: a gateway or proxy answers."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    delay: float = 0.0
    in_front: bool = False
