"""The object that a handler gets: one attempt of one job."""

import contextlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Protocol, TypeVar, cast

from supawire._display import printable
from supawire._values.models import Model
from supawire.errors import InvalidArgumentError, JobLostError, StateError
from supawire.options import check_number
from supawire.worker.source import Claimed, Finished, Source

if TYPE_CHECKING:
    import typing_extensions
    from psycopg import AsyncConnection, Connection

    R = typing_extensions.TypeVar("R", default=dict[str, Any])
else:
    R = TypeVar("R")

MAX_REASON: Final = 2000
"""Maximum characters of an error text that is stored."""


class JobEnded(Exception):
    """Ends a handler after `job.retry()` or `job.fail()`, which have already noted the outcome."""


class Transactions(Protocol):
    """Opens transactions for handlers, in which the job is completed."""

    def open(self, job: "Job[Any]") -> AbstractAsyncContextManager[Any]:
        """Return the transaction for an async handler."""
        ...

    def open_blocking(self, job: "Job[Any]") -> AbstractContextManager[Any]:
        """Return the transaction for a plain handler, on its thread."""
        ...


class Job(Generic[R]):
    """One attempt of one job, passed to the handler.

    The job is done when the handler returns. When it raises, the job is tried again later, and fails for good after the
    last attempt. All methods may be called on the thread of a plain handler.
    """

    def __init__(self, claim: Claimed, source: Source, model: Model | None, transactions: Transactions | None) -> None:
        self._claim: Final = claim
        self._source: Final = source
        self._model: Final = model
        self._transactions: Final = transactions
        self._values: dict[str, Any] = {}
        self._alive = False
        self._record: Any = None
        self._lost: str | None = None
        self.decision: float | str | None = None
        self.committing = False
        """Whether a transaction completes the job now, so that the side table may not say any more that it is held."""
        self.committed = False

    @property
    def source(self) -> str:
        """The name of what the job comes from, such as "public.orders"."""
        return self._source.name

    @property
    def claim(self) -> Claimed:
        """What the source gave out."""
        return self._claim

    @property
    def key(self) -> Any:
        """The primary key of the row, or the id of the message; a tuple when it has several columns."""
        return self._claim.key[0] if len(self._claim.key) == 1 else self._claim.key

    @property
    def row(self) -> dict[str, Any]:
        """The row as it was after it was claimed, as Python values by column."""
        return self._claim.row

    @property
    def record(self) -> R:
        """The row as an object of the model of the job; without a model it is `row`.

        Raises: RowError: the row does not fit the model.
        """
        if self._model is None:
            return cast("R", self._claim.row)
        if self._record is None:
            self._record = self._model.make(self._claim.row, frozenset())
        return self._record

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers of a message of a queue; empty for a row."""
        return self._claim.headers

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1. Attempts whose worker died count too."""
        return self._claim.attempt

    @property
    def age(self) -> float:
        """Seconds from the first claim of the job to this one."""
        return self._claim.age

    @property
    def lost(self) -> bool:
        """Whether the result of this attempt no longer counts: its lease ended, its time is over, or it was given back.

        An async handler is cancelled then. A plain one cannot be stopped and should look here from time to time.
        """
        return self._lost is not None

    def retry(self, delay: float | None = None) -> NoReturn:
        """End this attempt as one that failed; the next follows after `delay` seconds, by default those of `retry=`.

        After the last attempt (`max_attempts`), the job fails. Raises an exception that ends the handler.
        """
        self.decision = -1.0 if delay is None else check_number("delay", delay, minimum=0, unit="seconds")
        raise JobEnded(f"the job is tried again{'' if delay is None else f' in {delay:g} s'}")

    def fail(self, reason: str) -> NoReturn:
        """End the job for good, as a dead letter with this reason. Raises an exception that ends the handler."""
        self.decision = printable(str(reason), MAX_REASON)
        raise JobEnded(f"the job has failed: {self.decision}")

    def keep_alive(self) -> None:
        """Start the time of `timeout=` again, because the job makes progress.

        The lease needs no call: it is extended as long as the handler runs.
        Raises: JobLostError: the result of this attempt no longer counts.
        """
        if self._lost is not None:
            raise self.lost_error()
        self._alive = True

    def write(self, **columns: Any) -> None:
        """Set columns of the row that are written in the same statement as the completion.

        A later call for the same column replaces the value. Nothing is written unless the attempt succeeds.
        Raises: InvalidArgumentError: the row has no such column.
        """
        unknown = sorted(columns.keys() - set(self._source.columns))
        if unknown:
            known = ", ".join(self._source.columns) or "none: its source has no columns that can be written"
            raise InvalidArgumentError(f"{self.source} has no column {', '.join(map(repr, unknown))}; it has {known}")
        self._values |= columns

    def transaction(self) -> "JobTransaction":
        """Return a transaction that also completes the job, for `async with` or, in a plain handler, `with`.

        It provides a connection of psycopg. What is written through it, and the completion, are committed together
        at the end of the block, or not at all: the effects in this database happen exactly once. When the block
        raises, everything in it is rolled back, and the attempt has failed. After the block, the job is done.

        Raises: StateError: the source of the job is not in a database. JobLostError, at the end of the block: another
            worker has the job, and everything was rolled back.
        """
        if self._transactions is None:
            raise StateError(
                "this job has no transaction: its source is not reached by a PostgreSQL URL",
                hint="Pass database= to the worker.",
            )
        return JobTransaction(self, self._transactions)

    @property
    def finished(self) -> Finished:
        """The claim, and the columns to write with its completion."""
        return Finished(self._claim, self._values)

    def take_alive(self) -> bool:
        """Return whether `keep_alive` was called since the last call of this method."""
        alive, self._alive = self._alive, False
        return alive

    def mark_lost(self, why: str) -> None:
        """Note that the result no longer counts."""
        if self._lost is None:
            self._lost = why

    def lost_error(self) -> JobLostError:
        """Return the error for a job that is lost."""
        return JobLostError(f"job {self.key!r} of {self.source} is no longer held by this worker: {self._lost}")

    def __repr__(self) -> str:
        return f"<Job {self.source} {self.key!r}, attempt {self.attempt}>"


class JobTransaction:
    """What `Job.transaction()` returns; provides the connection on entry."""

    def __init__(self, job: Job[Any], transactions: Transactions) -> None:
        self._job: Final = job
        self._transactions: Final = transactions
        self._open: contextlib.AsyncExitStack | None = None
        self._open_blocking: contextlib.ExitStack | None = None

    async def __aenter__(self) -> "AsyncConnection[Any]":
        self._check()
        stack = contextlib.AsyncExitStack()
        connection = await stack.enter_async_context(self._transactions.open(self._job))
        self._open = stack
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._open is not None
        self._job.committing = error is None
        try:
            await self._open.__aexit__(kind, error, trace)
            self._job.committed = error is None
        finally:
            self._job.committing = False

    def __enter__(self) -> "Connection[Any]":
        self._check()
        stack = contextlib.ExitStack()
        connection = stack.enter_context(self._transactions.open_blocking(self._job))
        self._open_blocking = stack
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._open_blocking is not None
        self._job.committing = error is None
        try:
            self._open_blocking.__exit__(kind, error, trace)
            self._job.committed = error is None
        finally:
            self._job.committing = False

    def _check(self) -> None:
        if self._job.committed:
            raise StateError("this job is already completed by an earlier transaction; a job has one of them")
        if self._job.lost:
            raise self._job.lost_error()
