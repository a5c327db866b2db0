"""The connection of the async client: reconnects, tokens, presence, logs, `on_frame`."""

import asyncio
import base64
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from supawire import ConnectionState, PresenceJoin, PresenceSync, broadcast, presence
from supawire.errors import (
    AuthError,
    ClosedError,
    ConnectError,
    ConnectionLostError,
    HandlerError,
    InvalidArgumentError,
    JoinDeniedError,
    OperationTimeout,
    PushError,
    RateLimitedError,
)
from supawire.options import Limits
from tests.aio.peer import KEY, connected, settled, until

pytestmark = pytest.mark.anyio


def jwt(name: str, seconds: float = 3600) -> str:
    """Return a token with the form of a JWT that expires."""
    parts = ({"alg": "none"}, {"sub": name, "exp": int(time.time() + seconds)})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join((*encoded, name))


def token_of(frame: Any) -> str | None:
    return frame.payload.get("access_token")


# --- the connection


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006, 1011, 1012, 1013, 4000])
async def test_the_client_reconnects_unless_it_was_closed(code: int | None):
    """After any end of the connection the client connects and joins again, and listeners continue (R7, R15)."""
    received: list[Any] = []
    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast(), received.append)
        await room.subscribe()
        assert server.peer is not None
        server.peer.close(code)
        await server.got("phx_join", 2)
        await settled()
        server.broadcast("room", "e", 1)
        await settled()
        assert (client.state, len(received), client.stats().reconnects) == (ConnectionState.OPEN, 1, 1)


async def test_ping_measures_a_round_trip():
    """`ping` returns seconds; it raises without a connection and without an answer."""
    async with connected(backoff=lambda attempt: 60) as (client, server):
        assert 0 <= await client.ping() < 5
        assert client.stats().last_round_trip is not None
        server.answers["heartbeat"] = None
        with pytest.raises(OperationTimeout):
            await client.ping(timeout=0.02)
        waiting = asyncio.create_task(client.ping())
        await server.got("heartbeat", 3)
        assert server.peer is not None
        server.peer.drop()
        with pytest.raises(ConnectionLostError):
            await waiting
        with pytest.raises(ConnectionLostError, match="no connection"):
            await client.ping()


async def test_a_missing_heartbeat_reply_ends_the_connection():
    """Without a reply to its heartbeat the client closes the connection within interval and timeout, and reconnects
    (R4)."""
    async with connected(heartbeat=0.03, timeout=0.05) as (_, server):
        server.answers["heartbeat"] = None
        await server.connected(2)


async def test_reconnect_does_not_wait_for_the_backoff():
    """`reconnect` ends the backoff, and replaces an open connection."""
    async with connected(backoff=lambda attempt: 60) as (client, server):
        assert server.peer is not None
        server.peer.drop()
        await settled()
        assert client.state is ConnectionState.RETRYING
        client.reconnect()
        await server.connected(2)
        await settled()
        client.reconnect()
        await settled()
        client.reconnect()
        await server.connected(3)


async def test_a_401_is_retried_once_with_a_new_token():
    """A refused token is replaced by a new one once; a second refusal ends the client (R26, R30)."""
    calls: list[int] = []

    async def provider() -> str:
        calls.append(1)
        return jwt(f"token{len(calls)}")

    async with connected(token=provider) as (client, server):
        assert server.peer is not None
        server.transport.refuse(401, '{"error": "Token has expired"}', times=5)
        server.peer.drop()
        with pytest.raises(ConnectError) as caught:
            await client.wait_closed()
        assert caught.value.status == 401
        assert len(calls) == 3
        with pytest.raises((ConnectError, ClosedError)):
            client.channel("room")


async def test_a_403_ends_the_client():
    """A permanent refusal while reconnecting closes the client and is raised by every waiting call and passed to
    `on_error` (R30)."""
    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        await room.subscribe()
        stream = room.listen(broadcast())
        waiting = asyncio.create_task(anext(stream))
        await settled()
        server.transport.refuse(403, '{"error": "TenantNotFound"}')
        assert server.peer is not None
        server.peer.drop()
        with pytest.raises(ConnectError):
            await waiting
        with pytest.raises(ConnectError):
            await client.wait_closed()
        assert [getattr(error, "status", None) for error in errors] == [403]


async def test_an_idle_client_disconnects_until_the_next_subscribe():
    """Without subscribed channels the socket is closed after `idle_disconnect`, and opened by the next subscribe."""
    async with connected(idle_disconnect=0.02) as (client, server):
        await until(lambda: client.state is ConnectionState.IDLE)
        room = client.channel("room")
        await room.subscribe()
        assert (client.state, server.connections) == (ConnectionState.OPEN, 2)


async def test_a_backoff_that_raises_is_replaced():
    """A backoff function that raises is reported, and the default backoff is used (R1)."""
    errors: list[Exception] = []

    def backoff(attempt: int) -> float:
        raise ZeroDivisionError

    async with connected(rejoin_backoff=backoff, on_error=errors.append, timeout=30) as (client, server):
        join = server.answers["phx_join"]
        server.answers["phx_join"] = server.refuse("RealtimeRestarting: Realtime is restarting, please standby")
        joining = asyncio.create_task(client.channel("room").subscribe())
        await server.got("phx_join")
        server.answers["phx_join"] = join
        await joining
        assert [type(error) for error in errors] == [HandlerError]
        assert isinstance(errors[0].__cause__, ZeroDivisionError)


# --- tokens


def plain(token: str) -> Callable[[], str]:
    return lambda: token


@pytest.mark.parametrize("kind", ["text", "plain", "async", "lambda of a coroutine"])
async def test_the_token_is_in_the_first_join(kind: str):
    """The first join frame contains the token, from any source (R25, R29)."""
    token = jwt("user")

    async def provider() -> str:
        await asyncio.sleep(0)
        return token

    sources = {"text": token, "plain": plain(token), "async": provider, "lambda of a coroutine": lambda: provider()}
    async with connected(token=sources[kind]) as (client, server):
        await client.channel("room", private=True).subscribe()
        assert token_of(server.of("phx_join")[0]) == token


async def test_a_plain_provider_runs_on_a_thread():
    """A provider that blocks does not block the event loop, and its thread ends when it returns."""
    gate, names = threading.Event(), list[str]()

    def provider() -> str:
        names.append(threading.current_thread().name)
        gate.wait(5)
        return jwt("user")

    async def release() -> None:
        await until(lambda: bool(names))
        gate.set()

    releasing = asyncio.create_task(release())
    async with connected(token=provider) as (client, _):
        await releasing
        assert client.state is ConnectionState.OPEN
        await until(lambda: all(thread.name != "supawire-token" for thread in threading.enumerate()))
    assert set(names) == {"supawire-token"}


async def test_a_hanging_provider_has_a_deadline():
    """A provider that never returns is reported after its deadline, and the client continues with its current token
    (R27)."""
    errors: list[Exception] = []

    async def provider() -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async with connected(token=provider, timeout=0.05, on_error=errors.append) as (client, _):
        assert client.state is ConnectionState.OPEN
    assert isinstance(errors[0], AuthError)


@pytest.mark.parametrize("bad", [5, "two words", "", b"bytes"])
async def test_a_provider_that_returns_no_token_is_reported(bad: Any):
    """A value that is not a token causes an AuthError in `on_error`, which does not show the value (R27, R48)."""
    errors: list[Exception] = []
    async with connected(token=lambda: bad, on_error=errors.append) as (client, _):
        assert client.state is ConnectionState.OPEN
    assert isinstance(errors[0], AuthError)
    assert "two words" not in repr(errors[0]) + str(errors[0].__cause__)


async def test_set_auth_reaches_joined_channels_once():
    """A new token is pushed once to each joined channel without its own token, and not if it is unchanged (R25)."""
    async with connected(token=jwt("one")) as (client, server):
        for name in ("a", "b"):
            await client.channel(name).subscribe()
        own = client.channel("c", token=jwt("own"))
        await own.subscribe()
        two = jwt("two")
        await client.set_auth(two)
        await client.set_auth(two)
        await settled()
        assert [(frame.topic, token_of(frame)) for frame in server.of("access_token")] == [
            ("realtime:a", two),
            ("realtime:b", two),
        ]
        three = jwt("three")
        await own.set_auth(three)
        await server.got("access_token", 3)
        assert token_of(server.of("access_token")[2]) == three
        with pytest.raises(InvalidArgumentError):
            await client.set_auth("two words")


async def test_a_failed_channel_joins_with_a_new_token():
    """A channel that was refused with the old token joins with the new one by itself (R29)."""
    async with connected(token=jwt("bad")) as (client, server):
        join = server.answers["phx_join"]
        server.answers["phx_join"] = server.refuse("Unauthorized: You do not have permissions to read")
        room = client.channel("room", private=True)
        with pytest.raises(JoinDeniedError):
            await room.subscribe()
        server.answers["phx_join"] = join
        await client.set_auth(jwt("good"))
        await server.got("phx_join", 2)
        await settled()
        assert room.state.value == "joined"


# --- presence


async def test_track_returns_when_confirmed_and_others_are_events():
    """`track` returns when confirmed, other clients arrive as events, and the state is an immutable snapshot."""
    async with connected() as (client, server):
        room = client.channel("room")
        stream = room.listen(presence())
        await room.track({"name": "early"})
        await room.subscribe()
        await server.got("presence")
        await room.track({"name": "Ada"})
        assert server.of("presence")[1].payload == {"type": "presence", "event": "track", "payload": {"name": "Ada"}}
        assert isinstance(await anext(stream), PresenceSync)
        meta = {"phx_ref": "r1", "name": "Bob"}
        server.send("realtime:room", "presence_diff", {"joins": {"bob": {"metas": [meta]}}, "leaves": {}})
        joined, sync = await anext(stream), await anext(stream)
        assert isinstance(joined, PresenceJoin) and joined.key == "bob"
        assert isinstance(sync, PresenceSync)
        state = room.presence_state()
        assert [entry.payload for entry in state["bob"]] == [{"name": "Bob"}]
        with pytest.raises(TypeError):
            state["eve"] = ()  # pyright: ignore[reportIndexIssue]
        await room.untrack()
        assert server.of("presence")[2].payload["event"] == "untrack"


async def test_a_refused_track_raises():
    """An error reply to `track` raises PushError; a state that is not an object raises before anything is sent."""
    async with connected() as (client, server):
        server.answers["presence"] = server.refuse("no")
        room = client.channel("room", presence_key="me")
        await room.subscribe()
        with pytest.raises(PushError):
            await room.track({})
        with pytest.raises(InvalidArgumentError, match="JSON object"):
            await room.track([1])


async def test_the_presence_limit_is_kept():
    """The sixth change in the window waits in the client and raises RateLimitedError after its timeout (R35)."""
    async with connected(limits=Limits(presence_calls=2)) as (client, server):
        room = client.channel("room", presence_key="me")
        await room.subscribe()
        await room.track({"n": 1})
        await room.track({"n": 2})
        with pytest.raises(RateLimitedError, match="2 presence requests"):
            await room.track({"n": 3}, timeout=0.02)
        assert server.events()["presence"] == 2


async def test_tracked_state_is_sent_again_after_a_rejoin():
    """Tracked state is sent again on each new connection until `untrack` (R45)."""
    async with connected() as (client, server):
        room = client.channel("room", presence_key="me")
        await room.subscribe()
        await room.track({"n": 1})
        assert server.peer is not None
        server.peer.drop()
        again = await server.got("presence", 2)
        assert again.payload["payload"] == {"n": 1}


# --- logs and `on_frame`


async def test_a_reconnect_is_one_warning_and_one_info(caplog: pytest.LogCaptureFixture):
    """Normal operation logs nothing above DEBUG; a lost connection logs one WARNING, and one INFO when it is restored
    (R48)."""
    caplog.set_level(logging.DEBUG)
    async with connected() as (client, server):
        room = client.channel("room")
        await room.subscribe()
        await room.broadcast("e", {})
        assert _shown(caplog) == []
        assert server.peer is not None
        server.peer.drop()
        await server.got("phx_join", 2)
        await settled()
        assert _shown(caplog) == [("supawire.connection", "WARNING"), ("supawire.connection", "INFO")]
        await room.unsubscribe()
    assert len(_shown(caplog)) == 2


def _shown(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.name, record.levelname) for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_gap_without_a_listener_is_a_warning(caplog: pytest.LogCaptureFixture):
    """When events may be missing and no listener for gaps exists, one warning is logged that names the affected
    selectors (R44)."""
    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast(), print)
        await room.subscribe()
        assert server.peer is not None
        server.peer.drop()
        await server.got("phx_join", 2)
        await settled()
    warnings = [record.getMessage() for record in caplog.records if record.name == "supawire.channel"]
    assert len(warnings) == 1 and "perhaps lost: broadcast" in warnings[0]


async def test_no_log_contains_a_secret_or_a_payload(caplog: pytest.LogCaptureFixture):
    """The log of a whole session at DEBUG contains no key, no token and no payload (R48)."""
    caplog.set_level(logging.DEBUG)
    token = jwt("user")
    async with connected(token=token) as (client, server):
        room = client.channel("room", private=True)
        room.on(broadcast(), lambda event: 1 / 0)
        await room.subscribe()
        await room.broadcast("e", "a-secret-payload")
        server.broadcast("room", "e", "a-secret-payload")
        await client.set_auth(jwt("other"))
        server.raw(b"garbage with a-secret-payload")
        assert server.peer is not None
        server.peer.drop()
        await server.got("phx_join", 2)
        await settled()
    text = "\n".join(record.getMessage() + str(record.exc_info) for record in caplog.records)
    assert text
    assert [word for word in (KEY, token, "a-secret-payload") if word in text] == []


async def test_logger_is_the_parent_of_the_clients_loggers(caplog: pytest.LogCaptureFixture):
    """The loggers of the client are children of `logger`."""
    caplog.set_level(logging.DEBUG)
    async with connected(logger=logging.getLogger("mine")):
        pass
    assert {record.name.partition(".")[0] for record in caplog.records} >= {"mine"}
    assert not any(record.name.startswith("supawire") for record in caplog.records)


async def test_on_frame_receives_frames_without_tokens():
    """`on_frame` receives every frame of both directions, without tokens and the key (R48)."""
    token = jwt("user")
    seen: list[tuple[str, bytes, bool]] = []
    async with connected(token=token, on_frame=lambda *frame: seen.append(frame)) as (client, server):
        room = client.channel("room", private=True)
        await room.subscribe()
        await client.set_auth(jwt("other"))
        await room.broadcast("e", {"a": 1})
        server.broadcast("room", "e", 2)
        await settled()
    wire = b"".join(data for _, data, _ in seen)
    assert token.encode() not in wire and jwt("other").encode() not in wire and KEY.encode() not in wire
    assert [(direction, b"***" in data) for direction, data, _ in seen if b"phx_join" in data] == [("out", True)]
    assert {(direction, binary) for direction, _, binary in seen} == {("out", False), ("out", True), ("in", False)}


async def test_an_on_frame_that_raises_is_reported():
    """An exception of `on_frame` is reported and does not end the client (R1)."""
    errors: list[Exception] = []

    def on_frame(direction: str, data: bytes, binary: bool) -> None:
        raise ZeroDivisionError

    async with connected(on_frame=on_frame, on_error=errors.append) as (client, _):
        await client.channel("room").subscribe()
        assert client.state is ConnectionState.OPEN
    assert {type(error.__cause__) for error in errors} == {ZeroDivisionError}


async def test_a_permanent_end_of_a_channel_is_reported_to_on_error():
    """When no call or iterator waits, `on_error` receives the reason why a joined channel ended."""
    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        await room.subscribe()
        server.system("room", "error", "You do not have permissions to read from this topic", "system")
        server.send("realtime:room", "phx_close", {}, join_ref=server.of("phx_join")[0].join_ref)
        await settled()
        assert room.state.value == "failed"
        assert [type(error) for error in errors] == [JoinDeniedError]


async def test_stats_count_frames_and_events():
    """`stats` counts the frames and bytes that were sent and received."""
    async with connected() as (client, server):
        room = client.channel("room")
        await room.subscribe()
        await room.broadcast("e", {})
        stats = client.stats()
        assert (stats.state, stats.connects, stats.joins, stats.frames_sent) == (ConnectionState.OPEN, 1, 1, 2)
        assert stats.frames_received >= 1 and server.connections == 1
