"""Handlers registered with `on()`, and the runners that call those that do not run inline.

Each such handler has a bounded buffer and receives its events one after another: an async handler in a task of its own
on the event loop, a plain one on the dispatch thread, and an async one of the sync client in a task on the event loop
of that thread.
"""

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, cast

from supawire.aio.buffers import Buffer, ReadPauses, check_buffer, make_buffer
from supawire.aio.callbacks import UserCall, describe_callable, dispose, is_async, is_closed_from_outside, is_unawaited
from supawire.aio.handler_thread import HandlerThread
from supawire.aio.reporting import Reports
from supawire.aio.subscriptions import Registration, Registry
from supawire.aio.tasks import Tasks
from supawire.aio.thread_buffer import ThreadBuffer, make_thread_buffer, make_thread_safe
from supawire.errors import InvalidArgumentError, SlowConsumerError
from supawire.events import Instant
from supawire.options import check_bool
from supawire.selectors import Selector

if TYPE_CHECKING:
    from supawire.telemetry.recorder import ClientTelemetry

Handler = Callable[[Any], Any]


class TaskRunner:
    """Calls an async handler with the events in its buffer, on the event loop of the client.

    Args: reported: the callable named in errors; if omitted, the handler.
    """

    def __init__(
        self, tasks: Tasks, reports: Reports, handler: Handler, buffer: Buffer, reported: Handler | None = None
    ) -> None:
        self._tasks = tasks
        self._reports = reports
        self._handler = handler
        self._reported = reported or handler
        self._buffer = buffer
        self._cancelled = False
        self._running = False

    def put(self, event: Any) -> None:
        """Add an event; the first one starts the task."""
        self._buffer.put(event)
        if not self._running:
            self._running = True
            self._tasks.spawn(self._run(), "handler")

    def cancel(self) -> None:
        """Stop calling the handler; a running call finishes."""
        self._cancelled = True
        self._buffer.wake()

    async def _run(self) -> None:
        buffer, tasks, own = self._buffer, self._tasks, asyncio.current_task()
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
                self._reports.inline_raised(self._reported, error, event)

    async def _wait(self) -> None:
        try:
            await self._buffer.wait()
        except asyncio.CancelledError as error:
            self._survive(error, None)

    def _survive(self, error: asyncio.CancelledError, event: Any) -> None:
        """Report a cancellation that came out of the handler; only the end of the client may end this task."""
        if self._tasks.ending:
            raise error
        uncancel()
        self._reports.handler_raised(self._reported, error, event)


class ThreadRunner:
    """Calls a handler on the dispatch thread. Plain handlers run in the order in which events arrived for all of them.

    An async one runs on the event loop of that thread, in a task that ends when the buffer is empty. A plain one that
    returns an awaitable is treated as async from then on.

    Args: on_error: called on the thread with the handler, what it raised, and the event. is_async: whether the handler
    is async.
    """

    def __init__(
        self,
        thread: HandlerThread,
        handler: Handler,
        buffer: ThreadBuffer,
        on_error: Callable[[Handler, BaseException, Any], None],
        *,
        is_async: bool,
    ) -> None:
        self._thread = thread
        self._handler = handler
        self._buffer = buffer
        self._on_error = on_error
        self._cancelled = False
        self._is_async = is_async
        self._running = False
        self._returned: _Returned | None = None
        """The first awaitable that a plain handler returned, until it is awaited."""
        self._jobs = thread.jobs
        self._job = self.run_one
        if is_async:
            thread.require_loop()

    def put(self, event: Any) -> None:
        """Add an event; called on the event loop."""
        if self._buffer.put(event):  # one job per kept event, so that dropped events leave no jobs behind
            self._jobs.append(self._job)

    def cancel(self) -> None:
        """Stop calling the handler; a running call finishes."""
        self._cancelled = True

    def run_one(self) -> None:
        """Call the handler with the oldest event, or start its task; called on the thread."""
        if self._cancelled:
            return
        if self._is_async:
            self._spawn()
            return
        try:
            event = self._buffer.take()
        except IndexError:  # the event was dropped, or the handler cancelled, meanwhile
            return
        try:
            result = self._handler(event)
        except BaseException as error:  # noqa: BLE001  errors of user code never end our thread
            self._on_error(self._handler, error, event)
            return
        if result is not None and is_unawaited(result):
            self._is_async = True
            self._returned = _Returned(result, event)
            self._thread.require_loop()
            self._jobs.append(self._job)

    def _spawn(self) -> None:
        if not self._running:
            self._running = True
            self._thread.spawn(self._run())

    async def _run(self) -> None:
        try:
            returned, self._returned = self._returned, None
            if returned is not None:
                await self._await(returned.awaitable, returned.event)
            while not (self._cancelled or self._thread.stopping):
                try:
                    event = self._buffer.take()
                except IndexError:
                    return
                await self._await(None, event)
        finally:
            self._running = False

    async def _await(self, awaitable: Any, event: Any) -> None:
        own = asyncio.current_task()
        try:
            with UserCall(self._thread, own):
                if awaitable is None:
                    awaitable = self._handler(event)
                if is_unawaited(awaitable):
                    await awaitable
        except asyncio.CancelledError as error:
            if self._thread.stopping:
                raise
            uncancel()
            self._on_error(self._handler, error, event)
        except BaseException as error:
            if is_closed_from_outside(error, own):
                raise
            self._on_error(self._handler, error, event)  # errors of user code never end our thread


class ReturnedRunner:
    """Runs the awaitables that a plain handler returns, one after another.

    Args: buffer: awaitables that are not started yet, with their events.
    """

    def __init__(self, tasks: Tasks, reports: Reports, handler: Handler, buffer: Buffer) -> None:
        self._runner = TaskRunner(tasks, reports, self._finish, buffer, handler)
        self.cancel: Callable[[], None] = self._runner.cancel

    def put(self, result: Any, event: Any) -> None:
        """Add what the handler returned for an event."""
        self._runner.put(_Returned(result, event))

    async def _finish(self, returned: "_Returned") -> None:
        await returned.awaitable


class _Returned:
    """An awaitable that a handler returned, with its event; if it is never awaited, it is closed."""

    __slots__ = ("awaitable", "event", "topic")

    def __init__(self, awaitable: Any, event: Any) -> None:
        self.awaitable = awaitable
        self.event = event
        self.topic = getattr(event, "topic", None)

    def __del__(self) -> None:
        dispose(self.awaitable)


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
        self._handler = describe_callable(handler)

    def __repr__(self) -> str:
        return f"<Subscription of {self._handler} to {self._registration.description}>"

    def cancel(self) -> None:
        """Stop calling the handler, also for waiting events. A running call is not interrupted."""
        self._registration.cancel()

    @property
    def dropped(self) -> int:
        """How many events were dropped because the buffer of the handler was full."""
        return self._registration.buffer.dropped if self._registration.buffer is not None else 0


class Handlers:
    """Registers the handlers of one client.

    Args: now: returns the current time. on_thread: whether all handlers run on the dispatch thread (the sync client).
    """

    __slots__ = ("_loop", "_now", "_on_thread", "_pauses", "_registry", "_reports", "_tasks", "_telemetry", "_thread")

    def __init__(
        self,
        registry: Registry,
        tasks: Tasks,
        thread: HandlerThread,
        reports: Reports,
        pauses: ReadPauses,
        now: Callable[[], Instant],
        telemetry: "ClientTelemetry | None",
        *,
        on_thread: bool,
    ) -> None:
        self._telemetry = telemetry
        self._loop = asyncio.get_running_loop()
        self._registry = registry
        self._tasks = tasks
        self._thread = thread
        self._reports = reports
        self._pauses = pauses
        self._now = now
        self._on_thread = on_thread

    def subscribe(
        self, topic: str, selector: Selector[Any], handler: object, *, thread: bool, buffer: int, overflow: str
    ) -> Subscription:
        """Register a handler. Raises `InvalidArgumentError` if it cannot be called with one event."""
        checked = check_handler(handler)
        check_bool("thread", thread)
        if overflow == "latest":
            raise InvalidArgumentError("overflow='latest' belongs to listen(), where key= says what replaces what")
        runs_async = is_async(checked)
        if runs_async and thread:
            raise InvalidArgumentError("thread=True is for plain handlers; an async handler blocks no other one")
        if self._telemetry is not None:
            name, checked = describe_callable(checked), self._telemetry.handler(checked, is_async=runs_async)
            checked.__qualname__ = name
        if thread or self._on_thread:
            return self._subscribe_on_thread(topic, selector, checked, buffer, overflow, runs_async=runs_async)
        check_buffer(buffer, overflow)
        add, now = self._registry.add, self._now()
        if runs_async:
            events = self._make_buffer(buffer, overflow)
            runner = TaskRunner(self._tasks, self._reports, checked, events)
            return Subscription(add(topic, (selector,), runner.put, events, now, runner.cancel), checked)
        registered_before = self._registry.has_handler(topic, checked)
        deliver = partial(checked) if registered_before else checked  # registered twice, called twice
        inline = add(topic, (selector,), deliver, None, now)
        inline.make_runner = partial(self._make_returned_runner, checked, buffer, overflow)
        return Subscription(inline, checked)

    def _make_returned_runner(self, handler: Handler, buffer: int, overflow: str) -> tuple[ReturnedRunner, Buffer]:
        """Create the buffer of a plain handler, which only awaitables that it returns need."""
        events = self._make_buffer(buffer, overflow)
        return ReturnedRunner(self._tasks, self._reports, handler, events), events

    def _make_buffer(self, buffer: int, overflow: str) -> Buffer:
        return make_buffer(buffer, overflow, None, self._pauses.overflow_pause, self._report_slow)

    def _subscribe_on_thread(
        self, topic: str, selector: Selector[Any], handler: Handler, buffer: int, overflow: str, *, runs_async: bool
    ) -> Subscription:
        events = make_thread_buffer(self._pauses, buffer, overflow, None, self._report_slow)
        runner = ThreadRunner(self._thread, handler, events, self._thread_handler_raised, is_async=runs_async)
        put = make_thread_safe((selector,), runner.put, self._loop)
        return Subscription(self._registry.add(topic, (selector,), put, events, self._now(), runner.cancel), handler)

    def _report_slow(self, error: SlowConsumerError) -> None:
        self._reports.error(error, "handler")

    def _thread_handler_raised(self, handler: Handler, error: BaseException, event: Any) -> None:
        """Report an exception of a handler: on the dispatch thread for a sync client, else on the event loop."""
        if self._on_thread:
            self._reports.handler_raised(handler, error, event)
        else:
            self._thread.call_on_loop(self._reports.handler_raised, handler, error, event)


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
            f"{describe_callable(checked)} is a generator function: calling it runs nothing; remove its yield"
        )
    try:
        signature = inspect.signature(checked)
    except (TypeError, ValueError):
        return checked  # some functions written in C have no signature
    try:
        signature.bind(object())
    except TypeError as error:
        raise InvalidArgumentError(
            f"the handler {describe_callable(checked)}{signature} cannot be called with one event: {error}"
        ) from error
    return checked
