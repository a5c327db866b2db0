"""A small app as an example for tests: the open orders of a kitchen, and a bell.

Orders are rows of the table `orders`. Every screen of the kitchen shows the open ones. A cook who has finished one
rings the bell, which all waiters receive. Each screen tracks its cook in presence.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from supawire import AsyncChannel, AsyncClient, Change, Client, Delete, Gap, broadcast, changes, gaps, presence

Order = dict[str, Any]
Fetch = Callable[[], Awaitable[list[Order]]]


class Screen:
    """The open orders by number, and the cooks who are present. `fetch` reads the open orders from the database."""

    def __init__(self, client: AsyncClient, cook: str, fetch: Fetch) -> None:
        self.orders: dict[int, Order] = {}
        self._fetch = fetch
        self._cook = cook
        self._kitchen: AsyncChannel = client.channel("kitchen", private=True, presence_key=cook)
        self._kitchen.on(changes("orders"), self._changed)
        self._kitchen.on(gaps(), self._missed)
        self._kitchen.on(presence(), lambda event: None)

    async def open(self) -> None:
        """Fetch the open orders, and keep them up to date."""
        await self._kitchen.subscribe(wait="ready")
        await self._kitchen.track({"since": "breakfast"})
        await self._refresh()

    @property
    def cooks(self) -> list[str]:
        """The names of the cooks who are present."""
        return sorted(self._kitchen.presence_state())

    async def ring(self, number: int) -> None:
        """Inform the waiters that an order is ready."""
        await self._kitchen.broadcast("ready", {"order": number, "cook": self._cook})

    def _changed(self, change: Change[Order]) -> None:
        if isinstance(change, Delete):
            self.orders.pop(change.old_record["id"], None)
        elif change.record["done"]:
            self.orders.pop(change.record["id"], None)
        else:
            self.orders[change.record["id"]] = change.record

    async def _missed(self, gap: Gap) -> None:
        if "changes" in gap.lost:
            await self._refresh()

    async def _refresh(self) -> None:
        self.orders = {order["id"]: order for order in await self._fetch()}


def wait_for_bell(client: Client) -> int:
    """Wait for the bell with the sync client; returns the number of the next order that is ready."""
    kitchen = client.channel("kitchen", private=True)
    bell = kitchen.listen(broadcast("ready"))
    kitchen.subscribe()
    return next(bell).payload["order"]
