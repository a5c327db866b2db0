"""Table of the counters of a client, from `Stats`. A counter without a meaning here fails the test."""

from dataclasses import fields

from docs.tables import rows, table
from supawire.events import Stats

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
    "overflowed": "events dropped because a listener was too slow; registered listeners only",
    "last_round_trip": "round trip of the latest answered heartbeat in seconds; `None` before the first",
    "malformed_presence": "presence payloads that were malformed or too large; what could be read of them was applied",
}


@table("stats")
def stats() -> str:
    """Return the table of all counters of `client.stats()`."""
    return rows(["field", "meaning"], [[f"`{field.name}`", MEANINGS[field.name]] for field in fields(Stats)])
