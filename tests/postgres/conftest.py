"""A real PostgreSQL for each run of the tests, and a fresh, prepared database for each test that wants one.

`database` is the URL of one (a role that may do everything); `cluster` the server they live in; `sql` a connection.
Without the extra postgres nothing in this folder runs.
"""

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from supawire.server.postgres.cluster import Cluster

    from .listening import Ear

collect_ignore_glob = [] if find_spec("psycopg") else ["test_*.py"]

_numbers = count(1)


@pytest.fixture(scope="session", name="cluster")
def _cluster() -> Iterator["Cluster"]:
    """One cluster for the run, with a prepared database to copy."""
    import psycopg

    from supawire.server.postgres.cluster import Cluster
    from supawire.server.postgres.database import Database
    from supawire.server.postgres.schema import prepare

    async def fill(url: str) -> None:
        database = Database(url)
        try:
            await prepare(database, ours=True)
        finally:
            await database.close()

    with Cluster() as cluster:
        with psycopg.connect(cluster.url, autocommit=True) as admin:
            admin.execute("create database prepared")
        asyncio.run(fill(cluster.url_of("prepared")))
        yield cluster


@pytest.fixture
def database(cluster: "Cluster") -> Iterator[str]:
    """The URL of a fresh database with the schema of the local server, gone after the test."""
    from tests.postgres import databases

    with databases.database(cluster, f"test_{next(_numbers)}", "prepared") as url:
        yield url


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
