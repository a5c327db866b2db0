"""The inspector's routes and its WebSocket, on the network."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import aiohttp
import pytest

from supawire import ConnectError, JoinError, broadcast, changes, connect_async, presence
from supawire.server import HubOptions, LocalServer
from supawire.server.app import App
from supawire.server.inspector import web
from tests.server.inspector.inspector_client import open_inspector
from tests.server.world import SECRET


@asynccontextmanager
async def running(**options: Any) -> AsyncGenerator[tuple[App, str]]:
    app = App(HubOptions(secret=SECRET, **options))
    await app.start()
    try:
        yield app, f"http://127.0.0.1:{app.port}"
    finally:
        await app.stop()


async def test_it_is_off_by_default() -> None:
    """Without the option its paths get 404, as on the real server."""
    async with running() as (_, url), aiohttp.ClientSession() as http:
        for path in (*web.FILES, web.LIVE):
            async with http.get(url + path) as answer:
                assert answer.status == 404


async def test_every_file_is_served() -> None:
    """Each file of the package has a path, and the security policy forbids foreign content."""
    static = {item.name for item in files("supawire.server.inspector").joinpath("static").iterdir()}
    assert static == {name for name, _ in web.FILES.values()}
    async with running(inspector=True) as (_, url), aiohttp.ClientSession() as http:
        for path, (_, content_type) in web.FILES.items():
            async with http.get(url + path) as answer:
                assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
                assert "Access-Control-Allow-Origin" not in answer.headers
                text = await answer.text()
                assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text


async def test_other_sites_are_refused() -> None:
    """A page of another origin, and one with a rebound name, get neither the page nor the WebSocket."""
    async with running(inspector=True) as (app, url), aiohttp.ClientSession() as http:
        rebound = {"Host": f"attacker.example:{app.port}", "Origin": f"http://attacker.example:{app.port}"}
        for headers in ({"Origin": "http://attacker.example"}, rebound, {"Sec-Fetch-Site": "cross-site"}):
            for path in (*web.FILES, web.LIVE):
                async with http.get(url + path, headers=headers) as answer:
                    assert answer.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await http.ws_connect(url + web.LIVE, headers=headers)
            assert caught.value.status == 403
        async with http.options(url + web.LIVE, headers={"Origin": "http://attacker.example"}) as answer:
            assert "Access-Control-Allow-Credentials" not in answer.headers
        async with http.get(url + web.LIVE, headers={"Origin": url}) as answer:
            assert answer.status == 400  # no upgrade


async def test_the_overview_is_live() -> None:
    """It has connections with version and channels, topics with members and presence, faults, and the backend."""
    async with LocalServer(inspector=True) as server, open_inspector(server.url) as viewer:
        assert viewer.about["level"] == "memory" and viewer.overview["connections"] == []
        async with connect_async(server.url, server.token(), protocol="1.0.0") as client:
            room = client.channel("room", private=True, presence_key="alice")
            room.on(presence(), lambda _: None)
            room.on(changes("users", filter="id=gt.5"), lambda _: None)
            await room.subscribe(wait="ready")
            await room.track({"mood": "fine"})
            await viewer.until(lambda: viewer.overview["topics"] and viewer.overview["topics"][0]["keys"])
            (connection,), (topic,) = viewer.overview["connections"], viewer.overview["topics"]
            assert connection["version"] == "1.0.0" and connection["opened_at"] > 1_700_000_000
            assert connection["channels"] == [
                {
                    "topic": "room",
                    "private": True,
                    "role": "authenticated",
                    "changes": ["* public.users where id=gt.5"],
                    "ready": True,
                }
            ]
            assert topic["present"] == [{"key": "alice", "payloads": ['{"mood":"fine"}']}]
            server.pause()
            await viewer.until(lambda: viewer.overview["faults"])
            assert viewer.overview["faults"] == ["paused"] and viewer.overview["connections"][0]["state"] == "paused"
            server.resume()
        await viewer.until(lambda: viewer.overview["connected"] == 0)


async def test_frames_and_changes_are_sent() -> None:
    """Frames of both directions and changes arrive; those sent during a pause are left out."""
    async with (
        LocalServer(inspector=True) as server,
        open_inspector(server.url) as viewer,
        connect_async(server.url, server.anon_key) as client,
    ):
        room = client.channel("room", ack=True)
        room.on(changes("users"), lambda _: None)
        await room.subscribe(wait="ready")
        await room.broadcast("one", {"n": 1})
        server.emit("INSERT", "users", record={"id": 1})
        server.emit("INSERT", "others", record={"id": 1})
        await viewer.until(
            lambda: len(viewer.changes) == 2 and any(it["event"] == "postgres_changes" for it in viewer.frames)
        )
        assert [(it["table"], it["receivers"]) for it in viewer.changes] == [
            ("public.users", 1),
            ("public.others", 0),
        ]
        assert [it["event"] for it in viewer.frames if it["kind"] == "in"] == ["phx_join", "broadcast"]
        await viewer.ws.send_json({"do": "look", "frames": False})
        assert await viewer.request(do="publish", topic="x", event="x", payload=1) == {"to": "publish"}
        await room.broadcast("paused", {})
        await viewer.ws.send_json({"do": "look", "frames": True})
        assert await viewer.request(do="publish", topic="x", event="x", payload=1) == {"to": "publish"}
        await room.broadcast("two", {})
        await viewer.until(lambda: any(it["user_event"] == "two" for it in viewer.frames))
        assert "paused" not in [it["user_event"] for it in viewer.frames]


async def test_a_page_can_publish_and_emit() -> None:
    """Broadcasts are delivered to public and private channels; an invalid request gets an error."""
    async with (
        LocalServer(inspector=True) as server,
        open_inspector(server.url) as viewer,
        connect_async(server.url, server.token()) as client,
    ):
        room = client.channel("room", private=True)
        news = room.listen(broadcast(), changes("users"))
        await room.subscribe(wait="ready")
        await viewer.request(do="publish", topic="room", event="public", payload=None)
        said = await viewer.request(do="publish", topic="room", event="said", payload={"n": 1}, private=True)
        assert said == {"to": "publish"}
        event: Any = await anext(news)
        assert (event.event, event.payload["n"]) == ("said", 1)
        assert await viewer.request(do="emit", type="INSERT", table="users", record={"id": 1}) == {"to": "emit"}
        event = await anext(news)
        assert event.record == {"id": 1}
        for to, wrong in (
            ("publish", {"do": "publish", "topic": "", "event": "x", "payload": 1}),
            ("publish", {"do": "publish", "topic": "é" * 200, "event": "x", "payload": 1}),
            ("emit", {"do": "emit", "type": "DELETE", "table": "users"}),
            ("emit", {"do": "emit", "type": "INSERT", "table": ""}),
            ("order", {"do": "nothing"}),
            ("order", {"do": "publish", "topic": 5}),
        ):
            answer = await viewer.request(**wrong)
            assert answer["to"] == to and answer["error"]


async def test_keys_are_sent_only_on_request() -> None:
    """Keys, tokens and the secret are in no other message."""
    async with LocalServer(inspector=True) as server, open_inspector(server.url) as viewer:
        async with connect_async(server.url, server.anon_key, token=server.token(sub="alice")) as client:
            room = client.channel("room", private=True)
            await room.subscribe()
            await room.track({"stolen": [server.token()], "long": "x" * 10_000})
            await room.broadcast("x", {"stolen": server.service_key})
            await viewer.until(lambda: any(it["user_event"] == "x" for it in viewer.frames))
            await viewer.until(lambda: viewer.overview["topics"] and viewer.overview["topics"][0]["keys"])
            assert len(viewer.overview["topics"][0]["present"][0]["payloads"][0]) < 400
        for secret in (server.anon_key, server.service_key, server.secret, "eyJ"):
            assert secret not in viewer.all
        keys = (await viewer.request(do="keys"))["keys"]
        async with connect_async(server.url, keys["service"]) as client:
            await client.channel("room", private=True).subscribe()


async def test_what_happened_before_the_page_was_opened_is_sent() -> None:
    """A page gets the history: refused handshakes, connections, frames and changes."""
    async with LocalServer(inspector=True) as server:
        with pytest.raises(ConnectError):
            await connect_async(server.url, "sb_wrong_key", open_timeout=0.05)
        async with connect_async(server.url, server.anon_key) as client:
            await client.channel("room").subscribe()
            server.emit("INSERT", "users", record={"id": 1})
        async with open_inspector(server.url) as viewer:
            await viewer.until(lambda: viewer.changes and any(it["kind"] == "closed" for it in viewer.frames))
        kinds = [it["kind"] for it in viewer.frames if it["topic"] != "phoenix"]
        assert (kinds[0], kinds[-1]) == ("refused", "closed") and "opened" in kinds
        refused = viewer.frames[0]
        assert refused["bad"] and refused["event"] == "refused with 401" and "JWT" in refused["payload"]
        assert next(it["event"] for it in viewer.frames if it["kind"] == "in") == "phx_join"
        assert "sb_wrong_key" not in viewer.all


async def test_nothing_is_recorded_without_the_inspector() -> None:
    """A server without the inspector has no history."""
    async with running() as (app, _):
        assert app.hub.watchers == ()


async def test_a_fault_is_caused_and_shown() -> None:
    """A fault acts, is listed as in force, and is removed again; an invalid one gets an error."""
    async with LocalServer(inspector=True) as server, open_inspector(server.url) as viewer:
        fault = {"name": "reject_join", "arguments": {"topic": "room", "reason": "Unauthorized: no"}}
        assert await viewer.request(do="fault", **fault) == {"to": "fault"}
        async with connect_async(server.url, server.anon_key) as client:
            with pytest.raises(JoinError, match="Unauthorized: no"):
                await client.channel("room").subscribe()
        await viewer.until(lambda: viewer.overview["faults"])
        assert viewer.overview["faults"] == ["joins of room refused"]
        await viewer.request(do="fault", name="reset")
        await viewer.until(lambda: not viewer.overview["faults"])
        for name, arguments, expected in (
            ("nothing", {}, "there is no fault 'nothing'"),
            ("_pause", {}, "there is no fault"),
            ("lag", {"seconds": -1}, "seconds must be"),
            ("lag", {"seconds": None}, "Seconds is empty"),
            ("lag", {"seconds": 1, "more": 2}, "has no argument 'more'"),
            ("drop_connections", {"code": "x"}, "code must be"),
        ):
            answer = await viewer.request(do="fault", name=name, arguments=arguments)
            assert expected in answer["error"], name


async def test_a_frame_is_sent_again() -> None:
    """A frame from a client is handled again, and one to a client is sent again, while the connection is open."""
    async with LocalServer(inspector=True) as server, open_inspector(server.url) as viewer:
        async with connect_async(server.url, server.anon_key) as client:
            room = client.channel("room", echo=True)
            messages = room.listen(broadcast("typing"))
            await room.subscribe()
            await room.broadcast("typing", {"n": 1})
            await anext(messages)
            await viewer.until(lambda: sum(it["user_event"] == "typing" for it in viewer.frames) == 2)
            numbers = {it["kind"]: it["number"] for it in viewer.frames if it["user_event"] == "typing"}
            for kind in ("in", "out"):
                assert "error" not in await viewer.request(do="resend", number=numbers[kind])
                assert (await anext(messages)).payload == {"n": 1}
            answer = await viewer.request(do="payload", number=numbers["in"])
            assert '"n":1' in answer["text"]
        await viewer.until(lambda: any(it["kind"] == "closed" for it in viewer.frames))
        assert "has ended" in (await viewer.request(do="resend", number=numbers["in"]))["error"]
        assert "no longer kept" in (await viewer.request(do="resend", number=10_000))["error"]


async def test_a_long_payload_is_returned_whole_and_without_tokens() -> None:
    """The payload of a frame can be fetched completely; its tokens are hidden."""
    async with LocalServer(inspector=True) as server, open_inspector(server.url) as viewer:
        async with connect_async(server.url, server.anon_key) as client:
            room = client.channel("room")
            await room.subscribe()
            await room.broadcast("long", {"text": "x" * 200_000, "token": server.token()})
            await viewer.until(lambda: any(it["user_event"] == "long" or it["size"] > 100_000 for it in viewer.frames))
        number = next(it["number"] for it in viewer.frames if it["size"] > 100_000)
        text = (await viewer.request(do="payload", number=number))["text"]
        assert text.count("x") >= 200_000 and "eyJ" not in text


async def test_sql_needs_a_database() -> None:
    """Without a database the SQL box gets an error."""
    async with LocalServer(inspector=True) as server, open_inspector(server.url) as viewer:
        assert (await viewer.request(do="sql", text="select 1"))["error"] == "this server has no database"


async def test_pages_are_limited_and_closed_with_the_server() -> None:
    """A page above the limit is refused with 503, and the end of the server closes all pages at once."""
    async with aiohttp.ClientSession() as http:
        async with running(inspector=True) as (_, url):
            pages = [await http.ws_connect(url + web.LIVE, headers={"Origin": url}) for _ in range(web.MAX_PAGES)]
            async with http.get(url + web.LIVE, headers={"Origin": url}) as answer:
                assert answer.status == 503
            reading = asyncio.gather(*map(_read, pages))
        await reading
        assert {page.close_code for page in pages} == {1001}


async def _read(ws: aiohttp.ClientWebSocketResponse) -> None:
    async with asyncio.timeout(40):
        async for _ in ws:
            pass
