"""Each scenario runs with the async and the sync client."""

from collections.abc import Iterator

import pytest

from supawire import LocalServer
from tests.clients.client_api import ClientApi


@pytest.fixture(params=["async", "sync"])
def api(request: pytest.FixtureRequest) -> ClientApi:
    """The kind of client that the scenario runs with."""
    return ClientApi(request.param)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """A local server that runs."""
    with LocalServer() as server:
        yield server
