"""`supawire serve`: the local server, until it is told to stop."""

import asyncio
import errno
import ipaddress
import os
import secrets
import signal
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

from cyclopts import Parameter
from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax

from supawire.cli.console import complain, console_of
from supawire.cli.envfile import KEY, SERVICE_KEY, URL, EnvFile, lines
from supawire.errors import InvalidArgumentError
from supawire.server.app import App
from supawire.server.desk import TENANTS, HubOptions, Timings
from supawire.server.handshake import tenant
from supawire.server.limits import ServerLimits
from supawire.server.local import LocalServer
from supawire.server.local import serve as serve_here

SHORTEST_SECRET: Final = 32
EVERYWHERE: Final = ("0.0.0.0", "::", "")  # noqa: S104  somebody may ask for it
STOPPED: Final = "Stopped. Clients were told to come back (close code 1012)."


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the command line, checked."""

    host: str
    port: int
    strict: bool
    secret: str = field(repr=False)
    fixed: bool
    show_keys: bool
    env_file: EnvFile | None
    allow_host: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    def options(self) -> HubOptions:
        """For the server. Without `strict` it answers at once and has no limits, as `LocalServer` does."""
        names = {tenant(name) for name in (self.host, *self.allow_host) if name not in EVERYWHERE}
        return HubOptions(
            secret=self.secret,
            limits=ServerLimits.self_hosted() if self.strict else ServerLimits(),
            timings=Timings.strict() if self.strict else Timings(),
            tenants=TENANTS | names,
            dev=self.local,
        )

    def values(self, port: int) -> dict[str, str]:
        """What a client needs, by the names of environment variables."""
        keys = LocalServer(secret=self.secret)
        return {URL: url_of(self.host, port), KEY: keys.anon_key, SERVICE_KEY: keys.service_key}


def serve(
    *,
    host: Annotated[
        str, Parameter(help="Address to listen on. Others than 127.0.0.1 let other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 takes a free one.")] = 4000,
    strict: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Hold errors back and apply limits, as a self-hosted Realtime does."
        ),
    ] = False,
    secret: Annotated[
        str | None,
        Parameter(
            env_var="SUPAWIRE_SECRET",
            help="Signs and checks keys and tokens (HS256). A fixed one keeps keys valid when the server starts again; "
            "left out, it is random. The environment variable keeps it out of your shell's history.",
        ),
    ] = None,
    show_keys: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Print the keys, ready to paste into a shell.")
    ] = False,
    env_file: Annotated[
        Path | None,
        Parameter(help="Write address and keys to this file, for you alone to read, and remove it at the end."),
    ] = None,
    allow_host: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="Another name by which clients reach it, such as host.docker.internal. Repeatable.",
        ),
    ] = (),
) -> int:
    """Run the local server, for development and tests.

    It has broadcast, presence, private channels and replay, in both wire versions. Rows change when you say so.

    Ctrl-C or SIGTERM stops it, and clients are told to come back.
    """
    wish = Wish(
        host=host,
        port=_port(port),
        strict=strict,
        secret=_secret(secret),
        fixed=bool(secret),
        show_keys=show_keys,
        env_file=EnvFile(env_file) if env_file else None,
        allow_host=allow_host,
    )
    try:
        asyncio.run(_serve(wish, console_of()))
    except OSError as error:
        complain(f"cannot listen on {host}, port {port}: {_reason(error)}")
        return 1
    return 0


async def _serve(wish: Wish, console: Console) -> None:
    stop = asyncio.Event()

    def ready(app: App) -> None:
        values = wish.values(app.port)
        if wish.env_file is not None:
            wish.env_file.write(values)
        banner(console, wish, values)

    with _stopping(stop):
        try:
            await serve_here(wish.options(), host=wish.host, port=wish.port, on_ready=ready, stop=stop, signals=False)
        finally:
            if wish.env_file is not None:
                wish.env_file.remove()
    console.print(STOPPED)


@contextmanager
def _stopping(stop: asyncio.Event) -> Generator[None]:
    """Set `stop` on SIGINT and SIGTERM, by `signal` itself: event loops on Windows have no handlers for signals."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def told(number: int, frame: FrameType | None) -> None:
        del number, frame
        loop.call_soon_threadsafe(stop.set)

    for number in before:
        signal.signal(number, told)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something listens there already; --port takes another one, 0 any free one"
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)


def _port(port: int) -> int:
    if not 0 <= port < 65_536:
        raise InvalidArgumentError(f"--port must be from 0 to 65535, not {port}; 0 takes a free one")
    return port


def _secret(secret: str | None) -> str:
    if not secret:
        return secrets.token_urlsafe(48)
    if len(secret.encode()) < SHORTEST_SECRET:
        raise InvalidArgumentError(
            f"--secret must have at least {SHORTEST_SECRET} bytes, which HS256 wants; left out, it is random"
        )
    return secret


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def url_of(host: str, port: int) -> str:
    """Where a client on this machine finds the server. The project is the first label of Host, so no IPv6 address."""
    if host in EVERYWHERE:
        host = "127.0.0.1"
    return f"http://{'localhost' if ':' in host else host}:{port}"


# --- the banner

CLIENT: Final = """\
import asyncio, os, supawire

async def main():
    async with supawire.connect_async("{url}", os.environ["{key}"]) as client:
        room = client.channel("room:lobby", echo=True)
        typing = room.listen(supawire.broadcast("typing"))
        async with room:
            await room.broadcast("typing", {{"user": "alice"}})
            async for message in typing:
                print(message.event, message.payload)

asyncio.run(main())"""

EMIT: Final = """\
curl -X POST {url}/dev/emit -H "Authorization: Bearer ${key}" \\
  -d '{{"type": "INSERT", "table": "users", "record": {{"id": 1, "name": "alice"}}}}'"""


def banner(console: Console, wish: Wish, values: Mapping[str, str]) -> None:
    """Say where the server is, how to get its keys, and what to paste. Keys only when they were asked for."""
    url = values[URL]
    kind = "memory level, strict" if wish.strict else "memory level"
    console.print(f"supawire {version('supawire')}: local server for development and tests ({kind})", style="bold")
    console.print(f"\n  URL   {url}", soft_wrap=True)
    for line in _about_keys(wish):
        console.print(f"  {line}", soft_wrap=True)
    if wish.show_keys:
        console.print()
        for line in lines(values):
            console.print(f"export {line}", soft_wrap=True)
    console.print("\nA client in Python:\n")
    code(console, CLIENT.format(url=url, key=KEY), "python")
    if wish.local:
        console.print('\nA row changes (for everyone who listens with changes("users")):\n')
        code(console, EMIT.format(url=url, key=SERVICE_KEY), "bash")
    else:
        console.print(
            "\nOther machines can reach this server. It is made for development; let nobody in whom you do not know."
        )
    console.print(f"\nThe tour against this server:  {_tour(wish)}", soft_wrap=True)
    console.print("\nCtrl-C stops it.")


def _about_keys(wish: Wish) -> Iterator[str]:
    if wish.env_file is not None:
        yield f"Keys  in {wish.env_file.path} while it runs; in a shell: set -a; . {wish.env_file.path}; set +a"
    elif wish.show_keys:
        yield "Keys  below, to paste into a shell"
    else:
        yield "Keys  not shown: --show-keys prints them, --env-file FILE writes them to a file"
    if not wish.fixed:
        yield "      they end with this process; with a fixed secret (SUPAWIRE_SECRET) they stay valid"


def _tour(wish: Wish) -> str:
    if wish.env_file is not None:
        return f"supawire demo --env-file {wish.env_file.path}"
    return "supawire demo --url URL, with SUPAWIRE_SERVICE_KEY set"


def code(console: Console, text: str, language: str) -> None:
    """A block to copy: coloured in a terminal, never wrapped where there is none."""
    if console.is_terminal and console.color_system is not None:
        syntax = Syntax(text, language, theme="ansi_dark", background_color="default")
        console.print(Padding(syntax, (0, 0, 0, 4)))
        return
    for line in text.splitlines():
        console.print(f"    {line}".rstrip(), soft_wrap=True)
