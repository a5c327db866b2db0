"""A transport that records every frame, and answers as the test defines.

    wire = RecordingTransport()                     # alone: no network and no server, everything is answered "ok"
    wire = RecordingTransport(WebSocketTransport()) # around another one, whose server answers
    async with connect_async(url, key, transport=wire) as client: ...
    assert [frame.user_event for frame in wire.sent("broadcast")] == ["typing"]

Without rules, and without another transport, joins, leaves, tracks, heartbeats and broadcasts with acknowledgement are
answered "ok", and a join with row changes also gets the confirmation of its subscription. There are no other messages
and no other participants: use `VirtualServer` or `LocalServer` for that. Recorded frames are decoded and contain no
tokens.

A sync client runs on a thread of its own; all methods here may be called from any thread.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from typing import Any, Final, cast

from msgspec import Raw

from supawire.core import frames
from supawire.core.codec import CODECS, encode_json
from supawire.errors import ConnectError, StateError
from supawire.options import check_choice, check_count, check_event, check_json, check_topic
from supawire.testing.recorded_frames import (
    PLAYED,
    Binding,
    RecordedFrame,
    Recording,
    bindings_of,
    change_for,
    raw_payload,
    read,
)
from supawire.transport.base import Closed, Connection, OpenRequest, Sink, Transport
from supawire.transport.memory import MemoryConnection, MemoryFrame, MemoryPeer

ANSWERED: Final = (frames.JOIN, frames.LEAVE, frames.HEARTBEAT, frames.BROADCAST, frames.PRESENCE)
"""The events that are answered."""

STATUSES: Final = ("ok", "error")

Reply = tuple[str, str, Any, str | None, str | None]
"""Topic, event, payload, ref and join_ref of a frame for the client."""


@dataclass
class Rule:
    """The answer to the next frames of an event."""

    event: str
    topic: str | None
    reply: dict[str, Any] | None
    remaining: int | None

    def matches(self, frame: RecordedFrame) -> bool:
        """Return whether the rule applies to this frame."""
        return frame.event == self.event and self.topic in (None, frame.topic)


class Answers:
    """The rules of a test, newest last, and the default answers."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._confirmed: set[str] = set()
        """Topics joined with acknowledgement of broadcasts."""

    def add(self, event: str, topic: str | None, reply: dict[str, Any] | None, times: int | None) -> None:
        """Add a rule for the next `times` frames, or all if None; with a reply of None they are not answered."""
        check_choice("event", event, ANSWERED)
        full = topic if topic in (None, frames.PHOENIX) else check_topic(topic)
        self._rules.append(Rule(event, full, reply, None if times is None else check_count("times", times)))

    def clear(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def find(self, frame: RecordedFrame) -> Rule | None:
        """Return the rule for this frame and count it as used."""
        rule = next((rule for rule in self._rules if rule.matches(frame)), None)
        if rule is not None and rule.remaining is not None:
            rule.remaining -= 1
            if not rule.remaining:
                self._rules.remove(rule)
        return rule

    def reply_of(self, rule: Rule, frame: RecordedFrame) -> Iterator[Reply]:
        """Yield the frames of a rule's answer."""
        if rule.reply is not None:
            yield str(frame.topic), frames.REPLY, rule.reply, frame.ref, frame.join_ref

    def default_reply(self, frame: RecordedFrame) -> Iterator[Reply]:
        """Yield the default answer to a frame."""
        if frame.event not in ANSWERED or frame.topic is None:
            return
        if frame.event == frames.BROADCAST and frame.topic not in self._confirmed:
            return
        response: dict[str, Any] = {}
        if frame.event == frames.JOIN:
            bindings = frame.config.get("postgres_changes", [])
            response = {"postgres_changes": [{**one, "id": number} for number, one in enumerate(bindings, 1)]}
            self._remember_acks(frame)
        yield frame.topic, frames.REPLY, {"status": "ok", "response": response}, frame.ref, frame.join_ref
        if frame.event == frames.JOIN:
            yield from _after_join(frame)
        if frame.event == frames.LEAVE:
            yield frame.topic, frames.CLOSE, {}, frame.join_ref, frame.join_ref

    def _remember_acks(self, frame: RecordedFrame) -> None:
        confirmed = frame.config.get("broadcast", {}).get("ack") is True
        (self._confirmed.add if confirmed else self._confirmed.discard)(str(frame.topic))


def _after_join(frame: RecordedFrame) -> Iterator[Reply]:
    topic, config = str(frame.topic), frame.config
    if config.get("presence", {}).get("enabled"):
        yield topic, frames.PRESENCE_STATE, {}, None, frame.join_ref
    if config.get("postgres_changes"):
        live = {"extension": "postgres_changes", "status": "ok", "message": "Subscribed to PostgreSQL"}
        yield topic, frames.SYSTEM, {**live, "channel": topic.removeprefix(frames.PREFIX)}, None, frame.join_ref


MAX_FRAMES_KEPT: Final = 10_000
"""Maximum number of recorded frames; older ones are discarded."""


class RecordingTransport:
    """Records the frames of every connection.

    Args: inner: the transport that opens them; if omitted, there is no server.
    """

    def __init__(self, inner: Transport | None = None) -> None:
        self._inner = inner
        self._frames: deque[RecordedFrame] = deque(maxlen=MAX_FRAMES_KEPT)
        self._refusals: deque[ConnectError] = deque()
        self._open: list[RecordingConnection] = []
        self._answers = Answers()
        self._played: dict[str, list[Binding]] = {}
        """The bindings of the recording that is played, by topic."""
        self._started_at: datetime | None = None
        self._first_at: float | None = None
        self.attempts: int = 0
        """How many times the client has tried to connect."""

    # --- recorded frames

    @property
    def frames(self) -> list[RecordedFrame]:
        """The newest 10,000 frames of both directions, in order."""
        return list(self._frames)

    def sent(self, event: str | None = None, *, topic: str | None = None) -> list[RecordedFrame]:
        """Return the frames that the client sent: all, or those of one event or topic."""
        return self._chosen("out", event, topic)

    def received(self, event: str | None = None, *, topic: str | None = None) -> list[RecordedFrame]:
        """Return the frames that the client received."""
        return self._chosen("in", event, topic)

    def clear(self) -> None:
        """Remove the recorded frames."""
        self._frames.clear()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the recorded frames to a file, tokens hidden; `Recording.load` reads it. Raises: OSError."""
        Recording(tuple(self.frames), self._started_at).save(path)

    def _chosen(self, direction: str, event: str | None, topic: str | None) -> list[RecordedFrame]:
        full = topic if topic in (None, frames.PHOENIX) else check_topic(topic)
        every = [frame for frame in self.frames if frame.direction == direction]
        return [frame for frame in every if event in (None, frame.event) and full in (None, frame.topic)]

    # --- rules

    def answer(
        self,
        event: str,
        response: Any = None,
        *,
        status: str = "ok",
        topic: str | None = None,
        times: int | None = 1,
    ) -> None:
        """Set the answer to the client's next frames of this event; they are not passed to the inner transport.

        Args: event: phx_join, phx_leave, heartbeat, broadcast or presence. response: the response in the reply; empty
            if omitted. times: how many frames; None: all from now on.
        Raises: InvalidArgumentError.
        """
        check_choice("status", status, STATUSES)
        held = Raw(check_json({} if response is None else response, "response"))
        self._answers.add(event, topic, {"status": status, "response": held}, times)

    def ignore(self, event: str, *, topic: str | None = None, times: int | None = 1) -> None:
        """Do not answer the client's next frames of this event."""
        self._answers.add(event, topic, None, times)

    def refuse(
        self, status: int | None = None, body: str = "", *, retry_after: float | None = None, times: int = 1
    ) -> None:
        """Refuse the next connection attempts: with an HTTP status or, without one, as if no server were listening."""
        for _ in range(times):
            self._refusals.append(
                ConnectError("refused by the test", status=status, body=body or None, retry_after=retry_after)
            )

    def reset(self) -> None:
        """Remove all rules for answers and refusals."""
        self._answers.clear()
        self._refusals.clear()

    def say(self, topic: str, event: str, payload: Any, *, ref: str | None = None, join_ref: str | None = None) -> None:
        """Pass this frame to the client, as if sent by the server. Raises: StateError if there is no connection."""
        self._newest().send([(check_topic(topic), event, Raw(check_json(payload)), ref, join_ref)])

    def broadcast(self, topic: str, event: str, payload: Any) -> None:
        """Pass this broadcast to the client. Raises: StateError if there is no connection."""
        message = {"type": "broadcast", "event": check_event(event), "payload": payload}
        self.say(topic, frames.BROADCAST, message)

    def play(self, recorded: Iterable[RecordedFrame]) -> int:
        """Pass the events in recorded frames to the client, and return how many there were.

        Broadcasts, row changes and presence go to the channels of their topics, if the client has joined them; row
        changes to the listeners that match. Other frames belong to the recorded connection and are skipped.
        Raises: StateError if there is no connection.
        """
        count = 0
        for frame in recorded:
            if (bindings := bindings_of(frame)) is not None:
                self._played[str(frame.topic)] = bindings
            elif frame.direction == "in" and frame.event in PLAYED:
                count += self._newest().play(frame, self._played.get(str(frame.topic), []))
        return count

    def drop(self) -> None:
        """Drop the connection without a close frame. Raises: StateError if there is none."""
        self._newest().drop()

    def _newest(self) -> "RecordingConnection":
        if not self._open:
            raise StateError("the client is not connected")
        return self._open[-1]

    # --- transport interface

    async def open(self, request: OpenRequest, /) -> "RecordingConnection":
        """Open a recorded connection; see `Transport.open`."""
        self.attempts += 1
        number = self.attempts
        if self._refusals:
            raise self._refusals.popleft()
        inner = _connect_without_server() if self._inner is None else await self._inner.open(request)
        version = frames.V1 if f"vsn={frames.V1}" in request.endpoint.socket_url else frames.V2
        connection = RecordingConnection(self, self._answers, inner, version, number, alone=self._inner is None)
        self._open.append(connection)
        return connection

    def record(self, frame: RecordedFrame) -> None:
        """Record a frame."""
        if self._started_at is None:
            self._started_at = datetime.now(UTC)
        self._frames.append(frame)

    def elapsed(self) -> float:
        """Return the seconds since the first frame, by the clock of the event loop."""
        now = asyncio.get_running_loop().time()
        if self._first_at is None:
            self._first_at = now
        return now - self._first_at

    def remove(self, connection: "RecordingConnection") -> None:
        """Called when a connection has ended."""
        if connection in self._open:
            self._open.remove(connection)


class RecordingConnection:
    """The client's end of a recorded connection."""

    def __init__(
        self,
        transport: RecordingTransport,
        answers: Answers,
        inner: Connection,
        version: str,
        number: int,
        *,
        alone: bool,
    ) -> None:
        self._transport = transport
        self._answers = answers
        self._inner = inner
        self._codec = CODECS[version]
        self._number = number
        self._alone = alone
        self._loop = asyncio.get_running_loop()
        self._accepted = 0
        self._answered_here: list[int] = []
        """Numbers, counted from 1, of the frames that were answered here and not passed on."""
        self._sink: Sink | None = None
        self._waiting: deque[tuple[bytes, bool]] = deque()
        self._reading = True
        self._bindings: dict[str, list[Binding]] = {}
        """The bindings of row changes that the client has joined with, by topic."""

    # --- connection interface

    @property
    def fileno(self) -> Callable[[], int]:
        """The method of the inner connection, if it has one."""
        inner: Any = self._inner
        return inner.fileno

    @property
    def clock_offset(self) -> float | None:
        """The value of the inner connection, if it has one."""
        return getattr(self._inner, "clock_offset", None)

    @property
    def written(self) -> int:
        """The number of frames handed on, including those answered here."""
        return self._written_in_all(self._inner.written)

    def write(self, data: bytes, binary: bool, /) -> None:
        """Record a frame, and answer it or pass it on."""
        self._accepted += 1
        frame = read("out", self._number, data, binary, self._transport.elapsed())
        self._transport.record(frame)
        if (rule := self._answers.find(frame)) is not None:
            self._answered_here.append(self._accepted)
            self.send(self._answers.reply_of(rule, frame))
            return
        self._inner.write(data, binary)
        if self._alone:
            self.send(self._answers.default_reply(frame))

    async def flush(self, count: int, /) -> bool:
        """Wait until `count` frames are handed on; return False when the connection ends before."""
        return await self._inner.flush(count - bisect_right(self._answered_here, count))

    async def run(self, sink: Sink, /) -> Closed:
        """Read until the connection ends, and return how it ended."""
        self._sink = sink
        self._deliver_waiting()
        try:
            end = await self._inner.run(cast("Sink", _Tee(self, sink)))  # cast: its max_batch is a property
        finally:
            self._sink = None
            self._transport.remove(self)
        written = None if end.written is None else self._written_in_all(end.written)
        return Closed(end.code, end.text, written)

    def pause_reading(self) -> None:
        """Stop passing frames to the sink."""
        self._reading = False
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Continue to pass frames to the sink."""
        self._reading = True
        self._inner.resume_reading()
        self._loop.call_soon(self._deliver_waiting)

    async def close(self, code: int = 1000) -> None:
        """Close the connection with a close frame."""
        self._transport.remove(self)
        await self._inner.close(code)

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.remove(self)
        self._inner.abort()

    # --- called by the test, from any thread

    def send(self, frames_: Iterable[Reply]) -> None:
        """Pass these frames to the client, in the next iteration of its event loop."""
        every = [(self._encode(*reply), False) for reply in frames_]
        if every:
            self._loop.call_soon_threadsafe(self._enqueue, every)

    def play(self, frame: RecordedFrame, recorded: list[Binding]) -> bool:
        """Pass a recorded event to the client; return False if none of its listeners can match."""
        topic, event = str(frame.topic), str(frame.event)
        if frame.binary:
            if self._codec.version == frames.V2:
                self._loop.call_soon_threadsafe(self._enqueue, [(frame.data, True)])
            elif not isinstance(frame.payload, bytes):  # version 1.0.0 has no binary messages
                message = {"type": "broadcast", "event": frame.user_event, "payload": frame.payload}
                self.send([(topic, event, message, None, None)])
            return True
        payload: Any = raw_payload(frame)
        if event == frames.POSTGRES_CHANGES:
            payload = change_for(payload, recorded, self._bindings.get(topic, []))
        if payload is not None:
            self.send([(topic, event, payload, None, None)])
        return payload is not None

    def drop(self) -> None:
        """Drop the connection."""
        self._loop.call_soon_threadsafe(self._inner.abort)

    def _encode(self, topic: str, event: str, payload: Any, ref: str | None, join_ref: str | None) -> bytes:
        if self._codec.version == frames.V1:
            return encode_json({"topic": topic, "event": event, "payload": payload, "ref": ref})
        return self._codec.encode(join_ref, ref, topic, event, payload)

    def _enqueue(self, every: list[tuple[bytes, bool]]) -> None:
        self._waiting.extend(every)
        self._deliver_waiting()

    def _deliver_waiting(self) -> None:
        while self._waiting and self._sink is not None and self._reading:
            data, is_binary = self._waiting.popleft()
            self.deliver(self._sink, data, binary=is_binary)
            self._sink.batch_done()

    def deliver(self, sink: Sink, data: bytes, *, binary: bool) -> None:
        """Record a frame and pass it to the client."""
        frame = read("in", self._number, data, binary, self._transport.elapsed())
        if (bindings := bindings_of(frame)) is not None:
            self._bindings[str(frame.topic)] = bindings
        self._transport.record(frame)
        sink.frame(data, binary)

    def _written_in_all(self, inner: int) -> int:
        """Return how many frames passed to `write` are done when the inner connection has written `inner` frames."""
        done = inner
        for number in self._answered_here:
            if number > done + 1:
                break
            done += 1
        return done


class _Tee:
    """Records the frames on their way to the client's sink."""

    def __init__(self, connection: RecordingConnection, sink: Sink) -> None:
        self._connection = connection
        self._sink = sink

    @property
    def max_batch(self) -> int:
        """The value of the client's sink."""
        return self._sink.max_batch

    @max_batch.setter
    def max_batch(self, max_batch: int) -> None:
        self._sink.max_batch = max_batch

    def frame(self, data: bytes, binary: bool, /) -> None:
        """Pass one frame on."""
        self._connection.deliver(self._sink, data, binary=binary)

    def batch_done(self) -> None:
        """Pass the call on."""
        self._sink.batch_done()


class _SilentPeer(MemoryPeer):
    """A peer that discards all frames; `RecordingConnection` answers instead."""

    def receive_from_client(self, item: MemoryFrame | Closed) -> None:
        del item


def _connect_without_server() -> MemoryConnection:
    connection = MemoryConnection()
    connection.peer = _SilentPeer(connection)
    return connection
