"""The user's `fetch`: called where it may wait, or block, and given up when nobody wants its answer any more.

A coroutine function runs on the loop. A plain one may block, so it runs on a thread of ours, a generator's steps too,
and there its rows are read.
A thread cannot be stopped: one that was given up is left alone, and the next call waits until it has ended, so that a
fetch that hangs for ever holds one thread and not one for each attempt.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

from supawire._mirrored import Rows, RowSource
from supawire.aio.hooks import is_async


class Fetching:
    """Calls of one `fetch`, one at a time. `read` makes of what it gives what is wanted of it."""

    def __init__(self, fetch: RowSource, read: Callable[[Iterable[Any]], Rows]) -> None:
        self._fetch = fetch
        self._read = read
        self._busy: asyncio.Future[tuple[Any, BaseException | None]] | None = None

    async def rows(self) -> Rows:
        """The rows that it gives. Raises what it raises, and `RowError` for what are no rows."""
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
            except BaseException as raised:  # noqa: BLE001  it is told where it is awaited
                error = raised
            try:
                loop.call_soon_threadsafe(settle, given, error)
            except RuntimeError:
                return  # the loop was closed meanwhile: nobody waits

        threading.Thread(target=work, name="supawire-fetch", daemon=True).start()
        given, error = await asyncio.shield(busy)
        if error is not None:
            raise (
                error if isinstance(error, Exception) else RuntimeError(f"it raised {type(error).__name__}")
            ) from error
        return given

    def _gather(self, given: Any) -> Any:
        """The rows, but for those that only the loop can wait for."""
        waits = inspect.isawaitable(given) or hasattr(given, "__aiter__")
        return given if waits else _Read(self._read(cast("Iterable[Any]", given)))


class _Read(NamedTuple):
    """Rows that were read on the thread."""

    rows: Rows
