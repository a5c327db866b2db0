"""`Relay`: the ASGI application, and the parts of it for handlers of FastAPI, Starlette and Litestar."""

import asyncio
import inspect
import logging
import os
import secrets
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Hashable, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol, cast
from urllib.parse import SplitResult, urlsplit

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from supawire.aio.channel import AsyncChannel
from supawire.aio.client import AsyncClient
from supawire.asgi.browsers import (
    MAX_INCOMING_BYTES,
    EventStream,
    WebSocketWire,
    Wire,
    incoming_size,
    last_event_id,
    refuse,
    serve,
)
from supawire.asgi.hub import Hub, Topic
from supawire.asgi.messages import Item, encode
from supawire.asgi.view import Incoming, View, check_views
from supawire.asgi.viewers import FAILED, POLICY, RELAY_OVERFLOW, SHUTDOWN, SLOW, RelayOverflow, Viewer
from supawire.errors import (
    AuthError,
    HttpError,
    InvalidArgumentError,
    JoinDeniedError,
    JoinError,
    OperationTimeout,
    RealtimeError,
    StateError,
)
from supawire.events import ChannelState, Status
from supawire.options import check_choice, check_count, check_number, check_takes
from supawire.selectors import ChangesSelector, Selector, gaps, status

logger: Final = logging.getLogger("supawire.asgi")

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds in which browsers receive their last messages before they are cut off."""

Views = View | Iterable[View]
Authorize = Callable[[HTTPConnection], Views | Awaitable[Views]]
Connect = Callable[[], AbstractAsyncContextManager[AsyncClient]]


class Connection(Protocol):
    """A request or WebSocket of Starlette, FastAPI or Litestar."""

    @property
    def scope(self) -> Any:
        """The ASGI scope."""
        ...


class Socket(Connection, Protocol):
    """A WebSocket of Starlette, FastAPI or Litestar that is not accepted yet."""

    def receive(self) -> Awaitable[Any]:
        """Return the next ASGI message."""
        ...

    def send(self, message: Any, /) -> Awaitable[None]:
        """Send an ASGI message."""
        ...


@dataclass(frozen=True, slots=True)
class RelayStats:
    """Counters of a relay since it was opened, and what is open now.

    viewers: browsers. topics: upstream channels. delivered: messages put into buffers of browsers. dropped: messages
    that slow browsers lost. cut: browsers that were disconnected because they were slow. replayed: messages repeated to
    browsers that came back. refused: browsers that were not let in.
    """

    viewers: int
    topics: int
    delivered: int
    dropped: int
    cut: int
    replayed: int
    refused: int


class _Upstream:
    """The upstream channel of a topic."""

    __slots__ = ("channel", "opening", "registered", "topic")

    def __init__(self, topic: Topic, channel: AsyncChannel) -> None:
        self.topic: Topic = topic
        self.channel: AsyncChannel = channel
        self.registered: set[Selector[Any]] = set()
        self.opening: asyncio.Task[None] | None = None


class Relay:
    """An ASGI application that passes on events of Realtime to browsers, as server-sent events and over WebSockets.

        relay = Relay(lambda: connect_async(url, key), authorize)
        app = Starlette(routes=[Mount("/live", relay)], lifespan=relay.lifespan)

    Each topic has one upstream channel for all browsers: it is joined with the first one and left after the last one. A
    `GET` is answered with an event stream, a WebSocket with the same messages as JSON texts. `lifespan` opens and
    closes the client; a relay that is the whole application does this itself.

    Args:
        connect: a function that returns the client, not open yet. Its rights decide what arrives here; `authorize`
            decides what a browser sees of it.
        authorize: plain or async; called with the request as `HTTPConnection` of Starlette, it returns a `View` or
            several. To refuse a browser, it raises `HTTPException` of Starlette or FastAPI. It may be omitted if only
            `sse` and `websocket` are used.
        buffer: the most messages that wait for one browser; buffer_bytes: the most bytes of them.
        overflow: what happens to a browser whose buffer is full. "error": it is disconnected, and receives what it has
            missed when it comes back. "drop_oldest", "drop_newest": it loses messages, and receives a gap. "latest":
            keep the newest message per `key(event)`. key: a plain function of the event.
        backlog: the newest messages of each topic that are kept for browsers that come back; backlog_bytes: the most
            bytes of them.
        linger: seconds for which a topic without browsers stays joined.
        heartbeat: seconds without a message after which a browser receives a heartbeat.
        send_timeout: seconds for which a browser may accept no data until it is disconnected.
        retry: seconds after which `EventSource` connects again; at shutdown, up to three times that.
        max_viewers: the most browsers at once; further ones are answered with status 503.
        origins: which pages may open a WebSocket, such as "https://app.example.com"; "*": all. If omitted, those with
            the host of the request. For event streams, use the CORS middleware of your framework.

    Raises: InvalidArgumentError.
    """

    def __init__(
        self,
        connect: Connect,
        authorize: Authorize | None = None,
        *,
        buffer: int = 1000,
        buffer_bytes: int = 1_000_000,
        overflow: RelayOverflow = "error",
        key: Callable[[Any], Hashable] | None = None,
        backlog: int = 1000,
        backlog_bytes: int = 4_000_000,
        linger: float = 10.0,
        heartbeat: float = 15.0,
        send_timeout: float = 30.0,
        retry: float = 3.0,
        max_viewers: int = 20_000,
        origins: Collection[str] | None = None,
    ) -> None:
        self._connect: Connect = check_takes(
            "connect", connect, 0, "a function such as lambda: connect_async(url, key)"
        )
        self._authorize: Authorize | None = None
        if authorize is not None:
            self._authorize = check_takes("authorize", authorize, 1, "a function of one request")
        self._buffer = check_count("buffer", buffer)
        self._buffer_bytes = check_count("buffer_bytes", buffer_bytes)
        self._overflow: RelayOverflow = check_choice("overflow", overflow, RELAY_OVERFLOW)
        if (key is None) is (overflow == "latest"):
            raise InvalidArgumentError("overflow='latest' and key= belong together: give both or none")
        self._key = None if key is None else check_takes("key", key, 1, "a function of one event")
        self._heartbeat = check_number("heartbeat", heartbeat, above=0, unit="seconds")
        self._send_timeout = check_number("send_timeout", send_timeout, above=0, unit="seconds")
        self._retry = check_number("retry", retry, above=0, unit="seconds")
        self._max_viewers = check_count("max_viewers", max_viewers)
        self._origins = _check_origins(origins)
        self._hub = Hub(
            secrets.token_hex(4),
            backlog=check_count("backlog", backlog, minimum=0),
            backlog_bytes=check_count("backlog_bytes", backlog_bytes, minimum=0),
            linger=check_number("linger", linger, minimum=0, unit="seconds"),
            on_error=_report,
            on_pending=self._deliver_soon,
        )
        self._client: AsyncClient | None = None
        self._upstreams: dict[str, _Upstream] = {}
        self._viewers: set[Viewer] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._closing = False
        self._emptied = asyncio.Event()
        self._served = 0
        self._dropped = 0
        self._cut = 0
        self._refused = 0

    # --- for the application

    @property
    def client(self) -> AsyncClient:
        """The open client, for `publish`. Raises: StateError: the relay is not open."""
        if self._client is None:
            raise StateError(
                "the relay is not open", hint="Pass lifespan=relay.lifespan to the application, or enter it in yours."
            )
        return self._client

    def stats(self) -> RelayStats:
        """Return counters, and how many browsers and topics there are."""
        waiting = sum(viewer.dropped for viewer in self._viewers)
        hub = self._hub
        return RelayStats(
            viewers=len(self._viewers), topics=len(self._upstreams), delivered=hub.delivered,
            dropped=self._dropped + waiting, cut=self._cut, replayed=hub.replayed, refused=self._refused,
        )  # fmt: skip

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:
        """Open the client; at the end, send browsers their last messages, and close it.

        Give it to the application, or enter it in your own lifespan. On SIGINT and SIGTERM the streams end at once: web
        servers wait for them before they end the lifespan.

        Raises: ConnectError and what else `connect` raises. StateError: it is open already.
        """
        del app
        if self._client is not None:
            raise StateError("this relay is open already", hint="Enter its lifespan once.")
        loop = asyncio.get_running_loop()
        async with self._connect() as client:
            self._client, self._closing, self._emptied = client, False, asyncio.Event()
            try:
                with _on_stop_signals(partial(loop.call_soon_threadsafe, self._end_viewers)):
                    yield
            finally:
                try:
                    await self._shut_down()
                finally:
                    self._client = None

    def sse(self, request: Connection, *views: View) -> Response:
        """Return the response of an event stream, for a handler that has checked the request itself.

        The upstream channel is joined when the response is sent; if it is refused, the status says so.
        """
        del request  # the framework calls the response with its scope
        return _Stream(partial(self._stream, views=check_views(views)))

    async def websocket(self, websocket: Socket, *views: View) -> None:
        """Serve a WebSocket that is not accepted yet, until it ends; for a handler that has checked it itself."""
        await self._websocket(websocket.scope, websocket.receive, websocket.send, check_views(views))

    # --- as ASGI application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket, or the lifespan of a server."""
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
            return
        if scope["type"] == "http" and scope["method"] != "GET":
            await JSONResponse({"error": "use GET"}, 405, {"allow": "GET"})(scope, receive, send)
            return
        try:
            views = await self._authorized(scope)
        except HTTPException as error:
            self._refused += 1
            answer = JSONResponse({"error": error.detail}, error.status_code, error.headers)
            await refuse(answer, scope, receive, send)
            return
        if scope["type"] == "http":
            await self._stream(scope, receive, send, views)
        else:
            await self._websocket(scope, receive, send, views)

    async def _authorized(self, scope: Scope) -> tuple[View, ...]:
        if self._authorize is None:
            raise StateError("this relay has no authorize=", hint="Give it one, or use sse() and websocket().")
        views = self._authorize(HTTPConnection(scope))
        return check_views(await views if inspect.isawaitable(views) else views)

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        opened = self.lifespan()
        try:
            await opened.__aenter__()
        except Exception as error:  # noqa: BLE001  the server reports it
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await opened.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})

    # --- upstream channels

    async def _enter(self, views: tuple[View, ...]) -> list[tuple[Topic, View]]:
        """Open the channels of these views, or wait for them. Raises the error of a refused join."""
        entered: list[tuple[Topic, View]] = []
        try:
            for view in views:
                while self._removals:  # the client would return the channel that is about to be removed
                    await asyncio.wait(self._removals)
                upstream = self._upstream(view)
                self._hub.acquire(upstream.topic)
                entered.append((upstream.topic, view))
                joined = upstream.opening is not None and upstream.opening.done()
                added = self._register(upstream, view.selectors)
                if upstream.opening is None:
                    upstream.opening = self._spawn(self._join(upstream))
                await asyncio.shield(upstream.opening)
                if joined and added and any(isinstance(selector, ChangesSelector) for selector in added):
                    await upstream.channel.ready()
        except BaseException:
            self._leave(entered)
            raise
        return entered

    def _upstream(self, view: View) -> _Upstream:
        upstream = self._upstreams.get(view.topic)
        if upstream is None:
            channel = self.client.channel(view.topic, private=view.private, echo=True)
            upstream = _Upstream(self._hub.open(view.topic, private=view.private), channel)
            self._upstreams[view.topic] = upstream
            channel.on(gaps(), partial(self._hub.receive_state, upstream.topic))
            channel.on(status(), partial(self._state_changed, upstream))
        elif upstream.topic.private is not view.private:
            raise InvalidArgumentError(
                f"private={view.private} in this view, and {upstream.topic.private} in another view of the topic",
                topic=view.topic,
            )
        return upstream

    def _deliver_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._hub.deliver)

    def _register(self, upstream: _Upstream, selectors: tuple[Selector[Any], ...]) -> list[Selector[Any]]:
        added = [selector for selector in selectors if selector not in upstream.registered]
        for selector in added:
            upstream.registered.add(selector)
            upstream.channel.on(selector, partial(self._hub.receive, upstream.topic, selector))
        return added

    async def _join(self, upstream: _Upstream) -> None:
        try:
            await upstream.channel.subscribe(wait="ready")
        except BaseException:
            if self._upstreams.get(upstream.topic.name) is upstream:
                del self._upstreams[upstream.topic.name]
                self._hub.topics.pop(upstream.topic.name, None)
                await self.client.remove_channel(upstream.channel)
            raise

    def _state_changed(self, upstream: _Upstream, event: Status) -> None:
        ended = event.state in (ChannelState.FAILED, ChannelState.CLOSED)
        is_open = self._upstreams.get(upstream.topic.name) is upstream
        if not ended:
            self._hub.receive_state(upstream.topic, event)
        elif is_open and upstream.opening is not None and upstream.opening.done():
            del self._upstreams[upstream.topic.name]
            error = event.cause or upstream.channel.error
            logger.warning("the topic %s has ended: %s", upstream.topic.name, error)
            self._hub.fail(upstream.topic, error)
            self._remove(upstream.channel)

    def _leave(self, entered: list[tuple[Topic, View]]) -> None:
        loop = asyncio.get_running_loop()
        for topic, _ in entered:
            self._hub.release(topic, loop.time())
        self._schedule_expiry(loop)

    def _schedule_expiry(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        times = [topic.expires_at for topic in self._hub.topics.values() if topic.expires_at is not None]
        if times:
            self._expiry = loop.call_at(min(times), self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        for topic in self._hub.expired(loop.time()):
            upstream = self._upstreams.pop(topic.name, None)
            if upstream is not None:
                self._remove(upstream.channel)
        self._schedule_expiry(loop)

    def _remove(self, channel: AsyncChannel) -> None:
        if self._client is not None:
            removal = self._spawn(self._client.remove_channel(channel))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name="supawire-relay")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("a channel of the relay: %s", error)  # the browsers that wait for it get it

    # --- browsers

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, views: tuple[View, ...]) -> None:
        headers = HTTPConnection(scope).headers
        if not self._is_allowed(headers.get("origin"), headers.get("host", "")):
            self._refused += 1
            await refuse(JSONResponse({"error": "this origin may not connect"}, 403), scope, receive, send)
            return
        await self._serve(scope, receive, send, views, WebSocketWire())

    async def _stream(self, scope: Scope, receive: Receive, send: Send, views: tuple[View, ...]) -> None:
        await self._serve(scope, receive, send, views, EventStream(self._retry))

    def _is_allowed(self, origin: str | None, host: str) -> bool:
        """Return whether a page of this origin may connect. Programs that are not browsers send none."""
        if origin is None:
            return True
        if self._origins is None:
            parts = _split(origin)
            return parts is not None and parts.netloc.lower() == host.lower()
        return "*" in self._origins or origin.lower() in self._origins

    async def _serve(self, scope: Scope, receive: Receive, send: Send, views: tuple[View, ...], wire: Wire) -> None:
        refusal = self._refusal()
        entered: list[tuple[Topic, View]] = []
        self._served += 1
        try:
            if refusal is None:
                try:
                    entered = await self._enter(views)
                except (InvalidArgumentError, StateError):
                    raise  # a mistake of the application
                except RealtimeError as error:
                    refusal = self._answer_to(error)
            if refusal is not None:
                self._refused += 1
                await refuse(refusal, scope, receive, send)
                return
            try:
                await self._run(receive, send, wire, entered, last_event_id(scope))
            finally:
                self._leave(entered)
        finally:
            self._served -= 1

    def _refusal(self) -> Response | None:
        """Return the answer to every browser while the relay is full or ends."""
        _ = self.client  # raises if the relay is not open
        if self._closing or self._served >= self._max_viewers:
            text = "the server is restarting" if self._closing else "too many browsers"
            return JSONResponse({"error": text}, 503, self._retry_after())
        return None

    def _retry_after(self) -> dict[str, str]:
        return {"retry-after": str(max(1, round(self._retry)))}

    def _answer_to(self, error: RealtimeError) -> Response:
        logger.warning("a browser was refused: the topic %s cannot be joined: %s", error.topic, error)
        content = {"error": type(error).__name__, "code": error.code}
        return JSONResponse(content, _status_of(error), self._retry_after() if error.retryable else None)

    async def _run(
        self, receive: Receive, send: Send, wire: Wire, entered: list[tuple[Topic, View]], last_id: str | None
    ) -> None:
        viewers: list[Viewer] = []

        def make_viewer(wake: Callable[[], None], cut: Callable[[], None]) -> Viewer:
            viewer = Viewer(
                limit=self._buffer, max_bytes=self._buffer_bytes, overflow=self._overflow, key=self._key,
                heartbeat=self._heartbeat, send_timeout=self._send_timeout, wake=wake, cut=cut,
                now=asyncio.get_running_loop().time(),
            )  # fmt: skip
            viewers.append(viewer)
            self._viewers.add(viewer)
            if self._closing:
                viewer.end(SHUTDOWN)
            return viewer

        def attach(viewer: Viewer) -> list[Item]:
            missed = self._hub.attach(viewer, entered, last_id)
            viewer.resync.update(topic.name for topic, view in entered if "presence" in view.kinds)
            if any(self._hub.topics.get(topic.name) is not topic for topic, _ in entered):
                viewer.end(FAILED)  # a topic has ended while the connection was being accepted
            return missed + self._states(viewer, entered)

        try:
            await serve(
                receive, send, wire, make_viewer=make_viewer, attach=attach,
                states=lambda viewer: self._states(viewer, entered), newest_id=lambda: self._hub.newest_id,
                received=partial(self._received, entered),
            )  # fmt: skip
        finally:
            for viewer in viewers:
                self._hub.detach(viewer, entered)
                self._viewers.discard(viewer)
                self._dropped += viewer.dropped
                self._cut += viewer.ended == SLOW
            if not self._viewers:
                self._emptied.set()

    def _states(self, viewer: Viewer, entered: list[tuple[Topic, View]]) -> list[Item]:
        """Return the presence state of each topic for which the viewer has to get it."""
        items: list[Item] = []
        for topic, view in entered:
            upstream = self._upstreams.get(topic.name)
            if topic.name in viewer.resync and upstream is not None and upstream.topic is topic:
                item = self._hub.presence(topic, view, upstream.channel.presence_state())
                items += [] if item is None else [item]
        viewer.resync.clear()
        return items

    async def _received(self, entered: list[tuple[Topic, View]], viewer: Viewer, message: Message) -> None:
        """Send the message of a browser, if its view allows that; else answer it with `refused`."""
        if not any(view.accept for _, view in entered) or incoming_size(message) > MAX_INCOMING_BYTES:
            viewer.end(POLICY)
            return
        ref: Any = None
        topic = ""
        try:
            asked = _read_incoming(message.get("text") or message.get("bytes") or b"")
            ref, topic = asked.ref, asked.topic or entered[0][1].topic
            await self._send(entered, topic, asked)
        except (RealtimeError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            viewer.put(Item("refused", topic, encode({"topic": topic, "ref": ref, "error": type(error).__name__})))
        except Exception as error:  # noqa: BLE001  code of the user
            _report(error)
            viewer.put(Item("refused", topic, encode({"topic": topic, "ref": ref, "error": "Exception"})))
        else:
            if ref is not None:
                viewer.put(Item("sent", topic, encode({"topic": topic, "ref": ref})))

    async def _send(self, entered: list[tuple[Topic, View]], topic: str, asked: "_Asked") -> None:
        accept = next((view.accept for _, view in entered if view.topic == topic), None)
        upstream = self._upstreams.get(topic)
        allowed = None
        if accept is not None and upstream is not None:
            allowed = accept(Incoming(topic, asked.event, asked.payload))
            if inspect.isawaitable(allowed):
                allowed = await allowed
        if allowed is None or upstream is None:
            raise AuthError("the browser may not send this", topic=topic)
        if allowed.topic != topic:
            error = InvalidArgumentError(
                f"accept must return an Incoming of the topic {topic!r}, not of {allowed.topic!r}",
                hint="To send on another topic, call relay.client.publish().",
            )
            _report(error)
            raise error
        await upstream.channel.broadcast(allowed.event, allowed.payload)

    # --- the end

    def _end_viewers(self) -> None:
        """Let every browser receive its last messages, and accept no new ones."""
        self._closing = True
        for viewer in list(self._viewers):
            viewer.end(SHUTDOWN)

    async def _shut_down(self) -> None:
        self._end_viewers()
        await self._wait_until_empty()
        for viewer in list(self._viewers):
            viewer.end(SHUTDOWN, at_once=True)
        await self._wait_until_empty()
        if self._expiry is not None:
            self._expiry.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._upstreams.clear()
        self._hub.topics.clear()

    async def _wait_until_empty(self) -> None:
        if self._viewers:
            self._emptied.clear()
            try:
                async with asyncio.timeout(SHUTDOWN_TIMEOUT):
                    await self._emptied.wait()
            except TimeoutError:
                logger.warning("%d browsers did not receive their last messages in time", len(self._viewers))


class _Stream(Response):
    """The response of `Relay.sse`."""

    def __init__(self, stream: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        super().__init__(media_type="text/event-stream")
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._stream(scope, receive, send)


class _Asked(msgspec.Struct):
    """A message of a browser."""

    event: str
    payload: Any
    topic: str | None = None
    ref: str | int | None = None


_decode_asked: Final = msgspec.json.Decoder(_Asked).decode


def _read_incoming(message: str | bytes) -> _Asked:
    """Return the message of a browser. Raises: msgspec.MsgspecError, UnicodeDecodeError."""
    try:
        return _decode_asked(message)
    except RecursionError as error:
        raise msgspec.DecodeError("the message is nested too deeply") from error


_STATUS: Final[tuple[tuple[type[RealtimeError], int], ...]] = (
    (JoinDeniedError, 403),
    (OperationTimeout, 504),
    (JoinError, 502),
    (AuthError, 502),
    (HttpError, 502),
)


def _status_of(error: RealtimeError) -> int:
    """Return the HTTP status for the error of a join."""
    return next((number for kind, number in _STATUS if isinstance(error, kind)), 503)


def _report(error: Exception) -> None:
    logger.error("a function given to the relay has raised", exc_info=error)


def _split(origin: str) -> SplitResult | None:
    try:
        return urlsplit(origin)
    except ValueError:
        return None


def _check_origins(origins: object) -> frozenset[str] | None:
    if origins is None:
        return None
    if isinstance(origins, str) or not isinstance(origins, Iterable):
        raise InvalidArgumentError(f"origins must be a list such as ['https://app.example.com'], not {origins!r}")
    checked = tuple(cast("Iterable[object]", origins))
    for origin in checked:
        parts = _split(origin) if isinstance(origin, str) else None
        if origin != "*" and (parts is None or not parts.scheme or not parts.netloc or parts.path):
            raise InvalidArgumentError(
                f"{origin!r} is not an origin; write scheme and host, such as 'https://app.example.com', or '*'"
            )
    return frozenset(str(origin).lower() for origin in checked)


@contextmanager
def _on_stop_signals(stop: Callable[[], object]) -> Generator[None]:
    """Also call `stop` when the process is asked to stop, before the handler of the web server."""
    with ExitStack() as undo:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                _chain(number, stop, undo)
        yield


def _chain(number: int, stop: Callable[[], object], undo: ExitStack) -> None:
    previous = signal.getsignal(number)
    if not callable(previous):
        return  # nothing in this process reacts to the signal
    process = os.getpid()

    def handle(received: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            stop()
        previous(received, frame)

    def restore() -> None:
        if signal.getsignal(number) is handle:
            signal.signal(number, previous)

    signal.signal(number, handle)
    undo.callback(restore)
