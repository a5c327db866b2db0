"""Presence for listeners on threads: the state is taken where it changes.

`PresenceSync.state` is taken when it is first read, from what the core holds at that moment. Everything else that an
event has is its own, and may be read anywhere.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, cast

from supawire.selectors import PresenceSelector, Selector
from supawire.types import PresenceSync

T = TypeVar("T")

_LOOK_AGAIN: Final = 0.1


def crossing(
    selectors: Iterable[Selector[Any]], put: Callable[[Any], object], loop: asyncio.AbstractEventLoop
) -> Callable[[Any], None]:
    """The same `put`, from which a thread may read any event of these selectors."""

    def put_safely(event: Any) -> None:
        if type(event) is PresenceSync:
            put(PresenceSync(event.topic, lambda: _fetch(lambda: event.state, loop)))
        else:
            put(event)

    has_presence = any(isinstance(selector, PresenceSelector) for selector in selectors)
    return put_safely if has_presence else cast("Callable[[Any], None]", put)  # what it returns is not looked at


def _fetch(function: Callable[[], T], loop: asyncio.AbstractEventLoop) -> T:
    """What the function returns on the event loop; when that has ended nothing changes any more, so here."""
    got: list[T] = []
    here = threading.Event()

    def call() -> None:
        got.append(function())
        here.set()

    try:
        if asyncio.get_running_loop() is loop:
            return function()
    except RuntimeError:
        pass  # no loop runs here
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return function()
    while not here.wait(_LOOK_AGAIN):
        if loop.is_closed():
            return function()
    return got[0]
