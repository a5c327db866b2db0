"""The dispatch thread: runs handlers that may block, and for the sync client all handlers and `on_error`.

There is one thread per client, started with the first job and ended with the client. The event loop appends jobs to a
queue, and wakes the thread once per batch, not per job. With the first async handler the thread starts an event loop of
its own, in which it also runs the jobs; until then it waits on a condition, which is cheaper.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from supawire.aio.callbacks import UserCall
from supawire.aio.tasks import is_shutdown_error

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds that the shutdown of the client waits for a handler that is still running on the thread."""

MAX_JOBS: Final = 256
"""The most jobs that are run before the thread's own event loop runs its other tasks."""

Job = Callable[[], None]


class HandlerThread:
    """The dispatch thread of one client, whose event loop is `loop`.

    Args: shutdown_timeout: seconds that the shutdown waits for a handler that is still running.
    """

    __slots__ = (
        "_awake",
        "_client_loop",
        "_ended",
        "_excluded",
        "_excluded_task",
        "_idle",
        "_jobs",
        "_jobs_added",
        "_loop",
        "_needs_loop",
        "_over",
        "_shutdown_timeout",
        "_tasks",
        "_thread",
        "stopping",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, shutdown_timeout: float = SHUTDOWN_TIMEOUT) -> None:
        self._client_loop = loop
        self._shutdown_timeout = shutdown_timeout
        self._jobs: deque[Job | ErrorJob] | None = None
        self._idle = False
        self._awake: threading.Condition | None = None
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Event | None = None
        self._over = False
        self._needs_loop = False
        self._excluded = False
        self._excluded_task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs_added: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.stopping: bool = False
        """Whether the shutdown has begun: handlers are no longer called."""

    # --- on the event loop of the client

    @property
    def jobs(self) -> "deque[Job | ErrorJob]":
        """The queue of jobs; a caller that appends one must call `wake` at the end of the batch."""
        if self._jobs is None:
            self._jobs = deque()
        return self._jobs

    def require_loop(self) -> None:
        """Request an event loop on the thread, for async handlers."""
        self._needs_loop = True

    def wake(self) -> None:
        """Wake the thread at the end of a batch if there are jobs, starting it if necessary."""
        if self._thread is None:
            if self._jobs:
                self._start()
        elif self._idle and self._jobs:
            self._notify()

    def report_error(self, function: Callable[[Exception], None], error: Exception) -> bool:
        """Call `function(error)` on the thread, also during shutdown; return False if the thread has ended."""
        if threading.current_thread() is self._thread:
            function(error)
            return True
        with self._condition():
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
            self._notify()

    async def stop(self) -> bool:
        """End the thread after the running handler and wait for it; return False if the handler runs for too long.

        Does not wait for a handler that `exclude_current` has excluded.
        """
        self.give_up()
        if self._thread is None or self._ended is None:
            return True
        try:
            async with asyncio.timeout(self._shutdown_timeout):
                await self._ended.wait()
        except TimeoutError:
            return False
        if not self._excluded and self._ended.is_set():
            self._thread.join()
        return True

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
        self._excluded = True
        self._excluded_task = call.task
        if self._ended is not None:
            self.call_on_loop(self._ended.set)

    def call_on_loop(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the event loop of the client soon; does nothing if that loop has ended."""
        _soon(self._client_loop, function, *args)

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

    def _condition(self) -> threading.Condition:
        """Return the condition that the thread waits on; created on the event loop."""
        if self._awake is None:
            self._awake = threading.Condition()
        return self._awake

    def _start(self) -> None:
        self._condition()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="supawire-dispatch", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._thread = None
            if not is_shutdown_error(error):
                raise
            self.stopping = self._over = True  # no thread can be started during interpreter shutdown

    def _notify(self) -> None:
        awake = self._condition()
        with awake:
            awake.notify()
        loop, jobs_added = self._loop, self._jobs_added
        if loop is not None and jobs_added is not None:
            _soon(loop, jobs_added.set)

    def _work(self) -> None:
        with UserCall(self, None):  # one for all plain handlers, which is cheaper than one per event
            self._run()

    def _run(self) -> None:
        self._run_jobs()
        if self._needs_loop and not self.stopping:
            with asyncio.Runner() as runner:
                runner.run(self._run_jobs_and_tasks())
                self._loop = None
            self._run_jobs()
        with self._condition():
            self._over = True
        self._run_jobs()  # errors that were added just before the end
        assert self._ended is not None
        self.call_on_loop(self._ended.set)

    def _run_jobs(self) -> None:
        """Run jobs until the end, or until an async handler needs an event loop."""
        jobs, awake = self.jobs, self._condition()
        while self.stopping or not self._needs_loop:
            try:
                job = jobs.popleft()
            except IndexError:
                if self.stopping:
                    return
                self._idle = True
                with awake:
                    while not jobs and not self.stopping:
                        awake.wait()
                self._idle = False
                continue
            if not self.stopping or isinstance(job, ErrorJob):
                job()

    async def _run_jobs_and_tasks(self) -> None:
        jobs, jobs_added = self.jobs, asyncio.Event()
        self._jobs_added, self._loop = jobs_added, asyncio.get_running_loop()
        while not self.stopping:
            jobs_added.clear()
            for _ in range(min(len(jobs), MAX_JOBS)):
                job = jobs.popleft()
                if not self.stopping or isinstance(job, ErrorJob):
                    job()
            self._idle = True
            if jobs:
                await asyncio.sleep(0)
            elif not self.stopping:
                await jobs_added.wait()
            self._idle = False
        await self._end_tasks()

    async def _end_tasks(self) -> None:
        """Cancel the async handlers, except one that waits for the shutdown itself."""
        for task in list(self._tasks):
            if task is not self._excluded_task:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._shutdown_timeout)


class ErrorJob:
    """A job that reports an error to the user; it also runs during shutdown."""

    def __init__(self, function: Callable[[Exception], None], error: Exception) -> None:
        self._function = function
        self._error = error

    def __call__(self) -> None:
        self._function(self._error)


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return  # the loop is closed, so there is nothing to notify
