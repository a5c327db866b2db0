"""The hub on the network: upgrades, frames, closes and HTTP."""

import asyncio
import io
import json
import logging
import os
import signal
import socket as socketlib
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest

from supawire.events import Instant
from supawire.server import HubOptions, ServerLimits, serve
from supawire.server.app import App
from supawire.server.connection import MAX_QUEUED_IN
from supawire.server.hub_options import Timings
from supawire.server.tokens import sign
from supawire.server.websocket import MAX_UNSENT, frame_of
from tests.server.world import OK, SECRET

TOKEN = sign({"role": "authenticated", "exp": 4_000_000_000}, SECRET)
LAB = "realtime:lab"
JOIN = [
    "1", "1", LAB, "phx_join",
    {"config": {"broadcast": {"ack": True}, "presence": {"enabled": False}}},
]  # fmt: skip


class Net:
    def __init__(self, app: App, http: aiohttp.ClientSession) -> None:
        self.app = app
        self.http = http
        self.url = f"http://127.0.0.1:{app.port}"

    async def open(self, path: str = "/socket/websocket", **query: str) -> aiohttp.ClientWebSocketResponse:
        params = {"vsn": "2.0.0", "apikey": TOKEN, **query}
        return await self.http.ws_connect(self.url + path, params=params, max_msg_size=0, autoclose=False)

    async def joined(self) -> aiohttp.ClientWebSocketResponse:
        ws = await self.open()
        await ws.send_json(JOIN)
        assert (await ws.receive_json())[4]["status"] == "ok"
        return ws

    def pump(self) -> None:
        self.app.pump()

    def fault(self, name: str, *args: Any, **more: Any) -> None:
        self.app.hub.at(self.app.now())
        getattr(self.app.hub.faults, name)(*args, **more)
        self.app.pump()


@asynccontextmanager
async def running(max_unsent: int = MAX_UNSENT, **options: Any) -> AsyncGenerator[Net]:
    app = App(HubOptions(secret=SECRET, **options), max_unsent=max_unsent)
    await app.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Net(app, http)
    finally:
        await app.stop()


async def closed(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """Read until the server closes, and return its close code."""
    ends = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    while (await ws.receive(5)).type not in ends:
        pass
    code = ws.close_code
    await ws.close()
    return code


@pytest.mark.parametrize("path", ["/socket/websocket", "/realtime/v1/websocket"])
async def test_both_paths_upgrade_without_compression(path: str) -> None:
    """The paths of the container and of the gateway accept WebSockets; permessage-deflate is not negotiated."""
    async with running() as net:
        ws = await net.http.ws_connect(net.url + path, params={"vsn": "2.0.0", "apikey": TOKEN}, compress=15)
        assert ws.compress == 0
        await ws.send_json([None, "1", "phoenix", "heartbeat", {}])
        assert await ws.receive_json() == [None, "1", "phoenix", "phx_reply", OK]
        await ws.close()


@pytest.mark.parametrize(
    ("path", "query", "headers", "status", "body", "kind"),
    [
        ("/socket/websocket", {"vsn": "3.0.0"}, {}, 403, "", None),
        ("/socket/websocket", {}, {}, 401, '{"error":"API key is missing"}', "application/json; charset=utf-8"),
        (
            "/socket/websocket",
            {"apikey": TOKEN},
            {"Host": "nobody.localhost"},
            404,
            '{"error":"Tenant not found"}',
            "application/json; charset=utf-8",
        ),
        ("/socket/nosuch/websocket", {"apikey": TOKEN}, {}, 404, "Not Found", "text/html; charset=utf-8"),
    ],
)
async def test_a_refused_upgrade_has_the_recorded_response(
    path: str, query: dict[str, str], headers: dict[str, str], status: int, body: str, kind: str | None
) -> None:
    """Status, body and content type are those recorded from the real server."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with running() as net, net.http.get(net.url + path, params=query, headers=upgrade | headers) as answer:
        assert (answer.status, await answer.text(), answer.headers.get("Content-Type")) == (status, body, kind)


async def test_a_request_that_is_not_an_upgrade_is_refused_with_400() -> None:
    """The other checks come first; another method than GET is refused with 400 too."""
    async with running() as net:
        for method, query, status in (("GET", {"apikey": TOKEN}, 400), ("GET", {}, 401), ("POST", {}, 400)):
            async with net.http.request(method, net.url + "/socket/websocket", params=query) as answer:
                assert answer.status == status
        assert net.app.hub.next_deadline is None and net.app.open_sockets == 0


async def test_requests_that_are_too_long_are_refused() -> None:
    """A request line that is too long gets 414, and a header that is too long 431."""
    async with running() as net:
        async with net.http.get(f"{net.url}/api/ping?x={'a' * 8200}") as answer:
            assert answer.status == 414
        async with net.http.get(f"{net.url}/api/ping", headers={"x-long": "a" * 8000}) as answer:
            assert answer.status == 431
        async with net.http.get(f"{net.url}/api/ping", headers={"x-long": "a" * 4200}) as answer:
            assert answer.status == 200


async def test_frames_of_every_size_arrive_whole_and_in_order() -> None:
    """Sizes at the limits of the three WebSocket length encodings arrive complete and in order."""
    sizes = [0, 1, 125, 126, 127, 65_000, 65_535, 65_536, 200_000, 3]
    async with running() as net:
        one, two = await net.joined(), await net.joined()
        for size in sizes:
            await one.send_json(["1", str(size), LAB, "broadcast", {"event": "e", "payload": "x" * size}])
        got = [len((await two.receive_json())[4]["payload"]) for _ in sizes]
        assert got == sizes
        acks = [(await one.receive_json())[1] for _ in sizes]
        assert acks == [str(size) for size in sizes]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 100_000])
def test_a_frame_has_the_shortest_length_encoding(size: int) -> None:
    """Frames are final, unmasked and have the shortest length encoding (RFC 6455 §5.2)."""
    frame = frame_of(b"x" * size, True)
    header = 2 if size < 126 else 4 if size < 65_536 else 10
    assert (frame[0], len(frame)) == (0x82, header + size)
    shown = frame[1] if header == 2 else int.from_bytes(frame[2:header], "big")
    assert shown == size
    assert frame_of(b"", False) == b"\x81\x00"


async def test_invalid_utf_8_does_not_close_the_socket() -> None:
    """A text frame with invalid UTF-8 is dropped, and the next frame is answered."""
    async with running() as net:
        ws = await net.joined()
        await ws.send_frame(b'["1","2","realtime:lab","broadcast",{"x":"\xff"}]', aiohttp.WSMsgType.TEXT)
        await ws.send_json([None, "3", "phoenix", "heartbeat", {}])
        assert (await ws.receive_json())[1] == "3"


async def test_a_failing_timer_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A timer that raises is logged; later timers still run."""

    def fail() -> None:
        raise TypeError("a failure for this test")

    async with running() as net:
        ws = await net.joined()
        schedule, now = net.app.hub.schedule, net.app.now().mono
        schedule.at(now, fail)
        net.fault("delay_replies", 0.01)
        await ws.send_json([None, "7", "phoenix", "heartbeat", {}])
        assert (await asyncio.wait_for(ws.receive_json(), 5))[1] == "7"
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [TypeError]


async def test_a_failing_effect_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A query without a backend is logged, and the effects after it are performed."""
    async with running(database=True) as net:
        ws = await net.open()
        private = {"config": {"private": True}}
        await ws.send_json(["1", "1", LAB, "phx_join", private])
        other = await net.open()
        await other.send_json([None, "7", "phoenix", "heartbeat", {}])
        assert (await asyncio.wait_for(other.receive_json(), 5))[1] == "7"
    assert "the local server failed to perform SendQuery" in caplog.messages


async def test_pings_are_answered_and_reset_the_idle_timeout() -> None:
    """A ping gets a pong and counts as received data."""
    async with running() as net:
        ws = await net.http.ws_connect(f"{net.url}/socket/websocket?vsn=2.0.0&apikey={TOKEN}", autoping=False)
        (peer,) = net.app.hub.connections.peers.values()
        peer.last_received_at -= 30
        before = peer.last_received_at
        await ws.ping(b"hello")
        pong = await ws.receive()
        assert (pong.type, bytes(pong.data)) == (aiohttp.WSMsgType.PONG, b"hello")
        assert peer.last_received_at > before + 29
        await ws.close()


async def test_a_frame_that_is_too_long_closes_with_1009() -> None:
    """A frame of five million bytes is accepted, a longer one closes the socket with 1009."""
    async with running() as net:
        ws = await net.open()
        await ws.send_str(" " * 5_000_000)
        await ws.send_json([None, "1", "phoenix", "heartbeat", {}])
        assert (await ws.receive_json())[1] == "1"
        await ws.send_str(" " * 5_000_001)
        assert await closed(ws) == 1009


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4000, None])
async def test_the_server_closes_with_any_code(code: int | None) -> None:
    """Frames sent before the close arrive; without a code the connection is aborted."""
    async with running() as net:
        ws = await net.joined()
        if code is not None:
            net.fault("send_system", "lab", "ok", "last message")
        net.fault("drop_connections", code)
        if code is not None:
            assert (await ws.receive_json())[4]["message"] == "last message"
        assert await closed(ws) == (code or 1006)
        await ws.close()


async def test_a_disconnected_client_is_removed_at_once() -> None:
    """Its connection and channels are removed after a close and after an abort."""
    async with running() as net:
        for cut in (False, True):
            ws, other = await net.joined(), await net.joined()
            await ws.send_json(["1", "2", LAB, "presence", {"event": "track", "payload": {}}])
            assert (await other.receive_json())[3] == "presence_diff"
            if cut:
                connection = ws._response.connection
                assert connection is not None and connection.transport is not None
                connection.transport.abort()
            else:
                await ws.close()
            assert (await other.receive_json(timeout=5))[4]["joins"] == {}
            await other.close()


UPGRADE = (
    f"GET /socket/websocket?vsn=2.0.0&apikey={TOKEN} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
).encode()


async def test_a_client_that_disconnects_during_the_handshake_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged, and later clients connect as usual."""
    async with running() as net:
        for _ in range(20):
            with socketlib.create_connection(("127.0.0.1", net.app.port)) as gone:
                gone.sendall(UPGRADE)
                gone.setsockopt(socketlib.SOL_SOCKET, socketlib.SO_LINGER, struct.pack("ii", 1, 0))
        ws = await net.joined()  # joined after those frames were handled
        await ws.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_client_that_does_not_read_is_disconnected() -> None:
    """Unsent data of a connection is bounded; other connections are not affected."""
    async with running(max_unsent=2_000_000) as net:
        reader, writer = await asyncio.open_connection("127.0.0.1", net.app.port, limit=1024)
        writer.write(UPGRADE)
        join = json.dumps(JOIN).encode()
        writer.write(bytes((0x81, 0x80 | 126)) + len(join).to_bytes(2, "big") + b"\0\0\0\0" + join)
        await reader.readuntil(b"\r\n\r\n")
        ws = await net.joined()
        for n in range(12):
            await ws.send_json(["1", str(n), LAB, "broadcast", {"event": "e", "payload": "x" * 1_000_000}])
            assert (await ws.receive_json())[1] == str(n)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(20_000_000)
        assert net.app.open_sockets == 1
        writer.close()


async def test_reading_pauses_behind_a_delayed_join() -> None:
    """Reading pauses above a limit of queued bytes; after the join all frames are answered."""
    frames = MAX_QUEUED_IN // 1_000_000 + 3
    async with running() as net:
        ws = await net.open()
        net.fault("delay_join", "lab", 0.2)
        await ws.send_json(JOIN)
        for n in range(frames):
            await ws.send_json([None, str(n), "phoenix", "heartbeat", {"x": "y" * 1_000_000}])
        refs = [(await ws.receive_json())[1] for _ in range(frames + 1)]
        assert refs == ["1", *map(str, range(frames))]


async def test_an_exception_closes_only_its_socket_with_1011(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception while handling a frame is logged and closes that socket; other clients can connect."""
    async with running() as net:
        ws = await net.open()

        def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(net.app.hub, "receive", fail)
        with caplog.at_level(logging.ERROR, "supawire.server"):
            await ws.send_str("x")
            assert await closed(ws) == 1011
        assert TOKEN not in caplog.text and "a bug" in caplog.text
        monkeypatch.undo()
        await net.joined()


async def test_timers_run_without_traffic() -> None:
    """A deadline of the hub is met without any received data."""
    async with running(timings=Timings(idle=0.05)) as net:
        ws = await net.open()
        assert await closed(ws) == 1000


async def test_refusals_are_delayed() -> None:
    """A refused handshake is answered after the hub's delay, while other requests are answered."""
    async with running(timings=Timings(handshake_error=0.2)) as net:
        late = asyncio.ensure_future(net.http.get(f"{net.url}/socket/websocket"))
        async with net.http.get(f"{net.url}/healthcheck") as answer:
            assert answer.status == 200
        assert not late.done()
        assert (await late).status == 401


@pytest.mark.parametrize("base", ["/api", "/realtime/v1/api"])
async def test_rest_is_served_on_both_paths(base: str) -> None:
    """Batches, single messages and health checks are answered on both paths, with CORS headers."""
    async with running(limits=ServerLimits(messages=100)) as net:
        ws = await net.joined()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        body = {"messages": [{"topic": "lab", "event": "e1", "payload": {"a": 1}}]}
        async with net.http.post(f"{net.url}{base}/broadcast", json=body, headers=headers) as answer:
            assert (answer.status, await answer.read(), answer.headers["x-rate-limit"]) == (202, b"", "100")
        async with net.http.post(f"{net.url}{base}/broadcast/lab/events/a%2Fb%0A", json={}, headers=headers) as answer:
            assert answer.status == 202
        assert (await ws.receive_json())[4]["event"] == "e1"
        assert b"labb" not in await ws.receive_bytes()
        async with net.http.get(f"{net.url}{base}/ping") as answer:
            assert await answer.json() == {"message": "Success"}
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
        async with net.http.options(f"{net.url}/realtime/v1/api/broadcast") as answer:
            assert answer.status == 204 and "authorization" in answer.headers["Access-Control-Allow-Headers"]


async def test_a_body_over_eight_megabytes_is_refused_with_413() -> None:
    """A body of more than eight megabytes is answered with 413."""
    async with running() as net, net.http.post(f"{net.url}/api/broadcast", data=io.BytesIO(b" " * 8_000_001)) as answer:
        assert answer.status == 413


async def test_stopping_closes_with_1012_and_releases_everything() -> None:
    """Every socket is closed with 1012, no task remains, and the port can be used again."""
    app = App(HubOptions(secret=SECRET))
    await app.start()
    before = asyncio.all_tasks()
    async with aiohttp.ClientSession() as http:
        net = Net(app, http)
        sockets = [await net.joined() for _ in range(3)]
        reading = [asyncio.ensure_future(closed(ws)) for ws in sockets]
        await app.stop()
        assert [await code for code in reading] == [1012] * 3
        await app.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await net.open()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


async def test_serve_runs_until_its_event_is_set() -> None:
    """`serve` calls `on_ready` once it listens, and returns when the event is set."""
    stop, ready = asyncio.Event(), asyncio.Event()
    ports: list[int] = []

    def on_ready(app: App) -> None:
        ports.append(app.port)
        ready.set()

    task = asyncio.ensure_future(serve(HubOptions(secret=SECRET), port=0, on_ready=on_ready, stop=stop, signals=False))
    await asyncio.wait_for(ready.wait(), 5)
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{ports[0]}/healthcheck") as answer:
        assert answer.status == 200
    stop.set()
    await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("turns", range(6))
async def test_connections_accepted_while_stopping_are_closed(turns: int) -> None:
    """A connection that is accepted while the server stops is closed in every stage of its handshake."""
    app = App(HubOptions(secret=SECRET))
    await app.start()
    with socketlib.create_connection(("127.0.0.1", app.port)) as late:
        late.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)
        await app.stop()
        ended = asyncio.get_running_loop().sock_recv(late, 1)
        with suppress(ConnectionResetError):  # it was in the kernel's queue still
            assert await asyncio.wait_for(ended, 5) == b""


SCRIPT = """
import asyncio
from supawire.server import HubOptions, serve
asyncio.run(serve(HubOptions(secret="s" * 40), port=0, on_ready=lambda app: print(app.port, flush=True)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_closes_the_sockets_with_1012(number: int) -> None:
    """After a signal every socket is closed with 1012 and the process exits with status 0."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SCRIPT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    token = sign({"role": "anon", "exp": 4_000_000_000}, "s" * 40)
    async with aiohttp.ClientSession() as http:
        ws = await http.ws_connect(f"http://127.0.0.1:{port}/socket/websocket?vsn=2.0.0&apikey={token}")
        await ws.send_json(JOIN)
        await ws.receive_json()
        os.kill(process.pid, number)
        assert await closed(ws) == 1012
    assert await asyncio.wait_for(process.wait(), 5) == 0


def test_deadlines_use_the_monotonic_and_tokens_the_wall_clock() -> None:
    """Deadlines are on the loop's clock, and tokens are checked with the wall clock."""

    async def read() -> Instant:
        app = App(HubOptions(secret=SECRET))
        await app.start()
        now = app.now()
        await app.stop()
        return now

    now = asyncio.run(read())
    assert now.wall > 1_700_000_000 and now.mono != now.wall
