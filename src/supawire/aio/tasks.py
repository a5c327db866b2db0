"""Every task of a client, and their one owner.

One root task runs from the opening to the end and holds all others in a task group, however the client was opened. A
task that raises ends the client with that error, so that nothing fails unseen (R2). The end is ordered: first all tasks
but those that called `close()` (they cannot wait for themselves), then what else there is to release, then those.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Protocol, cast

from supawire.aio.usercode import Call

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds after which nobody waits any longer for a handler that does not let itself be cancelled."""

_LOOK_AGAIN: Final = 0.1


class Client(Protocol):
    """Whose tasks they are."""

    async def tasks_ended(self) -> None:
        """Let go of what is no task."""
        ...

    def tasks_failed(self, bug: BaseException | None) -> None:
        """A task raised this, or with None the root task was cancelled from outside; waiting is over, all is gone."""
        ...


class Latch:
    """What happens once, and may be waited for: an event that has no queue, of 760 bytes, before somebody waits."""

    __slots__ = ("_event", "is_set")

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        self.is_set: bool = False

    def set(self) -> None:
        """It has happened."""
        self.is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Until it has happened."""
        if self.is_set:
            return
        if self._event is None:
            self._event = asyncio.Event()
        await self._event.wait()


class Tasks:
    """The tasks of one client."""

    __slots__ = ("_client", "_group", "_over", "_owned", "_quiet", "_root", "_spared", "_stop", "stopping")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._group: asyncio.TaskGroup | None = None
        self._root: asyncio.Task[None] | None = None
        self._owned: set[asyncio.Task[Any]] = set()
        self._spared: list[asyncio.Task[Any]] = []
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._quiet = Latch()
        self._over = Latch()
        self.stopping: bool = False
        """Tasks are about to be cancelled, or were."""

    @property
    def ending(self) -> bool:
        """Whether a cancellation is the end of the client or of its event loop, which cancels tasks in any order."""
        root = self._root
        return self.stopping or (root is not None and (root.done() or root.cancelling() > 0))

    async def start(self) -> None:
        """Start the root task."""
        self._root = asyncio.create_task(self._live(), name="supawire")
        await asyncio.sleep(0)  # it has begun when we go on

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None] | None":
        """Own one more task; None when everything is ending, and the work is not begun."""
        if self._group is None or self.stopping:
            work.close()
            return None
        task = self._group.create_task(work, name=f"supawire-{name}")
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)
        return task

    def stop(self) -> None:
        """End everything; `ended` waits for it."""
        self.stopping = True
        if not self._stop.done():
            self._stop.set_result(None)

    def spare(self) -> None:
        """The caller is about to wait for the end: a task of ours in which it runs, or whose call it is, goes on."""
        call = Call.of(self)
        for task in (asyncio.current_task(), call.task if call is not None else None):
            if task is not None and (task in self._owned or call is not None):
                self._spared.append(task)

    async def ended(self) -> None:
        """Wait until everything has ended but tasks that wait for this themselves, or cannot be ended."""
        await self._quiet.wait()
        if not self._owned:
            await self._over.wait()

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                try:
                    await self._stop
                finally:
                    self.stopping = True  # whatever ends us now, the tasks shall know that it is the end
                await self._end_others()
                await self._client.tasks_ended()
                self._quiet.set()
        except BaseExceptionGroup as failures:
            self._client.tasks_failed(first_of(failures))
        except BaseException:
            self._client.tasks_failed(None)
            raise
        finally:
            self.stopping = True
            self._quiet.set()
            self._over.set()

    async def _end_others(self) -> None:
        """Cancel all but the spared ones, and wait; while we wait, a task may be spared, or turn out to be stubborn."""
        asked: set[asyncio.Task[Any]] = set()
        bound = asyncio.get_running_loop().time() + SHUTDOWN_TIMEOUT
        while others := self._owned.difference(self._spared):
            for task in others - asked:
                task.cancel()
            asked |= others
            if asyncio.get_running_loop().time() > bound:
                return
            await asyncio.wait(others, timeout=_LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED)


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group of groups."""
    first: Any = failures
    while isinstance(first, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", first).exceptions[0]
    return cast("BaseException", first)
