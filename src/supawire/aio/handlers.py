"""`on()`: a handler becomes a listener (R37, R38)."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from supawire.aio.buffers import Buffer, make_buffer
from supawire.aio.dispatch import TaskFeed, ThreadFeed
from supawire.aio.driver import Driver
from supawire.aio.hooks import is_async
from supawire.aio.registry import Registration
from supawire.aio.reports import described
from supawire.aio.valve import ThreadValve
from supawire.errors import InvalidArgumentError, SlowConsumerError
from supawire.options import check_bool
from supawire.selectors import Selector


class Subscription:
    """A handler that is registered. It stays until `cancel`, through rejoins and `unsubscribe`."""

    def __init__(self, registration: Registration) -> None:
        self._registration = registration

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

    if is_async(checked):
        if thread:
            raise InvalidArgumentError("thread=True is for plain handlers; an async one has its own task already")
        return _fed(driver, topic, selector, checked, make_buffer(buffer, overflow, None, driver.valve, slow), None)
    if thread:
        valve = ThreadValve(driver.valve, driver.loop)
        return _fed(driver, topic, selector, checked, make_buffer(buffer, overflow, None, valve, slow), driver.dispatch)
    make_buffer(buffer, overflow, None, driver.valve)  # for its checks: nothing waits behind a handler that runs inline
    deliver = partial(checked) if driver.registry.hears(topic, checked) else checked  # twice is twice
    return Subscription(driver.registry.add(topic, (selector,), deliver, None, driver.now()))


def _fed(
    driver: Driver, topic: str, selector: Selector[Any], handler: Callable[[Any], Any], buffer: Buffer, dispatch: Any
) -> Subscription:
    feed = TaskFeed(driver, handler, buffer) if dispatch is None else ThreadFeed(dispatch, handler, buffer)
    return Subscription(driver.registry.add(topic, (selector,), feed.put, buffer, driver.now(), feed.cancel))


def check_handler(handler: object) -> Callable[[Any], Any]:
    """The handler, when it can be called with one event."""
    if not callable(handler):
        raise InvalidArgumentError(f"a handler is a function of one event, not {handler!r}")
    checked = cast("Callable[[Any], Any]", handler)
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
