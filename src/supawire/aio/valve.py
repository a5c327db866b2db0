"""Who may stop the reading of the socket, and for how long (api §3, overflow="pause").

Reading stops while a buffer with that policy is full: for at most one heartbeat interval, and never while a request of
ours waits for its reply, since the reply would never be read. Then the valve is open, and a buffer that is still full
overflows as with "error".
"""

import asyncio
from collections.abc import Callable


class Valve:
    """The valve of one client.

    Args: patience: seconds that reading may stop. awaits_reply: whether a request waits. set_reading: stop or go on.
    """

    __slots__ = ("_awaits_reply", "_holders", "_patience", "_set_reading", "_timer")

    def __init__(self, patience: float, awaits_reply: Callable[[], bool], set_reading: Callable[[bool], None]) -> None:
        self._patience = patience
        self._awaits_reply = awaits_reply
        self._set_reading = set_reading
        self._holders: set[object] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def closed(self) -> bool:
        """Whether reading stands still."""
        return self._timer is not None

    def hold(self, holder: object) -> bool:
        """Stop reading because this holder is full; False when that may not be (any longer)."""
        if holder in self._holders:
            return self.closed
        if self._awaits_reply():
            return False
        self._holders.add(holder)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience, self.open)
            self._set_reading(False)
        return True

    def release(self, holder: object) -> None:
        """This holder has room again, or is gone."""
        self._holders.discard(holder)
        if not self._holders:
            self.open()

    def check(self) -> None:
        """A request may have been sent since: then read on."""
        if self._timer is not None and self._awaits_reply():
            self.open()

    def open(self) -> None:
        """Read on. Holders that are still full stay known as such, and stop nothing until they have had room."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._set_reading(True)


class ThreadValve:
    """The same valve for a buffer that is filled on the loop and emptied on a thread."""

    def __init__(self, valve: Valve, loop: asyncio.AbstractEventLoop) -> None:
        self._valve = valve
        self._loop = loop

    def hold(self, holder: object) -> bool:
        """On the loop: see `Valve.hold`."""
        return self._valve.hold(holder)

    def release(self, holder: object) -> None:
        """On any thread: see `Valve.release`."""
        try:
            self._loop.call_soon_threadsafe(self._valve.release, holder)
        except RuntimeError:
            return  # the loop was closed: nothing is read any more
