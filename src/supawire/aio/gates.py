"""How a thread waits for the event loop, and what it may not do any more when the interpreter ends."""

import threading
import time
from typing import Final

SLICE: Final = 1.0
"""Seconds of one wait. A signal that comes just before the system begins to wait is heard only when that ends: CPython
looks for signals between two bytecodes, and a lock is waited for within one."""


def closed_gate() -> threading.Lock:
    """A lock that is taken; whoever is waited for releases it, from any thread."""
    gate = threading.Lock()
    gate.acquire()
    return gate


def pass_gate(gate: threading.Lock, timeout: float | None = None) -> bool:
    """Wait until the lock is released; False when that takes more than so many seconds. Ctrl-C ends it."""
    if timeout is None:
        while not gate.acquire(timeout=SLICE):
            pass
        return True
    deadline = time.monotonic() + timeout
    while not gate.acquire(timeout=max(0.0, min(SLICE, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            return False
    return True


def is_of_the_end(error: Exception) -> bool:
    """Whether it is only that no thread can be started any more, since the interpreter ends; then nobody is told."""
    return isinstance(error, RuntimeError) and "interpreter shutdown" in str(error)
