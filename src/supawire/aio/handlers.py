"""What calls handlers that do not run inline (R37, R39).

Each has a bounded buffer, and gets its events one after another: an async handler in a task of its own on the event
loop, a plain one on the dispatch thread, and an async one of the blocking door in a task on that thread's own loop.

`on()`: a handler becomes a listener (R37, R38).
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
from supawire.aio.usercode import Call, dispose, is_closed_from_outside, is_unawaited
from supawire.errors import InvalidArgumentError, SlowConsumerError
from supawire.options import check_bool
from supawire.selectors import Selector

Handler = Callable[[Any], Any]


class TaskRunner:
    """Feeds an async handler from its buffer, on the event loop of the client.

    Args: blamed: what errors name; left out, the handler.
    """

    def __init__(self, driver: "Driver", handler: Handler, buffer: Buffer, blamed: Handler | None = None) -> None:
        self._driver = driver
        self._handler = handler
        self._blamed = blamed or handler
        self._buffer = buffer
        self._cancelled = False
        self._running = False

    def put(self, event: Any) -> None:
        """Take an event; the task is started with the first one."""
        self._buffer.put(event)
        if not self._running:
            self._running = True
            self._driver.tasks.spawn(self._run(), "handler")

    def cancel(self) -> None:
        """Call the handler no more; a call that is under way goes on to its end."""
        self._cancelled = True
        self._buffer.wake()

    async def _run(self) -> None:
        buffer, tasks, own = self._buffer, self._driver.tasks, asyncio.current_task()
        while not (self._cancelled or tasks.stopping):
            if not len(buffer):
                buffer.error = None  # whatever was dropped, the consumer has caught up
                await self._wait()
                continue
            event = buffer.take()
            try:
                with Call(tasks, own):
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
        """Only the client ends this task: a cancellation that came out of the handler is an error of the handler."""
        if self._driver.tasks.ending:
            raise error
        uncancel()
        self._driver.handler_raised(self._blamed, error, event)


class ThreadRunner:
    """Feeds a handler on the dispatch thread: a plain one in the order in which events came to all handlers there.

    An async one runs on the event loop of that thread, in a task that takes what is there and ends. A plain one that
    returns an awaitable counts as async from then on.

    Args: waits: it is async.
    """

    def __init__(self, dispatch: HandlerThread, handler: Handler, buffer: ThreadBuffer, *, waits: bool) -> None:
        self._dispatch = dispatch
        self._handler = handler
        self._buffer = buffer
        self._cancelled = False
        self._waits = waits
        self._running = False
        self._begun: _Begun | None = None
        """What a plain handler returned first, until it is awaited."""
        self._turns = dispatch.jobs
        self._one = self.run_one
        if waits:
            dispatch.want_loop()

    def put(self, event: Any) -> None:
        """Take an event, on the event loop."""
        if self._buffer.put(event):  # as many turns as events, or those that were dropped would pile up as turns
            self._turns.append(self._one)

    def cancel(self) -> None:
        """Call the handler no more; a call that is under way goes on to its end."""
        self._cancelled = True

    def run_one(self) -> None:
        """Call the handler with the oldest event, or let the task do it, on the thread."""
        if self._cancelled:
            return
        if self._waits:
            self._spawn()
            return
        try:
            event = self._buffer.take()
        except IndexError:  # its event was dropped, or the handler cancelled meanwhile
            return
        try:
            given = self._handler(event)
        except BaseException as error:  # noqa: BLE001  user code ends nothing, and this thread is ours (R1)
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
            with Call(self._dispatch, own):
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
            self._dispatch.raised(self._handler, error, event)  # this thread is ours (R1)


class InlineFeed:
    """Runs what a plain handler returns when that is an awaitable: one after another, as an async handler is run.

    Args: buffer: awaitables that have not begun, with their events.
    """

    def __init__(self, driver: "Driver", handler: Handler, buffer: Buffer) -> None:
        self._handler = handler
        self._feed = TaskRunner(driver, self._finish, buffer, handler)
        self.cancel = self._feed.cancel

    def put(self, given: Any, event: Any) -> None:
        """Take what the handler returned for an event."""
        self._feed.put(_Begun(given, event))

    async def _finish(self, begun: "_Begun") -> None:
        await begun.given


class _Begun:
    """An awaitable that the user's handler returned, and its event; dropped, it is closed."""

    __slots__ = ("event", "given", "topic")

    def __init__(self, given: Any, event: Any) -> None:
        self.given = given
        self.event = event
        self.topic = getattr(event, "topic", None)

    def __del__(self) -> None:
        dispose(self.given)


def uncancel() -> None:
    """Forget the cancellations of the task that runs."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


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
        handed = make_thread_buffer(driver, buffer, overflow, None, slow)
        on_thread = ThreadRunner(driver.dispatch, checked, handed, waits=waits)
        put = make_thread_safe((selector,), on_thread.put, driver.loop)
        return Subscription(registry.add(topic, (selector,), put, handed, now, on_thread.cancel), checked)
    kept = make_buffer(buffer, overflow, None, driver.flow_control, slow)
    if waits:
        feed = TaskRunner(driver, checked, kept)
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
