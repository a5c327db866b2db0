"""`on()`: a handler becomes a listener (R37, R38)."""

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, Final, cast

from supawire.aio.buffers import make_buffer
from supawire.aio.crossing import crossing
from supawire.aio.driver import Driver
from supawire.aio.feeds import InlineFeed, TaskFeed, ThreadFeed
from supawire.aio.handover import make_handover
from supawire.aio.hooks import is_async
from supawire.aio.registry import Registration
from supawire.aio.reports import described
from supawire.errors import InvalidArgumentError, SlowConsumerError
from supawire.options import check_bool
from supawire.selectors import Selector

_GENERATES: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Subscription:
    """A handler that is registered. It stays until `cancel`, through rejoins and `unsubscribe`."""

    def __init__(self, registration: Registration, handler: object) -> None:
        self._registration = registration
        self._handler = described(handler)

    def __repr__(self) -> str:
        return f"<Subscription of {self._handler} to {self._registration.wanted}>"

    def cancel(self) -> None:
        """Call the handler no more, also for what waits already; twice is once. A call under way is not interrupted."""
        self._registration.cancel()

    @property
    def dropped(self) -> int:
        """How many events had no room behind an async or threaded handler."""
        return self._registration.buffer.dropped if self._registration.buffer is not None else 0


def subscribe(
    driver: Driver, topic: str, selector: Selector[Any], handler: object, *, thread: bool, buffer: int, overflow: str
) -> Subscription:
    """Register a handler. Raises `InvalidArgumentError` for one that cannot be called with one event."""
    checked = check_handler(handler)
    check_bool("thread", thread)
    if overflow == "latest":
        raise InvalidArgumentError("overflow='latest' belongs to listen(), where key= says what replaces what")

    def slow(error: SlowConsumerError) -> None:
        driver.reports.error(error, "handler")

    waits = is_async(checked)
    if waits and thread:
        raise InvalidArgumentError("thread=True is for plain handlers; an async one holds nobody up")
    registry, now = driver.registry, driver.now()
    if thread or driver.blocking:
        handed = make_handover(driver, buffer, overflow, None, slow)
        on_thread = ThreadFeed(driver.dispatch, checked, handed, waits=waits)
        put = crossing((selector,), on_thread.put, driver.loop)
        return Subscription(registry.add(topic, (selector,), put, handed, now, on_thread.cancel), checked)
    kept = make_buffer(buffer, overflow, None, driver.valve, slow)
    if waits:
        feed = TaskFeed(driver, checked, kept)
        return Subscription(registry.add(topic, (selector,), feed.put, kept, now, feed.cancel), checked)
    deliver = partial(checked) if registry.hears(topic, checked) else checked  # twice is twice
    inline = registry.add(topic, (selector,), deliver, None, now)  # nothing waits, but what it may return
    inline.late = lambda: (InlineFeed(driver, checked, kept), kept)
    return Subscription(inline, checked)


def _is_plain(handler: object) -> bool:
    """A function of one argument and nothing else, as most are: `inspect` needs 20 µs for that, half of a join."""
    if not isinstance(handler, FunctionType) or handler.__dict__:
        return False
    code = handler.__code__
    return (code.co_argcount, code.co_kwonlyargcount) == (1, 0) and not code.co_flags & _GENERATES


def check_handler(handler: object) -> Callable[[Any], Any]:
    """The handler, when it can be called with one event."""
    if not callable(handler):
        raise InvalidArgumentError(f"a handler is a function of one event, not {handler!r}")
    checked = cast("Callable[[Any], Any]", handler)
    if _is_plain(checked):
        return checked
    if inspect.isasyncgenfunction(checked) or inspect.isgeneratorfunction(checked):
        raise InvalidArgumentError(
            f"{described(checked)} is a generator function: nothing in it runs when it is called; leave out its yield"
        )
    try:
        signature = inspect.signature(checked)
    except (TypeError, ValueError):
        return checked  # some functions written in C do not say
    try:
        signature.bind(object())
    except TypeError as error:
        raise InvalidArgumentError(
            f"the handler {described(checked)}{signature} cannot be called with one event: {error}"
        ) from error
    return checked
