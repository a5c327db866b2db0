"""The async client, channel and mirror behind the sync ones: the same, but their iterators are read by threads."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from supawire._mirror_events import Row, RowLookup, RowSource, RowView
from supawire.aio.buffers import Key
from supawire.aio.callbacks import is_async
from supawire.aio.channel import AsyncChannel
from supawire.aio.client import AsyncClient, ClientEvents
from supawire.aio.history import AsyncMessageStream
from supawire.aio.mirror import AsyncMirror
from supawire.aio.mirror_fetch import async_fetch_error
from supawire.aio.stream import Source
from supawire.aio.subscriptions import Registration
from supawire.aio.thread_buffer import ThreadBuffer, make_thread_buffer, make_thread_safe
from supawire.options import check_bool
from supawire.selectors import Selector


class Listening(NamedTuple):
    """The parts of a sync iterator."""

    registration: Registration
    buffer: ThreadBuffer
    source: Source


class ThreadedAsyncChannel(AsyncChannel):
    """The async channel behind a sync one."""

    def listen_on_thread(
        self, selectors: tuple[Selector[Any], ...], buffer: int, overflow: str, key: Key | None
    ) -> Listening:
        """Return the parts of an iterator like that of `listen`, to be read by a thread."""
        self._check_selectors(selectors)
        driver = self._driver
        kept = make_thread_buffer(driver.pauses, buffer, overflow, key)
        received = kept.put if driver.telemetry is None else driver.telemetry.listener(kept.put)
        put = make_thread_safe(selectors, received, driver.loop)
        registration = driver.registry.add(self._topic, selectors, put, kept, driver.now())
        driver.pump()
        return Listening(registration, kept, self._events(selectors))

    def resume_on_thread(
        self, selectors: tuple[Selector[Any], ...], overflow: str, key: Key | None, from_: object, **options: Any
    ) -> AsyncMessageStream[Any]:
        """Return the async stream behind a sync one."""
        self._check_selectors(selectors)
        return self._resume(selectors, overflow, key, from_, **options)


class ThreadedAsyncClient(AsyncClient):
    """The async client behind a sync one."""

    _kind = ThreadedAsyncChannel

    def _watch_end(self) -> None:
        """Do nothing: the sync client registers the finalizer."""

    @property
    def address(self) -> str:
        """Host and port of the server, for messages."""
        return self._driver.endpoint.address

    def listen_on_thread(self, buffer: int, overflow: str, key: Key | None, heartbeats: bool = False) -> Listening:
        """Return the parts of an iterator like that of `listen`, to be read by a thread."""
        driver = self._driver
        driver.check_loop()
        check_bool("heartbeats", heartbeats)
        kept = make_thread_buffer(driver.pauses, buffer, overflow, key)
        put = cast("Callable[[Any], None]", kept.put)  # its result is ignored
        return Listening(
            driver.registry.add(None, (), put, kept, driver.now(), None, heartbeats), kept, ClientEvents(driver)
        )

    def make_mirror(
        self, table: str, fetch: RowSource, fetch_row: RowLookup | None, **options: Any
    ) -> "ThreadedAsyncMirror":
        """Make the async mirror behind a sync one."""
        if is_async(fetch) or inspect.isasyncgenfunction(fetch) or is_async(fetch_row):
            raise async_fetch_error()
        return ThreadedAsyncMirror(*self._mirror_options(table, fetch, fetch_row, **options))


class ThreadedAsyncMirror(AsyncMirror[Any]):
    """The async mirror behind a sync one."""

    @property
    def table(self) -> str:
        """The name of the table."""
        return self._machine.settings.table

    @property
    def shown(self) -> RowView:
        """Converts rows to what the user gets."""
        return self._shown

    def kept(self) -> list[Row]:
        """Return all rows as stored; they must not be changed."""
        return list(self._machine.rows.values())

    def listen_on_thread(self, buffer: int) -> Listening:
        """Return the parts of an iterator like that of `listen`, to be read by a thread."""
        self._check()
        kept = ThreadBuffer(self._buffer(buffer), self._driver.pauses.grace_pause_of_thread())
        return Listening(self._add_iterator(kept), kept, self._source)
