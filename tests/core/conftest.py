"""A session under virtual time for each test."""

import base64
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from supawire.core import binary
from supawire.core.channel import CoreChannel
from supawire.core.codec import encode_json
from supawire.core.effects import Connect, Disconnect, ErrorReport, FetchToken, Ticket, Transmit
from supawire.core.frames import Frame
from supawire.core.listeners import Listener
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import RealtimeError
from supawire.events import ChannelState, ConnectionState
from supawire.options import Secret, SessionOptions
from supawire.selectors import Selector
from supawire.testing.harness import SessionHarness

SUBSCRIBED = "Subscribed to PostgreSQL"
TROUBLE = '{:error, "Too many database timeouts"}'


class Pushed(NamedTuple):
    """An outgoing broadcast, in either version."""

    join_ref: str
    ref: str
    topic: str
    event: str
    payload: bytes


class Harness(SessionHarness):
    """A session harness with the steps that many tests share."""

    def __init__(self, options: SessionOptions | None = None, **settings: Any) -> None:
        super().__init__(options, **settings)
        self._read: dict[bytes, Frame] = {}
        self._beaten = 0

    def sent(self, event: str | None = None) -> list[Frame]:
        """Return the text frames sent so far, all or those of one event; each is decoded once."""
        data = [effect.data for effect in self.effects if isinstance(effect, Transmit) and not effect.binary]
        self._read |= {one: self.codec.plain(one) for one in data if one not in self._read}
        every = [self._read[one] for one in data]
        return [frame for frame in every if event in (None, frame.event)]

    def open(self) -> None:
        """Open the connection."""
        self.call(self.session.open)
        self.accept()

    def reconnect(self) -> None:
        """Wait for the backoff, and accept the next connection attempt."""
        self.run_to_attempt()
        self.accept()

    def run_to_attempt(self) -> None:
        """Advance time until there is a connection attempt."""
        while self.session.state is ConnectionState.RETRYING:
            assert self.session.next_deadline is not None
            self.run_for(self.session.next_deadline - self.now.mono)

    def collect(self, topic: str, *selectors: Selector[Any]) -> list[Any]:
        """Register a listener and return the list that its events are appended to."""
        events: list[Any] = []
        self.call(self.session.listen, topic, Listener(selectors, events.append))
        return events

    def watch(self) -> list[Any]:
        """Watch the client and return the list that its events are appended to."""
        events: list[Any] = []
        self.session.watch(events.append)
        return events

    def join(self, topic: str, response: Any = None, **waiting: Any) -> Ticket:
        """Join, let the server accept it, and return the ticket."""
        ticket = self.call(self.session.join, topic, **waiting)
        self.answer_join(response)
        return ticket

    def joined(self, name: str = "room", **options: Any) -> str:
        """Create and join a channel; return its full topic."""
        topic = self.channel(name, **options)
        self.join(topic)
        return topic

    def answer_join(self, response: Any = None) -> None:
        """Accept the newest join, echoing its bindings with ids 100, 101, …"""
        frame = self.sent("phx_join")[-1]
        bindings = frame.payload["config"]["postgres_changes"]
        echoed = [{**binding, "id": 100 + place} for place, binding in enumerate(bindings)]
        self.reply(frame, {"postgres_changes": echoed} if response is None else response)

    def refuse_join(self, reason: str) -> None:
        """Refuse the newest join."""
        self.reply(self.sent("phx_join")[-1], {"reason": reason}, status="error")

    def broadcast(
        self,
        topic: str,
        payload: bytes = b"{}",
        *,
        ack: bool = False,
        timeout: float | None = 10.0,
        ignore_queue_time: bool = True,
        latest: str | None = None,
    ) -> Any:
        """Send a broadcast of the event "e"; return its ticket, or None if no reply is expected."""
        message = OutgoingBroadcast(
            "e", payload, ack=ack, timeout=timeout, ignore_queue_time=ignore_queue_time, latest=latest
        )
        return self.call(self.session.broadcast, topic, message)

    def system(self, topic: str, message: str, *, status: str = "ok", extension: str = "postgres_changes") -> None:
        """Send a `system` message for the topic's newest join."""
        newest = [join for join in self.sent("phx_join") if join.topic == topic][-1]
        join_ref = newest.ref if self.options.protocol == "2.0.0" else None
        payload = {"extension": extension, "status": status, "message": message, "channel": topic.split(":", 1)[1]}
        self.receive(topic, "system", payload, join_ref=join_ref)

    def close_channel(self, topic: str, ref: str | None, *, event: str = "phx_close") -> None:
        """Let the server end the join with this ref, in the form of each version."""
        join_ref = ref if self.options.protocol == "2.0.0" else None
        self.receive(topic, event, {}, ref=ref, join_ref=join_ref)

    def end_channel(self, topic: str, reason: str) -> None:
        """Let the server send the reason and close the channel."""
        self.system(topic, reason, status="error", extension="system")
        self.close_channel(topic, self.sent("phx_join")[-1].ref)

    def row(self, topic: str, *ids: int, kind: str = "INSERT", **record: Any) -> None:
        """Send a row change that matches these bindings."""
        columns = [{"name": name, "type": "int8"} for name in record]
        data = {
            "schema": "public",
            "table": "users",
            "type": kind,
            "commit_timestamp": "2026-01-05T10:11:12.345Z",
            "columns": columns,
            "record": record,
            "errors": None,
        }
        self.receive(topic, "postgres_changes", {"ids": list(ids), "data": data})

    def give_token(self, token: str | RealtimeError | None) -> None:
        """Let the provider answer the newest request."""
        number = [effect.number for effect in self.effects if isinstance(effect, FetchToken)][-1]
        self.call(self.session.token_ready, number, Secret(token) if isinstance(token, str) else token)

    def run_alive(self, seconds: float) -> None:
        """Advance time while the server answers heartbeats, including those sent before a join."""
        end = self.now.mono + seconds
        self._answer_beats()
        while (deadline := self.session.next_deadline) is not None and deadline <= end:
            self.clock.advance_to(deadline)
            self.call(self.session.tick)
            self._answer_beats()
        self.clock.advance_to(end)

    def _answer_beats(self) -> None:
        beats = self.sent("heartbeat")
        for beat in beats[self._beaten :]:
            self.reply(beat)
        self._beaten = len(beats)

    # --- queries

    def at(self, topic: str) -> CoreChannel:
        """Return the channel object."""
        return self.session.channels[topic]

    def state(self, topic: str) -> ChannelState:
        """Return the state of the channel."""
        return self.at(topic).state

    @property
    def connects(self) -> int:
        """Number of sockets requested."""
        return sum(isinstance(effect, Connect) for effect in self.effects)

    @property
    def fetches(self) -> int:
        """Number of tokens requested."""
        return sum(isinstance(effect, FetchToken) for effect in self.effects)

    @property
    def aborts(self) -> list[int]:
        """The generations whose sockets the client aborted."""
        return [effect.generation for effect in self.effects if isinstance(effect, Disconnect) and effect.abort]

    @property
    def errors(self) -> list[RealtimeError]:
        """The errors reported to `on_error`."""
        return [report.error for report in self.reports(ErrorReport)]

    def pushed(self) -> list[Pushed]:
        """The broadcasts that were sent."""
        if self.options.protocol == "1.0.0":
            frames = self.sent("broadcast")
            return [Pushed(str(f.join_ref), str(f.ref), f.topic, *_event_and_payload(f)) for f in frames]
        every = [binary.unpack(binary.UP, e.data) for e in self.effects if isinstance(e, Transmit) and e.binary]
        texts = [[field.decode() for field in one.fields] for one in every]
        return [Pushed(t[0], t[1], t[2], t[3], one.payload) for t, one in zip(texts, every, strict=True)]

    def answer_push(self, pushed: Pushed, response: Any = None, *, status: str = "ok") -> None:
        """Answer a broadcast."""
        self.reply(Frame(pushed.join_ref, pushed.ref, pushed.topic, "broadcast", None), response, status=status)


def _event_and_payload(frame: Frame) -> tuple[str, bytes]:
    return frame.payload["event"], encode_json(frame.payload["payload"])


def raised(call: Callable[[], Any]) -> RealtimeError | None:
    """Return the exception that a call raises, None if it raises nothing."""
    try:
        call()
    except RealtimeError as error:
        return error
    return None


@pytest.fixture
def harness() -> Harness:
    """A session of version 2.0.0 with the default options."""
    return Harness()


@pytest.fixture
def make_harness() -> Callable[..., Harness]:
    """A session with options."""

    def make(*, token: str | None = None, seed: int = 0, **options: Any) -> Harness:
        return Harness(SessionOptions(**options), token=token, seed=seed)

    return make


@pytest.fixture(params=["2.0.0", "1.0.0"])
def each(request: pytest.FixtureRequest) -> Harness:
    """A session of each wire version."""
    return Harness(SessionOptions(protocol=request.param))


def jwt(harness: Harness, lifetime: float, **claims: Any) -> str:
    """Return a token that expires after these seconds."""
    body = json.dumps({"exp": harness.now.wall + lifetime, **claims}).encode()
    return f"h.{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}.s"


@pytest.fixture
def provided() -> Harness:
    """A session with a token provider, open with the token "one"."""
    harness = Harness(SessionOptions(has_token_provider=True))
    harness.call(harness.session.open)
    assert harness.connects == 0, "the token is fetched before the connection"
    harness.give_token("one")
    assert harness.connects == 1
    harness.accept()
    return harness


def tokens(harness: Harness, event: str = "phx_join") -> list[str | None]:
    """Return the tokens in the frames of an event."""
    return [frame.payload.get("access_token") for frame in harness.sent(event)]
