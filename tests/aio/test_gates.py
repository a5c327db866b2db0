"""Where threads wait for the event loop."""

import threading
from typing import Any

import pytest

from supawire.aio.thread_buffer import SLICE, locked_gate, wait_at_gate


class Slow:
    """A lock that is released before the n-th look at it, and says how long each look may take."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.asked: list[float] = []

    def acquire(self, timeout: float) -> bool:
        self.asked.append(timeout)
        return len(self.asked) >= self.looks


@pytest.mark.parametrize("timeout", [None, 600.0])
def test_no_wait_is_longer_than_a_slice(timeout: float | None):
    """Ctrl-C that comes in the moment before a wait is heard when that ends, so none may be for ever (R46)."""
    gate: Any = Slow(5)
    assert wait_at_gate(gate, timeout)
    assert len(gate.asked) == 5 and all(0 < asked <= SLICE for asked in gate.asked)


def test_another_thread_lets_it_through():
    """And it is closed again behind who went through."""
    gate = locked_gate()
    threading.Timer(0, gate.release).start()
    assert wait_at_gate(gate)
    assert not wait_at_gate(gate, 0)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_time_limit_is_kept(timeout: float):
    """Without a release it is False; with one, no time at all is enough."""
    gate = locked_gate()
    assert not wait_at_gate(gate, timeout)
    gate.release()
    assert wait_at_gate(gate, timeout)
