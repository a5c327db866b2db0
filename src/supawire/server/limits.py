"""Limits of the server (protocol §5.5, §8): sizes, counts, and rates as averages over a sliding window."""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from supawire.server.wire import is_list, is_object

WINDOW: Final = 5.0
"""Seconds between two updates of an average."""
WINDOWS: Final = 12
"""How many of them one average spans at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What the local server refuses; None is no limit. Without arguments only the frame size is limited.

    connections: sockets with a channel. channels: per socket. joins, messages, presence, changes: per second, as an
    average over up to a minute that is updated every 5 s; messages counts each one sent and each one delivered.
    presence_calls: track and untrack of one channel in `presence_window` seconds. payload_kb: kilobytes of one
    broadcast or tracked payload, by the server's own reckoning. change_bytes: of one row's JSON.
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
        """The defaults of a self-hosted Realtime (protocol §8); on with `strict=True`."""
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
        """Bytes of a payload as the server reckons them."""
        return None if self.payload_kb is None else self.payload_kb * 1000 + 500


class Meter:
    """Events per second, averaged over the last windows of 5 s; trips at the limit, clears below (protocol §8)."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._windows: deque[int] = deque(maxlen=WINDOWS)
        self._current = 0
        self._ends: float | None = None

    def count(self, mono: float, events: int = 1) -> None:
        """Note events; costs nothing when there is no limit."""
        if self._limit is not None:
            self._roll(mono)
            self._current += events

    def tripped(self, mono: float) -> bool:
        """Whether the average has reached the limit."""
        return self._limit is not None and self.average(mono) >= self._limit

    def average(self, mono: float) -> float:
        """Events per second over the windows that have ended."""
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
        if mono >= self._ends:  # a long silence: every window is empty by now
            self._ends = mono + WINDOW


class CallWindow:
    """Calls in a window that begins with the first one (protocol §5.5)."""

    __slots__ = ("_calls", "_ends")

    def __init__(self) -> None:
        self._calls = 0
        self._ends = 0.0

    def allows(self, mono: float, limits: ServerLimits) -> bool:
        """Count one call; False when it is one too many."""
        if limits.presence_calls is None:
            return True
        if not self._calls or mono >= self._ends:
            self._calls, self._ends = 0, mono + limits.presence_window
        self._calls += 1
        return self._calls <= limits.presence_calls


WORST_RATIO: Final = 3
"""No JSON text is more than this many times shorter than its term, a few bytes apart: `[[` and `{}` are the worst."""


def term_size(value: Any) -> int:
    """Bytes of a decoded JSON value in Erlang's external format, which the server measures (protocol §8)."""
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
