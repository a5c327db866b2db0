"""What each deadline means: the first part of its key, and who acts on it."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from supawire.core.channel import Channel
from supawire.core.joins import JoinQueue
from supawire.core.link import Link
from supawire.core.membership import Membership
from supawire.core.receive import Receiver
from supawire.core.refresh import Refresh
from supawire.errors import ConnectionLostError
from supawire.types import Instant


class Deadlines:
    """The parts of one session that act on deadlines; only on a caller's ("ticket") it acts itself."""

    __slots__ = ("channels", "joins", "link", "receiver", "refresh")

    def __init__(
        self, link: Link, joins: JoinQueue, refresh: Refresh, receiver: Receiver, channels: Mapping[str, Channel]
    ) -> None:
        self.link: Final = link
        self.joins: Final = joins
        self.refresh: Final = refresh
        self.receiver: Final = receiver
        self.channels: Final = channels

    def passed(self, key: Any, now: Instant) -> None:
        """The deadline with this key has passed."""
        _MEANINGS[key[0]](self, key, now)

    def beat(self, now: Instant) -> None:
        """Send a heartbeat; with `token_on_heartbeat` ask the provider too."""
        self.link.beat(now)
        self.refresh.beat(now)

    def join_late(self, now: Instant) -> None:
        """The join that leads the row is not answered; or the socket is dead, when nothing was heard since."""
        heard = self.receiver.heard_at
        if not self.joins.timed_out(now, heard.mono if heard else 0.0):
            self.link.lose(ConnectionLostError("nothing came while a join waited for its answer"), now)


_Due = Callable[[Deadlines, Any, Instant], None]


def _of_channel(call: Callable[[Channel, Instant], None]) -> _Due:
    """A channel's deadline has its topic as the second part."""

    def due(of: Deadlines, key: Any, now: Instant) -> None:
        channel = of.channels.get(key[1])
        if channel is not None:
            call(channel, now)

    return due


def _of_member(call: Callable[[Membership, Instant], None]) -> _Due:
    return _of_channel(lambda channel, now: call(channel.membership, now))


_MEANINGS: Final[Mapping[Hashable, _Due]] = {
    "attempt": lambda of, _, now: of.link.attempt_late(now),
    "opening": lambda of, _, now: of.link.opening_late(now),
    "closing": lambda of, _, now: of.link.closing_late(now),
    "connect": lambda of, _, now: of.link.due(now),
    "beat": lambda of, _, now: of.beat(now),
    "proven": lambda of, _, __: of.link.up(),
    "clock": lambda of, _, now: of.link.look(now),
    "idle": lambda of, _, now: of.link.idle(now),
    "join": lambda of, _, now: of.join_late(now),
    "joins": lambda of, _, now: of.joins.pump(now),
    "token": lambda of, _, now: of.refresh.late(now),
    "refresh": lambda of, _, now: of.refresh.ask(now),
    "rejoin": _of_member(Membership.retry_due),
    "again": _of_member(Membership.again_due),
    "leave": _of_member(Membership.leave_late),
    "gap": _of_member(Membership.gap_due),
    "track": _of_channel(Channel.track_due),
    "flush": _of_channel(Channel.flush_due),
}
