"""The MCP server and its tools. Results are bounded in size and time, and contain no keys unless they are asked for.

A failure that the agent can do something about is a `ToolError` with what is wrong and what to do. Everything printed
goes to stderr: stdout carries the protocol.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, Final, Literal

import msgspec
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from supawire._display import hide_tokens
from supawire.aio.channel import AsyncChannel
from supawire.aio.client import AsyncClient
from supawire.cli.connection import Target, open_client
from supawire.cli.event_output import event_fields
from supawire.cli.mcp.explain import explain
from supawire.cli.output import to_json
from supawire.doctor import Outcome, diagnose_async
from supawire.errors import InvalidArgumentError, OperationTimeout, RealtimeError
from supawire.events import Event, PresenceSync
from supawire.options import Secret
from supawire.selectors import Selector, broadcast, changes, presence
from supawire.server import LocalServer

MAX_RESULT: Final = 20_000
"""Maximum characters of the events or entries in a result, as JSON."""
MAX_EVENTS: Final = 50
MAX_TIMEOUT: Final = 60.0
MAX_PAYLOAD: Final = 100_000
"""Maximum characters of a payload that is sent, as JSON."""
LOCAL_USER: Final = "00000000-0000-4000-8000-000000000001"
"""The user as whom private channels of the local server are joined."""
INSTRUCTIONS: Final = """\
Tools for Supabase Realtime. They use the server that this program was started with, or with local=true the local server
that the tool serve starts. When a channel is joined and nothing arrives, call doctor with the table or the topic."""

Topic = Annotated[str, Field(description="The topic of the channel, such as room:1.", min_length=1, max_length=200)]
Private = Annotated[bool, Field(description="Use the private channel of the topic, which policies protect.")]
Local = Annotated[bool, Field(description="Use the local server that the tool serve has started.")]
Seconds = Annotated[float, Field(description="Time limit in seconds.", gt=0, le=MAX_TIMEOUT)]
READS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=True)
WRITES: Final = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
STARTS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)


class Tools:
    """The tools of one MCP server, and the local server that they may start."""

    def __init__(
        self, target: Target | None, *, allow_writes: bool, database_url: Secret | None, connect_timeout: float
    ) -> None:
        self._target: Final = target
        self._allow_writes: Final = allow_writes
        self._database_url: Final = database_url
        self._connect_timeout: Final = connect_timeout
        self._server: LocalServer | None = None
        self._starting: Final = asyncio.Lock()

    async def close(self) -> None:
        """Stop the local server."""
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.stop)

    async def listen_once(
        self,
        topic: Topic,
        event: Annotated[
            str, Field(description="The event of broadcasts or, with a table, INSERT, UPDATE or DELETE; * for all.")
        ] = "*",
        table: Annotated[str | None, Field(description="Listen to changes of this table, not to broadcasts.")] = None,
        schema: Annotated[str | None, Field(description="The schema of the table, public if omitted.")] = None,
        filter: Annotated[str | None, Field(description="Which rows, such as status=eq.open.")] = None,
        with_presence: Annotated[bool, Field(description="Also report who joins and leaves.")] = False,
        private: Private = False,
        count: Annotated[int, Field(description="Return after this many events.", ge=1, le=MAX_EVENTS)] = 1,
        timeout: Seconds = 10.0,
        local: Local = False,
    ) -> dict[str, Any]:
        """Join a channel and return the next events: broadcasts, or changes of a table.

        Returns when `count` events have arrived or the time is over; the events that arrived are returned in any case.
        """
        selectors = _selectors(event, table, schema, filter, with_presence=with_presence)
        ends_at = time.monotonic() + timeout
        events: list[dict[str, Any]] = []
        async with self._client(local, timeout, private=private) as client:
            channel = client.channel(topic, private=private)
            stream = channel.listen(*selectors)
            await channel.subscribe(wait="joined" if table is None else "ready", timeout=_left(ends_at))
            limit = asyncio.timeout(_left(ends_at))
            try:
                async with limit:
                    async for received in stream:
                        if not isinstance(received, PresenceSync):
                            events.append(_fields(received))
                        if len(events) >= count:
                            break
            except TimeoutError:
                if not limit.expired():
                    raise
        result = _bounded("events", events) | {"complete": len(events) >= count}
        if not events:
            advice = "table and database" if table is not None else "topic"
            result["advice"] = (
                f"Nothing arrived within {timeout:g} s; if something should, call doctor with the {advice}."
            )
        return result

    async def send(
        self,
        topic: Topic,
        event: Annotated[str, Field(description="The name of the event.", min_length=1, max_length=200)],
        payload: Annotated[dict[str, Any] | None, Field(description="A JSON object; empty if omitted.")] = None,
        private: Private = False,
        timeout: Seconds = 10.0,
        local: Local = False,
    ) -> dict[str, Any]:
        """Send one broadcast to all listeners of a topic, and wait for the server's confirmation.

        Only allowed for the local server, unless this program was started with --allow-writes.
        """
        if not local and not self._allow_writes:
            raise ToolError(
                "Sending is switched off. Ask the user to start `supawire mcp` with --allow-writes, or call serve and "
                "pass local=true."
            )
        if len(to_json(payload or {})) > MAX_PAYLOAD:
            raise ToolError(f"The payload is larger than {MAX_PAYLOAD:,} characters of JSON. Send less data.")
        ends_at = time.monotonic() + timeout
        async with self._client(local, timeout, private=private) as client:
            channel = client.channel(topic, private=private, ack=True)
            await channel.subscribe(timeout=_left(ends_at))
            started = time.monotonic()
            await channel.broadcast(event, payload or {}, ack=True, timeout=_left(ends_at))
        return {"confirmed": True, "seconds": round(time.monotonic() - started, 3)}

    async def presence(
        self, topic: Topic, private: Private = False, timeout: Seconds = 10.0, local: Local = False
    ) -> dict[str, Any]:
        """Return who is present in a channel, by presence key, without being present in it."""
        ends_at = time.monotonic() + timeout
        async with self._client(local, timeout, private=private) as client:
            entries = await _first_state(client.channel(topic, private=private), timeout, ends_at)
        return _bounded("present", entries)

    async def doctor(
        self,
        table: Annotated[
            str | None, Field(description="The table whose changes do not arrive, such as orders or shop.orders.")
        ] = None,
        filter: Annotated[str | None, Field(description="The filter for its changes.")] = None,
        event: Annotated[
            Literal["*", "INSERT", "UPDATE", "DELETE"], Field(description="The kind of changes listened to.")
        ] = "*",
        topic: Annotated[str | None, Field(description="The topic of a private channel.")] = None,
        timeout: Annotated[
            float,
            Field(description="Seconds for everything together. 15 shows why a hosted server refuses.", gt=0, le=30),
        ] = 5.0,
        local: Local = False,
    ) -> dict[str, Any]:
        """Find out why something does not work or arrive: from the network to the policies in the database.

        Each problem has what is wrong, what to do and, where there is one, the SQL to run. Nothing is changed.
        """
        target = self._chosen(local, private=topic is not None)
        try:
            report = await diagnose_async(
                target.url,
                target.key,
                token=target.token,
                database_url=self._database_of(local),
                table=table,
                filter=filter,
                event=event,
                topic=topic,
                timeout=timeout,
            )
        except RealtimeError as error:
            raise _tool_error(error) from error
        steps = {step.name: f"{step.outcome.value}: {step.detail}" for step in report.steps}
        problems = [finding.to_dict() for finding in report.findings]
        passed = {name: text for name, text in steps.items() if not text.startswith(Outcome.SKIPPED)}
        return _plain({"healthy": report.healthy, "summary": report.summary, "problems": problems, "steps": passed})

    async def explain_error(
        self,
        error: Annotated[
            str,
            Field(
                description="The text of an error, an error code, an HTTP status, a close code or an exception's name.",
                min_length=1,
                max_length=2_000,
            ),
        ],
    ) -> dict[str, Any]:
        """Explain an error of Supabase Realtime or of supawire: what it means and what to do."""
        found = explain(error)
        return {"explanations": found} if found else {"explanations": [], "advice": "Unknown; call doctor."}

    async def serve(
        self,
        postgres: Annotated[
            bool, Field(description="With an empty temporary PostgreSQL. Needs the extra supawire[postgres].")
        ] = False,
        show_keys: Annotated[
            bool, Field(description="Also return its secret keys, its JWT secret and the URL of its database.")
        ] = False,
    ) -> dict[str, Any]:
        """Start a local Realtime server for tests, and return its URL; it stops with this program.

        It is compatible with Supabase Realtime. A second call returns the one that runs.
        """
        async with self._starting:
            if self._server is None:
                try:
                    server = LocalServer(postgres=postgres)
                    self._server = await asyncio.to_thread(server.start)
                except (RealtimeError, OSError, ImportError) as error:
                    raise ToolError(f"The local server cannot start: {error}") from error
        server = self._server
        result: dict[str, Any] = {"url": server.url, "publishable_key": server.publishable_key}
        if show_keys:
            result |= {
                "anon_key": server.anon_key,
                "service_key": server.service_key,
                "secret_key": server.secret_key,
                "jwt_secret": server.secret,
            }
            database = self._database_of(True)
            result |= {"database_url": database.reveal()} if database is not None else {}
        return result

    # --- the server in use

    def _chosen(self, local: bool, *, private: bool) -> Target:
        """Return the server to use; for private channels of the local server as a signed-in user."""
        if local:
            if self._server is None:
                raise ToolError("No local server runs here. Call serve first.")
            token = Secret(self._server.token("authenticated", sub=LOCAL_USER)) if private else None
            return Target(self._server.url, Secret(self._server.anon_key), token)
        if self._target is None:
            raise ToolError(
                "This program was started without a server. Call serve and pass local=true, or ask the user to give "
                "`supawire mcp` a URL and a key: SUPABASE_URL and SUPABASE_KEY in its environment."
            )
        return self._target

    def _database_of(self, local: bool) -> Secret | None:
        if not local:
            return self._database_url
        try:
            return None if self._server is None else Secret(self._server.database_url)
        except RealtimeError:  # it has no database
            return None

    @asynccontextmanager
    async def _client(self, local: bool, timeout: float, *, private: bool) -> AsyncGenerator[AsyncClient]:
        """Open a client for one call; errors of this library become errors of the tool."""
        target = self._chosen(local, private=private)
        try:
            async with open_client(target, min(timeout, self._connect_timeout)) as client:
                yield client
        except OperationTimeout as error:
            raise ToolError(f"{error.message.rstrip('.')}. Call doctor to find out why.") from error
        except RealtimeError as error:
            raise _tool_error(error) from error


def _tool_error(error: RealtimeError) -> ToolError:
    docs = f" See {error.docs}" if error.docs else ""
    code = f" (code {error.code})" if error.code else ""
    return ToolError(f"{type(error).__name__}{code}: {error}{docs}")


def _selectors(
    event: str, table: str | None, schema: str | None, filter: str | None, *, with_presence: bool
) -> list[Selector[Any]]:
    if table is None and (schema is not None or filter is not None):
        raise ToolError("schema and filter are for changes of a table. Give table as well.")
    kind: Any = event
    try:
        first: Selector[Any] = (
            broadcast(event) if table is None else _changes(table, schema=schema, event=kind, filter=filter)
        )
    except InvalidArgumentError as error:
        raise _tool_error(error) from error
    return [first, *([presence()] if with_presence else [])]


_changes: Final[Any] = changes


def _left(ends_at: float) -> float:
    """Return the seconds until the end of a call, or a short time if it is over."""
    return max(0.01, ends_at - time.monotonic())


async def _first_state(channel: AsyncChannel, timeout: float, ends_at: float) -> list[dict[str, Any]]:
    """Return the entries of the first snapshot of presence. Raises: OperationTimeout."""
    stream = channel.listen(presence())
    await channel.subscribe(timeout=_left(ends_at))
    limit = asyncio.timeout(_left(ends_at))
    try:
        async with limit:
            async for event in stream:
                if isinstance(event, PresenceSync):
                    state: dict[str, Any] = _fields(event)["state"]
                    return [{"key": key, "entries": entries} for key, entries in state.items()]
    except TimeoutError:
        if not limit.expired():
            raise
    raise OperationTimeout(f"the server sent no presence of {channel.topic} within {timeout:g} s")


def _fields(event: Event) -> dict[str, Any]:
    return _plain(event_fields(event))


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return values of JSON only, without tokens and keys."""
    return msgspec.json.decode(hide_tokens(to_json(value)))


def _bounded(name: str, items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return as many items as a result may have, and how many were left out."""
    kept: list[dict[str, Any]] = []
    size = omitted = 0
    for item in items:
        size += len(to_json(item))
        if size > MAX_RESULT:
            omitted += 1
        else:
            kept.append(item)
    return {name: kept} | ({"omitted": omitted} if omitted else {})


def create_server(
    target: Target | None = None,
    *,
    allow_writes: bool = False,
    database_url: Secret | None = None,
    connect_timeout: float = 10.0,
) -> MCPServer:
    """Return an MCP server with the tools.

    target: the server that the tools use, None for only the local one. allow_writes: let `send` use it. database_url:
    its database, for `doctor`. connect_timeout: seconds for the first connection of a call.
    """
    tools = Tools(target, allow_writes=allow_writes, database_url=database_url, connect_timeout=connect_timeout)

    @asynccontextmanager
    async def lifespan(_: MCPServer[Any]) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await tools.close()

    server = MCPServer(
        "supawire",
        instructions=INSTRUCTIONS,
        version=version("supawire"),
        website_url="https://supawire.readthedocs.io/",
        log_level="WARNING",
        lifespan=lifespan,
    )
    for tool, annotations in (
        (tools.listen_once, READS),
        (tools.send, WRITES),
        (tools.presence, READS),
        (tools.doctor, READS),
        (tools.explain_error, READS),
        (tools.serve, STARTS),
    ):
        server.tool(annotations=annotations)(tool)
    return server
