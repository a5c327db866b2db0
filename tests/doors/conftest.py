"""Every scenario runs through both doors."""

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
