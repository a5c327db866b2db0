"""The async client and its channels behind a blocking one: the same, but their iterators are read on threads."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from supawire.aio.buffers import Key
from supawire.aio.channel import AsyncChannel
from supawire.aio.client import AsyncClient, Moves
from supawire.aio.crossing import crossing
from supawire.aio.handover import Handover, make_handover
from supawire.aio.registry import Registration
from supawire.aio.stream import Source
from supawire.selectors import Selector


class Listening(NamedTuple):
    """What an iterator is made of."""

    registration: Registration
    buffer: Handover
    source: Source


class ChannelBehind(AsyncChannel):
    """The async channel behind a blocking one."""

    def listen_on_thread(
        self, selectors: tuple[Selector[Any], ...], buffer: int, overflow: str, key: Key | None
    ) -> Listening:
        """`listen` for an iterator that a thread reads."""
        self._check_selectors(selectors)
        driver = self._driver
        kept = make_handover(driver, buffer, overflow, key)
        put = crossing(selectors, kept.put, driver.loop)
        registration = driver.registry.add(self._topic, selectors, put, kept, driver.now())
        driver.pump()
        return Listening(registration, kept, self._events)


class ClientBehind(AsyncClient):
    """The async client behind a blocking one."""

    _kind = ChannelBehind

    def listen_on_thread(self, buffer: int, overflow: str, key: Key | None) -> Listening:
        """`listen` for an iterator that a thread reads."""
        driver = self._driver
        driver.check_loop()
        kept = make_handover(driver, buffer, overflow, key)
        put = cast("Callable[[Any], None]", kept.put)  # what it returns is not looked at
        return Listening(driver.registry.add(None, (), put, kept, driver.now()), kept, Moves(driver))
