"""Fixtures: a local server, and a check that no thread of a client is left."""

import threading
from collections.abc import Iterator

import pytest

from supawire import Client, ClientOptions, LocalServer
from supawire.aio.driver import Driver, DriverSettings
from supawire.sync.portal import Portal


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """Yield a running local server."""
    with LocalServer() as server:
        yield server


def opened(server: LocalServer, settings: DriverSettings) -> Client:
    """Open a sync client whose driver has these settings."""
    options = ClientOptions()

    async def start() -> Driver:
        endpoint = options.endpoint(server.url, server.anon_key)
        driver = Driver(endpoint, options, on_thread=True, settings=settings)
        await driver.open()
        return driver

    portal = Portal()
    return Client(portal, portal.open(start))


def ours() -> list[str]:
    """Return the running threads of clients."""
    names = sorted(thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith("supawire-") and name != "supawire-local-server"]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Check that no test leaves a thread of a client running (R10)."""
    yield
    assert ours() == []
