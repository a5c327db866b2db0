"""Runs the hub's generators (`queries.Steps`): joins, authorization, subscriptions and HTTP requests.

Without a database, functions of the hub answer the queries, so a generator waits only for `Sleep`. With a database,
each query becomes a `SendQuery` effect, and the generator waits for the answer from the shell or for the timeout.

A generator may have an owner, a connection or a channel. While it waits, the owner's frames wait in its mailbox. When
the owner has ended meanwhile, the generator is closed instead of resumed.
"""

from collections.abc import Callable
from itertools import count
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from supawire.server.connection import Peer, ServerChannel
from supawire.server.effects import SendQuery
from supawire.server.mailboxes import Mailboxes
from supawire.server.outbox import Outbox
from supawire.server.queries import Answer, Query, QueryError, Sleep, Steps
from supawire.server.schedule import Schedule, Timer

T = TypeVar("T")
R = TypeVar("R")
Owner: TypeAlias = Peer | ServerChannel | None


class Task(Generic[R]):
    """A generator that has been started."""

    def __init__(self, steps: Steps[R], owner: Owner) -> None:
        self.steps: Final = steps
        self.owner: Final = owner
        self.waiting: bool = False
        self.suspended: bool = False
        """Whether the owner's frames wait."""
        self.on_return: Callable[[R], None] | None = None
        """Called with the result of a generator that had to wait."""
        self.result: R | None = None

    def returned(self, result: R) -> None:
        """Keep the result."""
        self.waiting, self.result = False, result
        if self.on_return is not None:
            self.on_return(result)


class _PendingQuery(NamedTuple):
    receive: Callable[[Any], None]
    timeout: Timer


class GeneratorStepper:
    """Runs generators and keeps their pending queries. `timeout`: seconds until a query without an answer fails."""

    def __init__(
        self, schedule: Schedule, outbox: Outbox, mailboxes: Mailboxes, timeout: float, *, external: bool
    ) -> None:
        self.external: Final = external
        """Whether a backend outside the hub answers the queries."""
        self.late: int = 0
        """Number of answers that came after the timeout."""
        self._schedule = schedule
        self._outbox = outbox
        self._mailboxes = mailboxes
        self._timeout = timeout
        self._local: dict[type[Any], Callable[[Any], Any]] = {}
        self._pending: dict[int, _PendingQuery] = {}
        self._numbers = count(1)

    def register_local(self, kind: type[Query[T]], answer: Callable[[Any], T]) -> None:
        """Register the function that answers queries of this kind when there is no external backend."""
        self._local[kind] = answer

    def answer_locally(self, query: Query[T]) -> T:
        """Return the hub's own answer to a query."""
        return self._local[type(query)](query)

    # --- generators ---

    def run(self, steps: Steps[R], owner: Owner = None) -> Task[R]:
        """Start a generator and run it until it waits or returns."""
        task = Task(steps, owner)
        self._resume(task, None)
        return task

    def _resume(self, task: Task[Any], value: Any) -> None:
        task.waiting = False
        try:
            if _has_ended(task.owner):
                task.steps.close()
            else:
                self._step(task, value)
        finally:
            if task.waiting and not task.suspended:
                task.suspended = True
                self._mailboxes.suspend(task.owner)
            elif task.suspended and not task.waiting:
                task.suspended = False
                self._mailboxes.resume(task.owner)

    def _step(self, task: Task[Any], value: Any) -> None:
        """Resume a generator with this value, and with local answers as long as it can continue."""
        try:
            while True:
                wait = task.steps.send(value)
                if isinstance(wait, Sleep):
                    task.waiting = True
                    self._schedule.at(self._outbox.now.mono + wait.seconds, lambda: self._resume(task, None))
                    return
                if self.external and wait:
                    task.waiting = True
                    self._query(task, wait)
                    return
                value = [self.answer_locally(query) for query in wait]
        except StopIteration as end:
            task.returned(end.value)

    # --- queries to the backend ---

    def _query(self, task: Task[Any], queries: tuple[Query[Any], ...]) -> None:
        """Send queries to the backend; resume the generator when all of them have been answered."""
        answers: list[Any] = [None] * len(queries)
        missing = set(range(len(queries)))

        def receive(index: int, answer: Answer) -> None:
            answers[index] = answer
            missing.discard(index)
            if not missing:
                self._resume(task, answers)

        for index, query in enumerate(queries):
            self._send(query, lambda answer, index=index: receive(index, answer))

    def _send(self, query: Query[Any], receive: Callable[[Any], None]) -> None:
        number = next(self._numbers)
        at = self._outbox.now.mono + self._timeout
        timeout = self._schedule.at(at, lambda: self.answered(number, QueryError.BUSY))
        self._pending[number] = _PendingQuery(receive, timeout)
        self._outbox.effects.append(SendQuery(number, query))

    def answered(self, number: int, answer: Answer) -> None:
        """Handle the answer to a query; dropped when the query has already timed out."""
        pending = self._pending.pop(number, None)
        if pending is None:
            self.late += 1
            return
        pending.timeout.cancel()
        pending.receive(answer)


def _has_ended(owner: Owner) -> bool:
    match owner:
        case Peer():
            return owner.closed
        case ServerChannel():
            return not owner.open
        case None:
            return False
