"""The outbox of the async client: a task that sends the messages of a store.

`core.delivery` decides what is sent when; this shell performs its steps. The calls of a store may block, so each runs
on a thread. One request is on its way at a time, by HTTP with ids, or as acknowledged broadcasts on joined channels.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar
from uuid import UUID

from supawire._validation import misused
from supawire.aio.callbacks import RANDOM, run_in_thread
from supawire.aio.driver import Driver
from supawire.core.delivery import Delivery, DeliverySettings, Load, OutboxMessage, Send, Settle, Wait
from supawire.core.frames import PREFIX
from supawire.core.http_broadcast import HttpMessage, check_size
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import (
    ClosedError,
    InvalidArgumentError,
    OperationTimeout,
    OutboxError,
    RealtimeError,
    SetupError,
    again,
)
from supawire.events import ChannelState
from supawire.options import (
    DEFAULT,
    Backoff,
    Timeout,
    check_choice,
    check_count,
    check_json,
    check_kind,
    check_number,
    check_timeout,
)
from supawire.outbox_stores.base import DeadMessage, OutboxStore

T = TypeVar("T")

Via = Literal["http", "socket"]

_STORE_METHODS: Final = ("add", "acquire", "release", "load", "settle", "counts", "last", "has_pending", "dead")


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """What an outbox holds, and what this object has done.

    pending: messages that wait, of all processes; dead: messages that were given up; bytes: of both; oldest_age:
    seconds since the oldest pending message was added, None if there is none. sent, failed: messages that were
    accepted, and requests that failed, of this object. sending: whether this object is the one that sends.
    error: the last failure, None after a success.
    """

    pending: int
    bytes: int
    dead: int
    oldest_age: float | None
    sent: int
    failed: int
    sending: bool
    error: RealtimeError | None


def read_outbox_settings(
    store: object,
    via: object,
    backoff: object,
    max_attempts: object,
    max_age: object,
    poll: object,
    max_retry_after: float,
) -> DeliverySettings:
    """Check the options of `client.outbox`. Raises: InvalidArgumentError."""
    if any(not callable(getattr(store, name, None)) for name in _STORE_METHODS) or isinstance(store, type):
        raise InvalidArgumentError(
            f"store must be the store of an outbox, not {store!r:.80}", hint='Such as SqliteOutbox("outbox.db").'
        )
    given = check_kind("backoff", backoff, Backoff, "a Backoff")
    if (given.max_attempts, given.max_elapsed) != (None, None):
        raise InvalidArgumentError(
            "backoff must be a Backoff without an end: an outbox loses nothing",
            hint="max_age=… says after how many seconds a message is given up.",
        )
    return DeliverySettings(
        given,
        check_count("max_attempts", max_attempts, minimum=2, why="a failure may be due to the server"),
        None if max_age is None else check_number("max_age", max_age, above=0, unit="seconds, or None"),
        check_number("poll", poll, above=0, unit="seconds"),
        one_per_topic=check_choice("via", via, ("http", "socket")) == "socket",
        max_retry_after=max_retry_after,
    )


class AsyncOutbox:
    """An outbox, made by `client.outbox(store)`: it sends stored messages until the server has accepted each of them.

    It starts when it is made. `async with` closes it at the end, which first sends what is pending, within 10 s.
    """

    def __init__(self, driver: Driver, store: OutboxStore, settings: DeliverySettings) -> None:
        self._driver = driver
        self._keeps = driver.registry.client()
        self._store = store
        self._settings = settings
        self._machine = Delivery(settings, RANDOM, driver.session.http_broadcasts.max_messages)
        self._is_sender = False
        self._error: RealtimeError | None = None
        self._stopping = False
        self._woken = asyncio.Event()
        self._progress = asyncio.Event()
        """Set when messages left the store, and then replaced."""
        driver.drains.append(self._flush)
        self._task = driver.tasks.spawn(self._run(), "outbox")

    # --- the messages

    async def add(
        self, topic: str, event: str, payload: Any, *, private: bool = False, id: str | UUID | None = None
    ) -> str:
        """Store a message and return its id. It is durable when this returns, and sent as soon as possible.

        Receivers get the id as `Broadcast.id`; those of this library drop a second copy. If the call is cancelled, the
        message may be stored.

        Args: payload: a JSON object. private: send to private channels of the topic. id: a UUID of your own: while the
            store has a message with this id, nothing is added; if omitted, a new one.
        Raises: InvalidArgumentError, PayloadTooLargeError. OutboxFullError. OutboxError: it cannot be stored.
            ClosedError.
        """
        self._driver.begin_call()
        self._check()
        check_size(check_json(payload), self._driver.options.limits.payload_bytes, str(topic))
        added = await self._call(partial(self._store.add, topic, event, payload, private=private, id=id))
        self.wake()
        return added

    def wake(self) -> None:
        """Look into the store at once, for messages that something else has added; else it looks every `poll` s."""
        self._machine.wake()
        self._woken.set()

    async def flush(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until the messages that the store has now were accepted, or are dead.

        Args: timeout: seconds; if omitted, the client's; None: no limit.
        Raises: OperationTimeout, with the last failure as its cause. OutboxError. ClosedError.
        """
        self._driver.check_loop()
        self._check()
        limit = check_timeout(timeout, self._driver.options.timeout)
        bound = asyncio.timeout(limit)
        try:
            async with bound:
                await self._flush()
        except TimeoutError:
            if not bound.expired():
                raise
            because = "" if self._error is None else f": {self._error.message}"
            text = f"the outbox was not sent within {limit:g} s{because}"
            raise OperationTimeout(text, hint="The messages stay in the store.") from self._error

    async def stats(self) -> OutboxStats:
        """Return what the outbox holds, and what this object has sent. Raises: OutboxError."""
        self._driver.check_loop()
        counts = await self._call(self._store.counts)
        age = None if counts.oldest_at is None else max(0.0, time.time() - counts.oldest_at)
        return OutboxStats(
            counts.pending, counts.bytes, counts.dead, age, self._machine.accepted, self._machine.failed,
            self._is_sender, self._error,
        )  # fmt: skip

    async def dead(self, limit: int = 100) -> list[DeadMessage]:
        """Return the oldest messages that were given up, at most `limit`. Raises: OutboxError."""
        self._driver.check_loop()
        return await self._call(partial(self._store.dead, limit))

    async def retry(self, ids: Iterable[str] | None = None) -> int:
        """Make dead messages pending again, all if no ids are given, and return how many. Raises: OutboxError."""
        self._driver.check_loop()
        count = await self._call(partial(self._store.retry, ids))
        self.wake()
        return count

    async def discard(self, ids: Iterable[str] | None = None) -> int:
        """Remove dead messages, all if no ids are given, and return how many. Raises: OutboxError."""
        self._driver.check_loop()
        return await self._call(partial(self._store.discard, ids))

    async def close(self, timeout: float | None = 10.0) -> int:
        """Send what is pending, then stop. Return how many messages are left; they stay in the store.

        Args: timeout: seconds for sending; 0: stop after the current request; None: no limit.
        """
        self._driver.check_loop()
        limit = check_timeout(timeout, None) if timeout != 0 else 0.0
        if not self._stopping and self._is_running and limit != 0:
            with suppress(RealtimeError, TimeoutError):
                async with asyncio.timeout(limit):
                    await self._flush()
        self._stopping = True
        self._woken.set()
        if self._flush in self._driver.drains:
            self._driver.drains.remove(self._flush)
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        return (await self._call(self._store.counts)).pending

    if not TYPE_CHECKING:
        __enter__ = __exit__ = misused("this outbox is for async code", "Write `async with`, or use connect().")

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncOutbox of {self._store!r}>"

    # --- internal

    @property
    def _is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def _check(self) -> None:
        if self._stopping or not self._is_running:
            raise again(self._driver.error or ClosedError("the outbox or its client was closed"))

    async def _call(self, function: Callable[[], T]) -> T:
        """Call the store on a thread. An exception that is not ours is raised as `OutboxError`."""
        try:
            return await run_in_thread(function, "outbox")
        except RealtimeError:
            raise
        except Exception as error:
            raise OutboxError(f"the store {self._store!r:.80} raised {type(error).__name__}: {error}") from error

    async def _flush(self) -> None:
        last = await self._call(self._store.last)
        self.wake()
        while True:
            progress = self._progress
            if not await self._call(partial(self._store.has_pending, last)):
                return
            self._check()
            with suppress(TimeoutError):  # another process may be the sender
                async with asyncio.timeout(self._settings.poll):
                    await progress.wait()

    async def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    await self._step()
                except (OutboxError, SetupError) as error:
                    self._machine.store_failed(self._driver.now())
                    self._report(error)
                    await self._release()
            if self._machine.settling:  # else the last messages would be sent again after the next start
                with suppress(OutboxError, SetupError):
                    await self._step()
        finally:
            await self._release()

    async def _acquire(self) -> None:
        """Become the sender. If this is cancelled, the thread that is still running gives the lock back."""
        guard = threading.Lock()
        abandoned = False

        def acquire() -> None:
            taken = self._store.acquire()
            with guard:
                if not abandoned:
                    self._is_sender = taken
                    return
            if taken:
                self._store.release()

        try:
            await self._call(acquire)
        except BaseException:
            with guard:
                abandoned = True
            raise

    async def _release(self) -> None:
        if self._is_sender:
            self._is_sender = False
            with suppress(OutboxError, SetupError):
                await self._call(self._store.release)

    async def _step(self) -> None:
        now = self._driver.now()
        step = self._machine.next_step(now)
        if not isinstance(step, Wait) and not self._is_sender:
            await self._acquire()
            if not self._is_sender:
                await self._sleep(self._settings.poll)
            self._machine.restart()
            return
        match step:
            case Load(without):
                messages, complete = await self._call(partial(self._store.load, without))
                self._machine.loaded(messages, without, complete=complete, now=self._driver.now())
            case Settle(sent, dead):
                await self._call(partial(self._store.settle, sent, dead))
                self._machine.settled()
                self._progress.set()
                self._progress = asyncio.Event()
                for dead_id, why in dead:
                    self._report(OutboxError(f"the message {dead_id} was given up: {why}", retryable=False))
            case Send(messages):
                errors = await self._send(messages)
                self._error = next((error for error in errors if error is not None), None)
                self._machine.sent(messages, errors, self._driver.now())
                if self._error is not None:
                    self._driver.reports.error(self._error, "outbox", type(self._error))
            case Wait(until):
                await self._sleep(until - now.mono)

    def _report(self, error: RealtimeError) -> None:
        self._error = error
        self._driver.reports.error(error, "outbox")

    async def _sleep(self, seconds: float) -> None:
        """Wait, or until a message is added or the outbox stops."""
        if self._stopping:
            return
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    # --- internal: sending

    async def _send(self, messages: Sequence[OutboxMessage]) -> list[RealtimeError | None]:
        """Send once; return one result for all messages by HTTP, or one for each."""
        if not self._settings.one_per_topic:
            return [await self._outcome(self._publish(messages))]
        return await asyncio.gather(*[self._outcome(self._send_one(message)) for message in messages])

    async def _outcome(self, call: Any) -> RealtimeError | None:
        try:
            await call
        except RealtimeError as error:
            return error
        return None

    async def _publish(self, messages: Sequence[OutboxMessage]) -> None:
        requests = [HttpMessage(one.topic, one.event, one.payload, private=one.private, id=one.id) for one in messages]
        limit = self._driver.options.limits.payload_bytes
        for one in requests:
            check_size(one.payload, limit, one.topic)
        await self._driver.publisher.publish_once(requests, self._driver.options.timeout)

    async def _send_one(self, message: OutboxMessage) -> None:
        """Send on the channel of the topic if it is joined with `ack`, else by HTTP."""
        driver = self._driver
        topic = f"{PREFIX}{message.topic}"
        channel = driver.session.channels.get(topic)
        usable = channel is not None and channel.state is ChannelState.JOINED and channel.options.ack
        if channel is None or not usable or channel.options.private is not message.private:
            await self._publish([message])
            return
        broadcast = OutgoingBroadcast(
            message.event, message.payload, ack=True, timeout=driver.options.timeout, id=message.id
        )
        ticket = driver.session.broadcast(topic, broadcast, driver.now())
        if ticket is not None:
            await driver.outcome(ticket)
