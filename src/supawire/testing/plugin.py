"""Fixtures for pytest, loaded through the entry point `pytest11`.

pytest loads this module in every run in an environment with supawire, so only pytest is imported before a fixture is
used. Each test gets its own server, since that takes only milliseconds (measured: 4; on PostgreSQL 150, with a new
database); only the PostgreSQL itself runs for the whole session.

An async fixture belongs to the plugin that runs the test. There is one client for each of the two plugins, and
`realtime_async_client` returns the matching one.
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from supawire import AsyncClient, Client, LocalServer
    from supawire.testing.databases import Template

SERVERS: Final = ("realtime_server", "realtime_pg_server")
PYTEST_ASYNCIO: Final = ("asyncio", "pytest_asyncio", "pytest_asyncio.plugin")
"""Its plugin names: the first by entry point, the others by `-p`."""
EXTRAS: Final = {"jwt": "server", "psycopg": "postgres"}
MISSING: Final = "{fixture} requires the extra `{extra}`: pip install 'supawire[{extra}]'"
NO_RUNNER: Final = (
    "realtime_async_client requires a test run by anyio or pytest-asyncio; use realtime_client in other tests"
)
NO_TRIO: Final = "supawire requires asyncio; override the fixture anyio_backend to return 'asyncio'"


def pytest_configure(config: pytest.Config) -> None:
    """Register the client fixture for pytest-asyncio if that plugin is in use."""
    if _runs_asyncio(config):
        import pytest_asyncio

        holder = ModuleType("supawire of pytest-asyncio")
        vars(holder)["_realtime_client_of_asyncio"] = pytest_asyncio.fixture(_open_client)
        config.pluginmanager.register(holder, "supawire-asyncio")


# --- fixtures to override, for a module, a class or by parametrize


@pytest.fixture
def realtime_options() -> dict[str, Any]:
    """Arguments of the servers, such as `{"strict": True}`; override it to set some."""
    return {}


@pytest.fixture
def realtime_client_options() -> dict[str, Any]:
    """Options of the clients, as for `supawire.connect`; override it to set some."""
    return {}


# --- servers


@pytest.fixture
def realtime_server(realtime_options: dict[str, Any]) -> "Generator[LocalServer]":
    """A running local server (`supawire.LocalServer`) for this test only."""
    with _extra("realtime_server"):
        from supawire import LocalServer
    with LocalServer(**realtime_options) as server:
        yield server


# --- servers on a PostgreSQL


@pytest.fixture(scope="session")
def realtime_postgres() -> "Generator[str]":
    """URL of a PostgreSQL that runs for the whole test session; override it to use your own."""
    with _extra("realtime_postgres"):
        import_module("psycopg")  # fail before a cluster is started

        from supawire.server.postgres.cluster import Cluster
    with Cluster() as cluster:
        yield cluster.url


@pytest.fixture(scope="session")
def realtime_schema() -> str:
    """SQL that creates your tables, run once for all tests; override it to provide some."""
    return ""


@pytest.fixture(scope="session")
def _realtime_template(realtime_postgres: str, realtime_schema: str) -> "Generator[Template]":
    with _extra("realtime_postgres"):
        from supawire.testing.databases import template_in
    with template_in(realtime_postgres, realtime_schema) as template:
        yield template


@pytest.fixture
def realtime_pg_server(_realtime_template: "Template", realtime_options: dict[str, Any]) -> "Generator[LocalServer]":
    """A local server on a new database, both for this test only."""
    from supawire import LocalServer
    from supawire.testing.databases import copy_of

    with copy_of(_realtime_template) as url, LocalServer(database=url, **realtime_options) as server:
        yield server


# --- clients of the test's server


@pytest.fixture
def realtime_any_server(request: pytest.FixtureRequest, realtime_options: dict[str, Any]) -> "LocalServer":
    """This test's server: `realtime_pg_server` if the test uses only that one, else `realtime_server`."""
    del realtime_options  # both servers use it; as an argument it can be set by parametrize
    requested = [name for name in SERVERS if name in request.fixturenames]
    return request.getfixturevalue(requested[0] if requested else SERVERS[0])


@pytest.fixture
def realtime_key(realtime_any_server: "LocalServer") -> str:
    """A key for this test's server, with the role `anon`."""
    return realtime_any_server.anon_key


@pytest.fixture
def realtime_client(realtime_any_server: "LocalServer", realtime_client_options: dict[str, Any]) -> "Generator[Client]":
    """An open client of this test's server, for blocking code; closed after the test."""
    from supawire import connect

    server = realtime_any_server
    with connect(server.url, server.anon_key, **realtime_client_options) as client:
        yield client


@pytest.fixture
def realtime_async_client(
    request: pytest.FixtureRequest, realtime_any_server: "LocalServer", realtime_client_options: dict[str, Any]
) -> "AsyncClient":
    """An open async client of this test's server, in the event loop of the test; closed after it."""
    del (
        realtime_any_server,
        realtime_client_options,
    )  # used by the two fixtures below
    if "anyio_backend" in request.fixturenames:
        if request.getfixturevalue("anyio_backend_name") != "asyncio":
            pytest.skip(NO_TRIO)
        return request.getfixturevalue("_realtime_client_of_anyio")
    if _runs_asyncio(request.config):
        return request.getfixturevalue("_realtime_client_of_asyncio")
    return pytest.fail(NO_RUNNER, pytrace=False)


async def _open_client(
    realtime_any_server: "LocalServer", realtime_client_options: dict[str, Any]
) -> "AsyncGenerator[AsyncClient]":
    from supawire import connect_async

    server = realtime_any_server
    async with connect_async(server.url, server.anon_key, **realtime_client_options) as client:
        yield client


@pytest.fixture
async def _realtime_client_of_anyio(
    realtime_any_server: "LocalServer", realtime_client_options: dict[str, Any]
) -> "AsyncGenerator[AsyncClient]":
    async for client in _open_client(realtime_any_server, realtime_client_options):
        yield client


def _runs_asyncio(config: pytest.Config) -> bool:
    return any(config.pluginmanager.has_plugin(name) for name in PYTEST_ASYNCIO)


# --- missing extras


@contextmanager
def _extra(fixture: str) -> "Generator[None]":
    """Name the missing extra if an import fails."""
    try:
        yield
    except ImportError as error:
        if error.name not in EXTRAS:
            raise
        pytest.fail(MISSING.format(fixture=fixture, extra=EXTRAS[error.name]), pytrace=False)
