"""A PostgreSQL for the run of the tests, and an empty prepared database for each test that uses it.

`database` is its URL, for a superuser; `cluster` is the server; `sql` is a connection. Without the extra `postgres` no
test of this folder runs.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from supawire.server.postgres.cluster import Cluster

    from .listening import Listeners

collect_ignore_glob = [] if find_spec("psycopg") else ["test_*.py"]


@pytest.fixture(scope="session", name="cluster")
def _cluster() -> Iterator["Cluster"]:
    """One cluster for all tests of the run."""
    from supawire.server.postgres.cluster import Cluster

    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session", name="used")
def _used(cluster: "Cluster") -> str:
    """The URL of the database that the tests use one after the other."""
    import psycopg

    with psycopg.connect(cluster.url, autocommit=True) as admin:
        admin.execute("create database tests")
    return cluster.url_of("tests")


@pytest.fixture
def database(used: str) -> str:
    """The URL of a database with the schema of the local server and nothing else."""
    from tests.postgres import databases

    databases.empty(used)
    return used


@pytest.fixture
def sql(database: str) -> Iterator["Connection[TupleRow]"]:
    """A connection to that database in autocommit mode."""
    import psycopg

    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def listeners(database: str) -> Iterator["Listeners"]:
    """Listeners of a server on that database, which runs during the test."""
    from supawire.server import LocalServer

    from .listening import Listeners

    with LocalServer(database=database) as server:
        yield Listeners(server)


@pytest.fixture
def brief(database: str) -> Iterator["Listeners"]:
    """Listeners of a server that loses changes silently like the real one, but for a shorter time."""
    from supawire.server.postgres.backend import BackendOptions

    from .listening import Listeners, ServerWithOptions

    with ServerWithOptions(database, BackendOptions(outage_loss=0.3, policy_loss=0.1)) as server:
        yield Listeners(server)
