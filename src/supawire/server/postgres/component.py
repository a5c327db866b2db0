"""What the parts of a database level have in common, and what they stand on.

A *part* knows one thing of the database: partitions, changes of rows, rights and messages. It answers questions of
the hub (`questions.py`), and has a task that runs as long as the level does.
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
    """One thing of the database."""

    @property
    def answers(self) -> Answers:
        """Which questions it answers, and how. A DatabaseError becomes the `Trouble` that fits."""
        ...

    async def start(self) -> None:
        """Be ready; the server listens when every part is. Raises: RealtimeError, and the server does not start."""
        ...

    async def run(self) -> None:
        """Work until cancelled. It outlives an outage of the database; what it raises is a bug."""
        ...

    async def stop(self) -> None:
        """Let go of everything, also after a `start` that failed."""
        ...

    def unsubscribe(self, channel: int) -> None:
        """A channel with bindings has ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What clients learn of an outage. The defaults are the real server's, which says nothing (protocol §13)."""

    announce_outages: bool = False
    """Channels with changes get an error when the database is lost, and are confirmed again."""
    isolate_policy_errors: bool = False
    """A row policy that raises hides rows from its subscriber alone, who gets an error instead of the row."""
    outage: float = 10.0
    """Seconds of changes that are lost at least when the database was lost, unless it is announced."""
    pause: float = 5.0
    """Seconds that changes are lost at most after a policy no longer raises."""


class BackendContext:
    """What parts stand on."""

    def __init__(
        self, url: str, do: Callable[[Callable[[Hub, Instant], Any]], Any], behaviour: Behaviour | None = None
    ) -> None:
        self.url: Final = url
        """For a connection of one's own."""
        self.behaviour: Final = behaviour or Behaviour()
        self.database: Final = Database(url)
        self.row_consumers: Final[dict[str, Take]] = {}
        """Who is handed the rows that commit, by the publication they want; each skips what is not theirs."""
        self._do = do

    def follow(self, publication: str, take: Take) -> None:
        """Hand me what commits: rows of this publication and of others, in the order of their commits.

        Called while parts are made, so that whoever reads the stream knows all publications when it starts.
        """
        self.row_consumers[publication] = take

    def do(self, act: Callable[[Hub, Instant], T]) -> T:
        """Give the hub something, with the time, and perform what follows. Only from the server's event loop."""
        return self._do(act)
