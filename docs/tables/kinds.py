"""Table of the kinds of events that a server sends, by the names in supabase-clj's protocol namespace."""

from typing import NamedTuple

from docs.tables import rows, table
from supawire.core import frames


class Kind(NamedTuple):
    """A kind in supabase-clj, its event on the wire, and what the client does with it."""

    there: str
    event: str
    here: str


KINDS = (
    Kind(
        ":phx-reply",
        frames.REPLY,
        "the answer to the request with the same `ref`: the pending call returns or raises",
    ),
    Kind(
        ":heartbeat-reply",
        frames.REPLY,
        f"the same on the topic `{frames.PHOENIX}`: `ping` returns its round trip; it shows that the server responds",
    ),
    Kind(
        ":phx-close",
        frames.CLOSE,
        "the end of the join that it names; a subscribed channel joins again, or fails with the reason",
    ),
    Kind(":phx-error", frames.ERROR, "the same after a crash on the server"),
    Kind(
        ":postgres-changes",
        frames.POSTGRES_CHANGES,
        "`Insert`, `Update` or `Delete`, for listeners with a matching selector",
    ),
    Kind(":broadcast", frames.BROADCAST, "`Broadcast`"),
    Kind(":presence-state", frames.PRESENCE_STATE, "`PresenceSync`, after a `PresenceJoin` for each new entry"),
    Kind(
        ":presence-diff",
        frames.PRESENCE_DIFF,
        "`PresenceJoin`, `PresenceLeave` and `PresenceUpdate`, then `PresenceSync`",
    ),
    Kind(":system", frames.SYSTEM, "`System`; it also changes `ready`, and starts or ends a `Gap`"),
    Kind(":unknown", "anything else", "counted in `stats().unknown_frames` and logged; otherwise ignored"),
)


@table("wire-kinds")
def wire_kinds() -> str:
    """Return a table with one line per kind."""
    lines = [
        (f"`{kind.there}`", f"`{kind.event}`" if " " not in kind.event else kind.event, kind.here) for kind in KINDS
    ]
    return rows(("`supabase-clj`", "on the wire", "supawire"), lines)
