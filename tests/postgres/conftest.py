"""A real PostgreSQL for each run of the tests, and a prepared database, empty for each test that wants it.

`database` is its URL (a role that may do everything); `cluster` the server they live in; `sql` a connection.
Without the extra postgres nothing in this folder runs.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from supawire.server.postgres.cluster import Cluster

    from .listening import Ear

collect_ignore_glob = [] if find_spec("psycopg") else ["test_*.py"]


@pytest.fixture(scope="session", name="cluster")
def _cluster() -> Iterator["Cluster"]:
    """One cluster for the run."""
    from supawire.server.postgres.cluster import Cluster

    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session", name="used")
def _used(cluster: "Cluster") -> str:
    """The URL of the database that the tests have one after the other."""
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
    """A connection to that database, each statement committed at once."""
    import psycopg

    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def ear(database: str) -> Iterator["Ear"]:
    """Listeners of a server on that database, which runs for the test."""
    from supawire.server import LocalServer

    from .listening import Ear

    with LocalServer(database=database) as server:
        yield Ear(server)
