"""`supawire demo`: a short tour that is also a test, against a local server of its own or one that runs already."""

import asyncio
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import aiohttp
import msgspec
from cyclopts import Parameter

from supawire._values.encode import infer_columns, to_wire
from supawire.cli import env_files
from supawire.cli.demo.checks import Checks
from supawire.cli.demo.screen import Screen
from supawire.cli.output import make_console, print_error
from supawire.errors import ConnectError, HttpError, InvalidArgumentError, RealtimeError
from supawire.options import ClientOptions
from supawire.server import LocalServer

if TYPE_CHECKING:
    from supawire.cli.demo.tour import DemoBackend

STEP_TIMEOUT: Final = 5.0


def demo(
    *,
    url: Annotated[
        str | None,
        Parameter(help="A running server, such as supawire serve; without it, the tour starts its own."),
    ] = None,
    key: Annotated[
        str | None,
        Parameter(
            env_var=(env_files.SERVICE_KEY, env_files.KEY),
            help="Key for --url. With the service key of supawire serve the tour includes row changes; with an anon "
            "key it skips them.",
        ),
    ] = None,
    env_file: Annotated[
        Path | None, Parameter(help="Read URL and key from a file that supawire serve --env-file wrote.")
    ] = None,
    speed: Annotated[
        float | None,
        Parameter(help="1 takes about 13 seconds, 2 half of that. Default: 1 in a terminal, no pauses if plain."),
    ] = None,
    plain: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Print whole lines without colours, as in a pipe.")
    ] = False,
    patience: Annotated[float, Parameter(help="Total seconds to wait for missing deliveries.")] = STEP_TIMEOUT,
) -> int:
    """Show broadcasts, presence and row changes arriving, with the code of each step.

    Everything that is sent is compared with what arrives. The exit code is 0 only if exactly that arrived.
    """
    for name, value in (("--speed", speed), ("--patience", patience)):
        if value is not None and not 0 < value < 1e6:
            raise InvalidArgumentError(f"{name} must be above 0, not {value:g}")
    if not plain:
        terminal = make_console()
        plain = not terminal.is_terminal or terminal.is_dumb_terminal
    checks = Checks(patience)
    screen = Screen(make_console(plain=plain), checks, plain=plain)
    return asyncio.run(_play(_backend(url, key, env_file), screen, checks, speed or (None if plain else 1.0)))


def _backend(url: str | None, key: str | None, env_file: Path | None) -> "DemoBackend":
    if env_file is not None:
        if url is not None:
            raise InvalidArgumentError("--env-file contains the URL; leave out --url")
        values = env_files.read(env_file)
        return OtherBackend(values[env_files.URL], values.get(env_files.SERVICE_KEY) or values[env_files.KEY])
    if url is None:
        return OwnBackend()
    key = key or os.environ.get(env_files.KEY)
    if not key:
        raise InvalidArgumentError(
            f"--url needs a key: --key, {env_files.SERVICE_KEY} or {env_files.KEY} in the environment, or --env-file"
        )
    return OtherBackend(url, key)


async def _play(backend: "DemoBackend", screen: Screen, checks: Checks, speed: float | None) -> int:
    """Run the tour and return the exit code."""

    async def pause(seconds: float) -> None:
        if speed is not None:
            await asyncio.sleep(seconds / speed)

    from supawire.cli.demo.tour import Tour  # importing the clients is slow, and only the tour needs them

    started = time.perf_counter()
    suffix = "" if isinstance(backend, OwnBackend) else f"-{secrets.token_hex(2)}"
    problems: list[str] = []
    try:
        async with backend:
            tour = Tour(backend, screen, checks, suffix=suffix, pause=pause, problems=problems)
            with screen.live():
                await tour.run()
    except RealtimeError as error:
        if not any(checks.sent.values()):
            print_error(str(error))
            return 1
        problems.append(f"the tour ended early: {error}")
    return 0 if screen.result(problems, time.perf_counter() - started) else 1


ROUTE: Final = "/dev/emit"
HTTP_TIMEOUT: Final = 10.0

Row = Mapping[str, Any]


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
        self.title: str = f"{url}, already running"
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
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_TIMEOUT))
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
