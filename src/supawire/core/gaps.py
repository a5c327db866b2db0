"""Gaps, that is, periods in which events may have been missed, and the replay of stored messages.

A gap opens when an active join ends although the user did not leave, or when the server reports that changes are not
delivered. It is reported when events arrive again: at the join, or once changes are live if the channel has listeners
for them, so that data fetched in response is complete. On a private channel the rejoin requests the messages stored
since the start of the gap. Messages with a known id are dropped; if exactly the limit arrives, older ones may be
missing. The server compares with its own clock, so the start is given in server time; if that is unknown, the replay
is never reported as complete. See docs/protocol.md, Replay.
"""

from collections import OrderedDict
from math import isfinite
from typing import Final

from supawire.events import Gap, Instant, Verdict
from supawire.options import ChannelOptions

REPLAY_MARGIN: Final = 5.0
"""Seconds by which a replay starts before the gap. The clock of the database, which stamps the messages, may be behind
that of the server, or behind ours if the server's time is unknown.
"""

MAX_CLOCK_DRIFT: Final = 1e-4
"""Maximum drift of our monotonic clock, in seconds per second."""

_MAX_CLOCK_OFFSET: Final = 10 * 365 * 86400.0
"""Maximum plausible difference of two clocks, in seconds."""

MAX_REPLAYED_MESSAGES: Final = 25
"""Maximum number of messages that the server replays."""

REPLAY_QUEUE_TIME: Final = 1.0
"""Seconds after a join until the server has queued all replayed messages, which it does not announce. Later replies
follow them, however slow the connection is.
"""

REJOIN_REASON: Final = "rejoin"
"""Reason of a gap caused by the client itself, which joins again to request what the active join lacks."""

KEPT_IDS: Final = 1000
"""Number of ids of received messages that are kept however old they are."""

MAX_KEPT_IDS: Final = 10_000
"""Maximum number of ids that are kept, 2 MB."""

MAX_ID_LENGTH: Final = 64
"""Maximum length of an id that is kept. A UUID has 36 characters; on a public channel anyone may send other ids."""

ID_LIFETIME: Final = 600.0
"""Seconds that an id beyond the first 1,000 is kept: longer than an outbox waits until it repeats a message."""

RESUME_REASON: Final = "resume"
"""Reason of the gap between a cursor and the first join."""

_NOTHING: Final[frozenset[str]] = frozenset()


class ServerClock:
    """The server's time, extrapolated from the start of the connection with our monotonic clock.

    The monotonic clock is never set, but may pause while the machine sleeps. So the result may be too early, which
    replays more messages than are missing, but never too late.
    """

    __slots__ = ("_at", "_wall", "offset")

    def __init__(self) -> None:
        self.offset: float | None = None
        """Seconds by which the server's clock is ahead of ours, or slightly less; None if unknown."""
        self._at = 0.0
        self._wall: float | None = None

    def set_offset(self, offset: float | None, now: Instant) -> None:
        """Set the seconds by which the server's clock is ahead of ours; None or an implausible value means unknown."""
        usable = offset is not None and isfinite(offset) and abs(offset) < _MAX_CLOCK_OFFSET
        self.offset = offset if usable else None
        self._at = now.mono
        self._wall = now.wall + offset if usable and offset is not None else None

    def earliest(self, instant: Instant) -> float | None:
        """Return the server's Unix time at this instant or slightly before, None if unknown."""
        passed = instant.mono - self._at
        return None if self._wall is None or passed < 0 else self._wall + passed * (1 - MAX_CLOCK_DRIFT)

    def extrapolate_back(self, instant: Instant) -> float | None:
        """Return the server's time at an instant before the connection, None if unknown.

        It is too late if the machine slept in between. It is right where `earliest` is too late: if the server's clock
        was set back during the connection before this one.
        """
        passed = instant.mono - self._at
        return None if self._wall is None or passed >= 0 else self._wall + passed


class Gaps:
    """The gaps of one channel, one at a time."""

    __slots__ = (
        "_active_limit", "_began", "_clock", "_is_first_join", "_lost_kinds", "_name", "_new_replayed", "_options",
        "_received", "_replay_complete", "_requested_limit", "_seen_ids", "_since", "_start_known",
    )  # fmt: skip

    def __init__(self, name: str, options: ChannelOptions, clock: ServerClock) -> None:
        self._name = name
        self._options = options
        self._clock = clock
        self._began: tuple[Instant, str] | None = None
        self._since: float | None = None
        """The server's time at the start of the gap, None if unknown."""
        self._lost_kinds = _NOTHING
        self._seen_ids: OrderedDict[str, float] | None = None
        """The ids of received messages and when each was last received; None on most channels, which receive none."""
        self._requested_limit: int | None = None
        self._active_limit: int | None = None
        """Maximum number of messages that the active join replays."""
        self._replay_complete = self._start_known = False
        """Whether the active join has finished its replay, and whether its start was given in server time."""
        self._received = self._new_replayed = 0
        """Number of replayed messages in the active join, and of those in this gap that were new."""
        self._is_first_join = True

    @property
    def is_open(self) -> bool:
        """Whether a gap is open that was not reported yet."""
        return self._began is not None

    def open(self, since: Instant, reason: str, lost: frozenset[str]) -> None:
        """Open a gap, or extend the open one: the earlier start counts."""
        if self._began is None:
            self._new_replayed = 0
        if self._began is None or since.mono < self._began[0].mono:
            self._began = (since, reason)
            self._since = self._clock.earliest(since)
        self._lost_kinds |= lost
        self._active_limit = None  # what an earlier join replays cannot cover what is missed from now on

    def resume(self, since: float, now: Instant) -> None:
        """Open a gap before the first join: messages may be missing since this time of the server."""
        self._began, self._since = (Instant(now.mono, since), RESUME_REASON), since
        self._new_replayed, self._lost_kinds = 0, self._lost_kinds | {"broadcast"}

    def replay(self) -> dict[str, int] | None:
        """Return the replay request of the next join, None for no replay. Public channels have no replay."""
        limit = MAX_REPLAYED_MESSAGES
        since: int | None = None
        self._start_known = self._since is not None
        wanted = self._options.replay_gaps or (self._began is not None and self._began[1] == RESUME_REASON)
        if self._options.private and wanted and self._began is not None:
            began = self._began[0]
            known = (self._since, self._clock.extrapolate_back(began))
            earliest = min((at for at in known if at is not None), default=began.wall)
            since = max(0, int((earliest - REPLAY_MARGIN) * 1000))
        elif self._is_first_join:
            since, limit = self._options.replay_since_ms, self._options.replay_limit or MAX_REPLAYED_MESSAGES
        self._requested_limit = None if since is None else limit
        return None if since is None else {"since": since, "limit": limit}

    def joined(self) -> None:
        """Start to count replayed messages: the join was accepted."""
        self._is_first_join = False
        self._active_limit, self._received, self._replay_complete = self._requested_limit, 0, False

    def replay_ended(self) -> None:
        """Record that the active join has finished its replay."""
        self._replay_complete = True

    def ended(self) -> None:
        """Stop the replay: the join has ended."""
        self._active_limit = None

    def reset(self) -> None:
        """Reset everything after a leave by the user: nothing is missing, and the next join counts as the first."""
        self._began, self._lost_kinds, self._is_first_join = None, _NOTHING, True

    def add_stored(self, identity: str | None, now: float, *, replayed: bool) -> bool:
        """Record a message that has an id or was replayed, and return whether it is new. `now`: monotonic time."""
        self._received += replayed
        if identity is not None and len(identity) > MAX_ID_LENGTH:
            identity = None
        if identity is not None and self._seen_ids is not None and identity in self._seen_ids:
            self._seen_ids[identity] = now
            self._seen_ids.move_to_end(identity)
            return False
        self._new_replayed += replayed
        if identity is None:
            return True
        if self._seen_ids is None:
            self._seen_ids = OrderedDict()
        seen = self._seen_ids
        seen[identity] = now
        while len(seen) > KEPT_IDS and (len(seen) > MAX_KEPT_IDS or next(iter(seen.values())) < now - ID_LIFETIME):
            seen.popitem(last=False)
        return True

    @property
    def replay_pending(self) -> bool:
        """Whether more replayed messages may arrive."""
        return self._active_limit is not None and self._received < self._active_limit and not self._replay_complete

    def add_kinds(self, lost: frozenset[str]) -> None:
        """Add these kinds to an open gap, because listeners for them were added."""
        if self._began is not None:
            self._lost_kinds |= lost

    def close(self, now: Instant) -> Gap | None:
        """Close the gap because events arrive again. Return it, or None if there is nothing to report."""
        if self._began is None:
            return None
        (began, reason), self._began = self._began, None
        lost, self._lost_kinds = self._lost_kinds, _NOTHING
        if reason == REJOIN_REASON and not lost:
            return None  # the client rejoined by its own choice, and no listener can have missed anything
        ended = max(began.at(), now.at())  # the clock may have been set back
        return Gap(self._name, began.at(), ended, reason, self._new_replayed, self._verdict(), lost)

    def _verdict(self) -> Verdict:
        if self._active_limit is None:
            return "not_replayable"
        return "truncated" if self._received >= self._active_limit or not self._start_known else "complete"
