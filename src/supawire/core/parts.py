"""What a topic consists of besides its joins: listeners, presence, gaps, sends, and who waits."""

from msgspec import Struct

from supawire.core.context import Context
from supawire.core.gaps import Gaps
from supawire.core.join import Join
from supawire.core.listeners import Index
from supawire.core.outbox import Outbox
from supawire.core.presence import Roster
from supawire.core.readiness import Readiness
from supawire.core.tracking import Tracking
from supawire.core.waiters import Waiters
from supawire.options import ChannelOptions


class Parts(Struct, frozen=True):
    """Each knows one subject; `membership` and `channel` bring them together."""

    index: Index
    roster: Roster
    gaps: Gaps
    tracking: Tracking
    outbox: Outbox
    waiters: Waiters
    readiness: Readiness

    @classmethod
    def of(cls, context: Context, topic: str, name: str, options: ChannelOptions) -> "Parts":
        """The parts of a new channel."""
        return cls(
            index=Index(),
            roster=Roster(name),
            gaps=Gaps(name, options, context.server_clock),
            tracking=Tracking(context, topic, name),
            outbox=Outbox(context, topic, name),
            waiters=Waiters(context, topic),
            readiness=Readiness(),
        )

    def wants_presence(self, options: ChannelOptions) -> bool:
        """Whether the next join enables presence: somebody listens, has a key, or is to be tracked."""
        return self.index.wants_presence or options.presence_key is not None or self.tracking.wish is not None

    def unmet(self, join: Join | None, options: ChannelOptions) -> frozenset[str]:
        """The kinds of events that are wanted and that this join did not ask for; none when there is no join."""
        if join is None:
            return frozenset()
        unmet = set[str]()
        if self.index.lacks(join.bindings):
            unmet.add("changes")
        if self.wants_presence(options) and not join.presence:
            unmet.add("presence")
        return frozenset(unmet)
