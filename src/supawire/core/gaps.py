"""Times in which events may have been missed, and what replay brought back (R44).

A gap opens when a living join ends without the user's wish, or when the server says that changes are not flowing. It is
told when events flow again: at the join, or when changes are live again if the channel listens to them, so that a
refetch on it misses nothing. On a private channel the rejoin asks for stored messages since the gap's start; an id seen
before is dropped, and exactly the limit coming back means that older ones may be missing (protocol §6.3). The server
compares with its own clock, so the start is given in its time; where that is not known, nothing says that all came.
"""

from collections import OrderedDict
from math import isfinite
from typing import Final

from supawire.events import Gap, Instant, Verdict
from supawire.options import ChannelOptions

SKEW: Final = 5.0
"""Seconds by which a replay begins before the gap: the database's clock, which stamps the messages, may be behind that
of the server which answers us, and where the server's time is not known, behind ours."""

DRIFT: Final = 1e-4
"""Seconds a second by which our monotonic clock may be too fast or too slow."""

_FAR: Final = 10 * 365 * 86400.0
"""Seconds: two clocks that are further apart than this are no clocks."""

LIMIT: Final = 25
"""The most that the server replays."""

SETTLED: Final = 1.0
"""Seconds after the join in which the server has put all replayed messages in line; it does not say when. What it
answers after that comes behind them, however slow the connection is."""

REJOIN: Final = "rejoin"
"""The reason of a gap that the client makes itself, by a join for something that the living one did not ask for."""

_REMEMBERED: Final = 1000

_NOTHING: Final[frozenset[str]] = frozenset()


class ServerClock:
    """The server's time, counted from the opening of the present connection by our monotonic clock.

    That one is never set. It may not run while the machine sleeps, so a time that is counted by it may be too early,
    which asks for more messages than are missing, but never too late.
    """

    __slots__ = ("_at", "_wall")

    def __init__(self) -> None:
        self._at = 0.0
        self._wall: float | None = None

    def learn(self, offset: float | None, now: Instant) -> None:
        """Take the seconds by which the server's clock is ahead of ours; None, or no time of a clock: not known."""
        usable = offset is not None and isfinite(offset) and abs(offset) < _FAR
        self._at = now.mono
        self._wall = now.wall + offset if usable and offset is not None else None

    def earliest(self, instant: Instant) -> float | None:
        """Return the server's Unix time at this instant or a little before, None when it is not known."""
        passed = instant.mono - self._at
        return None if self._wall is None or passed < 0 else self._wall + passed * (1 - DRIFT)


class Gaps:
    """The gaps of one channel, one at a time."""

    __slots__ = (
        "_asked", "_began", "_came", "_clock", "_first", "_known", "_lost", "_name", "_options", "_replayed",
        "_replaying", "_seen", "_settled", "_since",
    )  # fmt: skip

    def __init__(self, name: str, options: ChannelOptions, clock: ServerClock) -> None:
        self._name = name
        self._options = options
        self._clock = clock
        self._began: tuple[Instant, str] | None = None
        self._since: float | None = None
        """The server's time when the gap began, None when it is not known."""
        self._lost = _NOTHING
        self._seen: OrderedDict[str, None] | None = None
        """The ids of stored messages; on most channels none comes."""
        self._asked: int | None = None
        self._replaying: int | None = None
        """How many messages the living join brings back at most."""
        self._settled = self._known = False
        """Of the living join: whether it brings nothing more back, and whether it asked by the server's clock."""
        self._came = self._replayed = 0
        """Of the replayed messages: all that the living join brought, and those in this gap that were new to us."""
        self._first = True

    @property
    def is_open(self) -> bool:
        """Whether something may be missing that was not told yet."""
        return self._began is not None

    def open(self, since: Instant, reason: str, lost: frozenset[str]) -> None:
        """Something may be missing from here on; of an open gap the earlier beginning counts."""
        if self._began is None:
            self._replayed = 0
        if self._began is None or since.mono < self._began[0].mono:
            self._began = (since, reason)
            self._since = self._clock.earliest(since)
        self._lost |= lost
        self._replaying = None  # whatever a join before brought back, it cannot know what is missed from now on

    def replay(self) -> dict[str, int] | None:
        """What this join asks to be replayed, None for nothing; public channels have no replay."""
        limit = LIMIT
        since: int | None = None
        self._known = self._since is not None
        if self._options.private and self._options.replay_gaps and self._began is not None:
            began = self._began[0].wall if self._since is None else self._since
            since = max(0, int((began - SKEW) * 1000))
        elif self._first:
            since, limit = self._options.replay_since_ms, self._options.replay_limit or LIMIT
        self._asked = None if since is None else limit
        return None if since is None else {"since": since, "limit": limit}

    def joined(self) -> None:
        """The join is accepted: what it asked to be replayed comes now."""
        self._first = False
        self._replaying, self._came, self._settled = self._asked, 0, False

    def replay_ended(self) -> None:
        """The living join has brought back what it brings."""
        self._settled = True

    def ended(self) -> None:
        """The join is over: it brings nothing more back."""
        self._replaying = None

    def forget(self) -> None:
        """The channel was left by the user: nothing is missing, and the next join is a first one."""
        self._began, self._lost, self._first = None, _NOTHING, True

    def takes(self, identity: str | None, *, replayed: bool) -> bool:
        """Whether this stored message is new to us; an id that was delivered before is not."""
        self._came += replayed
        if identity is not None and self._seen is not None and identity in self._seen:
            return False
        self._replayed += replayed
        if identity is None:
            return True
        if self._seen is None:
            self._seen = OrderedDict()
        self._seen[identity] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True

    @property
    def replay_pending(self) -> bool:
        """Whether replayed messages may still come."""
        return self._replaying is not None and self._came < self._replaying and not self._settled

    def widen(self, lost: frozenset[str]) -> None:
        """Somebody listens to these kinds too, while something may be missing."""
        if self._began is not None:
            self._lost |= lost

    def close(self, now: Instant) -> Gap | None:
        """Events flow again: the gap to tell of, None when there is none."""
        if self._began is None:
            return None
        (began, reason), self._began = self._began, None
        lost, self._lost = self._lost, _NOTHING
        if reason == REJOIN and not lost:
            return None  # the client joined again for itself, and nobody listens to anything that could be missing
        ended = max(began.at(), now.at())  # the clock may have been set back meanwhile
        return Gap(self._name, began.at(), ended, reason, self._replayed, self._verdict(), lost)

    def _verdict(self) -> Verdict:
        if self._replaying is None:
            return "not_replayable"
        return "truncated" if self._came >= self._replaying or not self._known else "complete"
