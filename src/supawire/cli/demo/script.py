"""Who takes part in the tour, the code that is shown, and the rows that change."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

Name = Literal["Alice", "Bob", "Dashboard"]
CAST: Final[tuple[tuple[Name, Literal["1.0.0", "2.0.0"], str], ...]] = (
    ("Alice", "2.0.0", "wire version 2.0.0, asks the server to confirm what she sends"),
    ("Bob", "1.0.0", "wire version 1.0.0, wants to hear of new items from 100 up"),
    ("Dashboard", "2.0.0", "wire version 2.0.0, watches and says nothing"),
)
EVERYONE: Final[tuple[Name, ...]] = ("Alice", "Bob", "Dashboard")

CONNECT: Final = """\
alice = await supawire.connect_async(url, key)
bob = await supawire.connect_async(url, key, protocol="1.0.0")
seconds = await alice.ping()"""

JOIN: Final = """\
room = alice.channel("room:demo", ack=True, presence_key="alice")
room.on(broadcast(), show)              # show: any function, async or not
room.on(presence(), show)
await room.subscribe()                  # returns when joined"""

BROADCAST: Final = """\
await room.broadcast("chat", {"text": "Hello, room"})  # confirmed
await room.broadcast("ink", b"\\x01\\x02\\x03")           # bytes stay bytes"""

PRESENCE: Final = """\
await room.track({"name": "Alice", "mood": "curious"})
await room.untrack()
room.presence_state()                   # who is here, by presence key"""

CHANGES: Final = """\
rows = bob.channel("table:items")
rows.on(changes("items", event="INSERT", filter="price=gte.100"), show)
await rows.subscribe(wait="ready")      # returns when changes are live"""

LEAVE: Final = """\
await room.unsubscribe()
await alice.close()"""

STEPS: Final = (CONNECT, JOIN, BROADCAST, PRESENCE, CHANGES, LEAVE)

Row = Mapping[str, Any]
LAMP: Final[Row] = {
    "id": 1,
    "name": "Lamp",
    "price": Decimal("19.90"),
    "added_at": datetime(2026, 5, 4, 12, 30, tzinfo=UTC),
}
CHEAPER: Final[Row] = {**LAMP, "price": Decimal("17.50")}
DESK: Final[Row] = {**LAMP, "id": 2**53 + 1, "name": "Desk", "price": Decimal("249.00")}  # an id that no float holds
