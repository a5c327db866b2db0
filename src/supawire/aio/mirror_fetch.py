"""Calls of the user's `fetch` and `fetch_row` for a mirror, with timeout and cancellation.

A coroutine function runs on the event loop. A plain function may block, so it runs on a thread of ours, together with
the iteration of its result. A thread cannot be stopped: an abandoned one is left running, and counts among those that
may run at once, so that a hanging fetch occupies one thread, not one per attempt.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable
from copy import copy
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from supawire.aio.callbacks import Exits, UserCall, describe_callable, is_async, is_closed_from_outside
from supawire.aio.tasks import Tasks
from supawire.errors import HandlerError, InvalidArgumentError, OperationTimeout, RealtimeError, RowError

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds that the end of a mirror waits for a fetch that suppresses its cancellation."""


T = TypeVar("T")


class MirrorFetcher(Generic[T]):
    """The fetches of one mirror, of all rows or of single ones, as tasks of its client.

    Args: timeout: seconds of one fetch; None: no limit. on_result: called with the number and the result or error of
    each fetch that was not abandoned. hint: what follows an error, for its text.
    """

    def __init__(
        self,
        tasks: Tasks,
        exits: Exits,
        calls: "FetchCalls[T]",
        *,
        timeout: float | None,
        topic: str,
        on_result: Callable[[int, T | RealtimeError], None],
        hint: str = "It is called again later; the mirror is not live until then.",
    ) -> None:
        self._spawner = tasks
        self._exits = exits
        self._calls = calls
        self._timeout = timeout
        self._topic = topic
        self._on_result = on_result
        self._hint = hint
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._running: set[int] = set()

    def begin(self, number: int, *arguments: Any) -> None:
        """Start a fetch; its result is reported with this number."""
        self._running.add(number)
        task = self._spawner.spawn(self._run(number, *arguments), f"{self._calls.what}-{number}")
        if task is not None:
            self._tasks[task] = number
            task.add_done_callback(self._tasks.pop)

    def abandon(self, number: int) -> None:
        """Cancel a running fetch, whose result is no longer needed."""
        self._running.discard(number)
        for task, its_number in self._tasks.items():
            if its_number == number:
                task.cancel()

    async def ended(self) -> None:
        """Wait until no fetch is running, except one that the caller runs in, or that cannot be ended."""
        if self._tasks and (others := self._tasks.keys() - {asyncio.current_task()}):
            await asyncio.wait(others, timeout=SHUTDOWN_TIMEOUT)

    async def _run(self, number: int, *arguments: Any) -> None:
        bound = asyncio.timeout(self._timeout)
        answer: T | RealtimeError
        own = asyncio.current_task()
        try:
            with UserCall(self._spawner, own):
                async with bound:
                    answer = await self._calls.result(*arguments)
        except RowError as error:
            answer = error
        except asyncio.CancelledError as error:
            if self._spawner.ending or number not in self._running:
                raise
            answer = self._raised(error)
        except BaseException as error:
            if is_closed_from_outside(error, own):
                raise
            if self._exits.take(error):
                return
            answer = self._slow() if bound.expired() and isinstance(error, TimeoutError) else self._raised(error)
        self._running.discard(number)
        self._on_result(number, answer)

    def _raised(self, error: BaseException) -> HandlerError:
        text = f"{self._calls.name} raised {type(error).__name__}: {error}"
        raised = HandlerError(text, topic=self._topic, hint=self._hint)
        raised.__cause__ = error
        return raised

    def _slow(self) -> OperationTimeout:
        return OperationTimeout(
            f"{self._calls.name} did not answer within {self._timeout:g} s",
            topic=self._topic,
            hint=f"{self._hint} Give it more time with timeout=.",
        )


class FetchCalls(Generic[T]):
    """Calls of one function of the user. `read` converts its arguments and result to what is needed.

    Args: what: the name of the option that the function was given for. on_thread_only: for the sync client, whose event
        loop runs no user code. at_once: how many threads it may run on at once.
    """

    def __init__(
        self,
        what: str,
        function: Callable[..., Any],
        read: Callable[..., T],
        *,
        on_thread_only: bool,
        at_once: int = 1,
    ) -> None:
        self.what = what
        self.name: str = f"the {what} {describe_callable(function)}"
        self._function = function
        self._read = read
        self._on_thread_only = on_thread_only
        self._at_once = at_once
        self._busy: set[asyncio.Future[tuple[Any, BaseException | None]]] = set()

    async def result(self, *arguments: Any) -> T:
        """Return what was fetched. Raises what the function raises, and `RowError` if it did not return rows."""
        plain = not is_async(self._function)
        result: Any = await self._on_thread(*arguments) if plain else self._call(arguments)
        if isinstance(result, _Read):
            return cast("T", result.result)
        if inspect.isawaitable(result):
            result = await result
        return self._read(*arguments, [row async for row in result] if hasattr(result, "__aiter__") else result)

    def _call(self, arguments: tuple[Any, ...]) -> Any:
        """Call the function with copies, which it may change."""
        return self._function(*map(copy, arguments))

    async def _on_thread(self, *arguments: Any) -> Any:
        while len(self._busy) >= self._at_once:
            await asyncio.wait(self._busy, return_when=asyncio.FIRST_COMPLETED)
        loop = asyncio.get_running_loop()
        busy = cast("asyncio.Future[tuple[Any, BaseException | None]]", loop.create_future())
        self._busy.add(busy)

        def settle(result: Any, error: BaseException | None) -> None:
            self._busy.discard(busy)
            busy.set_result((result, error))

        def work() -> None:
            result, error = None, None
            try:
                result = self._gather(arguments, self._call(arguments))
            except BaseException as raised:  # noqa: BLE001  raised where it is awaited
                error = raised
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                return  # the loop was closed meanwhile

        try:
            threading.Thread(target=work, name=f"supawire-{self.what}", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            self._busy.discard(busy)
            raise
        result, error = await asyncio.shield(busy)
        if error is not None:
            raise (
                error if isinstance(error, Exception) else RuntimeError(f"it raised {type(error).__name__}")
            ) from error
        return result

    def _gather(self, arguments: tuple[Any, ...], result: Any) -> Any:
        """Read the rows, unless they must be awaited on the event loop."""
        if not (inspect.isawaitable(result) or hasattr(result, "__aiter__")):
            return _Read(self._read(*arguments, result))
        if self._on_thread_only:
            if inspect.iscoroutine(result):
                result.close()
            raise async_fetch_error()
        return result


def async_fetch_error() -> InvalidArgumentError:
    """Return the error for an async fetch in the sync client."""
    return InvalidArgumentError(
        "the sync client has no event loop for an async fetch; pass a plain function, which may block",
        hint="It runs on a thread of its own, where asyncio.run() works; or use connect_async.",
    )


class _Read(NamedTuple):
    """What was read on the thread."""

    result: Any
