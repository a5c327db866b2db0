"""Fixtures shared by all tests of the kitchen. The fixtures `realtime_…` come with supawire[pytest]."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from supawire import LocalServer


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests with asyncio."""
    return "asyncio"


@pytest.fixture
def realtime_client_options(realtime_any_server: LocalServer) -> dict[str, Any]:
    """Give the clients of the tests a token of the staff."""
    return {"token": realtime_any_server.token(sub="ada", staff=True)}


@pytest.fixture(scope="session")
def realtime_schema() -> str:
    """Return the tables and policies of the app, for the tests on PostgreSQL."""
    return """
        create table orders (id bigint primary key, dish text not null, done boolean not null default false);
        alter publication supabase_realtime add table orders;
        alter table orders enable row level security;
        create policy staff_read_orders on orders for select to authenticated using ((auth.jwt() ->> 'staff')::boolean);
        create policy staff_receive on realtime.messages for select to authenticated
            using (realtime.topic() = 'kitchen' and (auth.jwt() ->> 'staff')::boolean);
        create policy staff_send on realtime.messages for insert to authenticated
            with check (realtime.topic() = 'kitchen' and (auth.jwt() ->> 'staff')::boolean);
    """


@pytest.fixture
def until() -> Callable[..., Any]:
    """Return a function that waits until a condition is true."""

    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  conditions of all kinds
                await asyncio.sleep(0.005)

    return until
