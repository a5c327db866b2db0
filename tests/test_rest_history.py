"""Stored messages read by the REST API: the requests, and what is made of the answers."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from supawire.cursors import Cursor, PageQuery, Position
from supawire.errors import HttpError, OperationTimeout
from supawire.history import RestHistory
from supawire.server.tokens import sign

pytestmark = pytest.mark.anyio

DATE = "Mon, 09 Mar 2026 08:20:00 GMT"
NOW = 1_773_044_400_000_000
AFTER = re.compile(r"\(inserted_at\.gt\.([^,]+),and\(inserted_at\.eq\.([^,]+),id\.gt\.([^)]+)\)\)")


def identity(index: int) -> str:
    return f"00000000-0000-4000-8000-{index:012d}"


def row(index: int, second: int, **more: Any) -> dict[str, Any]:
    """Return a row as PostgREST sends it."""
    return {
        "id": identity(index), "event": "e", "inserted_at": f"2026-03-09T08:15:{second:02d}.5", "payload": {"n": index},
        "bytes": None, **more,
    }  # fmt: skip


@dataclass
class PostgRest:
    """The view in this list, behind the REST API of a project that returns at most `max_rows` rows."""

    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    max_rows: int = 1000
    answer: web.Response | None = None
    requests: list[web.Request] = field(default_factory=list[web.Request])

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        if self.answer is not None:
            return self.answer
        query = request.query
        assert request.path == "/rest/v1/message_history"
        assert query["topic"] == "eq.room"
        found = [one for one in self.rows if self._wanted(one, query)]
        limit = min(int(query.get("limit", "1000")), self.max_rows)
        return web.Response(text=json.dumps(found[:limit]), content_type="application/json", headers={"Date": DATE})

    def _wanted(self, one: dict[str, Any], query: Any) -> bool:
        at = one["inserted_at"].ljust(26, "0")
        if "or" in query:
            matched = AFTER.fullmatch(query["or"])
            assert matched is not None, query["or"]
            if not (at > matched[1] or (at == matched[2] and one["id"] > matched[3])):
                return False
        if "inserted_at" in query and not at > query["inserted_at"].removeprefix("gt."):
            return False
        if "event" in query and f'"{one["event"]}"' not in query["event"]:
            return False
        return "id" not in query or one["id"] in query["id"]


@asynccontextmanager
async def running(server: PostgRest) -> AsyncGenerator[str]:
    """Yield the URL of the project."""
    app = web.Application()
    app.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_page_is_read_after_a_position():
    """Rows come in order, with the horizon of the server's time; the key and the token are sent as headers."""
    server = PostgRest([row(index, index) for index in range(5)])
    async with running(server) as url:
        history = RestHistory(
            url, "anon-key", token=sign({"role": "authenticated"}, "a secret of at least 32 characters")
        )
        page = await history.read(PageQuery("room", Position(0, 0), limit=3))
        assert [one.id for one in page.rows] == [identity(index) for index in range(3)]
        assert json.loads(page.rows[0].payload) == {"n": 0}
        assert (page.now, page.horizon) == (NOW, NOW - 6_000_000)
        assert page.oldest == page.horizon - 72 * 3600 * 1_000_000
        rest = await history.read(PageQuery("room", page.rows[-1].position, limit=3))
        assert [one.id for one in rest.rows] == [identity(3), identity(4)]
    sent = server.requests[0].headers
    assert sent["apikey"] == "anon-key"
    assert sent["Authorization"].startswith("Bearer eyJ")
    assert "anon-key" not in repr(history)


async def test_rows_of_one_instant_are_divided_by_their_ids():
    """Many rows of one transaction are read once each, also if the project cuts each answer."""
    server = PostgRest([row(index, 1) for index in range(50)], max_rows=7)
    async with running(server) as url:
        history = RestHistory(url, "key")
        position, got = Cursor("room", 0).position, list[str]()
        while page := (await history.read(PageQuery("room", position, limit=20))).rows:
            got += [one.id for one in page]
            position = page[-1].position
    assert got == [identity(index) for index in range(50)]


async def test_seen_rows_and_newer_rows_are_left_out():
    """Rows that were delivered already are not returned, nor unsettled ones if only settled ones are wanted."""
    server = PostgRest([row(0, 0), row(1, 1), row(2, 0, inserted_at="2026-03-09T08:19:59")])
    async with running(server) as url:
        history = RestHistory(url, "key")
        page = await history.read(PageQuery("room", Position(0, 0), seen=(identity(0),), settled_only=True))
        assert [one.id for one in page.rows] == [identity(1)]


async def test_events_and_ids_are_asked_for():
    """The event names are sent quoted, and rows with the ids of live messages come besides."""
    server = PostgRest([row(0, 0), row(1, 1, event='a "b"'), row(2, 2)])
    async with running(server) as url:
        history = RestHistory(url, "key")
        after = Position(NOW, 0)
        page = await history.read(PageQuery("room", after, ids=(identity(0),)))
        assert page.rows == ()
        assert [one.id for one in page.found] == [identity(0)]
        await history.read(PageQuery("room", Position(0, 0), events=('a "b"', "c")))
    assert server.requests[-1].query["event"] == 'in.("a \\"b\\"","c")'


async def test_bytes_are_decoded():
    """A message of bytes is in the column `bytes`, as hexadecimal digits."""
    server = PostgRest([row(0, 0, payload=None, bytes="00ff")])
    async with running(server) as url:
        page = await RestHistory(url, "key").read(PageQuery("room", Position(0, 0)))
    assert (page.rows[0].payload, page.rows[0].json) == (b"\x00\xff", False)


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (401, False), (400, False), (500, True), (429, True)])
async def test_a_refusal_says_what_to_do(status: int, retryable: bool):
    """An error has the status, the beginning of the answer, and whether another attempt may succeed."""
    server = PostgRest(answer=web.Response(status=status, text='{"message":"no such view"}'))
    async with running(server) as url:
        with pytest.raises(HttpError) as refused:
            await RestHistory(url, "secret-key-of-project").read(PageQuery("room", Position(0, 0)))
    assert (refused.value.status, refused.value.retryable) == (status, retryable)
    assert "secret-key-of-project" not in str(refused.value)
    assert (refused.value.hint is not None) == (status in (404, 401))


@pytest.mark.parametrize("text", ["", "{}", '[{"id": 1}]', '[{"id":"x","event":"e","inserted_at":"yesterday"}]'])
async def test_an_answer_with_other_columns_is_refused(text: str):
    """What is not a list of the rows of the view raises HttpError."""
    server = PostgRest(answer=web.Response(text=text))
    async with running(server) as url:
        with pytest.raises(HttpError, match="other columns"):
            await RestHistory(url, "key").read(PageQuery("room", Position(0, 0)))


async def test_a_server_that_cannot_be_reached_may_be_tried_again():
    """A refused connection is an HttpError that may be retried."""
    async with running(PostgRest()) as url:
        pass
    with pytest.raises(HttpError) as failed:
        await RestHistory(url, "key").read(PageQuery("room", Position(0, 0)))
    assert failed.value.retryable


async def test_a_server_that_does_not_answer_times_out():
    """The timeout of one request is an OperationTimeout."""

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(ignore, "127.0.0.1", 0)
    async with silent:
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        with pytest.raises(OperationTimeout):
            await RestHistory(url, "key", timeout=0.05).read(PageQuery("room", Position(0, 0)))
