"""Prepares objects with an open SQLite file for `fork()`.

The locks of SQLite belong to a process, but a child of `fork()` inherits its record of them, and any mutex of SQLite
that another thread holds at that moment. With a connection that was open at the fork, the child would use the file
without locks or wait without end, and the parent might delete the log of the child. So a fork waits for running calls,
and the connections are closed before it; the next call opens them again.
"""

import os
import threading
import weakref
from typing import Final, Protocol


class Forkable(Protocol):
    """An object that must be prepared for a fork."""

    def _before_fork(self) -> None:
        """Wait for the end of a call, prevent further ones, and close what must not be inherited."""
        ...

    def _after_fork(self) -> None:
        """Allow calls again; called in the parent and in the child."""
        ...


class Forks:
    """Prepares all registered objects of this process for each fork that Python makes."""

    def __init__(self) -> None:
        self._objects: weakref.WeakSet[Forkable] = weakref.WeakSet()
        self._lock: threading.RLock = threading.RLock()
        self._held: list[Forkable] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._after)

    def add(self, it: Forkable) -> None:
        """Prepare this object for each later fork, as long as it exists."""
        with self._lock:
            self._objects.add(it)

    def _before(self) -> None:
        self._lock.acquire()  # of two threads that fork, one waits
        for it in list(self._objects):
            self._held.append(it)
            it._before_fork()  # pyright: ignore[reportPrivateUsage]  not for users

    def _after(self) -> None:
        while self._held:
            self._held.pop()._after_fork()  # pyright: ignore[reportPrivateUsage]
        self._lock.release()


FORKS: Final = Forks()
