"""Errors of token providers, and of changes that the server refuses, are raised by waiting calls."""

import asyncio
import logging
from typing import Any

import pytest

from supawire import ChannelState, LocalServer, broadcast, changes
from supawire.errors import AuthError, InvalidArgumentError, JoinError, OperationTimeout
from tests.clients.client_api import ClientApi, until

pytestmark = pytest.mark.anyio

NEVER = "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for table nope"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- token providers


def broken() -> str:
    raise RuntimeError("the database is down")


async def hanging() -> str:
    return await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("provider", "words"),
    [(broken, "token provider broken raised RuntimeError"), (hanging, "token provider did not return within 0.05 s")],
)
async def test_subscribe_fails_with_the_error_of_the_token_provider(
    api: ClientApi, server: LocalServer, provider: Any, words: str
):
    """When a provider has never returned a token, its exception or delay is the cause of the timeout of `subscribe`."""
    async with api.client(server, token=provider, timeout=0.05, on_error=lambda error: None) as client:
        room = await client.channel("room", private=True)
        with pytest.raises(OperationTimeout, match=words) as caught:
            await room.subscribe()
        assert isinstance(caught.value.__cause__, AuthError)
        if provider is broken:
            assert isinstance(caught.value.__cause__.__cause__, RuntimeError)


async def test_the_timeout_of_subscribe_names_a_running_provider(api: ClientApi, server: LocalServer):
    """A `subscribe` that ends before the provider's deadline says that the provider has not answered."""
    calls = 0

    async def second_hangs() -> str:
        nonlocal calls
        calls += 1
        return broken() if calls == 1 else await hanging()

    async with api.client(server, token=second_hangs, on_error=lambda error: None) as client:
        with pytest.raises(OperationTimeout, match="the token provider has not returned a token yet"):
            await (await client.channel("room")).subscribe(timeout=0.05)


@pytest.mark.parametrize("answer", [{"access_token": "secret-token"}, b"secret-token", "secret-token\n", ""])
async def test_subscribe_fails_at_once_when_the_provider_gives_no_token(
    api: ClientApi, server: LocalServer, answer: Any
):
    """A provider that returns a dict fails `subscribe` without waiting for its time limit, and no token is shown."""

    def provider() -> Any:
        return answer

    async with api.client(server, token=provider, on_error=lambda error: None) as client:
        room = await client.channel("room", private=True)
        with pytest.raises(AuthError, match="must return a string or None") as caught:
            await room.subscribe(timeout=None)
        assert "secret-token" not in f"{caught.value!r} {caught.value.__cause__!r}"
        assert room.state is ChannelState.FAILED


async def test_a_channel_that_got_no_token_is_joined_with_the_next(api: ClientApi, server: LocalServer):
    """A channel that failed because the provider returned no token joins when the provider returns one."""

    def provider() -> Any:
        return 5

    async with api.client(server, token=provider, on_error=lambda error: None) as client:
        room = await client.channel("room", private=True)
        with pytest.raises(AuthError):
            await room.subscribe()
        await client.set_auth(server.token())
        await until(lambda: room.state is ChannelState.JOINED)


async def test_a_provider_that_takes_arguments_is_refused(api: ClientApi, server: LocalServer):
    """A provider that cannot be called without arguments raises before anything is opened."""

    def of_user(user: str) -> str:
        return user

    with pytest.raises(InvalidArgumentError, match=r"token must be .*function without arguments.*of_user\(user"):
        await api.open(server.url, server.anon_key, token=of_user)


async def test_a_failing_provider_is_logged_once(api: ClientApi, server: LocalServer, caplog: pytest.LogCaptureFixture):
    """The same failure at the opening and at the join is logged once."""
    async with api.client(server, token=broken) as client:
        with pytest.raises(OperationTimeout):
            await (await client.channel("room")).subscribe(timeout=0.3)
    assert warnings(caplog) == [message for message in warnings(caplog)[:1] if "broken" in message] != []


# --- changes that the server refuses permanently


async def refused(server: LocalServer, client: Any, *selectors: Any) -> Any:
    """Return a channel whose changes the server refuses permanently, and an iterator over the selectors."""
    room = await client.channel("room")
    received = await room.listen(*selectors)
    await room.subscribe(wait="ready")
    server.send_system("room", "error", NEVER, extension="postgres_changes")
    return room, received


async def test_an_iterator_over_changes_raises_their_refusal(
    api: ClientApi, server: LocalServer, caplog: pytest.LogCaptureFixture
):
    """An iterator of changes that were refused permanently raises the reason each time, and nothing is logged."""
    async with api.client(server) as client:
        _, received = await refused(server, client, changes("nope"))
        for _ in range(2):
            with pytest.raises(JoinError, match="Unable to subscribe"):
                await received.get(timeout=30)
    assert warnings(caplog) == []


async def test_an_iterator_over_more_than_changes_continues_after_the_refusal(api: ClientApi, server: LocalServer):
    """An iterator of changes and broadcasts raises the refusal once, and one of broadcasts never raises it."""
    async with api.client(server) as client:
        room, both = await refused(server, client, changes("nope"), broadcast())
        plain = await room.listen(broadcast())
        with pytest.raises(JoinError, match="Unable to subscribe"):
            await both.next()
        server.broadcast("room", "a", 1)
        assert (await both.get(timeout=30)).payload == (await plain.get(timeout=30)).payload == 1


async def test_a_refusal_of_changes_is_logged_once_when_no_iterator_raises_it(
    api: ClientApi, server: LocalServer, caplog: pytest.LogCaptureFixture
):
    """With handlers alone the refusal is logged once, and leaving logs no warning of a gap."""
    async with api.client(server) as client:
        room = await client.channel("room")
        await room.on(changes("nope"), lambda change: None)
        await room.subscribe(wait="ready")
        server.send_system("room", "error", NEVER, extension="postgres_changes")
        await until(lambda: warnings(caplog))
        await room.unsubscribe()
    assert [message for message in warnings(caplog) if "Unable to subscribe" in message] == warnings(caplog)
    assert len(warnings(caplog)) == 1
