"""Times in which events may have been missed, and what replay brought back (R44).

A gap opens when a living join ends without the user's wish, or when the server says that changes are not flowing. It is
told when events flow again: at the join, or when changes are live again if the channel listens to them, so that a
refetch on it misses nothing. On a private channel the rejoin asks for stored messages since the gap's start; an id seen
before is dropped, and exactly the limit coming back means that older ones may be missing (protocol §6.3).
"""

from collections import OrderedDict
from typing import Final

from supawire.options import ChannelOptions
from supawire.types import Gap, Instant, Verdict

SKEW: Final = 5.0
"""Seconds: how far the server's clock may be ahead of ours without a message being missed."""

LIMIT: Final = 25
"""The most that the server replays."""

SETTLED: Final = 1.0
"""Seconds after the join in which replayed messages are counted; the server does not say when it has sent the last."""

_REMEMBERED: Final = 1000

_NOTHING: Final[frozenset[str]] = frozenset()


class Gaps:
    """The gaps of one channel, one at a time."""

    __slots__ = (
        "_asked", "_began", "_came", "_first", "_lost", "_name", "_options", "_replayed", "_replaying", "_seen",
    )  # fmt: skip

    def __init__(self, name: str, options: ChannelOptions) -> None:
        self._name = name
        self._options = options
        self._began: tuple[Instant, str] | None = None
        self._lost = _NOTHING
        self._seen: OrderedDict[str, None] | None = None
        """The ids of stored messages; on most channels none comes."""
        self._asked: int | None = None
        self._replaying: int | None = None
        """How many messages the living join brings back at most."""
        self._came = self._replayed = 0
        """Of the replayed messages: all that came back, and those that were new to us."""
        self._first = True

    @property
    def is_open(self) -> bool:
        """Whether something may be missing that was not told yet."""
        return self._began is not None

    def open(self, since: Instant, reason: str, lost: frozenset[str]) -> None:
        """Something may be missing from here on; of an open gap the earlier beginning counts."""
        if self._began is None or since.mono < self._began[0].mono:
            self._began = (since, reason)
        self._lost |= lost
        self._replaying = None  # whatever a join before brought back, it cannot know what is missed from now on

    def replay(self) -> dict[str, int] | None:
        """What this join asks to be replayed, None for nothing; public channels have no replay."""
        limit = self._options.replay_limit or LIMIT
        since: int | None = None
        if self._options.private and self._options.replay_gaps and self._began is not None:
            since = max(0, int((self._began[0].wall - SKEW) * 1000))
        elif self._first:
            since = self._options.replay_since_ms
        self._asked = None if since is None else limit
        return None if since is None else {"since": since, "limit": limit}

    def joined(self) -> None:
        """The join is accepted: what it asked to be replayed comes now."""
        self._first = False
        self._replaying, self._came, self._replayed = self._asked, 0, 0

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
        return self._replaying is not None and self._came < self._replaying

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
        return Gap(self._name, began.at(), now.at(), reason, self._replayed, self._verdict(), lost)

    def _verdict(self) -> Verdict:
        if self._replaying is None:
            return "not_replayable"
        return "truncated" if self._came >= self._replaying else "complete"
