"""Each broker stores a message once, tells what it will never take, and goes on after it was away.

Redis and NATS are the real programs. Kafka is the cluster for tests that librdkafka contains, over TCP. The receiver of
webhooks is an aiohttp server.
"""

import asyncio
import traceback
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from supawire.bridge import BridgeMessage, Failure, make_broker
from supawire.errors import InvalidArgumentError
from tests.bridge.servers import NatsProcess, RedisProcess

SECRET = "whsec_" + "A" * 40


def message(number: int, body: bytes = b'{"n": 1}', key: str = 'public.items:{"id":1}') -> BridgeMessage:
    return BridgeMessage(f"id-{number}", ("changes", "public", "i.t ems*"), key, body)


# ---------------------------------------------------------------------------------------------------------------- Redis


@pytest.mark.slow
async def test_redis_stores_each_id_once(tmp_path: Path):
    """Entries have id, subject, key and data; an id that is there is not added again, also after a restart of Redis."""
    redis = pytest.importorskip("redis")
    from supawire.bridge import RedisStreams

    with RedisProcess(tmp_path) as server:
        broker = RedisStreams(server.url, stream="s{1}", window=60)
        assert await broker.publish([message(1), message(2)]) == ["stored", "stored"]
        server.kill()
        (failure,) = await broker.publish([message(2), message(3)])
        assert isinstance(failure, Failure) and failure.kind == "away"
        server.start()
        assert await broker.publish([message(2), message(3)]) == ["duplicate", "stored"]
        await broker.close()
        with redis.Redis.from_url(server.url) as client:
            entries: Any = client.xrange("s{1}")
            assert [fields[b"id"] for _, fields in entries] == [b"id-1", b"id-2", b"id-3"]
            assert entries[0][1] == {
                b"id": b"id-1", b"subject": b"changes/public/i.t ems*", b"key": b'public.items:{"id":1}',
                b"data": b'{"n": 1}',
            }  # fmt: skip
            assert 0 < client.pttl("s{1}:supawire:id-1") <= 60_000


@pytest.mark.slow
async def test_redis_stops_at_the_first_error(tmp_path: Path):
    """After an entry that Redis does not add, no later one of the same call is added, so that the order is kept."""
    redis = pytest.importorskip("redis")
    from supawire.bridge import RedisStreams

    with RedisProcess(tmp_path) as server:
        broker = RedisStreams(server.url, stream="s")
        with redis.Redis.from_url(server.url) as client:
            client.set("s", "not a stream")
            results = await broker.publish([message(1), message(2)])
            assert len(results) == 1 and isinstance(results[0], Failure) and "WRONGTYPE" in results[0].reason
            client.delete("s")
            assert await broker.publish([message(1), message(2)]) == ["stored", "stored"]
        await broker.close()


@pytest.mark.slow
async def test_redis_trims(tmp_path: Path):
    """With max_length the stream is trimmed to about this length."""
    redis = pytest.importorskip("redis")
    from supawire.bridge import RedisStreams

    with RedisProcess(tmp_path) as server:
        broker = RedisStreams(server.url, max_length=100)
        for start in range(0, 1000, 100):
            await broker.publish([message(number) for number in range(start, start + 100)])
        await broker.close()
        with redis.Redis.from_url(server.url) as client:
            assert 100 <= client.xlen("supawire") < 300


# ----------------------------------------------------------------------------------------------------------------- NATS


@pytest.mark.slow
async def test_jetstream_stores_each_id_once(tmp_path: Path):
    """The stream is created; messages have Nats-Msg-Id and a subject; duplicates are known after a restart of NATS."""
    nats = pytest.importorskip("nats")
    from supawire.bridge import JetStream

    with NatsProcess(tmp_path) as server:
        broker = JetStream(server.url, stream="Rows", window=60)
        assert await broker.publish([message(1), message(2)]) == ["stored", "stored"]
        large = await broker.publish([message(4, b"x" * 2_000_000)])
        assert isinstance(large[0], Failure) and large[0].kind == "rejected"
        server.kill()
        server.start()
        results = await broker.publish([message(2), message(3)])
        while any(isinstance(one, Failure) for one in results):  # the client connects again
            await asyncio.sleep(0.05)
            results = await broker.publish([message(2), message(3)])
        assert results[0] == "duplicate"
        await broker.close()
        client = await nats.connect(server.url)
        found = await (await client.jetstream().pull_subscribe("rows.>")).fetch(3, timeout=5)
        assert [one.headers["Nats-Msg-Id"] for one in found] == ["id-1", "id-2", "id-3"]
        assert {one.subject for one in found} == {"rows.changes.public.i%2Et%20ems%2A"}
        assert (await client.jetstream().stream_info("Rows")).config.duplicate_window == 60
        await client.close()


@pytest.mark.slow
async def test_jetstream_that_is_away(tmp_path: Path):
    """A NATS server that cannot be reached, or whose stream is missing, is a failure and not an error."""
    pytest.importorskip("nats")
    from supawire.bridge import JetStream

    server = NatsProcess(tmp_path)
    broker = JetStream(server.url, create=False, connect_timeout=0.2, allow_reconnect=False)
    (failure,) = await broker.publish([message(1)])
    assert isinstance(failure, Failure) and failure.kind == "away"
    with server:
        (failure,) = await broker.publish([message(1)])
        assert isinstance(failure, Failure) and "stream not found" in failure.reason
    await broker.close()


@pytest.mark.slow
async def test_jetstream_says_why_it_cannot_connect(tmp_path: Path):
    """The reason of a failure is that of the connection, and not only that it took too long."""
    pytest.importorskip("nats")
    from supawire.bridge import JetStream

    broker = JetStream(NatsProcess(tmp_path).url, connect_timeout=0.2)
    (failure,) = await broker.publish([message(1)])
    assert isinstance(failure, Failure) and "Connect" in failure.reason
    await broker.close()


# ---------------------------------------------------------------------------------------------------------------- Kafka


@pytest.mark.slow
async def test_kafka_keeps_key_and_id():
    """Messages have a key and the header id; one that is too large is rejected, and the next one is stored."""
    confluent = pytest.importorskip("confluent_kafka")
    aiokafka = pytest.importorskip("aiokafka")
    from supawire.bridge import Kafka

    cluster = confluent.Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
    (node,) = cluster.list_topics(timeout=10).brokers.values()
    address = f"{node.host}:{node.port}"
    broker = make_broker(f"kafka://{address}/rows")
    assert isinstance(broker, Kafka)
    large = message(2, b"x" * 3_000_000)
    results = await broker.publish([message(1), large, message(3)])
    assert (results[0], results[2]) == ("stored", "stored")
    assert isinstance(results[1], Failure) and results[1].kind == "rejected"
    await broker.close()
    reader = aiokafka.AIOKafkaConsumer("rows", bootstrap_servers=address, auto_offset_reset="earliest")
    await reader.start()
    found = [await reader.getone() for _ in range(2)]
    await reader.stop()
    assert [dict(one.headers)["id"] for one in found] == [b"id-1", b"id-3"]
    assert (found[0].key, found[0].value) == (b'public.items:{"id":1}', b'{"n": 1}')


# ------------------------------------------------------------------------------------------------------------- Webhooks


@asynccontextmanager
async def receiver(answers: list[int]) -> AsyncGenerator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Run a receiver that gives these answers, then 204; provide its URL and what it got."""
    got: list[tuple[dict[str, str], bytes]] = []

    async def take(request: web.Request) -> web.Response:
        got.append((dict(request.headers), await request.read()))
        return web.Response(status=answers.pop(0) if answers else 204, headers={"Retry-After": "7"})

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", got
    finally:
        await runner.cleanup()


async def test_webhooks_are_signed():
    """The id of a message is its webhook-id, and the signature is that of the Standard Webhooks specification."""
    standardwebhooks = pytest.importorskip("standardwebhooks")
    async with receiver([]) as (url, got):
        broker = make_broker(url, secret=SECRET)
        assert await broker.publish([message(1)]) == ["stored"]
        await broker.close()
    ((headers, body),) = got
    assert headers["webhook-id"] == "id-1"
    assert standardwebhooks.Webhook(SECRET).verify(body.decode(), headers) == {"n": 1}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "rejected"), (413, "rejected"), (302, "away"), (402, "away"), (522, "away"), (500, "refused"),
     (409, "refused"), (401, "away"), (404, "away"), (429, "away"), (503, "away")],
)  # fmt: skip
async def test_answers_of_webhooks(status: int, kind: str):
    """The status says whether the message, this attempt or the receiver is the reason."""
    pytest.importorskip("standardwebhooks")
    async with receiver([status]) as (url, _):
        broker = make_broker(url, secret=SECRET)
        (failure,) = await broker.publish([message(1)])
        await broker.close()
    assert isinstance(failure, Failure) and failure.kind == kind
    assert failure.after == (0 if kind == "rejected" else 7)


# ----------------------------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("amqp://host", {}, "amqp://"),
        ("", {}, "nothing"),
        ("https://host", {}, "no secret is given"),
        ("https://host", {"secret": SECRET, "stream": "s"}, "a webhook has none"),
        ("https://host", {"secret": "short"}, "secret must be whsec_"),
        ("redis://host", {"secret": SECRET}, "only webhooks are signed"),
        ("kafka://user:password@host", {}, "has no password"),
        ("kafka://host/a", {"stream": "b"}, "give one of them"),
        ("nats://host", {"stream": "a.b"}, "must not contain"),
        ("nats://", {}, "url must be like"),
        ("nats://user:12/password@host", {}, "url must be like"),
        ("nats://user:word/password@host", {}, "url must be like"),
        ("redis://user:word/password@host", {}, "cannot be used"),
        ("rediss://user:pass[word@host", {}, "cannot be used"),
    ],
)
def test_urls_that_cannot_be_used(url: str, options: dict[str, Any], text: str):
    """A URL or option that no broker has is an error that says why, without the password."""
    for package in ("redis", "nats", "aiokafka", "standardwebhooks"):
        pytest.importorskip(package)
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        make_broker(url, **options)
    shown = "".join(traceback.format_exception(caught.value))
    assert "password@" not in str(caught.value) and "'word'" not in shown
