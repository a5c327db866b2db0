"""The dispatch thread: where handlers run that may block, and in the blocking door all handlers and `on_error`.

One per client, started with the first thing to do and ended with the client. The event loop gives it *turns*, and wakes
it once per batch, not per turn. With the first async handler it runs an event loop of its own, in which turns are taken
too; without one, a condition is all it waits for, which is cheaper.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from supawire.aio.thread_buffer import is_shutdown_error
from supawire.aio.usercode import Call

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds that the end of the client waits for a handler that is still at work on the thread."""

_BURST: Final = 256
"""The most turns that are taken before the thread's own event loop gets its turn."""

Turn = Callable[[], None]


class HandlerThread:
    """The dispatch thread of one client.

    Args: blocking: it serves the blocking door, so that errors of handlers are told here, not on the event loop.
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
        """The end has begun: no handler is called any more."""

    # --- on the event loop of the client

    @property
    def jobs(self) -> "deque[Turn | ErrorJob]":
        """What there is to do; whoever adds one sees to it that `wake` is called when the batch is over."""
        if self._jobs is None:
            self._jobs = deque()
        return self._jobs

    def want_loop(self) -> None:
        """An async handler will have turns."""
        self._wants_loop = True

    def wake(self) -> None:
        """The batch is over: let the thread look."""
        if self._thread is None:
            if self._jobs:
                self._start()
        elif self._idle and self._jobs:
            self._rouse()

    def report_error(self, function: Callable[[Exception], None], error: Exception) -> bool:
        """Call this on the thread, at once when we are there, and also when the end has begun; False: it is over."""
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
        """End the thread after the handler that is at work, and do not wait for it."""
        self.stopping = True
        if self._thread is None:
            self._over = True
        else:
            self._rouse()

    async def stop(self) -> None:
        """End the thread after the handler that is at work, and wait for it, but not for ever, nor for the caller."""
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
        """Whether the caller is on the dispatch thread."""
        return threading.current_thread() is self._thread

    def exclude_current(self) -> None:
        """The caller is about to wait for the end, which does not wait for a call of a handler that it runs in."""
        call = Call.of(self)
        if call is None or (call.task is None and self._idle and not self.is_here):
            return  # an idle thread is in no call; a task that an earlier one has started may say so
        self._spared = True
        self._spared_task = call.task
        if self._ended is not None:
            self._on_loop(self._ended.set)

    def raised(self, handler: object, error: BaseException, event: Any) -> None:
        """A handler raised, on the thread: told here in the blocking door, else on the event loop."""
        if self._blocking:
            self._driver.handler_raised(handler, error, event)
        else:
            self._on_loop(lambda: self._driver.handler_raised(handler, error, event))

    def inherited(self) -> None:
        """This is a forked child: a handler that forked is the only one here, and nothing follows it."""
        self.stopping = True
        self.jobs.clear()
        self._awake = threading.Condition()  # a thread that is not here may hold the old one

    # --- on the thread

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None] | None":
        """Run an async handler in the thread's own event loop; None when everything is ending."""
        if self._loop is None or self.stopping:
            work.close()
            return None
        task = self._loop.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        return task

    def _bell(self) -> threading.Condition:
        """What the thread waits for; made on the event loop, where everything begins."""
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
            self.stopping = self._over = True  # nobody can be called any more

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
        with Call(self, None):  # one for all plain handlers, which is cheaper than one for each event
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
        self._work_plainly()  # what was told in the last moment
        assert self._ended is not None
        self._on_loop(self._ended.set)

    def _work_plainly(self) -> None:
        """Take turns until the end, or until an async handler wants a loop."""
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
        """Cancel the async handlers, but not one that waits for the end itself."""
        for task in list(self._tasks):
            if task is not self._spared_task:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SHUTDOWN_TIMEOUT)


class ErrorJob:
    """An error to be told to the user: a turn that is taken even when everything is ending."""

    def __init__(self, function: Callable[[Exception], None], error: Exception) -> None:
        self._function = function
        self._error = error

    def __call__(self) -> None:
        self._function(self._error)


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return  # it was closed: nobody is there to be told
