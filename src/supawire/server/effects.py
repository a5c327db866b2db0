"""What the hub orders its shell to do, and how a handshake ends (architecture: effects are frozen data)."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from supawire.server.queries import Query


class Send(Struct, frozen=True, gc=False):
    """Write one frame to a socket. One frame for many sockets is one and the same `data` object in all its orders."""

    conn: int
    data: bytes
    binary: bool


class Close(NamedTuple):
    """End a socket with a close code; `code` None cuts it without a close frame (the client sees 1006)."""

    conn: int
    code: int | None


class Hold(NamedTuple):
    """Read nothing more from this socket: too much waits behind a join (protocol §3.2)."""

    conn: int


class Release(NamedTuple):
    """Read from this socket again."""

    conn: int


class Report(NamedTuple):
    """Something the operator should know. Holds no token."""

    text: str


class Ask(NamedTuple):
    """Find out, and hand in the answer with `Hub.answered(number, …)`; only with `HubOptions(database=True)`."""

    number: int
    question: Query[Any]


class Unsubscribe(NamedTuple):
    """The channel of this number has ended: its bindings (`questions.Subscription`) are live no more."""

    channel: int


@dataclass(frozen=True, slots=True)
class RestRequest:
    """An HTTP request. Header names are lower case; `path` is still percent-encoded."""

    method: str
    path: str
    host: str
    query: dict[str, str] = field(default_factory=dict[str, str])
    headers: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """What to answer."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Later(NamedTuple):
    """The answer to an HTTP request is not known yet: it comes as a `Respond` with this number."""

    number: int


class Respond(NamedTuple):
    """Answer the HTTP request that was to be answered later."""

    number: int
    answer: RestAnswer


Effect: TypeAlias = Send | Close | Hold | Release | Report | Ask | Unsubscribe | Respond


@dataclass(frozen=True, slots=True)
class Request:
    """An upgrade request. Header names are lower case; `query` holds decoded values."""

    host: str
    query: dict[str, str] = field(default_factory=dict[str, str])
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def __repr__(self) -> str:
        return f"Request({self.host!r})"  # the rest holds the key


@dataclass(frozen=True, slots=True)
class Accepted:
    """The handshake is good: answer 101."""

    v2: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """The handshake is refused: answer this after `held` seconds (protocol §1.3)."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    held: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
