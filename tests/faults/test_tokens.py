"""Tokens that run out, and providers that raise, hang, are late, or give the same dead token again."""

import asyncio
import threading
from typing import Any

import pytest

from supawire import ChannelState, ConnectionState
from supawire.errors import AuthError, JoinError
from supawire.server import LocalServer
from tests.faults.misbehaver import Misbehaver, Wire
from tests.faults.steps import Heard, Steps, client_of, comes_to, lives_on, ours, room_of

pytestmark = pytest.mark.anyio


async def test_an_expired_token_is_renewed_without_a_word_of_the_user():
    """When tokens run out on the server, every channel fetches a fresh one, joins again, and receives (R26)."""
    errors, asked = Heard(), Heard()
    with LocalServer() as server:

        async def provider() -> str:
            asked(None)
            return server.token(number=len(asked))

        async with client_of(server, server.anon_key, token=provider, on_error=errors) as client:
            rooms = [await room_of(client, f"room:{number}", private=True) for number in range(3)]
            for episode in range(1, 4):
                before = len(asked)
                server.expire_tokens()
                await asked.until(before + 1)
                for room, _ in rooms:
                    await room.subscribe()
                for room, heard in rooms:
                    server.broadcast(room.topic, "hello", {}, private=True)
                    await heard.until(episode)
            assert errors == [] and client.stats().connects == 1


async def test_a_dead_token_is_tried_ever_more_rarely_and_told():
    """A provider stuck on a token that the server refuses is reported as AuthError, and asked in a backoff (R26)."""
    errors, steps = Heard(), Steps()
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
    """A token that was given as a string and ran out ends its channel with the reason; a new one revives it (R26)."""
    errors = Heard()
    with LocalServer() as server:
        async with client_of(server, server.anon_key, token=server.token(), on_error=errors) as client:
            room, heard = await room_of(client, private=True)
            server.expire_tokens()
            error = await errors.until(1)
            assert room.state is ChannelState.FAILED and room.error is not None
            assert "expired" in str(error)
            await client.set_auth(server.token())
            await room.subscribe()
            server.broadcast("room", "hello", {}, private=True)
            await heard.until(1)
            assert client.state is ConnectionState.OPEN


async def test_a_provider_that_raises_keeps_the_token_that_is_there():
    """When the provider raises later on, it is told once per try, and joins go out with the token they had (R27)."""
    errors, calls = Heard(), Heard()

    def provider() -> str:
        calls(None)
        if len(calls) > 1:
            raise KeyError("no session")
        return "the-first"

    async with Misbehaver() as server, client_of(server, token=provider, on_error=errors) as client:
        room, heard = await room_of(client)
        before = len(errors)
        server.wire.reset()
        await lives_on(server, room, heard, joins=2)
        assert {frame.payload["access_token"] for frame in server.of("phx_join")} == {"the-first"}
        assert len(errors) > before and all(isinstance(error.__cause__, KeyError) for error in errors)


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_provider_that_hangs_holds_nothing_up_for_ever(kind: str):
    """A provider that does not answer in `timeout` is reported and gone on without, and ends with the client (R27)."""
    errors, calls, block = Heard(), Heard(), threading.Event()

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
        room, heard = await room_of(client)
        server.wire.reset()
        await lives_on(server, room, heard, joins=2)
        assert any(isinstance(error, AuthError) and "0.1 s" in str(error) for error in errors)
    assert {name for name in ours() if name != "supawire-token"} == set()
    block.set()


async def test_a_late_answer_of_the_provider_overwrites_nothing():
    """An answer that comes after a newer token is there is dropped (R27)."""
    asked, late = Heard(), asyncio.get_running_loop().create_future()

    async def provider() -> str:
        asked(None)
        return "first" if len(asked) == 1 else await late

    async with Misbehaver() as server, client_of(server, token=provider) as client:
        joining = asyncio.create_task(client.channel("room").subscribe())
        await asked.until(2)
        await client.set_auth("by-hand")
        await joining
        late.set_result("too-late")
        await client.ping()
        assert [frame.payload["access_token"] for frame in server.of("phx_join")] == ["by-hand"]
        assert server.of("access_token") == []


@pytest.mark.parametrize("answer", [5, b"bytes", "", "with space", "line\nbreak", object()])
async def test_a_provider_that_gives_no_token_is_told(answer: Any):
    """What cannot be a token is reported like a provider that raised, and never sent (R27)."""
    errors, calls = Heard(), Heard()

    def provider() -> Any:
        calls(None)
        return "the-first" if len(calls) == 1 else answer

    async with Misbehaver() as server, client_of(server, token=provider, on_error=errors) as client:
        room, heard = await room_of(client)
        server.wire.reset()
        await lives_on(server, room, heard, joins=2)
        assert {frame.payload["access_token"] for frame in server.of("phx_join")} == {"the-first"}
        assert errors and all(isinstance(error, AuthError) for error in errors)


async def test_signing_out_is_final_for_the_next_join():
    """After `set_auth(None)` joins go out with the key alone, through reconnects too (R27)."""
    async with Misbehaver() as server, client_of(server, token="a-users-token") as client:
        room, heard = await room_of(client)
        await client.set_auth(None)
        server.wire.reset()
        await lives_on(server, room, heard, joins=2)
        first, second = (frame.payload.get("access_token") for frame in server.of("phx_join"))
        assert first == "a-users-token" and second != first


async def test_a_refresh_is_told_once_to_each_channel():
    """A new token is one `access_token` push per joined channel, and none when it did not change (R25, R28)."""
    async with Misbehaver() as server, client_of(server, token="one") as client:
        for number in range(3):
            await room_of(client, f"room:{number}")
        await client.set_auth("two")
        await client.set_auth("two")
        await client.ping()
        pushes = server.of("access_token")
        assert sorted(frame.topic for frame in pushes) == [f"realtime:room:{number}" for number in range(3)]
        assert {frame.payload["access_token"] for frame in pushes} == {"two"}


async def test_a_refused_refresh_of_one_channel_leaves_the_others():
    """A channel whose new token is refused ends alone, with the server's words; the others go on (R26, R29)."""
    errors = Heard()
    with LocalServer() as server:
        async with client_of(server, server.anon_key, token=server.token(), on_error=errors) as client:
            one, _ = await room_of(client, "one", private=True)
            two, heard = await room_of(client, "two", private=True)
            await one.set_auth(server.token(expires_in=-10))
            error = await errors.until(1)
            assert one.state is ChannelState.FAILED and two.state is ChannelState.JOINED
            assert isinstance(error, (AuthError, JoinError))
            server.broadcast("two", "hello", {}, private=True)
            await heard.until(1)


async def test_tokens_are_fetched_before_a_reconnect_not_after():
    """Coming back, the client asks the provider before it connects, and the join carries what it said (R6, R25)."""
    asked = Heard()

    def provider() -> str:
        asked(None)
        return f"token-{len(asked)}"

    async with Misbehaver() as server, client_of(server, token=provider) as client:
        room, heard = await room_of(client)
        await server.leave()
        server.wire.reset()
        await comes_to(client, ConnectionState.RETRYING)
        before = len(asked)
        await asked.until(before + 2)
        await server.listen()
        await lives_on(server, room, heard, joins=2)
        assert server.of("phx_join")[1].payload["access_token"] == f"token-{len(asked)}"
