"""Live streams: text, bytes or JSON values that one client produces and others show while they grow.

A stream is sent as broadcasts, each a *segment*: a part of the data with its offset. `StreamSender` merges what is
written into few segments, sends again from the last confirmed offset after a failure, and answers readers who ask for
earlier parts by sending from that offset once more. `StreamReceiver` puts segments together, drops what it has already,
asks for what it misses, and compares length and digest at the end.

Offsets and lengths count bytes; text is UTF-8, and JSON values are lines of UTF-8.
"""

import base64
import hashlib
import math
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from supawire.errors import InvalidArgumentError

SEGMENT_EVENT: Final = "stream"
"""The event of the producer's broadcasts."""
REQUEST_EVENT: Final = "stream-request"
"""The event of the readers' broadcasts."""

StreamKind = Literal["text", "bytes", "json"]
StreamStatus = Literal["running", "complete", "cancelled", "failed", "lost", "interrupted", "corrupt", "too_large"]
"""running: not ended. complete, cancelled, failed: as the producer has ended it. lost: a part cannot be had any more.
interrupted: the producer no longer answers. corrupt: the digest differs. too_large: more than the reader accepts."""

MAX_ID: Final = 128
"""Characters of a stream's id."""
MAX_REASON: Final = 500
ANSWER_INTERVAL: Final = 0.25
"""Seconds between two answers to readers; requests meanwhile get one common answer."""
RETRY_PAUSE: Final = 0.5
"""Seconds from the failure of a segment to the next attempt."""
MAX_IN_FLIGHT: Final = 16
"""Segments that may wait for their confirmation."""
ANSWER_TIMEOUTS: Final = (1.0, 2.0, 4.0, 4.0)
"""Seconds that a reader waits after each request; without an answer to the last one the stream has ended."""


class StreamEnd(Struct, frozen=True, omit_defaults=True):
    """The end of a stream. length: bytes of all data. sha256: their digest, in hexadecimal."""

    status: Literal["complete", "cancelled", "failed"]
    length: int
    sha256: str
    reason: str | None = None


class Segment(Struct, frozen=True, omit_defaults=True):
    """One broadcast of a producer.

    run: chosen at random by each producer, so that a new stream with the id of an earlier one is recognised. seq: the
    number of the message. at: the offset of its data. text: the data; base64 for bytes. first: the offset of the
    earliest data that the producer still has. info: given by the producer, in segments with the earliest data.
    """

    id: str
    run: str
    seq: int
    at: int
    kind: StreamKind = "text"
    text: str = ""
    first: int = 0
    info: dict[str, Any] | None = None
    end: StreamEnd | None = None

    def data(self) -> bytes:
        """Return the data. Raises: ValueError."""
        if self.kind == "bytes":
            return base64.b64decode(self.text, validate=True)
        return self.text.encode()


class StreamRequest(Struct, frozen=True, omit_defaults=True):
    """One broadcast of a reader. want: "data" from the offset `at`, or "cancel", or "steer" with `data`.

    id: the stream; None, only with "data": every stream of the channel.
    """

    want: Literal["data", "cancel", "steer"]
    id: str | None = None
    at: int = 0
    data: Any = None


def read_segment(payload: object) -> Segment | None:
    """Convert the payload of a broadcast; None for one that is not a segment."""
    try:
        segment = msgspec.convert(payload, Segment)
    except msgspec.ValidationError:
        return None
    numbers = (segment.seq, segment.at, segment.first, segment.end.length if segment.end else 0)
    return segment if min(numbers) >= 0 and 0 < len(segment.id) <= MAX_ID else None


def read_request(payload: object) -> StreamRequest | None:
    """Convert the payload of a broadcast; None for one that is not a request."""
    try:
        request = msgspec.convert(payload, StreamRequest)
    except msgspec.ValidationError:
        return None
    return request if request.at >= 0 and (request.id is not None or request.want == "data") else None


def check_stream_id(id: object) -> str:
    """Return the id. Raises: InvalidArgumentError."""
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID or any("\ud800" <= char <= "\udfff" for char in id):
        raise InvalidArgumentError(f"the id of a stream must be text of 1 to {MAX_ID} characters, not {id!r}")
    return id


class StreamSender:
    """The producer's side of one stream.

    Args: segment_bytes: the most data of one segment. interval: seconds from one segment to the next, at least.
        history: bytes of confirmed data that are kept for readers who come later.
    """

    __slots__ = (
        "_answer_again_at",
        "_answer_at",
        "_base",
        "_data",
        "_digest",
        "_end_sent",
        "_history",
        "_in_flight",
        "_interval",
        "_requested",
        "_segment_bytes",
        "_send_at",
        "_sent",
        "_seq",
        "confirmed",
        "end",
        "id",
        "info",
        "kind",
        "run",
    )  # fmt: skip

    def __init__(
        self, id: str, run: str, kind: StreamKind, info: dict[str, Any] | None, *, segment_bytes: int, interval: float,
        history: int,
    ) -> None:  # fmt: skip
        self.id: Final = id
        self.run: Final = run
        self.kind: Final = kind
        self.info: Final = info
        self.confirmed: int = 0
        """The offset up to which the server has confirmed everything; the end counts as one more byte."""
        self.end: StreamEnd | None = None
        self._segment_bytes = segment_bytes
        self._interval = interval
        self._history = history
        self._data = bytearray()
        self._base = 0
        """The offset of the first byte of `_data`."""
        self._digest = hashlib.sha256()
        self._sent = 0
        self._end_sent = False
        self._in_flight = 0
        self._send_at = 0.0
        self._requested: int | None = None
        self._answer_at = 0.0
        self._answer_again_at = 0
        """The offset that must be sent before the next answer, so that answers take at most half of the messages."""
        self._seq = 0

    @property
    def length(self) -> int:
        """The number of bytes written so far."""
        return self._base + len(self._data)

    @property
    def unsent(self) -> int:
        """The number of bytes that are not sent yet."""
        return self.length - self._sent

    @property
    def done(self) -> bool:
        """Whether the end is confirmed."""
        return self.end is not None and self.confirmed > self.length

    @property
    def messages(self) -> int:
        """The number of segments made so far."""
        return self._seq

    @property
    def data(self) -> bytes | None:
        """All data, or None if the beginning was dropped."""
        return bytes(self._data) if self._base == 0 else None

    def write(self, data: bytes) -> None:
        """Append data; must not be called after `finish`."""
        self._data += data
        self._digest.update(data)

    def finish(self, status: Literal["complete", "cancelled", "failed"], reason: str | None = None) -> None:
        """End the stream; a second call does nothing."""
        if self.end is None:
            reason = None if reason is None else reason[:MAX_REASON]
            self.end = StreamEnd(status, self.length, self._digest.hexdigest(), reason)

    def request(self, at: int) -> None:
        """Handle a reader who asks for everything from this offset."""
        if not self._sent <= at < self.length:  # else it is sent anyway
            self._requested = at if self._requested is None else min(self._requested, at)

    def next_at(self) -> float | None:
        """Return the time at which `take` has the next segment; None: not before a call of another method."""
        if self._in_flight >= MAX_IN_FLIGHT:
            return None
        if self._sent < self.length or (self.end is not None and not self._end_sent):
            return self._send_at
        return None if self._requested is None else max(self._send_at, self._answer_at)

    def take(self, now: float) -> Segment | None:
        """Return the segment to send now, or None. Afterwards call `acknowledge` or `fail` once for it."""
        at = self.next_at()
        if at is None or at > now:
            return None
        if self._requested is not None and self._answer_at <= now and self._may_answer():
            reached = self._sent
            self._sent = self._start_of_character(max(self._base, min(self._sent, self._requested)))
            self._end_sent = False
            self._requested = None
            self._answer_at = now + ANSWER_INTERVAL
            self._answer_again_at = 2 * reached - self._sent
        start = self._sent
        data = self._cut(start)
        self._sent = start + len(data)
        self._end_sent = self.end is not None and self._sent == self.length
        self._send_at = now + self._interval
        self._in_flight += 1
        self._seq += 1
        return Segment(
            self.id, self.run, self._seq, start, self.kind,
            base64.b64encode(data).decode() if self.kind == "bytes" else data.decode(),
            self._base, self.info if start == self._base else None, self.end if self._end_sent else None,
        )  # fmt: skip

    def acknowledge(self, segment: Segment) -> None:
        """Handle that the server has confirmed a segment."""
        self._in_flight -= 1
        if segment.at <= self.confirmed:  # otherwise an earlier one has failed
            self.confirmed = max(self.confirmed, segment.at + len(segment.data()) + (segment.end is not None))
        surplus = min(self.confirmed, self._sent) - self._base - self._history
        if surplus > self._history // 4:  # not for each segment, as it moves the rest
            base = self._start_of_character(self._base + surplus)
            del self._data[: base - self._base]
            self._base = base

    def fail(self, segment: Segment, now: float) -> None:
        """Handle that a segment may not have arrived: send again from the last confirmed offset, after a pause."""
        self._in_flight -= 1
        self._send_at = max(self._send_at, now + RETRY_PAUSE)
        self._sent = max(self._base, min(self._sent, self.confirmed, segment.at))  # earlier data may be dropped by now
        self._end_sent = False

    def _may_answer(self) -> bool:
        return self._sent >= self._answer_again_at or self._sent == self.length

    def _cut(self, start: int) -> bytes:
        """Return the next data to send, at most one segment, and whole characters of text."""
        begin = start - self._base
        stop = min(len(self._data), begin + self._segment_bytes)
        if stop < len(self._data):
            stop = self._start_of_character(self._base + stop) - self._base
        return bytes(self._data[begin:stop])

    def _start_of_character(self, offset: int) -> int:
        """Return this offset, or that of the character in which it lies."""
        if self.kind != "bytes":
            while self._base < offset < self.length and self._data[offset - self._base] & 0xC0 == 0x80:
                offset -= 1
        return offset


class StreamReceiver:
    """A reader's side of one stream.

    Args: most: bytes that are accepted; a longer stream ends with the status too_large. idle: seconds without a segment
        after which the producer is asked whether it is still there. start_timeout: seconds until the first segment has
        to come; None: no limit.
    """

    __slots__ = (
        "_digest", "_idle", "_line", "_most", "_request_at", "_requests", "_size", "_start_by", "deadline", "id",
        "info", "kind", "parts", "reason", "run", "status",
    )  # fmt: skip

    def __init__(self, id: str, now: float, *, most: int, idle: float, start_timeout: float | None) -> None:
        self.id: Final = id
        self.run: str | None = None
        """The producer's run; None before the first segment."""
        self.kind: StreamKind = "text"
        self.info: dict[str, Any] | None = None
        self.status: StreamStatus = "running"
        self.reason: str | None = None
        """Why the stream has ended, if it was not completed."""
        self.parts: Final[list[bytes]] = []
        """The data received so far, in order."""
        self.deadline: float | None = now
        """When to call `tick`; None when the stream has ended."""
        self._most = most
        self._idle = idle
        self._start_by = math.inf if start_timeout is None else now + start_timeout
        self._size = 0
        self._digest = hashlib.sha256()
        self._line: list[bytes] = []
        """The pieces of a JSON value that is not complete yet."""
        self._request_at: int | None = None
        self._requests = 0

    @property
    def length(self) -> int:
        """The number of bytes received so far."""
        return self._size

    @property
    def unanswered(self) -> int:
        """The number of requests without an answer so far."""
        return self._requests

    def receive(self, segment: Segment, now: float) -> None:
        """Handle a segment of this stream."""
        if self.status != "running":
            return
        if self.run is None:
            self.run, self.kind = segment.run, segment.kind
        if segment.info is not None:
            self.info = segment.info
        if segment.at > self._size:
            self._miss(segment, now)
            return
        try:
            data = segment.data()
        except ValueError:
            self._end("corrupt", "a segment is not valid")
            return
        if self._append(data[self._size - segment.at :]):
            self._requests = 0
            self.deadline = now + self._idle
            if segment.end is not None:
                self._finish(segment.end, now)

    def restore(
        self, data: bytes, kind: StreamKind, info: dict[str, Any] | None, status: str, reason: str | None
    ) -> None:
        """Handle a stored copy of the stream; if it has ended, the stream ends in the same way."""
        if self.status != "running" or len(data) < self._size or (self.run is not None and self.kind != kind):
            return
        self.kind = kind
        self.info = info if self.info is None else self.info
        if self._append(data[self._size :]) and status in ("complete", "cancelled", "failed"):
            exact = self._digest.digest() == hashlib.sha256(data).digest()
            self._end(status if exact else "corrupt", reason if exact else "the stored stream is another one")

    def ask(self, now: float) -> None:
        """Ask for what is missing at the next `tick`, which is due at once; for example after a reconnect."""
        if self.status == "running":
            self._requests = 0
            self.deadline = now

    def tick(self, now: float) -> StreamRequest | None:
        """Return the request to send now, if any; call it when `deadline` is due."""
        if self.deadline is None or now < self.deadline:
            return None
        if self.run is None and now >= self._start_by:
            self._end("interrupted", "no producer of the stream answers")
            return None
        if self._requests < len(ANSWER_TIMEOUTS):
            self.deadline = now + ANSWER_TIMEOUTS[self._requests]
            self._requests += 1
            return StreamRequest("data", self.id, self._size)
        if self.run is None:  # it may begin later
            self._requests = 0
            self.deadline = min(now + self._idle, self._start_by)
        else:
            missing = self._request_at == self._size
            self._end("lost" if missing else "interrupted", "the producer of the stream does not answer")
        return None

    def interrupt(self, reason: str) -> None:
        """End the stream here, if it is running, because no more segments will be received."""
        if self.status == "running":
            self._end("interrupted", reason)

    def _append(self, data: bytes) -> bool:
        """Add data; return False if the stream ended because they cannot be added."""
        if self._size + len(data) > self._most:
            self._end("too_large", f"the stream has more than {self._most} bytes")
            return False
        try:
            if self.kind != "bytes":
                data.decode()
            if self.kind == "json":
                self._check_lines(data)
        except (ValueError, msgspec.DecodeError, RecursionError):
            self._end("corrupt", "a segment is not valid")
            return False
        if data:
            self._size += len(data)
            self._digest.update(data)
            self.parts.append(data)
        return True

    def _check_lines(self, data: bytes) -> None:
        """Check the JSON values that these data complete. Raises: msgspec.DecodeError, RecursionError."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._line, lines[0]])
            self._line.clear()
        self._line.append(rest)
        for line in lines:
            msgspec.json.decode(line)

    def _miss(self, segment: Segment, now: float) -> None:
        """Handle a segment that begins behind the data received so far."""
        if segment.first > self._size:
            self._end("lost", f"the producer no longer has the bytes from {self._size} to {segment.first}")
        elif self._request_at != self._size:  # else it was asked for these already
            self._request_at = self._size
            self.ask(now)

    def _finish(self, end: StreamEnd, now: float) -> None:
        if end.length > self._size:
            self.ask(now)
        elif end.length == self._size and end.sha256 == self._digest.hexdigest():
            if end.status == "complete" and any(self._line):
                self._end("corrupt", "the last JSON value is not complete")
            else:
                self._end(end.status, end.reason)
        else:
            self._end("corrupt", "length or digest differ from those of the producer")

    def _end(self, status: StreamStatus, reason: str | None) -> None:
        self.status, self.reason, self.deadline = status, reason, None
