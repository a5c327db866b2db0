"""Names and shapes of frames, as they stand on the wire (protocol §2, §3.9)."""

from typing import Any, Final, NamedTuple

PHOENIX: Final = "phoenix"
"""The topic of heartbeats."""

PREFIX: Final = "realtime:"
"""What a channel's topic begins with on the wire; the rest is the sub-topic."""

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
"""Bytes; a longer frame closes the socket with 1009 (protocol §2.2)."""

MAX_NAME: Final = 255
"""Bytes of UTF-8 of a topic, an event or a ref: binary headers count them in one byte (protocol §2.3)."""


class Frame(NamedTuple):
    """One frame with its payload as a plain JSON value, for everything that is not in a hurry.

    `payload` is whatever stood there: an object nearly always, but no reader may rely on it.
    """

    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Any
