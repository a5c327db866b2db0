"""Sending the newest values at a limited rate: the asyncio shell around `core.pacing.Throttle`."""

import asyncio
from collections.abc import Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

from supawire._validation import misused
from supawire.aio.driver import Driver
from supawire.core.channel import CoreChannel
from supawire.core.outbox import OutgoingBroadcast
from supawire.core.pacing import Throttle
from supawire.errors import ClosedError, OperationTimeout, RateLimitedError, RealtimeError, StateError, again
from supawire.events import ChannelState
from supawire.options import (
    DEFAULT,
    Timeout,
    check_count,
    check_event,
    check_json,
    check_key,
    check_number,
    check_timeout,
)
from supawire.selectors import status

RETRY_DELAY: Final = 0.5
"""Seconds until a value whose message failed is sent again, if there is no newer one."""


class AsyncThrottledSender:
    """Sends the newest value of each key, a limited number a second; made by `channel.throttled()`.

    `async with` sends what still waits at its end.
    """

    def __init__(self, driver: Driver, core: CoreChannel, per_second: float, max_keys: int) -> None:
        driver.begin_call()
        self._driver = driver
        self._core = core
        interval = 1 / check_number("per_second", per_second, above=0, unit="messages")
        self._throttle: Throttle[Hashable, OutgoingBroadcast] = Throttle(interval, check_count("max_keys", max_keys))
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._sending = False
        self._error: RealtimeError | None = None
        self._registration = driver.registry.add(
            core.topic, (status(),), lambda event: self._wake.set(), None, driver.now(), self._wake.set
        )
        driver.drains.append(self._flush)
        driver.pump()
        self._task = driver.tasks.spawn(self._run(), f"throttled-{core.name}")
        if self._task is None:
            self._end(ClosedError("the client was closed", topic=core.name))

    @property
    def waiting(self) -> int:
        """The number of values that are not sent yet."""
        return len(self._throttle)

    @property
    def replaced(self) -> int:
        """How many values were not sent, because a newer one of the same key came first."""
        return self._throttle.replaced

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._core.name!r}, {self.waiting} waiting>"

    def send(self, event: str, payload: Any, *, key: str | None = None) -> None:
        """Send this value as soon as the rate allows, instead of an older one of its key that still waits.

        Returns at once, so that any handler may call it. While the channel is joining, values wait; errors of sending
        go to `on_error`.

        Args: event, payload: as for `broadcast`. key: what the value belongs to; if omitted, the event.
        Raises: InvalidArgumentError. StateError, ClosedError: the channel is not subscribed, or cannot be joined.
            RateLimitedError: values of `max_keys` other keys wait.
        """
        self._driver.check_loop()
        if self._error is not None:
            raise again(self._error)
        if not self._core.wanted:
            raise StateError("the channel is not subscribed", topic=self._core.name, hint="Call subscribe() first.")
        json = not isinstance(payload, bytes | bytearray | memoryview)
        message = OutgoingBroadcast(
            check_event(event), check_json(payload) if json else bytes(cast("bytes", payload)), json,
            timeout=self._driver.options.timeout, ignore_queue_time=True,
        )  # fmt: skip
        self._core.check_broadcast(message)
        if not self._throttle.put(event if key is None else check_key("key", key), message):
            raise RateLimitedError(
                f"values of {self.waiting} keys wait already, at most max_keys", topic=self._core.name,
                hint="Use fewer keys, or raise max_keys= or per_second=.",
            )  # fmt: skip
        self._wake.set()

    async def flush(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until everything was sent. Raises: OperationTimeout; what ended the channel."""
        seconds = check_timeout(timeout, self._driver.options.timeout)
        try:
            async with asyncio.timeout(seconds):
                await self._flush()
        except TimeoutError:
            text = f"{self.waiting} values were not sent in time"
            raise OperationTimeout(text, topic=self._core.name) from None
        if self._error is not None and self.waiting:
            raise again(self._error)

    async def close(self, timeout: Timeout = DEFAULT) -> None:
        """Send what waits, and end the sender; a second call does nothing. Raises: as `flush`."""
        try:
            if self._error is None:
                await self.flush(timeout)
        finally:
            self._end(ClosedError("the sender was closed", topic=self._core.name))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self._end(ClosedError("the sender was closed", topic=self._core.name))

    if not TYPE_CHECKING:
        __enter__ = __exit__ = misused("this sender is for async code", "Write `async with`.")

    # --- internal

    async def _run(self) -> None:
        """Send values as they are due."""
        driver, core, throttle = self._driver, self._core, self._throttle
        try:
            while self._error is None:
                self._wake.clear()
                if core.state is ChannelState.FAILED and core.error is not None:
                    return self._end(again(core.error))
                if not core.wanted or core.state is ChannelState.CLOSED:
                    return self._end(ClosedError("the channel was left or closed", topic=core.name))
                joined = core.state is ChannelState.JOINED
                due = throttle.pop(driver.clock.time()) if joined else None
                if due is None:
                    await self._sleep(throttle.next_at() if joined else None)
                else:
                    await self._send(*due)
        finally:
            self._end(ClosedError("the client was closed", topic=core.name))

    async def _send(self, key: Hashable, message: OutgoingBroadcast) -> None:
        driver = self._driver
        self._sending = True
        try:
            ticket = driver.session.broadcast(self._core.topic, message, driver.now())
            if ticket is not None:
                await driver.outcome(ticket)
            elif (frame := driver.hand_over()) is not None:
                await driver.written(*frame, message.timeout)
        except RealtimeError as error:
            if error.retryable or isinstance(error, StateError):
                self._throttle.restore(key, message, driver.clock.time() + RETRY_DELAY)
            else:
                driver.reports.error(error, "channel")
        finally:
            self._sending = False
        self._sent.set()

    async def _sleep(self, due: float | None) -> None:
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - self._driver.clock.time())):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _flush(self) -> None:
        while (self.waiting or self._sending) and self._error is None:
            self._sent.clear()
            await self._sent.wait()

    def _end(self, error: RealtimeError) -> None:
        if self._error is None:
            self._error = error
            self._registration.cancel()
            if self._flush in self._driver.drains:
                self._driver.drains.remove(self._flush)
        self._wake.set()
        self._sent.set()
