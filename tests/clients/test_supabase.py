"""A client of Realtime with the session of a client of the package `supabase`, sync and async."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import pytest

from supawire import (
    AuthError,
    ClientOptions,
    ConnectError,
    ConnectionState,
    InvalidArgumentError,
    LocalServer,
    broadcast,
    connect,
    from_supabase,
    from_supabase_async,
)
from supawire.aio.supabase import Passed
from tests.clients.accounts import Supabase
from tests.clients.client_api import AwaitableProxy, ClientApi, until

pytestmark = pytest.mark.anyio


async def opened(api: ClientApi, account: Any, **options: Any) -> AwaitableProxy:
    options.setdefault("backoff", lambda attempt: 0.0)
    if api.name == "async":
        return AwaitableProxy(await from_supabase_async(account, **options))
    return AwaitableProxy(await asyncio.to_thread(from_supabase, account, **options))


@asynccontextmanager
async def following(api: ClientApi, account: Any, **options: Any) -> AsyncGenerator[AwaitableProxy, None]:
    async with await opened(api, account, **options) as client:
        yield client


@pytest.fixture(params=["async, async", "async, sync", "sync, sync"])
def pair(request: pytest.FixtureRequest) -> list[str]:
    """Return a kind of client, and a kind of `supabase` client that it accepts."""
    return request.param.split(", ")


@pytest.fixture
def api(pair: list[Any]) -> ClientApi:
    return ClientApi(pair[0])


@pytest.fixture
def account(pair: list[Any], server: LocalServer) -> Supabase:
    return Supabase(server.url, server.anon_key, waits=pair[1] == "async")


@pytest.fixture
def users(server: LocalServer) -> list[Any]:
    """Return the `sub` of each token that the server has checked, in order; None for the key."""
    seen: list[Any] = []

    @server.policy
    def let_in(claims: Mapping[str, Any], topic: str, extension: str, action: str) -> bool:
        user = claims.get("sub")
        if seen[-1:] != [user]:
            seen.append(user)
        return True

    assert let_in
    return seen


async def test_the_token_is_that_of_the_session(
    api: ClientApi, server: LocalServer, account: Supabase, users: list[Any]
):
    """A channel joins as the signed-in user; a refresh, another user and the sign-out reach a joined channel by
    themselves."""
    account.auth.become("SIGNED_IN", server.token(sub="alice"))
    async with following(api, account) as client:
        await (await client.channel("room", private=True)).subscribe()
        assert users == ["alice"]
        account.auth.become("TOKEN_REFRESHED", server.token(sub="alice again"))
        await until(lambda: users[-1] == "alice again")
        account.auth.become("SIGNED_IN", server.token(sub="bob"))
        await until(lambda: users[-1] == "bob")
        account.auth.become("SIGNED_OUT", None)
        await until(lambda: users[-1] is None)
        assert users == ["alice", "alice again", "bob", None]


async def test_a_user_need_not_be_signed_in(api: ClientApi, server: LocalServer, account: Supabase, users: list[Any]):
    """Without a session the key is used, and a later sign-in takes effect."""
    async with following(api, account) as client:
        await (await client.channel("room", private=True)).subscribe()
        assert users == [None]
        account.auth.become("SIGNED_IN", server.token(sub="alice"))
        await until(lambda: users == [None, "alice"])


async def test_the_authorization_header_is_used_until_the_session_changes(
    api: ClientApi, server: LocalServer, account: Supabase, users: list[Any]
):
    """The `Authorization` header of a client is used until a sign-in or a sign-out."""
    account.options.headers["Authorization"] = f"Bearer {server.token(sub='carol')}"
    async with following(api, account) as client:
        await (await client.channel("room", private=True)).subscribe()
        assert users == ["carol"]
        account.auth.become("SIGNED_OUT", None)
        await until(lambda: users == ["carol", None])
        reads = account.auth.session_reads
        await client.reconnect()
        await until(lambda: account.auth.session_reads > reads)
        await (await client.channel("other", private=True)).subscribe()
        assert users == ["carol", None]


async def test_the_session_is_read_before_each_connection(
    api: ClientApi, server: LocalServer, account: Supabase, users: list[Any]
):
    """After a lost connection the channel joins with the current token of the session, with events or without (R25)."""
    async with following(api, account, rejoin_backoff=lambda attempt: 0.0) as client:
        room = await client.channel("room", private=True)
        received = await room.listen(broadcast())
        await room.subscribe()
        reads = account.auth.session_reads
        account.auth.listeners.clear()
        account.auth.become("SIGNED_IN", server.token(sub="alice"))
        server.drop_connections()
        await until(lambda: "alice" in users)
        assert account.auth.session_reads > reads
        await until(lambda: room.state == "joined")
        server.broadcast("room", "a", 1, private=True)
        assert (await received.next()).payload == 1
        account.auth.listeners[0] = print  # the listener that close() removes


async def test_close_on_sign_out_ends_the_client(api: ClientApi, server: LocalServer, account: Supabase):
    """With close_on_sign_out=True a sign-out ends the client with AuthError; without it the client continues with
    the key."""
    account.auth.become("SIGNED_IN", server.token(sub="alice"))
    async with following(api, account) as client:
        account.auth.become("SIGNED_OUT", None)
        assert await client.ping() > 0
    account.auth.become("SIGNED_IN", server.token(sub="alice"))
    client = await opened(api, account, close_on_sign_out=True)
    account.auth.become("TOKEN_REFRESHED", server.token(sub="alice"))
    assert await client.ping() > 0
    account.auth.become("SIGNED_OUT", None)
    with pytest.raises(AuthError, match="close_on_sign_out"):
        await client.wait_closed()
    assert client.state is ConnectionState.CLOSED
    await until(lambda: not account.auth.listeners)
    await client.close()


async def test_closing_unsubscribes_from_the_session(api: ClientApi, server: LocalServer, account: Supabase):
    """After `close`, after an opening that failed and after an end by itself `auth` has no listener of the client
    (R10)."""
    async with following(api, account):
        assert len(account.auth.listeners) == 1
    assert account.auth.listeners == {}
    account.auth.become("SIGNED_IN", server.token())

    server.refuse_connections(1, status=403)
    with pytest.raises(ConnectError):
        await opened(api, account)
    assert account.auth.listeners == {}

    client = await opened(api, account)
    server.refuse_connections(1, status=403)
    server.drop_connections()
    with pytest.raises(ConnectError):
        await client.wait_closed()
    assert account.auth.listeners == {}
    await client.close()


async def test_an_event_after_the_end_is_ignored(api: ClientApi, server: LocalServer, account: Supabase):
    """An event of the session after the client has ended is ignored, and signing in still works."""
    client = await opened(api, account)
    listeners = dict(account.auth.listeners)
    await client.close()
    account.auth.listeners |= listeners
    account.auth.become("SIGNED_IN", server.token())
    await asyncio.sleep(0)
    assert client.state is ConnectionState.CLOSED


async def test_a_session_that_cannot_be_read_is_reported(api: ClientApi, server: LocalServer, account: Supabase):
    """An exception of `get_session` reaches `on_error` as the cause of an AuthError, and so does a wrong token
    (R27)."""
    errors: list[Exception] = []
    async with following(api, account, on_error=errors.append) as client:
        account.auth.error = RuntimeError("no way to Auth")
        await client.reconnect()
        await until(lambda: errors)
        assert isinstance(errors[0], AuthError) and errors[0].__cause__ is account.auth.error
        account.auth.error = None
        account.auth.become("SIGNED_IN", "no token")
        await until(lambda: any(isinstance(error, InvalidArgumentError) for error in errors))
        assert "no token" not in "".join(map(str, errors))


async def test_options_pass_through(api: ClientApi, server: LocalServer, account: Supabase):
    """Options are those of `connect`, checked at once; an unknown one raises Python's own TypeError."""
    frames: list[Any] = []
    async with following(api, account, protocol="1.0.0", on_frame=lambda *frame: frames.append(frame)) as client:
        await client.ping()
    assert b'"topic":"phoenix"' in frames[0][1]
    call: Any = from_supabase_async if api.name == "async" else from_supabase
    with pytest.raises(InvalidArgumentError, match="below 60"):
        call(account, heartbeat=90)
    with pytest.raises(TypeError, match="hartbeat"):
        call(account, hartbeat=20)
    with pytest.raises(InvalidArgumentError, match="has no option token") as caught:
        call(account, token=server.token())
    assert "connect(" in str(caught.value.hint)
    assert account.auth.listeners == {}


WRONG: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a URL": lambda: "https://abc.supabase.co",
    "a class": lambda: Supabase,
    "a half": lambda: type("Half", (), {"supabase_url": "http://127.0.0.1", "supabase_key": "key"})(),
}


@pytest.mark.parametrize("call", [from_supabase, from_supabase_async])
@pytest.mark.parametrize("name", WRONG)
def test_an_object_that_is_not_a_client_is_refused(call: Any, name: str):
    """Any other object is refused at once, and the error says what is expected and does not show the object."""
    with pytest.raises(InvalidArgumentError, match="client of the package supabase") as caught:
        call(WRONG[name]())
    assert "token=" in str(caught.value.hint) and "abc.supabase" not in str(caught.value)


async def test_an_unawaited_acreate_client_is_refused():
    """The coroutine of `acreate_client` is recognised, and the error says that it must be awaited."""

    async def acreate_client() -> None: ...

    forgotten: Any = acreate_client()
    with pytest.raises(InvalidArgumentError) as caught:
        from_supabase_async(forgotten)
    forgotten.close()
    assert "Await acreate_client" in str(caught.value.hint)


def test_the_sync_client_refuses_an_async_supabase_client(server: LocalServer):
    """The sync client refuses an async client, whose session it cannot read; the error names the call that can."""
    with pytest.raises(InvalidArgumentError) as caught:
        from_supabase(Supabase(server.url, server.anon_key, waits=True))
    assert "from_supabase_async" in str(caught.value.hint)


def test_both_take_the_options_of_connect():
    """The options are those of `connect` without the token, with the same types."""
    assert inspect.signature(from_supabase).parameters == inspect.signature(from_supabase_async).parameters
    options = list(inspect.signature(connect).parameters.values())[3:]
    assert [field.name for field in fields(ClientOptions)][1:] == [option.name for option in options]
    annotations = {name: getattr(hint, "__forward_arg__", hint) for name, hint in Passed.__annotations__.items()}
    assert annotations == {option.name: option.annotation for option in options}


async def test_an_opener_that_is_never_awaited_warns(server: LocalServer):
    """`from_supabase_async` starts nothing before it is awaited, and warns when it is never awaited."""
    account = Supabase(server.url, server.anon_key)
    with pytest.warns(ResourceWarning, match=r"from_supabase_async\(\) was called"):
        from_supabase_async(account)
    assert account.auth.listeners == {} and account.auth.session_reads == 0
