"""The hot lane's last part: frames of one connection go to their listeners (architecture: Two walks).

What is done per frame: one call of the core, and the listeners. Everything else is per batch: the clock is read when
the first frame of a batch comes, and `end_batch` runs when no more frames wait, before the event loop has its turn.
No task, future, timer or closure is made for a message.
"""

from typing import TYPE_CHECKING, Any, Final

from supawire.core.receive import HEAVY, Delivery
from supawire.types import Instant

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

BURST: Final = 256
"""The most frames that are taken before the event loop gets its turn."""


WEIGHED: Final = 16_000_000
"""Bytes of heavy frames after which the buffers are weighed."""


class Lane:
    """Takes the frames of one generation; a `Sink` of the transport."""

    def __init__(self, driver: "Driver", generation: int) -> None:
        self._driver = driver
        self._generation = generation
        self._receive = driver.session.receive
        self._receive_heavy = driver.session.receive_heavy
        self._heavy = 0
        """Bytes of heavy frames since buffers were weighed."""
        self._effects = driver.session.effects
        self._gone = driver.registry.gone
        self._now: Instant | None = None
        self._ordered = False
        """Whether the batch has frames that are no data: the core may want something, an effect or a deadline."""
        self.burst = BURST
        """Never more than the smallest buffer takes, or a consumer that is fast would overflow all the same."""

    def frame(self, data: bytes, binary: bool, /) -> None:  # noqa: C901  one walk, with as few calls as can be
        """Take one frame."""
        now = self._now
        if now is None:
            now = self._begin_batch()
        try:
            if len(data) > HEAVY:
                delivery = self._take_heavy(data, binary, now)
            else:
                delivery = self._receive(self._generation, data, binary, now)
        except Exception as bug:  # noqa: BLE001  of ours: the client ends with it (R2)
            self._driver.fail(bug)
            return
        if delivery is None:
            self._ordered = True
            return
        if self._effects:  # of earlier frames: they come first
            self._driver.pump()
        listeners, event = delivery
        gone = self._gone
        for listener in listeners:
            if gone and self._driver.registry.is_gone(listener):
                continue
            try:
                given = listener(event)
            except BaseException as error:  # noqa: BLE001  user code ends nothing (R1)
                self._driver.inline_raised(listener, error, event)
            else:
                if given is not None and given is not True:  # buffers say True
                    self._driver.inline_returned(listener, given, event)

    def _take_heavy(self, data: bytes, binary: bool, now: Instant) -> Delivery | None:
        """Take a heavy frame; now and then buffers are weighed, which costs nothing beside what was read since."""
        self._heavy += len(data)
        if self._heavy > WEIGHED:
            self._heavy = 0
            self._driver.registry.weigh()
        return self._receive_heavy(self._generation, data, binary, now)

    def _begin_batch(self) -> Instant:
        self._now = now = self._driver.now()
        return now

    def drained(self) -> None:
        """No more frames for now: the batch is over."""
        began, self._now = self._now, None
        ordered, self._ordered = self._ordered, False
        if began is not None:
            self._driver.end_batch(began, ordered=ordered)


class TappedLane(Lane):
    """The same with the user's `on_frame`."""

    def frame(self, data: bytes, binary: bool, /) -> None:
        """Show the frame, then take it."""
        self._driver.tap("in", data, binary)
        super().frame(data, binary)


def name_topic(event: Any) -> str | None:
    """The topic of an event, for an error's text."""
    return getattr(event, "topic", None)
