"""When to use long polling instead of WebSockets, and when to try WebSockets again (`fallback="longpoll"`).

Long polling is tried after an attempt that reached something which does not let WebSockets pass. The attempt itself
shows whether HTTP works: if it fails too, the next one is a WebSocket again. An answer of Realtime, such as a refused
key, is never a reason, and neither is a server that cannot be reached.
"""

from enum import Enum, auto
from typing import Final

from msgspec import Struct

from supawire._server_errors import body_text

LIKELY_FAILURES: Final = 2
"""Number of consecutive failures that only make a blocked upgrade likely, after which long polling is tried."""

FIRST_PROBE: Final = 60.0
"""Seconds of long polling until a WebSocket is tried; each further attempt waits twice as long."""

LONGEST_PROBE: Final = 3600.0

_REALTIME: Final = (401, 429)
"""Statuses that are answers of Realtime or its gateway, whatever the body is."""


class Cause(Struct, frozen=True):
    """Why a connection ended or could not be opened, as reported by the transport.

    code: the close code, None if none was received. status, body, retry_after: the HTTP answer to a refused upgrade.
    written: how many frames of this generation were written to the network, None if the transport does not know.
    reached: whether something accepted the connection, although it gave no HTTP answer. late: there was no answer in
    time.
    """

    code: int | None = None
    status: int | None = None
    body: bytes = b""
    retry_after: float | None = None
    text: str = ""
    written: int | None = None
    reached: bool = False
    late: bool = False


class Evidence(Enum):
    """What a failed WebSocket attempt says about the network in between."""

    NONE = auto()
    """Nothing, or that WebSockets pass: Realtime answered, or nothing was reached."""
    LIKELY = auto()
    """WebSockets may be blocked; a restart of the server looks the same."""
    CERTAIN = auto()
    """Something that is not Realtime answered the upgrade, or nothing did within the timeout."""


def evidence(cause: Cause) -> Evidence:
    """Return what the failure of a WebSocket attempt says."""
    status = cause.status
    if status is None:
        if cause.late:
            return Evidence.CERTAIN
        return Evidence.LIKELY if cause.reached else Evidence.NONE
    if status in _REALTIME or 300 <= status < 400 or body_text(cause.body) is not None:
        return Evidence.NONE
    if status == 403 and not cause.body.strip():  # servers before 2.116.0
        return Evidence.NONE
    return Evidence.LIKELY if status >= 500 and status != 501 else Evidence.CERTAIN


def is_refusal(cause: Cause) -> bool:
    """Return whether Realtime or its gateway refused a session of long polling, for a reason that concerns both ways.

    A gateway that does not pass the path, whatever its answer, is none: a WebSocket may work.
    """
    if cause.status == 403:
        return not cause.body.strip() or body_text(cause.body) is not None
    return cause.status in _REALTIME


class TransportChoice:
    """The transport of one connection. enabled: whether long polling may be chosen."""

    __slots__ = ("_enabled", "_failures", "_probe_at", "_probes", "longpoll")

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._failures = 0
        self._probes = 0
        self._probe_at: float | None = None
        """Monotonic time of the next trial; lost sessions of long polling do not postpone it."""
        self.longpoll: bool = False
        """Whether the present or next attempt uses long polling."""

    def attempt_failed(self, cause: Cause) -> bool:
        """Handle a failed attempt; return whether the other transport is used next, whatever the failure means."""
        if not self._enabled:
            return False
        if self.longpoll:
            self.longpoll, self._failures, self._probe_at = False, 0, None
            return not is_refusal(cause)
        found = evidence(cause)
        if found is Evidence.NONE:
            self._failures = 0 if cause.status is not None else self._failures
            return False
        self._failures += 1
        self.longpoll = found is Evidence.CERTAIN or self._failures >= LIKELY_FAILURES
        return self.longpoll

    def opened(self, mono: float) -> float | None:
        """Handle an open connection; return when a WebSocket is to be tried, None if it is one."""
        if not self.longpoll:
            self._reset()
            return None
        if self._probe_at is None:
            self._probe_at = self._next_probe(mono)
        return self._probe_at

    def probed(self, works: bool, mono: float) -> float | None:
        """Handle the result of a tried WebSocket; return when to try again, None to change to it."""
        if works:
            self.longpoll = False
            self._reset()
            return None
        self._probe_at = self._next_probe(mono)
        return self._probe_at

    def _reset(self) -> None:
        self._failures = self._probes = 0
        self._probe_at = None

    def _next_probe(self, mono: float) -> float:
        seconds = min(FIRST_PROBE * 2.0**self._probes, LONGEST_PROBE)
        self._probes = min(self._probes + 1, 10)
        return mono + seconds
