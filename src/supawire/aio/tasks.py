"""The tasks of a client, and the root task that owns them.

The root task runs for the whole life of the client and holds all others in a task group. A task that raises ends the
client with that error, so no failure goes unnoticed. The shutdown has an order: first all tasks except those that
called `close()` (they cannot wait for themselves), then other resources, then the remaining tasks.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Final, Protocol, cast

from supawire.aio.callbacks import UserCall

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds that the shutdown waits for a handler that suppresses its cancellation."""

POLL_INTERVAL: Final = 0.1

SECOND_SIGNAL: Final = 0.5
"""Seconds after which a signal is a second one: a terminal and a supervisor may both pass on the same Ctrl-C."""


class TaskOwner(Protocol):
    """The owner of the tasks."""

    async def tasks_ended(self) -> None:
        """Release what is not a task."""
        ...

    def tasks_failed(self, bug: BaseException | None) -> None:
        """Release everything, without waiting.

        Args: bug: what a task raised, or None if the root task was cancelled from outside.
        """
        ...


class Latch:
    """A one-shot event that creates its `asyncio.Event` (760 bytes) only when something waits for it."""

    __slots__ = ("_event", "is_set")

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        self.is_set: bool = False

    def set(self) -> None:
        """Set it, and wake the waiters."""
        self.is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait until it is set."""
        if self.is_set:
            return
        if self._event is None:
            self._event = asyncio.Event()
        await self._event.wait()


class Tasks:
    """The tasks of one client.

    Args: shutdown_timeout: seconds that the shutdown waits for a handler that suppresses its cancellation.
    """

    __slots__ = (
        "_ended", "_excluded", "_group", "_others_ended", "_owned", "_owner", "_root", "_shutdown_timeout", "_stop",
        "stopping",
    )  # fmt: skip

    def __init__(self, owner: TaskOwner, shutdown_timeout: float = SHUTDOWN_TIMEOUT) -> None:
        self._owner = owner
        self._shutdown_timeout = shutdown_timeout
        self._group: asyncio.TaskGroup | None = None
        self._root: asyncio.Task[None] | None = None
        self._owned: set[asyncio.Task[Any]] = set()
        self._excluded: list[asyncio.Task[Any]] = []
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._others_ended = Latch()
        self._ended = Latch()
        self.stopping: bool = False
        """Whether tasks are being cancelled, or were."""

    @property
    def ending(self) -> bool:
        """Whether a cancellation is due to the end of the client or of its event loop (which cancels in any order)."""
        root = self._root
        return self.stopping or (root is not None and (root.done() or root.cancelling() > 0))

    async def start(self) -> None:
        """Start the root task."""
        self._root = asyncio.create_task(self._run_root(), name="supawire")
        await asyncio.sleep(0)  # lets the root task begin

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None] | None":
        """Start and own a task; during shutdown, close the coroutine and return None."""
        if self._group is None or self.stopping:
            work.close()
            return None
        task = self._group.create_task(work, name=f"supawire-{name}")
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)
        return task

    def stop(self) -> None:
        """Begin the shutdown; `ended` waits for it."""
        self.stopping = True
        if not self._stop.done():
            self._stop.set_result(None)

    def exclude_current(self) -> None:
        """Exclude the caller's own task, or the handler that the caller runs in, from what the shutdown waits for."""
        call = UserCall.of(self)
        for task in (asyncio.current_task(), call.task if call is not None else None):
            if task is not None and (task in self._owned or call is not None):
                self._excluded.append(task)

    async def ended(self) -> None:
        """Wait until all tasks have ended, except those that wait for this themselves, or cannot be ended."""
        await self._others_ended.wait()
        if not self._owned:
            await self._ended.wait()

    async def _run_root(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                try:
                    await self._stop
                finally:
                    self.stopping = True  # tasks check this flag when they are cancelled
                await self._end_others()
                await self._owner.tasks_ended()
                self._others_ended.set()
        except BaseExceptionGroup as failures:
            self._owner.tasks_failed(first_of(failures))
        except BaseException:
            self._owner.tasks_failed(None)
            raise
        finally:
            self.stopping = True
            self._others_ended.set()
            self._ended.set()

    async def _end_others(self) -> None:
        """Cancel all tasks except excluded ones, and wait a limited time; more may be excluded meanwhile."""
        cancelled: set[asyncio.Task[Any]] = set()
        bound = asyncio.get_running_loop().time() + self._shutdown_timeout
        while others := self._owned.difference(self._excluded):
            for task in others - cancelled:
                task.cancel()
            cancelled |= others
            if asyncio.get_running_loop().time() > bound:
                return
            await asyncio.wait(others, timeout=POLL_INTERVAL, return_when=asyncio.FIRST_COMPLETED)


def is_shutdown_error(error: Exception) -> bool:
    """Return whether the error only says that the interpreter is shutting down and can start no thread."""
    return isinstance(error, RuntimeError) and "interpreter shutdown" in str(error)


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in nested exception groups."""
    first: Any = failures
    while isinstance(first, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", first).exceptions[0]
    return cast("BaseException", first)


@contextmanager
def stop_on_signals(stop: Callable[[], None], task: "asyncio.Task[Any] | None") -> Generator[None]:
    """Call `stop` at the first SIGTERM or SIGINT, and cancel the task at the second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    first_at: float | None = None

    def handle(*_: object) -> None:
        nonlocal first_at
        if first_at is None:
            first_at = loop.time()
            loop.call_soon_threadsafe(stop)
        elif loop.time() >= first_at + SECOND_SIGNAL and task is not None:
            loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
