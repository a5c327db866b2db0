"""A session under virtual time for each test."""

from collections.abc import Callable
from typing import Any

import pytest

from supawire.core.listeners import Listener
from supawire.options import SessionOptions
from supawire.selectors import Selector
from supawire.testing.pilot import Pilot


class Story(Pilot):
    """A pilot with the moves that many stories begin with."""

    def open(self) -> None:
        """Connect."""
        self.do(self.session.open)
        self.accept()

    def collect(self, topic: str, *selectors: Selector[Any]) -> list[Any]:
        """Listen; the events that arrive."""
        heard: list[Any] = []
        self.do(self.session.listen, topic, Listener(selectors, heard.append))
        return heard

    def join(self, topic: str, response: Any = None, **waiting: Any) -> Any:
        """Ask to join and let the server say ok; the ticket."""
        ticket = self.do(self.session.join, topic, **waiting)
        self.answer_join(response)
        return ticket

    def answer_join(self, response: Any = None) -> None:
        """Let the server say ok to the newest join, echoing its bindings with ids 100, 101, …"""
        frame = self.sent("phx_join")[-1]
        wanted = frame.payload["config"]["postgres_changes"]
        echoed = [{**binding, "id": 100 + place} for place, binding in enumerate(wanted)]
        self.reply(frame, {"postgres_changes": echoed} if response is None else response)

    def refuse_join(self, reason: str) -> None:
        """Let the server say no to the newest join."""
        self.reply(self.sent("phx_join")[-1], {"reason": reason}, status="error")


@pytest.fixture
def story() -> Story:
    """A session of version 2.0.0 with the default options."""
    return Story()


@pytest.fixture
def make_story() -> Callable[..., Story]:
    """A session with options."""

    def make(*, token: str | None = None, seed: int = 0, **options: Any) -> Story:
        return Story(SessionOptions(**options), token=token, seed=seed)

    return make
