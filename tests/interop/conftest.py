"""A local server, our client and an official one, in every combination of wire versions."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest

from supawire import connect_async
from supawire.aio.client import AsyncClient
from supawire.server import LocalServer

from .official import PEERS, Peer, Process
from .owners import MemoryOwner, Owner, PostgresOwner

OFFICIAL: Final = ("python 1.0.0", "javascript 1.0.0", "javascript 2.0.0")
OURS: Final = ("1.0.0", "2.0.0")


class Pair(NamedTuple):
    """Our client and an official one on one server, and the actions of its owner."""

    server: LocalServer
    owner: Owner
    ours: AsyncClient
    peer: Peer
    our_version: Any
    peer_version: str
    peer_is_python: bool

    @property
    def supports_bytes(self) -> bool:
        """Return whether both use the version that has binary messages."""
        return self.our_version == self.peer_version == "2.0.0"


@pytest.fixture(scope="session")
def official_python(require: Callable[[str], str]) -> Iterator[Process]:
    """Start the official Python client."""
    process = Process([require("realtime-py"), str(PEERS / "peer.py")])
    yield process
    process.stop()


@pytest.fixture(scope="session")
def official_javascript(require: Callable[[str], str]) -> Iterator[Process]:
    """Start the official JavaScript client."""
    require("realtime-js")
    process = Process([require("node"), str(PEERS / "peer.mjs")])
    yield process
    process.stop()


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """Start a local server without delays and limits."""
    with LocalServer() as server:
        yield server


@pytest.fixture(params=["memory", "postgres"])
def owner(request: pytest.FixtureRequest) -> Owner:
    """Return a server with each backend, where signed-in users have all permissions."""
    if request.param == "memory":
        return MemoryOwner(request.getfixturevalue("server"))
    pytest.importorskip("psycopg", reason="not run: it needs the extra postgres")
    return PostgresOwner(request.getfixturevalue("realtime_pg_server"))


@pytest.fixture(params=OURS, ids=lambda vsn: f"ours {vsn}")
def our_version(request: pytest.FixtureRequest) -> Any:
    return request.param


class Official(NamedTuple):
    """An official library and the wire version it uses."""

    process: Process
    language: str
    vsn: str


@pytest.fixture(params=OFFICIAL)
def official(request: pytest.FixtureRequest) -> Official:
    """Return each official library in each version that it supports."""
    language, _, vsn = request.param.partition(" ")
    return Official(request.getfixturevalue(f"official_{language}"), language, vsn)


@pytest.fixture
async def pair(owner: Owner, our_version: Any, official: Official) -> AsyncIterator[Pair]:
    """Connect both clients with tokens of signed-in users."""
    server = owner.server
    peer = official.process.client()
    await peer.open(server.url, server.token(), official.vsn)
    async with connect_async(server.url, server.token(), protocol=our_version) as ours:
        yield Pair(server, owner, ours, peer, our_version, official.vsn, official.language == "python")
    await peer.request("close")
