"""The kinds of events that a server sends, by the names of the original's protocol namespace."""

from typing import NamedTuple

from docs.tables import rows, table
from supawire.core import frames


class Kind(NamedTuple):
    """A kind there, its event on the wire, and what the core makes of it."""

    there: str
    event: str
    here: str


KINDS = (
    Kind(
        ":phx-reply",
        frames.REPLY,
        "the answer to one request, found by its `ref`: the call that waits returns or raises",
    ),
    Kind(
        ":heartbeat-reply",
        frames.REPLY,
        f"the same on the topic `{frames.PHOENIX}`: the round trip that `ping` returns, and the proof that the server lives",
    ),
    Kind(
        ":phx-close", frames.CLOSE, "the end of the join that it names; a wanted channel joins again, or says why not"
    ),
    Kind(":phx-error", frames.ERROR, "the same after a crash on the server"),
    Kind(
        ":postgres-changes", frames.POSTGRES_CHANGES, "`Insert`, `Update` or `Delete`, to those whose selector it fits"
    ),
    Kind(":broadcast", frames.BROADCAST, "`Broadcast`"),
    Kind(":presence-state", frames.PRESENCE_STATE, "`PresenceSync`, after a `PresenceJoin` for everyone who is new"),
    Kind(
        ":presence-diff",
        frames.PRESENCE_DIFF,
        "`PresenceJoin`, `PresenceLeave` and `PresenceUpdate`, then `PresenceSync`",
    ),
    Kind(":system", frames.SYSTEM, "`System`; it also moves `ready`, and opens or closes a `Gap`"),
    Kind(":unknown", "anything else", "counted in `stats().unknown_frames` and logged once; nothing ends"),
)


@table("wire-kinds")
def wire_kinds() -> str:
    """One line for each kind."""
    lines = [
        (f"`{kind.there}`", f"`{kind.event}`" if " " not in kind.event else kind.event, kind.here) for kind in KINDS
    ]
    return rows(("there", "on the wire", "here"), lines)
