"""A channel of the sync client: each call runs the async channel's method on the I/O thread."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar, overload

from supawire._other_clients import (
    WithoutOtherNames,
    explain_names,
    is_listener,
    takes_misuse,
    wrong_listener,
    wrong_subscribe,
)
from supawire._validation import misused
from supawire.aio.buffers import Key, Overflow
from supawire.aio.channel import AsyncQueuedSent, Wait
from supawire.aio.handlers import Subscription
from supawire.aio.history import Commit, From, Start
from supawire.aio.live_streams import StreamKind, StreamResult, StreamStore
from supawire.cursors import Cursor
from supawire.errors import RealtimeError
from supawire.events import Broadcast, ChannelState, ChannelStats, PresenceState, Sent
from supawire.options import DEFAULT, ChannelOptions, Default, Secret, Timeout
from supawire.selectors import Selector
from supawire.sync._async import ThreadedAsyncChannel
from supawire.sync.history import History, MessageStream
from supawire.sync.live_streams import Streams, StreamWriter, send_all
from supawire.sync.portal import Portal
from supawire.sync.stream import Stream
from supawire.sync.throttled import ThrottledSender


class ThreadSubscription(Subscription):
    """A `Subscription` of the sync client."""

    def __init__(self, portal: Portal, made: Subscription) -> None:
        self._portal = portal
        self._made = made

    def __repr__(self) -> str:
        return repr(self._made)

    def cancel(self) -> None:
        """Stop calling the handler, also for waiting events. A running call is not interrupted."""
        self._portal.run(self._made.cancel)

    @property
    def dropped(self) -> int:
        """How many events were dropped because the buffer of the handler was full."""
        return self._made.dropped


@dataclass(frozen=True, slots=True)
class QueuedSent(Sent):
    """A broadcast queued until the channel is joined (`offline="queue"`); its failure also reaches `on_error`."""

    _portal: Portal | None = field(default=None, repr=False, compare=False)
    _sent: AsyncQueuedSent | None = field(default=None, repr=False, compare=False)

    def wait(self) -> Sent:
        """Wait until it is sent (with ack: confirmed), and return the result. Raises the error if it was not sent."""
        assert self._portal is not None
        assert self._sent is not None
        return self._portal.call(self._sent.wait)


E = TypeVar("E")
E1 = TypeVar("E1")
E2 = TypeVar("E2")
E3 = TypeVar("E3")
E4 = TypeVar("E4")
E5 = TypeVar("E5")
T = TypeVar("T")


@explain_names("channel", sync=True)
class Channel(metaclass=WithoutOtherNames):
    """One topic, made by `client.channel(...)`. `with` subscribes on entry and unsubscribes on exit."""

    def __init__(self, portal: Portal, channel: ThreadedAsyncChannel) -> None:
        self._portal = portal
        self._async = channel

    # --- state

    @property
    def topic(self) -> str:
        """The topic without `realtime:` in front."""
        return self._async.topic

    @property
    def state(self) -> ChannelState:
        """The state of the channel."""
        return self._async.state

    @property
    def options(self) -> ChannelOptions:
        """The options with which the channel was made."""
        return self._async.options

    @property
    def error(self) -> RealtimeError | None:
        """Why the channel is not joined; None while it is joined or not subscribed."""
        return self._async.error

    def stats(self) -> ChannelStats:
        """Return counters since the channel was made, and its state. Any thread may call it."""
        self._portal.check()
        return self._async.stats()

    def __repr__(self) -> str:
        return f"<Channel {self.topic!r} {self.state}>"

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
            handler: plain or `async`, called on the client's dispatch thread, one event after another. A plain one that
                blocks delays only the other handlers of this client.
            thread: no effect here, because every handler runs on the dispatch thread; for parity with the async client.
            buffer, overflow: how many events may wait for the handler, and what happens to further ones: "error" drops
                the newest and calls `on_error` once per episode, "drop_oldest", "drop_newest", "pause".

        Add listeners before `subscribe()`: listeners for changes, and the first one for presence, need a new join when
        they are added to a joined channel; the client does that by itself and reports it as a `Gap`.

        Raises: InvalidArgumentError: the handler cannot be called with one event, or the selector is not a selector.
        """
        if misplaced or misnamed or is_listener(selector):
            raise wrong_listener(selector, handler, misplaced, misnamed)
        if handler is not DEFAULT:
            made = self._portal.run(self._async.on, selector, handler, thread=thread, buffer=buffer, overflow=overflow)
            return ThreadSubscription(self._portal, made)
        register = self._portal.run(self._async.on, selector, thread=thread, buffer=buffer, overflow=overflow)

        def decorate(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            return self._portal.run(register, function)

        return decorate

    @overload
    def listen(
        self, one: Selector[Broadcast[E]], /, *more: Selector[Broadcast[E]], from_: From, cursor_name: str | None = ...,
        start: Start = ..., commit: Commit = ..., save_every: int = ..., strict: bool = ..., settle: float = ...,
        poll: float = ..., page: int = ..., buffer: int = ...,
    ) -> MessageStream[E]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1], Any] | None = ...,
    ) -> Stream[E1]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], two: Selector[E2], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1 | E2], Any] | None = ...,
    ) -> Stream[E1 | E2]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], two: Selector[E2], three: Selector[E3], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1 | E2 | E3], Any] | None = ...,
    ) -> Stream[E1 | E2 | E3]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], two: Selector[E2], three: Selector[E3], four: Selector[E4], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1 | E2 | E3 | E4], Any] | None = ...,
    ) -> Stream[E1 | E2 | E3 | E4]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[E1], two: Selector[E2], three: Selector[E3], four: Selector[E4], five: Selector[E5], /, *,
        buffer: int = ..., overflow: Overflow = ..., key: Callable[[E1 | E2 | E3 | E4 | E5], Any] | None = ...,
    ) -> Stream[E1 | E2 | E3 | E4 | E5]: ...  # fmt: skip
    @overload
    def listen(
        self, one: Selector[Any], two: Selector[Any], three: Selector[Any], four: Selector[Any], five: Selector[Any],
        six: Selector[Any], /, *more: Selector[Any], buffer: int = ..., overflow: Overflow = ..., key: Key | None = ...,
    ) -> Stream[Any]: ...  # fmt: skip
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
    ) -> Stream[Any] | MessageStream[Any]:
        """Return an iterator over the events of all selectors, registered immediately; see `Stream`.

        With `from_` it begins with the stored messages after that position, then come live ones; see
        `MessageStream`. This is for broadcasts of private channels.

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
        if from_ is not None:
            made = self._portal.run(
                self._async.resume_on_thread, selectors, overflow, key, from_, cursor_name=cursor_name, start=start,
                commit=commit, save_every=save_every, strict=strict, settle=settle, poll=poll, page=page,
                buffer=buffer,
            )  # fmt: skip
            return MessageStream(self._portal, made)
        parts = self._portal.run(self._async.listen_on_thread, selectors, buffer, overflow, key)
        return Stream(self._portal, *parts)

    @overload
    def history(
        self, *, since: Cursor | datetime | float | None = ..., limit: int | None = ..., page: int = ...
    ) -> History[Any]: ...
    @overload
    def history(
        self, one: Selector[Broadcast[E]], /, *more: Selector[Broadcast[E]],
        since: Cursor | datetime | float | None = ..., limit: int | None = ..., page: int = ...,
    ) -> History[E]: ...  # fmt: skip
    def history(
        self,
        *selectors: Selector[Any],
        since: Cursor | datetime | float | None = None,
        limit: int | None = None,
        page: int = 500,
    ) -> History[Any]:
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
        return History(
            self._portal, self._portal.run(self._async.history, *selectors, since=since, limit=limit, page=page)
        )

    # --- joining and leaving

    @takes_misuse
    def subscribe(self, *misplaced: Never, wait: Wait = "joined", timeout: Timeout = DEFAULT) -> None:
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
        self._portal.call(self._async.subscribe, wait=wait, timeout=timeout)

    def ready(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until the server confirms that changes or database broadcasts are live, if the channel has any.

        Args: timeout: as for `subscribe`.
        Raises: JoinError: they can never become live, for example because of a bad filter. StateError: the channel is
            not subscribed. OperationTimeout: the channel stays joined.
        Wire: docs/protocol.md, System messages.
        """
        self._portal.call(self._async.ready, timeout)

    def unsubscribe(self, timeout: Timeout = DEFAULT) -> None:
        """Leave; returns when the server has confirmed, or after the timeout. The channel can be subscribed again.

        Unsent messages fail with `StateError`, iterators end, handlers stay registered. A second call does nothing.
        Args: timeout: seconds; if omitted, the client's; None: as long as the connection lives.
        Wire: docs/protocol.md, Leave and close.
        """
        self._portal.call(self._async.unsubscribe, timeout)

    # --- sending

    def broadcast(
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
        `QueuedSent`.

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
        sent = self._portal.call(
            self._async.broadcast, event, payload, ack=ack, persist=persist, latest=latest, timeout=timeout
        )
        return QueuedSent(sent.via, sent.acked, None, self._portal, sent) if isinstance(sent, AsyncQueuedSent) else sent

    def throttled(self, per_second: float, *, max_keys: int = 1000) -> ThrottledSender:
        """Return a sender of the newest values, such as positions or measurements, for a limited number of messages.

            with channel.throttled(20) as cursors:
                cursors.send("cursor", {"x": 1, "y": 2}, key="alice")

        Of the values with one key, the first is sent at once; while the rate is used up, the newest replaces those that
        wait, and the last one is always sent. Keys take turns.

        Args: per_second: messages a second of this sender in all, evenly spaced. max_keys: at most so many keys wait.
        """
        return ThrottledSender(self._portal, self._portal.run(self._async.throttled, per_second, max_keys=max_keys))

    # --- live streams

    @overload
    def stream(
        self, source: None = None, *, id: str | None = ..., kind: StreamKind | None = ...,
        info: dict[str, Any] | None = ..., rate: float = ..., history: int = ..., keep: float = ...,
        controls: bool = ..., store: StreamStore | None = ..., timeout: Timeout = ...,
    ) -> StreamWriter: ...  # fmt: skip
    @overload
    def stream(
        self, source: Iterable[Any], *, id: str | None = ..., kind: StreamKind | None = ...,
        info: dict[str, Any] | None = ..., rate: float = ..., history: int = ..., keep: float = ...,
        controls: bool = ..., store: StreamStore | None = ..., timeout: Timeout = ...,
    ) -> StreamResult: ...  # fmt: skip
    def stream(
        self, source: Iterable[Any] | None = None, *, id: str | None = None, kind: StreamKind | None = None,
        info: dict[str, Any] | None = None, rate: float = 15.0, history: int = 1_048_576, keep: float = 60.0,
        controls: bool = True, store: StreamStore | None = None, timeout: Timeout = DEFAULT,
    ) -> StreamWriter | StreamResult:  # fmt: skip
        """Send text, bytes or JSON values that grow, such as the answer of a model, in few messages.

            result = channel.stream(answer)  # any iterable of parts
            with channel.stream(info={"model": "m"}) as out:
                out.write("…")

        The first part is sent at once, later ones are merged to `rate` messages a second. Readers who come late or miss
        a part get it from here, for `keep` seconds after the end. An exception in the block ends the stream as
        "failed", Ctrl-C as "cancelled".

        Args:
            source: the parts, as an iterable, read on the caller's thread; or one text or `bytes`.
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
        writer = self._portal.run(
            self._async.stream, id=id, kind=kind, info=info, rate=rate, history=history, keep=keep,
            controls=controls, store=store, timeout=timeout,
        )  # fmt: skip
        return StreamWriter(self._portal, writer) if source is None else send_all(self._portal, writer, source)

    def streams(
        self, id: str | None = None, *, most: int = 16_777_216, idle: float = 15.0, start_timeout: float | None = 30.0,
        store: StreamStore | None = None,
    ) -> Streams:  # fmt: skip
        """Return an iterator over the streams of this channel: those that run, and each that begins later.

        What was sent before is requested from the producers when the channel is joined, and again after each reconnect.

        Args:
            id: only the stream with this id, also one that begins later. most: bytes of one stream that are accepted.
            idle: seconds without a message after which its producer is asked whether it is still there.
            start_timeout: with `id`, seconds until a producer must answer; None: no limit. store: where streams are
                looked up whose producer does not answer.
        Raises: InvalidArgumentError. ClosedError.
        """
        return Streams(
            self._portal,
            self._portal.run(self._async.streams, id, most=most, idle=idle, start_timeout=start_timeout, store=store),
        )

    # --- presence

    def track(self, payload: Any, *, timeout: Timeout = DEFAULT) -> None:
        """Announce presence with this payload until `untrack`; it is sent again after every rejoin.

        When joined, it returns once the server has confirmed this payload or a newer one; when not joined, at once, and
        the payload is sent at the join. The server closes a channel at the sixth call in 30 s, so calls are merged
        and delayed here.

        Args: payload: a JSON object. timeout: seconds; if omitted, the client's; None: no limit.
        Raises: PushError: refused. RateLimitedError: the rate limit delays it beyond the timeout. OperationTimeout,
            ConnectionLostError. After these three the payload stays set and is sent later.
        Wire: docs/protocol.md, Presence.
        """
        self._portal.call(self._async.track, payload, timeout=timeout)

    def untrack(self, *, timeout: Timeout = DEFAULT) -> None:
        """End the presence announced by `track`."""
        self._portal.call(self._async.untrack, timeout=timeout)

    def presence_state(self) -> PresenceState:
        """Return an immutable snapshot of everyone present, by presence key."""
        return self._portal.run(self._async.presence_state)

    # --- token

    def set_auth(self, token: str | Secret | None) -> None:
        """Set a token for this channel alone; None: use the client's token again.

        A channel that failed with the old token joins again. A token provider overrides it at the next refresh.
        Raises: InvalidArgumentError: the value cannot be a token.
        Wire: docs/protocol.md, Token refresh.
        """
        self._portal.call(self._async.set_auth, token)

    # --- as a context manager

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = misused(
            "this channel is for code that blocks", "Write `with`, or use connect_async()."
        )

    def __enter__(self) -> Self:
        self.subscribe()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._portal.inherited:
            self.unsubscribe()
