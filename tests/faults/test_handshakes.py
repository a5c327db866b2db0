"""Connections that cannot be opened, at the first connect and at a reconnect."""

import asyncio
import socket
from typing import Any

import pytest

from supawire import ConnectionState, broadcast, connect_async
from supawire.core.requests import TimerKind
from supawire.errors import AuthError, ClosedError, ConnectError, RealtimeError, ReconnectExhaustedError
from supawire.options import Backoff
from tests.faults.misbehaver import Misbehaver, Script, Wire, behave
from tests.faults.steps import (
    KEY,
    Collector,
    Steps,
    at_once,
    check_recovery,
    client_of,
    joined_channel,
    ours,
    wait_for_state,
)

pytestmark = pytest.mark.anyio


def refused(status: int, body: bytes = b"", *headers: str) -> Script:
    """Return a script that refuses the upgrade."""

    async def script(wire: Wire) -> None:
        await wire.refuse(status, body, *headers)

    return script


async def resets(wire: Wire) -> None:
    wire.reset()


async def resets_after_the_request(wire: Wire) -> None:
    await wire.request()
    wire.reset()


async def hangs_up(wire: Wire) -> None:
    await wire.request()
    wire.hang_up()


async def answers_half(wire: Wire) -> None:
    await wire.request()
    wire.write(b"HTTP/1.1 101 Switching Proto")
    wire.hang_up()


async def answers_without_http(wire: Wire) -> None:
    await wire.request()
    wire.write(b"\x00\xff garbage\r\n\r\n\r\n")
    wire.hang_up()


async def accepts_with_a_wrong_key(wire: Wire) -> None:
    await wire.request()
    wire.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm90aGluZw==\r\n\r\n"
    )


async def redirects(wire: Wire) -> None:
    await wire.refuse(302, b"", f"Location: http://127.0.0.1:{wire.server.port}/elsewhere")


async def answers_with_a_page(wire: Wire) -> None:
    await wire.refuse(200, b"<html>welcome</html>", "Content-Type: text/html")


PASSING: dict[str, Script] = {
    "reset": resets,
    "reset after the request": resets_after_the_request,
    "end of stream": hangs_up,
    "half an answer": answers_half,
    "no HTTP": answers_without_http,
    "wrong proof": accepts_with_a_wrong_key,
    "redirect": redirects,
    "a page": answers_with_a_page,
    "429": refused(429, b'{"error":"Too many connected users"}'),
    "429 without a body": refused(429),
    "500": refused(500, b'{"error":"Error connecting to Realtime"}'),
    "500 without a body": refused(500),
    "500 with a page": refused(500, b"<html>\xff\xfe</html>", "Content-Type: text/html"),
    "502": refused(502, b"Bad Gateway"),
    "503": refused(503, b'{"message":"name resolution failed"}', "Retry-After: 0"),
    "503 without a body": refused(503),
    "503 with an odd Retry-After": refused(503, b"", "Retry-After: soon"),
}
"""What may pass, and is tried again."""

FINAL: dict[str, tuple[Script, int, str]] = {
    "401": (refused(401, b'{"error":"Failed to validate JWT signature"}'), 401, "Failed to validate JWT signature"),
    "401 without a body": (refused(401), 401, "status 401"),
    "401 of a gateway": (refused(401, b'{"message":"Invalid API key"}'), 401, "Invalid API key"),
    "401 without a key": (refused(401, b'{"error":"API key is missing"}'), 401, "API key is missing"),
    "403": (refused(403, b'{"error":"Realtime was disabled for this tenant"}'), 403, "disabled"),
    "403 without a body": (refused(403), 403, "status 403"),
    "403 with a page": (refused(403, b"<html>blocked</html>"), 403, "status 403"),
    "404": (refused(404, b'{"error":"Tenant not found"}'), 404, "Tenant not found"),
    "404 without a body": (refused(404), 404, "status 404"),
    "414": (refused(414), 414, "status 414"),
}
"""What no other attempt will cure."""


@pytest.mark.parametrize("fault", PASSING)
async def test_opening_is_retried_after_temporary_errors(fault: str):
    """Whatever fails in the first attempts, opening continues until one succeeds."""
    script = PASSING[fault]
    async with Misbehaver(script, script, behave) as server, client_of(server) as client:
        room, received = await joined_channel(client)
        await check_recovery(server, room, received, joins=1)
        assert len(server.wires) == 3
        assert client.stats().connects == 1
    assert ours() == set()


@pytest.mark.parametrize("fault", PASSING)
async def test_reconnecting_is_retried_after_temporary_errors(fault: str):
    """A client that lost its connection is connected and joined again, whatever fails meanwhile."""
    script = PASSING[fault]
    errors = Collector()
    async with Misbehaver(behave, script, script, behave) as server, client_of(server, on_error=errors) as client:
        room, received = await joined_channel(client)
        server.wire.reset()
        await check_recovery(server, room, received, joins=2)
        assert len(server.wires) == 4
        assert client.stats().reconnects == 1
    assert errors == []


@pytest.mark.parametrize("fault", FINAL)
async def test_a_permanent_refusal_ends_the_opening(fault: str):
    """It raises at the first attempt, with status and the server's text, and leaves no resources."""
    script, status, words = FINAL[fault]
    unheard = Collector()
    async with Misbehaver(script) as server:
        with pytest.raises(ConnectError, match=words) as caught:
            await connect_async(server.url, KEY, on_error=unheard)
        assert unheard == []  # it was raised
        assert caught.value.status == status
        assert not caught.value.retryable or status == 401 or fault == "403 without a body"
        assert len(server.wires) == 1
        assert KEY not in repr(caught.value) and KEY not in str(caught.value.body)
    assert ours() == set()


@pytest.mark.parametrize("fault", FINAL)
async def test_a_permanent_refusal_ends_the_client(fault: str):
    """When a connected client is permanently refused, every waiting caller receives the reason, once."""
    script, status, words = FINAL[fault]
    errors = Collector()
    async with Misbehaver(behave, script) as server, client_of(server, on_error=errors) as client:
        room, _ = await joined_channel(client, ack=True)
        server.answers["broadcast"] = None
        waiting: list[Any] = [client.wait_closed(), room.broadcast("a", {}), anext(room.listen(broadcast()))]
        tasks = [asyncio.ensure_future(one) for one in waiting]
        await server.got("broadcast")
        server.wire.reset()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[0], ConnectError) and outcomes[0].status == status
        assert words in str(outcomes[0])
        assert isinstance(outcomes[1], RealtimeError)
        assert isinstance(outcomes[2], ConnectError)
        assert client.state is ConnectionState.CLOSED
        with pytest.raises(ConnectError, match=words):
            await room.subscribe()
        assert [error.status for error in errors] == [status]
        assert len(server.wires) == 2
    assert ours() == set()


async def test_a_refused_tcp_connection_is_retried():
    """The connection is retried until `open_timeout`; then ConnectError is raised."""
    steps = Steps()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # not listening: connections are refused; no other process gets the port
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConnectError, match="no connection within") as caught:
            await connect_async(url, KEY, open_timeout=0.1, backoff=steps)
    assert isinstance(caught.value.__cause__, ConnectError)
    assert f"127.0.0.1:{url.rpartition(':')[2]} cannot be reached" in str(caught.value)
    assert steps == list(range(len(steps))) and len(steps) > 1
    assert ours() == set()


async def test_a_long_outage_ends_with_a_reconnect():
    """A server that is unavailable for many attempts is reached again, and every attempt is counted."""
    steps = Steps()
    async with Misbehaver() as server, client_of(server, backoff=steps) as client:
        room, received = await joined_channel(client)
        await server.leave()
        server.wire.reset()
        await steps.until(20)
        assert client.state in (ConnectionState.RETRYING, ConnectionState.CONNECTING)
        await server.listen()
        await check_recovery(server, room, received, joins=2)
        assert steps == list(range(len(steps)))


async def test_exhausted_attempts_end_every_waiter():
    """With `max_attempts` every waiter, iterator and later call receives ReconnectExhaustedError."""
    errors = Collector()
    backoff = Backoff(initial=0, max_attempts=3)
    async with Misbehaver(behave, resets) as server, client_of(server, backoff=backoff, on_error=errors) as client:
        room, _ = await joined_channel(client)
        waiting: list[Any] = [client.wait_closed(), anext(room.listen(broadcast())), anext(client.listen())]
        tasks = [asyncio.ensure_future(one) for one in waiting]
        await asyncio.sleep(0)
        server.wire.reset()
        status = await tasks[2]
        assert status.state is ConnectionState.RETRYING
        outcomes = await asyncio.gather(*tasks[:2], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ReconnectExhaustedError] * 2
        assert len(server.wires) == 1 + 3
        for call in (room.subscribe, client.ping):
            with pytest.raises(ReconnectExhaustedError):
                await call()
        assert [type(error) for error in errors] == [ReconnectExhaustedError]


async def test_an_unanswered_upgrade_times_out():
    """The attempt ends after `timeout`, and the next one starts."""

    async def never_answers(wire: Wire) -> None:
        await wire.request()

    async with Misbehaver(never_answers, never_answers, behave) as server, client_of(server, timeout=0.2) as client:
        assert len(server.wires) == 3
        assert client.state is ConnectionState.OPEN
        with pytest.raises(EOFError):  # the attempts that were given up hold no socket
            await server.wires[0].receive()


async def test_a_refusal_without_its_body_is_classified_by_its_status():
    """A body that never ends does not delay the error."""

    async def slow(wire: Wire) -> None:
        await wire.request()
        wire.write(b"HTTP/1.1 404 No\r\nContent-Length: 100\r\n\r\n{")

    async with Misbehaver(slow) as server:
        with pytest.raises(ConnectError) as caught:
            await connect_async(server.url, KEY)
        assert caught.value.status == 404


async def test_an_expired_token_is_refreshed_once():
    """A 401 with a provider fetches one new token and connects with it; a second 401 in a row is permanent."""
    tokens = iter(f"token-{number}" for number in range(9))
    no = refused(401, b'{"error":"Token has expired"}')
    async with Misbehaver(no, behave) as server, client_of(server, token=lambda: next(tokens)) as client:
        assert client.state is ConnectionState.OPEN
        assert len(server.wires) == 2
    async with Misbehaver(no, no, behave) as server:
        with pytest.raises(ConnectError, match="Token has expired"):
            await connect_async(server.url, KEY, token=lambda: next(tokens), backoff=at_once)
        assert len(server.wires) == 2


async def test_close_ends_every_stage_of_an_attempt():
    """`close` returns while an attempt hangs in TCP, in the upgrade or in the backoff, and leaves no resources."""

    async def never_answers(wire: Wire) -> None:
        await wire.request()

    for scripts, state in (
        ((behave, never_answers), ConnectionState.CONNECTING),
        ((behave, resets), ConnectionState.RETRYING),
    ):
        async with Misbehaver(*scripts) as server:
            client = await connect_async(server.url, KEY, backoff=lambda attempt: 60.0 if attempt else 0.0)
            room, _ = await joined_channel(client)
            server.wire.reset()
            await server.connected(2)
            await wait_for_state(client, state)
            await client.close()
            assert ours() == set()
            with pytest.raises(ClosedError):
                await room.subscribe()


async def test_retry_after_is_respected():
    """With Retry-After the next attempt waits as long as the server requests, unless the user reconnects."""
    later = refused(503, b"", "Retry-After: 3600")
    async with Misbehaver(behave, later, behave) as server, client_of(server, max_retry_after=7200) as client:
        server.wire.reset()
        await server.connected(2)
        await wait_for_state(client, ConnectionState.RETRYING)
        at = client._driver.session.deadline(TimerKind.RECONNECT)
        assert at is not None and at > client._driver.now().mono + 3000
        client.reconnect()
        await server.connected(3)


async def test_a_refused_token_is_an_error_of_the_server():
    """When the provider works, the error is the server's, not an AuthError."""
    errors = Collector()
    async with Misbehaver(refused(401, b'{"error":"Failed to validate JWT signature"}')) as server:
        with pytest.raises(ConnectError):
            await connect_async(server.url, KEY, token=lambda: "token", on_error=errors)
    assert not [error for error in errors if isinstance(error, AuthError)]


async def test_an_attempt_opens_one_connection():
    """When the peer drops the request, it is not repeated within the attempt."""
    steps = Steps()
    async with Misbehaver(hangs_up) as server:
        with pytest.raises(ReconnectExhaustedError):
            await connect_async(server.url, KEY, backoff=Backoff(initial=0, max_attempts=4))
        assert len(server.wires) == 5
    async with Misbehaver(resets_after_the_request) as server:
        with pytest.raises(ConnectError):
            await connect_async(server.url, KEY, backoff=steps, open_timeout=0.2)
        assert len(server.wires) in (len(steps), len(steps) + 1)  # the time may be over in the middle of one
