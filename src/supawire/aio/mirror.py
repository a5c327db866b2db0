"""The async mirror: the asyncio shell around `core.mirror`.

`AsyncMirror` passes the events of its channel to the state machine, calls the user's `fetch`, keeps the one timer, and
sends events to iterators. `read_mirror_options` checks the arguments of `client.mirror(...)`.

Iterators over a mirror never lose changes: when more events wait than fit into the buffer, they are merged into one
`Resynced`, which the mirror can always compute from its rows.
"""

import asyncio
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast
from uuid import UUID

from msgspec import Struct

from supawire._mirror_events import (
    MirrorEvent,
    MirrorState,
    MirrorStats,
    Resynced,
    Row,
    RowLookup,
    Rows,
    RowSource,
    RowView,
    rewound,
)
from supawire._validation import check_path, misused
from supawire._values import filter_syntax
from supawire._values.models import Model, check_model
from supawire.aio.buffers import Buffer
from supawire.aio.callbacks import RANDOM
from supawire.aio.driver import Driver
from supawire.aio.mirror_fetch import FetchCalls, MirrorFetcher
from supawire.aio.mirror_support import MirrorCacheTask, VerifierCalls
from supawire.aio.stream import AsyncStream
from supawire.aio.subscriptions import Registration
from supawire.core.channel import CoreChannel
from supawire.core.frames import PREFIX
from supawire.core.mirror import (
    Abandon,
    Emit,
    Fetch,
    MirrorCore,
    MirrorEffect,
    MirrorSettings,
    ReportError,
    SaveCopy,
)
from supawire.core.row_fetch import AbandonRow, FetchRow
from supawire.core.table_copy import KeyColumns
from supawire.core.verification import AbandonVerification, Verify
from supawire.errors import ClosedError, InvalidArgumentError, OperationTimeout, RealtimeError, again
from supawire.events import ChannelState, Gap, Instant, Status, System
from supawire.filters import Where
from supawire.options import (
    DEFAULT,
    Backoff,
    ChannelOptions,
    Timeout,
    check_bool,
    check_count,
    check_number,
    check_takes,
    check_timeout,
    check_topic,
)
from supawire.selectors import ANY, ChangesSelector, changes, gaps, status, system
from supawire.verifiers import Verifier, check_verifier


class MergingBuffer(Buffer):
    """Events for one iterator; when it is full, `merge` combines all waiting events into one."""

    def __init__(self, limit: int, merge: Callable[[list[MirrorEvent[Any]]], MirrorEvent[Any]]) -> None:
        super().__init__(limit)
        self._merge = merge

    def overflow(self, event: Any) -> None:
        """Replace all waiting events and this one by their merged event."""
        merged = self._merge([*self.events, event])
        self.events.clear()
        self.events.append(merged)


_IMMUTABLE: Final = frozenset({str, int, float, bool, bytes, type(None), UUID, Decimal, datetime, date, time})
"""Immutable types, whose values are not copied."""


SAVE_INTERVAL: Final = 30.0
"""Seconds between saves of a copy that has changed."""


class MirrorOptions(Struct, frozen=True):
    """The checked options of a mirror. timeout: seconds of one fetch, None for no limit. cache: path of a snapshot."""

    topic: str
    channel: ChannelOptions
    settings: MirrorSettings
    shown: RowView
    timeout: float | None
    verifier: Verifier | None = None
    cache: str | None = None


def read_mirror_options(
    used_topics: Container[str],
    table: str,
    *,
    key: str | Sequence[str],
    fetch: object,
    fetch_row: object,
    schema: str | None,
    filter: str | None,
    where: Where | None,
    select: Sequence[str] | None,
    model: type[Any] | None,
    plain: bool,
    narrow: bool,
    topic: str | None,
    private: bool,
    settle: float,
    timeout: float | None,
    backoff: Backoff,
    pause: float,
    buffer: int,
    refresh_every: float | None,
    verify: float | None,
    verifier: object,
    cache: str | os.PathLike[str] | None,
) -> MirrorOptions:
    """Check all options. used_topics: the topics that are in use. Raises: InvalidArgumentError."""
    selector = cast("ChangesSelector[Any]", changes(table, schema=schema, filter=filter, where=where, select=select))
    if ANY in (table, selector.schema):
        raise InvalidArgumentError("a mirror is of one table: give table and schema by name", hint="Make one for each.")
    check_takes("fetch", fetch, 0, "a function without arguments that returns the rows")
    if fetch_row is not None:
        check_takes("fetch_row", fetch_row, 1, "a function of the key, a dict, that returns the row or None")
    columns = check_key(key)
    checked_model = check_model(model)
    text = selector.filter if selector.filter and selector.filter.strip() else None
    if check_bool("narrow", narrow) and text is None:
        raise InvalidArgumentError("narrow=True needs filter= or where=, and neither is given")
    if not isinstance(backoff, Backoff) or (backoff.max_attempts, backoff.max_elapsed) != (None, None):
        raise InvalidArgumentError(
            f"backoff must be a Backoff without an end, not {backoff!r}: a mirror retries as long as it is open",
            hint="ready(timeout=…) says how long you wait.",
        )
    if verify is not None and refresh_every is not None:
        raise InvalidArgumentError("verify and refresh_every both compare the mirror with its table; give one of them")
    if verifier is not None and verify is None:
        raise InvalidArgumentError("verifier is given without verify", hint="verify=300 verifies every 300 s.")
    if verifier is not None:
        check_verifier(verifier, text)
    version: str | None = getattr(verifier, "version", None)
    if version is not None and selector.select is not None and version not in selector.select:
        raise InvalidArgumentError(f"select must have the column {version!r}, the version that the verifier compares")
    columns_of = KeyColumns(columns)
    every = refresh_every if verify is None else verify
    return MirrorOptions(
        check_topic(topic)
        if topic is not None
        else _unused_topic(f"{PREFIX}mirror:{selector.schema}.{table}", used_topics),
        ChannelOptions(private=private, replay_gaps=False),  # otherwise a gap would wait for a replay
        MirrorSettings(
            table,
            columns,
            schema=selector.schema,
            filter=text,
            filter_columns=frozenset(condition.column for condition in filter_syntax.parse(text or "")),
            select=None if selector.select is None else tuple(dict.fromkeys((*selector.select, *columns))),
            narrow=narrow,
            plain=check_bool("plain", plain),
            has_model=checked_model is not None,
            settle=check_number("settle", settle, minimum=0, unit="seconds"),
            backoff=backoff,
            pause=check_number("pause", pause, minimum=0, unit="seconds"),
            buffer=check_count("buffer", buffer),
            by_row=fetch_row is not None,
            refresh_every=None
            if every is None
            else check_number("refresh_every" if verify is None else "verify", every, above=0, unit="seconds, or None"),
            verified=verifier is not None,
            version=version,
            save_every=None if cache is None else SAVE_INTERVAL,
        ),
        make_row_view(columns_of, checked_model),
        check_timeout(timeout, None),
        cast("Verifier | None", verifier),
        None if cache is None else str(Path(check_path("cache", cache)).resolve()),
    )


def check_key(key: object) -> tuple[str, ...]:
    """Return the columns of a mirror's key. Raises: InvalidArgumentError."""
    columns = (
        (key,) if isinstance(key, str) else tuple(cast("Sequence[object]", key)) if isinstance(key, Sequence) else ()
    )
    names = [column for column in columns if isinstance(column, str) and column]
    if not names or len(set(names)) < len(columns):
        raise InvalidArgumentError(
            f"key must be the column of the primary key, or the list of its columns, not {key!r}",
            hint='key="id", or key=("order_id", "line").',
        )
    return tuple(names)


def _unused_topic(topic: str, used_topics: Container[str]) -> str:
    """Return the topic if it is not in use, else the first unused one with a number appended."""
    tried = (topic if number == 1 else f"{topic}:{number}" for number in count(1))
    return check_topic(next(name for name in tried if name not in used_topics))


def make_row_view(columns: KeyColumns, model: Model | None) -> RowView:
    """Return the view that converts rows with this key to dicts or to objects of the model."""
    return RowView(columns.shown, _copy_row if model is None else partial(_make_object, model))


def _make_object(model: Model, row: Row) -> Any:
    return model.make(_copy_row(row), frozenset())


def _copy_row(row: Row) -> Row:
    """Return a copy that shares nothing mutable with the stored row."""
    return {name: value if type(value) in _IMMUTABLE else deepcopy(value) for name, value in row.items()}


if TYPE_CHECKING:  # with a default, a bare generic type passes strict checkers; at run time Python 3.13 has them
    import typing_extensions

    R = typing_extensions.TypeVar("R", default=dict[str, Any])
else:
    R = TypeVar("R")


class AsyncMirror(Mapping[Any, R]):
    """A live copy of a table, made by `client.mirror(...)`: a mapping from key to row. See `mirror` for its guarantees.

    It starts when it is made. `async with` waits until it is live, and closes it at the end. Each access to a row
    returns a new dict or object, which you may change.
    """

    def __init__(
        self, driver: Driver, options: MirrorOptions, fetch: RowSource, fetch_row: RowLookup | None = None
    ) -> None:
        self._driver = driver
        self._keeps = driver.registry.client()
        self._topic = options.topic
        self._shown = options.shown
        self._limit = options.timeout
        self._core = driver.session.channel(options.topic, options.channel)
        self._machine = MirrorCore(options.settings, options.shown, RANDOM)
        fetcher = partial(MirrorFetcher, driver.tasks, driver.exits, timeout=options.timeout, topic=self._core.name)
        calls = FetchCalls("fetch", fetch, self._machine.read, on_thread_only=driver.on_thread)
        self._fetcher: MirrorFetcher[Rows] = fetcher(calls, on_result=self._on_fetched)
        self._row_fetcher: MirrorFetcher[Row | None] | None = None
        if fetch_row is not None:
            row_calls = FetchCalls(
                "fetch_row", fetch_row, self._machine.read_row, on_thread_only=driver.on_thread,
                at_once=options.settings.most_rows,
            )  # fmt: skip
            hint = "All rows are fetched instead; the mirror is not live until then."
            self._row_fetcher = fetcher(row_calls, on_result=self._on_row_fetched, hint=hint)
        self._verifications: MirrorFetcher[Any] | None = None
        if options.verifier is not None:
            settings = options.settings
            verifier = VerifierCalls(options.verifier, settings, self._machine.verification)
            verify_calls: FetchCalls[Any] = FetchCalls(
                "verifier", verifier.perform, verifier.read, on_thread_only=driver.on_thread
            )
            hint = "The mirror is verified again later."
            self._verifications = fetcher(verify_calls, on_result=self._on_verified, hint=hint)
        self._cache: MirrorCacheTask | None = None
        if options.cache is not None:
            self._cache = MirrorCacheTask(driver, options.cache, options.settings, self._machine, self._pump)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        """The time of the timer."""
        self._pumping = False
        self._last_state = self._machine.state
        self._waiting: set[asyncio.Future[None]] = set()
        self._iterators: dict[Registration, Any] = {}
        self._source = _MirrorEvents(driver, self._core)
        self._begin()

    # --- state

    @property
    def state(self) -> MirrorState:
        """The state of the mirror."""
        return self._machine.state

    @property
    def live(self) -> bool:
        """Whether the copy equals the table, as far as the server has reported; else it holds the last known rows."""
        return self._machine.state is MirrorState.LIVE

    @property
    def error(self) -> RealtimeError | None:
        """Why the mirror is not live, if known; None while it is live."""
        return self._machine.error

    @property
    def incomplete(self) -> frozenset[Any]:
        """The keys of the rows that `fetch_row` is fetching, in the state `refetching`; all other rows are live."""
        return frozenset(self._shown.key(row) for row in self._machine.incomplete)

    @property
    def cached_at(self) -> datetime | None:
        """When the rows were saved, if they are those of an earlier run (`cache=`); None if they are newer."""
        return None if self._cache is None or not self._machine.is_cached else self._cache.saved_at

    def stats(self) -> MirrorStats:
        """Return counters since the mirror was made."""
        counts = self._machine.counts
        verified_at = None if counts.verified_at is None else datetime.fromtimestamp(counts.verified_at, UTC)
        return MirrorStats(
            counts.changes, counts.fetches, counts.row_fetches, counts.verifications, counts.differences, verified_at
        )

    def __repr__(self) -> str:
        return f"<AsyncMirror of {self._machine.settings.table!r} {self.state}, {len(self)} rows>"

    # --- rows

    def __getitem__(self, key: Any) -> R:
        return cast("R", self._shown.row(self._machine.rows[self._machine.key.lookup(key)]))

    def __contains__(self, key: object) -> bool:
        return self._machine.key.lookup(key) in self._machine.rows

    def __len__(self) -> int:
        return len(self._machine.rows)

    def __iter__(self) -> Iterator[Any]:
        return iter([self._shown.key(row) for row in list(self._machine.rows.values())])

    def snapshot(self) -> dict[Any, R]:
        """Return all rows by key as a new dict. Raises `RowError` when a row does not fit the model."""
        return {self._shown.key(row): cast("R", self._shown.row(row)) for row in self._machine.rows.values()}

    # --- events and life cycle

    def listen(self, *, buffer: int = 1000) -> AsyncStream[MirrorEvent[R]]:
        """Return an iterator over changes of the copy: `RowInserted`, `RowUpdated`, `RowDeleted`, `Resynced`.

        If there is a copy already, it begins with a `Resynced` of all rows. Applying all events reproduces the copy.
        Events are never dropped for a slow consumer: when more than `buffer` wait, they are merged into one `Resynced`.

        Raises: InvalidArgumentError. ClosedError.
        """
        self._check()
        kept = self._buffer(buffer)
        return AsyncStream(self._add_iterator(kept), kept, self._source)

    async def ready(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until the mirror is live.

        Args: timeout: seconds; if omitted, the time of one attempt: twice the client's `timeout` for the join, the
            timeout of the fetch, and `settle`; None: no limit.
        Raises: JoinError: the server refuses the channel, or can never deliver such changes. OperationTimeout, with the
            error of the fetch as its cause; the mirror continues to try. ClosedError.
        """
        self._check()
        own = None if self._limit is None else 2 * self._driver.options.timeout + self._limit
        limit = check_timeout(timeout, None if own is None else own + self._machine.settings.settle)
        if self._core.state is ChannelState.FAILED:  # join again, and keep trying after this call has ended
            self._driver.session.join(self._topic, self._driver.now())
        bound = asyncio.timeout(limit)
        try:
            async with bound:
                while not self.live:
                    await self._driver.outcome(self._driver.session.join(self._topic, self._driver.now(), ready=True))
                    await self._wait_for_state_change()
        except TimeoutError:
            if not bound.expired():
                raise
            raise self._timeout_error() from self.error

    def refresh(self) -> None:
        """Fetch again, after something that no change reports: a TRUNCATE, or a policy that now shows or hides rows.

        Returns at once; the mirror is not live until the fetch is done. Raises: ClosedError.
        """
        self._check()
        self._machine.mark_stale("refresh")
        self._pump()

    async def close(self) -> None:
        """Stop following the table: leave the channel and end iterators; the rows stay readable.

        Returns when nothing of the mirror is left, except a plain `fetch` that is still running on its thread. A second
        call does nothing.
        """
        self._driver.check_loop()
        if self._cache is not None:
            await self._cache.finish(self._driver.now())
        if self._core.state is not ChannelState.CLOSED:
            self._driver.session.remove(self._topic, self._driver.now())
            self._driver.registry.remove_all(self._topic)
            self._driver.pump()
        await self._fetcher.ended()
        for other in (self._row_fetcher, self._verifications):
            if other is not None:
                await other.ended()

    if not TYPE_CHECKING:
        __enter__ = __exit__ = misused("this mirror is for async code", "Write `async with`, or use connect().")

    async def __aenter__(self) -> Self:
        try:
            await self.ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- internal: events of the channel

    def _begin(self) -> None:
        driver = self._driver
        self._listen()
        try:
            driver.session.join(self._topic, driver.now())
        except RealtimeError:  # too many channels are subscribed
            driver.session.remove(self._topic, driver.now())
            driver.registry.remove_all(self._topic)
            raise
        finally:
            driver.pump()
        if self._cache is not None:
            self._cache.load()

    def _listen(self) -> None:
        add, now = partial(self._driver.registry.add, self._topic), self._driver.now()
        for listener in self._machine.listeners(self._on_change):
            add(listener.selectors, listener.deliver, None, now)
        add((status(),), self._on_status, None, now)
        add((system(),), self._on_system, None, now)
        add((gaps(),), self._on_gap, None, now)

    def _on_change(self, change: Any, *, inside: bool) -> None:
        self._machine.row_changed(change, self._driver.now(), inside=inside)
        self._pump()

    def _on_system(self, message: System) -> None:
        self._machine.system_message(message)
        self._pump()

    def _on_gap(self, gap: Gap) -> None:
        self._machine.gap(gap)
        self._pump()

    def _on_status(self, status: Status) -> None:
        if status.state is ChannelState.CLOSED:
            self._machine.close(status.cause)
        elif status.ready:
            self._machine.changes_live()
        else:
            self._machine.changes_lost(status.cause)
        self._pump()
        if status.state in (ChannelState.FAILED, ChannelState.CLOSED):
            self._fail_waiters(status.cause or self._closed_error())

    # --- internal: effects of the machine

    def _pump(self) -> None:
        """Perform the effects of the machine, and set the timer; `on_error` may add effects meanwhile."""
        if self._pumping:
            return
        self._pumping = True
        effects = self._machine.effects
        try:
            while effects:
                self._perform(effects.popleft())
        finally:
            self._pumping = False
        if self._last_state is not self.state:
            self._last_state = self.state
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)
        self._arm()

    def _perform(self, effect: MirrorEffect) -> None:
        match effect:
            case Emit(event):
                self._emit(event)
            case Fetch(generation):
                if self._cache is not None:
                    self._cache.fetch_began()
                self._fetcher.begin(generation)
            case Abandon(generation):
                self._fetcher.abandon(generation)
            case FetchRow(number, key):
                assert self._row_fetcher is not None
                self._row_fetcher.begin(number, key)
            case AbandonRow(number):
                assert self._row_fetcher is not None
                self._row_fetcher.abandon(number)
            case ReportError(error):
                # group by type: the text of a fetch error may differ each time
                self._driver.reports.error(error, "handler", (id(self), type(error), type(error.__cause__)))
            case Verify() | AbandonVerification() | SaveCopy():
                self._perform_extra(effect)

    def _perform_extra(self, effect: Verify | AbandonVerification | SaveCopy) -> None:
        """Perform an effect for the verifier or the snapshot file."""
        if isinstance(effect, SaveCopy):
            assert self._cache is not None
            self._cache.save(effect.rows, whole=effect.whole)
            return
        assert self._verifications is not None
        if isinstance(effect, Verify):
            self._verifications.begin(effect.number, effect.request)
        else:
            self._verifications.abandon(effect.number)

    def _emit(self, event: MirrorEvent[Any]) -> None:
        for registration, buffer in list(self._iterators.items()):
            if self._driver.registry.is_registered(registration):
                buffer.put(event)
            else:
                del self._iterators[registration]

    def _arm(self) -> None:
        deadline = self._machine.next_deadline
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = deadline
        if deadline is not None:
            self._timer = self._driver.clock.call_at(deadline, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        now = self._driver.now()
        self._timer = self._timer_at = None
        try:
            self._machine.tick(Instant(max(now.mono, deadline), now.wall))
            self._pump()
        except Exception as bug:  # noqa: BLE001  our own bug: it ends the client
            self._driver.fail(bug)

    def _on_fetched(self, generation: int, answer: Rows | RealtimeError) -> None:
        now = self._driver.now()
        if isinstance(answer, RealtimeError):
            self._machine.failed(generation, answer, now)
        else:
            self._machine.fetched(generation, answer, now)
        self._pump()

    def _on_row_fetched(self, number: int, answer: Row | None | RealtimeError) -> None:
        if isinstance(answer, RealtimeError):
            self._machine.row_failed(number, answer)
        else:
            self._machine.row_fetched(number, answer, self._driver.now())
        self._pump()

    def _on_verified(self, number: int, answer: Any) -> None:
        now = self._driver.now()
        if isinstance(answer, RealtimeError):
            self._machine.verification_failed(number, answer, now)
        else:
            self._machine.verified(number, answer, now)
        self._pump()

    # --- internal: iterators and waiting callers

    def _add_iterator(self, kept: Any) -> Registration:
        registration = self._driver.registry.add(self._topic, (), kept.put, kept, self._driver.now())
        if self._machine.has_copy:
            kept.put(Resynced("begin", {}, self._emitted_rows(), self._shown))
        self._iterators[registration] = kept
        return registration

    def _buffer(self, limit: int) -> MergingBuffer:
        return MergingBuffer(check_count("buffer", limit), self._merge)

    def _merge(self, events: list[MirrorEvent[Any]]) -> MirrorEvent[Any]:
        rows = self._emitted_rows()
        return Resynced("merged", rewound(rows, events, self._machine.key.of), rows, self._shown)

    def _emitted_rows(self) -> Rows:
        """Return the rows without the changes whose events are not emitted yet; one input may cause several events."""
        pending = [effect.event for effect in self._machine.effects if isinstance(effect, Emit)]
        return rewound(self._machine.rows, pending, self._machine.key.of)

    async def _wait_for_state_change(self) -> None:
        """Wait until the state changes, unless the mirror is live. Raises if it cannot become live."""
        if self.live:
            return
        waiter: asyncio.Future[None] = self._driver.loop.create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _fail_waiters(self, error: RealtimeError) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(again(error))

    def _timeout_error(self) -> OperationTimeout:
        because = f": {self.error.message}" if self.error is not None else ""
        return OperationTimeout(
            f"the mirror was not live within the timeout; it is {self.state}{because}", topic=self._core.name
        )

    def _check(self) -> None:
        self._driver.check_loop()
        if self._core.state is ChannelState.CLOSED:
            raise again(self._closed_error())

    def _closed_error(self) -> RealtimeError:
        return self._driver.error or ClosedError("the mirror or its client was closed", topic=self._core.name)


class _MirrorEvents:
    """The source of the events of a mirror's iterators; a `Source`."""

    def __init__(self, driver: Driver, core: CoreChannel) -> None:
        self._driver = driver
        self._keeps = driver.registry.client()
        self._core = core

    def can_continue(self) -> bool:
        """Return whether the mirror is open. Raises if the client has ended or the channel has failed permanently."""
        driver, core = self._driver, self._core
        driver.check_loop()
        if core.state is ChannelState.FAILED and core.error is not None:
            raise again(core.error)
        if core.state is ChannelState.CLOSED and driver.error is not None:
            raise again(driver.error)
        if core.permanent_error is not None:
            raise again(core.permanent_error)
        return core.state is not ChannelState.CLOSED

    async def begin(self) -> None:
        """Do nothing: the mirror has started already."""

    def end(self) -> None:
        """Do nothing: the mirror does not depend on its iterators."""
