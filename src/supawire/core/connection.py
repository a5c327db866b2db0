"""The connection of a client, across all its connection attempts.

Once requested, the connection reconnects until the user closes it. Every attempt has a generation number; input from
an older generation is dropped. The backoff restarts only after a connection has proven stable, so that a server that
accepts and closes at once is not flooded with attempts.
"""

from typing import Final, Protocol

from supawire._server_errors import Action, body_text, classify_close, classify_handshake, connect_error, lost_error
from supawire.core import frames
from supawire.core.context import Context
from supawire.core.effects import Connect, Disconnect, FallbackChosen, ProbeWebSocket
from supawire.core.fallback import Cause, TransportChoice
from supawire.core.requests import TimerKind
from supawire.core.states import CONNECTION, ConnectionTrigger
from supawire.errors import (
    ClosedError,
    ConnectError,
    ConnectionLostError,
    RealtimeError,
    ReconnectExhaustedError,
    again,
)
from supawire.events import ConnectionState, Instant, Status

STABLE_AFTER: Final = 5.0
"""Seconds a connection must stay open, in addition to an ok reply, to count as stable."""

CLOSE_TIMEOUT: Final = 5.0
"""Maximum seconds for a graceful close."""

CLOCK_CHECK_INTERVAL: Final = 5.0
"""Seconds between two checks for clock jumps. Timers pause while a machine sleeps, so deadlines alone are too late."""

PROBE_TIMEOUT: Final = 5.0
"""Timeout in seconds of the heartbeat that is sent after a clock jump."""

_ATTEMPT_TIMERS: Final = (
    TimerKind.CONNECT,
    TimerKind.CONNECT_TIMEOUT,
    TimerKind.OPEN_TIMEOUT,
    TimerKind.CLOSE_TIMEOUT,
    TimerKind.RECONNECT,
    TimerKind.HEARTBEAT,
    TimerKind.STABLE,
    TimerKind.CLOCK_CHECK,
    TimerKind.IDLE,
    TimerKind.PROBE,
)
"""The deadlines that end with the present socket or attempt."""


class ConnectionOwner(Protocol):
    """Receiver of the connection's state changes."""

    def connection_changed(self, status: Status) -> None: ...

    def connection_opened(self, now: Instant) -> None: ...

    def connection_lost(self, error: ConnectionLostError, written: int | None, now: Instant) -> None: ...

    def connection_closed(self, error: RealtimeError | None, now: Instant) -> None: ...


class ConnectionMachine:
    """State, attempts and heartbeat of the connection."""

    __slots__ = (
        "_attempts",
        "_choice",
        "_context",
        "_ever_open",
        "_failing_since",
        "_had_ok_reply",
        "_long_open",
        "_owner",
        "_refreshed",
        "_retry_after",
        "down_since",
        "error",
        "state",
    )  # fmt: skip

    def __init__(self, context: Context, owner: ConnectionOwner) -> None:
        self._context = context
        self._owner = owner
        self.state: ConnectionState = ConnectionState.IDLE
        self.error: RealtimeError | None = None
        """Why the connection is not open."""
        self.down_since: float | None = None
        """Monotonic time since when the connection is not open although it should be."""
        self._attempts = 0
        self._choice = TransportChoice(enabled=context.options.fallback)
        self._failing_since: float | None = None
        self._retry_after = 0.0
        self._refreshed = False
        self._had_ok_reply = False
        self._long_open = False
        self._ever_open = False

    def reason(self, closed: str) -> RealtimeError:
        """Return a new exception that says why no call is possible; `closed` is the text if the user closed it."""
        return again(self.error or ClosedError(closed))

    def check_open(self) -> None:
        """Raise an exception if the connection is closing or closed."""
        if self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            raise self.reason("the client was closed")

    @property
    def falls_back(self) -> bool:
        """Whether the present or next attempt uses long polling because WebSockets are blocked."""
        return self._choice.longpoll

    # --- user requests

    def start(self, now: Instant) -> None:
        """Start to connect, and reconnect until closed."""
        was = self.state
        self._move(ConnectionTrigger.WANTED)
        if was is not ConnectionState.IDLE:
            return
        self.down_since = now.mono
        limit = self._context.options.open_timeout
        if not self._ever_open and limit is not None and not self._context.number:
            self._context.timers.set(self._context.key(TimerKind.OPEN_TIMEOUT), now.mono + limit)
        self._connect(now)

    def reconnect(self, now: Instant) -> None:
        """Reconnect now instead of after the backoff. An open connection is replaced."""
        if self.state is ConnectionState.OPEN:
            error = ConnectionLostError("reconnect() was called")
            self._abort()
            self._cancel_timers()
            self.error, self.down_since = error, now.mono
            self._move(ConnectionTrigger.LOST, error)  # not `_retry`: reconnect() does not count as an attempt
            self._owner.connection_lost(error, None, now)
        if self.state is ConnectionState.RETRYING:
            self.start_attempt(now)

    def close(self, now: Instant) -> None:
        """Close permanently and gracefully."""
        was = self.state
        self._move(ConnectionTrigger.CLOSE)
        if was in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            return
        self._cancel_timers()
        if was is ConnectionState.OPEN:
            self._context.effects.append(Disconnect(self._context.generation))
            self._context.timers.set(self._context.key(TimerKind.CLOSE_TIMEOUT), now.mono + CLOSE_TIMEOUT)
            return
        if was is ConnectionState.CONNECTING:
            self._abort()
        self._end(ConnectionTrigger.ENDED, None, now)

    def abort(self, error: RealtimeError | None, now: Instant) -> None:
        """Close permanently and at once, with the error that caused it, if any."""
        if self.state is ConnectionState.CLOSED:
            return
        if self.state in (ConnectionState.CONNECTING, ConnectionState.OPEN, ConnectionState.CLOSING):
            self._abort()
        self._move(ConnectionTrigger.CLOSE)
        self._end(ConnectionTrigger.ENDED, error, now)

    # --- transport events

    def opened(self, now: Instant) -> None:
        """Handle that the socket of this generation is open."""
        if self.state is not ConnectionState.CONNECTING:
            return
        self._cancel_timers()
        self._move(ConnectionTrigger.OPENED)
        self.error = self.down_since = None
        self._context.answered_at = now.mono
        self._refreshed = self._had_ok_reply = self._long_open = False
        self._context.counts.connects += 1
        self._context.counts.reconnects += self._ever_open
        self._ever_open = True
        self._context.timers.set(self._context.key(TimerKind.HEARTBEAT), now.mono + self._context.options.heartbeat)
        self._context.timers.set(self._context.key(TimerKind.STABLE), now.mono + STABLE_AFTER)
        self.schedule_clock_check(now)
        self._schedule_probe(self._choice.opened(now.mono))
        self._owner.connection_opened(now)

    def closed(self, cause: Cause, now: Instant) -> None:
        """Handle that the socket of this generation was closed or could not be opened."""
        match self.state:
            case ConnectionState.CONNECTING:
                self._failed(cause, now)
            case ConnectionState.OPEN:
                error = lost_error(cause.code, maybe_sent=True)
                self._lost(error, cause.written, now, slow=classify_close(cause.code).action is Action.SLOW_RETRY)
            case ConnectionState.CLOSING:
                self._end(ConnectionTrigger.LOST, None, now)
            case _:
                self._context.counts.stale += 1

    def lose(self, error: ConnectionLostError, now: Instant) -> None:
        """Drop an open socket that no longer responds. Does nothing while closing, which has its own time limit."""
        if self.state is ConnectionState.OPEN:
            self._abort()
            self._lost(error, None, now)

    def token_ready(self, now: Instant) -> None:
        """Open the socket: the token for this attempt has arrived or timed out."""
        if self.state is ConnectionState.CONNECTING and not self._opens_socket:
            self._open_socket(now)

    def answered_ok(self) -> None:
        """Record an ok reply. The connection is stable once it has also been open for `STABLE_AFTER` seconds."""
        self._had_ok_reply = True
        if self._long_open:
            self._mark_stable()

    def delay_ready(self, seconds: float, now: Instant) -> None:
        """Set the reconnect timer to the result of the user's backoff callable."""
        if self.state is ConnectionState.RETRYING:
            self._context.timers.set(self._context.key(TimerKind.RECONNECT), now.mono + max(seconds, self._retry_after))

    # --- deadlines

    def start_attempt(self, now: Instant) -> None:
        """Start the next attempt: the backoff is over."""
        self._context.timers.cancel(self._context.key(TimerKind.RECONNECT))
        self._move(ConnectionTrigger.DUE)
        self._connect(now)

    def pace_allows(self, now: Instant) -> None:
        """Open the socket that other sockets have delayed."""
        if self.state is ConnectionState.CONNECTING:
            self._open_socket(now)

    def attempt_timed_out(self, now: Instant) -> None:
        """Fail an attempt that took too long."""
        if self.state is ConnectionState.CONNECTING:
            self._abort()
            self._failed(Cause(text=f"no answer in {self._context.options.timeout:g} s", late=True), now)

    def opening_timed_out(self, now: Instant) -> None:
        """Give up: the first connection was not opened within `open_timeout`, all attempts together."""
        if self.state in (ConnectionState.CONNECTING, ConnectionState.RETRYING):
            self._abort()
            last = f": {self.error.message}" if self.error else ""
            text = f"no connection within {self._context.options.open_timeout:g} s{last}"
            self._end(ConnectionTrigger.EXHAUSTED, _given_up(ConnectError, text, self.error), now)

    def close_timed_out(self, now: Instant) -> None:
        """Drop the socket: the peer did not answer our close in time."""
        if self.state is ConnectionState.CLOSING:
            self._abort()
            self._end(ConnectionTrigger.ENDED, None, now)

    def mark_long_open(self) -> None:
        """Record that the connection has been open for `STABLE_AFTER` seconds."""
        self._long_open = True
        if self._had_ok_reply:
            self._mark_stable()

    def heartbeat_due(self, now: Instant) -> None:
        """Send a heartbeat and schedule the next one."""
        self._context.send_heartbeat(now)

    def schedule_clock_check(self, now: Instant) -> None:
        """Schedule the next check for clock jumps; the clocks are compared at every deadline."""
        self._context.timers.set(self._context.key(TimerKind.CLOCK_CHECK), now.mono + CLOCK_CHECK_INTERVAL)

    def probe(self, now: Instant) -> None:
        """Send a heartbeat at once, because the machine slept or its clock was set."""
        if self.state is ConnectionState.OPEN:
            timeout = min(PROBE_TIMEOUT, self._context.options.timeout)
            self._context.push(frames.HEARTBEAT, {}, now, timeout=timeout)

    def close_idle(self, now: Instant) -> None:
        """Close the socket while no channel needs it."""
        if self.state is ConnectionState.OPEN:
            self._cancel_timers()
            self._context.effects.append(Disconnect(self._context.generation))
            self._context.next_generation()
            self._move(ConnectionTrigger.IDLED)
            self._owner.connection_lost(
                ConnectionLostError("the connection was closed because no channel is subscribed"), None, now
            )

    def probe_due(self) -> None:
        """Try a WebSocket while long polling is used."""
        if self.state is ConnectionState.OPEN:
            self._context.effects.append(ProbeWebSocket(self._context.generation))

    def probed(self, works: bool, now: Instant) -> None:
        """Handle the result of the tried WebSocket: reconnect if it works."""
        if self.state is not ConnectionState.OPEN or not self._choice.longpoll:
            return
        at = self._choice.probed(works, now.mono)
        if at is not None:
            self._schedule_probe(at)
            return
        self._context.report(FallbackChosen(longpoll=False, reason="a WebSocket could be opened"))
        self.reconnect(now)

    def _schedule_probe(self, at: float | None) -> None:
        if at is not None:
            self._context.timers.set(self._context.key(TimerKind.PROBE), at)

    # --- state transitions

    def _connect(self, now: Instant) -> None:
        self._context.next_generation()
        self._context.sequence = 0
        tokens = self._context.tokens
        if not tokens.has_provider or tokens.is_fresh(now):
            self._open_socket(now)
        elif not (tokens.fetching and self._context.options.max_sockets > 1):  # else another socket has asked for it
            self._context.fetch_token(now)

    @property
    def _opens_socket(self) -> bool:
        """Whether this attempt has its token: the socket is being opened, or will be when the pace allows it."""
        deadline = self._context.timers.deadline
        kinds = TimerKind.CONNECT_TIMEOUT, TimerKind.CONNECT
        return any(deadline(self._context.key(kind)) is not None for kind in kinds)

    def _open_socket(self, now: Instant) -> None:
        ready_at = self._context.connects.ready_at(now.mono)
        if ready_at > now.mono:
            self._context.timers.set(self._context.key(TimerKind.CONNECT), ready_at)
            return
        self._context.connects.spend(now.mono)
        self._context.timers.set(self._context.key(TimerKind.CONNECT_TIMEOUT), now.mono + self._context.options.timeout)
        self._context.effects.append(Connect(self._context.generation, self._choice.longpoll))

    def _failed(self, cause: Cause, now: Instant) -> None:
        self._context.timers.cancel(self._context.key(TimerKind.CONNECT_TIMEOUT))
        switches = self._choice.attempt_failed(cause)
        if self._choice.longpoll:
            reason = cause.text if cause.status is None else f"the WebSocket was refused with status {cause.status}"
            self._context.counts.fallbacks += 1
            self._context.report(FallbackChosen(longpoll=True, reason=reason))
        if cause.status is None:
            self.error = ConnectError(f"the connection could not be opened: {cause.text or 'it was closed'}")
            self._retry(ConnectionTrigger.FAILED, now)
            return
        self.error = connect_error(cause.status, cause.body, cause.retry_after)
        if switches:
            self._retry(ConnectionTrigger.FAILED, now, after=self._retry_after_of(cause))
            return
        said = body_text(cause.body) or cause.body.decode("utf-8", "replace").strip() or None
        action = classify_handshake(cause.status, said).action
        if action is Action.REFRESH and self._context.tokens.has_provider and not self._refreshed:
            self._refreshed = True
            self._context.tokens.refused()
            self._move(ConnectionTrigger.FAILED, self.error)
            self.start_attempt(now)
        elif action in (Action.REFRESH, Action.GIVE_UP):
            self._end(ConnectionTrigger.REFUSED, self.error, now)
        else:
            self._retry(
                ConnectionTrigger.FAILED, now, slow=action is Action.SLOW_RETRY, after=self._retry_after_of(cause)
            )

    def _retry_after_of(self, cause: Cause) -> float:
        """Return the seconds to wait that the server asked for, at most `max_retry_after`. The value is not trusted."""
        asked = cause.retry_after or 0.0
        return min(asked, self._context.options.max_retry_after) if asked > 0 else 0.0

    def _lost(self, error: ConnectionLostError, written: int | None, now: Instant, *, slow: bool = False) -> None:
        self._cancel_timers()
        self.error, self.down_since = error, now.mono
        self._retry(ConnectionTrigger.LOST, now, slow=slow)
        self._owner.connection_lost(error, written, now)

    def _retry(self, on: ConnectionTrigger, now: Instant, *, slow: bool = False, after: float = 0.0) -> None:
        self._move(on, self.error)
        backoff = self._context.options.backoff
        if self._failing_since is None:
            self._failing_since = now.mono
        elapsed = now.mono - self._failing_since
        if backoff is not None and backoff.ends(self._attempts, elapsed):
            text = f"gave up after {self._attempts} attempts in {elapsed:.0f} s: {self.error}"
            self._end(ConnectionTrigger.EXHAUSTED, _given_up(ReconnectExhaustedError, text, self.error), now)
            return
        self._retry_after = after
        self._context.set_backoff_timer(self._context.key(TimerKind.RECONNECT), backoff, self._attempts, now, slow=slow)
        self._attempts += 1
        at = self._context.timers.deadline(self._context.key(TimerKind.RECONNECT))
        if at is not None and at < now.mono + after:
            self._context.timers.set(self._context.key(TimerKind.RECONNECT), now.mono + after)

    def _mark_stable(self) -> None:
        if self.state is ConnectionState.OPEN and self._attempts:
            self._move(ConnectionTrigger.STABLE)
            self._attempts, self._failing_since = 0, None

    def _end(self, on: ConnectionTrigger, error: RealtimeError | None, now: Instant) -> None:
        self._cancel_timers()
        self.error = error
        self._move(on, error)
        self._owner.connection_closed(error, now)

    def _abort(self) -> None:
        """Abort the socket of this generation; its later input is stale."""
        self._context.effects.append(Disconnect(self._context.generation, abort=True))
        self._context.next_generation()

    def _cancel_timers(self) -> None:
        for kind in _ATTEMPT_TIMERS:
            self._context.timers.cancel(self._context.key(kind))

    def _move(self, on: ConnectionTrigger, cause: RealtimeError | None = None) -> None:
        move = CONNECTION.get((self.state, on))
        if move is None:
            self._context.report_missing_transition("the connection", self.state, on)
            return
        previous, self.state = self.state, move.next  # the only assignment of the connection's state
        if self.state is not previous:
            self._owner.connection_changed(Status(None, self.state, previous, cause))


def _given_up(kind: type[ConnectError], text: str, last: RealtimeError | None) -> ConnectError:
    """Return the error after the last attempt, including that attempt's HTTP answer, if any."""
    if isinstance(last, ConnectError):
        error = kind(text, status=last.status, body=last.body, retry_after=last.retry_after, hint=last.hint)
    else:
        error = kind(text)
    error.__cause__ = last
    return error
