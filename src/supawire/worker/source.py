"""What a worker takes its jobs from: the protocol `Source`, and the values that pass between a source and the engine.

A source gives out *claims*: a job for the time of a lease. Whatever changes the state of a job later carries the token
of its claim, so that a worker whose lease has ended can change nothing. All times are compared by the source, with one
clock for all workers, such as that of the database.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from msgspec import Struct

from supawire.selectors import Selector

Settled = Literal["done", "again", "busy", "lost"]
"""What became of a completion.

"again": done, and other jobs may be available because of it, such as the same row, which was asked for again while it
was worked on. "busy": it cannot be written now; the engine calls again. "lost": the claim had ended, and nothing was
changed.
"""


class Claimed(Struct, frozen=True, eq=False):
    """A job that a source has given to this worker.

    key: names the job, for logs. row: its data by column. attempt: 1 for the first one, counting attempts that ended
    with the death of their worker. age: seconds since the first claim. token: identifies this claim; only the source
    looks into it, and it must be hashable and different for each claim. headers: of a message.
    """

    key: tuple[Any, ...]
    row: dict[str, Any]
    attempt: int
    token: Any
    age: float = 0.0
    headers: Mapping[str, Any] = {}


class Batch(Struct, frozen=True):
    """The result of `Source.claim`.

    next_due: seconds until the source may have a job that no event announces, such as one that waits for its next
    attempt, or whose lease ends; None: none is known.
    """

    jobs: Sequence[Claimed] = ()
    next_due: float | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A claim whose job has succeeded. values: columns that are written together with the completion."""

    claim: Claimed
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Wakeup:
    """What announces new jobs by Realtime: any event of these selectors on a channel of this topic."""

    topic: str
    selectors: tuple[Selector[Any], ...]
    private: bool = False


class Source(Protocol):
    """A queue of jobs. The engine calls its methods from one event loop, several of them at the same time.

    A method that fails because the source cannot be reached raises a `RealtimeError`; the engine calls it again later.
    All of them may be called again with the same claims after such a failure, and then return the same result.
    """

    @property
    def name(self) -> str:
        """A name for logs and statistics."""
        ...

    @property
    def wakeup(self) -> Wakeup | None:
        """What announces new jobs; None: nothing, so that only the poll finds them."""
        ...

    @property
    def columns(self) -> Collection[str]:
        """The columns that a job may write together with its completion; empty: none. Known after `prepare`."""
        ...

    async def prepare(self) -> Sequence[str]:
        """Check that everything is there, before the first claim. Return warnings for the log.

        Raises: SetupError, with the SQL that mends it.
        """
        ...

    async def claim(self, limit: int, lease: float) -> Batch:
        """Take at most `limit` jobs for `lease` seconds, those first whose lease has ended."""
        ...

    async def extend(self, claims: Sequence[Claimed], lease: float) -> Collection[Any]:
        """Let the leases end `lease` seconds from now. Return the tokens of the claims that are still held."""
        ...

    async def complete(self, finished: Sequence[Finished]) -> Sequence[Settled]:
        """End jobs that have succeeded. Return what became of each, in their order."""
        ...

    async def retry(self, claim: Claimed, delay: float, error: str) -> bool:
        """Make the job available again after `delay` seconds. Return False if the claim had ended."""
        ...

    async def fail(self, claim: Claimed, reason: str) -> bool:
        """End a job that will not be tried again, and keep it as a dead letter. Return False if the claim had ended."""
        ...

    async def release(self, claims: Sequence[Claimed]) -> None:
        """Give jobs back at once, as if this attempt had not begun."""
        ...

    async def close(self) -> None:
        """Release what the source holds, such as connections of its own."""
        ...


@runtime_checkable
class TransactionalSource(Protocol):
    """A source whose completion can be part of a transaction of the user's, in the same PostgreSQL database."""

    def completion(self, finished: Finished) -> tuple[Any, Sequence[Any]]:
        """Return the statement, for psycopg, that completes the job; it returns a row if the claim was still held."""
        ...


@runtime_checkable
class MigratingSource(Protocol):
    """A source that needs something in the database."""

    async def migration(self) -> Sequence[str]:
        """Return the SQL that prepares the database, which may be run again. Raises: SetupError."""
        ...
