"""One client under test with faults, one witness with a good connection, and the server."""

import json
import random
from collections.abc import Mapping
from typing import Any

from supawire.core.effects import Ticket, Transmit
from supawire.core.listeners import Listener
from supawire.errors import AuthError, RealtimeError
from supawire.events import ChannelState, Gap, Instant, Status
from supawire.options import Backoff, Limits, Secret, SessionOptions
from supawire.selectors import broadcast, presence
from supawire.server.hub_options import HubOptions, Timings
from supawire.server.limits import ServerLimits
from supawire.testing.harness import NOT_YET
from supawire.testing.linked import LATENCY, SECRET, LinkedClient, World

from .database import DatabaseWorld
from .model import TOPICS, Act, History

JOINS_PER_SECOND = 4


class InvariantError(AssertionError):
    """An invariant does not hold."""


class Client(LinkedClient):
    """The client under test, whose frames are checked when they are sent."""

    def __init__(self, world: World, options: SessionOptions, **settings: Any) -> None:
        super().__init__(world, options, **settings)
        self.keep_history = False
        self.settled: dict[Any, Any] = self.outcomes
        self.newest: Secret | None = None
        self.joins: list[float] = []
        self.hides_time = False
        """Whether the server's responses have no date."""
        self.fails: int = 0
        """The number of next calls of the token provider that fail."""

    def on_transmit(self, effect: Transmit) -> None:
        """Check each join before it is sent: it has the newest token and respects the rate limit."""
        if effect.secret and b'"phx_join"' in effect.data:
            self._check_join(effect.data)
        super().on_transmit(effect)

    def clock_offset(self) -> float | None:
        """Return the offset between the clocks of client and server."""
        return None if self.hides_time else super().clock_offset()

    def on_fetch_token(self, number: int) -> None:
        """Answer at once, after a delay, or with an error."""
        if self.fails:
            self.fails -= 1
            answer: Secret | RealtimeError = AuthError("the provider fails")
        else:
            answer = Secret(self.world.token(expires_in=120, n=self.world.random.random()))
        delay = self.world.random.choice((0.0, 0.0, 0.3, 3.0))
        self.world.later(self.now.mono + delay, lambda: self._answer(number, answer))

    def _answer(self, number: int, answer: Secret | RealtimeError) -> None:
        if (
            isinstance(answer, Secret) and number == self.session._context.tokens._requested
        ):  # only the newest call counts
            self.newest = answer
        self.call(self.session.token_ready, number, answer)

    def _check_join(self, data: bytes) -> None:
        frame = json.loads(data)
        payload = frame["payload"] if isinstance(frame, dict) else frame[4]
        newest = self.newest.reveal() if self.newest is not None else None
        if payload.get("access_token") != newest:
            raise InvariantError("a join does not carry the newest token")
        now = self.now.mono
        self.joins = [at for at in self.joins if at > now - 1.0 + 1e-6]  # an interval of exactly one second is allowed
        self.joins.append(now)
        if len(self.joins) > JOINS_PER_SECOND:
            raise InvariantError(f"{len(self.joins)} joins within a second, {JOINS_PER_SECOND} are allowed")


class Witness(LinkedClient):
    """A client whose machine is never suspended and whose clock is never set."""

    @property
    def now(self) -> Instant:
        """Return the virtual time with a wall clock that never jumps."""
        mono = super().now.mono
        return Instant(mono, 1_764_000_000.0 + mono)


class Stage:
    """The server, both clients and the history of one schedule."""

    def __init__(self, seed: int, make: type[World] = World) -> None:
        self.rng = rng = random.Random(seed)
        limits = ServerLimits(presence_calls=5)
        strict = rng.random() < 0.3
        timings = Timings(join_error=5.0, handshake_error=2.0, resubscribe=1.0) if strict else Timings()
        hub = HubOptions(secret=SECRET, limits=limits, timings=timings, policy=_allow_all)
        self.world = make(seed=seed, hub=hub)
        self.history = History()
        provider = rng.random() < 0.5
        options = SessionOptions(
            protocol=rng.choice(("1.0.0", "2.0.0")),
            offline=rng.choice(("raise", "wait", "queue")),
            queue_size=5,
            limits=Limits(joins_per_second=JOINS_PER_SECOND),
            rejoin_backoff=Backoff(initial=1.0),
            has_token_provider=provider,
            open_timeout=None,
        )
        token = None if provider else self.world.token(expires_in=10**6)
        self.ada = Client(self.world, options, seed=seed, token=token)
        self.ada.newest = None if token is None else Secret(token)
        patient = SessionOptions(heartbeat=50, timeout=10_000)  # no fault of the server makes the witness reconnect
        self.bob = Witness(self.world, patient, token=self.world.token(expires_in=10**6))
        self.bob.keep_history = False
        clocks = random.Random(seed + 4)
        self.ada.skew = clocks.choice((0.0, 0.0, 4.0, 90.0, -90.0, 3600.0))
        self.ada.hides_time = clocks.random() < 0.2
        self.joins: list[tuple[str, Ticket]] = []
        self.cancelled: set[Ticket] = set()
        self.rate_limited = False
        """Whether the server ever closed a channel for too many presence calls."""
        self.acts: dict[str, Act] = {}
        self._open()

    @property
    def now(self) -> Instant:
        """Return the virtual time."""
        return self.world.clock.now

    def _open(self) -> None:
        for topic in TOPICS:
            private = topic == "private"
            self.ada.channel(topic, ack=True, private=private, presence_key="ada")
            full = self.bob.channel(topic, ack=True, private=private, presence_key="bob")
            self.bob.call(self.bob.session.listen, full, Listener((broadcast("sent"),), self._record_broadcast(topic)))
            self.bob.call(self.bob.session.listen, full, Listener((presence(),), _ignore))
            self.bob.call(self.bob.session.join, full)
        self.ada.session.watch(self._watch)
        self.ada.call(self.ada.session.open)
        self.world.run_for(1)

    def _record_broadcast(self, topic: str) -> Any:
        return lambda message: self.history.received_by_witness[topic].append(message.payload["n"])

    def _watch(self, event: Any) -> None:
        if isinstance(event, Gap):
            self.history.gaps.append(event)
        elif isinstance(event, Status) and event.topic is not None and event.state is ChannelState.JOINED:
            self.history.joined[event.topic].append(self.now.mono)
            if event.ready:
                self.history.ready[event.topic].append(self.now.mono)
        if isinstance(event, Status) and event.cause is not None and "presence rate" in str(event.cause):
            self.rate_limited = True

    def settle_subscriptions(self) -> None:
        """Record that a caller who cancelled before the first join unsubscribes, unless another call waits for it."""
        for topic in TOPICS:
            desired = self.history.desired[topic]
            if not desired.subscribed or any(at > desired.intervals[-1][0] for at in self.history.joined[topic]):
                continue
            waiting = [ticket for name, ticket in self.joins if name == topic and ticket not in self.cancelled]
            if not any(self.ada.outcome(ticket) is NOT_YET for ticket in waiting):
                desired.leave(self.now.mono)

    @property
    def hides_events(self) -> bool:
        """Return whether what the server sends now does not reach the client, or only after an unanswered join."""
        wire = self.ada.wire
        peer = self.world.hub.connections.peers.get(wire.number) if wire is not None else None
        return wire is not None and (wire.deaf or peer is None or peer.suspended)

    def heal_server(self) -> None:
        """End the faults of the server."""
        self.world.act(self.world.hub.faults.reset)

    def heal(self) -> None:
        """End all faults of server, database, network and token provider.

        A half-open connection stays until the client notices.
        """
        self.heal_server()
        self.world.refusing, self.world.unreachable = None, False
        if isinstance(self.world, DatabaseWorld):
            self.world.healed()
        self.ada.fails = 0
        self.world.run_for(5)
        if not self.ada.options.has_token_provider:
            self.acts["set_token"](self)  # the user replaces a token that the server refuses
        if self.ada.wire is not None:
            self.ada.wire.latency = LATENCY


def _allow_all(claims: Mapping[str, Any], topic: str, extension: str, action: str) -> bool:
    """Allow everything, also after signing out; permissions of the key are tested elsewhere."""
    return True


def _ignore(event: Any) -> None:
    """Ignore an event: presence is read from the state."""
