"""What calls handlers that do not run inline (R37, R39).

Each has a bounded buffer, and gets its events one after another: an async handler in a task of its own on the event
loop, a plain one on the dispatch thread, and an async one of the blocking door in a task on that thread's own loop.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from supawire.aio.buffers import Buffer
from supawire.aio.dispatch import Dispatch
from supawire.aio.handover import Handover

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

Handler = Callable[[Any], Any]


class TaskFeed:
    """Feeds an async handler from its buffer, on the event loop of the client."""

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
        if self._driver.tasks.stopping:
            raise error
        uncancel()
        self._driver.handler_raised(self._handler, error, event)


class ThreadFeed:
    """Feeds a plain handler on the dispatch thread, in the order in which events came to all handlers there."""

    def __init__(self, dispatch: Dispatch, handler: Handler, buffer: Handover) -> None:
        self._dispatch = dispatch
        self._handler = handler
        self._buffer = buffer
        self._cancelled = False
        self._turns = dispatch.turns
        self._one = self.run_one

    def put(self, event: Any) -> None:
        """Take an event, on the event loop."""
        if self._buffer.put(event):  # as many turns as events, or those that were dropped would pile up as turns
            self._turns.append(self._one)

    def cancel(self) -> None:
        """Call the handler no more; a call that is under way goes on to its end."""
        self._cancelled = True

    def run_one(self) -> None:
        """Call the handler with the oldest event, on the thread."""
        if self._cancelled:
            return
        try:
            event = self._buffer.take()
        except IndexError:  # its event was dropped, or the handler cancelled meanwhile
            return
        try:
            self._handler(event)
        except BaseException as error:  # noqa: BLE001  user code ends nothing, and this thread is ours (R1)
            self._dispatch.raised(self._handler, error, event)


class LoopFeed(ThreadFeed):
    """Feeds an async handler on the event loop of the dispatch thread: a task takes what is there, and ends."""

    _task: "asyncio.Task[None] | None" = None

    def run_one(self) -> None:
        """Let the task run, on the thread; it takes as many events as there are."""
        if self._task is None and not self._cancelled:
            self._task = self._dispatch.spawn(self._run())

    async def _run(self) -> None:
        try:
            while not (self._cancelled or self._dispatch.stopping):
                try:
                    event = self._buffer.take()
                except IndexError:
                    return
                await self._call(event)
        finally:
            self._task = None

    async def _call(self, event: Any) -> None:
        try:
            await self._handler(event)
        except asyncio.CancelledError as error:
            if self._dispatch.stopping:
                raise
            uncancel()
            self._dispatch.raised(self._handler, error, event)
        except BaseException as error:  # noqa: BLE001  user code ends nothing, and this thread is ours (R1)
            self._dispatch.raised(self._handler, error, event)


def uncancel() -> None:
    """Forget the cancellations of the task that runs."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
