"""The async client, its channels and mirrors behind blocking ones: the same, but threads read their iterators."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from supawire._mirror_events import Row, RowSource, RowView
from supawire.aio.buffers import Key, ThreadFlowControl
from supawire.aio.callbacks import is_async
from supawire.aio.channel import AsyncChannel
from supawire.aio.client import AsyncClient
from supawire.aio.mirror import AsyncMirror
from supawire.aio.mirror_fetch import not_here
from supawire.aio.stream import Moves, Source
from supawire.aio.subscriptions import Registration
from supawire.aio.thread_buffer import ThreadBuffer, make_thread_buffer, make_thread_safe
from supawire.options import check_bool
from supawire.selectors import Selector


class Listening(NamedTuple):
    """What an iterator is made of."""

    registration: Registration
    buffer: ThreadBuffer
    source: Source


class ThreadedAsyncChannel(AsyncChannel):
    """The async channel behind a blocking one."""

    def listen_on_thread(
        self, selectors: tuple[Selector[Any], ...], buffer: int, overflow: str, key: Key | None
    ) -> Listening:
        """`listen` for an iterator that a thread reads."""
        self._check_selectors(selectors)
        driver = self._driver
        kept = make_thread_buffer(driver, buffer, overflow, key)
        put = make_thread_safe(selectors, kept.put, driver.loop)
        registration = driver.registry.add(self._topic, selectors, put, kept, driver.now())
        driver.pump()
        return Listening(registration, kept, self._events(selectors))


class ThreadedAsyncClient(AsyncClient):
    """The async client behind a blocking one."""

    _kind = ThreadedAsyncChannel

    def _watch_end(self) -> None:
        """The client in front of it does that."""

    @property
    def address(self) -> str:
        """Host and port of the server, for people to read."""
        return self._driver.endpoint.address

    def listen_on_thread(self, buffer: int, overflow: str, key: Key | None, heartbeats: bool = False) -> Listening:
        """`listen` for an iterator that a thread reads."""
        driver = self._driver
        driver.check_loop()
        check_bool("heartbeats", heartbeats)
        kept = make_thread_buffer(driver, buffer, overflow, key)
        put = cast("Callable[[Any], None]", kept.put)  # what it returns is not looked at
        return Listening(driver.registry.add(None, (), put, kept, driver.now(), None, heartbeats), kept, Moves(driver))

    def mirror_behind(self, table: str, fetch: RowSource, **options: Any) -> "ThreadedAsyncMirror":
        """`mirror` for one that threads read."""
        if is_async(fetch) or inspect.isasyncgenfunction(fetch):
            raise not_here()
        return ThreadedAsyncMirror(*self._mirror_options(table, fetch, **options))


class ThreadedAsyncMirror(AsyncMirror[Any]):
    """The async mirror behind a blocking one."""

    @property
    def table(self) -> str:
        """What it is a copy of."""
        return self._machine.settings.table

    @property
    def shown(self) -> RowView:
        """How users see rows."""
        return self._shown

    def kept(self) -> list[Row]:
        """All rows as they are kept; not to be changed."""
        return list(self._machine.rows.values())

    def listen_on_thread(self, buffer: int) -> Listening:
        """`listen` for an iterator that a thread reads."""
        self._check()
        kept = ThreadBuffer(self._buffer(buffer), ThreadFlowControl(self._driver.grace_pause, self._driver.loop))
        return Listening(self._feed(kept), kept, self._source)
