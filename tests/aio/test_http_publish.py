"""Broadcasts by HTTP: arguments, arrival at the local server, and resources after the end."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from supawire import AsyncClient, AsyncStream, Broadcast, Limits, LocalServer, Published, broadcast, connect_async
from supawire.aio.driver import DriverSettings
from supawire.errors import (
    ClosedError,
    ConnectError,
    HttpError,
    InvalidArgumentError,
    OperationTimeout,
    PayloadTooLargeError,
    RateLimitedError,
    RealtimeError,
    docs_of,
)
from supawire.options import Backoff
from supawire.server.limits import ServerLimits
from supawire.testing import FakeHttp
from supawire.transport import HttpRequest, HttpResponse
from tests.aio.http_scenarios import BY_ITSELF, ID, IN_A_BATCH, now, refused, scenario
from tests.aio.peer import KEY, URL, connected, open_client, serving, settled
from tests.faults.misbehaver import Misbehaver, Wire

# ------------------------------------------------------------------------------------------------- the local server


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


@asynccontextmanager
async def joined(
    server: LocalServer, topic: str, *, private: bool = False, **options: Any
) -> AsyncGenerator[tuple[AsyncClient, AsyncStream[Broadcast[Any]]], None]:
    """Yield a client with a user's token, and an iterator over the broadcasts of a topic."""
    async with connect_async(server.url, server.anon_key, token=server.token(), **options) as client:
        room = client.channel(topic, private=private)
        received = room.listen(broadcast())
        await room.subscribe()
        yield client, received


@pytest.mark.anyio
@pytest.mark.parametrize("topic", ["room", "realtime:room"])
async def test_one_message_needs_no_channel(server: LocalServer, topic: str):
    """A published message reaches clients that have joined its topic, given with `realtime:` or without (R34)."""
    async with joined(server, "room") as (_, received), connect_async(server.url, server.anon_key) as sender:
        assert await sender.publish(topic, "typing", {"user": "alice"}) == BY_ITSELF
        message = await anext(received)
        assert (message.event, message.payload, message.id) == ("typing", {"user": "alice"}, None)
        assert sender.channels == {}


@pytest.mark.anyio
async def test_names_are_encoded(server: LocalServer):
    """Slashes, blanks, percent signs and non-ASCII letters in topic and event arrive as they are."""
    async with joined(server, "a/b c%2F?d#é") as (client, received):
        await client.publish("a/b c%2F?d#é", "tipp/en ü%20", {"n": 1})
        assert (await anext(received)).event == "tipp/en ü%20"


@pytest.mark.anyio
@pytest.mark.parametrize("names", [("..", "e"), ("room:dots", "..")])
async def test_names_of_dots_arrive(server: LocalServer, names: tuple[str, str]):
    """A topic or event of dots, which a path would lose, is sent by the batch form and arrives."""
    async with joined(server, names[0]) as (client, received):
        assert await client.publish(*names, {"n": 1}) == IN_A_BATCH
        assert (await anext(received)).event == names[1]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "data", [b"\x00\xff", bytearray(b"ab"), memoryview(b"cd"), b""], ids=["bytes", "bytearray", "memoryview", "empty"]
)
async def test_bytes_arrive_as_bytes(server: LocalServer, data: Any):
    """Bytes arrive as they were sent (R34)."""
    async with joined(server, "bytes") as (client, received):
        assert await client.publish("bytes", "ink", data) == BY_ITSELF
        assert (await anext(received)).payload == bytes(data)


@pytest.mark.anyio
@pytest.mark.parametrize("id", [ID, str(ID), str(ID).upper(), ID.hex])
async def test_an_id_arrives(server: LocalServer, id: Any):
    """An id, given as UUID or as text, arrives as `Broadcast.id`; such a message is sent by the batch form."""
    async with joined(server, "ids") as (client, received):
        assert await client.publish("ids", "typing", {}, id=id) == replace(IN_A_BATCH, id=str(ID))
        assert (await anext(received)).id == str(ID)


@pytest.mark.anyio
async def test_a_key_named_private_is_a_key(server: LocalServer):
    """A payload with a top-level `private` arrives whole, on the public topic it was sent to."""
    async with joined(server, "keys") as (client, received):
        assert await client.publish("keys", "typing", {"private": True, "n": 1}) == IN_A_BATCH
        assert (await anext(received)).payload == {"private": True, "n": 1}


@pytest.mark.anyio
@pytest.mark.parametrize("payload", [{"n": 1}, b"raw"], ids=repr)
async def test_private_messages_reach_the_private_room(server: LocalServer, payload: Any):
    """`private=True` sends to the private channel of the topic only."""
    async with joined(server, "door", private=True) as (client, inside), joined(server, "door") as (_, outside):
        await client.publish("door", "secret", payload, private=True)
        await client.publish("door", "open", {})
        assert [(await anext(inside)).event, (await anext(outside)).event] == ["secret", "open"]


@pytest.mark.anyio
async def test_a_sender_without_permission_gets_an_error(server: LocalServer):
    """A private message that the token may not send is refused by the single form, and only *accepted* by the batch."""
    async with connect_async(server.url, server.anon_key) as client:
        with pytest.raises(HttpError) as caught:
            await client.publish("door", "knock", {}, private=True)
        assert (caught.value.status, caught.value.topic, caught.value.maybe_sent) == (403, "door", False)
        assert caught.value.hint is not None and caught.value.docs == docs_of("unauthorized")
        assert (await client.publish("door", "knock", {}, private=True, id=ID)).acked is False


@pytest.mark.anyio
async def test_many_messages_arrive_in_order(server: LocalServer):
    """`publish_many` sends JSON, private messages, ids and bytes in the given order with as few requests as
    possible."""
    messages: list[dict[str, Any]] = [
        {"topic": "many", "event": "1", "payload": {"n": 1}},
        {"topic": "realtime:many", "event": "2", "payload": {"n": 2}, "id": ID},
        {"topic": "many", "event": "3", "payload": b"3"},
        {"topic": "many", "event": "4", "payload": {"n": 4}, "private": False, "id": None},
    ]
    async with joined(server, "many") as (client, received):
        published = await client.publish_many(messages)
        assert [(await anext(received)).event for _ in messages] == ["1", "2", "3", "4"]
    assert published == Published((IN_A_BATCH, IN_A_BATCH, BY_ITSELF, IN_A_BATCH))
    assert published.accepted == 4


@pytest.mark.anyio
async def test_a_payload_over_the_servers_limit_names_the_field():
    """A payload over the server's limit, but within the client's, raises a 422 with the server's message."""
    with LocalServer(limits=ServerLimits(payload_kb=1)) as small:
        async with connect_async(small.url, small.anon_key) as client:
            with pytest.raises(HttpError, match="Payload size exceeds tenant limit") as caught:
                await client.publish("room", "typing", {"text": "x" * 3000})
            assert (caught.value.status, caught.value.retryable) == (422, False)
            with pytest.raises(HttpError, match="1 of 1 messages") as caught:
                await client.publish_many([{"topic": "room", "event": "typing", "payload": {"text": "x" * 3000}}])
            assert caught.value.status == 422


@pytest.mark.anyio
async def test_a_body_over_the_servers_limit_is_413(server: LocalServer):
    """A body over the limit of the server's parser raises an error that says so, also without limits in the client."""
    async with connect_async(server.url, server.anon_key, limits=Limits.off()) as client:
        with pytest.raises(HttpError) as caught:
            await client.publish("room", "typing", b"x" * 8_500_000)
        assert (caught.value.status, caught.value.retryable) == (413, False)


@pytest.mark.anyio
async def test_a_limit_of_the_server_is_429():
    """Too many messages raise a 429 with the server's message when the timeout allows no retry."""
    with LocalServer(limits=ServerLimits(messages=1)) as slow:
        settings = DriverSettings(http_backoff=Backoff(initial=60, maximum=60, jitter=0))
        async with await open_client(slow.url, slow.anon_key, settings) as client:
            with pytest.raises(HttpError) as caught:
                await client.publish_many([{"topic": "room", "event": "typing", "payload": {}}] * 5)
    assert caught.value.status == 429
    assert "reduce the batch size" in str(caught.value)
    assert caught.value.outcomes[0] is caught.value.__cause__


@pytest.mark.anyio
async def test_a_strict_server_accepts_published_messages():
    """A server with the delays and limits of the real one accepts single messages, batches and private messages."""
    with LocalServer(strict=True) as strict:
        async with joined(strict, "door", private=True) as (client, received):
            await client.publish("door", "one", {"n": 1}, private=True)
            await client.publish_many([{"topic": "door", "event": "two", "payload": {"n": 2}, "private": True}])
            assert [(await anext(received)).event for _ in range(2)] == ["one", "two"]


@pytest.mark.anyio
async def test_an_expired_token_is_refreshed_once(server: LocalServer):
    """After a 401 the provider is called for a newer token, and the message is sent with it."""
    tokens = [server.token(expires_in=-5, n=1), server.token(n=2)]
    calls: list[int] = []

    async def provide() -> str:
        calls.append(len(calls))
        return tokens[min(len(calls) - 1, 1)]

    async with connect_async(server.url, server.anon_key, token=provide) as client:
        assert len(calls) == 1
        assert await client.publish("door", "knock", {}, private=True) == BY_ITSELF
        assert len(calls) == 2


@pytest.mark.anyio
async def test_a_joined_client_receives_its_own_http_broadcast(server: LocalServer):
    """A message by HTTP has no sender, so listeners of the same client receive it without `echo`."""
    async with joined(server, "own") as (client, received):
        await client.publish("own", "typing", {"n": 1})
        assert (await anext(received)).payload == {"n": 1}


@pytest.mark.anyio
@pytest.mark.parametrize("private", [True, False])
async def test_a_broadcast_is_sent_by_http_while_not_joined(server: LocalServer, private: bool):
    """With `offline="http"` a broadcast on a channel that is not joined arrives, as private as the channel is, and
    the result says that it was sent by HTTP."""
    async with joined(server, "away", private=private) as (_, received):
        async with joined(server, "elsewhere", offline="http") as (sender, _):
            room = sender.channel("away", private=private)
            assert await room.broadcast("typing", {"n": 1}) == BY_ITSELF
            await room.subscribe()
            assert (await room.broadcast("typing", {"n": 2})).via == "socket"
        assert [(await anext(received)).payload for _ in range(2)] == [{"n": 1}, {"n": 2}]


@pytest.mark.anyio
async def test_a_message_is_sent_with_the_token_of_its_channel(server: LocalServer):
    """The token of a channel, if it has one, decides whether the channel may send by HTTP."""
    async with connect_async(server.url, server.anon_key, offline="http") as client:
        denied, allowed = (
            client.channel("door:1", private=True),
            client.channel("door:2", private=True, token=server.token()),
        )
        with pytest.raises(HttpError) as caught:
            await denied.broadcast("knock", {})
        assert caught.value.status == 403
        assert await allowed.broadcast("knock", {}) == BY_ITSELF


@pytest.mark.anyio
async def test_nothing_is_left_after_close(server: LocalServer):
    """After `close` the pool of connections is closed, and no task of the client is left."""
    async with connect_async(server.url, server.anon_key) as client:
        await asyncio.gather(*(client.publish("room", "typing", {"n": n}) for n in range(5)))
        sessions = [it for it in gc.get_objects() if type(it) is aiohttp.ClientSession and not it.closed]
        assert len(sessions) == 2  # one of the socket, and one for all requests
    assert all(it.closed for it in sessions)
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("supawire")] == []


# ------------------------------------------------------------------------------------------------------ an old server


async def answer_batches_only(wire: Wire) -> None:
    """Answer as a server that has only the batch form of the HTTP interface."""
    while True:
        head = await wire.request()
        status = "202 Accepted" if head.split()[1] == "/realtime/v1/api/broadcast" else "404 Not Found"
        wire.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.mark.anyio
async def test_an_old_server_gets_batches():
    """After a 404 to the single form the batch form is used from then on; bytes then raise an error with the reason
    (R34)."""
    async with (
        Misbehaver(answer_batches_only) as http,
        serving() as socket,
        connect_async(http.url, KEY, transport=socket.transport) as client,
    ):
        for _ in range(2):
            assert await client.publish("room", "typing", {}) == IN_A_BATCH
        base = "/realtime/v1/api/broadcast"
        assert [head.split()[1] for head in http.heads] == [f"{base}/room/events/typing", base, base]
        with pytest.raises(HttpError, match="does not accept bytes by HTTP") as caught:
            await client.publish("room", "ink", b"raw")
        assert (caught.value.status, len(http.heads)) == (404, 3)


# ------------------------------------------------------------------------------------------------------- arguments


@scenario(limits=Limits(payload_bytes=10))
async def test_wrong_arguments_raise_before_anything_is_sent(client: AsyncClient, http: FakeHttp):
    """A payload that is not an object, a bad id, name, flag or timeout, and a payload that is too large raise at
    once."""
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[RealtimeError]]] = [
        (("room", "typing", [1]), {}, InvalidArgumentError),
        (("room", "typing", "text"), {}, InvalidArgumentError),
        (("room", "typing", None), {}, InvalidArgumentError),
        (("room", "typing", {1j: 1}), {}, InvalidArgumentError),
        (("", "typing", {}), {}, InvalidArgumentError),
        (("room", "", {}), {}, InvalidArgumentError),
        (("room", "x" * 256, {}), {}, InvalidArgumentError),
        (("room", "typing", {}), {"private": "yes"}, InvalidArgumentError),
        (("room", "typing", {}), {"id": "7"}, InvalidArgumentError),
        (("room", "typing", {}), {"id": 7}, InvalidArgumentError),
        (("room", "typing", b""), {"id": ID}, InvalidArgumentError),
        (("room", "typing", {}), {"timeout": 0}, InvalidArgumentError),
        (("room", "typing", {"n": 123456}), {}, PayloadTooLargeError),
        (("room", "typing", bytes(11)), {}, PayloadTooLargeError),
    ]
    for args, options, kind in wrong:
        with pytest.raises(kind):
            await client.publish(*args, **options)
    assert http.requests == []
    assert client.stats().pending == 0


@scenario(limits=Limits(payload_bytes=10))
async def test_many_messages_name_the_wrong_one(client: AsyncClient, http: FakeHttp):
    """An error about one of many messages names its position, and none is sent."""
    good = {"topic": "room", "event": "typing", "payload": {}}
    wrong: list[tuple[Any, str]] = [
        ({"topic": "room", "event": "typing"}, "payload is missing"),
        ({**good, "privat": True}, "did you mean 'private'"),
        ({**good, "payload": [1]}, "JSON object"),
        ({**good, "payload": {"n": 123456}}, "limit is 10"),
        ({**good, "id": "7"}, "UUID"),
        ("room", "is a dict"),
    ]
    for message, text in wrong:
        with pytest.raises((InvalidArgumentError, PayloadTooLargeError), match=text) as caught:
            await client.publish_many([good, message])
        assert str(caught.value).startswith("messages[1]: ")
    for messages in ("room", good, 7):
        with pytest.raises(InvalidArgumentError, match="iterable of dicts"):
            await client.publish_many(messages)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert http.requests == []
    assert await client.publish_many([]) == Published(())
    assert http.requests == []


def test_a_wrong_http_client_is_refused():
    """An `http=` object without the method of an HTTP client raises when the client is made."""
    with pytest.raises(InvalidArgumentError, match="HttpClient"):
        connect_async(URL, KEY, http=object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --------------------------------------------------------------------------------------------------- publish_many


@scenario()
async def test_partial_failures_have_the_outcome_of_each_message(client: AsyncClient, http: FakeHttp):
    """The first failure ends `publish_many`, and the error contains the outcome of each message (R31)."""
    json: dict[str, Any] = {"topic": "room", "event": "typing", "payload": {}}
    raw = {**json, "payload": b"raw"}
    http.answer(202)
    http.answer(403, {"message": "Unauthorized"})
    error = await refused(client.publish_many([json, json, raw, json, raw]))
    assert len(http.requests) == 2
    assert error.outcomes[:2] == (IN_A_BATCH, IN_A_BATCH)
    tried, *rest = error.outcomes[2:]
    assert isinstance(tried, HttpError) and (tried.status, tried.maybe_sent) == (403, False)
    for skipped in rest:
        assert isinstance(skipped, HttpError)
        assert (skipped.status, skipped.maybe_sent, skipped.retryable) == (None, False, True)
    assert (error.status, error.__cause__, error.message[:30]) == (403, tried, "3 of 5 messages were not accep")


@scenario()
async def test_a_timeout_of_publish_many_has_the_outcome_of_each_message(client: AsyncClient, http: FakeHttp):
    """After a timeout the error says that the messages of the running request may have arrived."""
    http.hold()
    error = await refused(client.publish_many([{"topic": "room", "event": "typing", "payload": {}}] * 2))
    assert (error.status, error.maybe_sent) == (None, True)
    assert [type(outcome) for outcome in error.outcomes] == [OperationTimeout] * 2


@scenario(limits=Limits(messages_per_second=4))
async def test_the_limit_on_messages_counts_http_messages(client: AsyncClient, http: FakeHttp):
    """Messages by HTTP keep to `messages_per_second`: batches are split and delayed, and a message that cannot wait
    raises."""
    began = now()
    message = {"topic": "room", "event": "typing", "payload": {}}
    assert (await client.publish_many([message] * 10)).accepted == 10
    assert [len(request.body) for request in http.requests[:2]] == [len(http.requests[0].body)] * 2
    assert len(http.requests) == 3
    assert now() - began == pytest.approx(2.0)
    await client.publish_many([message] * 2)
    with pytest.raises(RateLimitedError):
        await client.publish("room", "typing", {}, timeout=0.5)
    assert len(http.requests) == 4


# --------------------------------------------------------------------------------------------------------- closing


@pytest.mark.anyio
async def test_closing_the_client_ends_requests():
    """A call that waits for an HTTP answer when the client is closed raises `ClosedError`, and its request ends
    (R31)."""
    http = FakeHttp()
    http.hold()
    async with connected(http=http) as (client, _):
        publishing = asyncio.create_task(client.publish("room", "typing", {}, timeout=None))
        await settled()
        assert (len(http.requests), client.stats().pending) == (1, 1)
        await client.close()
        with pytest.raises(ClosedError):
            await publishing
        with pytest.raises(ClosedError):
            await client.publish("room", "typing", {})
        with pytest.raises(ClosedError):
            await client.publish_many([{"topic": "room", "event": "typing", "payload": {}}])
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("supawire")] == []


@pytest.mark.anyio
async def test_cancelling_the_root_task_closes_the_pool(server: LocalServer):
    """When the client's root task is cancelled, as by `asyncio.run` when it ends, its pool is closed too."""
    async with connect_async(server.url, server.anon_key) as client:
        await client.publish("room", "typing", {"n": 1})
        sessions = [it for it in gc.get_objects() if type(it) is aiohttp.ClientSession and not it.closed]
        [root] = [task for task in asyncio.all_tasks() if task.get_name() == "supawire"]
        root.cancel()
        await asyncio.wait([root])
    assert all(it.closed for it in sessions)


@pytest.mark.anyio
@pytest.mark.parametrize("offline", [False, True])
async def test_cancelling_the_call_cancels_its_request(offline: bool):
    """Cancelling the call cancels its request, and `close` has nothing to wait for."""
    http = HangingHttp()
    async with connected(http=http, offline="http") as (client, _):
        room = client.channel("room")
        if offline:
            calling = asyncio.create_task(room.broadcast("typing", {}, timeout=None))
        else:
            calling = asyncio.create_task(client.publish("room", "typing", {}, timeout=None))
        await http.requested.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await http.cancelled.wait()
        assert client.stats().pending == 0


class HangingHttp:
    """An HTTP client that never answers, and records that it was cancelled."""

    def __init__(self) -> None:
        self.requested, self.cancelled = asyncio.Event(), asyncio.Event()

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        self.requested.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError("the request is cancelled before this")


class BrokenHttp:
    """An HTTP client of the user that raises an unexpected exception."""

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        raise ZeroDivisionError("oops")


@pytest.mark.anyio
async def test_an_exception_of_the_http_client_is_an_http_error():
    """An exception of the user's HTTP client is an HttpError of that call, and the client continues (R1)."""
    async with connected(http=BrokenHttp()) as (client, _):
        error = await refused(client.publish("room", "typing", {}))
        assert (error.maybe_sent, type(error.__cause__)) == (True, ZeroDivisionError)
        assert await client.ping() >= 0


@pytest.mark.anyio
async def test_publishing_needs_no_connection():
    """While the connection is lost, messages are sent by HTTP."""
    http = FakeHttp()
    async with connected(http=http, backoff=lambda attempt: 1000.0) as (client, socket):
        socket.transport.refuse(times=1000)
        assert socket.peer is not None
        socket.peer.drop()
        with pytest.raises(ConnectError):
            await _lost(client)
        assert await client.publish("room", "typing", {}) == BY_ITSELF


async def _lost(client: AsyncClient) -> None:
    """Wait until `ping` raises because there is no connection."""
    for _ in range(100):
        await settled()
        try:
            await client.ping()
        except RealtimeError as error:
            raise ConnectError(str(error)) from error


# -------------------------------------------------------------------------------------------------- offline="http"


@scenario(offline="http")
async def test_broadcasts_of_a_channel_keep_their_order(client: AsyncClient, http: FakeHttp):
    """Broadcasts of one channel are sent one after another, also when an earlier one is retried."""
    room, other = client.channel("room"), client.channel("other")
    http.answer(429, headers={"Retry-After": "2"})
    sent = await asyncio.gather(
        *(room.broadcast("typing", {"n": n}) for n in range(3)), other.broadcast("typing", {"n": 9})
    )
    assert sent == [BY_ITSELF] * 4
    bodies = [request.body for request in http.requests if "/room/" in request.url]
    assert bodies == [b'{"n":0}', b'{"n":0}', b'{"n":1}', b'{"n":2}']


@scenario(offline="http")
async def test_a_broadcast_that_waits_too_long_for_its_turn_is_not_sent(client: AsyncClient, http: FakeHttp):
    """A broadcast that waits for an earlier one beyond its timeout raises, and is certainly not sent."""
    room = client.channel("room")
    gate = http.hold()
    first = asyncio.create_task(room.broadcast("typing", {"n": 0}, timeout=None))
    await settled()
    with pytest.raises(OperationTimeout, match="was not sent"):
        await room.broadcast("typing", {"n": 1}, timeout=3)
    gate.set()
    assert await first == BY_ITSELF
    assert len(http.requests) == 1


@scenario(offline="http")
async def test_a_refused_broadcast_raises(client: AsyncClient, http: FakeHttp):
    """A broadcast that is refused by HTTP raises, and is not sent in another way (R31, R40)."""
    http.answer(403, {"message": "Unauthorized"})
    error = await refused(client.channel("room", private=True).broadcast("typing", {}))
    assert (error.status, error.topic) == (403, "room")
    assert http.requests[0].url.endswith("?private=true")


@scenario()
async def test_nothing_is_sent_by_http_without_offline_http(client: AsyncClient, http: FakeHttp):
    """Without `offline="http"` a broadcast on a channel that is not joined raises, and no request is made (R34)."""
    with pytest.raises(RealtimeError, match="not joined"):
        await client.channel("room").broadcast("typing", {})
    assert http.requests == []
