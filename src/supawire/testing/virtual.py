"""Virtual time, and a local server that runs inside the event loop of a test: no port, no thread, the loop's time.

    async def test():
        server = VirtualServer()
        async with server.connect() as client:
            server.refuse_connections(seconds=600)
            server.drop_connections()
            await asyncio.sleep(3600)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(test())

In a `VirtualTimeLoop` this hour takes no time, and everything that is due in it happens in order.
"""

import asyncio
import logging
import random
import selectors
import time
from collections.abc import Callable
from itertools import count
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from supawire.aio.client import AsyncClient
from supawire.aio.connect import ClientOpener, connect_async
from supawire.errors import ConnectError, StateError
from supawire.events import Instant
from supawire.server.authorization import Policy
from supawire.server.effects import CloseSocket, Refusal, Report, Request, Send
from supawire.server.gateway import GATEWAY, Gateway, publishable_key, secret_key
from supawire.server.hub import Hub
from supawire.server.hub_options import HubOptions, Timings
from supawire.server.limits import ServerLimits
from supawire.server.local_api import ActApi, FaultApi
from supawire.server.recorder import ReceivedFrame
from supawire.server.rest import RestAnswer, RestRequest
from supawire.server.tokens import sign
from supawire.transport.base import Closed, HttpRequest, HttpResponse, OpenRequest
from supawire.transport.memory import MemoryConnection, MemoryFrame, MemoryPeer


class VirtualClock:
    """Both clocks in seconds. `sleep` advances only the wall clock, as when the machine is suspended."""

    def __init__(self, mono: float = 1000.0, wall: float = 1_764_000_000.0) -> None:
        self.now: Instant = Instant(mono, wall)

    def advance(self, seconds: float) -> Instant:
        """Advance both clocks."""
        self.now = Instant(self.now.mono + seconds, self.now.wall + seconds)
        return self.now

    def advance_to(self, mono: float) -> Instant:
        """Advance both clocks to this monotonic time; never back."""
        return self.advance(max(0.0, mono - self.now.mono))

    def sleep(self, seconds: float) -> Instant:
        """Simulate a suspended machine or a clock adjustment: advance only the wall clock."""
        self.now = Instant(self.now.mono, self.now.wall + seconds)
        return self.now


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that does not wait: when nothing is ready, it advances its clock by the timeout."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Return what is ready. Without a timeout it waits like any other selector."""
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += max(0.0, timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing is ready, so that waiting takes no time.

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test())

    Use it for code that runs only in this loop, as with `MemoryTransport` and `FakeHttp`: it does not wait for a
    network or for threads. Only the monotonic clock jumps; `time.time()` is unchanged.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._jumping.now


T = TypeVar("T")
SECRET: Final = "a secret of tests, longer than thirty-two characters"  # noqa: S105  not accepted by any real server
TOKEN_LIFETIME: Final = 10 * 365 * 24 * 3600.0
logger: Final = logging.getLogger("supawire.server")


class VirtualServer(ActApi, FaultApi):
    """A local server without a network, with the methods of `LocalServer`, for one event loop.

    Args: strict, limits: as for `LocalServer`. seed: the same seed gives the same ids.
    """

    def __init__(self, *, strict: bool = False, limits: ServerLimits | None = None, seed: int = 0) -> None:
        timings = Timings.strict() if strict else Timings()
        limits = limits or (ServerLimits.self_hosted() if strict else ServerLimits())
        self._hub = Hub(HubOptions(secret=SECRET, limits=limits, timings=timings), random.Random(seed))
        self._wires: dict[int, _HubPeer] = {}
        self._numbers = count(1)
        self._timer: asyncio.TimerHandle | None = None
        self.url: Final = "http://127.0.0.1"
        """The URL for clients, together with `transport` and `http`."""
        self.anon_key: Final = self.token("anon", TOKEN_LIFETIME)
        """A key with the role `anon`."""
        self.service_key: Final = self.token("service_role", TOKEN_LIFETIME)
        """A key with the role `service_role`."""
        self.publishable_key: Final = publishable_key(SECRET)
        """A key of the newer kind, `sb_publishable_…`, for the role `anon`."""
        self.secret_key: Final = secret_key(SECRET)
        """A key of the newer kind, `sb_secret_…`, for the role `service_role`."""
        self._gateway: Final = Gateway(SECRET)
        self.transport: Final = HubTransport(self)
        """Connects clients to this server: `connect_async(..., transport=server.transport)`."""
        self.http: Final = HubHttp(self)
        """Sends their HTTP requests to it: `connect_async(..., http=server.http)`."""

    def connect(self, **options: Any) -> ClientOpener[AsyncClient]:
        """Open a client of this server, by `async with` or `await`; options are those of `connect_async`."""
        chosen: dict[str, Any] = {"transport": self.transport, "http": self.http, **options}
        return connect_async(self.url, self.anon_key, **chosen)

    def token(self, role: str = "authenticated", expires_in: float = 3600, **claims: Any) -> str:
        """Return a token with this role and these claims; with negative `expires_in` seconds it has already expired.

        Only waiting is virtual: `time.time()` is unchanged, so tokens do not expire when an hour passes in a
        `VirtualTimeLoop`; use `expire_tokens`.
        """
        return sign({"role": role, "exp": int(time.time() + expires_in), **claims}, SECRET)

    def policy(self, function: Policy) -> Policy:
        """Use this function to authorize private channels, also as a decorator; see `LocalServer.policy`."""
        self._hub.set_policy(function)
        return function

    @property
    def frames(self) -> list[ReceivedFrame]:
        """The frames sent by clients, oldest first, without tokens; the newest 10,000."""
        return self._hub.received.frames()

    # --- inputs of the hub

    def _do(self, act: Callable[[Hub, Instant], T]) -> T:
        now = self._now()
        self._hub.at(now)
        result = act(self._hub, now)
        self._pump()
        return result

    def _check_without_database(self, name: str) -> None:
        """Do nothing: everything that works without a database is supported here."""

    def _now(self) -> Instant:
        try:
            return Instant(asyncio.get_running_loop().time(), time.time())
        except RuntimeError:
            raise StateError(
                "a VirtualServer is used inside an event loop; LocalServer has a thread of its own"
            ) from None

    async def open(self, request: OpenRequest) -> MemoryConnection:
        """Open a client's socket. Raises: ConnectError when it is refused."""
        await asyncio.sleep(0)
        parts = urlsplit(request.endpoint.reveal())
        number = next(self._numbers)
        headers = {name.lower(): value for name, value in request.headers.items()}
        upgrade = Request(parts.netloc, dict(parse_qsl(parts.query)), headers)
        if parts.path.startswith(GATEWAY):
            upgrade = self._gateway.socket(upgrade, self._now())
        answer = self._do(lambda hub, now: hub.connect(number, upgrade, now))
        if isinstance(answer, Refusal):
            await asyncio.sleep(answer.delay)
            text = answer.body.decode(errors="replace") or None
            raise ConnectError(f"the server answered {answer.status}", status=answer.status, body=text)
        connection = MemoryConnection(None)
        connection.peer = self._wires[number] = _HubPeer(connection, self, number)
        return connection

    async def rest(self, request: HttpRequest) -> HttpResponse:
        """Answer a client's HTTP request."""
        await asyncio.sleep(0)
        parts = urlsplit(request.url)
        headers = {name.lower(): value for name, value in request.reveal().items()}
        path = parts.path.removeprefix(GATEWAY)
        rest_request = RestRequest(
            request.method, path, parts.netloc, dict(parse_qsl(parts.query)), headers, request.body
        )
        if path != parts.path:
            rest_request = self._gateway.rest(rest_request, self._now())
        answer = self._do(lambda hub, now: hub.rest(rest_request, now))
        assert isinstance(answer, RestAnswer)  # without a database no query has to be answered first
        return HttpResponse(answer.status, answer.body, dict(answer.headers))

    def receive(self, number: int, item: MemoryFrame | Closed) -> None:
        """Process a client's frame, or the end of its socket."""
        if isinstance(item, Closed):
            self._wires.pop(number, None)
            self._do(lambda hub, now: hub.disconnected(number, now))
        else:
            self._do(lambda hub, now: hub.receive(number, item.data, item.binary, now))

    # --- effects of the hub

    def _pump(self) -> None:
        while (effect := self._hub.next_effect()) is not None:
            match effect:
                case Send(number, data, binary) if number in self._wires:
                    self._wires[number].send(data, binary)
                case CloseSocket(number, code) if number in self._wires:
                    self._close(self._wires.pop(number), code)
                case Report(text):
                    logger.warning("%s", text)
                case _:  # a closed socket; and in memory, reading is never paused
                    pass
        self._set_timer(self._hub.next_deadline)

    def _close(self, wire: "_HubPeer", code: int | None) -> None:
        if code is None:
            wire.drop()
        else:
            wire.close(code)
        self._hub.disconnected(wire.number, self._now())

    def _set_timer(self, deadline: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        now = self._now()
        self._hub.tick(Instant(max(now.mono, deadline), now.wall))
        self._pump()


class HubTransport:
    """Opens connections to a `VirtualServer`."""

    def __init__(self, server: VirtualServer) -> None:
        self._server = server

    async def open(self, request: OpenRequest, /) -> MemoryConnection:
        """Open a connection; see `Transport.open`."""
        return await self._server.open(request)


class HubHttp:
    """Sends requests to a `VirtualServer`."""

    def __init__(self, server: VirtualServer) -> None:
        self._server = server

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        """Answer a request; see `HttpClient.request`."""
        return await self._server.rest(request)


class _HubPeer(MemoryPeer):
    """The server's end of one connection; passes frames to the hub at once."""

    def __init__(self, connection: MemoryConnection, server: VirtualServer, number: int) -> None:
        super().__init__(connection)
        self._server = server
        self.number: Final = number

    def receive_from_client(self, item: MemoryFrame | Closed) -> None:
        self._server.receive(self.number, item)
