"""The same world with a server that has to ask for everything, and waits for the answers."""

import random
from dataclasses import replace
from typing import Any

from supawire.server.desk import HubOptions
from supawire.server.effects import Ask, Effect
from supawire.server.questions import Answer, Messages, Permissions
from supawire.testing.linked import World

SLOWEST = 0.5
"""Seconds until an answer, at most."""


class AskingWorld(World):
    """A world whose hub has a database: what the policy and the store know is answered after a while, in any order."""

    def __init__(self, *, seed: int, hub: HubOptions) -> None:
        super().__init__(seed=seed, hub=replace(hub, database=True))
        self.asked = 0
        self._luck = random.Random(seed + 2)

    def outside(self, effect: Effect) -> None:
        """Answer questions."""
        if isinstance(effect, Ask):
            self.asked += 1
            wait = self._luck.choice((0.0, 0.001, SLOWEST * self._luck.random()))
            self.later(self.clock.now.mono + wait, lambda: self._answer(effect.number, effect.question))

    def _answer(self, number: int, question: Any) -> None:
        answer: Answer = None
        if isinstance(question, Permissions):
            answer = self.hub._desk.rights._decide(question)
        elif isinstance(question, Messages):
            answer = self.hub._broadcasts._stored(question)
        self.hub.answered(number, answer, self.clock.now)
        self.pump()
