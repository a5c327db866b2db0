"""What the parts of a session share: the queue of effects, the deadlines, the tables of requests, the counters."""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

from supawire.core import frames
from supawire.core.codec import CODECS
from supawire.core.effects import AskDelay, Deliver, Effects, FetchToken, Listeners, Report, Ticket, Transmit
from supawire.core.gaps import ServerClock
from supawire.core.pacing import Pace, Uniform, delay, slow_delay
from supawire.core.requests import Pending, Replies, Tickets, Timers
from supawire.core.token import Tokens
from supawire.errors import LocalProtocolError, PayloadTooLargeError, RealtimeError
from supawire.events import ChannelState, ConnectionState, Heartbeat, Instant, Stats, Status
from supawire.options import Backoff, Secret, SessionOptions

Key = tuple[Hashable, ...]
"""What a deadline is for, and of which topic: ("beat",), ("rejoin", topic), ("ticket", topic, ticket) …"""


class Counts:
    """Counters of a session, for `stats()`."""

    __slots__ = (
        "connects", "frames_received", "frames_sent", "garbage", "joins", "reconnects", "stale", "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.connects: int = 0
        self.reconnects: int = 0
        self.joins: int = 0
        self.frames_received: int = 0
        self.frames_sent: int = 0
        self.stale: int = 0
        self.garbage: int = 0
        self.unknown: int = 0


class Context:
    """Shared by link, channels and session; decides nothing."""

    __slots__ = (
        "_ref", "beat_watchers", "codec", "counts", "effects", "generation", "messages", "options", "presence",
        "random", "replies",
        "round_trip", "sequence", "server_clock", "strict", "tickets", "timers", "tokens", "watchers",
    )  # fmt: skip

    def __init__(self, options: SessionOptions, token: Secret | None, random: Uniform, *, strict: bool) -> None:
        self.options: Final = options
        self.random: Final = random
        self.strict: Final = strict
        self.codec: Final = CODECS[options.protocol]
        self.effects: Effects = deque()
        self.timers: Timers[Key] = Timers()
        self.tickets: Final = Tickets(self.effects)
        self.replies: Final = Replies()
        self.tokens: Final = Tokens(token, has_provider=options.has_token_provider, random=random)
        self.counts: Final = Counts()
        self.messages: Final = pace(options.limits.messages_per_second)
        self.presence: Final = pace(options.limits.presence_per_second)
        self.server_clock: Final = ServerClock()
        self.watchers: dict[Callable[[Any], None], None] = {}
        """Who listens to the client itself: status of link and channels, and gaps."""
        self.beat_watchers: dict[Callable[[Any], None], None] = {}
        """Who of them wants heartbeats too."""
        self.generation: int = 0
        self.sequence: int = 0
        """Frames handed to the socket of this generation."""
        self.round_trip: float | None = None
        self._ref = 0

    def stats(self, state: ConnectionState, queued: int) -> Stats:
        """The counters for the user; `overflowed` is counted by the shell."""
        counts = self.counts
        return Stats(
            state=state,
            frames_received=counts.frames_received,
            frames_sent=counts.frames_sent,
            connects=counts.connects,
            reconnects=counts.reconnects,
            joins=counts.joins,
            stale_frames=counts.stale,
            late_replies=self.replies.late,
            garbage_frames=counts.garbage,
            unknown_frames=counts.unknown,
            pending=len(self.tickets),
            queued=queued,
            overflowed=0,
            last_round_trip=self.round_trip,
        )

    # --- frames

    def next_ref(self) -> str:
        """A ref that was never used in this session, so that a reply to an old push is never taken for a new one's."""
        self._ref += 1
        return str(self._ref)

    def transmit(self, data: bytes, *, binary: bool = False, secret: bool = False) -> None:
        """Hand one frame to the socket. Raises `PayloadTooLargeError` for one that the server would refuse."""
        limit = self.options.limits.frame_bytes
        if limit is not None and len(data) > limit:
            raise PayloadTooLargeError(f"the frame has {len(data)} bytes, the server takes at most {limit}")
        self.sequence += 1
        self.counts.frames_sent += 1
        self.effects.append(Transmit(self.generation, data, binary, secret))

    def push(
        self,
        event: str,
        payload: Any,
        now: Instant,
        *,
        topic: str = frames.PHOENIX,
        join_ref: str | None = None,
        ticket: Ticket | None = None,
        timeout: float | None = None,
        firm: bool = False,
    ) -> str:
        """Send a request and await its reply; the ref it went out with."""
        ref = self.next_ref()
        self.transmit(self.codec.encode(join_ref, ref, topic, event, payload))
        self.expect(ref, event, topic, ticket, timeout, now, firm=firm)
        if event == frames.HEARTBEAT:
            self.beaten(Heartbeat("sent"))
        return ref

    def expect(
        self,
        ref: str,
        event: str,
        topic: str,
        ticket: Ticket | None,
        timeout: float | None,
        now: Instant,
        *,
        firm: bool = False,
    ) -> None:
        """Await the reply to the frame that was transmitted last. `firm`: also time behind unanswered joins counts."""
        self.replies.expect(ref, Pending(event, topic, ticket, self.sequence, now.mono, firm), timeout)

    def beat(self, now: Instant) -> None:
        """Send a heartbeat, and set the deadline of the next."""
        self.timers.set(("beat",), now.mono + self.options.heartbeat)
        self.push(frames.HEARTBEAT, {}, now, timeout=self.options.timeout)

    def fetch_token(self, now: Instant) -> None:
        """Ask the provider; when it is late, the session goes on with what it has."""
        self.timers.set(("token",), now.mono + self.options.timeout)
        self.effects.append(FetchToken(self.tokens.ask()))

    # --- events and reports

    def deliver(self, listeners: Listeners, events: Sequence[Any]) -> None:
        """Hand events to their listeners, if there are any of both."""
        if listeners and events:
            self.effects.append(Deliver(listeners, events))

    def beaten(self, heartbeat: Heartbeat) -> None:
        """Tell who watches heartbeats."""
        self.deliver(tuple(self.beat_watchers), (heartbeat,))

    def announce(self, status: Status, listeners: Listeners = ()) -> None:
        """Tell listeners, watchers and the log of a move."""
        self.deliver((*listeners, *self.watchers), (status,))
        self.report(
            "state",
            topic=status.topic,
            state=status.state,
            previous=status.previous,
            cause=status.cause,
            ready=status.ready,
        )

    def report(self, what: str, *, topic: str | None = None, error: RealtimeError | None = None, **detail: Any) -> None:
        """Note something for the log; with `error`, for `on_error` too."""
        self.effects.append(Report(what, topic, error, detail))

    def impossible(self, who: str, state: ConnectionState | ChannelState, on: Any) -> None:
        """A move that no table has: an error of ours. Raised in tests, reported and survived in production."""
        error = LocalProtocolError(f"{who} is {state}; {on.name} is no move from there")
        if self.strict:
            raise error
        self.report("bug", error=error)

    # --- delays

    def wait(self, key: Key, backoff: Backoff | None, attempt: int, now: Instant, *, slow: bool = False) -> None:
        """Come back with `key` after the backoff, or ask the shell how long when the user has a function for it."""
        if backoff is None:
            self.effects.append(AskDelay(key, attempt))
            return
        seconds = slow_delay(backoff, self.random) if slow else delay(backoff, attempt, self.random)
        self.timers.set(key, now.mono + seconds)


_UNPACED: Final = Pace(None)


def pace(per_second: float | None) -> Pace:
    """A limit per second as whole calls in the window that makes the same average."""
    if per_second is None:
        return _UNPACED
    calls = max(1, int(per_second))
    return Pace(calls, calls / per_second)
