"""`supawire.asgi.Relay` against the local server, called as ASGI application."""

import asyncio
from typing import Any, TypedDict

import pytest

pytest.importorskip("starlette")

from starlette.exceptions import HTTPException

from supawire import Backoff, JoinDeniedError, LocalServer, broadcast, changes, connect_async, presence
from supawire.asgi import Incoming, Relay, View
from supawire.asgi.viewers import GONE, SLOW
from supawire.errors import InvalidArgumentError, StateError
from tests.asgi.browser import Browser, relaying

pytestmark = pytest.mark.anyio
ORDERS = View("orders", changes("orders"), broadcast("news"))


class Text(TypedDict):
    text: str


def joins(server: LocalServer, topic: str = "orders") -> int:
    return sum(frame.event == "phx_join" and frame.topic == f"realtime:{topic}" for frame in server.frames)


@pytest.mark.parametrize("socket", [False, True])
async def test_browsers_share_one_channel(socket: bool):
    """Each browser receives every event once, by one upstream channel; one that leaves changes nothing for others."""
    async with relaying(lambda _: ORDERS) as (server, relay):
        browsers = [Browser(relay, socket=socket) for _ in range(3)]
        for browser in browsers:
            await browser.opened()
        server.emit("INSERT", "orders", record={"id": 1})
        for browser in browsers:
            name, data = await browser.next()
            assert (name, data["topic"], data["type"], data["record"]) == ("change", "orders", "INSERT", {"id": 1})
        await browsers.pop().leave()
        server.broadcast("orders", "news", {"text": "a\nb"})
        for browser in browsers:
            assert await browser.next() == (
                "broadcast",
                {"topic": "orders", "event": "news", "payload": {"text": "a\nb"}},
            )
        assert joins(server) == 1
        assert relay.stats().viewers == 2 and relay.stats().topics == 1
        for browser in browsers:
            await browser.leave()


async def test_a_topic_is_left_after_its_last_browser():
    """The channel is left when the last browser is gone, and joined again for the next one."""
    async with relaying(lambda _: ORDERS, linger=0) as (server, relay):
        for number in (1, 2):
            browser = await Browser(relay).opened()
            assert joins(server) == number
            await browser.leave()
            while relay.stats().topics:  # noqa: ASYNC110  a timer of the relay closes the topic
                await asyncio.sleep(0)
        assert relay.client.channels == {}


async def test_a_browser_that_comes_when_its_topic_expires_is_served():
    """A browser whose request arrives while the channel is being left gets a new channel."""
    async with relaying(lambda _: ORDERS, linger=60) as (server, relay):
        await (await Browser(relay).opened()).leave()
        relay._hub.topics["orders"].expires_at = 0.0
        browser = Browser(relay)
        relay._expire(asyncio.get_running_loop())
        await browser.opened()
        assert joins(server) == 2 and relay.stats().topics == 1
        await browser.leave()


async def test_refused_requests_get_the_status_of_authorize():
    """A refusal has the status that authorize raised, for streams and WebSockets; no channel is joined."""

    async def authorize(request: Any) -> View:
        if "user" not in request.query_params:
            raise HTTPException(401, "log in", {"www-authenticate": "Bearer"})
        return ORDERS

    async with relaying(authorize) as (server, relay):
        for socket in (False, True):
            browser = Browser(relay, socket=socket)
            await browser.ended()
            assert (browser.status, browser.body) == (401, b'{"error":"log in"}')
            assert browser.headers["www-authenticate"] == "Bearer"
        assert joins(server) == 0 and relay.stats().refused == 2
        await (await Browser(relay, "/?user=1").opened()).leave()


async def test_a_refused_join_is_the_status_of_new_browsers_and_an_event_for_present_ones():
    """A join that the server denies is status 403; a topic that it ends is the event `failed`, then the stream ends."""
    async with relaying(lambda _: View("room", broadcast(), private=True)) as (server, relay):
        server.policy(lambda *_: False)
        browser = Browser(relay)
        await browser.ended()
        assert browser.status == 403 and JoinDeniedError.__name__.encode() in browser.body
        assert relay.stats().topics == 0
        server.policy(lambda *_: True)
        stream, socket = await Browser(relay).opened(), await Browser(relay, socket=True).opened()
        server.policy(lambda *_: False)
        server.crash_channel("room")
        for browser in (stream, socket):
            seen = [await browser.next()]
            while seen[-1][0] != "failed":
                seen.append(await browser.next())
            assert seen[-1][1]["error"] == JoinDeniedError.__name__
            await browser.ended()
        assert stream.complete and socket.close_code == 1013
        assert relay.stats().topics == relay.stats().viewers == 0


async def test_a_topic_that_ends_while_a_browser_is_accepted_disconnects_it():
    """A browser whose connection is accepted after its topic has ended is disconnected too."""
    async with relaying(lambda _: View("room", broadcast(), private=True)) as (server, relay):
        server.policy(lambda *_: True)
        first = await Browser(relay).opened()
        late = Browser(relay)
        late.open.clear()
        server.policy(lambda *_: False)
        server.crash_channel("room")
        await first.ended()
        late.open.set()
        await late.ended()
        assert relay.stats().viewers == 0


@pytest.mark.parametrize("socket", [False, True])
async def test_a_browser_that_comes_back_receives_what_it_has_missed(socket: bool):
    """With the last id, missed events come in order over all topics; an id too old or of another process is a gap."""
    views = [ORDERS, View("room", broadcast())]
    async with relaying(lambda _: views, backlog=3) as (server, relay):
        keeps = await Browser(relay).opened()
        browser = await Browser(relay, socket=socket).opened()
        server.broadcast("room", "n", 0)
        assert (await browser.next())[1]["payload"] == 0
        await keeps.next()
        last = browser.last_id
        await browser.leave()
        for number in (1, 2, 3):
            server.broadcast("room" if number == 2 else "orders", "news", number)
            await keeps.next()

        def come_back(id: str) -> Browser:
            if socket:
                return Browser(relay, f"/?last_event_id={id}", socket=True)
            return Browser(relay, last_event_id=id)

        browser = await come_back(last).opened()
        assert [(await browser.next())[1]["payload"] for _ in range(3)] == [1, 2, 3]
        await browser.leave()
        for number in (4, 5):
            server.broadcast("orders", "news", number)
            await keeps.next()
        browser = await come_back(last).opened()
        name, gap = await browser.next()
        assert (name, gap["topic"], gap["source"]) == ("gap", "orders", "relay")
        assert gap["lost"] == ["broadcast", "changes"]
        assert [(await browser.next())[1]["payload"] for _ in range(4)] == [2, 3, 4, 5]
        await browser.leave()
        for foreign in ("00000000-1", "x", last.partition("-")[0] + "-99999"):
            browser = await come_back(foreign).opened()
            assert [(await browser.next())[1]["topic"] for _ in range(2)] == ["orders", "room"]
            await browser.leave()
        await keeps.leave()


async def test_what_was_missed_is_written_in_pieces():
    """Much that was missed is written in parts of the body of about 64 KiB, and the newest id comes after all of it."""
    async with relaying(lambda _: View("room", broadcast())) as (server, relay):
        keeps = await Browser(relay).opened()
        last = relay._hub.newest_id
        for _ in range(40):
            server.broadcast("room", "n", "x" * 10_000)
            await keeps.next()
        bodies: list[int] = []
        browser = Browser(relay, last_event_id=last)
        take = browser.take

        async def measure(message: Any) -> None:
            bodies.append(len(message.get("body", b"")))
            await take(message)

        browser.take = measure
        await browser.opened()
        for _ in range(40):
            await browser.next()
        assert sum(bodies) > 400_000 and max(bodies) < 80_000
        while browser.last_id != relay._hub.newest_id:
            await browser.changed()
        for left in (browser, keeps):
            await left.leave()


async def test_gaps_of_the_upstream_are_passed_on():
    """When the upstream connection is lost, browsers receive the gap; those that see none of the lost kinds do not."""
    async with LocalServer() as server:
        relay = Relay(lambda: connect_async(server.url, server.anon_key, backoff=Backoff(0.01)), lambda _: ORDERS)
        async with relay.lifespan():
            browser = await Browser(relay).opened()
            server.drop_connections()
            seen = [await browser.next() for _ in range(2)]
            while seen[-1][0] != "gap":
                seen.append(await browser.next())
            assert seen[-1][1]["source"] == "upstream" and "changes" in seen[-1][1]["lost"]
            assert seen[0] == ("status", {"topic": "orders", "state": "retrying"}) or seen[0][0] == "status"
            await browser.leave()


async def test_a_new_browser_receives_the_presence_state():
    """Those who are present come first, then joins and leaves; `show` also decides about the state."""
    secret = View("room", presence(), show=lambda event: None if hasattr(event, "state") else event)
    async with (
        relaying(lambda request: secret if request.url.path == "/x" else View("room", presence())) as (
            server,
            relay,
        ),
        connect_async(server.url, server.anon_key) as client,
    ):
        room = client.channel("room", presence_key="alice")
        await room.subscribe()
        first = await Browser(relay).opened()
        assert (await first.next())[0] == "presence_state"
        await room.track({"mood": "good"})
        name, data = await first.next()
        while data["type"] != "join":
            name, data = await first.next()
        assert (name, data["key"], data["current"][0]["payload"]) == ("presence", "alice", {"mood": "good"})
        second = await Browser(relay).opened()
        name, data = await second.next()
        assert name == "presence_state" and data["state"]["alice"][0]["payload"] == {"mood": "good"}
        hidden = await Browser(relay, "/x").opened()
        await room.untrack()
        for browser in (first, second, hidden):
            assert (await browser.next())[1]["type"] == "leave"
            await browser.leave()


async def test_show_filters_and_transforms_for_each_browser():
    """`show` may pass, replace or hide an event; an exception in it hides the event and is a gap."""

    def show(event: Any) -> Any:
        return {"a": event, "b": {"only": event.payload["n"]}, "c": None}[event.payload["for"]]

    view = View("room", broadcast(), show=show)
    async with relaying(lambda _: view) as (server, relay):
        browser = await Browser(relay).opened()
        for name in ("a", "b", "c", "x"):
            server.broadcast("room", "m", {"for": name, "n": 1})
        assert (await browser.next())[1]["payload"] == {"for": "a", "n": 1}
        assert await browser.next() == ("broadcast", {"only": 1})
        assert (await browser.next())[0] == "gap"
        await browser.leave()


async def test_a_slow_browser_is_cut_without_harm_to_others():
    """With overflow="error" a browser that does not read is disconnected; others receive everything."""
    async with relaying(lambda _: View("room", broadcast()), buffer=5) as (server, relay):
        fast, slow = await Browser(relay).opened(), await Browser(relay).opened()
        slow.open.clear()
        for number in range(20):
            server.broadcast("room", "n", number)
            assert (await fast.next())[1]["payload"] == number
        await slow.ended()
        assert not slow.complete and relay.stats().cut == 1 and relay.stats().viewers == 1
        await fast.leave()


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_slow_browser_that_leaves_while_it_is_cut_is_no_error(leaves: bool):
    """A browser that leaves while the close code is being sent, or twice in one step, ends without an exception."""
    async with relaying(lambda _: View("room", broadcast()), buffer=1) as (_, relay):
        browser = await Browser(relay, socket=True).opened()
        (viewer,) = relay._viewers
        while viewer.writing_since is not None:
            await browser.changed()
        browser.open.clear()
        viewer.end(SLOW, at_once=True)
        if leaves:
            for _ in range(5):
                await asyncio.sleep(0)
        viewer.end(GONE, at_once=True)
        browser.open.set()
        await browser.ended()
        assert relay.stats().viewers == 0 and relay.stats().cut == 1


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "latest"])
async def test_a_browser_that_loses_messages_receives_a_gap(overflow: Any):
    """With the other policies it loses messages and receives a gap; with "latest" replaced ones are not a gap."""
    key = (lambda event: event.payload["key"]) if overflow == "latest" else None
    async with relaying(lambda _: View("room", broadcast()), buffer=2, overflow=overflow, key=key) as (server, relay):
        fast, slow = await Browser(relay).opened(), await Browser(relay).opened()
        slow.open.clear()
        for number in range(6):
            server.broadcast("room", "n", {"n": number, "key": number % 2})
            await fast.next()
        slow.open.set()
        seen = [await slow.next() for _ in range(3 if overflow == "latest" else 4)]
        numbers = [data["payload"]["n"] for name, data in seen if name == "broadcast"]
        assert numbers == {"drop_oldest": [0, 4, 5], "drop_newest": [0, 1, 2], "latest": [0, 4, 5]}[overflow]
        assert [name for name, _ in seen].count("gap") == (overflow != "latest")
        for browser in (fast, slow):
            await browser.leave()


async def test_browsers_send_only_what_accept_allows():
    """A message goes up, and to all browsers, as `accept` returns it; else it is refused, or the socket closed."""

    async def accept(message: Incoming) -> Incoming | None:
        return None if message.event == "no" else Incoming(message.topic, message.event, {"from": "alice"})

    def authorize(request: Any) -> View:
        return View("room", broadcast(), accept=accept if request.url.path == "/may" else None)

    async with relaying(authorize) as (_, relay):
        browser, other = await Browser(relay, "/may", socket=True).opened(), await Browser(relay).opened()
        browser.send(event="hello", payload={"from": "mallory"}, ref=1)
        seen = dict([await browser.next(), await browser.next()])
        assert seen["sent"] == {"topic": "room", "ref": 1}
        assert seen["broadcast"]["payload"] == (await other.next())[1]["payload"] == {"from": "alice"}
        browser.send(event="no", payload=1, ref="r")
        assert await browser.next() == ("refused", {"topic": "room", "ref": "r", "error": "AuthError"})
        browser.sent.put_nowait({"type": "websocket.receive", "text": "{"})
        assert (await browser.next())[0] == "refused"
        silent = await Browser(relay, socket=True).opened()
        silent.send(event="hello", payload=1)
        await silent.ended()
        assert silent.close_code == 1008
        for left in (browser, other):
            await left.leave()


async def test_messages_nested_too_deeply_are_refused(caplog: pytest.LogCaptureFixture):
    """A message of very many brackets is refused, and is not logged as an error of the application."""
    async with relaying(lambda _: View("room", broadcast(), accept=lambda message: message)) as (_, relay):
        browser = await Browser(relay, socket=True).opened()
        text = '{"event":"a","payload":' + "[" * 30_000 + "]" * 30_000 + "}"
        browser.sent.put_nowait({"type": "websocket.receive", "text": text})
        assert await browser.next() == ("refused", {"topic": "", "ref": None, "error": "DecodeError"})
        assert not caplog.text
        await browser.leave()


async def test_accept_cannot_change_the_topic(caplog: pytest.LogCaptureFixture):
    """A message that accept returns with another topic is sent nowhere, and the log says why."""
    view = View("room", broadcast(), accept=lambda message: Incoming("other", message.event, message.payload))
    async with relaying(lambda _: view) as (_, relay):
        browser = await Browser(relay, socket=True).opened()
        browser.send(event="hello", payload=1, ref=1)
        assert await browser.next() == ("refused", {"topic": "room", "ref": 1, "error": "InvalidArgumentError"})
        assert "'other'" in caplog.text
        await browser.leave()


async def test_pages_of_other_origins_cannot_open_a_websocket():
    """A WebSocket needs the host's own origin, or one of `origins`; programs without an origin may connect."""
    async with relaying(lambda _: ORDERS) as (_, relay):
        for origin, allowed in {
            "http://app.example": True, "https://APP.example": True, "https://evil.example": False, "null": False,
            "http://[": False,
        }.items():  # fmt: skip
            browser = Browser(relay, socket=True, origin=origin)
            if allowed:
                await (await browser.opened()).leave()
            else:
                await browser.ended()
                assert browser.status == 403
    async with relaying(lambda _: ORDERS, origins=["https://front.example"]) as (_, relay):
        await (await Browser(relay, socket=True, origin="https://front.example").opened()).leave()
        browser = Browser(relay, socket=True, origin="http://app.example")
        await browser.ended()
        assert browser.status == 403


async def test_the_end_sends_browsers_away_for_a_while():
    """At the end a stream gets a longer `retry:` and ends, a WebSocket is closed with 1012; new ones get 503."""
    async with relaying(lambda _: ORDERS, retry=2.0) as (_, relay):
        stream, socket = await Browser(relay).opened(), await Browser(relay, socket=True).opened()
        relay._end_viewers()
        await stream.ended()
        await socket.ended()
        assert stream.complete and stream.retries[0] == 2000 and 2000 <= stream.retries[1] <= 6000
        assert socket.close_code == 1012
        late = Browser(relay)
        await late.ended()
        assert late.status == 503 and late.headers["retry-after"] == "2"


async def test_heartbeats_carry_the_newest_id():
    """A browser without events receives heartbeats, whose id resumes the stream after what others received."""
    view = View("quiet", broadcast())
    async with relaying(lambda request: view if request.url.path == "/quiet" else ORDERS, heartbeat=0.02) as (
        server,
        relay,
    ):
        for socket in (False, True):
            quiet, other = await Browser(relay, "/quiet", socket=socket).opened(), await Browser(relay).opened()
            server.broadcast("orders", "news", 1)
            await other.next()
            while quiet.last_id != other.last_id or not quiet.heartbeats:
                await quiet.changed()
            for browser in (quiet, other):
                await browser.leave()


async def test_too_many_browsers_are_refused():
    """Beyond max_viewers the answer is 503, with Retry-After."""
    async with relaying(lambda _: ORDERS, max_viewers=1) as (_, relay):
        browser = await Browser(relay).opened()
        late = Browser(relay)
        await late.ended()
        assert late.status == 503 and "retry-after" in late.headers
        await browser.leave()


async def test_browsers_that_are_being_accepted_count():
    """A browser whose connection is not accepted yet counts for max_viewers."""
    async with relaying(lambda _: ORDERS, max_viewers=1) as (_, relay):
        first = Browser(relay, socket=True)
        first.open.clear()
        for _ in range(3):
            await asyncio.sleep(0)
        opening = relay._upstreams["orders"].opening
        assert opening is not None
        await opening
        for _ in range(5):
            await asyncio.sleep(0)
        late = Browser(relay)
        await late.ended()
        assert late.status == 503
        first.open.set()
        await (await first.opened()).leave()


async def test_mistakes_are_explained():
    """A relay that is not open, without authorize, or with wrong views raises an error that says what to do."""
    with pytest.raises(InvalidArgumentError, match="not 'pause'"):
        Relay(lambda: None, overflow="pause")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidArgumentError, match="belong together"):
        Relay(lambda: None, overflow="latest")  # pyright: ignore[reportArgumentType]
    for wrong in ("https://a.example/", "a.example", "http://["):
        with pytest.raises(InvalidArgumentError, match="not an origin"):
            Relay(lambda: None, origins=[wrong])  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidArgumentError, match="needs a selector"):
        View("orders")
    with pytest.raises(InvalidArgumentError, match="model="):
        View("orders", broadcast(model=Text))
    closed = Relay(lambda: connect_async("http://127.0.0.1:1", "k"), lambda _: ORDERS)
    with pytest.raises(StateError, match="lifespan"):
        await Browser(closed).ended()
    async with relaying() as (_, relay):
        with pytest.raises(StateError, match="authorize"):
            await Browser(relay).ended()
        with pytest.raises(InvalidArgumentError, match="same topic"):
            relay.sse(None, ORDERS, ORDERS)  # pyright: ignore[reportArgumentType]
    async with relaying(lambda _: []) as (_, relay):
        with pytest.raises(InvalidArgumentError, match="must return a View"):
            await Browser(relay).ended()


async def test_a_relay_that_is_the_whole_application_opens_itself():
    """The lifespan messages of a web server open and close the client."""
    async with LocalServer() as server:
        relay = Relay(lambda: connect_async(server.url, server.anon_key), lambda _: ORDERS)
        said: asyncio.Queue[Any] = asyncio.Queue()
        asked: asyncio.Queue[Any] = asyncio.Queue()
        asked.put_nowait({"type": "lifespan.startup"})
        running = asyncio.ensure_future(relay({"type": "lifespan"}, asked.get, said.put))
        assert (await said.get())["type"] == "lifespan.startup.complete"
        await (await Browser(relay).opened()).leave()
        asked.put_nowait({"type": "lifespan.shutdown"})
        await running
        assert (await said.get())["type"] == "lifespan.shutdown.complete"


def test_a_relay_can_be_opened_in_one_loop_after_another():
    """A relay whose browsers were sent away in one event loop does the same in the next one."""
    options: dict[str, Any] = {}
    relay = Relay(lambda: connect_async(options["url"], options["key"]), lambda _: ORDERS)

    async def run() -> None:
        async with LocalServer() as server:
            options.update(url=server.url, key=server.anon_key)
            async with relay.lifespan():
                browser = await Browser(relay, socket=True).opened()
            await browser.ended()
            assert browser.close_code == 1012

    for _ in range(2):
        asyncio.run(run())
