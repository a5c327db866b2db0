"""Sending the newest values at a limited rate, in the sync client."""

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from supawire._validation import misused
from supawire.aio.throttled import AsyncThrottledSender
from supawire.options import DEFAULT, Timeout
from supawire.sync.portal import Portal


class ThrottledSender:
    """Sends the newest value of each key, a limited number a second; made by `channel.throttled()`.

    `with` sends what still waits at its end.
    """

    def __init__(self, portal: Portal, sender: AsyncThrottledSender) -> None:
        self._portal = portal
        self._async = sender

    @property
    def waiting(self) -> int:
        """The number of values that are not sent yet."""
        return self._async.waiting

    @property
    def replaced(self) -> int:
        """How many values were not sent, because a newer one of the same key came first."""
        return self._async.replaced

    def __repr__(self) -> str:
        return repr(self._async).replace("Async", "", 1)

    def send(self, event: str, payload: Any, *, key: str | None = None) -> None:
        """Send this value as soon as the rate allows, instead of an older one of its key that still waits.

        Returns at once, so that any handler may call it. While the channel is joining, values wait; errors of sending
        go to `on_error`.

        Args: event, payload: as for `broadcast`. key: what the value belongs to; if omitted, the event.
        Raises: InvalidArgumentError. StateError, ClosedError: the channel is not subscribed, or cannot be joined.
            RateLimitedError: values of `max_keys` other keys wait.
        """
        self._portal.run(self._async.send, event, payload, key=key)

    def flush(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until everything was sent. Raises: OperationTimeout; what ended the channel."""
        self._portal.call(self._async.flush, timeout)

    def close(self, timeout: Timeout = DEFAULT) -> None:
        """Send what waits, and end the sender; a second call does nothing. Raises: as `flush`."""
        self._portal.call(self._async.close, timeout)

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = misused("this sender is for code that blocks", "Write `with`.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._portal.inherited:
            self._portal.call(self._async.__aexit__, kind, error, None)
