"""Standing orders to misbehave: what faults leave behind for the hub to look at (local server: Faults)."""

from dataclasses import dataclass, field

from supawire.core.frames import PREFIX
from supawire.events import Instant

ALL = "*"


def sub_topic(topic: str) -> str:
    """A topic as users say it, whichever way it was given."""
    return topic.removeprefix(PREFIX)


@dataclass(slots=True)
class FaultRules:
    """Each field is one fault that lasts; the defaults are good behaviour."""

    refusals: int = 0
    """Handshakes still to be refused."""
    refuse_until: float = 0.0
    refuse_status: int = 503
    reply_delay: float = 0.0
    dropped: dict[str, int | None] = field(default_factory=dict[str, int | None])
    """Replies not sent, by the event they answer: how many more, None for all."""
    rejected: dict[str, str] = field(default_factory=dict[str, str])
    """Reasons of refused joins, by sub-topic or `*`."""
    join_delays: dict[str, float] = field(default_factory=dict[str, float])
    lag: float = 0.0
    """Delay of new sockets' frames; older ones have their own."""
    paused: bool = False

    def refusal(self, now: Instant) -> int | None:
        """The status to refuse the next handshake with, or None; counts it."""
        if self.refusals:
            self.refusals -= 1
            return self.refuse_status
        return self.refuse_status if now.mono < self.refuse_until else None

    def drops_reply(self, event: str) -> bool:
        """Whether the answer to this push is lost; counts it."""
        if event not in self.dropped:
            return False
        left = self.dropped[event]
        if left is not None:
            if left <= 1:
                del self.dropped[event]
            else:
                self.dropped[event] = left - 1
        return True

    def rejection(self, topic: str) -> str | None:
        """The reason to refuse a join of this sub-topic with, or None."""
        return self.rejected.get(topic, self.rejected.get(ALL))

    def join_delay(self, topic: str) -> float:
        """Seconds for which a join of this sub-topic holds the socket."""
        return self.join_delays.get(topic, self.join_delays.get(ALL, 0.0)) + self.reply_delay
