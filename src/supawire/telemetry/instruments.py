"""The metrics: their names and units, and the fields of `stats()` from which they are read.

Names that begin with `messaging.` are those of the semantic conventions of OpenTelemetry for messaging.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple

from supawire.events import ConnectionState, Stats

Read = Callable[[Any], Any]


class Metric(NamedTuple):
    """A metric that is read from `stats()`. read: returns its value, None for none. extra: its own attributes."""

    name: str
    unit: str
    description: str
    read: Read
    extra: Mapping[str, str] = {}


class Instrument(NamedTuple):
    """A histogram: each value is recorded when it is measured."""

    name: str
    unit: str
    description: str


def _not_joined(stats: Stats) -> int:
    return stats.channels - stats.joined_channels


def _is_in(state: ConnectionState) -> Read:
    def read(stats: Stats) -> int:
        return int(stats.state is state)

    return read


_SENT: Final = ("messaging.client.sent.messages", "{message}", "Broadcasts sent by WebSocket or HTTP.")
_IGNORED: Final = ("supawire.frames.ignored", "{frame}", "Frames received that had no effect, by the reason.")
_CHANNELS: Final = ("supawire.channels", "{channel}", "Channels by state.")
_FETCHES: Final = ("supawire.mirror.fetches", "{call}", "Fetches of a mirror, of the table or of a row.")

CHANNEL_COUNTERS: Final = (
    Metric(
        "messaging.client.consumed.messages", "{message}", "Broadcasts and changes received.",
        attrgetter("messages_received"), {"messaging.operation.name": "receive"},
    ),
    Metric(*_SENT, attrgetter("messages_sent"), {"messaging.operation.name": "send"}),
    Metric("supawire.joins", "{join}", "Joins sent, rejoins included.", attrgetter("joins")),
    Metric("supawire.gaps", "{gap}", "Periods in which a channel may have missed events.", attrgetter("gaps")),
    Metric(
        "supawire.events.dropped", "{event}", "Events dropped because a listener was too slow.",
        attrgetter("overflowed"),
    ),
    Metric("supawire.handler.errors", "{error}", "Exceptions of handlers.", attrgetter("handler_errors")),
    Metric(
        "supawire.presence.malformed", "{entry}", "Presence payloads that were malformed or too large.",
        attrgetter("malformed_presence"),
    ),
)  # fmt: skip
"""Counters that channels have too, so that they can have the label of a topic."""

CLIENT_COUNTERS: Final = (
    Metric(*_SENT, attrgetter("messages_published"), {"messaging.operation.name": "publish"}),
    Metric("supawire.frames.received", "{frame}", "Frames received.", attrgetter("frames_received")),
    Metric("supawire.frames.sent", "{frame}", "Frames handed to a connection.", attrgetter("frames_sent")),
    Metric(*_IGNORED, attrgetter("stale_frames"), {"reason": "stale"}),
    Metric(*_IGNORED, attrgetter("garbage_frames"), {"reason": "unreadable"}),
    Metric(*_IGNORED, attrgetter("unknown_frames"), {"reason": "unknown"}),
    Metric(*_IGNORED, attrgetter("late_replies"), {"reason": "late"}),
    Metric("supawire.connects", "{connection}", "Connections opened.", attrgetter("connects")),
    Metric("supawire.reconnects", "{connection}", "Connections opened after the first.", attrgetter("reconnects")),
)

CHANNEL_GAUGES: Final = (
    Metric(
        "supawire.events.waiting", "{event}", "Events that wait for a handler or an iterator.", attrgetter("buffered")
    ),
    Metric(
        "supawire.broadcasts.queued", "{message}", "Broadcasts that wait for a join or for the rate limit.",
        attrgetter("queued"),
    ),
)  # fmt: skip

_BUDGETS: Final = {"messages": "message_budget", "joins": "join_budget", "presence": "presence_budget"}

CLIENT_GAUGES: Final = (
    *(
        Metric("supawire.budget.used", "{call}", "Calls that the rate limits of the clients count now, by the limit.",
               attrgetter(f"{field}.used"), {"of": of})
        for of, field in _BUDGETS.items()
    ),
    *(
        Metric("supawire.budget.left", "{call}", "Calls that the rate limits of the clients allow now, by the limit.",
               attrgetter(f"{field}.left"), {"of": of})
        for of, field in _BUDGETS.items()
    ),
    Metric("supawire.calls.pending", "{call}", "Calls that wait for an answer.", attrgetter("pending")),
    Metric(*_CHANNELS, attrgetter("joined_channels"), {"state": "joined"}),
    Metric(*_CHANNELS, _not_joined, {"state": "not joined"}),
    *(
        Metric("supawire.clients", "{client}", "Clients by the state of their connection.", _is_in(state),
               {"state": state.value})
        for state in ConnectionState
        if state is not ConnectionState.CLOSED
    ),
)  # fmt: skip

LAST_VALUES: Final = (
    Metric(
        "supawire.heartbeat.round_trip", "s", "Round trip of the latest heartbeat.", attrgetter("last_round_trip")
    ),
    Metric(
        "supawire.clock.offset", "s", "How far the server's clock is ahead of this machine's.",
        attrgetter("clock_offset"),
    ),
)  # fmt: skip
"""Values that are not added up: of several clients the largest is taken. None: no value."""

PROCESS_DURATION: Final = Instrument("messaging.process.duration", "s", "Duration of the calls of handlers.")
OPERATION_DURATION: Final = Instrument(
    "messaging.client.operation.duration", "s", "Duration of connects, joins, confirmed sends and HTTP requests."
)
LAG: Final = Instrument(
    "supawire.change.lag", "s", "Time from the commit of a change to its handler or iterator, by the local clock."
)

DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds in seconds; those that the conventions advise."""

WORKER_COUNTERS: Final = (
    *(
        Metric("supawire.worker.attempts", "{attempt}", "Attempts of jobs, by how they began and ended.",
               attrgetter(outcome), {"outcome": outcome})
        for outcome in ("claimed", "done", "retried", "failed", "lost", "released")
    ),
    Metric("supawire.worker.busy", "s", "Time spent in handlers of jobs.", attrgetter("busy_seconds")),
)  # fmt: skip
WORKER_GAUGES: Final = (Metric("supawire.worker.running", "{job}", "Jobs that run now.", attrgetter("running")),)

MIRROR_COUNTERS: Final = (
    Metric("supawire.mirror.changes", "{change}", "Changes that a mirror received.", attrgetter("changes")),
    Metric(*_FETCHES, attrgetter("fetches"), {"of": "table"}),
    Metric(*_FETCHES, attrgetter("row_fetches"), {"of": "row"}),
    Metric(
        "supawire.mirror.differences", "{row}", "Rows that a mirror found to differ, and repaired.",
        attrgetter("differences"),
    ),
)  # fmt: skip
