"""Who listens on this client, so that what ends is told and what is unreferenced is forgotten.

Nothing here keeps an iterator alive: it holds the buffer that the iterator reads, and the iterator's finalizer, which
may run in any thread and in the middle of anything, only asks the event loop to forget it.
"""

import asyncio
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from supawire._display import joined
from supawire.aio.usercode import dispose
from supawire.core.frames import PREFIX
from supawire.core.listeners import Listener, ModelAdapter
from supawire.core.session import Session
from supawire.events import Instant
from supawire.selectors import ChangesSelector, ModelSelector, Selector

Measured = Callable[[int | None], None]


class BoundedBuffer(Protocol):
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


class Late(Protocol):
    """What runs awaitables that a plain handler returns."""

    def put(self, given: Any, event: Any) -> None:
        """Take what the handler returned for an event."""
        ...

    def cancel(self) -> None:
        """Begin none any more."""
        ...


class Registration:
    """One listener of a channel, or, with topic None, of the client."""

    __slots__ = ("_registry", "buffer", "keeps", "late", "listener", "stop", "topic")

    def __init__(
        self, registry: "Registry", topic: str | None, selectors: tuple[Selector[Any], ...],
        deliver: Callable[[Any], None], buffer: BoundedBuffer | None, stop: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self._registry = registry
        self.topic: Final = topic
        self.listener: Final = Listener(selectors, deliver)
        self.buffer: BoundedBuffer | None = buffer
        self.keeps: object = None
        """The client, which a handler keeps from being collected: it still does something for its user."""
        self.late: Callable[[], tuple[Late, BoundedBuffer]] | None = None
        """Makes what runs awaitables that a plain handler returns, and what they wait in."""
        self.stop: Callable[[], None] | None = stop
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


def _nobody() -> None: ...


def _handler_of(listener: Callable[[Any], object]) -> Callable[[Any], object]:
    return listener.deliver if isinstance(listener, ModelAdapter) else listener


class Registry:
    """All listeners of one client. `measured` is told the smallest buffer among them, None when there is none."""

    __slots__ = ("_by_topic", "_late", "_limits", "_loop", "_measured", "_session", "_smallest", "client", "gone")

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop, measured: Measured) -> None:
        self._session = session
        self._loop = loop
        self._measured = measured
        self._by_topic: dict[str | None, dict[Registration, None]] = {}
        self._limits: dict[int, int] = {}
        """How many buffers have each limit; a limit that is gone stays, with 0, as long as it is in `_smallest`."""
        self._smallest: list[int] = []
        """The limits, as a heap."""
        self.client: Callable[[], object] = _nobody
        """Gives the client as its user sees it, None when it was collected."""
        self._late: dict[int, Late] = {}
        """What runs awaitables that plain handlers returned, by the identity of the handler."""
        self.gone: Final[dict[int, Callable[[Any], None]]] = {}
        """Plain handlers that were removed in this turn of the event loop: an event on its way to them is dropped."""

    def add(
        self, topic: str | None, selectors: tuple[Selector[Any], ...], deliver: Callable[[Any], None],
        buffer: BoundedBuffer | None, now: Instant, stop: Callable[[], None] | None = None, heartbeats: bool = False,
    ) -> Registration:  # fmt: skip
        """Listen from now on."""
        registration = Registration(self, topic, selectors, deliver, buffer, stop)
        if not registration.is_iterator:
            registration.keeps = self.client()
        self.gone.pop(id(deliver), None)
        if topic is None:
            self._session.watch(deliver, heartbeats=heartbeats)
        else:
            self._session.listen(topic, registration.listener, now)
        self._by_topic.setdefault(topic, {})[registration] = None
        if buffer is not None:
            self._take_limit(buffer.limit)
        return registration

    def remove(self, registration: Registration) -> None:
        """No longer."""
        if not self.holds(registration):
            return
        if registration.topic is None:
            self._session.unwatch(registration.listener.deliver)
        else:
            self._session.unlisten(registration.topic, registration.listener)
        self._let_go(registration)

    def remove_all(self, topic: str) -> None:
        """The channel is removed: its handlers are called no more. Its iterators read what they have, then end."""
        for registration in list(self._by_topic.get(topic, ())):
            if not registration.is_iterator:
                self._let_go(registration)

    def _let_go(self, registration: Registration) -> None:
        known = self._by_topic[registration.topic]
        del known[registration]
        if not known:
            del self._by_topic[registration.topic]
        if registration.stop is not None:
            registration.stop()
        if registration.buffer is not None:
            registration.buffer.close()
            self._drop_limit(registration.buffer.limit)
        if registration.late is not None:
            deliver = registration.listener.deliver
            self._late.pop(id(deliver), None)
            if not self.gone:
                self._loop.call_soon(self.gone.clear)
            self.gone[id(deliver)] = deliver

    def is_gone(self, listener: Callable[[Any], object]) -> bool:
        """Whether this plain handler was removed in this turn of the event loop."""
        return id(_handler_of(listener)) in self.gone

    def run(self, listener: Callable[[Any], object], given: Any, event: Any) -> None:
        """Run what a plain handler returned for an event, after what it returned before."""
        handler = _handler_of(listener)
        late = self._late.get(id(handler))
        if late is None:
            registrations = (one for known in self._by_topic.values() for one in known)
            known = next((one for one in registrations if one.listener.deliver is handler), None)
            if known is None or known.late is None:  # it was cancelled by its own call
                dispose(given)
                return
            late, buffer = known.late()
            self._late[id(handler)], known.stop, known.buffer = late, late.cancel, buffer
            self._take_limit(buffer.limit)
        late.put(given, event)

    def remove_soon(self, registration: Registration, then: Callable[[], None]) -> None:
        """Remove it and call `then`, on the event loop; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self.remove, registration)
            self._loop.call_soon_threadsafe(then)
        except RuntimeError:
            return  # the loop was closed, and everything with it

    def holds(self, registration: Registration) -> bool:
        """Whether it was not removed."""
        return registration in self._by_topic.get(registration.topic, ())

    def hears(self, topic: str, deliver: Callable[[Any], None]) -> bool:
        """Whether this very callable listens on the topic already."""
        channel = self._session.channels.get(topic)
        return channel is not None and channel.has_listener(deliver)

    def ended(self, topic: str | None) -> int:
        """The channel, or with None the client, delivers nothing more for now: iterators look why. Their number."""
        topics = list(self._by_topic) if topic is None else [topic]
        return sum(_woken(self._by_topic.get(each, ())) for each in topics)

    def refused(self, topic: str) -> int:
        """Wake the iterators of this topic that wait for changes, which will never come; return their number."""
        return _woken(one for one in self._by_topic.get(topic, ()) if one.depends_on_changes)

    def weigh(self) -> None:
        """Large frames have come: see to it that no buffer has too many bytes."""
        for buffer in self._buffers():
            buffer.weigh()

    @property
    def dropped(self) -> int:
        """Events that had no room, of the listeners that are there."""
        return sum(buffer.dropped for buffer in self._buffers())

    def _buffers(self) -> list[BoundedBuffer]:
        """What events of all listeners wait in."""
        return [one.buffer for known in self._by_topic.values() for one in known if one.buffer is not None]

    def _take_limit(self, limit: int) -> None:
        if limit not in self._limits:
            heappush(self._smallest, limit)
        self._limits[limit] = self._limits.get(limit, 0) + 1
        self._measured(self._smallest[0])

    def _drop_limit(self, limit: int) -> None:
        self._limits[limit] -= 1
        while self._smallest and not self._limits[self._smallest[0]]:
            del self._limits[heappop(self._smallest)]
        self._measured(self._smallest[0] if self._smallest else None)


def _woken(registrations: Iterable[Registration]) -> int:
    """Let the iterators among these look again; their number."""
    buffers = [one.buffer for one in registrations if one.buffer is not None and one.is_iterator]
    for buffer in buffers:
        buffer.wake()
    return len(buffers)
