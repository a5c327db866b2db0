"""What happened on the server: the newest frames, connections and row changes, as raw data and bounded.

It is kept from the start of the server, so that a page shows what happened before it was opened. Nothing is decoded
here: `journal.py` makes lines for a page, `export.py` a recording or a test. A frame for many connections has the same
`data` object in all its effects (`effects.Send`) and becomes one entry.
"""

from collections import deque
from enum import StrEnum
from itertools import islice
from typing import Final

from supawire.events import Instant
from supawire.server.effects import Refusal, Send

MAX_ENTRIES: Final = 3_000
MAX_BYTES: Final = 8_000_000
LOOK_BACK: Final = 4
"""Number of recent entries searched for another copy of a frame: one of each version, and their neighbors."""
ENTRY_BYTES: Final = 200
"""What an entry counts beside its data, so that many small ones are bounded too."""
CONNECTION_BYTES: Final = 8


class Kind(StrEnum):
    """The kinds of entries."""

    IN = "in"
    """A frame from a client."""
    OUT = "out"
    """A frame to clients."""
    OPENED = "opened"
    REFUSED = "refused"
    """A refused handshake."""
    CLOSED = "closed"
    CHANGE = "change"
    """A row change."""


class Entry:
    """One thing that happened. `code`: the status of a refused handshake, or the close code; 0 if there is none."""

    __slots__ = ("at", "binary", "code", "connections", "data", "kind", "number", "receivers", "seen")

    def __init__(
        self, number: int, at: float, kind: Kind, connections: list[int], data: bytes, *, binary: bool, code: int
    ) -> None:
        self.number: int = number
        self.at: float = at
        self.kind: Kind = kind
        self.connections: list[int] = connections
        self.receivers: int = len(connections)
        """For a change the number of channels."""
        self.data: bytes = data
        self.binary: bool = binary
        self.code: int = code
        self.seen: bool = False
        """Whether a page has it already, so that it must not change any more."""

    @property
    def cost(self) -> int:
        """Bytes for the bound."""
        return len(self.data) + ENTRY_BYTES + CONNECTION_BYTES * len(self.connections)


class History:
    """The newest entries, numbered from 1."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries: Final = max_entries
        self._max_bytes: Final = max_bytes
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self.next: int = 1
        """The number of the next entry."""

    @property
    def first(self) -> int:
        """The number of the oldest entry that is kept."""
        return self.next - len(self._entries)

    def since(self, number: int) -> list[Entry]:
        """Return the entries from this number on that are kept, oldest first."""
        return list(islice(self._entries, max(0, number - self.first), None))

    def find(self, number: int) -> Entry | None:
        """Return one entry, or None if it is no longer kept."""
        at = number - self.first
        return self._entries[at] if 0 <= at < len(self._entries) else None

    # --- inputs

    def frame_received(self, connection: int, data: bytes, binary: bool, now: Instant) -> None:
        """Record a frame from a client."""
        self._add(now, Kind.IN, [connection], data, binary=binary)

    def frame_sent(self, effect: Send, now: Instant) -> None:
        """Record a frame to a client."""
        for entry in islice(reversed(self._entries), LOOK_BACK):
            if entry.data is effect.data and entry.kind is Kind.OUT and not entry.seen:
                entry.connections.append(effect.conn)
                entry.receivers += 1
                self._bytes += CONNECTION_BYTES
                self._trim()
                return
        self._add(now, Kind.OUT, [effect.conn], effect.data, binary=effect.binary)

    def connection_opened(self, connection: int, v2: bool, now: Instant) -> None:
        """Record an accepted handshake."""
        self._add(now, Kind.OPENED, [connection], b"2.0.0" if v2 else b"1.0.0")

    def connection_refused(self, connection: int, refusal: Refusal, now: Instant) -> None:
        """Record a refused handshake with its answer, which contains no key."""
        self._add(now, Kind.REFUSED, [connection], refusal.body, code=refusal.status)

    def connection_closed(self, connection: int, code: int | None, now: Instant) -> None:
        """Record the end of a connection, and its close code if there is one."""
        self._add(now, Kind.CLOSED, [connection], b"", code=code or 0)

    def changed(self, data: bytes, receivers: int, now: Instant) -> None:
        """Record a row change and the number of channels it was sent to."""
        for entry in islice(reversed(self._entries), LOOK_BACK):
            if entry.kind is Kind.CHANGE and not entry.seen and entry.data == data:
                entry.receivers += receivers
                return
        self._add(now, Kind.CHANGE, [], data).receivers = receivers

    def _add(
        self, now: Instant, kind: Kind, connections: list[int], data: bytes, *, binary: bool = False, code: int = 0
    ) -> Entry:
        entry = Entry(self.next, now.wall, kind, connections, data, binary=binary, code=code)
        self._entries.append(entry)
        self.next += 1
        self._bytes += entry.cost
        self._trim()
        return entry

    def _trim(self) -> None:
        while len(self._entries) > self._max_entries or (self._bytes > self._max_bytes and len(self._entries) > 1):
            self._bytes -= self._entries.popleft().cost
