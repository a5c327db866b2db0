"""Limits of the server: sizes, counts, and rates averaged over a sliding window. See docs/protocol.md, Limits."""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from supawire.server.wire import is_list, is_object

WINDOW: Final = 5.0
"""Seconds between two updates of an average."""
WINDOWS: Final = 12
"""Maximum number of windows in one average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Limits that the local server enforces; None means no limit. By default only the frame size is limited.

    connections: sockets with a channel. channels: per socket. joins, messages, presence, changes: per second, averaged
    over up to a minute and updated every 5 s; messages counts each message sent and each delivery.
    presence_calls: track and untrack calls of one channel in `presence_window` seconds. payload_kb: kilobytes of one
    broadcast or tracked payload, as the server measures it. change_bytes: bytes of one row's JSON.
    """

    connections: int | None = None
    channels: int | None = None
    joins: float | None = None
    messages: float | None = None
    presence: float | None = None
    changes: float | None = None
    presence_calls: int | None = None
    presence_window: float = 30.0
    payload_kb: int | None = None
    change_bytes: int | None = None

    @classmethod
    def self_hosted(cls) -> "ServerLimits":
        """Return the defaults of a self-hosted Realtime; used with `strict=True`."""
        return cls(
            connections=200,
            channels=100,
            joins=100,
            messages=100,
            presence=1000,
            changes=100,
            presence_calls=5,
            payload_kb=3000,
            change_bytes=1_048_576,
        )

    @property
    def payload_bytes(self) -> int | None:
        """Maximum size of a payload in bytes, as the server measures it."""
        return None if self.payload_kb is None else self.payload_kb * 1000 + 500


class Meter:
    """Events per second, averaged over the last windows of 5 s and compared with a limit."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._windows: deque[int] = deque(maxlen=WINDOWS)
        self._current = 0
        self._ends: float | None = None

    def count(self, mono: float, events: int = 1) -> None:
        """Count events."""
        if self._limit is not None:
            self._roll(mono)
            self._current += events

    def tripped(self, mono: float) -> bool:
        """Return whether the average has reached the limit."""
        return self._limit is not None and self.average(mono) >= self._limit

    def average(self, mono: float) -> float:
        """Return the events per second over the completed windows."""
        self._roll(mono)
        return sum(self._windows) / (len(self._windows) * WINDOW) if self._windows else 0.0

    def _roll(self, mono: float) -> None:
        if self._ends is None:
            self._ends = mono + WINDOW
        passed = 0
        while mono >= self._ends and passed <= WINDOWS:
            self._windows.append(self._current)
            self._current = 0
            self._ends += WINDOW
            passed += 1
        if mono >= self._ends:  # idle for long: all windows have expired
            self._ends = mono + WINDOW


class CallWindow:
    """Counts calls in a window that begins with the first call."""

    __slots__ = ("_calls", "_ends")

    def __init__(self) -> None:
        self._calls = 0
        self._ends = 0.0

    def allows(self, mono: float, limits: ServerLimits) -> bool:
        """Count one call; return False when it exceeds the limit."""
        if limits.presence_calls is None:
            return True
        if not self._calls or mono >= self._ends:
            self._calls, self._ends = 0, mono + limits.presence_window
        self._calls += 1
        return self._calls <= limits.presence_calls


WORST_RATIO: Final = 3
"""Upper bound, up to a few bytes, of term size divided by size of the JSON text; `[[` and `{}` come closest."""


def term_size(value: Any) -> int:
    """Return the bytes of a decoded JSON value in Erlang's external term format, which the server measures."""
    size, todo = 1, [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            size += 5 + (len(item) if item.isascii() else len(item.encode()))
        elif is_object(item):
            size += 5
            todo.extend(item.keys())
            todo.extend(item.values())
        elif is_list(item):
            size += 6 if item else 1
            todo.extend(item)
        else:
            size += _scalar_size(item)
    return size


def _scalar_size(item: object) -> int:
    if item is None:
        return 5
    if isinstance(item, bool):
        return 6 if item else 7
    if isinstance(item, int):
        if 0 <= item <= 255:
            return 2
        return 5 if -(2**31) <= item < 2**31 else 3 + (item.bit_length() + 7) // 8
    return 9
