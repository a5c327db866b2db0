"""Pending queries to the backend (`queries.py`), each with a callback and a timeout.

A query is resolved when it leaves the table of pending queries: by the shell's answer or by the timeout. A later
answer is dropped.
"""

from collections.abc import Callable
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar

from supawire.server.effects import Ask
from supawire.server.outbox import Outbox
from supawire.server.queries import Answer, Query, QueryError
from supawire.server.schedule import Schedule, Timer

T = TypeVar("T")


class _Open(NamedTuple):
    then: Callable[[Any], None]
    deadline: Timer


class PendingQueries:
    """All queries of the hub."""

    def __init__(self, schedule: Schedule, outbox: Outbox, patience: float, *, outside: bool) -> None:
        self.external: Final = outside
        """Whether a backend outside the hub answers the queries."""
        self.trouble: QueryError | None = None
        """The database error last reported by the shell; while it is set, joins are refused."""
        self.late: int = 0
        """Number of answers that came after the timeout."""
        self._schedule = schedule
        self._outbox = outbox
        self._timeout = patience
        self._known: dict[type[Any], Callable[[Any], Any]] = {}
        self._open: dict[int, _Open] = {}
        self._numbers = count(1)

    def register_local(self, kind: type[Query[T]], answer: Callable[[Any], T]) -> None:
        """Register the function that answers queries of this kind when there is no external backend."""
        self._known[kind] = answer

    def ask(self, question: Query[T], then: Callable[[T | QueryError], None]) -> None:
        """Call `then` with the answer: immediately without a backend, else when it arrives or times out."""
        if not self.external:
            then(self._known[type(question)](question))
            return
        number = next(self._numbers)
        at = self._outbox.now.mono + self._timeout
        deadline = self._schedule.at(at, lambda: self.answered(number, QueryError.BUSY))
        self._open[number] = _Open(then, deadline)
        self._outbox.effects.append(Ask(number, question))

    def answered(self, number: int, answer: Answer) -> None:
        """Handle the answer to a query."""
        waiting = self._open.pop(number, None)
        if waiting is None:
            self.late += 1
            return
        waiting.deadline.cancel()
        waiting.then(answer)
