"""The counters of a client, from `Stats`; one without its meaning here fails the test."""

from dataclasses import fields

from docs.tables import rows, table
from supawire.events import Stats

MEANINGS = {
    "state": "where the connection stands: a `ConnectionState`",
    "frames_received": "frames that came, whatever was in them",
    "frames_sent": "frames that were handed to a connection",
    "connects": "connections that were opened",
    "reconnects": "those after the first",
    "joins": "joins that were sent, rejoins too",
    "stale_frames": "frames of an earlier connection or join, and answers that nobody waited for any more: dropped",
    "late_replies": "replies that came after their time, or to a request that asked for none",
    "garbage_frames": "frames that could not be read: dropped",
    "unknown_frames": "frames of kinds that this version does not know: dropped",
    "pending": "calls that wait for something now",
    "queued": "broadcasts that are kept now until a channel is joined",
    "overflowed": "events that had no room behind a slow listener, of the listeners that are there",
    "last_round_trip": "seconds of the newest heartbeat's round trip; `None` before the first",
}


@table("stats")
def stats() -> str:
    """Every counter of `client.stats()`."""
    return rows(["field", "meaning"], [[f"`{field.name}`", MEANINGS[field.name]] for field in fields(Stats)])
