"""A server, and nothing left behind."""

import threading
from collections.abc import Iterator

import pytest

from supawire import LocalServer


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """A local server that runs."""
    with LocalServer() as server:
        yield server


def ours() -> list[str]:
    """Threads of clients that are there now."""
    names = sorted(thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith("supawire-") and name != "supawire-local-server"]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a thread of a client behind (R10)."""
    yield
    assert ours() == []
