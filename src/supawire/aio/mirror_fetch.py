"""Calls of the user's `fetch` for a mirror: on the event loop or on a thread, with timeout and cancellation.

A coroutine function runs on the event loop. A plain function may block, so it runs on a thread of ours, together with
the iteration of its result. A thread cannot be stopped: an abandoned one is left running, and the next call waits until
it has ended, so that a hanging fetch occupies one thread, not one per attempt.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, cast

from supawire._mirror_events import Rows, RowSource
from supawire.aio.callbacks import is_async
from supawire.aio.driver import Driver
from supawire.aio.reporting import described
from supawire.aio.usercode import Call, is_closed_from_outside
from supawire.errors import HandlerError, InvalidArgumentError, OperationTimeout, RealtimeError, RowError

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds that the end of a mirror waits for a fetch that suppresses its cancellation."""


class MirrorFetcher:
    """The fetches of one mirror, as tasks of its client.

    Args: timeout: seconds of one fetch; None: no limit. answered: called with the rows or the error of each fetch that
    was not abandoned.
    """

    def __init__(
        self,
        driver: Driver,
        fetch: RowSource,
        read: Callable[[Iterable[Any]], Rows],
        timeout: float | None,
        topic: str,
        answered: Callable[[int, Rows | RealtimeError], None],
    ) -> None:
        self._driver = driver
        self._calls = Calls(fetch, read, blocking=driver.blocking)
        self._name = described(fetch)
        self._timeout = timeout
        self._topic = topic
        self._answered = answered
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: int | None = None

    def begin(self, generation: int) -> None:
        """Start a fetch; its result is reported with this generation."""
        self._asked = generation
        task = self._driver.tasks.spawn(self._run(generation), f"fetch-{generation}")
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def abandon(self) -> None:
        """Cancel the running fetch, whose result is no longer needed."""
        self._asked = None
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until no fetch is running, except one that the caller runs in, or that cannot be ended."""
        if self._tasks and (others := self._tasks - {asyncio.current_task()}):
            await asyncio.wait(others, timeout=SHUTDOWN_TIMEOUT)

    async def _run(self, generation: int) -> None:
        bound = asyncio.timeout(self._timeout)
        answer: Rows | RealtimeError
        own = asyncio.current_task()
        try:
            with Call(self._driver.tasks, own):
                async with bound:
                    answer = await self._calls.rows()
        except RowError as error:
            answer = error
        except asyncio.CancelledError as error:
            if self._driver.tasks.ending or self._asked != generation:
                raise
            answer = self._raised(error)
        except BaseException as error:
            if is_closed_from_outside(error, own):
                raise
            if self._driver.exits.take(error):
                return
            answer = self._slow() if bound.expired() and isinstance(error, TimeoutError) else self._raised(error)
        self._answered(generation, answer)

    def _raised(self, error: BaseException) -> HandlerError:
        text = f"the fetch {self._name} raised {type(error).__name__}: {error}"
        raised = HandlerError(text, topic=self._topic, hint="It is tried again; the mirror is not live until then.")
        raised.__cause__ = error
        return raised

    def _slow(self) -> OperationTimeout:
        return OperationTimeout(
            f"the fetch {self._name} did not answer within {self._timeout:g} s",
            topic=self._topic,
            hint="It is tried again; give it more time with timeout=.",
        )


class Calls:
    """Calls of one `fetch`, one at a time. `read` converts the result to rows.

    Args: blocking: for the blocking client, whose event loop runs no user code.
    """

    def __init__(self, fetch: RowSource, read: Callable[[Iterable[Any]], Rows], *, blocking: bool) -> None:
        self._fetch = fetch
        self._read = read
        self._blocking = blocking
        self._busy: asyncio.Future[tuple[Any, BaseException | None]] | None = None

    async def rows(self) -> Rows:
        """Return the fetched rows. Raises what `fetch` raises, and `RowError` if the result is not rows."""
        given: Any = self._fetch() if is_async(self._fetch) else await self._on_thread()
        if isinstance(given, _Read):
            return given.rows
        if inspect.isawaitable(given):
            given = await given
        return self._read([row async for row in given] if hasattr(given, "__aiter__") else given)

    async def _on_thread(self) -> Any:
        if self._busy is not None:
            await asyncio.shield(self._busy)
        loop = asyncio.get_running_loop()
        busy = self._busy = cast("asyncio.Future[tuple[Any, BaseException | None]]", loop.create_future())

        def settle(given: Any, error: BaseException | None) -> None:
            self._busy = None
            busy.set_result((given, error))

        def work() -> None:
            given, error = None, None
            try:
                given = self._gather(self._fetch())
            except BaseException as raised:  # noqa: BLE001  raised where it is awaited
                error = raised
            try:
                loop.call_soon_threadsafe(settle, given, error)
            except RuntimeError:
                return  # the loop was closed meanwhile

        threading.Thread(target=work, name="supawire-fetch", daemon=True).start()
        given, error = await asyncio.shield(busy)
        if error is not None:
            raise (
                error if isinstance(error, Exception) else RuntimeError(f"it raised {type(error).__name__}")
            ) from error
        return given

    def _gather(self, given: Any) -> Any:
        """Read the rows, unless they must be awaited on the event loop."""
        if not (inspect.isawaitable(given) or hasattr(given, "__aiter__")):
            return _Read(self._read(cast("Iterable[Any]", given)))
        if self._blocking:
            if inspect.iscoroutine(given):
                given.close()
            raise not_here()
        return given


def not_here() -> InvalidArgumentError:
    """Return the error for an async fetch in the blocking client."""
    return InvalidArgumentError(
        "the blocking door has no event loop for an async fetch: give a plain function, which may block",
        hint="It runs on a thread of its own, where asyncio.run() works; or use connect_async.",
    )


class _Read(NamedTuple):
    """Rows that were read on the thread."""

    rows: Rows
