"""Handlers that do not run inline: async ones in a task each, plain ones that may block on the dispatch thread.

Either way events wait in a bounded buffer of the subscription, in order (R37, R39). The thread is one per client,
started with the first handler that wants it and ended with the client; it is woken once per batch, not per event.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from supawire.aio.buffers import Buffer

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

Handler = Callable[[Any], Any]

STUBBORN: Final = 5.0
"""Seconds that the end of the client waits for a handler that is still at work on the thread."""


class TaskFeed:
    """Feeds an async handler from its buffer, one event after another."""

    def __init__(self, driver: "Driver", handler: Handler, buffer: Buffer) -> None:
        self._driver = driver
        self._handler = handler
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
        buffer, tasks = self._buffer, self._driver.tasks
        while not (self._cancelled or tasks.stopping):
            if not len(buffer):
                buffer.error = None  # whatever was dropped, the consumer has caught up
                await self._wait()
                continue
            event = buffer.take()
            try:
                await self._handler(event)
            except asyncio.CancelledError as error:
                self._survive(error, event)
            except Exception as error:  # noqa: BLE001  user code ends nothing (R1)
                self._driver.handler_raised(self._handler, error, event)

    async def _wait(self) -> None:
        try:
            await self._buffer.wait()
        except asyncio.CancelledError as error:
            self._survive(error, None)

    def _survive(self, error: asyncio.CancelledError, event: Any) -> None:
        """Only the client ends this task: a cancellation that came out of the handler is an error of the handler."""
        task = asyncio.current_task()
        if self._driver.tasks.stopping or task is None:
            raise error
        while task.cancelling():
            task.uncancel()
        self._driver.handler_raised(self._handler, error, event)


class ThreadFeed:
    """Feeds a plain handler on the dispatch thread."""

    def __init__(self, dispatch: "Dispatch", handler: Handler, buffer: Buffer) -> None:
        self._dispatch = dispatch
        self._handler = handler
        self._buffer = buffer
        self._lock = threading.Lock()
        self._cancelled = False

    def put(self, event: Any) -> None:
        """Take an event, on the event loop."""
        with self._lock:
            before = len(self._buffer)
            self._buffer.put(event)
            grown = len(self._buffer) > before
        if grown:  # as many turns as events, or those that were dropped would pile up as turns
            self._dispatch.add(self)

    def cancel(self) -> None:
        """Call the handler no more."""
        self._cancelled = True

    def run_one(self) -> None:
        """Call the handler with the oldest event, on the thread."""
        with self._lock:
            if self._cancelled or not len(self._buffer):
                return
            event = self._buffer.take()
            if not len(self._buffer):
                self._buffer.error = None
        try:
            self._handler(event)
        except BaseException as error:  # noqa: BLE001  user code ends nothing, and this thread is ours (R1)
            self._dispatch.raised(self._handler, error, event)


class Dispatch:
    """The dispatch thread of one client."""

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self._turns: deque[ThreadFeed] = deque()
        self._awake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Event | None = None
        self._stopping = False
        self._news = False

    def add(self, feed: ThreadFeed) -> None:
        """One event more waits in this feed; `wake` tells the thread."""
        self._turns.append(feed)
        self._news = True

    def wake(self) -> None:
        """The batch is over: let the thread look."""
        if not self._news or self._stopping:
            return
        self._news = False
        if self._thread is None:
            self._ended = asyncio.Event()
            self._thread = threading.Thread(target=self._work, name="supawire-dispatch", daemon=True)
            self._thread.start()
            return
        with self._awake:
            self._awake.notify()

    def raised(self, handler: object, error: BaseException, event: Any) -> None:
        """A handler raised, on the thread: told on the loop."""
        self._on_loop(lambda: self._driver.handler_raised(handler, error, event))

    def give_up(self) -> None:
        """End the thread after the handler that is at work, and do not wait for it."""
        self._stopping = True
        self._turns.clear()
        with self._awake:
            self._awake.notify()

    async def stop(self) -> None:
        """End the thread after the handler that is at work, and wait for it, but not for ever."""
        self.give_up()
        if self._thread is None or self._ended is None:
            return
        try:
            async with asyncio.timeout(STUBBORN):
                await self._ended.wait()
        except TimeoutError:
            self._driver.reports.log("handler").warning("a handler still runs on the dispatch thread; it is left alone")
        else:
            self._thread.join()

    def _on_loop(self, function: Callable[[], None]) -> None:
        try:
            self._driver.loop.call_soon_threadsafe(function)
        except RuntimeError:
            return  # the loop was closed: nobody is there to be told

    def _work(self) -> None:
        while not self._stopping:
            try:
                feed = self._turns.popleft()
            except IndexError:
                with self._awake:
                    while not self._turns and not self._stopping:
                        self._awake.wait()
                continue
            feed.run_one()
        assert self._ended is not None
        self._on_loop(self._ended.set)
