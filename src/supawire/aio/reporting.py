"""Logging, calls of `on_error`, and the redaction of frames for `on_frame`.

There is one logger per subject under `supawire`: connection, channel, token, wire, handler. In normal operation
everything is DEBUG; a lost connection is one WARNING, and one INFO when it is restored. No line contains a token, a key
or a payload.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, Final, Literal, cast

import msgspec

from supawire._display import printable
from supawire.aio.callbacks import Exits, describe_callable, dispose, is_unawaited
from supawire.core.effects import (
    ChannelLimitLearned,
    ClientEnded,
    ClockJumped,
    ErrorReport,
    FallbackChosen,
    GapReported,
    Report,
    SocketChanged,
    StatusChanged,
    TokenFailed,
    UnknownEvent,
    UnreadableFrame,
)
from supawire.errors import HandlerError, RealtimeError
from supawire.events import ChannelState, ConnectionState, Gap, Status

Direction = Literal["in", "out"]

_TOKEN: Final = b'"access_token"'
_HIDDEN: Final = "***"


class FrameTap:
    """Passes each frame to the user's `on_frame`, with tokens redacted."""

    __slots__ = ("_exits", "_on_frame", "_reports")

    def __init__(self, on_frame: Callable[..., object], reports: "Reports", exits: Exits) -> None:
        self._on_frame = on_frame
        self._reports = reports
        self._exits = exits

    def __call__(self, direction: Direction, data: bytes, binary: bool, *, secret: bool = False) -> None:
        """Pass on a frame; what `on_frame` raises is reported."""
        try:
            self._on_frame(direction, redact_frame(data, binary=binary, secret=secret), binary)
        except BaseException as error:  # noqa: BLE001  errors of user code never end the client
            if not self._exits.take(error):
                self._reports.raised("on_frame", self._on_frame, error)


def redact_frame(data: bytes, *, binary: bool, secret: bool) -> bytes:
    """Return the frame with every `access_token` value hidden; if it cannot be parsed, it is hidden as a whole."""
    if binary or not (secret or _TOKEN in data):
        return data
    try:
        return msgspec.json.encode(_hide(msgspec.json.decode(data)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _HIDDEN.encode()


def _hide(value: Any) -> Any:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {name: _HIDDEN if name == "access_token" else _hide(part) for name, part in members.items()}
    if isinstance(value, list):
        return [_hide(part) for part in cast("list[Any]", value)]
    return value


_TROUBLED: Final = (ConnectionState.RETRYING, ChannelState.RETRYING)  # permanent ones go to the caller or on_error
_RESTORED: Final = (ConnectionState.OPEN, ChannelState.JOINED)
_REPEAT_INTERVAL: Final = 60.0
"""Seconds after which a repeated error is logged again, with its count."""

_MILESTONES: Final = frozenset(10**power for power in range(1, 10))

_MAX_KINDS: Final = 256
"""The most kinds of errors whose repetitions are counted."""


def _ignore(topic: str | None) -> None: ...


class Reports:
    """The one place from which a client logs and calls `on_error`.

    Args: on_error: the user's callback, None to log. logger: the parent of our loggers. run_on_thread: calls a
    function with an error on the thread of the callback, or returns False if that thread has ended; if omitted, the
    callback runs here. clock: returns seconds. exits: lets exceptions that end the program propagate.
    """

    __slots__ = (
        "_clock", "_exits", "_logged", "_logger", "_on_error", "_run_on_thread", "_troubled", "_warned",
        "on_handler_error",
    )  # fmt: skip

    def __init__(
        self,
        on_error: Callable[[Exception], object] | None,
        logger: logging.Logger | None,
        run_on_thread: Callable[[Callable[[Exception], None], Exception], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        exits: Exits | None = None,
    ) -> None:
        self._exits = exits
        self._on_error = on_error
        self._run_on_thread = run_on_thread
        self._logger = logger or logging.getLogger("supawire")
        self._troubled: dict[str | None, None] = {}
        self._warned: tuple[str, ...] = ()
        self._clock = clock
        self.on_handler_error: Callable[[str | None], None] = _ignore
        """Called with the topic of each event whose handler raised, on the thread that reports it."""
        self._logged: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()
        """The count of errors by kind, and when the last one was logged."""

    def log(self, subject: str) -> logging.Logger:
        """Return the logger of one subject."""
        return _child(self._logger, subject)

    def take(self, report: Report) -> None:  # noqa: C901  one case for each report
        """Handle a report of the core."""
        match report:
            case StatusChanged(status):
                self._log_status(status)
            case SocketChanged(number, status):
                cause = f": {status.cause}" if status.cause else ""
                self.log("connection").debug("socket %d is %s (was %s)%s", number, status.state, status.previous, cause)
            case ChannelLimitLearned(channels):
                self.log("connection").warning(
                    "the server accepts %d channels on a connection; pass limits=Limits(channels=%d)",
                    channels,
                    channels,
                )
            case UnknownEvent(event, topic):
                self.log("wire").debug("unknown event %s on %s", printable(event), printable(str(topic)))
            case UnreadableFrame(reason):
                self._warn_once("wire", "a frame that cannot be read was dropped: %s (stats() counts them)", reason)
            case GapReported(gap):
                self._log_gap(gap)
            case FallbackChosen(longpoll, reason):
                chosen = "long polling is used instead of WebSockets" if longpoll else "WebSockets are used again"
                self.log("connection").warning("%s: %s", chosen, printable(reason))
            case ClockJumped(seconds):
                self.log("connection").info(
                    "the clocks moved apart by %.0f s: the machine slept, or its clock was set", seconds
                )
            case TokenFailed(error):
                self.error(error, "token")
            case ClientEnded(error):
                self.error(error, "connection")
            case ErrorReport(error):
                self.error(error, "channel")

    def error(self, error: Exception, subject: str, kind: Hashable = None) -> None:
        """Call `on_error` with an error that is not raised to a caller, or log it.

        An exception of `on_error` itself is logged and never ends the client.

        Args: kind: groups errors of which the first is logged in full and others counted; if omitted, class and text.
        """
        if self._on_error is None:
            self._log_error(error, subject, kind)
        elif self._run_on_thread is None:
            self._call_on_error(error)
        elif not self._run_on_thread(self._call_on_error, error):
            self._log_error(error, subject, kind)

    def _log_error(self, error: Exception, subject: str, kind: Hashable) -> None:
        """Log the first error of a kind with its traceback; later ones in one line, at intervals or powers of ten."""
        key = (subject, type(error), str(error) if kind is None else kind)
        count, logged_at = self._logged.pop(key, (0, 0.0))
        count, now = count + 1, self._clock()
        log = self.log(subject)
        if count == 1:
            log.error("%s", error, exc_info=error)
        elif now - logged_at >= _REPEAT_INTERVAL or count in _MILESTONES:
            log.error("%s (%d times so far; the first one was logged with its traceback)", error, count)
        else:
            log.debug("%s (%d times so far)", error, count)
            now = logged_at
        self._logged[key] = count, now
        if len(self._logged) > _MAX_KINDS:
            self._logged.popitem(last=False)

    def _call_on_error(self, error: Exception) -> None:
        assert self._on_error is not None
        try:
            result = self._on_error(error)
        except BaseException as raised:  # noqa: BLE001  errors of user code never end the client
            self.log("handler").error("on_error raised for %r", error, exc_info=raised)
            if self._exits is not None:
                self._exits.take(raised)
            return
        if is_unawaited(result):
            dispose(result)
            self.log("handler").error(
                "on_error must be a plain function: it returned an awaitable, which is not awaited, for %r",
                error,
                exc_info=error,
            )

    def raised(self, what: str, name: object, error: BaseException, topic: str | None = None) -> None:
        """Report an exception of user code that has no caller to raise it to."""
        text = f"{what} {describe_callable(name)} raised {type(error).__name__}: {error}"
        wrapped = HandlerError(text, topic=topic, hint="Other events and handlers continue.")
        wrapped.__cause__ = error
        self.error(wrapped, "handler", (what, describe_callable(name), type(error)))

    def handler_raised(self, handler: object, error: BaseException, event: Any) -> None:
        """Report an exception of a handler that was called with this event."""
        topic = getattr(event, "topic", None)
        self.on_handler_error(topic)
        self.raised("the handler", handler, error, topic)

    def inline_raised(self, handler: object, error: BaseException, event: Any) -> None:
        """Like `handler_raised`, for a handler that was called on the event loop."""
        if self._exits is None or not self._exits.take(error):
            self.handler_raised(handler, error, event)

    def _log_status(self, status: Status) -> None:
        topic, state, cause = status.topic, status.state, status.cause
        log = self.log("connection" if topic is None else "channel")
        who = "the connection" if topic is None else f"channel {topic}"
        if state in _TROUBLED and topic not in self._troubled:
            self._troubled[topic] = None
            log.warning("%s is %s: %s", who, state, _short(cause))
        elif state in _RESTORED and topic in self._troubled:
            del self._troubled[topic]
            log.info("%s is %s again", who, state)
        else:
            now = f"{state}, {'ready' if status.ready else 'not ready'}" if state is status.previous else state
            log.debug("%s is %s (was %s)%s", who, now, status.previous, f": {cause}" if cause else "")

    def _log_gap(self, gap: Gap) -> None:
        lost = ", ".join(sorted(gap.lost))
        if lost:  # otherwise there is no listener for what may be missing
            self._warn_once(
                "channel",
                "channel %s: events may be missing between %s and %s (%s; perhaps lost: %s); listen to gaps()",
                gap.topic, gap.started_at, gap.ended_at, gap.reason, lost,
            )  # fmt: skip

    def _warn_once(self, subject: str, text: str, *values: object) -> None:
        """Log a warning the first time and DEBUG afterwards, for events that may occur very often."""
        known = text in self._warned
        if not known:
            self._warned += (text,)
        self.log(subject).log(logging.DEBUG if known else logging.WARNING, text, *values)


@cache
def _child(logger: logging.Logger, subject: str) -> logging.Logger:
    """Cache the loggers: `getChild` takes a lock and 5 µs, and a join reports three times."""
    return logger.getChild(subject)


def _short(cause: RealtimeError | None) -> str:
    return cause.message if cause is not None else "no reason known"
