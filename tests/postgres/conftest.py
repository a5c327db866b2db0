"""A real PostgreSQL for each run of the tests, and a fresh, prepared database for each test that wants one.

`database` is the URL of one (a role that may do everything); `cluster` the server they live in; `sql` a connection.
"""

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest

pytest.importorskip("psycopg", reason="not run: psycopg belongs to the extra postgres")

import psycopg  # noqa: E402
from psycopg.rows import TupleRow  # noqa: E402

from supawire.server.postgres.cluster import Cluster  # noqa: E402
from supawire.server.postgres.database import Database  # noqa: E402
from supawire.server.postgres.schema import prepare  # noqa: E402

TEMPLATE = "prepared"
_numbers = count(1)


@pytest.fixture(scope="session", name="cluster")
def _cluster() -> Iterator[Cluster]:
    """One cluster for the run, with a prepared database to copy."""
    with Cluster() as cluster:
        with psycopg.connect(cluster.url, autocommit=True) as admin:
            admin.execute(f"create database {TEMPLATE}")

        async def fill() -> None:
            database = Database(cluster.url_of(TEMPLATE))
            try:
                await prepare(database, ours=True)
            finally:
                await database.close()

        asyncio.run(fill())
        yield cluster


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The URL of a fresh database with the schema of the local server, gone after the test."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(cluster.url, autocommit=True) as admin:
        admin.execute(f"create database {name} template {TEMPLATE}")
        try:
            yield cluster.url_of(name)
        finally:
            admin.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
                "where database = %s and not active",
                [name],
            )
            admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def sql(database: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """A connection to that database, each statement committed at once."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection
