"""State shared by the components of a session: effect queue, deadlines, pending requests and counters."""

import copy
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

from supawire.core import frames
from supawire.core.codec import CODECS, Codec
from supawire.core.effects import (
    AskDelay,
    Deliver,
    Effects,
    FetchToken,
    Listeners,
    Report,
    StatusChanged,
    Ticket,
    TransitionMissing,
    Transmit,
)
from supawire.core.gaps import ServerClock
from supawire.core.pacing import Pace, Uniform, delay, slow_delay
from supawire.core.requests import Pending, Replies, Tickets, TimerKey, TimerKind, Timers
from supawire.core.token import TOKEN_REUSE, Tokens
from supawire.errors import LocalProtocolError, PayloadTooLargeError
from supawire.events import ChannelState, ConnectionState, Heartbeat, Instant, Status
from supawire.options import Backoff, Secret, SessionOptions


class Counts:
    """Counters of a session, for `stats()`."""

    __slots__ = (
        "connects", "fallbacks", "frames_sent", "gaps", "garbage", "joins", "malformed_presence", "moved_received",
        "other_frames", "published", "reconnects", "removed_received", "removed_sent", "stale", "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.connects: int = 0
        self.fallbacks: int = 0
        self.reconnects: int = 0
        self.joins: int = 0
        self.other_frames: int = 0
        """Frames received that are not counted as messages of a channel, see `Membership.received`."""
        self.removed_received: int = 0
        """Messages received by channels that were removed."""
        self.moved_received: int = 0
        """Messages received here by channels that were moved away, less those that channels had when they came."""
        self.removed_sent: int = 0
        """Messages sent by channels that were removed."""
        self.published: int = 0
        self.gaps: int = 0
        self.frames_sent: int = 0
        self.stale: int = 0
        self.garbage: int = 0
        self.unknown: int = 0
        self.malformed_presence: int = 0

    def add(self, other: "Counts") -> None:
        """Add the counters of a socket that is not needed any more."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


CONNECTS_PER_SECOND: Final = 10
"""How many sockets one client with several sockets opens per second, new ones and reconnects together."""


class Context:
    """State shared by the connection, the channels and the session. It makes no decisions.

    A session with several sockets has one context for each, see `for_socket`.
    """

    __slots__ = (
        "_generations", "_refs", "answered_at", "codec", "connects", "counts", "effects", "generation",
        "heartbeat_watchers", "joins", "messages", "number", "options", "presence", "random", "replies", "round_trip",
        "sequence", "server_clock", "strict", "tickets", "timers", "tokens", "watchers",
    )  # fmt: skip

    def __init__(self, options: SessionOptions, token: Secret | None, random: Uniform, *, strict: bool) -> None:
        self.options: Final = options
        self.random: Final = random
        self.strict: Final = strict
        self.codec: Codec = CODECS[options.protocol]
        """Of the version that the present connection carries."""
        self.effects: Effects = deque()
        self.timers: Timers[TimerKey] = Timers()
        self.tickets: Final = Tickets(self.effects)
        self.replies: Replies = Replies()
        self.tokens: Final = Tokens(
            token,
            has_provider=options.has_token_provider,
            random=random,
            reuse=TOKEN_REUSE if options.max_sockets > 1 else 0.0,
        )
        self.counts: Counts = Counts()
        self.connects: Final = pace(CONNECTS_PER_SECOND if options.max_sockets > 1 else None)
        """The rate at which sockets are opened; one socket alone is limited by its backoff."""
        self.joins: Final = pace(options.limits.joins_per_second)
        self.messages: Final = pace(options.limits.messages_per_second)
        self.presence: Final = pace(options.limits.presence_per_second)
        self.server_clock: Final = ServerClock()
        self.watchers: dict[Callable[[Any], None], None] = {}
        """Callbacks for status changes of the connection and the channels, and for gaps."""
        self.heartbeat_watchers: dict[Callable[[Any], None], None] = {}
        """The watchers that also receive heartbeats."""
        self.number: int = 0
        """The number of the socket; 0 is the one that is opened first."""
        self.generation: int = 0
        self.sequence: int = 0
        """Number of frames passed to the socket of this generation."""
        self.round_trip: float | None = None
        self.answered_at: float = 0.0
        """Monotonic time of the latest heartbeat reply on this connection, or of its opening."""
        self._refs = count(1)
        self._generations = count(1)

    def for_socket(self, number: int) -> "Context":
        """Return the context of another socket. It shares everything except what belongs to a single socket."""
        other = copy.copy(self)
        other.number = number
        other.replies, other.counts = Replies(), Counts()
        other.generation = other.sequence = 0
        other.round_trip, other.answered_at = None, 0.0
        return other

    def key(self, kind: TimerKind) -> TimerKey:
        """Return the key of a deadline of this socket."""
        return TimerKey(kind, None, None, self.number)

    # --- frames

    def next_ref(self) -> str:
        """Return a ref not used before in this session, so that a late reply cannot match a newer push."""
        return str(next(self._refs))

    def next_generation(self) -> None:
        """Start a generation with a number not used before in this session; input of older ones is stale."""
        self.generation = next(self._generations)

    def transmit(self, data: bytes, *, binary: bool = False, secret: bool = False) -> None:
        """Queue one frame for the socket. Raises `PayloadTooLargeError` if the server would refuse it."""
        limit = self.options.limits.frame_bytes
        if limit is not None and len(data) > limit:
            raise PayloadTooLargeError(f"the frame has {len(data)} bytes; the limit is {limit}")
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
        counts_queue_time: bool = False,
    ) -> str:
        """Send a request, record it as a pending push, and return its ref."""
        ref = self.next_ref()
        self.transmit(self.codec.encode(join_ref, ref, topic, event, payload))
        self.expect(ref, event, topic, ticket, timeout, now, counts_queue_time=counts_queue_time)
        if event == frames.HEARTBEAT:
            self.notify_heartbeat(Heartbeat("sent"))
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
        counts_queue_time: bool = False,
        must_be_stored: bool = False,
    ) -> None:
        """Record the last transmitted frame as a pending push.

        counts_queue_time: time behind unanswered joins counts for the timeout as well. must_be_stored: a reply without
        the id of a stored message is an error.
        """
        pending = Pending(event, topic, ticket, self.sequence, now.mono, counts_queue_time, must_be_stored)
        self.replies.expect(ref, pending, timeout)

    def send_heartbeat(self, now: Instant) -> None:
        """Send a heartbeat and schedule the next one."""
        self.timers.set(self.key(TimerKind.HEARTBEAT), now.mono + self.options.heartbeat)
        self.push(frames.HEARTBEAT, {}, now, timeout=self.options.timeout)

    def fetch_token(self, now: Instant) -> None:
        """Request a token from the provider. If it is late, the session continues with the current token."""
        self.timers.set(TimerKey(TimerKind.TOKEN_TIMEOUT), now.mono + self.options.timeout)
        self.effects.append(FetchToken(self.tokens.start_request()))

    # --- events and reports

    def deliver(self, listeners: Listeners, events: Sequence[Any]) -> None:
        """Queue the delivery of events to listeners, unless either is empty."""
        if listeners and events:
            self.effects.append(Deliver(listeners, events))

    def notify_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Notify the watchers of heartbeats."""
        self.deliver(tuple(self.heartbeat_watchers), (heartbeat,))

    def announce(self, status: Status, listeners: Listeners = ()) -> None:
        """Notify listeners, watchers and the log of a status change."""
        self.deliver((*listeners, *self.watchers), (status,))
        self.report(StatusChanged(status))

    def report(self, report: Report) -> None:
        """Queue a report for the log or for `on_error`."""
        self.effects.append(report)

    def report_missing_transition(self, who: str, state: ConnectionState | ChannelState, on: Any) -> None:
        """Handle a transition missing from the table (a bug): raise in strict mode, else report and continue."""
        error = LocalProtocolError(f"{who} is {state} and cannot handle {on.name}")
        if self.strict:
            raise error
        self.report(TransitionMissing(error))

    # --- delays

    def set_backoff_timer(
        self, key: TimerKey, backoff: Backoff | None, attempt: int, now: Instant, *, slow: bool = False
    ) -> None:
        """Set the deadline `key` after the backoff. If the backoff is a function of the user, ask the shell first."""
        if backoff is None:
            self.effects.append(AskDelay(key.topic, attempt, key.socket))
            return
        seconds = slow_delay(backoff, self.random) if slow else delay(backoff, attempt, self.random)
        self.timers.set(key, now.mono + seconds)


_UNPACED: Final = Pace(None)


def pace(per_second: float | None) -> Pace:
    """Convert a limit per second to whole calls in a window with the same average."""
    if per_second is None:
        return _UNPACED
    calls = max(1, int(per_second))
    return Pace(calls, calls / per_second)
