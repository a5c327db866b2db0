"""The registry of all listeners of a client: wakes iterators when their source ends, and forgets unreferenced ones.

The registry does not keep an iterator alive: it holds the iterator's buffer only. The finalizer of an iterator may run
on any thread and at any point, so it only schedules the removal on the event loop.
"""

import asyncio
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from supawire._display import joined
from supawire.aio.callbacks import dispose
from supawire.core.frames import PREFIX
from supawire.core.listeners import Listener, ModelAdapter
from supawire.core.session import Session
from supawire.events import Instant
from supawire.selectors import ChangesSelector, ModelSelector, Selector


class BoundedBuffer(Protocol):
    """The interface of the buffer in which the events of a listener wait."""

    limit: int

    @property
    def dropped(self) -> int:
        """How many events were dropped."""
        ...

    def __len__(self) -> int:
        """Return how many events wait."""
        ...

    def wake(self) -> None:
        """Wake a waiting consumer."""
        ...

    def limit_bytes(self) -> bool:
        """Drop events while they have too many bytes together; return whether they had."""
        ...

    def close(self) -> None:
        """Drop all events, because the consumer is gone."""
        ...


class ReturnedRunner(Protocol):
    """The interface of the runner for awaitables that a plain handler returns."""

    def put(self, result: Any, event: Any) -> None:
        """Add what the handler returned for an event."""
        ...

    def cancel(self) -> None:
        """Start no more of them."""
        ...


class Registration:
    """One listener of a channel or, with topic None, of the client."""

    __slots__ = ("_registry", "buffer", "client", "listener", "make_runner", "stop", "topic")

    def __init__(
        self, registry: "Registry", topic: str | None, selectors: tuple[Selector[Any], ...],
        deliver: Callable[[Any], None], buffer: BoundedBuffer | None, stop: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self._registry = registry
        self.topic: Final = topic
        self.listener: Final = Listener(selectors, deliver)
        self.buffer: BoundedBuffer | None = buffer
        self.client: object = None
        """A reference to the client, so that a client with handlers is not garbage-collected."""
        self.make_runner: Callable[[], tuple[ReturnedRunner, BoundedBuffer]] | None = None
        """Creates the runner for awaitables that a plain handler returns, and its buffer."""
        self.stop: Callable[[], None] | None = stop
        """Stops the runner of a handler; None for an iterator."""

    @property
    def is_iterator(self) -> bool:
        """Whether it is an iterator, not a handler."""
        return self.buffer is not None and self.stop is None

    @property
    def description(self) -> str:
        """A description of what it receives and from where, for messages."""
        if self.topic is None:
            return "status() and gaps() of the client"
        return f"{joined(self.listener.selectors)} on {self.topic.removeprefix(PREFIX)!r}"

    @property
    def depends_on_changes(self) -> bool:
        """Whether it receives changes; a listener without selectors belongs to a mirror."""
        return not self.listener.selectors or any(is_of_changes(each) for each in self.listener.selectors)

    def cancel(self) -> None:
        """Stop receiving; a second call does nothing."""
        self._registry.remove(self)

    def cancel_soon(self, then: Callable[[], None]) -> None:
        """Cancel from any thread or a finalizer; then call `then` on the event loop."""
        self._registry.remove_soon(self, then)


def is_of_changes(selector: Selector[Any]) -> bool:
    """Return whether the selector is for changes, with or without a model."""
    return isinstance(selector.plain if isinstance(selector, ModelSelector) else selector, ChangesSelector)


def _no_client() -> None: ...


def _handler_of(listener: Callable[[Any], object]) -> Callable[[Any], object]:
    return listener.deliver if isinstance(listener, ModelAdapter) else listener


class Registry:
    """All listeners of one client.

    Args: on_smallest_limit: called with the limit of the smallest buffer, or None if there is none.
    """

    __slots__ = (
        "_by_topic",
        "_dropped",
        "_limits",
        "_loop",
        "_on_smallest_limit",
        "_runners",
        "_session",
        "_smallest",
        "client",
        "removed",
    )

    def __init__(
        self, session: Session, loop: asyncio.AbstractEventLoop, on_smallest_limit: Callable[[int | None], None]
    ) -> None:
        self._session = session
        self._loop = loop
        self._on_smallest_limit = on_smallest_limit
        self._by_topic: dict[str | None, dict[Registration, None]] = {}
        self._dropped: dict[str | None, int] = {}
        """How many events were dropped by listeners that were removed; of removed channels under None."""
        self._limits: dict[int, int] = {}
        """The number of buffers by limit; an unused limit stays, with 0, while it is in `_smallest`."""
        self._smallest: list[int] = []
        """The limits, as a heap."""
        self.client: Callable[[], object] = _no_client
        """Returns the client that the user holds, or None after it was garbage-collected."""
        self._runners: dict[int, ReturnedRunner] = {}
        """Runners for awaitables that plain handlers returned, by the id of the handler."""
        self.removed: Final[dict[int, Callable[[Any], None]]] = {}
        """Plain handlers removed in this iteration of the event loop; events still on the way to them are dropped."""

    def add(
        self, topic: str | None, selectors: tuple[Selector[Any], ...], deliver: Callable[[Any], None],
        buffer: BoundedBuffer | None, now: Instant, stop: Callable[[], None] | None = None, heartbeats: bool = False,
    ) -> Registration:  # fmt: skip
        """Register a listener."""
        registration = Registration(self, topic, selectors, deliver, buffer, stop)
        if not registration.is_iterator:
            registration.client = self.client()
        self.removed.pop(id(deliver), None)
        if topic is None:
            self._session.watch(deliver, heartbeats=heartbeats)
        else:
            self._session.listen(topic, registration.listener, now)
        self._by_topic.setdefault(topic, {})[registration] = None
        if buffer is not None:
            self._add_limit(buffer.limit)
        return registration

    def remove(self, registration: Registration) -> None:
        """Unregister a listener; does nothing if it is not registered."""
        if not self.is_registered(registration):
            return
        if registration.topic is None:
            self._session.unwatch(registration.listener.deliver)
        else:
            self._session.unlisten(registration.topic, registration.listener)
        self._forget(registration)

    def remove_all(self, topic: str) -> None:
        """Unregister the handlers of a removed channel. Its iterators return their waiting events, then end."""
        for registration in list(self._by_topic.get(topic, ())):
            if not registration.is_iterator:
                self._forget(registration)
        self._count_dropped(None, self._dropped.pop(topic, 0))

    def _forget(self, registration: Registration) -> None:
        known = self._by_topic[registration.topic]
        del known[registration]
        if not known:
            del self._by_topic[registration.topic]
        if registration.stop is not None:
            registration.stop()
        if registration.buffer is not None:
            self._count_dropped(registration.topic, registration.buffer.dropped)
            registration.buffer.close()
            self._remove_limit(registration.buffer.limit)
        if registration.make_runner is not None:
            deliver = registration.listener.deliver
            self._runners.pop(id(deliver), None)
            if not self.removed:
                self._loop.call_soon(self.removed.clear)
            self.removed[id(deliver)] = deliver

    def was_removed(self, listener: Callable[[Any], object]) -> bool:
        """Return whether this plain handler was removed in this iteration of the event loop."""
        return id(_handler_of(listener)) in self.removed

    def run(self, listener: Callable[[Any], object], result: Any, event: Any) -> None:
        """Run the awaitable that a plain handler returned, after those that it returned before."""
        handler = _handler_of(listener)
        runner = self._runners.get(id(handler))
        if runner is None:
            registrations = (one for known in self._by_topic.values() for one in known)
            known = next((one for one in registrations if one.listener.deliver is handler), None)
            if known is None or known.make_runner is None:  # the handler cancelled itself
                dispose(result)
                return
            runner, buffer = known.make_runner()
            self._runners[id(handler)], known.stop, known.buffer = runner, runner.cancel, buffer
            self._add_limit(buffer.limit)
        runner.put(result, event)

    def remove_soon(self, registration: Registration, then: Callable[[], None]) -> None:
        """Schedule the removal and then `then` on the event loop; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self.remove, registration)
            self._loop.call_soon_threadsafe(then)
        except RuntimeError:
            return  # the loop is closed

    def is_registered(self, registration: Registration) -> bool:
        """Return whether the listener is still registered."""
        return registration in self._by_topic.get(registration.topic, ())

    def has_handler(self, topic: str, deliver: Callable[[Any], None]) -> bool:
        """Return whether this callable is already a listener of the topic."""
        channel = self._session.channels.get(topic)
        return channel is not None and channel.has_listener(deliver)

    def wake_iterators(self, topic: str | None) -> int:
        """Wake the iterators of a channel (None: of the client) that delivers no more events; return their number."""
        topics = list(self._by_topic) if topic is None else [topic]
        return sum(_wake_iterators(self._by_topic.get(each, ())) for each in topics)

    def wake_change_iterators(self, topic: str) -> int:
        """Wake the iterators of this topic that wait for changes, which can never arrive; return their number."""
        return _wake_iterators(one for one in self._by_topic.get(topic, ()) if one.depends_on_changes)

    def __len__(self) -> int:
        """Return the number of registered listeners."""
        return sum(len(known) for known in self._by_topic.values())

    def limit_bytes(self) -> None:
        """Limit the bytes in all buffers; called after large frames."""
        for buffer in self._buffers():
            buffer.limit_bytes()

    def overflow(self, topic: str | None = None) -> tuple[int, int]:
        """Return how many events wait, and how many were dropped so far: of this topic, or of all. From any thread."""
        buffers = self._buffers(topic)
        before = sum(list(self._dropped.values())) if topic is None else self._dropped.get(topic, 0)
        return sum(map(len, buffers)), before + sum(buffer.dropped for buffer in buffers)

    def _count_dropped(self, topic: str | None, dropped: int) -> None:
        """Keep the count of a listener that is removed, so that the sum never falls."""
        if dropped:
            key = topic if topic in self._session.channels else None
            self._dropped[key] = self._dropped.get(key, 0) + dropped

    def _buffers(self, topic: str | None = None) -> list[BoundedBuffer]:
        """Return the buffers of the listeners of a topic, or of all. From any thread: `list` copies at once."""
        known = list(self._by_topic.values()) if topic is None else [self._by_topic.get(topic, {})]
        return [one.buffer for listeners in known for one in list(listeners) if one.buffer is not None]

    def _add_limit(self, limit: int) -> None:
        if limit not in self._limits:
            heappush(self._smallest, limit)
        self._limits[limit] = self._limits.get(limit, 0) + 1
        self._on_smallest_limit(self._smallest[0])

    def _remove_limit(self, limit: int) -> None:
        self._limits[limit] -= 1
        while self._smallest and not self._limits[self._smallest[0]]:
            del self._limits[heappop(self._smallest)]
        self._on_smallest_limit(self._smallest[0] if self._smallest else None)


def _wake_iterators(registrations: Iterable[Registration]) -> int:
    """Wake the iterators among these registrations; return their number."""
    buffers = [one.buffer for one in registrations if one.buffer is not None and one.is_iterator]
    for buffer in buffers:
        buffer.wake()
    return len(buffers)
