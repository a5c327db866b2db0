"""Fixtures: the kind of client, so that each scenario runs with both, and a local server."""

from collections.abc import Iterator

import pytest

from supawire import LocalServer
from tests.clients.client_api import ClientApi


@pytest.fixture(params=["async", "sync"])
def api(request: pytest.FixtureRequest) -> ClientApi:
    """Return the kind of client that the scenario runs with."""
    return ClientApi(request.param)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """Yield a running local server."""
    with LocalServer() as server:
        yield server
