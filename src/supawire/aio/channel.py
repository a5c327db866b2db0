"""A channel of the async client: checks arguments, calls the core and awaits the ticket that it returns."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Never, Self, TypeVar, cast, overload

from msgspec.structs import replace

from supawire._other_clients import (
    WithoutOtherNames,
    explain_names,
    is_listener,
    takes_misuse,
    wrong_listener,
    wrong_subscribe,
)
from supawire._validation import misused
from supawire.aio.buffers import Key, Overflow, make_buffer
from supawire.aio.driver import Driver
from supawire.aio.handlers import Subscription
from supawire.aio.history import (
    AsyncHistory,
    AsyncMessageStream,
    Commit,
    From,
    Start,
    read_history,
    read_stream_options,
    wanted_of,
)
from supawire.aio.live_streams import AsyncStreams, AsyncStreamWriter, Source, StreamResult, StreamStore, send_all
from supawire.aio.stream import AsyncStream
from supawire.aio.subscriptions import is_of_changes
from supawire.aio.throttled import AsyncThrottledSender
from supawire.core.channel import CoreChannel
from supawire.core.effects import Ticket
from supawire.core.live_streams import SEGMENT_EVENT, StreamKind
from supawire.core.outbox import OutgoingBroadcast
from supawire.cursors import Cursor
from supawire.errors import ClosedError, InvalidArgumentError, RealtimeError, StateError, again
from supawire.events import Broadcast, ChannelState, ChannelStats, Instant, PresenceState, Sent
from supawire.options import (
    DEFAULT,
    ChannelOptions,
    Default,
    Secret,
    Timeout,
    check_bool,
    check_choice,
    check_event,
    check_json,
    check_key,
    check_persist,
    check_timeout,
    check_token,
)
from supawire.selectors import Selector, broadcast, check_selector, status

if TYPE_CHECKING:
    from supawire.telemetry.recorder import ClientTelemetry

SOCKET: Final = Sent("socket")


@dataclass(frozen=True, slots=True)
class AsyncQueuedSent(Sent):
    """A broadcast queued until the channel is joined (`offline="queue"`); its failure also reaches `on_error`."""

    _outcome: "asyncio.Future[Sent] | None" = field(default=None, repr=False, compare=False)

    async def wait(self) -> Sent:
        """Wait until it is sent (with ack: confirmed), and return the result. Raises the error if it was not sent."""
        assert self._outcome is not None
        return await asyncio.shield(self._outcome)


E = TypeVar("E")
E1 = TypeVar("E1")
E2 = TypeVar("E2")
E3 = TypeVar("E3")
E4 = TypeVar("E4")
E5 = TypeVar("E5")
T = TypeVar("T")

Wait = Literal["joined", "ready"]


@explain_names("channel")
class AsyncChannel(metaclass=WithoutOtherNames):
    """One topic, made by `client.channel(...)`. `async with` subscribes on entry and unsubscribes on exit."""

    def __init__(self, driver: Driver, topic: str, options: ChannelOptions) -> None:
        self._driver = driver
        self._keeps = driver.registry.client()
        self._core = driver.session.channel(topic, options)
        self._topic = topic

    # --- state

    @property
    def topic(self) -> str:
        """The topic without `realtime:` in front."""
        return self._core.name

    @property
    def state(self) -> ChannelState:
        """The state of the channel."""
        return self._core.state

    @property
    def options(self) -> ChannelOptions:
        """The options with which the channel was made."""
        return self._core.options

    @property
    def error(self) -> RealtimeError | None:
        """Why the channel is not joined; None while it is joined or not subscribed."""
        return self._core.error

    def stats(self) -> ChannelStats:
        """Return counters since the channel was made, and its state. Any thread may call it."""
        return self._driver.channel_stats(self._core)

    def __repr__(self) -> str:
        return f"<AsyncChannel {self.topic!r} {self.state}>"

    # --- listening

    @overload
    def on(
        self, selector: Selector[E], handler: Callable[[E], object], *,
        thread: bool = False, buffer: int = 1000, overflow: Overflow = "error",
    ) -> Subscription: ...  # fmt: skip
    @overload
    def on(
        self, selector: Selector[E], *,
        thread: bool = False, buffer: int = 1000, overflow: Overflow = "error",
    ) -> Callable[[Callable[[E], T]], Callable[[E], T]]: ...  # fmt: skip
    @takes_misuse
    def on(
        self,
        selector: Selector[Any],
        handler: Callable[[Any], Any] | Default = DEFAULT,
        *misplaced: object,
        thread: bool = False,
        buffer: int = 1000,
        overflow: Overflow = "error",
        **misnamed: object,
    ) -> Subscription | Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
        """Call a handler with each event. Without a handler, return a decorator that returns the function unchanged.

        Args:
            handler: plain or `async`, called with one event. A plain one runs on the event loop and must be quick; an
                async one is called one event after another, in a task of its own.
            thread: run a plain handler on the dispatch thread, where it may block.
            buffer, overflow: how many events may wait for an async or threaded handler, and what happens to further
                ones: "error" drops the newest and calls `on_error` once per episode, "drop_oldest", "drop_newest",
                    "pause".

        Add listeners before `subscribe()`: listeners for changes, and the first one for presence, need a new join when
        they are added to a joined channel; the client does that by itself and reports it as a `Gap`.

        Raises: InvalidArgumentError: the handler cannot be called with one event, or the selector is not a selector.
        """
        if misplaced or misnamed or is_listener(selector):
            raise wrong_listener(selector, handler, misplaced, misnamed)
        self._check_selectors((selector,))

        def register(function: Callable[[Any], Any]) -> Subscription:
            subscription = self._driver.handlers.subscribe(
                self._topic, selector, function, thread=thread, buffer=buffer, overflow=overflow
            )
            self._driver.pump()
            return subscription

        if handler is not DEFAULT:
            return register(handler)

        def decorate(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            register(function)
            return function

        return decorate

    @overload
    def listen(
        self, one: Selector[Broadcast[E]], /, *more: Selector[Broadcast[E]], from_: From, cursor_name: str | None = ...,
        start: Start = ..., commit: Commit = ..., save_every: int = ..., strict: bool = ..., settle: float = ...,
        poll: float = ..., page: int = ..., buffer: int = ...,
    ) -> AsyncMessageStream[E]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1], Any] | None = ...,
    ) -> AsyncStream[E1]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], two: Selector[E2], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1 | E2], Any] | None = ...,
    ) -> AsyncStream[E1 | E2]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], two: Selector[E2], three: Selector[E3], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1 | E2 | E3], Any] | None = ...,
    ) -> AsyncStream[E1 | E2 | E3]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], two: Selector[E2], three: Selector[E3], four: Selector[E4], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1 | E2 | E3 | E4], Any] | None = ...,
    ) -> AsyncStream[E1 | E2 | E3 | E4]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], two: Selector[E2], three: Selector[E3], four: Selector[E4], five: Selector[E5], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1 | E2 | E3 | E4 | E5], Any] | None = ...,
    ) -> AsyncStream[E1 | E2 | E3 | E4 | E5]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[Any], two: Selector[Any], three: Selector[Any], four: Selector[Any], five: Selector[Any],
        six: Selector[Any], /, *more: Selector[Any], buffer: int = ..., overflow: Overflow = ..., key: Key | None = ...,
    ) -> AsyncStream[Any]: ...  # fmt: skip
    def listen(
        self,
        *selectors: Selector[Any],
        buffer: int = 1000,
        overflow: Overflow = "error",
        key: Key | None = None,
        from_: From | None = None,
        cursor_name: str | None = None,
        start: Start = "oldest",
        commit: Commit = "auto",
        save_every: int = 1,
        strict: bool = False,
        settle: float = 5.0,
        poll: float = 30.0,
        page: int = 500,
    ) -> AsyncStream[Any] | AsyncMessageStream[Any]:
        """Return an iterator over the events of all selectors, registered immediately; see `AsyncStream`.

        With `from_` it begins with the stored messages after that position, then come live ones; see
        `AsyncMessageStream`. This is for broadcasts of private channels.

        Args:
            buffer: the most events that may wait for the consumer.
            overflow: what happens to further events. "error": the iterator raises `SlowConsumerError` after the waiting
                events, then continues. "drop_oldest", "drop_newest". "latest": keep the newest event per `key(event)`.
                "pause": stop reading the socket, for at most one heartbeat interval and never while a request waits for
                its reply; then "error".
            from_: where to begin: a `Cursor`, a store of cursors, a time as aware datetime or Unix seconds.
            cursor_name: the name of the cursor in the store; if omitted, the topic. start: where to begin if the store
                has no such cursor: at the "oldest" stored message or with the "newest".
            commit: "auto": a message is handled when the next one is asked for; "manual": by calling `commit()`.
                save_every: save the cursor after how many messages, and before waiting for one.
            strict: deliver no message before it is `settle` seconds old, so that none comes behind a newer one.
                settle: seconds after which a stored message is visible, at most; see the page about history.
            poll: the most seconds between two reads of the table. page: the most messages of one read.

        Raises: InvalidArgumentError: no selector, or arguments that do not fit together.
        """
        self._check_selectors(selectors)
        if from_ is not None:
            return self._resume(
                selectors, overflow, key, from_, cursor_name=cursor_name, start=start, commit=commit,
                save_every=save_every, strict=strict, settle=settle, poll=poll, page=page, buffer=buffer,
            )  # fmt: skip
        kept = make_buffer(buffer, overflow, key, self._driver.pauses.overflow_pause)
        registry, telemetry = self._driver.registry, self._driver.telemetry
        put = kept.put if telemetry is None else telemetry.listener(kept.put)
        registration = registry.add(self._topic, selectors, put, kept, self._driver.now())
        self._driver.pump()
        return AsyncStream(registration, kept, self._events(selectors))

    def _resume(
        self, selectors: tuple[Selector[Any], ...], overflow: str, key: Key | None, from_: object, **options: Any
    ) -> AsyncMessageStream[Any]:
        if overflow != "error" or key is not None:
            raise InvalidArgumentError("overflow= and key= cannot be combined with from_=, which drops no message")
        if not self.options.private:
            raise InvalidArgumentError(
                "from_= requires private=True: the server stores messages of private topics only", topic=self.topic
            )
        checked = read_stream_options(self.topic, from_, **options)
        wanted = wanted_of(selectors)
        driver = self._driver
        return AsyncMessageStream(
            driver, self._core, self._events(selectors), driver.options.history, wanted, selectors, checked
        )

    @overload
    def history(
        self, *, since: Cursor | datetime | float | None = ..., limit: int | None = ..., page: int = ...
    ) -> AsyncHistory[Any]: ...
    @overload
    def history(
        self, one: Selector[Broadcast[E]], /, *more: Selector[Broadcast[E]],
        since: Cursor | datetime | float | None = ..., limit: int | None = ..., page: int = ...,
    ) -> AsyncHistory[E]: ...  # fmt: skip
    def history(
        self,
        *selectors: Selector[Any],
        since: Cursor | datetime | float | None = None,
        limit: int | None = None,
        page: int = 500,
    ) -> AsyncHistory[Any]:
        """Return an iterator over the stored messages of this topic, oldest first, as `StoredBroadcast`.

        It ends with the messages that are stored now. The channel need not be subscribed, and must be private. Pages
        are read as the iteration goes on. After a cursor that is older than the messages that are kept, it begins with
        a `Gap`.

        Args:
            selectors: broadcasts with these event names, all if omitted. since: the first time, as aware datetime or
                Unix seconds, or the cursor of the message before the first; if omitted, the oldest stored message.
            limit: the most messages; None: all. page: the most messages of one read.

        Raises: InvalidArgumentError. StateError: the client was opened without history=. Reading raises what it raises.
        """
        self._check()
        if not self.options.private:
            raise InvalidArgumentError(
                "history() requires private=True: the server stores messages of private topics only", topic=self.topic
            )
        driver = self._driver
        return read_history(driver, self.topic, driver.options.history, selectors, since=since, limit=limit, page=page)

    # --- joining and leaving

    @takes_misuse
    async def subscribe(self, *misplaced: Never, wait: Wait = "joined", timeout: Timeout = DEFAULT) -> None:
        """Join, and stay joined through reconnects until `unsubscribe`.

        Returns when joined; with `wait="ready"`, or the channel's option `wait`, when the server has also confirmed
        that changes or database broadcasts are live. Temporary refusals are retried.

        Args: timeout: seconds; if omitted, twice the client's `timeout`, or longer with the channel's option `wait`,
            not counting time behind pacing and behind the joins of other channels; None: no limit.
        Raises: JoinDeniedError and other `JoinError`: refused permanently. OperationTimeout: before the join it
            withdraws the request to join, as a cancellation does. RateLimitedError: too many channels are subscribed.
            ClosedError.
        Wire: docs/protocol.md, Join.
        """
        if misplaced:
            raise wrong_subscribe()
        ready = check_choice("wait", wait, ("joined", "ready")) == "ready"
        ready = ready or self.options.wait_seconds is not None
        await self._join(timeout, ready=ready)

    async def ready(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until the server confirms that changes or database broadcasts are live, if the channel has any.

        Args: timeout: as for `subscribe`.
        Raises: JoinError: they can never become live, for example because of a bad filter. StateError: the channel is
            not subscribed. OperationTimeout: the channel stays joined.
        Wire: docs/protocol.md, System messages.
        """
        self._check()
        if not self._core.wanted:
            raise again(self._core.error or StateError("the channel is not subscribed", topic=self.topic))
        await self._join(timeout, ready=True)

    async def _join(self, timeout: Timeout, *, ready: bool) -> None:
        now = self._begin_call()
        limit = check_timeout(timeout, max(2 * self._driver.options.timeout, self._core.membership.reply_delay))
        ticket = self._driver.session.join(
            self._topic, now, ready=ready, timeout=limit, ignore_queue_time=timeout is DEFAULT
        )
        await self._driver.outcome(ticket)

    async def unsubscribe(self, timeout: Timeout = DEFAULT) -> None:
        """Leave; returns when the server has confirmed, or after the timeout. The channel can be subscribed again.

        Unsent messages fail with `StateError`, iterators end, handlers stay registered. A second call does nothing.
        Args: timeout: seconds; if omitted, the client's; None: as long as the connection lives.
        Wire: docs/protocol.md, Leave and close.
        """
        self._driver.check_loop()
        bound = check_timeout(timeout, self._driver.options.timeout)
        if self._core.state is ChannelState.CLOSED:
            return
        ticket = self._driver.session.leave(self._topic, float("inf") if bound is None else bound, self._driver.now())
        await self._driver.outcome(ticket)

    # --- sending

    async def broadcast(
        self,
        event: str,
        payload: Any,
        *,
        ack: bool | None = None,
        persist: bool | int = False,
        latest: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Sent:
        """Send one message to all listeners of this channel.

        Returns when the message was written to the network; with ack, when the server has confirmed it. While the
        channel is not joined, the client's `offline` option applies; with "queue" the result has the class
        `AsyncQueuedSent`.

        Args:
            event: at most 255 bytes of UTF-8. payload: any JSON value, or `bytes` (not with protocol 1.0.0).
            ack: if omitted, the channel's option. persist: store the message, so that it can be replayed and read by
                `history`: True for 72 hours, or for how many seconds. `Sent.id` is its id. Only with private=True and
                ack=True; when the server does not store it, PushError is raised. latest: a key, such as "cursor:alice".
                While the message waits for the rate limit or the join, a newer one with this key takes its place, and
                this call returns `Sent` with via="replaced".
            timeout: seconds for pacing and the ack together; if omitted, the client's for each, not counting time
                behind unanswered joins; None: no limit.
        Raises: StateError: not joined, and offline="raise". PayloadTooLargeError. RateLimitedError: pacing delayed it
            beyond the timeout. ConnectionLostError: `maybe_sent` is True when it may have arrived. PushError: refused.
            OperationTimeout.
        Wire: docs/protocol.md, Broadcast, Acknowledgement.
        """
        driver = self._driver
        now = self._begin_call()
        json = not isinstance(payload, bytes | bytearray | memoryview)
        message = OutgoingBroadcast(
            check_event(event),
            check_json(payload) if json else bytes(cast("bytes", payload)),
            json,
            self._core.options.ack if ack is None else check_bool("ack", ack),
            driver.options.timeout if timeout is DEFAULT else check_timeout(timeout, None),
            ignore_queue_time=timeout is DEFAULT,
            persist=check_persist(persist),
            latest=None if latest is None else check_key("latest", latest),
        )
        if driver.telemetry is not None:
            return await self._send_traced(message, now, driver.telemetry)
        ticket = driver.session.broadcast(self._topic, message, now)
        if ticket is None:
            frame = driver.hand_over()
            if frame is not None:
                await driver.written(*frame, message.timeout)
            return SOCKET
        if driver.options.offline == "queue" and self._core.state is not ChannelState.JOINED:
            return self._queued(ticket)
        return await driver.outcome(ticket)

    async def _send_traced(self, message: OutgoingBroadcast, now: Instant, telemetry: "ClientTelemetry") -> Sent:
        """Send like `broadcast`, with a span if the message waits for its confirmation or carries the trace context."""
        driver = self._driver
        operation = telemetry.send(self.topic, len(message.payload), confirmed=message.ack)
        error: BaseException | None = None
        try:
            if operation is not None and message.json and not message.persist:
                message = replace(message, traceparent=operation.traceparent)
            ticket = driver.session.broadcast(self._topic, message, now)
            if ticket is not None:
                if driver.options.offline == "queue" and self._core.state is not ChannelState.JOINED:
                    return self._queued(ticket)
                return await driver.outcome(ticket)
            frame = driver.hand_over()
            if frame is not None:
                await driver.written(*frame, message.timeout)
            return SOCKET  # noqa: TRY300  the end of the span is the same
        except BaseException as raised:
            error = raised
            raise
        finally:
            if operation is not None:
                operation.end(error)

    def _queued(self, ticket: Ticket) -> AsyncQueuedSent:
        outcome = self._driver.promise(ticket)

        def report_failure(done: "asyncio.Future[Any]") -> None:
            error = None if done.cancelled() else done.exception()
            if isinstance(error, Exception):
                self._driver.reports.error(error, "channel")

        outcome.add_done_callback(report_failure)
        return AsyncQueuedSent("queue", _outcome=outcome)

    def throttled(self, per_second: float, *, max_keys: int = 1000) -> AsyncThrottledSender:
        """Return a sender of the newest values, such as positions or measurements, for a limited number of messages.

            async with channel.throttled(20) as cursors:
                cursors.send("cursor", {"x": 1, "y": 2}, key="alice")

        Of the values with one key, the first is sent at once; while the rate is used up, the newest replaces those that
        wait, and the last one is always sent. Keys take turns.

        Args: per_second: messages a second of this sender in all, evenly spaced. max_keys: at most so many keys wait.
        """
        return AsyncThrottledSender(self._driver, self._core, per_second, max_keys)

    # --- live streams

    @overload
    def stream(
        self, source: None = None, *, id: str | None = ..., kind: StreamKind | None = ...,
        info: dict[str, Any] | None = ..., rate: float = ..., history: int = ..., keep: float = ...,
        controls: bool = ..., store: StreamStore | None = ..., timeout: Timeout = ...,
    ) -> AsyncStreamWriter: ...  # fmt: skip
    @overload
    def stream(
        self, source: Source, *, id: str | None = ..., kind: StreamKind | None = ...,
        info: dict[str, Any] | None = ..., rate: float = ..., history: int = ..., keep: float = ...,
        controls: bool = ..., store: StreamStore | None = ..., timeout: Timeout = ...,
    ) -> Coroutine[Any, Any, StreamResult]: ...  # fmt: skip
    def stream(
        self, source: Source | None = None, *, id: str | None = None, kind: StreamKind | None = None,
        info: dict[str, Any] | None = None, rate: float = 15.0, history: int = 1_048_576, keep: float = 60.0,
        controls: bool = True, store: StreamStore | None = None, timeout: Timeout = DEFAULT,
    ) -> AsyncStreamWriter | Coroutine[Any, Any, StreamResult]:  # fmt: skip
        """Send text, bytes or JSON values that grow, such as the answer of a model, in few messages.

            result = await channel.stream(answer)  # any iterable of parts, plain or async
            async with channel.stream(info={"model": "m"}) as out:
                await out.write("…")

        The first part is sent at once, later ones are merged to `rate` messages a second. Readers who come late or miss
        a part get it from here, for `keep` seconds after the end. An exception in the block ends the stream as
        "failed", a cancellation as "cancelled".

        Args:
            source: the parts, as a plain or async iterable; or one text or `bytes`.
            id: the name by which readers find it, at most 128 characters; a random one if omitted.
            kind: "text", "bytes" or "json"; if omitted, the first part decides. info: a JSON object for readers.
            rate: messages a second, at most. history: bytes that are kept for late readers, the newest.
            keep: seconds after the end for which late readers are answered, while the channel is subscribed.
            controls: whether readers may cancel and steer it. store: keeps the stream for readers who come when this
                client is gone; saved once a second and at the end. timeout: seconds until the end must be confirmed;
                if omitted, three times the client's; None: no limit.
        Raises: StateError: the channel is not subscribed (on entry). StreamError: from `write`, when a reader has
            cancelled it; the block suppresses it. OperationTimeout: the end was not confirmed.
        """
        self._check()
        writer = AsyncStreamWriter(
            self._driver, self._core, id=id, kind=kind, info=info, rate=rate, history=history, keep=keep,
            controls=controls, store=store, timeout=timeout,
        )  # fmt: skip
        return writer if source is None else send_all(writer, source)

    def streams(
        self, id: str | None = None, *, most: int = 16_777_216, idle: float = 15.0, start_timeout: float | None = 30.0,
        store: StreamStore | None = None,
    ) -> AsyncStreams:  # fmt: skip
        """Return an iterator over the streams of this channel: those that run, and each that begins later.

        What was sent before is requested from the producers when the channel is joined, and again after each reconnect.

        Args:
            id: only the stream with this id, also one that begins later. most: bytes of one stream that are accepted.
            idle: seconds without a message after which its producer is asked whether it is still there.
            start_timeout: with `id`, seconds until a producer must answer; None: no limit. store: where streams are
                looked up whose producer does not answer.
        Raises: InvalidArgumentError. ClosedError.
        """
        events = self.listen(broadcast(SEGMENT_EVENT), status(), buffer=10_000)
        return AsyncStreams(
            self._driver, self._core, events, id, most=most, idle=idle, start_timeout=start_timeout, store=store
        )

    # --- presence

    async def track(self, payload: Any, *, timeout: Timeout = DEFAULT) -> None:
        """Announce presence with this payload until `untrack`; it is sent again after every rejoin.

        When joined, it returns once the server has confirmed this payload or a newer one; when not joined, at once, and
        the payload is sent at the join. The server closes a channel at the sixth call in 30 s, so calls are merged
        and delayed here.

        Args: payload: a JSON object. timeout: seconds; if omitted, the client's; None: no limit.
        Raises: PushError: refused. RateLimitedError: the rate limit delays it beyond the timeout. OperationTimeout,
            ConnectionLostError. After these three the payload stays set and is sent later.
        Wire: docs/protocol.md, Presence.
        """
        encoded = check_json(payload)
        if not encoded.startswith(b"{"):
            raise InvalidArgumentError(f"the presence payload must be a JSON object, not {payload!r}")
        await self._track(encoded, timeout)

    async def untrack(self, *, timeout: Timeout = DEFAULT) -> None:
        """End the presence announced by `track`."""
        await self._track(None, timeout)

    async def _track(self, payload: bytes | None, timeout: Timeout) -> None:
        now = self._begin_call()
        limit = check_timeout(timeout, self._driver.options.timeout)
        ticket = self._driver.session.track(self._topic, payload, limit, now)
        await self._driver.outcome(ticket)

    def presence_state(self) -> PresenceState:
        """Return an immutable snapshot of everyone present, by presence key."""
        self._check()
        return self._driver.session.presence_state(self._topic)

    # --- token

    async def set_auth(self, token: str | Secret | None) -> None:
        """Set a token for this channel alone; None: use the client's token again.

        A channel that failed with the old token joins again. A token provider overrides it at the next refresh.
        Raises: InvalidArgumentError: the value cannot be a token.
        Wire: docs/protocol.md, Token refresh.
        """
        self._check()
        secret = None if token is None else check_token("token", token)
        self._driver.session.set_channel_token(self._topic, secret, self._driver.now())
        self._driver.pump()

    # --- as a context manager

    if not TYPE_CHECKING:
        __enter__ = __exit__ = misused("this channel is for async code", "Write `async with`, or use connect().")

    async def __aenter__(self) -> Self:
        await self.subscribe()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.unsubscribe()

    def _events(self, selectors: tuple[Selector[Any], ...]) -> "_ChannelEvents":
        return _ChannelEvents(self._driver, self._core, self.subscribe, selectors)

    def _check(self) -> None:
        """Raise outside of the client's event loop, and after the channel was closed."""
        self._driver.check_loop()
        if self._core.state is ChannelState.CLOSED:
            raise self._closed_error()

    def _begin_call(self) -> Instant:
        """Return the current time. Raise as `_check` does, and while the client is draining."""
        now = self._driver.begin_call()
        if self._core.state is ChannelState.CLOSED:
            raise self._closed_error()
        return now

    def _closed_error(self) -> RealtimeError:
        return again(self._driver.error or ClosedError("the channel or its client was closed", topic=self.topic))

    def _check_selectors(self, selectors: tuple[object, ...]) -> None:
        self._check()
        if not selectors:
            raise InvalidArgumentError("listen() needs a selector, such as broadcast('typing') or changes('users')")
        for selector in selectors:
            check_selector(selector)


class _ChannelEvents:
    """The source of the events of a channel's iterator; a `Source`."""

    __slots__ = ("_begin", "_core", "_driver", "_join", "_raised", "_selectors")

    def __init__(
        self,
        driver: Driver,
        core: CoreChannel,
        begin: Callable[[], Awaitable[None]],
        selectors: tuple[Selector[Any], ...],
    ) -> None:
        self._driver = driver
        self._core = core
        self._begin = begin
        self._selectors = selectors
        self._raised: RealtimeError | None = None
        """The error about missing changes that was already raised."""
        self._join: Ticket | None = None

    def can_continue(self) -> bool | None:
        """Return None before the channel is subscribed, and False after it was left or closed.

        Raises the error of a channel that has failed, or whose changes can never become live.
        """
        driver, core = self._driver, self._core
        driver.check_loop()
        if not core.begun and not core.wanted and core.state is not ChannelState.CLOSED:
            return None
        if core.state is ChannelState.FAILED and core.error is not None:
            raise again(core.error)
        if core.state is ChannelState.CLOSED and driver.error is not None:
            raise again(driver.error)
        if (error := core.permanent_error) is not None:
            self._raise_permanent(error)
        return core.wanted and core.state is not ChannelState.CLOSED

    def _raise_permanent(self, error: RealtimeError) -> None:
        """Raise why changes will not arrive: once if the iterator also has other events, else each time."""
        wanted = [is_of_changes(selector) for selector in self._selectors]
        if all(wanted) or (any(wanted) and error is not self._raised):
            self._raised = error
            raise again(error)

    async def begin(self) -> None:
        """Join a channel that is not subscribed, and wait; the join continues if this wait is cancelled."""
        driver = self._driver
        self._join = driver.session.join(self._core.topic, driver.begin_call())
        await self._begin()

    def end(self) -> None:
        """Withdraw the request to join if the channel is not joined yet and no other caller waits for it."""
        join, self._join = self._join, None
        if join is not None:
            self._driver.session.cancel(join, self._driver.now())
            self._driver.pump()
