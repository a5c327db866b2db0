"""Handlers registered with `on()`, and the runners that call those that do not run inline.

Each such handler has a bounded buffer and receives its events one after another: an async handler in a task of its own
on the event loop, a plain one on the dispatch thread, and an async one of the blocking client in a task on the event
loop of that thread.
"""

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, Final, cast

from supawire.aio.buffers import Buffer, make_buffer
from supawire.aio.callbacks import is_async
from supawire.aio.driver import Driver
from supawire.aio.handler_thread import HandlerThread
from supawire.aio.reporting import described
from supawire.aio.subscriptions import Registration
from supawire.aio.thread_buffer import ThreadBuffer, make_thread_buffer, make_thread_safe
from supawire.aio.usercode import UserCall, dispose, is_closed_from_outside, is_unawaited
from supawire.errors import InvalidArgumentError, SlowConsumerError
from supawire.options import check_bool
from supawire.selectors import Selector

Handler = Callable[[Any], Any]


class TaskRunner:
    """Calls an async handler with the events in its buffer, on the event loop of the client.

    Args: blamed: the callable named in errors; if omitted, the handler.
    """

    def __init__(self, driver: "Driver", handler: Handler, buffer: Buffer, blamed: Handler | None = None) -> None:
        self._driver = driver
        self._handler = handler
        self._blamed = blamed or handler
        self._buffer = buffer
        self._cancelled = False
        self._running = False

    def put(self, event: Any) -> None:
        """Add an event; the first one starts the task."""
        self._buffer.put(event)
        if not self._running:
            self._running = True
            self._driver.tasks.spawn(self._run(), "handler")

    def cancel(self) -> None:
        """Stop calling the handler; a running call finishes."""
        self._cancelled = True
        self._buffer.wake()

    async def _run(self) -> None:
        buffer, tasks, own = self._buffer, self._driver.tasks, asyncio.current_task()
        while not (self._cancelled or tasks.stopping):
            if not len(buffer):
                buffer.error = None  # the consumer has caught up: the overflow episode is over
                await self._wait()
                continue
            event = buffer.take()
            try:
                with UserCall(tasks, own):
                    await self._handler(event)
            except asyncio.CancelledError as error:
                self._survive(error, event)
            except BaseException as error:
                if is_closed_from_outside(error, own):
                    raise
                self._driver.inline_raised(self._blamed, error, event)

    async def _wait(self) -> None:
        try:
            await self._buffer.wait()
        except asyncio.CancelledError as error:
            self._survive(error, None)

    def _survive(self, error: asyncio.CancelledError, event: Any) -> None:
        """Report a cancellation that came out of the handler; only the end of the client may end this task."""
        if self._driver.tasks.ending:
            raise error
        uncancel()
        self._driver.handler_raised(self._blamed, error, event)


class ThreadRunner:
    """Calls a handler on the dispatch thread. Plain handlers run in the order in which events arrived for all of them.

    An async one runs on the event loop of that thread, in a task that ends when the buffer is empty. A plain one that
    returns an awaitable is treated as async from then on.

    Args: waits: whether the handler is async.
    """

    def __init__(self, dispatch: HandlerThread, handler: Handler, buffer: ThreadBuffer, *, waits: bool) -> None:
        self._dispatch = dispatch
        self._handler = handler
        self._buffer = buffer
        self._cancelled = False
        self._waits = waits
        self._running = False
        self._begun: _Begun | None = None
        """The first awaitable that a plain handler returned, until it is awaited."""
        self._turns = dispatch.jobs
        self._one = self.run_one
        if waits:
            dispatch.want_loop()

    def put(self, event: Any) -> None:
        """Add an event; called on the event loop."""
        if self._buffer.put(event):  # one job per kept event, so that dropped events leave no jobs behind
            self._turns.append(self._one)

    def cancel(self) -> None:
        """Stop calling the handler; a running call finishes."""
        self._cancelled = True

    def run_one(self) -> None:
        """Call the handler with the oldest event, or start its task; called on the thread."""
        if self._cancelled:
            return
        if self._waits:
            self._spawn()
            return
        try:
            event = self._buffer.take()
        except IndexError:  # the event was dropped, or the handler cancelled, meanwhile
            return
        try:
            given = self._handler(event)
        except BaseException as error:  # noqa: BLE001  errors of user code never end our thread
            self._dispatch.raised(self._handler, error, event)
            return
        if given is not None and is_unawaited(given):
            self._waits = True
            self._begun = _Begun(given, event)
            self._dispatch.want_loop()
            self._turns.append(self._one)

    def _spawn(self) -> None:
        if not self._running:
            self._running = True
            self._dispatch.spawn(self._run())

    async def _run(self) -> None:
        try:
            begun, self._begun = self._begun, None
            if begun is not None:
                await self._await(begun.given, begun.event)
            while not (self._cancelled or self._dispatch.stopping):
                try:
                    event = self._buffer.take()
                except IndexError:
                    return
                await self._await(None, event)
        finally:
            self._running = False

    async def _await(self, given: Any, event: Any) -> None:
        own = asyncio.current_task()
        try:
            with UserCall(self._dispatch, own):
                if given is None:
                    given = self._handler(event)
                if is_unawaited(given):
                    await given
        except asyncio.CancelledError as error:
            if self._dispatch.stopping:
                raise
            uncancel()
            self._dispatch.raised(self._handler, error, event)
        except BaseException as error:
            if is_closed_from_outside(error, own):
                raise
            self._dispatch.raised(self._handler, error, event)  # errors of user code never end our thread


class InlineFeed:
    """Runs the awaitables that a plain handler returns, one after another.

    Args: buffer: awaitables that are not started yet, with their events.
    """

    def __init__(self, driver: "Driver", handler: Handler, buffer: Buffer) -> None:
        self._handler = handler
        self._feed = TaskRunner(driver, self._finish, buffer, handler)
        self.cancel: Callable[[], None] = self._feed.cancel

    def put(self, given: Any, event: Any) -> None:
        """Add what the handler returned for an event."""
        self._feed.put(_Begun(given, event))

    async def _finish(self, begun: "_Begun") -> None:
        await begun.given


class _Begun:
    """An awaitable that a handler returned, with its event; if it is never awaited, it is closed."""

    __slots__ = ("event", "given", "topic")

    def __init__(self, given: Any, event: Any) -> None:
        self.given = given
        self.event = event
        self.topic = getattr(event, "topic", None)

    def __del__(self) -> None:
        dispose(self.given)


def uncancel() -> None:
    """Reset the cancellation requests of the current task."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


_GENERATES: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Subscription:
    """A registered handler. It stays registered until `cancel`, through rejoins and `unsubscribe`."""

    def __init__(self, registration: Registration, handler: object) -> None:
        self._registration = registration
        self._handler = described(handler)

    def __repr__(self) -> str:
        return f"<Subscription of {self._handler} to {self._registration.wanted}>"

    def cancel(self) -> None:
        """Stop calling the handler, also for waiting events. A running call is not interrupted."""
        self._registration.cancel()

    @property
    def dropped(self) -> int:
        """How many events were dropped because the buffer of an async or threaded handler was full."""
        return self._registration.buffer.dropped if self._registration.buffer is not None else 0


def subscribe(
    driver: Driver, topic: str, selector: Selector[Any], handler: object, *, thread: bool, buffer: int, overflow: str
) -> Subscription:
    """Register a handler. Raises `InvalidArgumentError` if it cannot be called with one event."""
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
        handed = make_thread_buffer(driver, buffer, overflow, None, slow)
        on_thread = ThreadRunner(driver.dispatch, checked, handed, waits=waits)
        put = make_thread_safe((selector,), on_thread.put, driver.loop)
        return Subscription(registry.add(topic, (selector,), put, handed, now, on_thread.cancel), checked)
    kept = make_buffer(buffer, overflow, None, driver.flow_control, slow)
    if waits:
        feed = TaskRunner(driver, checked, kept)
        return Subscription(registry.add(topic, (selector,), feed.put, kept, now, feed.cancel), checked)
    deliver = partial(checked) if registry.hears(topic, checked) else checked  # registered twice, called twice
    inline = registry.add(topic, (selector,), deliver, None, now)  # only awaitables that it returns need a buffer
    inline.late = lambda: (InlineFeed(driver, checked, kept), kept)
    return Subscription(inline, checked)


def _is_plain(handler: object) -> bool:
    """Return whether it is a function of one argument; a fast check, because `inspect` takes 20 µs, half of a join."""
    if not isinstance(handler, FunctionType) or handler.__dict__:
        return False
    code = handler.__code__
    return (code.co_argcount, code.co_kwonlyargcount) == (1, 0) and not code.co_flags & _GENERATES


def check_handler(handler: object) -> Callable[[Any], Any]:
    """Return the handler if it can be called with one event. Raises `InvalidArgumentError`."""
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
        return checked  # some functions written in C have no signature
    try:
        signature.bind(object())
    except TypeError as error:
        raise InvalidArgumentError(
            f"the handler {described(checked)}{signature} cannot be called with one event: {error}"
        ) from error
    return checked
