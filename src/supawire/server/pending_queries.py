"""Questions on their way (`questions.py`): who waits for which answer, and for how long.

Leaving the table of open questions is being answered: by the shell, or by the deadline. An answer that comes later
finds nobody.
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
    """Every question of the hub goes through here."""

    def __init__(self, schedule: Schedule, outbox: Outbox, patience: float, *, outside: bool) -> None:
        self.external: Final = outside
        """Whether somebody else knows the answers."""
        self.trouble: QueryError | None = None
        """What is wrong with the database, as far as the shell has said: then nobody joins (protocol §3.1)."""
        self.late: int = 0
        """Answers that came when nobody waited for them any more."""
        self._schedule = schedule
        self._outbox = outbox
        self._timeout = patience
        self._known: dict[type[Any], Callable[[Any], Any]] = {}
        self._open: dict[int, _Open] = {}
        self._numbers = count(1)

    def register_local(self, kind: type[Query[T]], answer: Callable[[Any], T]) -> None:
        """Questions of this kind can be answered by this function, unless they go outside."""
        self._known[kind] = answer

    def ask(self, question: Query[T], then: Callable[[T | QueryError], None]) -> None:
        """Call `then` with the answer: at once where it is known, else when it comes or is given up."""
        if not self.external:
            then(self._known[type(question)](question))
            return
        number = next(self._numbers)
        at = self._outbox.now.mono + self._timeout
        deadline = self._schedule.at(at, lambda: self.answered(number, QueryError.BUSY))
        self._open[number] = _Open(then, deadline)
        self._outbox.effects.append(Ask(number, question))

    def answered(self, number: int, answer: Answer) -> None:
        """The answer to a question."""
        waiting = self._open.pop(number, None)
        if waiting is None:
            self.late += 1
            return
        waiting.deadline.cancel()
        waiting.then(answer)
