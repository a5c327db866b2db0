"""What calls of the blocking door give back when it is more than a value.

A channel as the blocking door shows it: each call is the async channel's, made on the I/O thread.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from supawire._validation import misused
from supawire.aio.buffers import Key, Overflow
from supawire.aio.channel import AsyncQueuedSent, Wait
from supawire.aio.handlers import Subscription
from supawire.errors import RealtimeError
from supawire.events import ChannelState, PresenceState, Sent
from supawire.options import DEFAULT, ChannelOptions, Default, Secret, Timeout
from supawire.selectors import Selector
from supawire.sync._async import ThreadedAsyncChannel
from supawire.sync.portal import Portal
from supawire.sync.stream import Stream


class ThreadSubscription(Subscription):
    """A `Subscription` of the blocking door."""

    def __init__(self, portal: Portal, made: Subscription) -> None:
        self._portal = portal
        self._made = made

    def __repr__(self) -> str:
        return repr(self._made)

    def cancel(self) -> None:
        """Call the handler no more, also for what waits already; twice is once. A call under way is not interrupted."""
        self._portal.run(self._made.cancel)

    @property
    def dropped(self) -> int:
        """How many events had no room behind the handler."""
        return self._made.dropped


@dataclass(frozen=True, slots=True)
class QueuedSent(Sent):
    """A broadcast that waits for the channel to be joined (`offline="queue"`); its failure also reaches `on_error`."""

    _portal: Portal | None = field(default=None, repr=False, compare=False)
    _sent: AsyncQueuedSent | None = field(default=None, repr=False, compare=False)

    def wait(self) -> Sent:
        """Wait until it is sent (with ack: confirmed), and say how. Raises why it was not."""
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


class Channel:
    """One topic, made by `client.channel(...)`. `with` subscribes on entry and unsubscribes on exit."""

    def __init__(self, portal: Portal, channel: ThreadedAsyncChannel) -> None:
        self._portal = portal
        self._async = channel

    # --- what it is

    @property
    def topic(self) -> str:
        """The topic without `realtime:` in front."""
        return self._async.topic

    @property
    def state(self) -> ChannelState:
        """Where it stands."""
        return self._async.state

    @property
    def options(self) -> ChannelOptions:
        """What it was made with."""
        return self._async.options

    @property
    def error(self) -> RealtimeError | None:
        """Why it is not joined; None when it is, or when nobody wants it to be."""
        return self._async.error

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
    def on(
        self,
        selector: Selector[Any],
        handler: Callable[[Any], Any] | Default = DEFAULT,
        *,
        thread: bool = False,
        buffer: int = 1000,
        overflow: Overflow = "error",
    ) -> Subscription | Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
        """Call a handler with each event; without a handler, a decorator that returns the function itself.

        Args:
            handler: plain or `async`, called with one event, on the client's dispatch thread: one event after another.
                A plain one that blocks delays the other handlers of the client, and nothing else.
            thread: says for the async door that a plain handler may block; here every handler runs on that thread.
            buffer, overflow: how many events may wait behind the handler, and what is done with more: "error" drops the
                newest and tells `on_error` once per episode, "drop_oldest", "drop_newest", "pause".

        Listeners come before `subscribe()`: changes, and the first for presence, need a new join when they are added to
        a joined channel; it is done by itself and reported as a `Gap`.

        Raises: InvalidArgumentError: not callable with one event, or no selector.
        """
        if handler is not DEFAULT:
            made = self._portal.run(self._async.on, selector, handler, thread=thread, buffer=buffer, overflow=overflow)
            return ThreadSubscription(self._portal, made)
        register = self._portal.run(self._async.on, selector, thread=thread, buffer=buffer, overflow=overflow)

        def decorate(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            return self._portal.run(register, function)

        return decorate

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
        self, *selectors: Selector[Any], buffer: int = 1000, overflow: Overflow = "error", key: Key | None = None
    ) -> Stream[Any]:
        """An iterator over the union of the selectors' events, registered now; see `Stream`.

        Args:
            buffer: how many events may wait for the consumer.
            overflow: what is done with more. "error": the iterator raises `SlowConsumerError` after what it has, then
                goes on. "drop_oldest", "drop_newest". "latest": the newest event per `key(event)` is kept. "pause": the
                socket is not read, for at most one heartbeat interval and never while a request waits for its reply;
                then "error".

        Raises: InvalidArgumentError: no selector, or a policy that does not fit.
        """
        parts = self._portal.run(self._async.listen_on_thread, selectors, buffer, overflow, key)
        return Stream(self._portal, *parts)

    # --- joining and leaving

    def subscribe(self, *, wait: Wait = "joined", timeout: Timeout = DEFAULT) -> None:
        """Join, and stay joined through reconnects until `unsubscribe`.

        Returns when joined; with `wait="ready"` when the server also says that changes or database broadcasts are live.
        Refusals that may pass are waited through.

        Args: timeout: seconds; left out, twice the client's `timeout`, not counting time behind pacing and behind the
            joins of other channels; None: no limit.
        Raises: JoinDeniedError and other `JoinError`: refused for good. OperationTimeout; before the join it withdraws
            the wish, as a cancellation does. RateLimitedError: too many channels are wanted. ClosedError.
        Wire: protocol §3.1.
        """
        self._portal.call(self._async.subscribe, wait=wait, timeout=timeout)

    def ready(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until the server says that changes or database broadcasts are live, if there are any.

        Args: timeout: as for `subscribe`.
        Raises: JoinError: what the server will never make live, such as a bad filter. StateError: nobody subscribed.
            OperationTimeout; the channel stays joined.
        Wire: protocol §3.6.
        """
        self._portal.call(self._async.ready, timeout)

    def unsubscribe(self, timeout: Timeout = DEFAULT) -> None:
        """Leave: returns when the server has confirmed, or after the timeout. The object can subscribe again.

        What is not sent yet fails with `StateError`, iterators end, handlers stay registered. Twice is once.
        Args: timeout: seconds; left out, the client's; None: as long as the connection lives.
        Wire: protocol §3.8.
        """
        self._portal.call(self._async.unsubscribe, timeout)

    # --- sending

    def broadcast(self, event: str, payload: Any, *, ack: bool | None = None, timeout: Timeout = DEFAULT) -> Sent:
        """Send one message to everyone who listens on this channel.

        Returns when it is handed to the network; with ack, when the server has confirmed it. While the channel is not
        joined the client's `offline` says what is done; with "queue" the result is a `QueuedSent`.

        Args:
            event: at most 255 bytes of UTF-8. payload: any JSON value, or `bytes` (not in 1.0.0).
            ack: left out, what the channel was made with. timeout: seconds for pacing and the ack; left out, the
                client's; None: no limit.
        Raises: StateError: not joined, and offline="raise". PayloadTooLargeError. RateLimitedError: pacing held it too
            long. ConnectionLostError: `maybe_sent` says whether it may have arrived. PushError: refused.
            OperationTimeout.
        Wire: protocol §6.1, §6.2.
        """
        sent = self._portal.call(self._async.broadcast, event, payload, ack=ack, timeout=timeout)
        return QueuedSent(sent.via, sent.acked, None, self._portal, sent) if isinstance(sent, AsyncQueuedSent) else sent

    # --- presence

    def track(self, payload: Any, *, timeout: Timeout = DEFAULT) -> None:
        """Be present with this payload, until `untrack`; sent again after every rejoin (R45).

        Joined: returns when the server has confirmed this or a newer wish. Not joined: returns at once, sent at the
        join. The server closes a channel at the sixth call in 30 s, so calls are merged and wait here.

        Args: payload: a JSON object. timeout: seconds; left out, the client's; None: no limit.
        Raises: PushError: refused. RateLimitedError: the limit holds it beyond the timeout; the wish stays.
            OperationTimeout, ConnectionLostError: the wish stays.
        Wire: protocol §5.
        """
        self._portal.call(self._async.track, payload, timeout=timeout)

    def untrack(self, *, timeout: Timeout = DEFAULT) -> None:
        """Be present no more; see `track`."""
        self._portal.call(self._async.untrack, timeout=timeout)

    def presence_state(self) -> PresenceState:
        """Everyone who is here, by presence key: an immutable snapshot."""
        return self._portal.run(self._async.presence_state)

    # --- token

    def set_auth(self, token: str | Secret | None) -> None:
        """The token of this channel alone, from now on; None: the client's again.

        A channel that failed with the old one tries again. Where a provider is set, it wins at the next refresh.
        Raises: InvalidArgumentError: no token could look like this.
        Wire: protocol §3.5.
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
