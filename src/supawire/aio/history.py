"""Streams of stored messages that continue where an earlier one, or an earlier process, has stopped.

`core.history` decides what is read and delivered. The streams here read the pages, load and save cursors, and wait.
Plain functions of the user's source and store run on one thread of the stream.
"""

import asyncio
import inspect
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, Self, TypeVar, cast

from supawire._validation import misused
from supawire._values.models import Model
from supawire.aio.callbacks import RANDOM, is_async
from supawire.aio.driver import Driver
from supawire.aio.stream import Source, ended, late
from supawire.aio.subscriptions import Registration
from supawire.core.channel import CoreChannel
from supawire.core.history import ReceivedItem, ReplayReader, StoredItem, StoredReader
from supawire.core.pacing import delay
from supawire.cursors import (
    Cursor,
    CursorStore,
    HistorySource,
    Page,
    PageQuery,
    StoredBroadcast,
    microseconds,
    received_broadcast,
    stored_broadcast,
)
from supawire.errors import ClosedError, HandlerError, InvalidArgumentError, RealtimeError, StateError
from supawire.events import Broadcast, ChannelState, Gap, Status
from supawire.options import Backoff, check_bool, check_choice, check_count, check_number, check_text
from supawire.selectors import ANY, BroadcastSelector, ModelSelector, Selector, gaps, status

if TYPE_CHECKING:
    import typing_extensions

    P_co = typing_extensions.TypeVar("P_co", covariant=True, default=Any)
else:
    P_co = TypeVar("P_co", covariant=True)

From = Cursor | CursorStore | datetime | float
Start = Literal["oldest", "newest"]
Commit = Literal["auto", "manual"]

READ_BACKOFF: Final = Backoff(initial=0.5, maximum=30.0)
READ_ATTEMPTS: Final = 4
"""How often `history()` tries to read a page."""
RETENTION: Final = 72 * 3600.0
"""Seconds for which the server keeps a stored message at least."""
SAVE_INTERVAL: Final = 3600.0
"""Seconds after which the cursor of a stream without messages is saved again, so that it does not become too old."""
BROADCASTS_ONLY: Final = "a history has broadcasts only; pass broadcast() or broadcast('event')"


class StreamOptions(NamedTuple):
    """The checked arguments of `listen(from_=…)`."""

    begin: From
    name: str
    start: Start = "oldest"
    commit: Commit = "auto"
    save_every: int = 1
    strict: bool = False
    settle: float = 5.0
    poll: float = 30.0
    page: int = 500
    buffer: int = 1000


def read_stream_options(
    topic: str,
    from_: object,
    *,
    cursor_name: str | None,
    start: str,
    commit: str,
    save_every: int,
    strict: bool,
    settle: float,
    poll: float,
    page: int,
    buffer: int,
) -> StreamOptions:
    """Check the arguments of `listen(from_=…)`. Raises: InvalidArgumentError."""
    stores = isinstance(from_, CursorStore)
    if not stores and not isinstance(from_, Cursor | datetime | int | float):
        raise InvalidArgumentError(
            "from_ must be a Cursor, a store such as SqliteCursors(path), or a time (an aware datetime, Unix seconds), "
            f"not {from_!r}"
        )
    if isinstance(from_, Cursor):
        check_topic_of(from_, topic)
    elif not stores:
        microseconds(cast("datetime | float", from_))
    if cursor_name is not None and not stores:
        raise InvalidArgumentError("cursor_name= is the name of a cursor in a store; pass a store as from_=")
    return StreamOptions(
        cast("From", from_),
        topic if cursor_name is None else check_text("cursor_name", cursor_name),
        check_choice("start", start, ("oldest", "newest")),
        check_choice("commit", commit, ("auto", "manual")),
        check_count("save_every", save_every),
        check_bool("strict", strict),
        check_number("settle", settle, minimum=0, unit="seconds"),
        check_number("poll", poll, above=0, unit="seconds"),
        check_count("page", page, maximum=10_000),
        check_count("buffer", buffer),
    )


def check_topic_of(cursor: Cursor, topic: str) -> None:
    """Raise an error for a cursor of another topic."""
    if cursor.topic != topic:
        raise InvalidArgumentError(
            f"the cursor is of the topic {cursor.topic!r}, and the channel's is {topic!r}",
            hint="Give each topic a cursor of its own, with cursor_name= if they are in one store.",
        )


class Wanted(NamedTuple):
    """What selectors of broadcasts want: the event names, None for all, and the model of each."""

    events: tuple[str, ...] | None
    models: dict[str, Model | None]

    def model(self, event: str) -> Model | None:
        """Return the model for payloads of an event."""
        return self.models[event] if event in self.models else self.models.get(ANY)


def wanted_of(selectors: tuple[Selector[Any], ...]) -> Wanted:
    """Return what the selectors want. Raises: InvalidArgumentError: one selects something else than broadcasts."""
    models: dict[str, Model | None] = {}
    for selector in selectors:
        plain = selector.plain if isinstance(selector, ModelSelector) else selector
        if not isinstance(plain, BroadcastSelector):
            raise InvalidArgumentError(f"{selector!r} has no stored messages: {BROADCASTS_ONLY}")
        models.setdefault(plain.event, selector.model if isinstance(selector, ModelSelector) else None)
    return Wanted(None if ANY in models else tuple(models), models)


class UserCalls:
    """Calls of the user's source and store, as tasks of the client; plain functions run on a thread, one at a time."""

    def __init__(self, driver: Driver, topic: str) -> None:
        self._tasks = driver.tasks
        self._loop = driver.loop
        self._topic = topic
        self._executor: ThreadPoolExecutor | None = None

    def begin(self, function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        """Begin a call and return its outcome. It is finished also when nobody waits for it any longer.

        The outcome is a RealtimeError as raised, or a HandlerError with any other exception as its cause.
        """
        outcome: asyncio.Future[Any] = self._loop.create_future()
        outcome.add_done_callback(_retrieve)
        if self._tasks.spawn(self._settle(outcome, function, arguments), "history") is None:
            outcome.set_exception(ClosedError("the client was closed", topic=self._topic))
        return outcome

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call and return the result; see `begin`."""
        return await asyncio.shield(self.begin(function, *arguments))

    async def _settle(
        self, outcome: "asyncio.Future[Any]", function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        error: RealtimeError = ClosedError("the client was closed", topic=self._topic)
        try:
            result = await self._result(function, arguments)
        except RealtimeError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001  of the user's source or store: raised to the caller
            name = getattr(function, "__qualname__", repr(function))
            error = HandlerError(f"{name} raised {type(raised).__name__}: {raised}", topic=self._topic)
            error.__cause__ = raised
        else:
            if not outcome.done():
                outcome.set_result(result)
        finally:
            if not outcome.done():
                outcome.set_exception(error)

    async def _result(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if is_async(function):
            return await function(*arguments)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="supawire-history")
        result = await self._loop.run_in_executor(self._executor, function, *arguments)
        return await result if inspect.isawaitable(result) else result

    def close(self) -> None:
        """End the thread after its running call."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)


def _retrieve(done: "asyncio.Future[Any]") -> None:
    """Mark the error of a call as seen whose caller was cancelled; the next call raises its own."""
    if not done.cancelled():
        done.exception()


class AsyncMessageStream(Generic[P_co]):
    """The stored messages after a cursor, then live ones, as `StoredBroadcast`; made by `listen(from_=…)`.

    Each message once, in order, also over reconnects; see the page about history for what is guaranteed. A `Gap` in
    between is a period of which messages may be missing. `async for`, `anext()`, or a context manager that ends it. Use
    it from one task at a time.

    A message counts as handled when the next one is asked for, or with commit="manual" at `commit()`. With a store, the
    cursor is saved then. A message that was not handled when the process ended is delivered again.
    """

    def __init__(
        self,
        driver: Driver,
        core: CoreChannel,
        source: Source,
        history: HistorySource | None,
        wanted: Wanted,
        selectors: tuple[Selector[Any], ...],
        options: StreamOptions,
    ) -> None:
        self._driver = driver
        self._core = core
        self._keeps = driver.registry.client()
        self._source = source
        self._history = history
        self._wanted = wanted
        self._options = options
        self._store = options.begin if isinstance(options.begin, CursorStore) else None
        self._calls = UserCalls(driver, core.name)
        self._reader: StoredReader | ReplayReader | None = None
        self._handled: Cursor | None = None
        """The cursor after all handled messages."""
        self._taken: Cursor | None = None
        """The cursor after all delivered messages, if some of them are not handled yet."""
        self._unsaved = 0
        self._saved: Cursor | None = None
        self._saved_at: float = 0.0
        self._failures = 0
        self._closed = False
        self._wakeup: asyncio.Future[None] | None = None
        self._waiting_read: asyncio.Future[Page] | None = None
        self.count: int = 0
        """How many messages were delivered."""
        add, now = driver.registry.add, driver.now()
        received = _call_weakly(weakref.WeakMethod(self._received))
        if driver.telemetry is not None:
            received = driver.telemetry.listener(received)
        self._registrations: list[Registration] = [
            add(core.topic, selectors, received, None, now),
            add(core.topic, (gaps(),), _call_weakly(weakref.WeakMethod(self._gap)), None, now),
            add(core.topic, (status(),), _call_weakly(weakref.WeakMethod(self._status)), None, now),
        ]
        driver.pump()
        finalizer = weakref.finalize(self, _end_soon, self._registrations, source, self._calls)
        finalizer.atexit = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.count} delivered"
        return f"<AsyncMessageStream of {self._core.name!r}, {state}>"

    # --- cursor

    @property
    def cursor(self) -> Cursor | None:
        """The position after all messages that were handled, None before the first read."""
        return self._handled

    @property
    def caught_up(self) -> bool:
        """Whether all messages that were stored when the stream began have been delivered."""
        reader = self._reader
        return reader.caught_up if isinstance(reader, StoredReader) else self._core.state is ChannelState.JOINED

    async def commit(self) -> None:
        """Count all delivered messages as handled, and save the cursor if there is a store.

        Raises: what the store raises.
        """
        self._driver.check_loop()
        self._mark_handled()
        await self._save()

    def _mark_handled(self) -> None:
        if self._taken is not None:
            self._handled, self._taken = self._taken, None
            self._unsaved += 1

    async def _save(self) -> bool:
        """Save the cursor of the handled messages, and return whether that was necessary."""
        cursor, store = self._handled, self._store
        if store is None or cursor is None or cursor is self._saved:
            return False
        await self._calls.call(store.save, self._options.name, cursor)
        self._saved, self._unsaved, self._saved_at = cursor, 0, self._driver.now().mono
        return True

    # --- iteration

    if not TYPE_CHECKING:
        __iter__ = misused("this stream is iterated in async code", "Write `async for message in stream:`.")
        __enter__ = __exit__ = misused("this stream is used in async code", "Write `async with stream:`.")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredBroadcast[P_co] | Gap:
        return await self._next()

    async def get(self, *, timeout: float | None = None) -> StoredBroadcast[P_co] | Gap:
        """Return the next message or gap; wait at most `timeout`.

        Args: timeout: seconds; None: no limit.
        Raises: OperationTimeout: none came in time; the stream continues. ClosedError: the stream has ended. Otherwise
            the same errors as iteration.
        """
        limit = None if timeout is None else check_number("timeout", timeout, minimum=0, unit="seconds")
        bound = asyncio.timeout(limit)
        try:
            async with bound:
                return await self._next()
        except StopAsyncIteration:
            raise ended() from None
        except TimeoutError:
            if not bound.expired():
                raise
            raise late() from None

    async def _next(self) -> Any:
        self._driver.check_loop()
        if self._closed:
            raise StopAsyncIteration
        if self._options.commit == "auto":
            self._mark_handled()
        if self._unsaved >= self._options.save_every:
            await self._save()
        reader = self._reader or await self._begin()
        while (item := reader.take()) is None:
            if self._closed:
                raise StopAsyncIteration
            if isinstance(reader, StoredReader):
                await self._read_or_wait(reader)
            else:
                await self._wait_for_message()
        if isinstance(item, Gap):
            return item
        self._taken = item.cursor
        self.count += 1
        return self._message(item)

    def _message(self, item: StoredItem | ReceivedItem) -> Any:
        if isinstance(item, StoredItem):
            model = self._wanted.model(item.row.event)
            return stored_broadcast(self._core.name, item.row, item.cursor, model, replayed=item.replayed)
        event: Broadcast[Any] = item.event
        return received_broadcast(event, item.cursor)

    # --- begin

    async def _begin(self) -> StoredReader | ReplayReader:
        cursor, oldest = await self._load()
        options = self._options
        reader: StoredReader | ReplayReader
        if self._history is None:
            self._check_not_joined()
            now = self._driver.now()
            wall = self._driver.session.server_time(now)
            kept_since = int(((now.wall if wall is None else wall) - RETENTION) * 1e6)
            reader = ReplayReader(cursor, oldest=kept_since, limit=options.buffer)
            self._core.membership.gaps.resume(cursor.at / 1e6, now)
        else:
            reader = StoredReader(
                cursor, oldest=oldest, events=self._wanted.events, page=options.page, settle=options.settle,
                poll=options.poll, strict=options.strict,
            )  # fmt: skip
            if not self._core.begun and not self._core.wanted:
                self._driver.session.join(self._core.topic, self._driver.begin_call())
                self._driver.pump()
        self._handled = self._saved = cursor
        self._saved_at = self._driver.now().mono
        self._reader = reader
        return reader

    async def _load(self) -> tuple[Cursor, bool]:
        """Return the cursor to start at, and whether older messages are not asked for."""
        begin, topic = self._options.begin, self._core.name
        if isinstance(begin, Cursor):
            return begin, False
        if not isinstance(begin, CursorStore):
            return Cursor.since(topic, begin), False
        cursor = await self._calls.call(begin.load, self._options.name)
        if cursor is not None:
            if not isinstance(cursor, Cursor):
                raise InvalidArgumentError(f"load() of the store must return a Cursor or None, not {cursor!r}")
            check_topic_of(cursor, topic)
            return cursor, False
        if self._options.start == "oldest":
            return Cursor(topic, 0), True
        cursor = await self._newest()
        await self._calls.call(begin.save, self._options.name, cursor)  # a restart before the first message begins here
        return cursor, True

    async def _newest(self) -> Cursor:
        """Return the cursor for messages that are stored from now on, by the clock that stamps them if possible."""
        topic, now = self._core.name, self._driver.now()
        if self._history is None:
            wall = self._driver.session.server_time(now)
            return Cursor.since(topic, now.wall if wall is None else wall)
        query = PageQuery(topic, Cursor.since(topic, now.wall).position, limit=1)
        page: Page = await self._calls.call(self._history.read, query)
        return Cursor(topic, page.now)

    def _check_not_joined(self) -> None:
        if self._core.begun or self._core.wanted:
            raise StateError(
                "without history= the stored messages are requested at the join, and the channel is subscribed already",
                topic=self._core.name,
                hint="Read the stream before subscribe(), or pass history=DatabaseHistory(url) to connect().",
            )

    # --- waiting and reading

    async def _read_or_wait(self, reader: StoredReader) -> None:
        if self._source.can_continue() is False:
            self.close()
            return
        wait = reader.next_read_at - self._driver.now().mono
        if wait > 0 and self._waiting_read is None:
            if not await self._save_if_idle(reader):  # otherwise a message may have come during the save
                await self._wait(wait)
            return
        assert self._history is not None
        read = self._waiting_read
        if read is None:
            read = self._waiting_read = self._calls.begin(self._history.read, reader.query())
        try:
            page = await asyncio.shield(read)
        except RealtimeError as error:
            self._waiting_read = None
            self._read_failed(reader, error)
        else:
            self._waiting_read = None
            self._failures = 0
            reader.page_read(page, self._driver.now())

    def _read_failed(self, reader: StoredReader, error: RealtimeError) -> None:
        reader.read_failed(delay(READ_BACKOFF, self._failures, RANDOM), self._driver.now())
        self._failures += 1
        if not error.retryable:
            raise error
        self._driver.reports.error(error, "handler", (id(self), type(error)))

    async def _save_if_idle(self, reader: StoredReader) -> bool:
        """Save the cursor before waiting, and now and then while no message comes; return whether it was saved."""
        if self._taken is not None:
            return False
        if self._unsaved or self._driver.now().mono - self._saved_at > SAVE_INTERVAL:
            self._handled = reader.cursor
            return await self._save()
        return False

    async def _wait_for_message(self) -> None:
        more = self._source.can_continue()
        if more is False:
            self.close()
        elif more is None:
            await self._source.begin()
        else:
            if self._taken is None and self._unsaved and await self._save():
                return  # a message may have come during the save
            await self._wait(None)

    async def _wait(self, seconds: float | None) -> None:
        """Wait for a wake-up, at most for these seconds."""
        if self._wakeup is not None:
            raise StateError("another task already waits for this stream", hint="Give each task its own stream.")
        waiter = self._wakeup = self._driver.loop.create_future()
        timer = None if seconds is None else self._driver.loop.call_later(seconds, _resolve, waiter)
        try:
            await waiter
        finally:
            self._wakeup = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._wakeup is not None:
            _resolve(self._wakeup)

    # --- events of the channel

    def _received(self, event: Broadcast[Any]) -> None:
        reader, now = self._reader, self._driver.now()
        if isinstance(reader, StoredReader):
            if event.replayed:  # perhaps from before the cursor, so it must not be looked for by its id
                reader.refresh(now)
            else:
                reader.wake(event.id, now)
        elif reader is not None:
            reader.received(event, self._driver.session.server_time(now), now)
        self._wake()

    def _gap(self, gap: Gap) -> None:
        reader = self._reader
        if isinstance(reader, StoredReader):
            reader.refresh(self._driver.now())
        elif reader is not None:
            reader.gap(gap)
        self._wake()

    def _status(self, change: Status) -> None:
        if isinstance(self._reader, StoredReader) and change.state is ChannelState.JOINED:
            self._reader.refresh(self._driver.now())
        if change.state is ChannelState.CLOSED:
            self._calls.close()
        self._wake()

    # --- end

    def close(self) -> None:
        """End the stream. Messages that were not handled are delivered again by the next stream from this cursor."""
        if not self._closed:
            self._closed = True
            for registration in self._registrations:
                registration.cancel()
            self._source.end()
            self._calls.close()
            self._wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._closed:
            await self._save()
        self.close()


def _end_soon(registrations: list[Registration], source: Source, calls: UserCalls) -> None:
    """End a stream that was garbage-collected, on any thread."""
    for registration in registrations:
        registration.cancel_soon(source.end)
    calls.close()


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


def _call_weakly(method: "weakref.WeakMethod[Callable[[Any], None]]") -> Callable[[Any], None]:
    """Return a listener that does not keep the stream alive."""

    def deliver(event: Any) -> None:
        function = method()
        if function is not None:
            function(event)

    return deliver


class AsyncHistory(Generic[P_co]):
    """The stored messages of a topic, oldest first, without those that are stored later; made by `history()`."""

    def __init__(
        self,
        driver: Driver,
        topic: str,
        history: HistorySource,
        wanted: Wanted,
        reader: StoredReader,
        limit: int | None,
    ) -> None:
        self._driver = driver
        self._topic = topic
        self._history = history
        self._wanted = wanted
        self._reader = reader
        self._left = limit
        self._failures = 0
        self._calls = UserCalls(driver, topic)
        finalizer = weakref.finalize(self, self._calls.close)
        finalizer.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredBroadcast[P_co] | Gap:
        if self._left is not None and self._left <= 0:
            self._calls.close()
            raise StopAsyncIteration
        while (item := self._reader.take()) is None:
            if self._reader.caught_up:
                self._calls.close()
                raise StopAsyncIteration
            self._reader.page_read(await self._read(), self._driver.now())
        if isinstance(item, Gap):
            return item
        if self._left is not None:
            self._left -= 1
        model = self._wanted.model(item.row.event)
        return cast("Any", stored_broadcast(self._topic, item.row, item.cursor, model, replayed=True))

    async def _read(self) -> Page:
        for attempt in range(READ_ATTEMPTS):
            try:
                return await self._calls.call(self._history.read, self._reader.query())
            except RealtimeError as error:
                if not error.retryable or attempt == READ_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(delay(READ_BACKOFF, attempt, RANDOM))
        raise AssertionError("unreachable")


def read_history(
    driver: Driver,
    topic: str,
    history: HistorySource | None,
    selectors: tuple[Selector[Any], ...],
    *,
    since: Cursor | datetime | float | None,
    limit: int | None,
    page: int,
) -> AsyncHistory[Any]:
    """Return the iterator of `history()`. Raises: InvalidArgumentError. StateError: the client has no history=."""
    if history is None:
        raise StateError(
            "history() reads the table of the stored messages, and the client was opened without history=",
            topic=topic,
            hint="Pass history=DatabaseHistory(url) or RestHistory(url, key) to connect(). Without it, "
            "channel(..., replay_since=…) receives the newest 25 messages.",
        )
    wanted = wanted_of(selectors) if selectors else Wanted(None, {})
    if isinstance(since, Cursor):
        check_topic_of(since, topic)
        cursor = since
    else:
        cursor = Cursor.since(topic, 0.0 if since is None else since)
    if limit is not None:
        check_count("limit", limit)
    size = check_count("page", page, maximum=10_000)
    reader = StoredReader(
        cursor,
        oldest=not isinstance(since, Cursor),
        events=wanted.events,
        page=size if limit is None else min(size, limit),
        ends=True,
    )
    return AsyncHistory(driver, topic, history, wanted, reader, limit)
