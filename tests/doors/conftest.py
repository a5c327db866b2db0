"""Every scenario runs through both doors."""

import threading
from collections.abc import Iterator

import pytest

from supawire import LocalServer
from tests.doors.door import Door


@pytest.fixture(params=["async", "blocking"])
def door(request: pytest.FixtureRequest) -> Door:
    """The door that is gone through."""
    return Door(request.param)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """A local server that runs."""
    with LocalServer() as server:
        yield server


@pytest.fixture(autouse=True)
def answered() -> Iterator[None]:
    """The thread of a token provider ends a moment after its answer; the next test shall not find it."""
    yield
    for thread in threading.enumerate():
        if thread.name == "supawire-token":
            thread.join(5)
