"""The base class of backend components, and the context that they share.

A *component* covers one feature: partitions, row changes, policies or messages. It answers queries of the hub and has a
task that runs as long as the backend does.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

from supawire.events import Instant
from supawire.server.hub import Hub
from supawire.server.postgres.database import Database
from supawire.server.queries import Answer, Query

if TYPE_CHECKING:
    from supawire.server.postgres.replication import RowChange

T = TypeVar("T")
Answers: TypeAlias = Mapping[type[Query[Any]], Callable[[Any], Awaitable[Answer]]]


Take: TypeAlias = Callable[[Sequence["RowChange"]], None]


class Component(Protocol):
    """Base class of the backend components."""

    @property
    def answers(self) -> Answers:
        """The handler for each query type. A DatabaseError is converted to the matching `QueryError`."""
        ...

    async def start(self) -> None:
        """Prepare the component; the server listens once all have started.

        Raises: RealtimeError, and the server fails.
        """
        ...

    async def run(self) -> None:
        """Work until cancelled. Must survive database outages; an exception is a bug."""
        ...

    async def stop(self) -> None:
        """Release all resources, also after a `start` that failed."""
        ...

    def unsubscribe(self, channel: int) -> None:
        """Remove the subscriptions of a channel that has ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How outages are reported to clients. The defaults are the real server's: no notification at all."""

    announce_outages: bool = False
    """Channels with Postgres changes receive an error when the database is lost, and a confirmation when it is back."""
    isolate_policy_errors: bool = False
    """A row policy that raises hides rows from its subscriber only, who receives an error instead of the row."""
    outage: float = 10.0
    """Minimum seconds of changes that are lost when the database was lost, unless outages are announced."""
    pause: float = 5.0
    """Maximum seconds of changes that are lost after a policy stops raising."""


class BackendContext:
    """State and services shared by the backend components."""

    def __init__(
        self, url: str, do: Callable[[Callable[[Hub, Instant], Any]], Any], behaviour: Behaviour | None = None
    ) -> None:
        self.url: Final = url
        """For components that open their own connection."""
        self.behaviour: Final = behaviour or Behaviour()
        self.database: Final = Database(url)
        self.row_consumers: Final[dict[str, Take]] = {}
        """Consumers of committed rows, by the publication they need. Each gets all rows and skips irrelevant ones."""
        self._do = do

    def follow(self, publication: str, take: Take) -> None:
        """Register a consumer of committed rows: of this publication and others, in commit order.

        Called while components are created, so that all publications are known when the stream starts.
        """
        self.row_consumers[publication] = take

    def do(self, act: Callable[[Hub, Instant], T]) -> T:
        """Call `act` with the hub and the current time, then perform the resulting effects. Event loop only."""
        return self._do(act)
