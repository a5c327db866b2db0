"""What the hub asks of a database, as frozen data, and what it may hear.

At the memory level nothing of this leaves the hub: a policy function, a store and `emit` know the answers at once.
With `HubOptions(database=True)` each question is an effect, `Ask(number, question)`, and the shell calls
`Hub.answered(number, answer, now)` when it knows:

| question | answer |
| --- | --- |
| `Permissions` | the extensions that are allowed, a frozenset |
| `Messages` | the stored messages, oldest first, a tuple of `StoredMessage` |
| `Subscription` | None: the bindings are live. A text: why they are not |

Each may be answered by a `Trouble` instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Literal, TypeAlias, TypeVar

from supawire.server.bindings import Binding
from supawire.server.message_store import Replay, StoredMessage
from supawire.server.tokens import Claims

Extension: TypeAlias = Literal["broadcast", "presence"]
Action: TypeAlias = Literal["read", "write"]
T = TypeVar("T")


class QueryError(Enum):
    """Why there is no answer: the reason of a refused join, the `system` message, status and message of a REST answer.

    Texts are the real server's (protocol §3.6, §6.7, §9.2). `POLICY` has none for channels: to them it is a no.
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
        """HTTP status of a REST answer."""
        return self.value[2]

    @property
    def rest_message(self) -> str:
        """The `message` of a REST answer."""
        return self.value[3]


@dataclass(frozen=True, slots=True)
class Who:
    """The claims of a token, and the `x-` headers that came with it: policies may look at both."""

    claims: Claims = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


class Query(Generic[T]):
    """Something that a database knows; `T` is what it answers."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class PermissionsQuery(Query[frozenset[Extension]]):
    """Which of these extensions may be read, or written, on a private topic (protocol §7.4)?"""

    who: Who
    topic: str
    action: Action
    extensions: tuple[Extension, ...]


@dataclass(frozen=True, slots=True)
class MessagesQuery(Query[tuple[StoredMessage, ...]]):
    """Which private messages of a topic are to be replayed (protocol §6.3)?"""

    topic: str
    wanted: Replay


@dataclass(frozen=True, slots=True)
class SubscribeQuery(Query[str | None]):
    """Make these bindings of a channel live, in place of its earlier ones (protocol §11.2).

    `channel` is its number, which `Unsubscribe` names when it ends. All bindings are well-formed.
    """

    channel: int
    who: Who
    bindings: tuple[Binding, ...]


Answer: TypeAlias = frozenset[Extension] | tuple[StoredMessage, ...] | str | QueryError | None
