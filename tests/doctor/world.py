"""What the set-ups share: local servers without and with PostgreSQL, databases, certificates, misbehaving servers."""

import asyncio
import base64
import hashlib
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import psycopg
import trustme
from psycopg.sql import SQL, Identifier

from supawire.server import LocalServer
from supawire.server.postgres import preflight
from supawire.server.postgres.cluster import Cluster
from tests.faults.misbehaver import Misbehaver, Script, Wire

SECRET: Final = "the-secret-of-the-servers-of-doctors-tests"
USER: Final = "7d8f9a52-0000-4000-8000-000000000001"


class World:
    """One cluster, a server without a database and one with."""

    def __init__(self, cluster: Cluster, plain: LocalServer, server: LocalServer) -> None:
        self.cluster: Final = cluster
        self.plain: Final = plain
        self.server: Final = server
        self.authority: Final = trustme.CA()
        self._numbers: Final = count(1)

    def unused_name(self, prefix: str) -> str:
        """Return a name that no other set-up uses."""
        return f"{prefix}_{next(self._numbers)}"

    def table(self, text: str) -> str:
        """Create a table; `{t}` in the text is its name, which is returned."""
        name = self.unused_name("t")
        self.server.sql(text.replace("{t}", name).replace("{user}", USER))
        return name

    @contextmanager
    def database(self, text: str = "", *, prepared: bool = True) -> Generator[str]:
        """Provide the URL of a database of its own, after running the text there."""
        name = self.unused_name("doctor")
        with psycopg.connect(self.cluster.url, autocommit=True) as admin:
            admin.execute(SQL("create database {}").format(Identifier(name)))
            url = self.cluster.url_of(name)
            with psycopg.connect(url, autocommit=True) as own:
                if prepared:
                    own.execute(preflight.text("schema.sql"))
                    own.execute(preflight.text("open.sql"))
                if text:
                    own.execute(cast("Any", text))
            try:
                yield url
            finally:
                admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))


@contextmanager
def world() -> Generator[World]:
    """Start everything that set-ups share."""
    with Cluster() as cluster, LocalServer(secret=SECRET) as plain:
        with psycopg.connect(cluster.url, autocommit=True) as admin:
            admin.execute("create database tests")
        url = cluster.url_of("tests")
        with psycopg.connect(url, autocommit=True) as own:
            own.execute(preflight.text("schema.sql"))
            own.execute(preflight.text("open.sql"))
        with LocalServer(database=url, secret=SECRET) as server:
            yield World(cluster, plain, server)


# --- servers that misbehave


@asynccontextmanager
async def misbehaving(script: Script) -> AsyncGenerator[str]:
    """Provide the URL of a server that treats each connection as the script says."""
    async with Misbehaver(script) as server:
        yield server.url


def answering(status: int, body: bytes = b"", *headers: str) -> Script:
    """Return a script that answers each request with this status."""

    async def script(wire: Wire) -> None:
        await wire.refuse(status, body, *headers)

    return script


async def silent(wire: Wire) -> None:
    """Accept the connection and answer nothing."""
    await wire.request()


async def hang_up(wire: Wire) -> None:
    """Close the connection after the request."""
    await wire.request()
    wire.hang_up()


async def garbage(wire: Wire) -> None:
    """Answer with bytes that are not HTTP."""
    await wire.request()
    wire.write(b"\x00\x01\x02 not HTTP at all\r\n\r\n")
    wire.hang_up()


def realtime(*, date: timedelta | None = None, **answers: Callable[[Wire, Any], object] | None) -> Script:
    """Return a script of a Realtime server; answers: to Phoenix events, by name, None for no answer."""

    async def script(wire: Wire) -> None:
        head = await wire.request()
        if "upgrade: websocket" not in head.lower():
            now = datetime.now(UTC) + (date or timedelta())
            if head.startswith("POST"):
                _deliver(wire, head)
            answer_request(wire, 202 if head.startswith("POST") else 200, f"Date: {format_datetime(now, usegmt=True)}")
            return
        accept_upgrade(wire)
        while True:
            frame = await wire.receive()
            chosen = answers.get(frame.event, DEFAULTS.get(frame.event))
            if chosen is not None:
                chosen(wire, frame)

    return script


def _echo(wire: Wire, frame: Any) -> None:
    wire.reply(frame)
    wire.push(frame.topic, "broadcast", frame.payload, join_ref=frame.join_ref)


def _presence(wire: Wire, frame: Any) -> None:
    wire.reply(frame)
    metas = {"metas": [{"phx_ref": "x", "doctor": True}]}
    wire.push(
        frame.topic, "presence_diff", {"joins": {"supawire-doctor": metas}, "leaves": {}}, join_ref=frame.join_ref
    )


def _join(wire: Wire, frame: Any) -> None:
    wire.accept(frame)
    wire.push(frame.topic, "presence_state", {}, join_ref=frame.join_ref)


DEFAULTS: Final[dict[str, Callable[[Wire, Any], object]]] = {
    "phx_join": _join,
    "heartbeat": Wire.reply,
    "broadcast": _echo,
    "presence": _presence,
    "phx_leave": Wire.reply,
}


def _deliver(wire: Wire, head: str) -> None:
    """Deliver a message sent by HTTP to all sockets."""
    topic, event = re.findall(r"/broadcast/([^/ ]+)/events/([^/ ?]+)", head)[0]
    for other in wire.server.wires:
        if other is not wire:
            other.broadcast(unquote(topic), unquote(event), {})


def accept_upgrade(wire: Wire) -> None:
    """Accept the upgrade that was read."""
    key = wire.header("sec-websocket-key").encode()
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    wire.write("\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", "", ""]).encode())


def answer_request(wire: Wire, status: int, *headers: str) -> None:
    """Answer the HTTP request that was read."""
    wire.write(
        "\r\n".join([f"HTTP/1.1 {status} X", "Content-Length: 0", "Connection: close", *headers, "", ""]).encode()
    )
    wire.hang_up()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until their end."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


@asynccontextmanager
async def with_tls(context: ssl.SSLContext, target: str) -> AsyncGenerator[str]:
    """Provide the https URL of a TLS server in front of the server at this URL."""
    port = int(target.rpartition(":")[2])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def http_proxy() -> AsyncGenerator[str]:
    """Provide the URL of an HTTP proxy."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, url, rest = head.split(b" ", 2)
        parts = urlsplit(url.decode())
        inner_reader, inner_writer = await asyncio.open_connection(parts.hostname, parts.port)
        inner_writer.write(b" ".join([method, f"{parts.path}?{parts.query}".encode(), rest]))
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
