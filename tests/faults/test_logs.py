"""Log messages, errors and statistics of a client."""

import asyncio
import gc
import logging
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from supawire import (
    AsyncClient,
    Backoff,
    ChannelState,
    ConnectionState,
    broadcast,
    changes,
    connect_async,
    gaps,
    status,
)
from supawire.errors import ConnectError, RealtimeError
from supawire.server import LocalServer
from tests.faults.misbehaver import Misbehaver, Wire, behave
from tests.faults.steps import Collector, check_recovery, client_of, joined_channel

pytestmark = pytest.mark.anyio

KEY = "a+key/with=odd%characters"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2lnbmF0dXJlLW9mLWl0"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


class Output:
    """Collects all log messages and errors with their tracebacks, and representations of objects."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        self._caplog = caplog
        self._output: list[str] = []

    def error(self, error: BaseException) -> None:
        """Record an error as a program would print it, with the local variables that crash reporters send."""
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
        self._output += [*trace.format(), repr(error), repr(vars(error))]

    def frame(self, direction: str, data: bytes, binary: bool) -> None:
        """A hook for `on_frame`."""
        self._output.append(f"{direction} {data!r}")

    def objects(self, *objects: object) -> None:
        """Record objects that users hold and print."""
        self._output += [repr(one) for one in objects] + [str(one) for one in objects]

    @property
    def text(self) -> str:
        """Return everything recorded."""
        lines = [f"{line.getMessage()} {line.args!r} {line.exc_text or ''}" for line in self._caplog.records]
        return "\n".join([*self._output, *lines, self._caplog.text])


def shows(text: str, *secrets: str) -> list[str]:
    """Return where any of these occurs in the text, in any form that is sent."""
    forms = {form for secret in secrets for form in (secret, quote(secret, safe=""), quote(secret))}
    return [text[max(0, at - 300) : at + 20] for form in forms if (at := text.find(form)) >= 0]


async def test_a_whole_session_at_debug_shows_no_key_and_no_token(caplog: pytest.LogCaptureFixture):
    """At DEBUG no step from connect to the last error shows a key or token."""
    output = Output(caplog)
    asyncio.get_running_loop().set_debug(True)
    with LocalServer() as server:
        tokens: list[str] = []

        async def provider() -> str:
            tokens.append(server.token(number=len(tokens)))
            return tokens[-1]

        options: dict[str, Any] = {"token": provider, "on_error": output.error, "on_frame": output.frame}
        async with client_of(server, server.anon_key, **options) as client:
            room, received = await joined_channel(client, private=True, ack=True, presence_key="me")
            room.on(changes("users"), lambda _: 1 / 0)
            await room.subscribe(wait="ready")
            await room.track({"a": 1})
            await room.broadcast("x", {})
            await client.publish("room", "x", {}, private=True)
            server.emit("INSERT", "users", record={"id": 1})
            own = server.token(user="own")
            tokens.append(own)
            await room.set_auth(own)
            moves = Collector()
            room.on(status(), moves)
            server.expire_tokens()
            await check_reconnect(server, room, received, moves)
            server.reject_join("other", "Unauthorized: You do not have permissions")
            await record_failure(output, client.channel("other", private=True).subscribe())
            server.garbage()
            server.refuse_connections(times=2, status=503)
            server.drop_connections(1011)
            await check_reconnect(server, room, received, moves)
            await record_failure(output, room.broadcast("x", "y" * 4_000_000))
            output.objects(client, room, room.options, client.stats(), client.channels, client._driver.options)
            server.refuse_connections(status=403)
            server.drop_connections()
            await record_failure(output, client.wait_closed())
            output.objects(client, room, room.error)
        assert len(tokens) > 3
        assert shows(output.text, server.anon_key, *tokens, *(token.rpartition(".")[2] for token in tokens)) == []
        assert "channel room is joined" in output.text and '"access_token":"***"' in output.text


async def check_reconnect(server: LocalServer, room: Any, received: Collector, moves: Collector) -> None:
    """Check that the connection was lost, the channel joined again, and events arrive."""
    await moves.until(lambda all_: any(move.state is not ChannelState.JOINED for move in all_))
    await room.subscribe()
    before = len(received)
    server.broadcast("room", "hello", {}, private=True)
    await received.until(before + 1)
    moves.clear()


async def record_failure(output: Output, call: Any) -> None:
    """Expect a call to fail, and record its error."""
    with pytest.raises(RealtimeError) as caught:
        await call
    output.error(caught.value)


REFUSALS: dict[str, Callable[[Wire], Any]] = {
    "401 with the key": lambda wire: wire.refuse(
        401, f'{{"error":"{KEY} is not a key: {quote(KEY, safe="")}"}}'.encode()
    ),
    "500 with the request": lambda wire: _echo(wire, 500),
    "302 with the request": lambda wire: _echo(wire, 302),
    "no HTTP": lambda wire: _answer(wire, b"nonsense\r\n\r\n"),
    "200": lambda wire: wire.refuse(200, b""),
    "reset": lambda wire: _reset(wire),
    "no answer": lambda wire: wire.request(),
}


async def _echo(wire: Wire, status: int) -> None:
    head = await wire.request()
    body = head.encode()
    wire.write(
        f"HTTP/1.1 {status} No\r\nLocation: {head.split()[1]}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    wire.hang_up()


async def _answer(wire: Wire, data: bytes) -> None:
    await wire.request()
    wire.write(data)
    wire.hang_up()


async def _reset(wire: Wire) -> None:
    await wire.request()
    wire.reset()


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refused_connection_shows_no_key_and_no_token(refusal: str, caplog: pytest.LogCaptureFixture):
    """Even if the peer answers with our own request, errors and log show neither key nor token."""
    output = Output(caplog)
    asyncio.get_running_loop().set_debug(True)
    async with Misbehaver(REFUSALS[refusal]) as server:
        timeout = 0.3 if refusal == "no answer" else 10.0
        backoff = Backoff(initial=0, max_attempts=1)
        opening = connect_async(server.url, KEY, token=TOKEN, backoff=backoff, timeout=timeout, headers=HEADERS)
        output.objects(opening)
        with pytest.raises(ConnectError) as caught:
            await opening
        output.error(caught.value)
        gc.collect()  # also record warnings that are logged at garbage collection
        assert shows(output.text, KEY, TOKEN) == []
        assert server.wires and quote(KEY, safe="") in server.wires[0].head


async def test_a_session_without_errors_logs_nothing_above_debug(caplog: pytest.LogCaptureFixture):
    """Opening, joining, sending, receiving, leaving and closing log nothing at INFO or above."""
    caplog.set_level(logging.DEBUG)
    with LocalServer() as server:
        async with client_of(server, server.anon_key, heartbeat=0.05) as client:
            room, received = await joined_channel(client, echo=True, ack=True, presence_key="me")
            await room.track({})
            for number in range(20):
                await room.broadcast("x", number)
            await received.until(20)
            await room.set_auth(server.token())
            await room.untrack()
            await room.unsubscribe()
            await room.subscribe()
    assert [line.getMessage() for line in caplog.records if line.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("collects_gaps", [True, False], ids=["gaps are collected", "gaps are not collected"])
async def test_a_lost_connection_is_one_warning_and_one_info(collects_gaps: bool, caplog: pytest.LogCaptureFixture):
    """Each loss logs one WARNING, whatever the number of attempts, and one INFO when reconnected."""
    caplog.set_level(logging.DEBUG)

    async def refuses(wire: Wire) -> None:
        await wire.refuse(503)

    scripts = [behave, refuses, refuses, behave, refuses, behave]
    async with Misbehaver(*scripts) as server, client_of(server) as client:
        rooms = [await joined_channel(client, f"room:{number}") for number in range(10)]
        for room, _ in rooms:
            if collects_gaps:
                room.on(gaps(), Collector())
        for joins in (20, 30):
            server.wire.reset()
            await server.got("phx_join", joins)
            for room, _ in rooms:
                await room.subscribe()
    lines = [(line.levelname, line.name) for line in caplog.records if line.levelno > logging.DEBUG]
    expected = [("WARNING", "supawire.connection"), ("INFO", "supawire.connection")] * 2
    if not collects_gaps:
        expected.insert(2, ("WARNING", "supawire.channel"))
    assert lines == expected


async def test_the_log_reports_readiness(caplog: pytest.LogCaptureFixture):
    """A joined channel whose changes do not flow is logged as not ready, and then as ready again."""
    caplog.set_level(logging.DEBUG, "supawire")
    async with LocalServer() as server, client_of(server, server.anon_key) as client:
        room, moves = client.channel("room"), Collector()
        room.on(changes("users"), lambda change: None)
        room.on(status(), moves)
        await room.subscribe(wait="ready")
        server.send_system("room", "error", "no database", extension="postgres_changes")
        await moves.until(lambda all_: any(not move.ready for move in all_[-1:]))
        server.send_system("room", "ok", "Subscribed to PostgreSQL", extension="postgres_changes")
        await moves.until(lambda all_: all(move.ready for move in all_[-1:]))
    output = [record.getMessage() for record in caplog.records if record.name == "supawire.channel"]
    assert "channel room is joined (was joining)" in output
    assert any(text.startswith("channel room is joined, not ready (was joined): the server") for text in output)
    assert output.count("channel room is joined, ready (was joined)") == 2


async def test_each_subject_has_its_logger(caplog: pytest.LogCaptureFixture):
    """Loggers are named by subject under `supawire`, or under the given logger."""
    caplog.set_level(logging.DEBUG)
    async with Misbehaver() as server, client_of(server, logger=logging.getLogger("app.realtime")) as client:
        room, _ = await joined_channel(client)
        room.on(broadcast(), lambda _: 1 / 0)
        server.wire.send(b"{")
        server.wire.push("realtime:room", "something_new", {})
        server.wire.broadcast("room", "x", {})
        await client.ping()
    names = {line.name for line in caplog.records if line.name.startswith(("supawire", "app."))}
    assert names == {f"app.realtime.{subject}" for subject in ("connection", "channel", "wire", "handler")}
    assert all("payload" not in line.getMessage() for line in caplog.records)


async def test_stats_count_events():
    """Each field of `stats()` has the documented meaning, through joins, drops, garbage and waits (R39)."""
    async with Misbehaver() as server, client_of(server, offline="queue", heartbeat=50) as client:
        fresh = client.stats()
        assert (fresh.state, fresh.connects, fresh.reconnects, fresh.joins) == (ConnectionState.OPEN, 1, 0, 0)
        assert (fresh.frames_sent, fresh.frames_received, fresh.last_round_trip) == (0, 0, None)
        room, received = await joined_channel(client, ack=True)
        seconds = await client.ping()
        server.wire.send(b"{")
        server.wire.push("realtime:room", "something_new", {})
        server.wire.push("realtime:room", "broadcast", {"event": "x", "payload": 1}, join_ref="old")
        server.wire.push("realtime:room", "phx_reply", {"status": "ok", "response": {}}, ref="nobody")
        stream = room.listen(broadcast(), buffer=1, overflow="drop_newest")
        for number in range(3):
            server.wire.broadcast("room", "x", number)
        await received.until(3)
        now = client.stats()
        assert (now.garbage_frames, now.unknown_frames, now.stale_frames, now.late_replies) == (1, 1, 1, 1)
        assert (now.overflowed, stream.dropped) == (2, 2)
        assert (now.frames_sent, now.frames_received) == (len(server.frames), 2 + 4 + 3)
        assert now.last_round_trip == seconds > 0
        server.answers["broadcast"] = server.answers["phx_join"] = None
        unanswered = asyncio.create_task(room.broadcast("x", {}))
        await server.got("broadcast")
        assert (client.stats().pending, client.stats().queued) == (1, 0)
        server.wire.reset()
        await asyncio.wait([unanswered])
        await server.got("phx_join", 2)
        for number in range(3):
            await room.broadcast("later", number)
        assert (client.stats().pending, client.stats().queued) == (3, 3)
        server.answers["broadcast"] = Wire.reply
        server.wire.accept(server.of("phx_join")[-1])
        await check_recovery(server, room, received, joins=2)
        await server.got("broadcast", 4)
        await client.ping()
        last = client.stats()
        assert (last.connects, last.reconnects, last.joins, last.pending, last.queued) == (2, 1, 2, 0, 0)
        assert unanswered.exception() is not None
    assert client.stats().state is ConnectionState.CLOSED


async def test_a_repeated_error_does_not_grow():
    """The reason why a client ended has a new traceback in each caller, however often it is raised."""

    async def forbids(wire: Wire) -> None:
        await wire.refuse(403)

    async with Misbehaver(behave, forbids) as server, client_of(server, on_error=Collector()) as client:
        room, _ = await joined_channel(client)
        server.wire.reset()
        depths = [await _depth(call) for _ in range(3) for call in _calls(client, room)]
        assert len(set(depths[len(_calls(client, room)) :])) <= len(_calls(client, room))
        assert max(depths) < 12


def _calls(client: AsyncClient, room: Any) -> list[Callable[[], Any]]:
    return [client.wait_closed, client.ping, room.subscribe, room.untrack, lambda: anext(room.listen(broadcast()))]


async def _depth(call: Callable[[], Any]) -> int:
    with pytest.raises(ConnectError) as caught:
        await call()
    return len(traceback.extract_tb(caught.value.__traceback__))
