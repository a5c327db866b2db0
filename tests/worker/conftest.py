"""A PostgreSQL for the tests of the worker that need one, and a table of orders with the side table of jobs.

Without psycopg, only the tests of the engine run.
"""

import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if find_spec("psycopg"):
    from tests.postgres.conftest import _cluster, _used, database, sql

    __all__ = ["_cluster", "_used", "database", "sql"]

if TYPE_CHECKING:
    from psycopg import Connection

    from supawire.worker import Worker

NEED_PSYCOPG = ("table", "checks", "worker", "faults", "commands", "kills", "queue_source", "rest_sources")
collect_ignore = [] if find_spec("psycopg") else [f"test_{name}.py" for name in NEED_PSYCOPG]

ORDERS = """
create table public.orders (id bigint generated always as identity primary key, status text not null default 'pending',
  customer text, note text, total numeric(10, 2), data jsonb, at timestamptz);
alter publication supabase_realtime add table public.orders;
"""


@pytest.fixture
def orders(sql: "Connection[Any]", database: str) -> Callable[..., "Worker"]:
    """A function that creates workers for the prepared database with the table `orders`."""
    from supawire import col
    from supawire.worker import Worker

    def make(**options: Any) -> Worker:
        return Worker(database=database, **options)

    sql.execute(ORDERS.encode())
    first = make()
    first.job("orders", where=col("status") == "pending")(print)
    asyncio.run(first.apply_migration())
    return make
