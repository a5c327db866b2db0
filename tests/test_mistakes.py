"""Common mistakes: each raises a typed error that names the correct form."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import supawire
from supawire import (
    ConnectError,
    InvalidArgumentError,
    JoinError,
    LocalServer,
    RealtimeError,
    StateError,
    broadcast,
    changes,
    col,
    connect,
    connect_async,
)
from supawire._server_errors import join_error, system_error

lib: Any = supawire
"""The package without its types, which refuse most of these mistakes."""

URL, KEY = "https://abc.supabase.co", "anon-key"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2lnbmF0dXJl"


@dataclass
class Mistake:
    code: Callable[[], Any]
    expected: str
    kind: type[RealtimeError] = InvalidArgumentError

    def __str__(self) -> str:
        return inspect.getsource(self.code).strip()


def no_arguments() -> None: ...
def two(one: object, other: object) -> None: ...


def with_sync() -> None:
    opening: Any = connect_async(URL, KEY)
    with opening:
        pass


def url(given: Any, key: Any = KEY) -> Callable[[], Any]:
    return lambda: connect(given, key)


WITHOUT_A_CLIENT = {
    "Client(url, key)": Mistake(lambda: lib.Client(URL, KEY), "`with connect(url, key) as client:`"),
    "Client(url, key, token=)": Mistake(lambda: lib.Client(URL, KEY, token="t"), "`with connect(url, key) as client:`"),
    "AsyncClient(url, key)": Mistake(lambda: lib.AsyncClient(URL, KEY), "`async with connect_async(url, key)"),
    "connect_async().channel": Mistake(
        lambda: lib.connect_async(URL, KEY).channel("room"),
        "client = await connect_async(…)",
        StateError,
    ),
    "with connect_async()": Mistake(with_sync, "async with connect_async(…) as client", StateError),
    "Delete.record": Mistake(lambda: lib.testing.delete("t", {"id": 1}).record, "Write change.old_record", StateError),
    "Delete.row": Mistake(lambda: lib.testing.delete("t", {"id": 1}).row, "Write change.old_record", StateError),
    "changes('public.users')": Mistake(lambda: lib.changes("public.users"), "changes('users', schema='public')"),
    "changes('app.users')": Mistake(lambda: lib.changes("app.users", event="INSERT"), "changes('users', schema='app')"),
    "event='insert into'": Mistake(lambda: lib.changes("users", event="INSRT"), "did you mean 'INSERT'"),
    "on_error of no argument": Mistake(lambda: lib.connect(URL, KEY, on_error=no_arguments), "a function of one error"),
    "on_error of two": Mistake(lambda: lib.connect(URL, KEY, on_error=two), "a function of one error; two(one: "),
    "backoff of no argument": Mistake(lambda: lib.connect(URL, KEY, backoff=no_arguments), "the attempt number"),
    "rejoin_backoff of two": Mistake(lambda: lib.connect(URL, KEY, rejoin_backoff=two), "the attempt number"),
    "on_frame of two": Mistake(lambda: lib.connect(URL, KEY, on_frame=two), "a function of (direction, data, binary)"),
    "token of two": Mistake(lambda: lib.connect(URL, KEY, token=two), "a function without arguments"),
    "no scheme": Mistake(url("abc.supabase.co"), "must begin with https://"),
    "swapped": Mistake(url(JWT, URL), "Write connect(url, key)"),
    "swapped with a new key": Mistake(url("sb_publishable_abc", URL), "Write connect(url, key)"),
    "swapped, half": Mistake(url(URL, URL), "Write connect(url, key)"),
    "a database's URL": Mistake(
        url("postgresql://postgres:hush@db.abcdefgh.supabase.co:5432/postgres"), "https://abcdefgh.supabase.co"
    ),
    "a pooler's URL": Mistake(
        url("postgres://postgres.abcdefgh:hush@aws-0-eu.pooler.supabase.com:6543/postgres"),
        "https://abcdefgh.supabase.co",
    ),
    "some database's URL": Mistake(url("postgresql://u:hush@localhost/d"), "https://<project>.supabase.co"),
    "supabase.co": Mistake(url("https://supabase.co"), "https://<project>.supabase.co"),
    "supabase.com": Mistake(url("https://www.supabase.com/"), "https://<project>.supabase.co"),
    "com for co": Mistake(url("https://abc.supabase.com"), "https://abc.supabase.co"),
    "the dashboard": Mistake(url("https://supabase.com/dashboard/project/abcdef"), "https://abcdef.supabase.co"),
}


def refused(mistake: Mistake) -> RealtimeError:
    with pytest.raises(mistake.kind) as caught:
        mistake.code()
    return caught.value


@pytest.mark.parametrize("mistake", WITHOUT_A_CLIENT.values(), ids=WITHOUT_A_CLIENT)
def test_a_mistake_raises_an_error_that_explains_it(mistake: Mistake):
    """Each mistake raises at once, before anything is sent, and the error shows no secret."""
    text = str(refused(mistake))
    assert mistake.expected in text
    assert "hush" not in text and JWT not in text


@pytest.fixture(name="served", scope="module")
def _served() -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


@pytest.fixture(name="client")
def _client(served: LocalServer) -> Iterator[Any]:
    with connect(served.url, served.anon_key) as client:
        yield client


def iterate(stream: Any) -> None:
    for _ in stream:
        pass


def enter(it: Any) -> None:
    with it:
        pass


async def enter_async(it: Any) -> None:
    async with it:
        pass


CALLS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "on(selector, None)": (lambda _, room: room.on(broadcast(), None), "a function of one event, not None"),
    "on of no argument": (lambda _, room: room.on(broadcast(), no_arguments), "cannot be called with one event"),
    "on('typing')": (lambda _, room: room.on("typing", print), "broadcast('typing') for messages"),
    "listen('users')": (lambda _, room: room.listen("users"), "changes('users') for the rows"),
    "on(broadcast)": (lambda _, room: room.on(broadcast, print), "call it: broadcast()"),
    "@room.on": (lambda _, room: room.on(no_arguments), "@channel.on(broadcast('typing'))"),
    "listen(a condition)": (lambda _, room: room.listen(col("a") == 1), "is not a selector"),
    "listen(key=) of two": (
        lambda _, room: room.listen(broadcast(), overflow="latest", key=two), "a function of one event"
    ),
    "mirror(fetch=) of one": (
        lambda client, _: client.mirror("users", key="id", fetch=lambda rows: rows), "a function without arguments"
    ),
    "mirror('public.users')": (
        lambda client, _: client.mirror("public.users", key="id", fetch=list), "changes('users', schema='public')"
    ),
}  # fmt: skip
CALL = pytest.mark.parametrize(("call", "expected"), CALLS.values(), ids=CALLS)


@CALL
def test_a_wrong_call_of_the_sync_client_is_explained(client: Any, call: Callable[[Any, Any], Any], expected: str):
    """The sync client raises the same errors."""
    with pytest.raises(InvalidArgumentError) as caught:
        call(client, client.channel("room"))
    assert expected in str(caught.value)


@pytest.mark.parametrize("call", [lambda it: it, lambda it: it.channel("room"), lambda it: it.listen()])
async def test_sync_objects_explain_their_use_in_async_code(client: Any, call: Callable[[Any], Any]):
    """`async with` on a sync object raises an error that names `with`."""
    with pytest.raises(StateError, match="Write `with"):
        await enter_async(call(client))


async def test_async_objects_explain_their_use_in_sync_code(served: LocalServer):
    """`with` and `for` on an async object raise an error that names the async forms."""
    async with connect_async(served.url, served.anon_key) as client:
        room = client.channel("room")
        stream = room.listen(broadcast())
        mirror = client.mirror("t", key="id", fetch=list)
        objects: list[Any] = [client, room, stream, mirror]
        for it in objects:
            with pytest.raises(StateError, match="Write `async with"):
                enter(it)
        with pytest.raises(StateError, match="Write `async for event in stream:`"):
            iterate(stream)
        with pytest.raises(TypeError):  # web frameworks call iter()
            iter(objects[2])
        for call, expected in CALLS.values():
            with pytest.raises(InvalidArgumentError) as caught:
                call(client, room)
            assert expected in str(caught.value)


def test_a_table_name_may_contain_a_dot():
    """With schema= the dot is part of the name."""
    assert repr(changes("odd.name", schema="public")) == "changes('odd.name')"


def test_an_existing_channel_is_returned_without_options(client: Any):
    """Without options the existing channel is returned; other options raise an error."""
    room = client.channel("secret", private=True, ack=True)
    assert client.channel("secret") is room and client.channel("realtime:secret") is room
    with pytest.raises(InvalidArgumentError, match="exists with other options"):
        client.channel("secret", echo=True)


TOKENS = [
    "InvalidJWTToken: Token has expired", "InvalidJWTToken: Fields `role` and `exp` are required in JWT",
    "MalformedJWT: The token provided is not a valid JWT", "JwtSignatureError: Failed to validate JWT signature",
    "JwtSignerError: Failed to generate JWT signer",
]  # fmt: skip


@pytest.mark.parametrize("reason", TOKENS)
def test_the_hint_of_a_refused_join_is_about_the_key_or_the_token(reason: str):
    """Without a token the hint is about the key; with one it is about the token."""
    keyed, other = join_error(reason, keyed=True), join_error(reason)
    assert "checks the key: " in (keyed.hint or "") and "token=" not in (keyed.hint or "")
    assert "checks the key" not in (other.hint or "")
    text = reason.partition(": ")[2]
    assert "checks the key" in (system_error("system", text, keyed=True).hint or "") or "Jwt" in reason


def test_a_wrong_key_gets_a_hint_about_the_key(served: LocalServer):
    """The key opens the connection, so the hint is about the key, with or without a token."""
    other = LocalServer(secret="another secret that is long enough").token(role="anon")
    for token in (None, served.token()):
        with pytest.raises(ConnectError) as caught:
            connect(served.url, other, token=token)
        hint = caught.value.hint or ""
        assert "opened with the key" in hint and "URL and key belong to the same project" in hint


def test_the_hint_is_about_the_token_of_the_channel(served: LocalServer):
    """The hint of a refused join is about the token if the channel has one."""
    with connect(served.url, served.anon_key) as client:
        room = client.channel("room", token=JWT)
        with pytest.raises(JoinError) as caught:
            room.subscribe()
        assert "checks the key" not in (caught.value.hint or "")


def test_https_to_a_server_without_tls_is_explained(served: LocalServer):
    """The error of the last attempt names the scheme to use."""
    with pytest.raises(ConnectError, match="write http:// instead of https:// in the URL"):
        connect(served.url.replace("http://", "https://"), served.anon_key, open_timeout=0.3)
