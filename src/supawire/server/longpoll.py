"""Sessions of long polling, as Phoenix serves them, without the HTTP server. See docs/protocol.md, Long polling.

A session is a connection of the hub like a WebSocket. Frames for it wait here until the client polls. The shell passes
each request to `LongPolls.answer`, frames and ends that the hub orders to `send` and `end`, and takes finished answers
from `ready`.
"""

from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol, TypeAlias

from supawire.events import Instant
from supawire.server.effects import Later, Refusal, Request, RestAnswer
from supawire.server.hub import Hub
from supawire.server.hub_options import Bits
from supawire.server.schedule import Timer
from supawire.server.wire import encode

MAX_BODY: Final = 8_000_000
"""Maximum bytes of a POST; a longer one is answered with 400."""
MAX_BUFFERED: Final = 32_000_000
"""Maximum bytes that wait for the next poll; above it the session is ended. Phoenix has no such limit."""
MAX_SESSIONS: Final = 10_000
"""Maximum number of sessions. Phoenix has no such limit."""
NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json; charset=utf-8"
CORS: Final = (
    ("access-control-allow-methods", "get, post, options"),
    ("access-control-max-age", "3600"),
)

ABORTED: Final = RestAnswer(0)
"""In place of an answer: the connection of the request is aborted."""

Outcome: TypeAlias = RestAnswer | Later


class Log(Protocol):
    """Receives what happens, for the inspector (`inspector.history.History`)."""

    def frame_received(self, connection: int, data: bytes, binary: bool, now: Instant) -> None:
        """Record a frame from a client."""
        ...

    def connection_opened(self, connection: int, v2: bool, now: Instant) -> None:
        """Record a new session."""
        ...

    def connection_refused(self, connection: int, refusal: Refusal, now: Instant) -> None:
        """Record a refused one."""
        ...

    def connection_closed(self, connection: int, code: int | None, now: Instant) -> None:
        """Record the end of a session."""
        ...


@dataclass(slots=True, eq=False)
class Session:
    """One session. `poll` is the number of the request that waits, None without one."""

    conn: int
    token: str = field(repr=False)
    polled_at: float
    buffer: deque[bytes] = field(default_factory=deque[bytes])
    size: int = 0
    poll: int | None = None
    poll_timer: Timer | None = None
    idle_timer: Timer | None = None
    answering: bool = False
    """Whether the poll that waits is answered at the end of this batch of frames."""
    paused: bool = False
    """Whether frames wait behind a join and no more are accepted."""


class LongPolls:
    """All sessions of a hub.

    Args: new_connection: returns a number for another connection of the hub. log: receives what happens.
    """

    def __init__(self, hub: Hub, random: Bits, new_connection: Callable[[], int], log: Log | None = None) -> None:
        self._hub = hub
        self._random = random
        self._new_connection = new_connection
        self._log = log
        self._window: Final = hub.options.timings.poll
        self._by_token: dict[str, Session] = {}
        self._by_conn: dict[int, Session] = {}
        self._numbers = count(1)
        self.ready: Final[deque[tuple[int, RestAnswer]]] = deque()
        """Answers to requests that were answered with `Later`, by their number."""

    def __len__(self) -> int:
        return len(self._by_conn)

    def __contains__(self, conn: int) -> bool:
        return conn in self._by_conn

    # --- requests

    def answer(self, method: str, request: Request, content_type: str, body: bytes, now: Instant) -> Outcome:
        """Answer a request, now or later."""
        if method == "OPTIONS":
            return RestAnswer(200, headers=CORS)
        if method not in ("GET", "POST"):
            return RestAnswer(400)
        session = self._by_token.get(request.query.get("token", ""))
        if session is None:
            return self._start(request, now) if method == "GET" else _status(410)
        self._hub.reset_idle_timeout(session.conn, now)
        return self._poll(session, now) if method == "GET" else self._post(session, content_type, body, now)

    def _start(self, request: Request, now: Instant) -> Outcome:
        if len(self) >= MAX_SESSIONS:
            return RestAnswer(503, b"too many sessions of long polling")
        conn = self._new_connection()
        answer = self._hub.connect(conn, request, now)
        if isinstance(answer, Refusal):
            if self._log is not None:
                self._log.connection_refused(conn, answer, now)
            if answer.in_front:
                return RestAnswer(answer.status, answer.body, answer.content_type)
            return _status(403)  # Phoenix gives no reason
        token = urlsafe_b64encode(self._random.getrandbits(192).to_bytes(24, "big")).decode()
        session = self._by_token[token] = self._by_conn[conn] = Session(conn, token, now.mono)
        if self._log is not None:
            self._log.connection_opened(conn, answer.v2, now)
        self._check_later(session)
        return _messages(410, token, ())

    def _poll(self, session: Session, now: Instant) -> Outcome:
        session.polled_at = now.mono
        if session.buffer:
            return self._flush(session)
        self._finish(session, _messages(204, session.token, ()))  # a second poll replaces one that waits
        session.poll = number = next(self._numbers)
        session.poll_timer = self._hub.schedule.at(
            now.mono + self._window, lambda: self._finish(session, _messages(204, session.token, ()))
        )
        return Later(number)

    def _post(self, session: Session, content_type: str, body: bytes, now: Instant) -> Outcome:
        if len(body) > MAX_BODY:
            return RestAnswer(400, b"Bad Request")
        if session.paused:
            return _status(408)
        for frame in body.replace(b"\r\n", b"\n").split(b"\n") if content_type == NDJSON else (body,):
            if session.conn not in self._by_conn:
                break  # an earlier frame has ended the connection
            if self._log is not None:
                self._log.frame_received(session.conn, frame, False, now)
            self._hub.receive(session.conn, frame, False, now)
        return ABORTED if self._hub.fault_rules.loses_answer("POST") else _status(200)

    # --- orders of the hub

    def send(self, conn: int, data: bytes, binary: bool, now: Instant) -> None:
        """Keep a frame until the next poll, or answer the one that waits.

        A binary frame is dropped: Phoenix has no encoding of it. Clients of version 1.0.0 get none.
        """
        session = self._by_conn[conn]
        if binary:
            return
        session.buffer.append(data)
        session.size += len(data)
        if session.size > MAX_BUFFERED:
            self.end(conn, None, now)
        elif session.poll is not None and not session.answering:  # together with the frames that follow at once
            session.answering = True
            self._hub.schedule.at(now.mono, lambda: self._finish(session, None))

    def end(self, conn: int, code: int | None, now: Instant) -> None:
        """End a session. Without a code, the connection of a poll that waits is aborted; later requests get 410."""
        session = self._by_conn.pop(conn)
        del self._by_token[session.token]
        if code is None:
            self._finish(session, ABORTED)
        else:
            self._finish(session, self._flush(session) if session.buffer else _messages(204, session.token, ()))
        for timer in (session.idle_timer, session.poll_timer):
            if timer is not None:
                timer.cancel()
        if self._log is not None:
            self._log.connection_closed(conn, code, now)
        self._hub.disconnected(conn, now)

    def set_reading(self, conn: int, reading: bool) -> None:
        """Refuse or accept further frames."""
        self._by_conn[conn].paused = not reading

    def stop(self, now: Instant) -> None:
        """End all sessions and abort their polls."""
        for conn in list(self._by_conn):
            self.end(conn, None, now)

    # --- parts

    def _finish(self, session: Session, answer: RestAnswer | None) -> None:
        """Answer the poll that waits, if any; with None, with the frames that wait."""
        number, session.poll, session.answering = session.poll, None, False
        if session.poll_timer is not None:
            session.poll_timer.cancel()
            session.poll_timer = None
        if number is not None:
            self.ready.append((number, self._flush(session) if answer is None else answer))

    def _flush(self, session: Session) -> RestAnswer:
        frames = tuple(session.buffer)
        session.buffer.clear()
        session.size = 0
        if self._hub.fault_rules.loses_answer("GET"):
            return ABORTED
        return _messages(200, session.token, frames)

    def _check_later(self, session: Session) -> None:
        at = self._hub.now.mono + 1.5 * self._window
        session.idle_timer = self._hub.schedule.at(at, lambda: self._check(session))

    def _check(self, session: Session) -> None:
        """End a session that was not polled for longer than 1.5 windows; checked once in that time, as in Phoenix."""
        now = self._hub.now
        if session.poll is None and now.mono - session.polled_at > 1.5 * self._window:
            self.end(session.conn, 1000, now)
        else:
            self._check_later(session)


def _status(status: int) -> RestAnswer:
    return RestAnswer(200, b'{"status":%d}' % status, JSON)


def _messages(status: int, token: str, frames: tuple[bytes, ...]) -> RestAnswer:
    messages = [frame.decode("utf-8", "replace") for frame in frames]
    return RestAnswer(200, encode({"status": status, "token": token, "messages": messages}), JSON)
