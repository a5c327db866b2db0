"""The server that a tour uses: its own, or one that is already running."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

import aiohttp
import msgspec

from supawire._values.encode import infer_columns, to_wire
from supawire.errors import ConnectError, HttpError
from supawire.options import ClientOptions
from supawire.server import LocalServer

ROUTE: Final = "/dev/emit"
DEADLINE: Final = 10.0

Row = Mapping[str, Any]


class DemoBackend(Protocol):
    """The server that the tour's clients connect to, and its way of changing rows."""

    url: str
    key: str
    title: str
    emits: str
    """The code that makes a change, for display; empty when it is not possible."""
    why_not: str
    """Why row changes are not possible."""

    async def emit(self, type: str, table: str, *, record: Row | None = None, old_record: Row | None = None) -> None:
        """Change a row."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OwnBackend:
    """A local server in this process, for the duration of the tour."""

    why_not = ""
    emits = 'server.emit("INSERT", "items", record={"id": 1, "name": "Lamp"})'

    def __init__(self) -> None:
        self._server: Final = LocalServer()
        self.url: str = ""
        self.key: str = self._server.anon_key
        self.title: str = ""

    async def emit(self, type: str, table: str, *, record: Row | None = None, old_record: Row | None = None) -> None:
        """Change a row."""
        await asyncio.to_thread(self._server.emit, type, table, record=record, old_record=old_record)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        self.url = self._server.url
        self.title = f"{self.url}, started for this tour"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.__aexit__(kind, error, trace)


class OtherBackend:
    """A running server. Rows change through its development route, if it has one and the key permits it."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.title: str = f"{url}, which runs already"
        self.emits: str = ""
        self.why_not: str = ""
        self._route: Final = ClientOptions().endpoint(url, key).rest_url.removesuffix("/api") + ROUTE

    async def emit(self, type: str, table: str, *, record: Row | None = None, old_record: Row | None = None) -> None:
        """Change a row. Raises: HttpError."""
        row = record if record is not None else old_record or {}
        change = {"type": type, "table": table, "columns": infer_columns(row)}
        rows = {"record": record, "old_record": old_record}
        change |= {name: to_wire(value) for name, value in rows.items() if value is not None}
        status, text = await self._post(msgspec.json.encode(change))
        if status != 202:
            raise HttpError(f"POST {ROUTE} answered {status}: {text}")

    async def _post(self, body: bytes) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            async with self._http.post(self._route, data=body, headers=headers) as answer:
                return answer.status, await answer.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectError(f"{self.url} does not answer", hint="Is a server running there?") from error

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE))
        try:
            status, _ = await self._post(b"")  # an invalid change: 422 means that the route exists and the key is right
        except BaseException:
            await self._http.close()
            raise
        if status == 422:
            self.emits = f"# and POST {ROUTE}, as supawire serve shows it, changes a row"
        else:
            self.why_not = f"{ROUTE} answered {status}; changes need supawire serve and its service key"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()
