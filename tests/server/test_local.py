"""`LocalServer`: a server in its own thread, callable from any thread."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import aiohttp
import pytest

from supawire.errors import InvalidArgumentError, StateError
from supawire.events import Instant
from supawire.server import LocalServer, ServerLimits
from supawire.server.faults import Faults
from supawire.server.local import STOP_SIGNALS, stop_on_signals
from supawire.server.local_api import FaultApi
from supawire.server.tokens import Claims, check

LAB = "realtime:lab"


@pytest.fixture(name="server")
def _server() -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


async def opened(http: aiohttp.ClientSession, server: LocalServer, **config: Any) -> aiohttp.ClientWebSocketResponse:
    params = {"vsn": "2.0.0", "apikey": server.anon_key}
    ws = await http.ws_connect(f"{server.url}/socket/websocket", params=params)
    await ws.send_json(["1", "1", LAB, "phx_join", {"config": config, "access_token": server.token()}])
    assert (await ws.receive_json())[4]["status"] == "ok"
    return ws


def test_it_starts_and_stops() -> None:
    """It has a URL on this machine while it runs, and no thread remains afterwards."""
    with LocalServer() as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert any(thread.name == "supawire-local-server" for thread in threading.enumerate())
    assert not any(thread.name == "supawire-local-server" for thread in threading.enumerate())
    with pytest.raises(StateError):
        _ = server.url
    server.stop()


def test_it_can_be_started_again() -> None:
    """It keeps its secret, so that tokens stay valid; a second start while it runs is an error."""
    server = LocalServer()
    for _ in range(2):
        server.start()
        with pytest.raises(StateError):
            server.start()
        server.stop()


async def test_it_is_an_async_context_manager_too() -> None:
    """It runs in its own thread there too."""
    async with (
        LocalServer() as server,
        aiohttp.ClientSession() as http,
        http.get(server.url + "/healthcheck") as answer,
    ):
        assert answer.status == 200


def test_a_port_that_is_taken_is_an_error(server: LocalServer) -> None:
    """`start` raises, and no thread remains."""
    other = LocalServer(port=int(server.url.rpartition(":")[2]))
    with pytest.raises(OSError, match="address"):
        other.start()
    with pytest.raises(StateError):
        _ = other.frames


def test_keys_and_tokens_are_signed_with_the_secret() -> None:
    """They have the given role, expiry and claims; each server has a random secret unless one is given."""
    server = LocalServer()
    assert server.secret != LocalServer().secret
    now = Instant(0.0, time.time())

    def claims(token: str, secret: str = server.secret) -> Claims:
        found = check(token, secret, now)
        assert isinstance(found, Claims)
        return found

    assert claims(server.anon_key).role == "anon"
    assert claims(server.service_key).role == "service_role"
    token = claims(server.token("editor", 100, sub="7"))
    assert (token.role, token.values["sub"]) == ("editor", "7")
    assert 98 <= token.exp - now.wall <= 101
    assert not isinstance(check(server.token(expires_in=-5), server.secret, now), Claims)
    given = LocalServer(secret="s" * 40)
    assert claims(given.anon_key, "s" * 40)


def test_nothing_shows_the_secret() -> None:
    """It is neither in the repr nor in errors."""
    server = LocalServer(secret="very-secret-" * 4)
    assert "very-secret" not in repr(server)
    with server:
        assert "very-secret" not in repr(server)


def test_database_methods_need_a_database() -> None:
    """The error names the alternative."""
    server = LocalServer()
    with pytest.raises(StateError, match="has no database"):
        server.sql("select 1")
    with pytest.raises(StateError, match="has no database"):
        _ = server.database_url


def test_postgres_without_its_extra_names_the_extra() -> None:
    """The error names the extra in a process that cannot import psycopg; a server without a database works there."""
    script = """
import sys
sys.modules["psycopg"] = None
from supawire.server import LocalServer
LocalServer().start().stop()
try:
    LocalServer(postgres=True)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'supawire[postgres]'" in done.stdout


async def test_changes_reach_a_client(server: LocalServer) -> None:
    """Inserts, updates and deletes are delivered, each by its method."""
    async with aiohttp.ClientSession() as http:
        ws = await opened(http, server, postgres_changes=[{"table": "users"}])
        assert (await ws.receive_json())[4]["message"] == "Subscribed to PostgreSQL"
        server.emit("INSERT", "users", record={"id": 1})
        server.emit_update("users", record={"id": 1, "n": 2})
        server.emit_delete("users", old_record={"id": 1})
        kinds = [(await ws.receive_json())[4]["data"]["type"] for _ in range(3)]
        assert kinds == ["INSERT", "UPDATE", "DELETE"]
        with pytest.raises(InvalidArgumentError):
            server.emit("INSERT", "users")


async def test_messages_reach_a_client(server: LocalServer) -> None:
    """Stored messages have an id, others have none; only objects and bytes can be stored."""
    async with aiohttp.ClientSession() as http:
        ws = await opened(http, server, private=True)
        name = server.send("lab", "e", {"n": 1})
        assert name.encode() in await ws.receive_bytes()
        server.broadcast("lab", "e2", [1], private=True)
        assert (await ws.receive_json())[4] == {"event": "e2", "payload": [1], "type": "broadcast"}
        with pytest.raises(InvalidArgumentError, match="list"):
            server.send("lab", "e", cast("Any", [1]))


async def test_a_policy_decides(server: LocalServer) -> None:
    """It can be a decorator and can be set on a running server.

    Calling the server from it raises, and denies access.
    """
    queries: list[str] = []

    @server.policy
    def policy(claims: Any, topic: str, extension: str, action: str) -> bool:
        queries.append(f"{claims['role']} {topic} {extension} {action}")
        if action == "write":
            server.emit("INSERT", "t", record={"id": 1})
        return True

    assert callable(policy)
    async with aiohttp.ClientSession() as http:
        ws = await opened(http, server, private=True, broadcast={"ack": True})
        await ws.send_json(["1", "2", LAB, "broadcast", {"event": "e"}])
        await ws.send_json([None, "3", "phoenix", "heartbeat", {}])
        assert (await ws.receive_json())[1] == "3"
    assert queries == ["authenticated lab broadcast read", "authenticated lab broadcast write"]


async def test_frames_of_clients_are_recorded(server: LocalServer) -> None:
    """Tokens are removed from them."""
    async with aiohttp.ClientSession() as http:
        await opened(http, server)
        (frame,) = server.frames
        assert (frame.event, frame.payload["access_token"]) == ("phx_join", "***")


def test_every_method_may_be_called_from_any_thread(server: LocalServer) -> None:
    """Concurrent calls all return after they have been executed."""
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: server.send("lab", "e", {"n": n}), range(200)))
    assert len(set(ids)) == 200


def test_methods_of_a_stopped_server_raise() -> None:
    """They raise a StateError instead of waiting."""
    server = LocalServer()
    for call in (lambda: server.emit("INSERT", "t", record={}), lambda: server.frames, lambda: server.pause()):
        with pytest.raises(StateError, match="with LocalServer"):
            call()


def test_calls_while_it_stops_return_or_raise() -> None:
    """A call while the server stops returns its result or raises a StateError, and never waits forever."""
    for _ in range(20):
        server = LocalServer().start()
        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask_until_it_ends, server) for _ in range(4)]
            server.stop()
            assert all(isinstance(one.result(), StateError) for one in asking)


def ask_until_it_ends(server: LocalServer) -> StateError:
    while True:
        try:
            server.emit("INSERT", "t", record={})
        except StateError as error:
            return error


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_methods_in_a_forked_process_raise() -> None:
    """They raise a StateError instead of waiting, and `stop()` does not stop the parent's server."""
    script = """
import os, sys
from supawire.errors import StateError
from supawire.server import LocalServer
with LocalServer() as server:
    child = os.fork()
    if child == 0:
        try:
            server.emit("INSERT", "t", record={})
        except StateError as error:
            server.stop()
            os._exit(7 if "fork" in str(error) else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    server.emit("INSERT", "t", record={})
    sys.exit(code)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"secret": ""}, "must not be empty"),
        ({"secret": 5}, "must be a string, not int"),
        ({"port": "4000"}, "a whole number"),
        ({"port": 70_000}, "the nearest allowed value is 65535"),
        ({"strict": 1}, "the nearest allowed value is True"),
        ({"postgres": "yes"}, "the nearest allowed value is True"),
        ({"database": 5}, "must be a string, not int"),
        ({"inspector": None}, "inspector must be True or False"),
        ({"limits": 5}, "ServerLimits.self_hosted()"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    """The constructor raises an error that describes the problem."""
    with pytest.raises(InvalidArgumentError) as refused:
        LocalServer(**options)
    assert message in str(refused.value)


WRONG: dict[str, Callable[[LocalServer, Any], object]] = {
    "a role": lambda server, wrong: server.token(wrong),
    "an expiry": lambda server, wrong: server.token(expires_in=wrong),
    "a claim": lambda server, wrong: server.token(sub=wrong),
    "a policy": lambda server, wrong: server.policy(wrong),
    "a type": lambda server, wrong: server.emit(wrong, "t", record={}),
    "a table": lambda server, wrong: server.emit("INSERT", wrong, record={}),
    "a schema": lambda server, wrong: server.emit("INSERT", "t", record={}, schema=wrong),
    "a row": lambda server, wrong: server.emit("INSERT", "t", record=wrong),
    "a column": lambda server, wrong: server.emit("INSERT", "t", record={wrong: 1}),
    "columns": lambda server, wrong: server.emit("INSERT", "t", record={}, columns=wrong),
    "a column's type": lambda server, wrong: server.emit("INSERT", "t", record={}, columns={"id": wrong}),
    "errors": lambda server, wrong: server.emit("INSERT", "t", record={}, errors=wrong),
    "a topic to send to": lambda server, wrong: server.send(wrong, "e", {}),
    "an event to send": lambda server, wrong: server.send("t", wrong, {}),
    "a payload to send": lambda server, wrong: server.send("t", "e", {"a": wrong}),
    "a topic": lambda server, wrong: server.broadcast(wrong, "e", {}),
    "an event": lambda server, wrong: server.broadcast("t", wrong, {}),
    "a payload": lambda server, wrong: server.broadcast("t", "e", wrong),
    "privacy": lambda server, wrong: server.broadcast("t", "e", {}, private=wrong),
    "a code": lambda server, wrong: server.drop_connections(wrong),
    "a connection": lambda server, wrong: server.pause(connection=wrong),
    "times": lambda server, wrong: server.refuse_connections(wrong),
    "seconds": lambda server, wrong: server.refuse_connections(seconds=wrong),
    "a status": lambda server, wrong: server.refuse_connections(status=wrong),
    "a status for upgrades": lambda server, wrong: server.block_websockets(wrong),
    "a method": lambda server, wrong: server.lose_answers(wrong),
    "a number of answers": lambda server, wrong: server.lose_answers("GET", wrong),
    "a lag": lambda server, wrong: server.lag(wrong),
    "data": lambda server, wrong: server.send_raw(wrong),
    "a delay": lambda server, wrong: server.delay_replies(wrong),
    "a reply": lambda server, wrong: server.drop_reply(wrong),
    "a reason": lambda server, wrong: server.reject_join("t", wrong),
    "a topic to refuse": lambda server, wrong: server.reject_join(wrong, "r"),
    "a topic to delay": lambda server, wrong: server.delay_join(wrong, 1),
    "a delay of joins": lambda server, wrong: server.delay_join("t", wrong),
    "a topic to close": lambda server, wrong: server.close_channel(wrong),
    "staleness": lambda server, wrong: server.close_channel("t", stale=wrong),
    "a topic to expire": lambda server, wrong: server.expire_tokens(wrong),
    "words": lambda server, wrong: server.send_system("t", "ok", wrong),
}


@pytest.mark.parametrize("what", WRONG)
def test_methods_check_their_arguments(what: str, server: LocalServer) -> None:
    """Each method raises InvalidArgumentError for invalid arguments, and the server continues."""
    for wrong in (object(), float("nan")):
        with pytest.raises(InvalidArgumentError):
            WRONG[what](server, wrong)
    server.emit("INSERT", "t", record={})


FAULTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "drop_connections": ((), {}),
    "refuse_connections": ((1,), {"status": 502}),
    "accept_connections": ((), {}),
    "block_websockets": ((426,), {}),
    "lose_answers": (("POST", 2), {}),
    "pause": ((), {}),
    "resume": ((), {}),
    "lag": ((0.0,), {}),
    "send_raw": (("x",), {}),
    "garbage": ((), {}),
    "delay_replies": ((0.0,), {}),
    "drop_reply": (("heartbeat", 1), {}),
    "reject_join": (("lab", "x"), {}),
    "delay_join": (("lab", 1.0), {}),
    "close_channel": (("lab",), {"stale": True}),
    "crash_channel": (("lab",), {}),
    "expire_tokens": ((), {}),
    "send_system": (("lab", "ok", "hello"), {}),
    "reset_faults": ((), {}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_reaches_the_hub(name: str, monkeypatch: pytest.MonkeyPatch, server: LocalServer) -> None:
    """The method passes its arguments on."""
    calls: list[tuple[str, Any]] = []
    target = name.removesuffix("_faults")
    real = getattr(Faults, target)

    def noted(self: Faults, *args: Any, **more: Any) -> Any:
        calls.append((target, inspect.signature(real).bind(self, *args, **more)))
        return real(self, *args, **more)

    monkeypatch.setattr(Faults, target, noted)
    args, more = FAULTS[name]
    getattr(server, name)(*args, **more)
    (called, bound) = calls[0]
    assert called == target
    given = dict(inspect.signature(getattr(server, name)).bind(*args, **more).arguments)
    assert given.items() <= dict(bound.arguments).items()


def test_every_fault_is_listed_here() -> None:
    """A new fault method needs a test here."""
    assert {name for name in vars(FaultApi) if not name.startswith("_")} == set(FAULTS)


async def test_a_refused_connection_shows_its_status(server: LocalServer) -> None:
    """The given number of connections is refused, and the next one is accepted."""
    server.refuse_connections(times=1, status=502)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await opened(http, server)
        assert refused.value.status == 502
        await opened(http, server)


async def test_a_dropped_connection_shows_its_code(server: LocalServer) -> None:
    """The client receives the close code."""
    async with aiohttp.ClientSession() as http:
        ws = await opened(http, server)
        server.drop_connections(4321)
        await ws.receive()
        assert ws.close_code == 4321


@pytest.mark.parametrize("code", [1005, 1006])
def test_codes_that_are_never_sent_are_refused(code: int, server: LocalServer) -> None:
    """These codes are reserved; without a code, clients see 1006."""
    with pytest.raises(InvalidArgumentError, match="leave it out"):
        server.drop_connections(code)


async def test_a_requested_disconnect_is_announced(server: LocalServer) -> None:
    """Clients get a system message, then the close code 1012."""
    async with aiohttp.ClientSession() as http:
        ws = await opened(http, server)
        await asyncio.to_thread(server.request_disconnect)
        assert (await ws.receive_json())[4]["message"] == "Server requested disconnect"
        await ws.receive()
        assert ws.close_code == 1012


def test_errors_while_starting_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """`start` raises what happened before the server listens, and a later start succeeds."""
    server = LocalServer()
    with monkeypatch.context() as patched:
        patched.setattr(server, "_make_backend", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            server.start()
    with server:
        assert server.url


def test_strict_means_the_real_servers_limits_and_delays() -> None:
    """Given limits replace those of `strict`."""
    for strict, limits, channels, delay in (
        (False, None, None, 0.0),
        (True, None, 100, 2.0),
        (True, ServerLimits(channels=3), 3, 2.0),
    ):
        with LocalServer(strict=strict, limits=limits) as server:
            options = server._do(lambda hub, now: hub.options)
            assert (options.limits.channels, options.timings.handshake_error) == (channels, delay)


# --- signals ---


@pytest.mark.skipif(sys.platform == "win32", reason="not run: any signal wakes an event loop on Windows")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_and_wakes_the_loop(number: signal.Signals) -> None:
    """This includes a signal that arrives just before the loop sleeps: the loop's own handler wakes it."""

    async def main() -> None:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            wakes = signal.set_wakeup_fd(-1)
            assert wakes != -1
            signal.set_wakeup_fd(wakes)
            signal.raise_signal(number)
            await asyncio.wait_for(stop.wait(), 5)

    asyncio.run(main())


def test_earlier_signal_handlers_are_restored() -> None:
    """They are restored also when the block raises."""

    def mine(*_: object) -> None: ...

    async def main() -> None:
        with pytest.raises(ZeroDivisionError), stop_on_signals(asyncio.Event()):
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGTERM) is mine

    before = signal.signal(signal.SIGTERM, mine)
    try:
        asyncio.run(main())
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
