"""The queue of joins on one connection: paced by us, and answered one at a time by the server.

A join's timeout starts when the join before it is answered, because a refused join blocks the connection for 5 s. While
any join is unanswered, socket time is paused. If a timeout passes without a single frame since it started, the
connection is considered dead, not the join slow; the same holds for a silence as long as a heartbeat interval plus its
timeout. See docs/protocol.md, Joins block the connection.
"""

from math import inf
from typing import Final, Protocol

from msgspec import Raw, Struct

from supawire.core.context import Context, pace
from supawire.core.requests import TimerKey, TimerKind
from supawire.events import Instant

_BEHIND: Final = 1.0
"""Seconds after the last join reply in which frames delayed behind it may still arrive."""


class Joiner(Protocol):
    """What the queue and the receiver need of a channel's membership."""

    def go(self, now: Instant) -> str:
        """Send the join now and return its ref."""
        ...

    def held(self, held: bool, now: Instant) -> None:
        """Record whether pacing or other channels' joins delay this channel."""
        ...

    def accepted(self, ref: str, response: Raw, now: Instant) -> None:
        """Handle an ok reply to the join with this ref."""
        ...

    def refused(self, ref: str, reason: str, now: Instant) -> None:
        """Handle an error reply to the join with this ref."""
        ...

    def join_timed_out(self, ref: str, now: Instant) -> None:
        """Handle that the join with this ref was not answered in time."""
        ...


class _Asked(Struct, frozen=True):
    channel: Joiner
    ref: str


class JoinQueue:
    """Channels waiting to join, and unanswered joins."""

    __slots__ = (
        "_asked",
        "_blind",
        "_context",
        "_late_at",
        "_led_at",
        "_pace",
        "_timed_out_refs",
        "_waiting",
        "is_open",
    )

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pace = pace(context.options.limits.joins_per_second)
        self._waiting: dict[Joiner, None] = {}
        self._asked: list[_Asked] = []
        self._led_at = self._late_at = 0.0
        """When the first of the unanswered joins became the first, and when its timeout ends."""
        self.is_open: bool = False
        self._timed_out_refs: dict[str, None] = {}
        """Refs of timed-out joins that the server may still be processing."""
        self._blind: tuple[float | None, float] = (None, 0.0)
        """Start and end of the last period in which a join was unanswered."""

    def want(self, channel: Joiner, now: Instant) -> None:
        """Join as soon as the connection is open, a token is available and pacing allows."""
        self._waiting[channel] = None
        channel.held(False, now)
        tokens = self._context.tokens
        if self.is_open and tokens.has_provider and not tokens.fetching:
            self._context.fetch_token(now)
        self.pump(now)

    @property
    def is_stalled(self) -> bool:
        """Whether the server may be processing a join, during which it sends nothing else."""
        return bool(self._asked or self._timed_out_refs)

    def stalled_since(self, now: Instant) -> Instant:
        """Return the earliest time at which a frame may have been delayed behind an unanswered join.

        The server processes joins one at a time, so the event that ended a channel may be as old as the join before it.
        """
        began, ended = self._blind
        blind = now.mono - began if began is not None and now.mono - ended <= _BEHIND else 0.0
        return Instant(now.mono - blind, now.wall - blind)

    def withdraw(self, channel: Joiner) -> None:
        """Remove the channel from the queue. A join already sent keeps its position until it is answered."""
        self._waiting.pop(channel, None)

    def waits(self, channel: Joiner) -> bool:
        """Return whether this channel's next join has not been sent yet."""
        return channel in self._waiting

    def opened(self, now: Instant) -> None:
        """Start to send joins on a new connection."""
        self.is_open = True
        self.pump(now)

    def lost(self, last_received_at: Instant, now: Instant) -> Instant:
        """Drop all unanswered joins because the connection was lost.

        Return the time from which events may be missing: the last received frame, or earlier if a join was unanswered.
        """
        since = min(last_received_at, self.stalled_since(now))
        self.is_open = False
        for channel in {**self._waiting, **dict.fromkeys(asked.channel for asked in self._asked)}:
            channel.held(False, now)
        self._asked.clear()
        self._timed_out_refs.clear()
        self._blind = (None, 0.0)
        self._context.timers.cancel(TimerKey(TimerKind.JOIN_TIMEOUT))
        self._context.timers.cancel(TimerKey(TimerKind.JOIN_QUEUE))
        return since

    def pump(self, now: Instant) -> None:
        """Send the joins that may be sent now."""
        while self.is_open and self._waiting and self._context.tokens.usable:
            ready_at = self._pace.ready_at(now.mono)
            if ready_at > now.mono:
                self._context.timers.set(TimerKey(TimerKind.JOIN_QUEUE), ready_at)
                for channel in self._waiting:
                    channel.held(True, now)
                return
            channel = next(iter(self._waiting))
            del self._waiting[channel]
            self._pace.spend(now.mono)
            self._context.counts.joins += 1
            if not self._asked:
                self._beat_before(now)
            self._context.replies.freeze(now.mono)
            if not self._asked and not self._timed_out_refs:
                self._blind = (now.mono, inf)
            self._asked.append(_Asked(channel, channel.go(now)))
            if len(self._asked) == 1:
                self._start_head_timer(now)
            else:
                channel.held(True, now)

    def answered(self, ref: str | None, now: Instant) -> Joiner | None:
        """Remove and return the channel whose join has this ref, or None if no such join is unanswered."""
        asked = next((asked for asked in self._asked if asked.ref == ref), None)
        if asked is None:
            if ref is not None and ref in self._timed_out_refs:
                del self._timed_out_refs[ref]
                self._clear_stall(now)
            return None
        self._remove(asked, now)
        return asked.channel

    def timed_out(self, now: Instant, last_received_at: float) -> bool:
        """Time out the first join. Return False if nothing was received since it became first (dead connection)."""
        if not self._asked:
            return True
        if last_received_at <= self._led_at:
            return False
        if now.mono < self._late_at:  # this deadline only checked for silence
            self._context.timers.set(TimerKey(TimerKind.JOIN_TIMEOUT), self._late_at)
            return True
        asked = self._asked[0]
        self._timed_out_refs[asked.ref] = None
        self._remove(asked, now)
        if self._asked:
            options = self._context.options
            silent = max(now.mono, last_received_at + options.heartbeat + options.timeout)
            self._context.timers.set(TimerKey(TimerKind.JOIN_TIMEOUT), min(self._late_at, silent))
        asked.channel.join_timed_out(asked.ref, now)
        return True

    @property
    def unanswered(self) -> int:
        """Number of unanswered joins."""
        return len(self._asked)

    def _remove(self, asked: _Asked, now: Instant) -> None:
        led = asked is self._asked[0]
        self._asked.remove(asked)
        asked.channel.held(False, now)
        if not self._asked:
            self._clear_stall(now)
            self._context.replies.thaw(now.mono)
            self._context.timers.cancel(TimerKey(TimerKind.JOIN_TIMEOUT))
        elif led:
            self._start_head_timer(now)

    def _beat_before(self, now: Instant) -> None:
        """Send a heartbeat that is due soon before the join, since its reply would otherwise wait for the join's reply.

        Thus a join does not delay the detection of a dead connection.
        """
        due = self._context.timers.deadline(TimerKey(TimerKind.HEARTBEAT))
        if due is not None and due - now.mono < self._context.options.timeout:
            self._context.beat(now)

    def _clear_stall(self, now: Instant) -> None:
        """Record that the server is not processing any join, as far as is known."""
        if not self._asked and not self._timed_out_refs:
            self._blind = (self._blind[0], now.mono)

    def _start_head_timer(self, now: Instant) -> None:
        """Start the timeout of the join that is now first."""
        self._asked[0].channel.held(False, now)
        self._led_at, self._late_at = now.mono, now.mono + 2 * self._context.options.timeout
        self._context.timers.set(TimerKey(TimerKind.JOIN_TIMEOUT), self._late_at)
