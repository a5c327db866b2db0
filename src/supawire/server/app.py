"""The hub on the network: WebSocket and HTTP on one port, with `aiohttp.web`.

This shell makes no decisions. It passes requests and frames, with the time, to the hub, performs the hub's effects in
order, and calls `tick` at the hub's deadline. The frames for one socket are written by one `Socket`, which joins the
frames of one event loop iteration into one write.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from random import SystemRandom
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple, cast

from aiohttp import WSMessage, WSMsgType, web

from supawire.core.frames import MAX_FRAME
from supawire.errors import StateError
from supawire.events import Instant
from supawire.server.effects import (
    CloseSocket,
    Effect,
    Later,
    PauseReading,
    Refusal,
    Report,
    Request,
    Respond,
    RestAnswer,
    RestRequest,
    ResumeReading,
    Send,
    SendQuery,
    Unsubscribe,
)
from supawire.server.gateway import GATEWAY, Gateway
from supawire.server.hub import Hub
from supawire.server.hub_options import Bits, HubOptions
from supawire.server.inspector.commands import SqlResult
from supawire.server.inspector.web import Inspector
from supawire.server.longpoll import ABORTED, LongPolls
from supawire.server.queries import Answer, Query
from supawire.server.rest import HTML, MAX_BODY
from supawire.server.websocket import MAX_UNSENT, Socket, TcpConnections, frame_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CORS: Final = {"Access-Control-Allow-Origin": "*"}
PREFLIGHT: Final = {
    **CORS,
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "authorization, apikey, content-type, x-client-info",
}
MAX_HEADER: Final = 4_400
"""Maximum bytes of one header value. The real server's limit varies between 4,200 and 8,000."""
MAX_LINE: Final = 8_150


def headers_of(request: web.Request) -> dict[str, str]:
    """Return the headers with lower-case names."""
    return {name.lower(): value for name, value in request.headers.items()}


def refused_as_too_long(request: web.Request) -> web.Response | None:
    """Return the response to a request whose request line or header is too long, or None."""
    if len(request.raw_path) + len(request.method) > MAX_LINE:
        return web.Response(status=414)
    if any(len(value) > MAX_HEADER for value in request.headers.values()):
        return web.Response(status=431)
    return None


def response_of(answer: RestAnswer) -> web.Response:
    """Convert an answer of the hub into an aiohttp response, with CORS headers."""
    headers = {**CORS, **dict(answer.headers)}
    if answer.content_type is not None:
        headers["Content-Type"] = answer.content_type
    return web.Response(status=answer.status, body=answer.body or None, headers=headers)


logger: Final = logging.getLogger("supawire.server")

SOCKET_PATHS: Final = frozenset({"/socket/websocket", f"{GATEWAY}/websocket"})
LONGPOLL_PATHS: Final = frozenset({"/socket/longpoll", f"{GATEWAY}/longpoll"})
MAX_FRAME_READ: Final = 2 * MAX_FRAME
"""Maximum bytes of a frame that is read.

It is above the hub's own limit: a frame over that limit is read completely, and then the hub closes with 1009. If the
socket were closed earlier, the remaining bytes would reset the connection, and the close code could be lost.
"""
KEEP_ALIVE: Final = 75.0
"""Keep-alive timeout after a response, in seconds; it also applies when part of the next request has arrived."""
FRAMES_PER_TURN: Final = 64
"""Number of frames read from one socket before the other sockets are served."""
ACCEPT_ITERATIONS: Final = 3
"""Event loop iterations from accepting a connection until aiohttp has registered it."""


class Backend(Protocol):
    """A database that answers the hub's queries (`queries.py`) by calling `App.answered` on the app's event loop."""

    def ask(self, number: int, question: Query[Any]) -> None:
        """Start a query and return immediately."""
        ...

    def unsubscribe(self, channel: int) -> None:
        """Remove the subscriptions of a channel that has ended, and return immediately."""
        ...

    async def run_sql(self, text: str) -> SqlResult:
        """Run SQL for the inspector. Raises: RealtimeError with the text of the database."""
        ...


class HubCall(Protocol):
    """A way to use the hub from the app's event loop; `App.call_hub` is the implementation."""

    def __call__(self, act: Callable[[Hub, *Ts, Instant], T], /, *args: *Ts) -> T:
        """Call `act` with the hub, these arguments and the current time; then perform the hub's effects."""
        ...


class App:
    """One local server on a port of this machine.

    Call `start` and `stop` on the same event loop, and use `hub` only from there. `max_unsent`: maximum unsent bytes of
    one connection; above it the connection is aborted.
    """

    def __init__(self, options: HubOptions, random: Bits | None = None, *, max_unsent: int = MAX_UNSENT) -> None:
        self._max_unsent: Final = max_unsent
        bits = random or SystemRandom()
        self.hub: Final = Hub(options, bits)
        self._gateway: Final = Gateway(options.secret)
        self.tcp: Final = TcpConnections(options.timings.request)
        self._sockets: dict[int, Socket] = {}
        self._numbers = 0
        self._closers: set[asyncio.Task[None]] = set()
        self._dirty: list[Socket] = []
        self._last_data: bytes | None = None
        self._last_frame = b""
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        """Deadline of the timer; the timer handles of some event loops have no `when()`."""
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._responses: dict[int, asyncio.Future[RestAnswer]] = {}
        self._inspector = Inspector(self) if options.inspector else None
        self._history = None if self._inspector is None else self._inspector.history
        self._longpolls = LongPolls(self.hub, bits, self._new_connection, self._history)
        self._polls: dict[int, asyncio.Future[RestAnswer]] = {}
        """The polls that wait for frames."""
        self.port: int = 0
        self.backend: Backend | None = None
        """The backend that answers the hub's queries; set it before `start` with `HubOptions(database=True)`."""

    @property
    def open_sockets(self) -> int:
        """The number of open WebSockets."""
        return len(self._sockets)

    # --- lifecycle ---

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Start listening; `port` 0 selects a free port. Raises: OSError when the port is in use."""
        self._loop = asyncio.get_running_loop()
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_route("*", r"/{path:[\s\S]*}", self._answer)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=0.25,
            max_field_size=65_536,
            max_line_size=65_536,
            keepalive_timeout=KEEP_ALIVE,
            lingering_time=self.tcp.timeout,
        )
        await self._runner.setup()
        guarded = self.tcp.wrap(cast("Callable[[], Any]", self._runner.server))
        self._listener = await self._loop.create_server(guarded, host, port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and close every socket with 1012, as a deployment of the real server does."""
        if self._runner is None:
            return
        await self._stop_listening()
        if self._inspector is not None:
            await self._inspector.stop()
        self.hub.shutdown(self.now())
        self.pump()
        self._longpolls.stop(self.now())
        self.pump()
        if self._closers:
            await asyncio.wait(self._closers)  # each of them has a timeout
        if self._timer is not None:
            self._timer.cancel()
        runner, self._runner = self._runner, None
        await runner.cleanup()

    async def _stop_listening(self) -> None:
        """Stop listening once aiohttp has registered all accepted connections; others would never be closed."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        try:
            for listening in listener.sockets:
                self._loop.remove_reader(listening.fileno())
        except NotImplementedError:  # Windows: such a connection is closed together with its task
            pass
        for _ in range(ACCEPT_ITERATIONS):
            await asyncio.sleep(0)
        listener.close()

    def now(self) -> Instant:
        """Return the current monotonic and wall time."""
        return Instant(self._loop.time(), time.time())

    def call_hub(self, act: Callable[[Hub, *Ts, Instant], T], /, *args: *Ts) -> T:
        """Call `act` with the hub, these arguments and the current time; then perform the hub's effects."""
        try:
            return act(self.hub, *args, self.now())
        finally:
            self.pump()

    async def run_sql(self, text: str) -> SqlResult:
        """Run SQL in the database, for the inspector. Raises: RealtimeError."""
        if self.backend is None:
            raise StateError("this server has no database")
        return await self.backend.run_sql(text)

    def answered(self, number: int, answer: Answer) -> None:
        """Pass the backend's answer to a query to the hub."""
        self._safely(lambda: self.hub.answered(number, answer, self.now()), "while handling an answer of the database")
        self.pump()

    # --- effects ---

    def pump(self) -> None:
        """Perform all effects of the hub, then set the timer to the hub's deadline. Not re-entrant.

        An effect that fails is logged; the remaining effects are performed and the timer is set in any case.
        """
        if self._pumping:
            return
        self._pumping = True
        try:
            while (effect := self.hub.next_effect()) is not None:
                try:
                    self._perform(effect)
                except Exception:
                    logger.exception("the local server failed to perform %s", type(effect).__name__)
            while self._longpolls.ready:
                number, answer = self._longpolls.ready.popleft()
                waiting = self._polls.pop(number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        finally:
            self._pumping = False
            self._arm(self.hub.next_deadline)

    def _safely(self, act: Callable[[], None], when: str) -> None:
        """Log exceptions that an input raises in the hub, so that one client cannot stop the server for all others."""
        try:
            act()
        except Exception:
            logger.exception("the local server failed %s", when)

    def _arm(self, deadline: float | None) -> None:
        if self._timer is not None:
            if self._timer_at == deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None and self._runner is not None:  # a database may answer after stop()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        self._timer = None
        now = self.now()
        due = Instant(max(now.mono, deadline), now.wall)
        self._safely(lambda: self.hub.tick(due), "while running a timer")
        self.pump()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(effect)
            case CloseSocket():
                self._close(effect)
            case PauseReading(conn):
                self._set_reading(conn, False)
            case ResumeReading(conn):
                self._set_reading(conn, True)
            case Report(text):
                logger.warning("%s", text)
            case SendQuery():
                self._ask(effect)
            case Unsubscribe(channel):
                self._unsubscribe(channel)
            case Respond():
                self._respond(effect)

    def _send(self, effect: Send) -> None:
        if self._history is not None:
            self._history.frame_sent(effect, self.now())
        socket = self._sockets.get(effect.conn)
        if socket is None:
            if effect.conn in self._longpolls:
                self._longpolls.send(effect.conn, effect.data, effect.binary, self.now())
            return
        if effect.data is not self._last_data:  # a broadcast to many sockets shares one data object
            self._last_data, self._last_frame = effect.data, frame_of(effect.data, effect.binary)
        if socket.add(self._last_frame):
            if not self._dirty:
                self._loop.call_soon(self._flush)
            self._dirty.append(socket)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        self._last_data, self._last_frame = None, b""
        for socket in dirty:
            socket.flush()

    def _close(self, effect: CloseSocket) -> None:
        socket = self._sockets.get(effect.conn)
        if socket is None:
            if effect.conn in self._longpolls:
                self._longpolls.end(effect.conn, effect.code, self.now())
            return
        socket.resume_reading()
        if effect.code is None:
            socket.abort()
            return
        task = self._loop.create_task(socket.close(effect.code))
        self._closers.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("closing a socket failed", exc_info=error)

    def _set_reading(self, conn: int, reading: bool) -> None:
        """Pause or resume reading from a socket."""
        if conn in self._longpolls:
            self._longpolls.set_reading(conn, reading)
        elif (socket := self._sockets.get(conn)) is not None:
            if reading:
                socket.resume_reading()
            else:
                socket.pause_reading()

    def _ask(self, effect: SendQuery) -> None:
        if self.backend is None:
            raise RuntimeError("HubOptions(database=True) needs a backend: set App.backend before start()")
        self.backend.ask(effect.number, effect.query)

    def _unsubscribe(self, channel: int) -> None:
        if self.backend is not None:
            self.backend.unsubscribe(channel)

    def _respond(self, effect: Respond) -> None:
        waiting = self._responses.pop(effect.number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(effect.answer)

    # --- requests ---

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.message_complete(request)
        if (refused := refused_as_too_long(request)) is not None:
            return refused
        if self._inspector is not None and (page_response := await self._inspector.answer(request)) is not None:
            return page_response
        if request.path in SOCKET_PATHS:
            return await self._open(request)
        if request.path in LONGPOLL_PATHS:
            return await self._longpoll(request)
        return await self._rest(request)

    def _new_connection(self) -> int:
        self._numbers += 1
        return self._numbers

    async def _body_of(self, request: web.Request, too_large: RestAnswer) -> bytes | RestAnswer:
        """Return the body of a request, or the answer to one that is too large or does not arrive in time."""
        try:
            async with asyncio.timeout(self.tcp.timeout):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return too_large
        except TimeoutError:
            return RestAnswer(408, b"Request Timeout", HTML)
        self.message_complete(request)
        return body

    async def _longpoll(self, request: web.Request) -> web.StreamResponse:
        body = await self._body_of(request, RestAnswer(400, b"Bad Request", HTML))
        if isinstance(body, RestAnswer):
            return response_of(body)
        forwarded = Request(request.host, dict(request.query), headers_of(request), longpoll=True)
        if request.path.startswith(GATEWAY):
            forwarded = self._gateway.socket(forwarded, self.now())
        content_type = request.headers.get("Content-Type", "")
        answer = self._longpolls.answer(request.method, forwarded, content_type, body, self.now())
        if isinstance(answer, Later):
            waiting = self._polls[answer.number] = self._loop.create_future()
            self.pump()
            answer = await waiting
        else:
            self.pump()
        if answer is ABORTED and request.transport is not None:
            request.transport.abort()
        return response_of(answer) if answer is not ABORTED else web.Response(status=500)

    async def _rest(self, request: web.Request) -> web.StreamResponse:
        if request.method == "OPTIONS" and request.path.startswith(f"{GATEWAY}/"):  # answered by the gateway itself
            return web.Response(status=204, headers=PREFLIGHT)
        body = await self._body_of(request, RestAnswer(413, b"Request Entity Too Large", HTML))
        if isinstance(body, RestAnswer):
            return response_of(body)
        path = request.rel_url.raw_path.removeprefix(GATEWAY)
        forwarded = RestRequest(request.method, path, request.host, dict(request.query), headers_of(request), body)
        if path != request.rel_url.raw_path:
            forwarded = self._gateway.rest(forwarded, self.now())
        answer = self.hub.rest(forwarded, self.now())
        if isinstance(answer, Later):
            waiting = self._responses[answer.number] = self._loop.create_future()
            self.pump()
            answer = await waiting
        else:
            self.pump()
        return response_of(answer)

    async def _open(self, request: web.Request) -> web.StreamResponse:
        if request.method != "GET":
            return web.Response(status=400, text="Bad Request")
        conn = self._new_connection()
        forwarded = Request(request.host, dict(request.query), headers_of(request))
        if request.path.startswith(GATEWAY):
            forwarded = self._gateway.socket(forwarded, self.now())
        answer = self.hub.connect(conn, forwarded, self.now())
        if self._history is not None:
            if isinstance(answer, Refusal):
                self._history.connection_refused(conn, answer, self.now())
            else:
                self._history.connection_opened(conn, answer.v2, self.now())
        self.pump()
        if isinstance(answer, Refusal):
            await asyncio.sleep(answer.delay)
            return response_of(RestAnswer(answer.status, answer.body, answer.content_type))
        socket = Socket(
            web.WebSocketResponse(
                compress=False, max_msg_size=MAX_FRAME_READ, autoping=False, autoclose=False, decode_text=False
            ),
            self._max_unsent,
        )
        self._sockets[conn] = socket
        try:
            if not socket.ws.can_prepare(request).ok:
                return web.Response(status=400, text="Not a WebSocket upgrade request")
            if not await socket.open(request):
                return web.Response(status=400)  # the client has disconnected
            await self._read(conn, socket, request)
        finally:
            self._sockets.pop(conn, None)
            if self._history is not None:
                self._history.connection_closed(conn, socket.close_code, self.now())
            self.hub.disconnected(conn, self.now())
            self.pump()
        await socket.end()
        return socket.ws

    def message_complete(self, request: web.Request) -> None:
        """Record that a complete request, or a complete message on its socket, has arrived."""
        if (connection := self.tcp.open.get(request.protocol)) is not None:
            connection.complete()

    async def _read(self, conn: int, socket: Socket, request: web.Request) -> None:
        """Pass frames to the hub until the socket is closed."""
        frames, connection = 0, self.tcp.open.get(request.protocol)
        while True:
            message = await socket.ws.receive()
            if connection is not None and connection.unfinished:
                connection.complete()
            try:
                if not await self._handle_message(conn, socket, message):
                    return
            except Exception:
                logger.exception("the local server failed while handling a frame")
                self._close(CloseSocket(conn, 1011))
            frames += 1
            if frames % FRAMES_PER_TURN == 0:
                await asyncio.sleep(0)
            if not socket.readable.is_set():
                await socket.readable.wait()

    async def _handle_message(self, conn: int, socket: Socket, message: WSMessage) -> bool:
        kind = message.type
        if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
            binary, now = kind is WSMsgType.BINARY, self.now()
            if self._history is not None:
                self._history.frame_received(conn, message.data, binary, now)
            self.hub.receive(conn, message.data, binary, now)
            self.pump()
            return True
        if kind is WSMsgType.PING:
            await socket.ws.pong(message.data)
        if kind is WSMsgType.CLOSE:
            socket.close_code = socket.close_code or message.data
        if kind is WSMsgType.PING or kind is WSMsgType.PONG:
            self.hub.reset_idle_timeout(conn, self.now())
            return True
        return False
