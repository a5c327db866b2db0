"""Tables of the counters of a client and of a channel. A counter without a meaning here fails the test."""

from dataclasses import fields

from docs.tables import rows, table
from supawire.events import ChannelStats, Stats

MEANINGS = {
    "state": "state of the connection, a `ConnectionState`",
    "frames_received": "frames received, of any kind",
    "frames_sent": "frames handed to a connection",
    "connects": "connections opened",
    "reconnects": "connections opened after the first",
    "joins": "joins sent, rejoins included",
    "stale_frames": "frames dropped because they belong to an earlier connection or join, or answer a request that is no longer pending",
    "late_replies": "replies that arrived after the timeout, or to a request that asked for none",
    "garbage_frames": "frames dropped because they could not be parsed",
    "unknown_frames": "frames dropped because this version does not know their kind",
    "pending": "calls that are waiting now",
    "queued": "broadcasts that are queued now until a channel is joined",
    "overflowed": "events dropped because a listener was too slow, or replaced by newer ones where it asked for that",
    "last_round_trip": "round trip of the latest answered heartbeat in seconds; `None` before the first",
    "transport": "the packages that carry the connection, with their versions, and `longpoll` for long polling; `None` when there is none, or if a transport of yours has no `name`",
    "malformed_presence": "presence payloads that were malformed or too large; what could be read of them was applied",
    "messages_received": "broadcasts and changes received on joined channels, also those without a listener",
    "messages_sent": "broadcasts handed to a connection",
    "messages_published": "broadcasts that the server accepted by HTTP",
    "gaps": "gaps: periods in which a channel may have missed events",
    "handler_errors": "exceptions of handlers",
    "buffered": "events that wait now for a handler or an iterator, of all of them together",
    "channels": "channels that exist now",
    "joined_channels": "channels that are joined now",
    "message_budget": "`Budget` of `Limits(messages_per_second=…)`: `used` and `left` of `limit` messages in `window` seconds; not counted without a limit",
    "join_budget": "the same of `joins_per_second`",
    "presence_budget": "the same of `presence_per_second`",
    "clock_offset": "seconds by which the server's clock is ahead of this machine's, or up to a second less; `None` if unknown",
    "fallbacks": "how often long polling was chosen because WebSockets were blocked, see [transports](transports.md#long-polling)",
    "sockets": "a `SocketStats` for each open socket: `number`, `state`, `channels`, `frames_received`, `frames_sent`, `connects`, "
    "`reconnects`, `last_round_trip`; see [more than 100 channels](connections.md#more-than-100-channels)",
}

CHANNEL = {
    "state": "state of the channel, a `ChannelState`",
    "ready": "whether it is joined and everything that it listens to is live",
    "joins": "joins sent, rejoins included",
    "messages_received": MEANINGS["messages_received"].replace("on joined channels", "while joined"),
    "messages_sent": MEANINGS["messages_sent"],
    "queued": "broadcasts that are queued now until the channel is joined, or because of the rate limit",
    "buffered": "events that wait now for a handler or an iterator of the channel",
    "overflowed": MEANINGS["overflowed"],
    "gaps": "gaps of the channel",
    "handler_errors": "exceptions of its handlers",
    "malformed_presence": MEANINGS["malformed_presence"],
}


@table("stats")
def stats() -> str:
    """Return the table of all counters of `client.stats()`."""
    return rows(["field", "meaning"], [[f"`{field.name}`", MEANINGS[field.name]] for field in fields(Stats)])


@table("channel-stats")
def channel_stats() -> str:
    """Return the table of all counters of `channel.stats()`."""
    return rows(["field", "meaning"], [[f"`{field.name}`", CHANNEL[field.name]] for field in fields(ChannelStats)])
