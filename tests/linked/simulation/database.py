"""The linked world with a server whose database answers queries after a delay."""

import random
from dataclasses import replace
from typing import Any

from supawire.server.effects import Effect, SendQuery
from supawire.server.hub_options import HubOptions
from supawire.server.queries import Answer, MessagesQuery, PermissionsQuery, QueryError, SubscribeQuery
from supawire.testing.linked import World

SLOWEST = 0.5
"""Maximum seconds until an answer."""

FAILURE_RATES = 0.0, 0.5
"""The share of subscriptions that fail, by schedule; the hub retries each after 5 s."""


class DatabaseWorld(World):
    """A world whose hub has a database.

    Policy and store answer after a delay, in any order. Only subscriptions fail, and only those of the client under
    test.
    """

    def __init__(self, *, seed: int, hub: HubOptions) -> None:
        super().__init__(seed=seed, hub=replace(hub, database=True))
        self.query_count = 0
        self._delays = random.Random(seed + 2)
        self._failures = random.Random(seed + 9)
        self._failure_rate = self._failures.choice(FAILURE_RATES)

    def healed(self) -> None:
        """End the failures of the database."""
        self._failure_rate = 0.0

    def outside(self, effect: Effect) -> None:
        """Answer queries."""
        if isinstance(effect, SendQuery):
            self.query_count += 1
            wait = self._delays.choice((0.0, 0.001, SLOWEST * self._delays.random()))
            self.later(self.clock.now.mono + wait, lambda: self._answer(effect.number, effect.query))

    def _answer(self, number: int, request: Any) -> None:
        answer: Answer = None
        if isinstance(request, PermissionsQuery | MessagesQuery):
            answer = self.hub.answer_locally(request)
        elif isinstance(request, SubscribeQuery) and self._failures.random() < self._failure_rate:
            answer = QueryError.BUSY
        self.hub.answered(number, answer, self.clock.now)
        self.pump()
