"""The queue of joins on one connection: paced by us, and answered one at a time by the server.

A join's timeout starts when the join before it is answered, because a refused join blocks the connection for 5 s. While
any join is unanswered, socket time is paused. If a timeout passes without a single frame since it started, the
connection is considered dead, not the join slow; the same holds for a silence as long as a heartbeat interval plus its
timeout. See docs/protocol.md, Joins block the connection.

The queue sends nothing: `membership.send_joins` takes the channels from it and sends their joins.
"""

from math import inf
from typing import Final, Generic, Protocol, TypeVar

from supawire.core.context import Context
from supawire.core.requests import TimerKind
from supawire.events import Instant

_DELAY_AFTER_REPLY: Final = 1.0
"""Seconds after the last join reply in which frames delayed behind it may still arrive."""


class Joiner(Protocol):
    """A channel that joins."""

    @property
    def reply_delay(self) -> float:
        """How many seconds the server may hold the reply to a join, at most."""
        ...

    def pause_waiters(self, paused: bool, now: Instant) -> None:
        """Pause or resume the timeouts of callers while pacing or other channels' joins delay this channel."""
        ...


J = TypeVar("J", bound=Joiner)


class JoinQueue(Generic[J]):
    """Channels waiting to join, and unanswered joins."""

    __slots__ = (
        "_blocked", "_context", "_head_deadline", "_head_since", "_pace", "_stall", "_timed_out_refs", "_unanswered",
        "_waiting", "is_open",
    )  # fmt: skip

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pace = context.joins
        self.is_open: bool = False
        """Whether the connection is open."""
        self._waiting: dict[J, None] = {}
        self._blocked = False
        """Whether no join may be sent before the next `request` or `resume`."""
        self._unanswered: dict[str, J] = {}
        """The channels of the unanswered joins by ref, in the order of sending."""
        self._head_since = self._head_deadline = 0.0
        """When the first of the unanswered joins became the first, and when its timeout ends."""
        self._timed_out_refs: dict[str, None] = {}
        """Refs of timed-out joins that the server may still be processing."""
        self._stall: tuple[float | None, float] = (None, 0.0)
        """Start and end of the last period in which a join was unanswered."""

    # --- channels waiting to join

    def request(self, channel: J, now: Instant) -> None:
        """Join as soon as the connection is open, a token is available and pacing allows."""
        self._waiting[channel] = None
        self._blocked = False
        tokens = self._context.tokens
        if self.is_open and tokens.has_provider and not (tokens.fetching or tokens.is_fresh(now)):
            self._context.fetch_token(now)

    def withdraw(self, channel: J) -> None:
        """Remove the channel from the queue. A join already sent keeps its position until it is answered."""
        self._waiting.pop(channel, None)

    def is_waiting(self, channel: J) -> bool:
        """Return whether this channel's next join has not been sent yet."""
        return channel in self._waiting

    @property
    def waiting(self) -> int:
        """Number of channels whose next join has not been sent yet."""
        return len(self._waiting)

    def resume(self) -> None:
        """Continue to send joins: pacing allows the next, or a token has arrived."""
        self._blocked = False

    def next(self, now: Instant) -> J | None:
        """Remove and return the channel whose join may be sent now, None if there is none. `sent` has to follow."""
        if self._blocked:
            return None
        if not (self.is_open and self._waiting and self._context.tokens.usable):
            self._blocked = True
            return None
        ready_at = self._pace.ready_at(now.mono)
        if ready_at > now.mono:
            self._blocked = True
            self._context.timers.set(self._context.key(TimerKind.JOIN_QUEUE), ready_at)
            for channel in self._waiting:
                channel.pause_waiters(True, now)
            return None
        channel = next(iter(self._waiting))
        del self._waiting[channel]
        self._pace.spend(now.mono)
        self._context.counts.joins += 1
        if not self._unanswered:
            self._beat_before(now)
        self._context.replies.freeze(now.mono)
        if not self._unanswered and not self._timed_out_refs:
            self._stall = (now.mono, inf)
        return channel

    def _beat_before(self, now: Instant) -> None:
        """Send a heartbeat that is due soon before the join, since its reply would otherwise wait for the join's reply.

        Thus a join does not delay the detection of a dead connection.
        """
        due = self._context.timers.deadline(self._context.key(TimerKind.HEARTBEAT))
        if due is not None and due - now.mono < self._context.options.timeout:
            self._context.send_heartbeat(now)

    # --- unanswered joins

    def sent(self, channel: J, ref: str, now: Instant) -> None:
        """Record the join that the channel has sent."""
        self._unanswered[ref] = channel
        if len(self._unanswered) == 1:
            self._start_head_timer(now)
        else:
            channel.pause_waiters(True, now)

    def answered(self, ref: str | None, now: Instant) -> J | None:
        """Remove and return the channel whose join has this ref, or None if no such join is unanswered."""
        if ref is None:
            return None
        if ref in self._unanswered:
            return self._remove(ref, now)
        if ref in self._timed_out_refs:
            del self._timed_out_refs[ref]
            self._clear_stall(now)
        return None

    def is_silent(self, last_received_at: float) -> bool:
        """Return whether nothing was received since the first unanswered join became the first."""
        return bool(self._unanswered) and last_received_at <= self._head_since

    def timed_out(self, now: Instant, last_received_at: float) -> tuple[J, str] | None:
        """Remove the first join if its timeout has passed, and return its channel and ref."""
        if not self._unanswered:
            return None
        if now.mono < self._head_deadline:  # this deadline only checked for silence
            self._context.timers.set(self._context.key(TimerKind.JOIN_TIMEOUT), self._head_deadline)
            return None
        ref = next(iter(self._unanswered))
        self._timed_out_refs[ref] = None
        channel = self._remove(ref, now)
        if self._unanswered:
            options = self._context.options
            silent = max(now.mono, last_received_at + options.heartbeat + options.timeout)
            self._context.timers.set(self._context.key(TimerKind.JOIN_TIMEOUT), min(self._head_deadline, silent))
        return channel, ref

    @property
    def unanswered(self) -> int:
        """Number of unanswered joins."""
        return len(self._unanswered)

    def stalled_since(self, now: Instant) -> Instant:
        """Return the earliest time at which a frame may have been delayed behind an unanswered join.

        The server processes joins one at a time, so the event that ended a channel may be as old as the join before it.
        """
        began, ended = self._stall
        seconds = now.mono - began if began is not None and now.mono - ended <= _DELAY_AFTER_REPLY else 0.0
        return Instant(now.mono - seconds, now.wall - seconds)

    def _remove(self, ref: str, now: Instant) -> J:
        was_head = ref == next(iter(self._unanswered))
        channel = self._unanswered.pop(ref)
        channel.pause_waiters(False, now)
        if not self._unanswered:
            self._clear_stall(now)
            self._context.replies.thaw(now.mono)
            self._context.timers.cancel(self._context.key(TimerKind.JOIN_TIMEOUT))
        elif was_head:
            self._start_head_timer(now)
        return channel

    def _clear_stall(self, now: Instant) -> None:
        """Record that the server is not processing any join, as far as is known."""
        if not self._unanswered and not self._timed_out_refs:
            self._stall = (self._stall[0], now.mono)

    def _start_head_timer(self, now: Instant) -> None:
        """Start the timeout of the join that is now first."""
        channel = next(iter(self._unanswered.values()))
        channel.pause_waiters(False, now)
        limit = max(2 * self._context.options.timeout, channel.reply_delay)
        self._head_since, self._head_deadline = now.mono, now.mono + limit
        self._context.timers.set(self._context.key(TimerKind.JOIN_TIMEOUT), self._head_deadline)

    # --- the connection

    def opened(self) -> None:
        """Start to send joins on a new connection."""
        self.is_open = True
        self._blocked = False

    def lost(self, last_received_at: Instant, now: Instant) -> Instant:
        """Drop all unanswered joins because the connection was lost.

        Return the time from which events may be missing: the last received frame, or earlier if a join was unanswered.
        """
        since = min(last_received_at, self.stalled_since(now))
        self.is_open = False
        for channel in {**self._waiting, **dict.fromkeys(self._unanswered.values())}:
            channel.pause_waiters(False, now)
        self._unanswered.clear()
        self._timed_out_refs.clear()
        self._stall = (None, 0.0)
        self._context.timers.cancel(self._context.key(TimerKind.JOIN_TIMEOUT))
        self._context.timers.cancel(self._context.key(TimerKind.JOIN_QUEUE))
        return since
