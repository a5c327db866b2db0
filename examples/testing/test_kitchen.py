"""Tests of the kitchen: with the local server, with virtual time, and on PostgreSQL."""

import asyncio
import unittest
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import pytest
from kitchen import Order, Screen, wait_for_bell

from supawire import AsyncClient, Backoff, Client, JoinDeniedError, LocalServer, connect_async
from supawire.testing import VirtualServer, VirtualTimeLoop

Until = Callable[[Callable[[], object]], Awaitable[None]]


async def no_orders() -> list[Order]:
    """Return the rows of an empty table."""
    return []


async def test_orders_come_and_go(realtime_server: LocalServer, realtime_async_client: AsyncClient, until: Until):
    """A screen shows new orders, and removes those that are done or deleted."""
    screen = Screen(realtime_async_client, "ada", no_orders)
    await screen.open()
    for number in (1, 2, 3):
        realtime_server.emit("INSERT", "orders", record={"id": number, "dish": "soup", "done": False})
    await until(lambda: set(screen.orders) == {1, 2, 3})
    realtime_server.emit_update("orders", record={"id": 1, "dish": "soup", "done": True})
    realtime_server.emit_delete("orders", old_record={"id": 2})
    await until(lambda: set(screen.orders) == {3})


async def test_cooks_see_each_other(realtime_server: LocalServer, realtime_async_client: AsyncClient, until: Until):
    """Each screen shows every cook."""
    token = realtime_server.token(sub="grace", staff=True)
    async with connect_async(realtime_server.url, realtime_server.anon_key, token=token) as other:
        ada, grace = Screen(realtime_async_client, "ada", no_orders), Screen(other, "grace", no_orders)
        await ada.open()
        await grace.open()
        await until(lambda: ada.cooks == grace.cooks == ["ada", "grace"])


async def test_the_bell_names_the_cook(realtime_server: LocalServer, realtime_async_client: AsyncClient):
    """The message has the payload that waiters expect; the server records it."""
    screen = Screen(realtime_async_client, "ada", no_orders)
    await screen.open()
    await screen.ring(7)
    await realtime_async_client.ping()  # everything that was sent before has arrived
    (rung,) = [frame for frame in realtime_server.frames if frame.user_event == "ready"]
    assert rung.payload == {"order": 7, "cook": "ada"}


def test_a_waiter_receives_the_bell(realtime_server: LocalServer, realtime_client: Client):
    """The sync client of a waiter receives the number of the next order that is ready."""
    with ThreadPoolExecutor() as pool:
        waiter = pool.submit(wait_for_bell, realtime_client)
        while not waiter.done():  # messages before its join do not arrive
            realtime_server.broadcast("kitchen", "ready", {"order": 7}, private=True)
        assert waiter.result() == 7


async def test_guests_cannot_join(realtime_server: LocalServer):
    """Only the staff may join; the policy gets the claims of the token."""

    @realtime_server.policy
    def staff_only(claims: Mapping[str, Any], topic: str, extension: str, action: str) -> bool:
        return claims.get("staff") is True

    guest = realtime_server.token(sub="mallory")
    async with connect_async(realtime_server.url, realtime_server.anon_key, token=guest) as client:
        with pytest.raises(JoinDeniedError):
            await Screen(client, "mallory", no_orders).open()


def test_after_an_outage_orders_are_fetched_again():
    """After ten virtual minutes without a server, the screen shows the orders of that time."""

    async def story() -> float:
        server, table = VirtualServer(), [{"id": 1, "dish": "soup", "done": False}]

        async def fetch() -> list[Order]:
            return list(table)

        async with server.connect(token=server.token(staff=True)) as client:
            screen = Screen(client, "ada", fetch)
            await screen.open()
            server.refuse_connections(seconds=600)
            server.drop_connections()
            table.append({"id": 2, "dish": "cake", "done": False})
            while 2 not in screen.orders:  # noqa: ASYNC110  these seconds are virtual
                await asyncio.sleep(1)
            return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(story()) >= 600


@pytest.mark.skipif(not find_spec("psycopg"), reason="PostgreSQL comes with supawire[postgres]")
async def test_a_row_is_on_the_screen(
    realtime_pg_server: LocalServer, realtime_async_client: AsyncClient, until: Until
):
    """With PostgreSQL, the policies allow the staff to join, and an inserted row is shown."""

    async def fetch() -> list[Order]:
        rows = realtime_pg_server.sql("select id, dish, done from orders where not done")
        return [{"id": number, "dish": dish, "done": done} for number, dish, done in rows]

    realtime_pg_server.sql("insert into orders values (1, 'soup')")
    screen = Screen(realtime_async_client, "ada", fetch)
    await screen.open()
    realtime_pg_server.sql("insert into orders values (%s, %s)", 2, "cake")
    await until(lambda: set(screen.orders) == {1, 2})
    realtime_pg_server.sql("update orders set done = true where id = 1")
    await until(lambda: set(screen.orders) == {2})


class WithoutPytest(unittest.IsolatedAsyncioTestCase):
    """The same server in a test with unittest."""

    async def asyncSetUp(self) -> None:
        """Start a server and open a client for each test."""
        self.server = await self.enterAsyncContext(LocalServer())
        options: dict[str, Any] = {"token": self.server.token(staff=True), "backoff": Backoff(initial=0.05)}
        self.client = await self.enterAsyncContext(connect_async(self.server.url, self.server.anon_key, **options))

    async def test_orders_are_fetched_after_a_lost_connection(self) -> None:
        """After a lost connection the orders are fetched again."""
        fetched = asyncio.Event()

        async def fetch() -> list[Order]:
            fetched.set()
            return [{"id": 1, "dish": "soup", "done": False}]

        screen = Screen(self.client, "ada", fetch)
        await screen.open()
        fetched.clear()
        screen.orders.clear()
        self.server.drop_connections()
        async with asyncio.timeout(20):
            await fetched.wait()
