"""Drive a session by hand under virtual time: frames it sends are collected, frames it receives are passed in.

    harness = SessionHarness()
    joined = harness.call(harness.session.open)
    harness.accept()
    ...
    assert harness.outcome(joined) is None

The harness does not simulate a server; `linked` connects a session to the local server's hub.
"""

import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

from supawire.core.codec import CODECS
from supawire.core.effects import (
    Connect,
    Deliver,
    Disconnect,
    Effect,
    FetchToken,
    Settle,
    Ticket,
    Transmit,
)
from supawire.core.fallback import Cause
from supawire.core.frames import Frame
from supawire.core.session import Session
from supawire.errors import RealtimeError
from supawire.events import Instant
from supawire.options import ChannelOptions, Secret, SessionOptions
from supawire.testing.virtual import VirtualClock

R = TypeVar("R")

NOT_YET: Any = object()
"""The outcome of a ticket that is not resolved."""


class SessionHarness:
    """Records a session's effects instead of performing them.

    Override the `on_…` methods to connect it to something.
    """

    def __init__(
        self,
        options: SessionOptions | None = None,
        *,
        seed: int = 0,
        token: str | None = None,
        clock: VirtualClock | None = None,
    ) -> None:
        self.options: SessionOptions = options or SessionOptions()
        self.clock: VirtualClock = clock or VirtualClock()
        secret = Secret(token) if token is not None else None
        self.session: Final = Session(self.options, random=random.Random(seed), token=secret, strict=True)
        self.codec: Final = CODECS[self.options.protocol]
        self.effects: list[Effect] = []
        self.outcomes: dict[Ticket, Any] = {}
        self._generation = 0
        self._answered = 0

    @property
    def now(self) -> Instant:
        """The virtual time."""
        return self.clock.now

    # --- commands

    def call(self, command: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        """Call a command or input of the session with the current time, and perform the resulting effects."""
        result = command(*args, now=self.now, **kwargs)
        self.pump()
        return result

    def channel(self, topic: str = "room", **options: Any) -> str:
        """Create a channel and return its full topic."""
        full = f"realtime:{topic}"
        self.session.channel(full, ChannelOptions(**options))
        return full

    def accept(self, *, clock_offset: float | None = 0.0) -> None:
        """Let the newest connection attempt succeed.

        `clock_offset`: seconds by which the server's clock is ahead of ours.
        """
        self.call(self.session.transport_opened, self._generation, clock_offset=clock_offset)

    def drop(self, code: int | None = None, **cause: Any) -> None:
        """End the newest connection or attempt."""
        self.call(self.session.transport_closed, self._generation, Cause(code=code, **cause))

    def receive(
        self, topic: str, event: str, payload: Any, *, ref: str | None = None, join_ref: str | None = None
    ) -> None:
        """Pass a text frame to the session."""
        self.receive_raw(self.codec.encode(join_ref, ref, topic, event, payload))

    def receive_raw(self, data: bytes, *, binary: bool = False) -> None:
        """Pass any frame to the session."""
        delivery = self.session.receiver(self._generation).receive(self._generation, data, binary, self.now)
        if delivery is not None:
            listeners, event = delivery
            for listener in listeners:
                listener(event)
        self.pump()

    def reply(self, frame: Frame, response: Any = None, *, status: str = "ok") -> None:
        """Answer a push of the session."""
        body: dict[str, Any] = {"status": status, "response": {} if response is None else response}
        self.receive(frame.topic, "phx_reply", body, ref=frame.ref, join_ref=frame.join_ref)

    def run_for(self, seconds: float) -> None:
        """Let time pass, deadline by deadline."""
        end = self.now.mono + seconds
        while (deadline := self.session.next_deadline) is not None and deadline <= end:
            self.clock.advance_to(deadline)
            self.call(self.session.tick)
        self.clock.advance_to(end)

    # --- inspection

    def outcome(self, ticket: Ticket | None) -> Any:
        """Return the result of a ticket; `NOT_YET` if it is not resolved."""
        assert ticket is not None, "no ticket was created"
        return self.outcomes.get(ticket, NOT_YET)

    def sent(self, event: str | None = None) -> list[Frame]:
        """Return the text frames sent so far, all or those of one event."""
        data = [effect.data for effect in self.effects if isinstance(effect, Transmit) and not effect.binary]
        every = [self.codec.plain(one) for one in data]
        return [frame for frame in every if event in (None, frame.event)]

    def new_frames(self, event: str | None = None) -> list[Frame]:
        """Return the text frames sent since the last call of this method."""
        frames = self.sent()
        fresh, self._answered = frames[self._answered :], len(frames)
        return [frame for frame in fresh if event in (None, frame.event)]

    def reports(self, kind: type[R]) -> list[R]:
        """Return the reports of this class."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    # --- effects

    def pump(self) -> None:
        """Perform the pending effects."""
        while (effect := self.session.next_effect()) is not None:
            self.effects.append(effect)
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        """Perform one effect."""
        match effect:
            case Connect(generation):
                self._generation = generation
                self.on_connect(generation)
            case Transmit():
                self.on_transmit(effect)
            case Disconnect():
                self.on_disconnect(effect)
            case Deliver(listeners, events):
                for event in events:
                    for listener in listeners:
                        listener(event)
            case Settle(ticket, outcome):
                assert ticket not in self.outcomes, f"{ticket} is settled twice"
                self.outcomes[ticket] = outcome
            case FetchToken(number):
                self.on_fetch_token(number)
            case _:
                self.on_other(effect)

    def on_connect(self, generation: int) -> None:
        """Called when the session needs a socket."""

    def on_transmit(self, effect: Transmit) -> None:
        """Called when the session sends a frame."""

    def on_disconnect(self, effect: Disconnect) -> None:
        """Called when the session closes the socket."""

    def on_fetch_token(self, number: int) -> None:
        """Called when the session needs a token."""

    def on_other(self, effect: Effect) -> None:
        """Called for any other effect."""


def error_of(outcome: Any) -> RealtimeError:
    """Return an outcome that is an error; fail if it is not."""
    assert isinstance(outcome, RealtimeError), f"settled with {outcome!r}"
    return outcome
