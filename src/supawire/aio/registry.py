"""Who listens on this client, so that what ends is told and what is unreferenced is forgotten.

Nothing here keeps an iterator alive: it holds the buffer that the iterator reads, and the iterator's finalizer, which
may run in any thread and in the middle of anything, only asks the event loop to forget it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from supawire._brief import joined
from supawire.core.frames import PREFIX
from supawire.core.listeners import Listener
from supawire.core.session import Session
from supawire.selectors import ChangesSelector, ModelSelector, Selector
from supawire.types import Instant

Measured = Callable[[int | None], None]


class Kept(Protocol):
    """What events of a listener wait in."""

    limit: int

    @property
    def dropped(self) -> int:
        """How many events had no room."""
        ...

    def wake(self) -> None:
        """Let a consumer that waits look again."""
        ...

    def weigh(self) -> None:
        """See to it that what waits has not too many bytes."""
        ...

    def close(self) -> None:
        """The consumer is gone."""
        ...


class Registration:
    """One listener of a channel, or, with topic None, of the client."""

    __slots__ = ("_registry", "buffer", "listener", "stop", "topic")

    def __init__(
        self, registry: "Registry", topic: str | None, selectors: tuple[Selector[Any], ...],
        deliver: Callable[[Any], None], buffer: Kept | None, stop: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self._registry = registry
        self.topic: Final = topic
        self.listener: Final = Listener(selectors, deliver)
        self.buffer: Final = buffer
        self.stop: Final = stop
        """Stops what feeds a handler; None for an iterator, which looks for itself."""

    @property
    def is_iterator(self) -> bool:
        """Whether it is an iterator, not a handler."""
        return self.buffer is not None and self.stop is None

    @property
    def wanted(self) -> str:
        """What it receives and where, for people to read."""
        if self.topic is None:
            return "status() and gaps() of the client"
        return f"{joined(self.listener.selectors)} on {self.topic.removeprefix(PREFIX)!r}"

    @property
    def depends_on_changes(self) -> bool:
        """Whether changes are among its events; a listener without selectors is that of a mirror."""
        return not self.listener.selectors or any(is_of_changes(each) for each in self.listener.selectors)

    def cancel(self) -> None:
        """Receive nothing more; twice is once."""
        self._registry.remove(self)

    def cancel_soon(self, then: Callable[[], None]) -> None:
        """The same from any thread, and from a finalizer; then call this on the event loop."""
        self._registry.remove_soon(self, then)


def is_of_changes(selector: Selector[Any]) -> bool:
    """Whether this selector is of changes, with a model or without."""
    return isinstance(selector.plain if isinstance(selector, ModelSelector) else selector, ChangesSelector)


class Registry:
    """All listeners of one client. `measured` is told the smallest buffer among them, None when there is none."""

    __slots__ = ("_bounded", "_loop", "_measured", "_registrations", "_session")

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop, measured: Measured) -> None:
        self._session = session
        self._loop = loop
        self._measured = measured
        self._registrations: dict[Registration, None] = {}
        self._bounded: dict[Registration, Kept] = {}
        """Those whose events wait somewhere."""

    def add(
        self, topic: str | None, selectors: tuple[Selector[Any], ...], deliver: Callable[[Any], None],
        buffer: Kept | None, now: Instant, stop: Callable[[], None] | None = None,
    ) -> Registration:  # fmt: skip
        """Listen from now on."""
        registration = Registration(self, topic, selectors, deliver, buffer, stop)
        if topic is None:
            self._session.watch(deliver)
        else:
            self._session.listen(topic, registration.listener, now)
        self._registrations[registration] = None
        if buffer is not None:
            self._bounded[registration] = buffer
            self._measure()
        return registration

    def remove(self, registration: Registration) -> None:
        """No longer."""
        if self._registrations.pop(registration, registration) is registration:
            return
        if registration.topic is None:
            self._session.unwatch(registration.listener.deliver)
        else:
            self._session.unlisten(registration.topic, registration.listener)
        self._let_go(registration)

    def remove_all(self, topic: str) -> None:
        """The channel is removed: its handlers are called no more. Its iterators read what they have, then end."""
        for registration in [known for known in self._registrations if known.topic == topic]:
            if registration.is_iterator:
                continue
            del self._registrations[registration]
            self._let_go(registration)

    def _let_go(self, registration: Registration) -> None:
        if registration.stop is not None:
            registration.stop()
        if registration.buffer is not None:
            registration.buffer.close()
            del self._bounded[registration]
            self._measure()

    def remove_soon(self, registration: Registration, then: Callable[[], None]) -> None:
        """Remove it and call `then`, on the event loop; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self.remove, registration)
            self._loop.call_soon_threadsafe(then)
        except RuntimeError:
            return  # the loop was closed, and everything with it

    def holds(self, registration: Registration) -> bool:
        """Whether it was not removed."""
        return registration in self._registrations

    def hears(self, topic: str, deliver: Callable[[Any], None]) -> bool:
        """Whether this very callable listens on the topic already."""
        channel = self._session.channels.get(topic)
        return channel is not None and channel.hears(deliver)

    def ended(self, topic: str | None) -> int:
        """The channel, or with None the client, delivers nothing more for now: iterators look why. Their number."""
        buffers = [kept for known, kept in self._bounded.items() if known.is_iterator and topic in (None, known.topic)]
        for buffer in buffers:
            buffer.wake()
        return len(buffers)

    def refused(self, topic: str) -> int:
        """Wake the iterators of this topic that wait for changes, which will never come; return their number."""
        known = [one for one in self._bounded if one.topic == topic and one.is_iterator and one.depends_on_changes]
        for registration in known:
            self._bounded[registration].wake()
        return len(known)

    def weigh(self) -> None:
        """Large frames have come: see to it that no buffer has too many bytes."""
        for buffer in self._bounded.values():
            buffer.weigh()

    @property
    def dropped(self) -> int:
        """Events that had no room, of the listeners that are there."""
        return sum(buffer.dropped for buffer in self._bounded.values())

    def _measure(self) -> None:
        self._measured(min((buffer.limit for buffer in self._bounded.values()), default=None))
