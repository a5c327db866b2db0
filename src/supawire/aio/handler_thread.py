"""The dispatch thread: runs handlers that may block, and for the blocking client all handlers and `on_error`.

There is one thread per client, started with the first job and ended with the client. The event loop appends jobs to a
queue, and wakes the thread once per batch, not per job. With the first async handler the thread starts an event loop of
its own, in which it also runs the jobs; until then it waits on a condition, which is cheaper.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from supawire.aio.thread_buffer import is_shutdown_error
from supawire.aio.usercode import UserCall

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds that the shutdown of the client waits for a handler that is still running on the thread."""

_BURST: Final = 256
"""The most jobs that are run before the thread's own event loop runs its other tasks."""

Turn = Callable[[], None]


class HandlerThread:
    """The dispatch thread of one client.

    Args: blocking: whether it serves a blocking client, so that handler errors are reported here, not on the event
        loop.
    """

    __slots__ = (
        "_awake",
        "_blocking",
        "_driver",
        "_ended",
        "_idle",
        "_jobs",
        "_look",
        "_loop",
        "_over",
        "_spared",
        "_spared_task",
        "_tasks",
        "_thread",
        "_wants_loop",
        "stopping",
    )  # fmt: skip

    def __init__(self, driver: "Driver", *, blocking: bool = False) -> None:
        self._driver = driver
        self._blocking = blocking
        self._jobs: deque[Turn | ErrorJob] | None = None
        self._idle = False
        self._awake: threading.Condition | None = None
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Event | None = None
        self._over = False
        self._wants_loop = False
        self._spared = False
        self._spared_task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._look: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.stopping: bool = False
        """Whether the shutdown has begun: handlers are no longer called."""

    # --- on the event loop of the client

    @property
    def jobs(self) -> "deque[Turn | ErrorJob]":
        """The queue of jobs; a caller that appends one must call `wake` at the end of the batch."""
        if self._jobs is None:
            self._jobs = deque()
        return self._jobs

    def want_loop(self) -> None:
        """Request an event loop on the thread, for async handlers."""
        self._wants_loop = True

    def wake(self) -> None:
        """Wake the thread at the end of a batch if there are jobs, starting it if necessary."""
        if self._thread is None:
            if self._jobs:
                self._start()
        elif self._idle and self._jobs:
            self._rouse()

    def report_error(self, function: Callable[[Exception], None], error: Exception) -> bool:
        """Call `function(error)` on the thread, also during shutdown; return False if the thread has ended."""
        if threading.current_thread() is self._thread:
            function(error)
            return True
        with self._bell():
            if self._over:
                return False
            self.jobs.append(ErrorJob(function, error))
        self.wake()
        return True

    def give_up(self) -> None:
        """End the thread after the running handler, without waiting."""
        self.stopping = True
        if self._thread is None:
            self._over = True
        else:
            self._rouse()

    async def stop(self) -> None:
        """End the thread after the running handler and wait for it, up to `SHUTDOWN_TIMEOUT`.

        Does not wait for a handler that `exclude_current` has excluded.
        """
        self.give_up()
        if self._thread is None or self._ended is None:
            return
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT):
                await self._ended.wait()
        except TimeoutError:
            self._driver.reports.log("handler").warning("a handler still runs on the dispatch thread; it is left alone")
        if not self._spared and self._ended.is_set():
            self._thread.join()

    # --- on any thread

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on the dispatch thread."""
        return threading.current_thread() is self._thread

    def exclude_current(self) -> None:
        """Exclude the handler that the caller runs in, if any, from what the shutdown waits for."""
        call = UserCall.of(self)
        if call is None or (call.task is None and self._idle and not self.is_here):
            return  # the thread is idle; a task started by an earlier call may still refer to that call
        self._spared = True
        self._spared_task = call.task
        if self._ended is not None:
            self._on_loop(self._ended.set)

    def raised(self, handler: object, error: BaseException, event: Any) -> None:
        """Report an exception of a handler: on this thread for a blocking client, else on the event loop."""
        if self._blocking:
            self._driver.handler_raised(handler, error, event)
        else:
            self._on_loop(lambda: self._driver.handler_raised(handler, error, event))

    def inherited(self) -> None:
        """Clear the queue in a forked child, in which only the handler that called `fork()` still runs."""
        self.stopping = True
        self.jobs.clear()
        self._awake = threading.Condition()  # a thread of the parent may hold the old one

    # --- on the thread

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None] | None":
        """Run an async handler in the thread's own event loop; return None during shutdown."""
        if self._loop is None or self.stopping:
            work.close()
            return None
        task = self._loop.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        return task

    def _bell(self) -> threading.Condition:
        """Return the condition that the thread waits on; created on the event loop."""
        if self._awake is None:
            self._awake = threading.Condition()
        return self._awake

    def _start(self) -> None:
        self._bell()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="supawire-dispatch", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._thread = None
            if not is_shutdown_error(error):
                raise
            self.stopping = self._over = True  # no thread can be started during interpreter shutdown

    def _rouse(self) -> None:
        bell = self._bell()
        with bell:
            bell.notify()
        loop, look = self._loop, self._look
        if loop is not None and look is not None:
            _soon(loop, look.set)

    def _on_loop(self, function: Callable[[], None]) -> None:
        _soon(self._driver.loop, function)

    def _work(self) -> None:
        with UserCall(self, None):  # one for all plain handlers, which is cheaper than one per event
            self._work_all()

    def _work_all(self) -> None:
        self._work_plainly()
        if self._wants_loop and not self.stopping:
            with asyncio.Runner() as runner:
                runner.run(self._work_with_loop())
                self._loop = None
            self._work_plainly()
        with self._bell():
            self._over = True
        self._work_plainly()  # errors that were added just before the end
        assert self._ended is not None
        self._on_loop(self._ended.set)

    def _work_plainly(self) -> None:
        """Run jobs until the end, or until an async handler needs an event loop."""
        turns, bell = self.jobs, self._bell()
        while self.stopping or not self._wants_loop:
            try:
                turn = turns.popleft()
            except IndexError:
                if self.stopping:
                    return
                self._idle = True
                with bell:
                    while not turns and not self.stopping:
                        bell.wait()
                self._idle = False
                continue
            if not self.stopping or isinstance(turn, ErrorJob):
                turn()

    async def _work_with_loop(self) -> None:
        turns, look = self.jobs, asyncio.Event()
        self._look, self._loop = look, asyncio.get_running_loop()
        while not self.stopping:
            look.clear()
            for _ in range(min(len(turns), _BURST)):
                turn = turns.popleft()
                if not self.stopping or isinstance(turn, ErrorJob):
                    turn()
            self._idle = True
            if turns:
                await asyncio.sleep(0)
            elif not self.stopping:
                await look.wait()
            self._idle = False
        await self._end_tasks()

    async def _end_tasks(self) -> None:
        """Cancel the async handlers, except one that waits for the shutdown itself."""
        for task in list(self._tasks):
            if task is not self._spared_task:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SHUTDOWN_TIMEOUT)


class ErrorJob:
    """A job that reports an error to the user; it also runs during shutdown."""

    def __init__(self, function: Callable[[Exception], None], error: Exception) -> None:
        self._function = function
        self._error = error

    def __call__(self) -> None:
        self._function(self._error)


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return  # the loop is closed, so there is nothing to notify
