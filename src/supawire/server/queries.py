"""Queries of the hub to a database backend, as frozen data, and their errors.

Without a database the hub answers them itself, from the policy function, the message store and `emit`. With
`HubOptions(database=True)` each query becomes an effect, `SendQuery(number, query)`, and the shell calls
`Hub.answered(number, answer, now)` with the answer:

| query | answer |
| --- | --- |
| `PermissionsQuery` | the extensions that are allowed, a frozenset |
| `MessagesQuery` | the stored messages, oldest first, a tuple of `StoredMessage` |
| `SubscribeQuery` | None: subscribed. A text: the reason why not |
| `StoreQuery` | the id of the message that was stored, a text |

The answer to each of them may be a `QueryError` instead.

Joins, authorization, subscriptions and HTTP requests are generators (`Steps`) that the hub's `Stepper` runs. They query
with `answer = yield from ask(query)` and wait with `yield Sleep(seconds)`.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from supawire.server.bindings import Binding
from supawire.server.tokens import Claims

RETENTION: Final = 72 * 3600.0
"""Seconds for which a stored message can be replayed."""

Extension: TypeAlias = Literal["broadcast", "presence", "persistence"]
Action: TypeAlias = Literal["read", "write"]
T = TypeVar("T")
R = TypeVar("R")


class QueryError(Enum):
    """An error of a query: the join's `reason`, the `system` message, and the HTTP status and message.

    The texts are the real server's. `POLICY` has no text for channels, where it denies access.
    """

    POLICY = ("", "", 422, "RLS policy error")
    CANCELED = (
        "QueryCanceled: Query was cancelled, please try again",
        "Query was cancelled, please try again",
        422,
        "Query canceled",
    )
    NO_PARTITION = (
        "MissingPartition: Realtime was unable to find the expected messages partition",
        "Realtime was unable to connect to the project database",
        422,
        "Missing messages partition",
    )
    DOWN = (
        "UnableToConnectToProject: Realtime was unable to connect to the project database",
        "Realtime was unable to connect to the project database",
        422,
        "Tenant database unavailable",
    )
    BUSY = (
        "IncreaseConnectionPool: Please increase your connection pool size",
        ":increase_connection_pool",
        429,
        "Connection pool exhausted",
    )
    UNKNOWN = (
        "Realtime was unable to connect to the project database",
        "Realtime was unable to connect to the project database",
        500,
        "Unable to authorize broadcast",
    )

    @property
    def reason(self) -> str:
        """The `reason` of a refused join."""
        return self.value[0]

    @property
    def message(self) -> str:
        """The `message` of the `system` frame that ends a channel."""
        return self.value[1]

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[2]

    @property
    def rest_message(self) -> str:
        """The `message` of an HTTP response."""
        return self.value[3]


@dataclass(frozen=True, slots=True)
class Requester:
    """The identity for a query: the claims of a token and the `x-` headers of the request; policies can read both."""

    claims: Claims = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A stored message. `payload` is JSON text, or raw bytes when `json` is False; `sent_at` is wall time.

    expires_at: wall time after which it is not replayed; None: it is kept as long as any message.
    """

    id: str
    topic: str
    event: str
    payload: bytes
    json: bool
    private: bool
    sent_at: float
    expires_at: float | None = None

    def metadata(self, *, replayed: bool = False) -> bytes:
        """Return the `meta` of the message's frames."""
        return b'{"id":"%b"%b}' % (self.id.encode(), b',"replayed":true' if replayed else b"")


@dataclass(frozen=True, slots=True)
class Replay:
    """The replay requested by a join: since when (Unix time in milliseconds) and at most how many messages."""

    since: int
    limit: int


class Query(Generic[T]):
    """A query to the backend with an answer of type `T`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class PermissionsQuery(Query[frozenset[Extension]]):
    """Query which of these extensions may be read or written on a private topic."""

    requester: Requester
    topic: str
    action: Action
    extensions: tuple[Extension, ...]


@dataclass(frozen=True, slots=True)
class MessagesQuery(Query[tuple[StoredMessage, ...]]):
    """Query the private messages of a topic for a replay."""

    topic: str
    replay: Replay


@dataclass(frozen=True, slots=True)
class StoreQuery(Query[str]):
    """Store the broadcast of a client, which was delivered already, and return its id. `ttl`: seconds to keep it."""

    topic: str
    event: str
    payload: bytes
    json: bool
    ttl: int


@dataclass(frozen=True, slots=True)
class SubscribeQuery(Query[str | None]):
    """Subscribe these bindings of a channel, in place of its earlier ones.

    `channel` is the number that `Unsubscribe` has when the channel ends. All bindings are valid.
    """

    channel: int
    requester: Requester
    bindings: tuple[Binding, ...]


Answer: TypeAlias = frozenset[Extension] | tuple[StoredMessage, ...] | str | QueryError | None


# --- generators ---


class QueryFailed(Exception):
    """A query was answered with an error."""

    def __init__(self, error: QueryError) -> None:
        super().__init__(error.name)
        self.error = error


class Sleep(NamedTuple):
    """Wait for some seconds."""

    seconds: float


Steps: TypeAlias = Generator[Sleep | tuple[Query[Any], ...], Any, R]
"""A generator that yields what it waits for: some seconds, or the answers to these queries, as a list."""


def run_query(query: Query[T]) -> Steps[T]:
    """Return the answer to a query. Raises: QueryFailed."""
    (answer,) = yield from run_queries([query])
    if isinstance(answer, QueryError):
        raise QueryFailed(answer)
    return answer


def run_queries(queries: Iterable[Query[T]]) -> Steps[list[T | QueryError]]:
    """Return the answers to queries that are made at the same time, in their order."""
    answers: list[T | QueryError] = yield tuple(queries)
    return answers
