"""The object that a handler gets, and the state of an attempt that it shares with the engine."""

import asyncio
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


class Attempt:
    """The state of one attempt.

    values: columns to write with the completion. alive: whether `keep_alive` was called since the last check. lost: why
    the result no longer counts. failed: the reason of `job.fail`. retried, delay: whether `job.retry` was called, and
    with which delay. committing, committed: a transaction of the handler completes the job, or has completed it.

    task, timer: those of the handler. cancelled_for: why the engine cancelled the task. withdrawn: it did, and the
    result is not written. has_ended: the handler has ended, and its result is being written.
    """

    __slots__ = (
        "alive", "cancelled_for", "claim", "committed", "committing", "delay", "failed", "has_ended", "lost", "retried",
        "source", "task", "timer", "values", "withdrawn",
    )  # fmt: skip

    def __init__(self, claim: Claimed, source: Source) -> None:
        self.claim: Final = claim
        self.source: Final = source
        self.values: dict[str, Any] = {}
        self.alive: bool = False
        self.lost: str | None = None
        self.failed: str | None = None
        self.retried: bool = False
        self.delay: float | None = None
        self.committing: bool = False
        self.committed: bool = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.cancelled_for: str | None = None
        self.withdrawn: bool = False
        self.has_ended: bool = False

    @property
    def key(self) -> Any:
        """The key of the job; without a tuple if it has one part."""
        return self.claim.key[0] if len(self.claim.key) == 1 else self.claim.key

    @property
    def finished(self) -> Finished:
        """The claim, and the columns to write with its completion."""
        return Finished(self.claim, self.values)

    def mark_lost(self, why: str) -> None:
        """Note that the result no longer counts."""
        if self.lost is None:
            self.lost = why

    def lost_error(self) -> JobLostError:
        """Return the error for a job that is lost."""
        return JobLostError(f"job {self.key!r} of {self.source.name} is no longer held by this worker: {self.lost}")


class Transactions(Protocol):
    """Opens transactions for handlers, in which the job is completed."""

    def open(self, attempt: Attempt) -> AbstractAsyncContextManager[Any]:
        """Return the transaction for an async handler."""
        ...

    def open_blocking(self, attempt: Attempt) -> AbstractContextManager[Any]:
        """Return the transaction for a plain handler, on its thread."""
        ...


class Job(Generic[R]):
    """One attempt of one job, passed to the handler.

    The job is done when the handler returns. When it raises, the job is tried again later, and fails permanently after
    the last attempt. All methods may be called on the thread of a plain handler.
    """

    def __init__(self, attempt: Attempt, model: Model | None = None, transactions: Transactions | None = None) -> None:
        self._attempt: Final = attempt
        self._model: Final = model
        self._transactions: Final = transactions
        self._record: Any = None

    @property
    def source(self) -> str:
        """The name of what the job comes from, such as "public.orders"."""
        return self._attempt.source.name

    @property
    def key(self) -> Any:
        """The primary key of the row, or the id of the message; a tuple when it has several columns."""
        return self._attempt.key

    @property
    def row(self) -> dict[str, Any]:
        """The row as it was after it was claimed, as Python values by column."""
        return self._attempt.claim.row

    @property
    def record(self) -> R:
        """The row as an object of the model of the job; without a model it is `row`.

        Raises: RowError: the row does not fit the model.
        """
        if self._model is None:
            return cast("R", self.row)
        if self._record is None:
            self._record = self._model.make(self.row, frozenset())
        return self._record

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1. Attempts whose worker died count too."""
        return self._attempt.claim.attempt

    @property
    def age(self) -> float:
        """Seconds from the first claim of the job to this one."""
        return self._attempt.claim.age

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers of a message of a queue; empty for a row."""
        return self._attempt.claim.headers

    @property
    def lost(self) -> bool:
        """Whether the result of this attempt no longer counts: its lease ended, its time is over, or it was given back.

        An async handler is cancelled then. A plain one cannot be stopped and should look here from time to time.
        """
        return self._attempt.lost is not None

    def retry(self, delay: float | None = None) -> NoReturn:
        """End this attempt as one that failed; the next follows after `delay` seconds, by default those of `retry=`.

        After the last attempt (`max_attempts`), the job fails. Raises an exception that ends the handler.
        """
        self._attempt.delay = None if delay is None else check_number("delay", delay, minimum=0, unit="seconds")
        self._attempt.retried = True
        raise JobEnded(f"the job is tried again{'' if delay is None else f' in {delay:g} s'}")

    def fail(self, reason: str) -> NoReturn:
        """End the job as a dead letter with this reason. Raises an exception that ends the handler."""
        self._attempt.failed = printable(str(reason), MAX_REASON)
        raise JobEnded(f"the job has failed: {self._attempt.failed}")

    def keep_alive(self) -> None:
        """Start the time of `timeout=` again, because the job makes progress.

        The lease needs no call: it is extended as long as the handler runs.
        Raises: JobLostError: the result of this attempt no longer counts.
        """
        if self.lost:
            raise self._attempt.lost_error()
        self._attempt.alive = True

    def write(self, **columns: Any) -> None:
        """Set columns of the row that are written in the same statement as the completion.

        A later call for the same column replaces the value. Nothing is written unless the attempt succeeds.
        Raises: InvalidArgumentError: the row has no such column.
        """
        available = self._attempt.source.columns
        unknown = sorted(columns.keys() - set(available))
        if unknown:
            known = ", ".join(available) or "none: its source has no columns that can be written"
            raise InvalidArgumentError(f"{self.source} has no column {', '.join(map(repr, unknown))}; it has {known}")
        self._attempt.values |= columns

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
        return JobTransaction(self._attempt, self._transactions)

    def __repr__(self) -> str:
        return f"<Job {self.source} {self.key!r}, attempt {self.attempt}>"


class JobTransaction:
    """What `Job.transaction()` returns; provides the connection on entry."""

    def __init__(self, attempt: Attempt, transactions: Transactions) -> None:
        self._attempt: Final = attempt
        self._transactions: Final = transactions
        self._async_stack: Final = contextlib.AsyncExitStack()
        self._stack: Final = contextlib.ExitStack()

    async def __aenter__(self) -> "AsyncConnection[Any]":
        self._check()
        return await self._async_stack.enter_async_context(self._transactions.open(self._attempt))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attempt.committing = error is None
        try:
            await self._async_stack.__aexit__(kind, error, trace)
            self._attempt.committed = error is None
        finally:
            self._attempt.committing = False

    def __enter__(self) -> "Connection[Any]":
        self._check()
        return self._stack.enter_context(self._transactions.open_blocking(self._attempt))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attempt.committing = error is None
        try:
            self._stack.__exit__(kind, error, trace)
            self._attempt.committed = error is None
        finally:
            self._attempt.committing = False

    def _check(self) -> None:
        if self._attempt.committed:
            raise StateError("this job is already completed by an earlier transaction; a job has one of them")
        if self._attempt.lost is not None:
            raise self._attempt.lost_error()
