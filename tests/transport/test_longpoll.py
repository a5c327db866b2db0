"""What is particular to long polling, beside the contract of transports."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from supawire.errors import ConnectError
from supawire.options import Endpoint
from supawire.transport import OpenRequest
from supawire.transport.longpoll import MAX_BATCH, LongPollConnection, LongPollTransport, PollAnswer, decode_answer
from tests.faults.misbehaver import Misbehaver, Wire
from tests.transport.rigs import KEY, Collector, line, longpoll_rig

pytestmark = pytest.mark.anyio

TOKEN = "a-secret-session-token"


def answering(post: Callable[[Wire], tuple[int, bytes]]) -> Callable[[Wire], Awaitable[None]]:
    """Return a script of a server whose polls wait, and which answers a POST with this HTTP status and body."""

    async def serve(wire: Wire) -> None:
        while True:
            await wire.request()
            if wire.head.startswith("POST"):
                status, body = post(wire)
            elif "token=" in wire.head:
                continue
            else:
                status, body = 200, json.dumps({"status": 410, "token": TOKEN}).encode()
            wire.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    return serve


async def opened(server: Misbehaver, **request: object) -> LongPollConnection:
    endpoint = Endpoint.of(f"{server.url}?extra=1", KEY)
    return await LongPollTransport().open(OpenRequest(endpoint, **request))  # pyright: ignore[reportArgumentType]


async def test_frames_of_one_iteration_are_one_request():
    """Frames that are written together are sent together, at most `MAX_BATCH` in one POST, in order."""
    bodies: list[bytes] = []

    def post(wire: Wire) -> tuple[int, bytes]:
        bodies.append(wire.body)
        return 200, b'{"status":200}'

    async with Misbehaver(answering(post)) as server:
        connection = await opened(server)
        running = asyncio.ensure_future(connection.run(Collector()))
        for number in range(MAX_BATCH + 1):
            connection.write(b"%d" % number, False)
        assert await connection.flush(MAX_BATCH + 1)
        assert bodies == [b"\n".join(b"%d" % number for number in range(MAX_BATCH)), b"%d" % MAX_BATCH]
        connection.abort()
        await running


async def test_a_refused_batch_is_sent_one_by_one():
    """A server that takes no batches gets the same frames one by one, each once, also from then on."""
    taken: list[bytes] = []

    def post(wire: Wire) -> tuple[int, bytes]:
        if b"\n" in wire.body:
            return 400, b"Bad Request"
        taken.append(wire.body)
        return 200, b'{"status":200}'

    async with Misbehaver(answering(post)) as server:
        connection = await opened(server)
        running = asyncio.ensure_future(connection.run(Collector()))
        for data in (b"1", b"2", b"3"):
            connection.write(data, False)
        assert await connection.flush(3)
        assert taken == [b"1", b"2", b"3"]
        connection.abort()
        await running


@pytest.mark.parametrize(
    ("status", "body", "written"),
    [
        (200, b'{"status":410}', 0),
        (413, b"too large", 0),
        (200, b'{"status":408}', 1),
        (502, b"Bad Gateway", 1),
        (200, b"<html>", 1),
    ],
)
async def test_what_a_failed_post_means(status: int, body: bytes, written: int):
    """A POST is never repeated. Its frames count as written unless the answer says that they were not executed."""
    async with Misbehaver(answering(lambda wire: (status, body))) as server:
        connection = await opened(server)
        running = asyncio.ensure_future(connection.run(Collector()))
        connection.write(b"1", False)
        assert await connection.flush(1) is bool(written)
        assert (await running).written == written
        assert sum(head.startswith("POST") for head in server.heads) == 1


async def test_empty_answers_that_come_at_once_do_not_flood_the_server():
    """If something in between answers each poll at once with nothing, polls are sent at a limited rate."""

    async def serve(wire: Wire) -> None:
        while True:
            await wire.request()
            body = json.dumps({"status": 204 if "token=" in wire.head else 410, "token": TOKEN}).encode()
            wire.write(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with Misbehaver(serve) as server:
        connection = await opened(server)
        running = asyncio.ensure_future(connection.run(Collector()))
        await asyncio.sleep(0.35)
        connection.abort()
        await running
        assert 2 <= len(server.heads) <= 5


async def test_headers_and_parameters_go_with_each_request():
    """Headers, query parameters and the key are sent with every request, the token with all but the first."""
    async with Misbehaver(answering(lambda wire: (200, b'{"status":200}'))) as server:
        connection = await opened(server, headers={"X-Mine": "yes"})
        running = asyncio.ensure_future(connection.run(Collector()))
        connection.write(b"1", False)
        assert await connection.flush(1)
        connection.abort()
        await running
        assert all("x-mine: yes" in head.lower() and "extra=1" in head and "apikey=" in head for head in server.heads)
        assert [TOKEN in head for head in server.heads].count(False) == 1


async def test_a_redirect_is_refused():
    """A redirect is not followed, and the error does not show the key."""
    async with Misbehaver(lambda wire: wire.refuse(302, b"", "Location: http://127.0.0.1:1/")) as server:
        with pytest.raises(ConnectError, match="not followed") as caught:
            await opened(server)
        assert caught.value.status == 302
        assert KEY not in repr(caught.value)


async def test_a_binary_frame_ends_the_connection():
    """A binary frame, which a client never writes in version 1.0.0, is not lost silently."""
    async with longpoll_rig() as rig, line(rig) as it:
        it.connection.write(b"\x00", True)
        assert "binary" in (await it.run).text


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"status":"200"}', b'{"status":200,"messages":[1]}', b"\xff", b"[" * 5000],
)
async def test_other_bodies_are_no_answers(body: bytes):
    """A body that is not an answer of Phoenix is not taken for one."""
    assert decode_answer(body) is None


async def test_an_answer_is_decoded():
    """Status, token and messages are read; other members are ignored."""
    body = b'{"status":200,"token":"t","messages":["[1]","{}"],"new":null}'
    assert decode_answer(body) == PollAnswer(200, "t", ("[1]", "{}"))
