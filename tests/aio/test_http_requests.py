"""One HTTP request of a broadcast until its outcome is certain: its content, its retries, and its token."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from supawire import AsyncClient, ConnectionState, connect_async
from supawire.errors import AuthError, OperationTimeout, docs_of
from supawire.testing import FakeHttp
from tests.aio.http_scenarios import BY_ITSELF, ID, IN_A_BATCH, now, refused, run_scenario, scenario
from tests.aio.peer import KEY, URL, serving

SINGLE = f"{URL}/realtime/v1/api/broadcast/room/events/typing"
BATCH = f"{URL}/realtime/v1/api/broadcast"


@scenario()
async def test_requests_have_the_documented_form(client: AsyncClient, http: FakeHttp):
    """The address, the content type and the key are as the protocol requires."""
    await client.publish("room", "typing", {"n": 1})
    await client.publish_many([{"topic": "room", "event": "typing", "payload": {"n": 1}}])
    one, many = http.requests
    assert (one.method, one.url, one.body) == ("POST", SINGLE, b'{"n":1}')
    assert (many.method, many.url) == ("POST", BATCH)
    for request in (one, many):
        assert request.reveal() == {
            "Content-Type": "application/json", "apikey": KEY, "Authorization": f"Bearer {KEY}"
        }  # fmt: skip


@scenario(
    headers={
        "X-Gateway": "yes",
        "authorization": "Basic x",
        "APIKEY": "other",
        "content-TYPE": "text/csv",
        "Content-length": "1",
    },
    host="tenant.local:4000",
    params={"a": "b"},
)
async def test_options_of_the_client_are_honoured(client: AsyncClient, http: FakeHttp):
    """Headers and host override are sent with each request; headers that identify the caller are the client's own."""
    await client.publish("room", "typing", {})
    shown = http.requests[0].reveal()
    assert http.requests[0].url == SINGLE
    assert (shown["X-Gateway"], shown["Host"]) == ("yes", "tenant.local:4000")
    names = sorted(name.lower() for name in shown)
    assert names == ["apikey", "authorization", "content-type", "host", "x-gateway"], "each header once"
    assert shown["Content-Type"] == "application/json"
    assert shown["Authorization"] == f"Bearer {KEY}"


@scenario(token="first-user-token")
async def test_messages_are_sent_with_the_newest_token(client: AsyncClient, http: FakeHttp):
    """The Authorization is the user's newest token, or the key without one; it is never a foreign `sb_` key."""
    for token in ("newer-user-token", "sb_secret_other", None):
        await client.publish("room", "typing", {})
        await client.set_auth(token)
    await client.publish("room", "typing", {})
    assert [request.reveal()["Authorization"].removeprefix("Bearer ") for request in http.requests] == [
        "first-user-token", "newer-user-token", KEY, KEY
    ]  # fmt: skip
    assert {request.reveal()["apikey"] for request in http.requests} == {KEY}


@pytest.mark.anyio
async def test_a_new_style_key_is_its_own_authorization():
    """An `sb_` key is sent as Authorization because it equals the apikey header."""
    http = FakeHttp()
    async with (
        serving() as socket,
        connect_async(URL, "sb_publishable_x", transport=socket.transport, http=http) as client,
    ):
        await client.publish("room", "typing", {})
    shown = http.requests[0].reveal()
    assert shown["Authorization"] == f"Bearer {shown['apikey']}" == "Bearer sb_publishable_x"


@scenario()
async def test_a_message_that_was_not_accepted_is_retried(client: AsyncClient, http: FakeHttp):
    """A 429, a 503 and a failed connection are retried with growing jittered delays (R34)."""
    http.answer(429)
    http.answer(503)
    http.fail()
    began = now()
    assert await client.publish("room", "typing", {}) == BY_ITSELF
    assert len(http.requests) == 4
    assert 0.75 <= now() - began <= 3.5  # up to 0.5, 0.5 to 1, 1 to 2


@scenario()
async def test_retry_after_is_waited_for(client: AsyncClient, http: FakeHttp):
    """The client waits for the seconds of Retry-After, or until its date."""
    http.answer(429, headers={"Retry-After": "7"})
    began = now()
    await client.publish("room", "typing", {})
    assert 7 <= now() - began < 7.1
    http.answer(503, headers={"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)})
    began = now()
    await client.publish("room", "typing", {}, timeout=100)
    assert 50 < now() - began < 61


@scenario(max_retry_after=20.0)
async def test_retry_after_is_cut_to_the_bound(client: AsyncClient, http: FakeHttp):
    """A Retry-After of 31 years is shortened to `max_retry_after`, also for a call without a time limit."""
    http.answer(429, headers={"Retry-After": "999999999"})
    began = now()
    await client.publish("room", "typing", {}, timeout=None)
    assert 20 <= now() - began < 20.1


@scenario()
async def test_a_wait_beyond_the_timeout_is_not_begun(client: AsyncClient, http: FakeHttp):
    """When Retry-After exceeds the timeout of the call, the refusal raises at once and contains that delay."""
    http.answer(429, {"message": "Too many requests"}, {"Retry-After": "11"})
    began = now()
    error = await refused(client.publish("room", "typing", {}))
    assert (error.status, error.retry_after, error.maybe_sent, error.retryable) == (429, 11.0, False, True)
    assert now() == began


@scenario(timeout=3)
async def test_attempts_end_with_the_timeout(client: AsyncClient, http: FakeHttp):
    """Repeated refusals raise the last of them within the timeout, which is the client's by default."""
    http.answer(503, b"later", times=100)
    began = now()
    error = await refused(client.publish("room", "typing", {}))
    assert (error.status, error.body) == (503, "later")
    assert now() - began <= 3
    assert 2 < len(http.requests) < 10


@scenario()
async def test_an_answer_that_never_comes_is_a_timeout(client: AsyncClient, http: FakeHttp):
    """No answer within the timeout raises OperationTimeout that says that the message may have arrived (R31)."""
    http.hold()
    began = now()
    with pytest.raises(OperationTimeout, match="may still have arrived") as caught:
        await client.publish("room", "typing", {}, timeout=4)
    assert (now() - began, caught.value.topic) == (4, "room")


@scenario()
async def test_a_message_that_may_have_been_accepted_is_not_sent_twice(client: AsyncClient, http: FakeHttp):
    """A failure that leaves open whether the message was accepted is not retried, and the error says so."""
    http.fail(maybe_sent=True)
    for status in (500, 502, 504):
        http.answer(status)
    for status in (None, 500, 502, 504):
        error = await refused(client.publish("room", "typing", {}))
        assert (error.status, error.maybe_sent, error.retryable, error.topic) == (status, True, True, "room")
    assert len(http.requests) == 4


@scenario()
async def test_a_message_with_an_id_is_repeated(client: AsyncClient, http: FakeHttp):
    """A message with an id, by which receivers recognise duplicates, is retried until it was certainly accepted."""
    http.fail(maybe_sent=True)
    http.answer(502)
    assert await client.publish("room", "typing", {}, id=ID) == replace(IN_A_BATCH, id=str(ID))
    assert len(http.requests) == 3
    http.fail(maybe_sent=True)
    message = {"topic": "room", "event": "typing", "payload": {}}
    error = await refused(client.publish_many([{**message, "id": ID}, message]))
    assert (error.maybe_sent, len(http.requests)) == (True, 4)


@scenario()
async def test_permanent_http_errors_are_not_retried(client: AsyncClient, http: FakeHttp):
    """Permanent refusals raise at once: of the message, of the token, and of servers that are not Realtime."""
    statuses = (200, 302, 400, 401, 403, 413, 415, 422)
    for status in statuses:
        http.answer(status)
    for status in statuses:
        error = await refused(client.publish("room", "typing", {}))
        assert (error.status, error.maybe_sent) == (status, status == 200)
        assert error.hint
    http.fail(retryable=False)
    assert (await refused(client.publish("room", "typing", {}))).retryable is False
    assert len(http.requests) == len(statuses) + 1


@scenario()
async def test_a_404_from_the_batch_form_is_an_error(client: AsyncClient, http: FakeHttp):
    """A 404 to both forms raises an error that the address is wrong, and is not remembered."""
    http.answer(404, times=2)
    error = await refused(client.publish("room", "typing", {}))
    assert (error.status, error.docs) == (404, docs_of("http-route"))
    assert await client.publish("room", "typing", {}) == BY_ITSELF
    http.answer(404)
    error = await refused(client.publish("room", "ink", b"raw"))
    assert (error.status, "does not accept bytes" in str(error)) == (404, True)
    assert await client.publish("room", "ink", b"raw") == BY_ITSELF


@scenario()
async def test_a_404_for_a_slash_is_not_remembered(client: AsyncClient, http: FakeHttp):
    """A 404 of a gateway for an encoded slash does not make the client treat the server as an old one."""
    http.answer(404)
    assert await client.publish("a/b", "typing", {}) == IN_A_BATCH
    assert await client.publish("room", "typing", {}) == BY_ITSELF


@scenario()
async def test_another_connection_may_be_another_server(client: AsyncClient, http: FakeHttp):
    """After the next connection the client tries the single form again."""
    http.answer(404)
    assert await client.publish("room", "typing", {}) == IN_A_BATCH
    assert await client.publish("room", "typing", {}) == IN_A_BATCH
    client.reconnect()
    await asyncio.sleep(1)
    assert client.state is ConnectionState.OPEN
    assert await client.publish("room", "typing", {}) == BY_ITSELF


# --- tokens


class Provider:
    """A provider that counts its calls; it returns a new token each time unless it is stuck."""

    def __init__(self, *, stuck: bool = False, raises: bool = False) -> None:
        self.calls = 0
        self.stuck = stuck
        self.raises = raises

    async def __call__(self) -> str:
        self.calls += 1
        if self.raises and self.calls > 1:
            raise RuntimeError("the sign-in is down")
        return f"token-number-{1 if self.stuck else self.calls}"


def test_messages_refused_together_share_one_token_refresh():
    """Messages that are refused together share one refresh, and each is retried once."""
    provider = Provider()

    async def steps(client: AsyncClient, http: FakeHttp) -> None:
        http.answer(401, times=3)
        await asyncio.gather(*(client.publish("room", "typing", {"n": n}) for n in range(3)))
        assert provider.calls == 2
        shown = [request.reveal()["Authorization"] for request in http.requests]
        assert shown == ["Bearer token-number-1"] * 3 + ["Bearer token-number-2"] * 3

    run_scenario(steps, token=provider, on_error=[].append)


def test_a_token_that_stays_the_same_is_not_tried_twice():
    """When the provider returns the refused token again, the 401 is raised."""
    provider = Provider(stuck=True)

    async def steps(client: AsyncClient, http: FakeHttp) -> None:
        http.answer(401, {"message": "Unauthorized"}, times=2)
        error = await refused(client.publish("room", "typing", {}))
        assert (error.status, error.docs) == (401, docs_of("http-unauthorized"))
        assert (provider.calls, len(http.requests)) == (2, 1)

    run_scenario(steps, token=provider, on_error=[].append)


def test_a_token_that_came_meanwhile_is_used():
    """When a token newer than the refused one exists, it is used without calling the provider."""
    provider = Provider()

    async def steps(client: AsyncClient, http: FakeHttp) -> None:
        gate = http.hold(401)
        publishing = asyncio.create_task(client.publish("room", "typing", {}))
        await asyncio.sleep(1)
        await client.set_auth("set-by-hand")
        gate.set()
        assert await publishing == BY_ITSELF
        assert provider.calls == 1
        assert http.requests[1].reveal()["Authorization"] == "Bearer set-by-hand"

    run_scenario(steps, token=provider, on_error=[].append)


def test_a_newer_token_is_tried_once():
    """When the newer token is refused too, the 401 is raised."""
    provider = Provider()

    async def steps(client: AsyncClient, http: FakeHttp) -> None:
        http.answer(401, times=5)
        assert (await refused(client.publish("room", "typing", {}))).status == 401
        assert (provider.calls, len(http.requests)) == (2, 2)

    run_scenario(steps, token=provider, on_error=[].append)


def test_a_provider_that_raises_leaves_the_refusal():
    """When the provider raises, the 401 is raised with that error as its cause."""
    provider = Provider(raises=True)

    async def steps(client: AsyncClient, http: FakeHttp) -> None:
        http.answer(401)
        error = await refused(client.publish("room", "typing", {}))
        assert error.status == 401
        assert isinstance(error.__cause__, AuthError)

    run_scenario(steps, token=provider, on_error=[].append)
