"""What each deadline means: the first part of its key, and who acts on it."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from supawire.core.channel import Channel
from supawire.core.joins import JoinQueue
from supawire.core.link import Link
from supawire.core.membership import Membership
from supawire.core.refresh import Refresh
from supawire.types import Instant

Due = Callable[[Any, Instant], None]


def deadlines(link: Link, joins: JoinQueue, refresh: Refresh, channels: Mapping[str, Channel]) -> dict[Hashable, Due]:
    """By the first part of a key; a channel's deadline has its topic as the second part."""

    def of_channel(call: Callable[[Channel, Instant], None]) -> Due:
        def due(key: Any, now: Instant) -> None:
            channel = channels.get(key[1])
            if channel is not None:
                call(channel, now)

        return due

    def of_member(call: Callable[[Membership, Instant], None]) -> Due:
        return of_channel(lambda channel, now: call(channel.membership, now))

    return {
        "attempt": lambda _, now: link.attempt_late(now),
        "opening": lambda _, now: link.opening_late(now),
        "closing": lambda _, now: link.closing_late(now),
        "connect": lambda _, now: link.due(now),
        "beat": lambda _, now: link.beat(now),
        "proven": lambda _, __: link.up(),
        "clock": lambda _, now: link.look(now),
        "idle": lambda _, now: link.idle(now),
        "joins": lambda _, now: joins.pump(now),
        "token": lambda _, now: refresh.late(now),
        "refresh": lambda _, now: refresh.ask(now),
        "rejoin": of_member(Membership.retry_due),
        "again": of_member(Membership.again_due),
        "leave": of_member(Membership.leave_late),
        "gap": of_member(Membership.gap_due),
        "track": of_channel(Channel.track_due),
        "flush": of_channel(Channel.flush_due),
    }
