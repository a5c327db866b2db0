"""Fault rules that stay in force until they are reset; the hub checks them."""

from dataclasses import dataclass, field

from supawire.core.frames import PREFIX
from supawire.events import Instant

ALL = "*"


def sub_topic(topic: str) -> str:
    """Return a topic without the `realtime:` prefix."""
    return topic.removeprefix(PREFIX)


@dataclass(slots=True)
class FaultRules:
    """The faults in force; the defaults mean none."""

    refusals: int = 0
    """Number of handshakes still to refuse."""
    refuse_until: float = 0.0
    refuse_status: int = 503
    reply_delay: float = 0.0
    dropped: dict[str, int | None] = field(default_factory=dict[str, int | None])
    """Replies to drop, by the event of the push: the remaining number, or None for all."""
    rejected: dict[str, str] = field(default_factory=dict[str, str])
    """Reasons of refused joins, by topic without prefix or `*`."""
    join_delays: dict[str, float] = field(default_factory=dict[str, float])
    lag: float = 0.0
    """Delay of frames for new connections; existing ones have their own."""
    paused: bool = False

    def refusal(self, now: Instant) -> int | None:
        """Return the status to refuse the next handshake with, or None. Counts the handshake."""
        if self.refusals:
            self.refusals -= 1
            return self.refuse_status
        return self.refuse_status if now.mono < self.refuse_until else None

    def drops_reply(self, event: str) -> bool:
        """Return whether to drop the reply to this push. Counts the reply."""
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
        """Return the reason to refuse a join of this topic with, or None."""
        return self.rejected.get(topic, self.rejected.get(ALL))

    def join_delay(self, topic: str) -> float:
        """Return the seconds for which a join of this topic suspends the socket."""
        return self.join_delays.get(topic, self.join_delays.get(ALL, 0.0)) + self.reply_delay
