"""Names, limits and the plain form of frames. See docs/protocol.md, Frames."""

from typing import Any, Final, NamedTuple

PHOENIX: Final = "phoenix"
"""Topic of heartbeats."""

PREFIX: Final = "realtime:"
"""Prefix of a channel's topic on the wire; the rest is the name that users see."""

JOIN: Final = "phx_join"
LEAVE: Final = "phx_leave"
REPLY: Final = "phx_reply"
CLOSE: Final = "phx_close"
ERROR: Final = "phx_error"
HEARTBEAT: Final = "heartbeat"
ACCESS_TOKEN: Final = "access_token"  # noqa: S105  the name of an event
BROADCAST: Final = "broadcast"
PRESENCE: Final = "presence"
PRESENCE_STATE: Final = "presence_state"
PRESENCE_DIFF: Final = "presence_diff"
POSTGRES_CHANGES: Final = "postgres_changes"
SYSTEM: Final = "system"

V1: Final = "1.0.0"
V2: Final = "2.0.0"

MAX_FRAME: Final = 5_000_000
"""Maximum bytes of a frame; a longer one closes the connection with code 1009."""

MAX_NAME: Final = 255
"""Maximum bytes (UTF-8) of a topic, an event or a ref: binary headers store each length in one byte."""


class Frame(NamedTuple):
    """One frame with its payload as a plain JSON value, for code that is not performance-critical.

    `payload` is nearly always an object, but readers must accept any value.
    """

    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Any
