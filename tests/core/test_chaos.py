"""Random input to a session from a server without any logic: no order of events is impossible, nothing leaks.

The simulation in `tests/linked` has a real server on the other side and checks the meaning; here replies, closes and
system messages come in any order and for any join, old or new, so that every cell of the state tables is visited.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from supawire.core.effects import AskDelay, FetchToken, PublishByHttp, Ticket
from supawire.core.listeners import Listener
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import AuthError, LocalProtocolError, RealtimeError
from supawire.events import ChannelState, ConnectionState, Sent
from supawire.options import OFFLINE, PROTOCOLS, Backoff, ChannelOptions, Limits, Secret, SessionOptions
from supawire.selectors import broadcast, changes, gaps, presence, status, system
from supawire.testing.harness import NOT_YET

from .conftest import SUBSCRIBED, Harness
from .server_texts import CHANGES, HANDSHAKES, REASONS, SYSTEMS

TOPICS = ("one", "two", "three")
STEPS = 120
TIGHT = Limits(channels=2, joins_per_second=2, messages_per_second=2)


class RandomSession:
    """One session and its random source."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.harness = Harness(
            SessionOptions(
                protocol=rng.choice(PROTOCOLS),
                offline=rng.choice(OFFLINE),
                queue_size=3,
                open_timeout=rng.choice((None, None, 20.0)),
                backoff=rng.choice((None, Backoff(), Backoff(max_attempts=4))),
                rejoin_backoff=rng.choice((None, Backoff(initial=1), Backoff(initial=1, max_attempts=3))),
                limits=rng.choice((Limits(), Limits.off(), TIGHT)),
                idle_disconnect=rng.choice((None, 0.0, 5.0)),
                has_token_provider=rng.random() < 0.5,
            ),
            seed=seed,
        )
        self.tickets: list[Ticket] = []
        self.cancelled = set[Ticket]()
        self.listeners: list[tuple[str, Listener]] = []
        self.publishing: list[Ticket] = []

    # --- choosing

    def topic(self) -> str:
        """Return one of the topics, creating it if needed."""
        name = self.rng.choice(TOPICS)
        options = ChannelOptions(
            ack=True,
            private=name == "two",
            presence_key="me" if name == "three" else None,
            replication_ready=name == "one",
        )
        self.harness.session.channel(f"realtime:{name}", options)
        return f"realtime:{name}"

    def frame(self, *events: str) -> Any:
        """Return a sent request of any socket, preferably a recent one."""
        every = [one for one in self.harness.sent() if one.event in events]
        return self.rng.choice(every[-4:] if self.rng.random() < 0.8 else every) if every else None

    def add_ticket(self, ticket: Any) -> None:
        """Record a pending call."""
        if ticket is not None:
            self.tickets.append(ticket)

    # --- the user

    def do_join(self) -> None:
        ignore_queue_time, ready = self.rng.random() < 0.5, self.rng.random() < 0.4
        timeout = self.rng.choice((None, 0.5, 20.0))
        session = self.harness.session
        self.add_ticket(
            self.harness.call(
                session.join, self.topic(), ready=ready, timeout=timeout, ignore_queue_time=ignore_queue_time
            )
        )

    def do_leave(self) -> None:
        self.add_ticket(self.harness.call(self.harness.session.leave, self.topic(), self.rng.choice((0.0, 2.0, 10.0))))

    def do_remove(self) -> None:
        self.harness.call(self.harness.session.remove, self.topic())

    def do_send(self) -> None:
        message = OutgoingBroadcast("e", b"{}", ack=self.rng.random() < 0.5, timeout=self.rng.choice((None, 1.0, 30.0)))
        self.add_ticket(self.harness.call(self.harness.session.broadcast, self.topic(), message))

    def do_track(self) -> None:
        payload = self.rng.choice((None, b"1", b"2"))
        self.add_ticket(
            self.harness.call(self.harness.session.track, self.topic(), payload, self.rng.choice((None, 1.0)))
        )

    def do_listen(self) -> None:
        every = [broadcast(), changes("users"), changes("orders"), presence(), system(), gaps(), status()]
        listener = Listener((self.rng.choice(every),), _ignore)
        topic = self.topic()
        self.listeners.append((topic, listener))
        self.harness.call(self.harness.session.listen, topic, listener)

    def do_unlisten(self) -> None:
        if self.listeners:
            self.harness.session.unlisten(*self.listeners.pop(self.rng.randrange(len(self.listeners))))

    def do_cancel(self) -> None:
        if self.tickets:
            ticket = self.rng.choice(self.tickets)
            self.cancelled.add(ticket)
            self.harness.call(self.harness.session.cancel, ticket)

    def do_token(self) -> None:
        token = self.rng.choice((None, Secret("a"), Secret("b")))
        if self.rng.random() < 0.5:
            self.harness.call(self.harness.session.set_token, token)
        else:
            self.harness.call(self.harness.session.set_channel_token, self.topic(), token)

    def do_ping(self) -> None:
        self.add_ticket(self.harness.call(self.harness.session.ping, self.rng.choice((None, 1.0))))

    def do_open(self) -> None:
        self.add_ticket(self.harness.call(self.harness.session.open))

    def do_reconnect(self) -> None:
        self.harness.call(self.harness.session.reconnect)

    # --- the server, the network and time

    def do_accept(self) -> None:
        self.harness.accept()

    def do_drop(self) -> None:
        harness = self.harness
        if self.rng.random() < 0.5:
            harness.drop(self.rng.choice((None, 1000, 1001, 1006, 1012, 4000)), written=self.rng.choice((None, 0, 5)))
        elif harness.session.state is ConnectionState.CONNECTING:
            code, body, _ = self.rng.choice(HANDSHAKES)
            retried = code >= 429 or self.rng.random() < 0.1
            harness.drop(status=code if retried else 503, body=body, retry_after=self.rng.choice((None, 5.0)))

    def do_provide(self) -> None:
        numbers = [effect.number for effect in self.harness.effects if isinstance(effect, FetchToken)]
        if numbers:
            token = self.rng.choice((Secret("a"), Secret("b"), None, AuthError("no")))
            self.harness.call(self.harness.session.token_ready, self.rng.choice(numbers[-2:]), token)

    def do_delay(self) -> None:
        topics = [effect.topic for effect in self.harness.effects if isinstance(effect, AskDelay)]
        if topics:
            self.harness.call(
                self.harness.session.delay_ready, self.rng.choice(topics[-3:]), self.rng.choice((0.0, 3.0))
            )

    def do_publish(self) -> None:
        for effect in self.harness.effects:
            if isinstance(effect, PublishByHttp) and effect.ticket not in self.publishing:
                self.publishing.append(effect.ticket)
                self.harness.session.http_broadcasts.settle(effect.ticket, Sent("http"))
                self.harness.pump()

    def do_ok(self) -> None:
        frame = self.frame("phx_join", "phx_leave", "heartbeat", "presence")
        if frame is not None and frame.event == "phx_join":
            bindings = frame.payload["config"]["postgres_changes"]
            echoed = [{**binding, "id": place} for place, binding in enumerate(bindings)]
            self.harness.reply(frame, {"postgres_changes": echoed})
        elif frame is not None:
            self.harness.reply(frame)

    def do_refuse(self) -> None:
        frame = self.frame("phx_join", "presence")
        if frame is not None:
            self.harness.reply(frame, {"reason": self.rng.choice(list(REASONS))}, status="error")

    def do_ack(self) -> None:
        pushed = self.harness.pushed()
        if pushed:
            self.harness.answer_push(self.rng.choice(pushed[-3:]), status=self.rng.choice(("ok", "error")))

    def do_end(self) -> None:
        frame = self.frame("phx_join")
        if frame is not None:
            if self.rng.random() < 0.5:
                payload = {"extension": "system", "status": "error", "message": self.rng.choice(list(SYSTEMS))}
                self.harness.receive(frame.topic, "system", payload, join_ref=frame.ref)
            self.harness.close_channel(frame.topic, frame.ref, event=self.rng.choice(("phx_close", "phx_error")))

    def do_system_message(self) -> None:
        frame = self.frame("phx_join")
        if frame is not None:
            members = self.rng.choice(
                (
                    ("postgres_changes", "ok", SUBSCRIBED),
                    ("system", "ok", "Replication connection established"),
                    ("postgres_changes", "error", self.rng.choice(list(CHANGES))),
                )
            )
            payload = dict(zip(("extension", "status", "message"), members, strict=True))
            self.harness.receive(frame.topic, "system", payload, join_ref=self.rng.choice((frame.ref, None)))

    def do_data(self) -> None:
        topic = f"realtime:{self.rng.choice(TOPICS)}"
        meta = {"id": str(self.rng.randrange(9)), "replayed": self.rng.random() < 0.5}
        self.harness.receive(topic, "broadcast", {"event": "e", "payload": {}, "meta": meta})
        self.harness.row(topic, self.rng.randrange(3), id=1)
        diff = {"joins": {"a": {"metas": [{"phx_ref": "A"}]}}, "leaves": {}}
        self.harness.receive(topic, *self.rng.choice((("presence_diff", diff), ("presence_state", {}))))

    def do_wait(self) -> None:
        self.harness.run_for(self.rng.choice((0.0, 0.01, 0.5, 2.0, 12.0, 40.0)))

    def do_alive(self) -> None:
        self.harness.run_alive(self.rng.choice((1.0, 30.0)))

    def do_sleep(self) -> None:
        self.harness.clock.sleep(self.rng.choice((3600.0, -60.0)))


def _ignore(event: object) -> None:
    """Ignore an event, which other tests check."""


ACTS = [name for name in vars(RandomSession) if name.startswith("do_")]
OFTEN = {"do_ok": 6, "do_wait": 4, "do_accept": 4, "do_join": 4, "do_provide": 3, "do_delay": 3, "do_send": 2}
WEIGHTS = [OFTEN.get(name, 1) for name in ACTS]


def run_session(seed: int) -> RandomSession:
    """Run one session to its end: random steps, then close."""
    run = RandomSession(seed)
    harness = run.harness
    for _ in range(STEPS):
        act: Callable[[], None] = getattr(run, run.rng.choices(ACTS, WEIGHTS)[0])
        try:
            act()
        except LocalProtocolError:
            raise
        except RealtimeError:
            pass  # errors that a command may raise in this state
        if harness.session.state is ConnectionState.CLOSED:
            break
    harness.call(harness.session.close)
    if run.rng.random() < 0.5:
        harness.drop(1000)
    harness.run_for(6)
    return run


@pytest.mark.parametrize("seed", [*range(10), 2347])
def test_a_random_sequence_of_events_ends_with_nothing_pending(seed: int) -> None:
    """Any order of events causes no impossible transition, and every ticket is resolved once (R10, R31)."""
    for number in range(seed * 10, seed * 10 + 10) if seed < 10 else (seed,):
        run = run_session(number)
        harness, sizes = run.harness, run.harness.session.table_sizes()
        assert harness.session.state is ConnectionState.CLOSED
        assert (sizes["tickets"], sizes["requests"], sizes["deadlines"]) == (0, 0, 0), f"seed {number}"
        assert harness.session.next_deadline is None
        assert {channel.state for channel in harness.session.channels.values()} <= {ChannelState.CLOSED}
        for ticket in set(run.tickets) - run.cancelled:
            assert harness.outcome(ticket) is not NOT_YET, f"seed {number}: {ticket}"
