"""Tables of the page about names of other clients, from the rows that the errors use."""

from docs.tables import rows, table
from supawire._other_clients import CALLS, NAMES

_PLACES = {
    "supawire": "the package",
    "client": "a client",
    "channel": "a channel",
    "insert": "an `Insert`",
    "delete": "a `Delete`",
    "change": "a change",
    "message": "a `Broadcast`",
    "entry": "a `Presence`",
    "presence event": "a presence event",
    "presence state": "a `PresenceSync`",
}


@table("foreign-names")
def names() -> str:
    """Return the table of names: where they are missing, and what to write."""
    return rows(
        ["in", "name", "write here"],
        [
            [_PLACES[row.where], ", ".join(f"`{name}`" for name in row.names), f"`{row.write}`"
             + (f" {row.remark}" if row.remark else "")]
            for row in NAMES
        ],
    )  # fmt: skip


@table("foreign-calls")
def calls() -> str:
    """Return the table of calls in the form of another client."""
    return rows(["instead of", "write here"], [[f"`{wrong}`", f"`{right}`"] for wrong, right in CALLS])
