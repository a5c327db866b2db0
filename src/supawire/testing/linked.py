"""Client sessions and the local server's hub, connected in memory under one virtual clock.

    world = World(seed=7)
    ada = world.client()
    room = ada.channel("lobby")
    events = ada.collect(room, broadcast("typing"))
    ada.start(ada.session.join, room)
    world.run_for(1)

Nothing sleeps, and all randomness comes from the seed: the same calls give the same frames at the same times. The wires
between the two can be cut, made half-open or slow, or refuse connections.
"""

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from supawire.core.effects import Disconnect, Ticket, Transmit
from supawire.core.fallback import Cause
from supawire.core.listeners import Listener
from supawire.core.requests import Timers
from supawire.errors import AuthError, RealtimeError
from supawire.events import Instant
from supawire.options import Secret, SessionOptions
from supawire.selectors import Selector
from supawire.server.effects import Accepted, CloseSocket, Effect, Request, Send
from supawire.server.hub import Hub
from supawire.server.hub_options import HubOptions
from supawire.server.tokens import sign
from supawire.testing.harness import SessionHarness
from supawire.testing.virtual import VirtualClock

SECRET = "a secret of the simulation, longer than thirty-two characters"  # noqa: S105  not accepted by any real server
LATENCY = 0.001
"""Seconds of transmission of a frame, unless slowed down."""

MAX_STEPS = 10_000
"""Iterations at one instant after which the simulation is assumed to loop forever."""


@dataclass(slots=True)
class Wire:
    """One socket, between a client's generation and a connection of the hub."""

    client: "LinkedClient"
    generation: int
    number: int
    open: bool = True
    deaf: bool = False
    """Half-open: both sides consider it open, and nothing arrives."""
    latency: float = LATENCY
    up_at: float = 0.0
    down_at: float = 0.0
    sent: int = 0


class World:
    """One server, any number of clients, and the wires between them."""

    def __init__(self, *, seed: int = 0, hub: HubOptions | None = None) -> None:
        self.clock: Final = VirtualClock()
        self.random: Final = random.Random(seed)
        self.hub: Hub = Hub(hub or HubOptions(secret=SECRET), random.Random(seed + 1))
        self.clients: list[LinkedClient] = []
        self.wires: dict[int, Wire] = {}
        self.refusing: tuple[int, bytes] | None = None
        """Status and body of the answer to every handshake, None for the hub's own answer."""
        self.unreachable = False
        """Whether connecting fails as if no server were listening."""
        self._numbers = count(1)
        self._scheduled: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._steps = 0
        self._deadlines: Timers[int] = Timers()
        """The deadline of each client's session, by the number of the client."""

    def client(self, options: SessionOptions | None = None, **settings: Any) -> "LinkedClient":
        """Add a client with a session of its own."""
        return LinkedClient(self, options, **settings)

    def token(self, role: str = "authenticated", expires_in: float = 3600, **claims: Any) -> str:
        """Return a token that the hub accepts."""
        return sign({"role": role, "exp": int(self.clock.now.wall + expires_in), **claims}, SECRET)

    # --- time

    def run_for(self, seconds: float) -> None:
        """Let time pass, and perform everything that is due."""
        end = self.clock.now.mono + seconds
        self._note_all()
        while (at := self._next()) is not None and at <= end:
            self._run(at)
        self.clock.advance_to(end)

    def run_until(self, done: Callable[[], bool], limit: float) -> bool:
        """Let time pass until `done()` is true, at most `limit` seconds; return whether it is true."""
        end = self.clock.now.mono + limit
        self._note_all()
        while not done() and (at := self._next()) is not None and at <= end:
            self._run(at)
        return done()

    def _next(self) -> float | None:
        every = [self.hub.next_deadline, self._deadlines.next]
        if self._scheduled:
            every.append(self._scheduled[0][0])
        return min((at for at in every if at is not None), default=None)

    def _run(self, at: float) -> None:
        self._steps = self._steps + 1 if at <= self.clock.now.mono else 0
        if self._steps > MAX_STEPS:
            raise AssertionError(f"{MAX_STEPS} steps at the same instant: a deadline is never removed")
        self.clock.advance_to(at)
        mono = self.clock.now.mono
        while self._scheduled and self._scheduled[0][0] <= mono:
            heapq.heappop(self._scheduled)[2]()
        if (deadline := self.hub.next_deadline) is not None and deadline <= mono:
            self.hub.tick(self.clock.now)
            self.pump()
        for number in sorted(self._deadlines.due(mono)):
            client = self.clients[number]
            if (deadline := client.session.next_deadline) is not None and deadline <= mono:
                client.call(client.session.tick)

    def note_deadline(self, client: "LinkedClient") -> None:
        """Record when the session of this client has to be called next, so that no step asks all clients."""
        deadline = client.session.next_deadline
        if deadline is None:
            self._deadlines.cancel(client.number)
        elif deadline != self._deadlines.deadline(client.number):
            self._deadlines.set(client.number, deadline)

    def _note_all(self) -> None:
        """Record the deadlines of all clients, because a test may have called their sessions directly."""
        for client in self.clients:
            self.note_deadline(client)

    def later(self, at: float, do: Callable[[], None]) -> None:
        """Schedule a call at that time, after those scheduled for it before."""
        heapq.heappush(self._scheduled, (at, next(self._order), do))

    # --- the server's side

    def act(self, order: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the hub or of its faults at the current time."""
        self.hub.at(self.clock.now)
        result = order(*args, **kwargs)
        self.pump()
        return result

    def restart(self) -> None:
        """Replace the server by a new one without connections and counts; every socket is closed with 1012."""
        self.act(self.hub.shutdown, self.clock.now)
        self.hub = Hub(self.hub.options, random.Random(self.random.getrandbits(32)))

    def pump(self) -> None:
        """Perform the hub's effects: put frames and closes on the wires, in order."""
        while (effect := self.hub.next_effect()) is not None:
            match effect:
                case Send(conn, data, binary):
                    self._down(conn, data, binary)
                case CloseSocket(conn, code):
                    self._close(conn, code)
                case _:
                    self.outside(effect)

    def outside(self, effect: Effect) -> None:
        """Perform any other effect of the hub: queries, for which there is no database here, and reports."""

    def _down(self, number: int, data: bytes, binary: bool) -> None:
        wire = self.wires.get(number)
        if wire is None or wire.deaf:
            return
        wire.down_at = max(wire.down_at, self.clock.now.mono + wire.latency)
        self.later(wire.down_at, lambda: wire.client.receive_from_server(wire, data, binary))

    def _close(self, number: int, code: int | None) -> None:
        wire = self.wires.pop(number, None)
        self.hub.disconnected(number, self.clock.now)
        if wire is not None and not wire.deaf:
            wire.down_at = max(wire.down_at, self.clock.now.mono + wire.latency)
            self.later(wire.down_at, lambda: wire.client.ended(wire, code))

    # --- the wires

    def connect(self, client: "LinkedClient", generation: int) -> None:
        """Called when a client opens a socket."""
        self.later(self.clock.now.mono + LATENCY, lambda: self._handshake(client, generation))

    def _handshake(self, client: "LinkedClient", generation: int) -> None:
        if self.unreachable:
            client.fail(generation, Cause(text="the connection was refused", written=0))
            return
        if self.refusing is not None:
            status, body = self.refusing
            client.fail(generation, Cause(status=status, body=body, written=0))
            return
        number = next(self._numbers)
        answer = self.hub.connect(number, client.request(), self.clock.now)
        self.pump()
        if not isinstance(answer, Accepted):
            cause = Cause(status=answer.status, body=answer.body, written=0)
            self.later(self.clock.now.mono + answer.delay + LATENCY, lambda: client.fail(generation, cause))
            return
        wire = self.wires[number] = Wire(client, generation, number)
        self.later(self.clock.now.mono + LATENCY, lambda: client.opened(wire))

    def up(self, wire: Wire, data: bytes, binary: bool) -> None:
        """Transfer a frame from client to server."""
        wire.sent += 1
        if not wire.deaf:
            wire.up_at = max(wire.up_at, self.clock.now.mono + wire.latency)
            self.later(wire.up_at, lambda: self._receive(wire, data, binary))

    def _receive(self, wire: Wire, data: bytes, binary: bool) -> None:
        if wire.number in self.wires and not wire.deaf:
            self.hub.receive(wire.number, data, binary, self.clock.now)
            self.pump()

    def hang_up(self, wire: Wire) -> None:
        """Called when the client has closed its side of the socket; notifies the server."""
        if self.wires.pop(wire.number, None) is not None:
            self.later(self.clock.now.mono + wire.latency, lambda: self._gone(wire.number))

    def _gone(self, number: int) -> None:
        self.hub.disconnected(number, self.clock.now)
        self.pump()

    def cut(self, wire: Wire, code: int | None = None) -> None:
        """Break a socket: frames in transit are lost, and both sides are notified."""
        if self.wires.pop(wire.number, None) is not None:
            wire.deaf = True
            self._gone(wire.number)
            self.later(self.clock.now.mono + wire.latency, lambda: wire.client.ended(wire, code))

    def live(self) -> Iterator[Wire]:
        """Return the open sockets of the server."""
        return iter(list(self.wires.values()))


class LinkedClient(SessionHarness):
    """A session whose sockets are connected to the world's server."""

    def __init__(self, world: World, options: SessionOptions | None = None, **settings: Any) -> None:
        super().__init__(options, clock=world.clock, **settings)
        self.world = world
        self.number: Final = len(world.clients)
        world.clients.append(self)
        self.key: str = world.token("anon", 10 * 365 * 86400)
        self.wires: dict[int, Wire] = {}
        """The open sockets by generation."""
        self.skew: float = 0.0
        """Seconds by which this client's wall clock is ahead of the server's."""
        self.provide: Callable[[], str | None | RealtimeError] | None = None
        """Called when the session needs a token; its result is passed on immediately."""
        self.keep_history = True
        """Whether performed effects are recorded in `effects`; disabled for long runs."""

    @property
    def wire(self) -> Wire | None:
        """The socket that was opened last, None if none is open."""
        return next(reversed(self.wires.values()), None)

    @property
    def now(self) -> Instant:
        """The virtual time on this client's clocks."""
        now = super().now
        return Instant(now.mono, now.wall + self.skew) if self.skew else now

    def request(self) -> Request:
        """The upgrade request."""
        return Request("127.0.0.1", {"apikey": self.key, "vsn": self.codec.version})

    def clock_offset(self) -> float | None:
        """The seconds by which the server's clock is ahead of this client's, at the precision of a Date header."""
        return int(self.world.clock.now.wall) - self.now.wall

    def start(self, command: Callable[..., Ticket], *args: Any, **kwargs: Any) -> Ticket:
        """Start a call that returns a ticket."""
        return self.call(command, *args, **kwargs)

    def collect(self, topic: str, *selectors: Selector[Any]) -> list[Any]:
        """Add a listener and return the list to which events are appended."""
        received: list[Any] = []
        self.call(self.session.listen, topic, Listener(selectors, received.append))
        return received

    # --- called by the world

    def opened(self, wire: Wire) -> None:
        """Called when the handshake is complete."""
        if wire.number not in self.world.wires:
            return
        if not self.session.is_current(wire.generation):
            self.world.hang_up(wire)
            return
        self.wires[wire.generation] = wire
        self.call(self.session.transport_opened, wire.generation, clock_offset=self.clock_offset())

    def fail(self, generation: int, cause: Cause) -> None:
        """Called when the socket could not be opened."""
        self.call(self.session.transport_closed, generation, cause)

    def receive_from_server(self, wire: Wire, data: bytes, binary: bool) -> None:
        """Called with a frame from the server."""
        if wire.deaf or not wire.open:
            return
        delivery = self.session.receiver(wire.generation).receive(wire.generation, data, binary, self.now)
        if delivery is not None:
            listeners, event = delivery
            for listener in listeners:
                listener(event)
        self.pump()

    def ended(self, wire: Wire, code: int | None) -> None:
        """Called when the socket was closed or broke."""
        if wire.open:
            wire.open = False
            self.wires.pop(wire.generation, None)
            self.call(self.session.transport_closed, wire.generation, Cause(code=code, written=wire.sent))

    # --- effects of the session

    def pump(self) -> None:
        """Perform the pending effects."""
        while (effect := self.session.next_effect()) is not None:
            if self.keep_history:
                self.effects.append(effect)
            self.perform(effect)
        self.world.note_deadline(self)

    def on_connect(self, generation: int) -> None:
        """Open a socket in the world."""
        self.world.connect(self, generation)

    def on_transmit(self, effect: Transmit) -> None:
        """Put a frame on the wire of its generation."""
        wire = self.wires.get(effect.generation)
        if wire is not None and wire.open:
            self.world.up(wire, effect.data, effect.binary)

    def on_disconnect(self, effect: Disconnect) -> None:
        """Close the socket from the client's side."""
        wire = self.wires.pop(effect.generation, None)
        if wire is None:
            return
        wire.open = False
        self.world.later(
            self.now.mono + wire.latency,  # frames written before arrive first
            lambda: self.world.hang_up(wire),
        )
        if not effect.abort:
            cause = Cause(code=effect.code, written=wire.sent)
            closed = lambda: self.call(self.session.transport_closed, wire.generation, cause)  # noqa: E731
            self.world.later(self.now.mono + 2 * wire.latency, closed)

    def on_fetch_token(self, number: int) -> None:
        """Pass the token from `provide` to the session."""
        answer = self.provide() if self.provide is not None else AuthError("no provider was given")
        token = Secret(answer) if isinstance(answer, str) else answer
        self.world.later(self.now.mono, lambda: self.call(self.session.token_ready, number, token))
