"""What a topic consists of besides its joins: listeners, presence, gaps, sends, and who waits."""

from dataclasses import dataclass

from supawire.core import frames
from supawire.core.context import Context
from supawire.core.gaps import Gaps
from supawire.core.listeners import Index
from supawire.core.outbox import Outbox
from supawire.core.presence import Roster
from supawire.core.readiness import Readiness
from supawire.core.tracking import Tracking
from supawire.core.waiters import Waiters
from supawire.options import ChannelOptions


@dataclass(frozen=True, slots=True)
class Parts:
    """Each knows one subject; `membership` and `channel` bring them together."""

    index: Index
    roster: Roster
    gaps: Gaps
    tracking: Tracking
    outbox: Outbox
    waiters: Waiters
    readiness: Readiness

    @classmethod
    def of(cls, context: Context, topic: str, options: ChannelOptions) -> "Parts":
        """The parts of a new channel."""
        name = topic.removeprefix(frames.PREFIX)
        return cls(
            index=Index(),
            roster=Roster(name),
            gaps=Gaps(name, options),
            tracking=Tracking(context, topic),
            outbox=Outbox(context, topic),
            waiters=Waiters(context, topic),
            readiness=Readiness(),
        )
