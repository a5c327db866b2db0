"""One recorded connection, lived through by a session of ours: the steps are taken, the server's frames are fed.

The session chooses its own refs, so those of the recording are replaced by them. Time is the recording's, virtual.
"""

import re
from typing import Any, Final, NamedTuple

from supawire.core import binary
from supawire.core.effects import Disconnect, Ticket, Transmit
from supawire.core.listeners import Listener
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import RealtimeError
from supawire.events import ChannelState, ConnectionState
from supawire.options import Limits, SessionOptions
from supawire.selectors import Selector, broadcast, presence, system
from supawire.testing.harness import SessionHarness

from .events import plain
from .recordings import Record
from .steps import Asked, Join, Leave, NotOurs, Ping, Send, Track, asked, config_of, sent_step, text_step

TIMEOUT: Final = 10.0
SERVER_CODES: Final = (1001, 1009, 1012)
_SPOT: Final = {
    "1.0.0": re.compile(rb'^(?P<a>\{"ref":)(?P<ref>"[^"]*"|\d+|null)(?P<b>)(?P<join>)'),
    "2.0.0": re.compile(rb'^(?P<a>\[)(?P<join>"[^"]*"|null)(?P<b>,)(?P<ref>"[^"]*"|\d+|null)'),
}


class Taken(NamedTuple):
    """A step that was taken, with what is owed for it."""

    record: Record
    asked: Asked
    ticket: Ticket | None


class Push(NamedTuple):
    """A frame that our session sent."""

    event: str
    ref: str
    join_ref: str | None
    data: bytes
    binary: bool


class Player(SessionHarness):
    """A session that lives through one connection of a recording."""

    def __init__(self, vsn: str, started_at: float) -> None:
        options = SessionOptions(protocol=vsn, limits=Limits.off())  # pyright: ignore[reportArgumentType]
        super().__init__(options, token="header.claims.signature")
        self.vsn = vsn
        self.taken: list[Taken] = []
        self.left_out: dict[Record, Exception] = {}
        self.unasked: list[str] = []
        """Events of frames that our session sent by itself."""
        self.heard: dict[str, list[Any]] = {}
        """By topic, everything but changes."""
        self.changes: dict[str, list[list[Any]]] = {}
        """By topic, for each binding."""
        self.opening: Ticket | None = None
        self._refs: dict[str, str] = {}
        self._pushed: list[Push] = []
        self._time = started_at

    # --- what the recording says

    def play(self, record: Record) -> None:
        """Let the recorded thing happen."""
        self.pass_until(record.t)
        if record.kind == "close":
            self._end(record)
        elif record.kind == "http":
            self._upgraded(record)
        elif record.sent:
            self._step(record)
        else:
            self._feed(record)

    def pass_until(self, t: float) -> None:
        """Let time pass, a second at a time: whatever our session sends meanwhile was not asked."""
        while self._time < t:
            step = min(1.0, t - self._time)
            self.run_for(step)
            self._time += step
            self._own_pushes()

    def _upgraded(self, record: Record) -> None:
        self.opening = self.call(self.session.open)
        if record.status == 101:
            self.accept()
        else:
            self.drop(status=record.status, body=record.data)

    def _step(self, record: Record) -> None:
        try:
            found = asked(record)
            ticket = self._take(found)
        except (NotOurs, RealtimeError) as error:
            self.left_out[record] = error
            return
        pushes = self._news()
        if not pushes:
            self.left_out[record] = NotOurs("our client sends nothing")
            return
        push, *more = pushes
        assert not more, f"{record.name}: also {more}"
        self._refs[found.ref] = push.ref
        self.taken.append(Taken(record, found, ticket))
        self._compare(record, found, push)

    def _compare(self, record: Record, found: Asked, push: Push) -> None:
        """Our frame asks for the same as the recorded one, on the same join."""
        if found.join_ref is None or found.join_ref in self._refs:  # else it names a join that was left out
            assert push.join_ref == (found.join_ref and self._refs[found.join_ref]), record.name
        if isinstance(found.step, Join):
            frame = self.sent("phx_join")[-1]
            assert config_of(frame.payload) == config_of({"config": found.step.config}), record.name
        elif push.binary:
            assert sent_step(push.data) == found.step, record.name
        else:
            frame = self.codec.plain(push.data)
            assert text_step(frame.topic, frame.event, frame.payload) == found.step, record.name

    def _take(self, found: Asked) -> Ticket | None:
        topic, step = found.topic, found.step
        match step:
            case Join():
                return self._join(topic, step)
            case Ping():
                return self.call(self.session.ping, TIMEOUT)
            case _ if topic not in self.session.channels:
                raise NotOurs("a push on a topic that is not joined")
            case Leave():
                return self.call(self.session.leave, topic, TIMEOUT)
            case Send(event, payload, is_json):
                ack = self.session.channels[topic].options.ack
                return self.call(
                    self.session.broadcast, topic, OutgoingBroadcast(event, payload, is_json, ack, TIMEOUT)
                )
            case Track(payload):
                if not any(isinstance(t.asked.step, Join) and t.asked.step.presence for t in self.taken):
                    raise NotOurs("presence on a channel that was joined without: our client joins again for it")
                return self.call(self.session.track, topic, payload, TIMEOUT)

    def _join(self, topic: str, step: Join) -> Ticket:
        if topic not in self.session.channels:
            self.call(lambda now: self.session.channel(topic, step.options))
            wanted = (broadcast(), system(), presence()) if step.presence else (broadcast(), system())
            self.heard[topic] = self._listen(topic, *wanted)
            self.changes[topic] = [self._listen(topic, binding) for binding in step.bindings]
        return self.call(self.session.join, topic)

    def _listen(self, topic: str, *selectors: Selector[Any]) -> list[Any]:
        heard: list[Any] = []
        self.call(self.session.listen, topic, Listener(selectors, lambda event: heard.append(plain(event))))
        return heard

    # --- frames

    def _feed(self, record: Record) -> None:
        if record.kind == "binary":
            self.receive_raw(record.data, binary=True)
            return
        found = _SPOT[self.vsn].match(record.data)
        if found is None:  # a frame of the other version
            self.receive_raw(record.data)
            return
        ref, join = self._ref(found["ref"]), self._ref(found["join"])
        self.receive_raw(b"".join((found["a"], join, found["b"], ref, record.data[found.end() :])))

    def _ref(self, recorded: bytes) -> bytes:
        """Our ref for that of the recording; one of a frame that was left out is one that we never used."""
        if not recorded.startswith(b'"'):
            return recorded
        name = recorded[1:-1].decode()
        return b'"%b"' % self._refs.get(name, f"not-ours-{name}").encode()

    def on_transmit(self, effect: Transmit) -> None:
        """A frame of ours: its event and ref."""
        if effect.binary:
            join_ref, ref, *_ = (field.decode() for field in binary.unpack(binary.UP, effect.data).fields)
            self._pushed.append(Push("broadcast", ref, join_ref, effect.data, binary=True))
        else:
            frame = self.codec.plain(effect.data)
            assert frame.ref is not None
            self._pushed.append(Push(frame.event, frame.ref, frame.join_ref, effect.data, binary=False))

    def _news(self) -> list[Push]:
        pushed, self._pushed = self._pushed, []
        return pushed

    def _own_pushes(self) -> None:
        """What our session sent by itself meanwhile; its heartbeats are answered."""
        for push in self._news():
            self.unasked.append(push.event)
            if push.event == "heartbeat":
                self.receive("phoenix", "phx_reply", {"status": "ok", "response": {}}, ref=push.ref)
        self._pushed.clear()

    # --- the end

    def _end(self, record: Record) -> None:
        if record.code in SERVER_CODES or record.scenario == "idle-no-heartbeat":
            self.drop(code=record.code)
        else:
            self.close()

    def close(self) -> None:
        """Close the client, as its user would."""
        if self.session.state is ConnectionState.CLOSED:
            return
        self.call(self.session.close)
        if any(isinstance(effect, Disconnect) for effect in self.effects):
            self.drop(code=1000)

    def state_of(self, topic: str) -> ChannelState:
        return self.session.channels[topic].state
