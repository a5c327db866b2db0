"""Play one recorded connection with a session: take the steps of the client, and deliver the frames of the server.

The session chooses its own refs, so the recorded refs are replaced by them. Time is virtual and follows the recording.
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

from .events import as_tuple
from .recordings import Record
from .steps import (
    Join,
    Leave,
    NeverSent,
    Ping,
    RecordedStep,
    Send,
    Track,
    config_of,
    recorded_step,
    sent_step,
    text_step,
)

TIMEOUT: Final = 10.0
SERVER_CODES: Final = (1001, 1009, 1012)
_REFS: Final = {
    "1.0.0": re.compile(rb'^(?P<a>\{"ref":)(?P<ref>"[^"]*"|\d+|null)(?P<b>)(?P<join>)'),
    "2.0.0": re.compile(rb'^(?P<a>\[)(?P<join>"[^"]*"|null)(?P<b>,)(?P<ref>"[^"]*"|\d+|null)'),
}


class PlayedStep(NamedTuple):
    """A step that was played, with the ticket of its outcome."""

    record: Record
    step: RecordedStep
    ticket: Ticket | None


class Push(NamedTuple):
    """A frame that the session sent."""

    event: str
    ref: str
    join_ref: str | None
    data: bytes
    binary: bool


class Player(SessionHarness):
    """A session that plays one connection of a recording."""

    def __init__(self, vsn: str, started_at: float) -> None:
        options = SessionOptions(protocol=vsn, limits=Limits.off())  # pyright: ignore[reportArgumentType]
        super().__init__(options, token="header.claims.signature")
        self.vsn = vsn
        self.played: list[PlayedStep] = []
        self.skipped: dict[Record, Exception] = {}
        self.unrequested: list[str] = []
        """Events of the frames that the session sent without a recorded step."""
        self.events: dict[str, list[Any]] = {}
        """All events except changes, by topic."""
        self.changes: dict[str, list[list[Any]]] = {}
        """The changes of each binding, by topic."""
        self.opening: Ticket | None = None
        self._refs: dict[str, str] = {}
        self._pushed: list[Push] = []
        self._time = started_at

    # --- records

    def play(self, record: Record) -> None:
        """Repeat what the record describes."""
        self.pass_until(record.t)
        if record.kind == "close":
            self._end(record)
        elif record.kind == "http":
            self._answer_upgrade(record)
        elif record.sent:
            self._play_step(record)
        else:
            self._deliver(record)

    def pass_until(self, t: float) -> None:
        """Advance time in steps of a second; frames that the session sends meanwhile belong to no recorded step."""
        while self._time < t:
            step = min(1.0, t - self._time)
            self.run_for(step)
            self._time += step
            self._collect_unrequested()

    def _answer_upgrade(self, record: Record) -> None:
        self.opening = self.call(self.session.open)
        if record.status == 101:
            self.accept()
        else:
            self.drop(status=record.status, body=record.data)

    def _play_step(self, record: Record) -> None:
        try:
            found = recorded_step(record)
            ticket = self._perform(found)
        except (NeverSent, RealtimeError) as error:
            self.skipped[record] = error
            return
        pushes = self._new_pushes()
        if not pushes:
            self.skipped[record] = NeverSent("the client sends nothing")
            return
        push, *more = pushes
        assert not more, f"{record.name}: also {more}"
        self._refs[found.ref] = push.ref
        self.played.append(PlayedStep(record, found, ticket))
        self._compare(record, found, push)

    def _compare(self, record: Record, found: RecordedStep, push: Push) -> None:
        """Check that the sent frame has the meaning of the recorded one, on the same join."""
        if found.join_ref is None or found.join_ref in self._refs:  # otherwise it names a join that was skipped
            assert push.join_ref == (found.join_ref and self._refs[found.join_ref]), record.name
        if isinstance(found.step, Join):
            frame = self.sent("phx_join")[-1]
            assert config_of(frame.payload) == config_of({"config": found.step.config}), record.name
        elif push.binary:
            assert sent_step(push.data) == found.step, record.name
        else:
            frame = self.codec.plain(push.data)
            assert text_step(frame.topic, frame.event, frame.payload) == found.step, record.name

    def _perform(self, found: RecordedStep) -> Ticket | None:
        topic, step = found.topic, found.step
        match step:
            case Join():
                return self._join(topic, step)
            case Ping():
                return self.call(self.session.ping, TIMEOUT)
            case _ if topic not in self.session.channels:
                raise NeverSent("a push on a topic that is not joined")
            case Leave():
                return self.call(self.session.leave, topic, TIMEOUT)
            case Send(event, payload, is_json):
                ack = self.session.channels[topic].options.ack
                return self.call(
                    self.session.broadcast, topic, OutgoingBroadcast(event, payload, is_json, ack, TIMEOUT)
                )
            case Track(payload):
                if not any(isinstance(one.step.step, Join) and one.step.step.presence for one in self.played):
                    raise NeverSent("to track without presence in the join, the client joins again")
                return self.call(self.session.track, topic, payload, TIMEOUT)

    def _join(self, topic: str, step: Join) -> Ticket:
        if topic not in self.session.channels:
            self.call(lambda now: self.session.channel(topic, step.options))
            selectors = (broadcast(), system(), presence()) if step.presence else (broadcast(), system())
            self.events[topic] = self._listen(topic, *selectors)
            self.changes[topic] = [self._listen(topic, binding) for binding in step.bindings]
        return self.call(self.session.join, topic)

    def _listen(self, topic: str, *selectors: Selector[Any]) -> list[Any]:
        events: list[Any] = []
        self.call(self.session.listen, topic, Listener(selectors, lambda event: events.append(as_tuple(event))))
        return events

    # --- frames

    def _deliver(self, record: Record) -> None:
        if record.kind == "binary":
            self.receive_raw(record.data, binary=True)
            return
        found = _REFS[self.vsn].match(record.data)
        if found is None:  # a frame of the other version
            self.receive_raw(record.data)
            return
        ref, join = self._ref(found["ref"]), self._ref(found["join"])
        self.receive_raw(b"".join((found["a"], join, found["b"], ref, record.data[found.end() :])))

    def _ref(self, recorded: bytes) -> bytes:
        """Return the ref of the session for a recorded ref; an unused one if the recorded frame was skipped."""
        if not recorded.startswith(b'"'):
            return recorded
        name = recorded[1:-1].decode()
        return b'"%b"' % self._refs.get(name, f"skipped-{name}").encode()

    def on_transmit(self, effect: Transmit) -> None:
        """Collect a frame that the session sent."""
        if effect.binary:
            join_ref, ref, *_ = (field.decode() for field in binary.unpack(binary.UP, effect.data).fields)
            self._pushed.append(Push("broadcast", ref, join_ref, effect.data, binary=True))
        else:
            frame = self.codec.plain(effect.data)
            assert frame.ref is not None
            self._pushed.append(Push(frame.event, frame.ref, frame.join_ref, effect.data, binary=False))

    def _new_pushes(self) -> list[Push]:
        pushed, self._pushed = self._pushed, []
        return pushed

    def _collect_unrequested(self) -> None:
        """Collect the frames that the session sent without a recorded step, and reply to its heartbeats."""
        for push in self._new_pushes():
            self.unrequested.append(push.event)
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
        """Close the client as its user does."""
        if self.session.state is ConnectionState.CLOSED:
            return
        self.call(self.session.close)
        if any(isinstance(effect, Disconnect) for effect in self.effects):
            self.drop(code=1000)

    def state_of(self, topic: str) -> ChannelState:
        return self.session.channels[topic].state
