"""Tokens that expire, and providers that raise, hang, are late, or return the same expired token."""

import asyncio
import threading
from typing import Any

import pytest

from supawire import ChannelState, ConnectionState
from supawire.errors import AuthError, JoinError
from supawire.server import LocalServer
from tests.faults.misbehaver import Misbehaver, Wire
from tests.faults.steps import Collector, Steps, check_recovery, client_of, joined_channel, ours, wait_for_state

pytestmark = pytest.mark.anyio


async def test_an_expired_token_is_refreshed_automatically():
    """When tokens expire on the server, every channel fetches a new one, joins again, and receives events."""
    errors, requests = Collector(), Collector()
    with LocalServer() as server:

        async def provider() -> str:
            requests(None)
            return server.token(number=len(requests))

        async with client_of(server, server.anon_key, token=provider, on_error=errors) as client:
            rooms = [await joined_channel(client, f"room:{number}", private=True) for number in range(3)]
            for episode in range(1, 4):
                before = len(requests)
                server.expire_tokens()
                await requests.until(before + 1)
                for room, _ in rooms:
                    await room.subscribe()
                for room, received in rooms:
                    server.broadcast(room.topic, "hello", {}, private=True)
                    await received.until(episode)
            assert errors == [] and client.stats().connects == 1


async def test_an_expired_token_of_the_provider_is_reported():
    """A provider that returns a refused token is reported as AuthError, and called with a backoff."""
    errors, steps = Collector(), Steps()
    async with Misbehaver() as server:
        server.answers["phx_join"] = lambda wire, frame: wire.deny(
            frame, "InvalidJWTToken: Token has expired 5 seconds ago"
        )
        async with client_of(server, token=lambda: "stuck", on_error=errors, rejoin_backoff=steps) as client:
            joining = asyncio.create_task(client.channel("room").subscribe(timeout=None))
            await steps.until(5)
            assert steps == list(range(len(steps)))
            assert any(isinstance(error, AuthError) for error in errors)
            assert client.stats().connects == 1
            server.answers["phx_join"] = Wire.accept
            await joining


async def test_without_a_provider_an_expired_token_ends_the_channel():
    """An expired token that was given as a string ends its channel with the reason; a new one rejoins it."""
    errors = Collector()
    with LocalServer() as server:
        async with client_of(server, server.anon_key, token=server.token(), on_error=errors) as client:
            room, received = await joined_channel(client, private=True)
            server.expire_tokens()
            error = await errors.until(1)
            assert room.state is ChannelState.FAILED and room.error is not None
            assert "expired" in str(error)
            await client.set_auth(server.token())
            await room.subscribe()
            server.broadcast("room", "hello", {}, private=True)
            await received.until(1)
            assert client.state is ConnectionState.OPEN


async def test_a_failing_provider_keeps_the_current_token():
    """Each failure is reported once, and joins carry the current token."""
    errors, calls = Collector(), Collector()

    def provider() -> str:
        calls(None)
        if len(calls) > 1:
            raise KeyError("no session")
        return "the-first"

    async with Misbehaver() as server, client_of(server, token=provider, on_error=errors) as client:
        room, received = await joined_channel(client)
        before = len(errors)
        server.wire.reset()
        await check_recovery(server, room, received, joins=2)
        assert {frame.payload["access_token"] for frame in server.of("phx_join")} == {"the-first"}
        assert len(errors) > before and all(isinstance(error.__cause__, KeyError) for error in errors)


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_hanging_provider_times_out(kind: str):
    """A provider that does not answer within `timeout` is reported, and is cancelled with the client."""
    errors, calls, block = Collector(), Collector(), threading.Event()

    async def waits() -> str:
        calls(None)
        if len(calls) > 2:
            await asyncio.get_running_loop().create_future()
        return "the-first"

    def blocks() -> str:
        calls.append(None)
        if len(calls) > 2:
            block.wait()
        return "the-first"

    provider: Any = waits if kind == "async" else blocks
    async with Misbehaver() as server, client_of(server, token=provider, on_error=errors, timeout=0.1) as client:
        room, received = await joined_channel(client)
        server.wire.reset()
        await check_recovery(server, room, received, joins=2)
        assert any(isinstance(error, AuthError) and "0.1 s" in str(error) for error in errors)
    assert {name for name in ours() if name != "supawire-token"} == set()
    block.set()


async def test_a_late_answer_of_the_provider_is_dropped():
    """An answer after a newer token was set is ignored."""
    requests, late = Collector(), asyncio.get_running_loop().create_future()

    async def provider() -> str:
        requests(None)
        return "first" if len(requests) == 1 else await late

    async with Misbehaver() as server, client_of(server, token=provider) as client:
        joining = asyncio.create_task(client.channel("room").subscribe())
        await requests.until(2)
        await client.set_auth("by-hand")
        await joining
        late.set_result("too-late")
        await client.ping()
        assert [frame.payload["access_token"] for frame in server.of("phx_join")] == ["by-hand"]
        assert server.of("access_token") == []


@pytest.mark.parametrize("answer", [5, b"bytes", "", "with space", "line\nbreak", object()])
async def test_an_invalid_answer_of_the_provider_is_reported(answer: Any):
    """A value that cannot be a token is reported like a failing provider, and never sent."""
    errors, calls = Collector(), Collector()

    def provider() -> Any:
        calls(None)
        return "the-first" if len(calls) == 1 else answer

    async with Misbehaver() as server, client_of(server, token=provider, on_error=errors) as client:
        room, received = await joined_channel(client)
        server.wire.reset()
        await check_recovery(server, room, received, joins=2)
        assert {frame.payload["access_token"] for frame in server.of("phx_join")} == {"the-first"}
        assert errors and all(isinstance(error, AuthError) for error in errors)


async def test_signing_out_removes_the_token():
    """After `set_auth(None)` joins carry the key only, also after reconnects."""
    async with Misbehaver() as server, client_of(server, token="a-users-token") as client:
        room, received = await joined_channel(client)
        await client.set_auth(None)
        server.wire.reset()
        await check_recovery(server, room, received, joins=2)
        first, second = (frame.payload.get("access_token") for frame in server.of("phx_join"))
        assert first == "a-users-token" and second != first


async def test_a_refresh_is_sent_once_to_each_channel():
    """A new token causes one `access_token` push per joined channel, and an unchanged one none."""
    async with Misbehaver() as server, client_of(server, token="one") as client:
        for number in range(3):
            await joined_channel(client, f"room:{number}")
        await client.set_auth("two")
        await client.set_auth("two")
        await client.ping()
        pushes = server.of("access_token")
        assert sorted(frame.topic for frame in pushes) == [f"realtime:room:{number}" for number in range(3)]
        assert {frame.payload["access_token"] for frame in pushes} == {"two"}


async def test_a_refused_refresh_ends_only_its_channel():
    """A channel whose new token is refused ends with the server's text; the others continue."""
    errors = Collector()
    with LocalServer() as server:
        async with client_of(server, server.anon_key, token=server.token(), on_error=errors) as client:
            one, _ = await joined_channel(client, "one", private=True)
            two, received = await joined_channel(client, "two", private=True)
            await one.set_auth(server.token(expires_in=-10))
            error = await errors.until(1)
            assert one.state is ChannelState.FAILED and two.state is ChannelState.JOINED
            assert isinstance(error, (AuthError, JoinError))
            server.broadcast("two", "hello", {}, private=True)
            await received.until(1)


async def test_tokens_are_fetched_before_a_reconnect():
    """The client calls the provider before it connects, and the join carries the result."""
    requests = Collector()

    def provider() -> str:
        requests(None)
        return f"token-{len(requests)}"

    async with Misbehaver() as server, client_of(server, token=provider) as client:
        room, received = await joined_channel(client)
        await server.leave()
        server.wire.reset()
        await wait_for_state(client, ConnectionState.RETRYING)
        before = len(requests)
        await requests.until(before + 2)
        await server.listen()
        await check_recovery(server, room, received, joins=2)
        assert server.of("phx_join")[1].payload["access_token"] == f"token-{len(requests)}"
