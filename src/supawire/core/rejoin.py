"""What follows when a join is refused or ends: try again, slower, with a fresh token, or give up (R26, R29)."""

from typing import Final, NamedTuple

from supawire.core.context import Context
from supawire.core.token import same
from supawire.errors import Action, Known
from supawire.options import Secret
from supawire.types import Instant

CHANNEL_LIMIT: Final = "ChannelRateLimitReached"
"""The code of a join that is refused because the connection has too many channels."""

_STEADY: Final = 5.0
"""Seconds joined after which the backoff starts anew."""


class Verdict(NamedTuple):
    """Whether to try again, and how."""

    again: bool
    slow: bool = False
    stuck: bool = False
    """The provider gave the same token again that was refused before."""


class Rejoin:
    """The attempts of one channel to be joined."""

    __slots__ = (
        "_attempts", "_context", "_failing_since", "_joined_at", "_recounted", "_refused", "_topic",
    )  # fmt: skip

    def __init__(self, context: Context, topic: str) -> None:
        self._context = context
        self._topic = topic
        self._attempts = 0
        self._failing_since: float | None = None
        self._joined_at: float | None = None
        self._refused: tuple[Secret | None] | None = None
        self._recounted = False

    def reset(self) -> None:
        """The user wants in anew."""
        self._attempts, self._failing_since, self._joined_at, self._refused = 0, None, None, None
        self._recounted = False

    def joined(self, now: Instant) -> None:
        """The server said ok."""
        self._joined_at = now.mono
        self._refused, self._recounted = None, False

    def ended(self, now: Instant) -> None:
        """The join is over; one that lasted makes the next attempt a first one."""
        if self._joined_at is not None and now.mono - self._joined_at >= _STEADY:
            self._attempts, self._failing_since = 0, None
        self._joined_at = None

    def since(self, instant: Instant) -> Instant:
        """This instant, but none before the join: of what was then, nothing is missing."""
        late = 0.0 if self._joined_at is None else max(0.0, self._joined_at - instant.mono)
        return Instant(instant.mono + late, instant.wall + late)

    def judge(self, row: Known, token: Secret | None, own: Secret | None, now: Instant) -> Verdict:
        """What the error table says. `token`: the refused one; `own`: the channel's, instead of the client's."""
        if self.exhausted(now) or row.action is Action.GIVE_UP:
            return Verdict(again=False)
        if row.action is not Action.REFRESH:
            return Verdict(again=True, slow=row.action is Action.SLOW_RETRY)
        before, self._refused = self._refused, (token,)
        if not same(token, own or self._context.tokens.current):
            return Verdict(again=True)  # the user has given a newer one meanwhile
        if own is not None or not self._context.tokens.has_provider or (row.once and before is not None):
            return Verdict(again=False)
        stuck = before is not None and same(before[0], token)
        return Verdict(again=True, slow=stuck, stuck=stuck)

    def may_recount(self, now: Instant) -> bool:
        """Return whether to try once more after "too many channels", once for each wish to join.

        The server's count is late: a channel that was left a moment ago may still be in it. We count exactly, and ask
        for no more channels than `limits.channels`; so where that is set, the server's word is final the second time.
        """
        first, self._recounted = not self._recounted, True
        return first and not self.exhausted(now) and self._context.options.limits.channels is not None

    def wait(self, now: Instant, *, slow: bool = False) -> None:
        """Come back with ("rejoin", topic) after the backoff."""
        backoff = self._context.options.rejoin_backoff
        self._context.wait(("rejoin", self._topic), backoff, self._attempts, now, slow=slow)
        self._attempts += 1

    def wait_for(self, seconds: float, now: Instant) -> None:
        """The same after as long as the user's backoff says."""
        self._context.timers.set(("rejoin", self._topic), now.mono + seconds)

    def exhausted(self, now: Instant) -> bool:
        """Whether as many attempts were made, or for as long, as the user allows."""
        if self._failing_since is None:
            self._failing_since = now.mono
        backoff = self._context.options.rejoin_backoff
        return backoff is not None and backoff.ends(self._attempts, now.mono - self._failing_since)
