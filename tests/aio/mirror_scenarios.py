"""A table, a client and a server in virtual time, for scenarios of mirrors."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from supawire import AsyncClient, AsyncMirror
from supawire.options import Backoff
from supawire.testing import VirtualServer, VirtualTimeLoop

QUICK = Backoff(initial=0.01, jitter=0)


class Table:
    """A table of the local server: committed changes are emitted, and a query takes time."""

    def __init__(self, server: VirtualServer, name: str = "users") -> None:
        self.server = server
        self.name = name
        self.rows: dict[int, dict[str, Any]] = {}
        self.queries = 0
        self.failing = 0
        """How many of the next queries raise."""
        self.least = 0
        """What its condition asks of `v`."""
        self.lost = False
        """Whether the server has lost its database in silence: what is committed is not emitted."""
        self.early = self.late = 0.0
        """Seconds before and after the moment in which a query reads the table."""

    def put(self, key: int, **values: Any) -> None:
        kind = "UPDATE" if key in self.rows else "INSERT"
        self.rows[key] = {**self.rows.get(key, {}), "id": key, **values}
        self._emit(kind, self.name, record=self.rows[key])

    def move(self, key: int, to: int) -> None:
        self.rows[to] = {**self.rows.pop(key), "id": to}
        self._emit("UPDATE", self.name, record=self.rows[to], old_record={"id": key})

    def delete(self, key: int) -> None:
        del self.rows[key]
        self._emit("DELETE", self.name, old_record={"id": key})

    def _emit(self, *change: Any, **rows: Any) -> None:
        if not self.lost:
            self.server.emit(*change, **rows)

    async def fetch(self) -> list[dict[str, Any]]:
        self.queries += 1
        await asyncio.sleep(self.early)
        if self.failing:
            self.failing -= 1
            raise ConnectionError("the database is away")
        rows = list(self.query_result().values())
        await asyncio.sleep(self.late)
        return rows

    def query_result(self) -> dict[int, dict[str, Any]]:
        """Return the rows that a query returns now."""
        return {key: dict(row) for key, row in self.rows.items() if row.get("v", 0) >= self.least}


@dataclass
class Scene:
    """A server, a table, a client, and the errors that `on_error` received."""

    server: VirtualServer
    table: Table
    client: AsyncClient
    errors: list[Exception]

    def mirror(self, **options: Any) -> AsyncMirror[dict[str, Any]]:
        chosen: dict[str, Any] = {"key": "id", "fetch": self.table.fetch, "backoff": QUICK, **options}
        return self.client.mirror("users", **chosen)


def scenario(**options: Any) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[], None]]:
    """Make a test of a scenario."""

    def make(steps: Callable[[Scene], Awaitable[None]]) -> Callable[[], None]:
        async def run() -> None:
            server = VirtualServer()
            errors: list[Exception] = []
            chosen: dict[str, Any] = {"backoff": QUICK, "rejoin_backoff": QUICK, "on_error": errors.append, **options}
            async with server.connect(**chosen) as client:
                await steps(Scene(server, Table(server), client, errors))
            assert client.state == "closed"

        def test() -> None:
            with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                runner.run(run())

        test.__doc__ = steps.__doc__
        return test

    return make


def now() -> float:
    return asyncio.get_running_loop().time()
