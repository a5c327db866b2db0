"""The joins of one socket: paced on our side, answered one after another on the server's (protocol §3.2).

A join's deadline starts when the one before it is answered, since a refused one holds the socket for 5 s. While any is
unanswered, socket time stands still. A deadline that passes without a single frame since it started means that the
socket is dead, not that the join is slow; so does a silence that is as long as a heartbeat and its answer may take.
"""

from math import inf
from typing import Final, Protocol

from msgspec import Raw, Struct

from supawire.core.context import Context, pace
from supawire.events import Instant

_BEHIND: Final = 1.0
"""Seconds after the last answer in which frames that waited behind it are still coming in."""


class Joiner(Protocol):
    """What the queue and the receiver ask of a channel's membership."""

    def go(self, now: Instant) -> str:
        """Send the join now; its ref."""
        ...

    def held(self, held: bool, now: Instant) -> None:
        """Held up by pacing or by the joins of others, or no longer."""
        ...

    def accepted(self, ref: str, response: Raw, now: Instant) -> None:
        """The server said ok to the join with this ref."""
        ...

    def refused(self, ref: str, reason: str, now: Instant) -> None:
        """The server said no to the join with this ref."""
        ...

    def join_timed_out(self, ref: str, now: Instant) -> None:
        """The join with this ref was not answered in time."""
        ...


class _Asked(Struct, frozen=True):
    channel: Joiner
    ref: str


class JoinQueue:
    """Channels that want in, and joins that are unanswered."""

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
        """When the first of the unanswered joins became the first, and when its time is over."""
        self.is_open: bool = False
        self._timed_out_refs: dict[str, None] = {}
        """Joins that we gave up and that the server may still be busy with."""
        self._blind: tuple[float | None, float] = (None, 0.0)
        """The newest time in which a join was unanswered: from, to."""

    def want(self, channel: Joiner, now: Instant) -> None:
        """Join as soon as the link is open, the token is there, and pacing allows."""
        self._waiting[channel] = None
        channel.held(False, now)
        tokens = self._context.tokens
        if self.is_open and tokens.has_provider and not tokens.fetching:
            self._context.fetch_token(now)
        self.pump(now)

    @property
    def is_stalled(self) -> bool:
        """Whether the server may be busy with a join, so that nothing else comes."""
        return bool(self._asked or self._timed_out_refs)

    def stalled_since(self, now: Instant) -> Instant:
        """Since when the server may have had something to say and could not: it answers joins one after another.

        What ended a channel behind an unanswered join is heard after its answer, and may be as old as the join.
        """
        began, ended = self._blind
        blind = now.mono - began if began is not None and now.mono - ended <= _BEHIND else 0.0
        return Instant(now.mono - blind, now.wall - blind)

    def withdraw(self, channel: Joiner) -> None:
        """No longer; an unanswered join keeps its place until it is answered."""
        self._waiting.pop(channel, None)

    def waits(self, channel: Joiner) -> bool:
        """Whether this channel's next join is still to be sent."""
        return channel in self._waiting

    def opened(self, now: Instant) -> None:
        """A new socket."""
        self.is_open = True
        self.pump(now)

    def lost(self, last_received_at: Instant, now: Instant) -> Instant:
        """The socket is gone, and the joins on it; nobody is held up by them any more.

        Since when something may be missing: the last that was heard, or earlier, when the server was busy with a join.
        """
        since = min(last_received_at, self.stalled_since(now))
        self.is_open = False
        for channel in {**self._waiting, **dict.fromkeys(asked.channel for asked in self._asked)}:
            channel.held(False, now)
        self._asked.clear()
        self._timed_out_refs.clear()
        self._blind = (None, 0.0)
        self._context.timers.cancel(("join",))
        self._context.timers.cancel(("joins",))
        return since

    def pump(self, now: Instant) -> None:
        """Send what may be sent."""
        while self.is_open and self._waiting and self._context.tokens.usable:
            ready_at = self._pace.ready_at(now.mono)
            if ready_at > now.mono:
                self._context.timers.set(("joins",), ready_at)
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
        """Take the join that this ref answers, None when it is no unanswered one of this socket."""
        asked = next((asked for asked in self._asked if asked.ref == ref), None)
        if asked is None:
            if ref is not None and ref in self._timed_out_refs:
                del self._timed_out_refs[ref]
                self._clear_stall(now)
            return None
        self._remove(asked, now)
        return asked.channel

    def timed_out(self, now: Instant, last_received_at: float) -> bool:
        """Give up the first join when its time is over; False when nothing came since it leads: the socket is dead."""
        if not self._asked:
            return True
        if last_received_at <= self._led_at:
            return False
        if now.mono < self._late_at:  # it was only looked whether the silence goes on
            self._context.timers.set(("join",), self._late_at)
            return True
        asked = self._asked[0]
        self._timed_out_refs[asked.ref] = None
        self._remove(asked, now)
        if self._asked:
            options = self._context.options
            silent = max(now.mono, last_received_at + options.heartbeat + options.timeout)
            self._context.timers.set(("join",), min(self._late_at, silent))
        asked.channel.join_timed_out(asked.ref, now)
        return True

    @property
    def unanswered(self) -> int:
        """How many joins of this socket are unanswered."""
        return len(self._asked)

    def _remove(self, asked: _Asked, now: Instant) -> None:
        led = asked is self._asked[0]
        self._asked.remove(asked)
        asked.channel.held(False, now)
        if not self._asked:
            self._clear_stall(now)
            self._context.replies.thaw(now.mono)
            self._context.timers.cancel(("join",))
        elif led:
            self._start_head_timer(now)

    def _beat_before(self, now: Instant) -> None:
        """Send a heartbeat that is due soon before the join: behind it, its answer would have to wait for the join's.

        So a socket that has been dead for most of a heartbeat's interval is noticed no later because of a join.
        """
        due = self._context.timers.deadline(("beat",))
        if due is not None and due - now.mono < self._context.options.timeout:
            self._context.beat(now)

    def _clear_stall(self, now: Instant) -> None:
        """The server has nothing more to answer first, as far as we know."""
        if not self._asked and not self._timed_out_refs:
            self._blind = (self._blind[0], now.mono)

    def _start_head_timer(self, now: Instant) -> None:
        """The first in the row: its deadline starts."""
        self._asked[0].channel.held(False, now)
        self._led_at, self._late_at = now.mono, now.mono + 2 * self._context.options.timeout
        self._context.timers.set(("join",), self._late_at)
