"""The async client; `connect_async` opens it."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Never, Self, TypeVar, overload
from uuid import UUID

from supawire._mirror_events import RowLookup, RowSource
from supawire._other_clients import WithoutOtherNames, explain_names, takes_misuse, wrong_channel
from supawire._validation import Site, call_site, misused, not_built, warn_unclosed
from supawire.aio.buffers import Key, Overflow, make_buffer
from supawire.aio.channel import AsyncChannel
from supawire.aio.driver import Driver
from supawire.aio.http_publish import Message, Published, carrying, read_message, read_messages
from supawire.aio.mirror import AsyncMirror, MirrorOptions, read_mirror_options
from supawire.aio.outbox import AsyncOutbox, read_outbox_settings
from supawire.aio.stream import AsyncStream
from supawire.errors import again
from supawire.events import ConnectionState, Gap, HealthCheck, Heartbeat, Sent, Stats, Status
from supawire.filters import Where
from supawire.options import (
    DEFAULT,
    Backoff,
    ChannelOptions,
    Secret,
    Timeout,
    check_bool,
    check_kind,
    check_number,
    check_timeout,
    check_token,
    check_topic,
)
from supawire.outbox_stores.base import OutboxStore
from supawire.verifiers import Verifier

M = TypeVar("M")


def _forgotten(driver: Driver, site: Site) -> None:
    """Close a client that was garbage-collected while open, and warn; may run on any thread."""
    if driver.session.state is ConnectionState.CLOSED:
        return
    try:
        driver.loop.call_soon_threadsafe(driver.abort, None)
    except RuntimeError:
        return  # the loop has ended, and everything with it
    warn_unclosed("a client", site, "use async with, or await its close()")


class ClientEvents:
    """The source of events for the client's own iterators; a `Source`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._keeps = driver.registry.client()

    def can_continue(self) -> bool | None:
        """Return whether the client is still open."""
        self._driver.check_loop()
        if self._driver.error is not None:
            raise again(self._driver.error)
        return self._driver.session.state is not ConnectionState.CLOSED

    async def begin(self) -> None:
        """Do nothing: the client is open already."""

    def end(self) -> None:
        """Do nothing: the client does not depend on its iterators."""


@explain_names("client")
class AsyncClient(metaclass=WithoutOtherNames):
    """An open client, made by `connect_async` and bound to the event loop in which it was opened."""

    _kind = AsyncChannel

    def __init__(self, driver: Driver, *_: object, **__: object) -> None:
        self._driver = not_built("AsyncClient", driver, Driver, "`async with connect_async(url, key) as client:`")
        self._channels: dict[str, AsyncChannel] = {}
        self._watch_end()

    def _watch_end(self) -> None:
        """Register a finalizer that warns and closes the client if it is garbage-collected while open."""
        self._driver.registry.client = weakref.ref(self)
        self._driver.finalizer = weakref.finalize(self, _forgotten, self._driver, call_site())
        self._driver.finalizer.atexit = False

    # --- state

    @property
    def state(self) -> ConnectionState:
        """The state of the connection."""
        return self._driver.session.state

    @property
    def channels(self) -> Mapping[str, AsyncChannel]:
        """A read-only view of the channels, by topic."""
        return MappingProxyType(self._channels)

    def stats(self) -> Stats:
        """Return counters since the client was made, and the current state. Any thread may call it."""
        return self._driver.stats()

    def healthy(self, *, grace: float = 0.0) -> HealthCheck:
        """Return whether the connection works, for a liveness probe. Cheap, and any thread may call it.

        It is healthy while the connection is open and a heartbeat was answered within the last `heartbeat` + `timeout`
        seconds, the most that a working connection needs; and while it is closed because no channel is subscribed
        (`idle_disconnect`). A closed client is not. The result is true or false, and has the `reasons`.

        Args: grace: seconds for which a lost connection still counts as healthy, while the client reconnects.
        """
        seconds = check_number("grace", grace, minimum=0, unit="seconds")
        driver = self._driver
        return HealthCheck(driver.session.troubles(driver.clock.time(), seconds, with_channels=False))

    def is_ready(self) -> HealthCheck:
        """Return whether all that was subscribed is live, for a readiness probe. Cheap, and any thread may call it.

        It is ready when it is healthy, every subscribed channel is joined, and the server has confirmed that the
        changes and database broadcasts that it waits for are live. The result is true or false, and has the `reasons`.
        """
        driver = self._driver
        return HealthCheck(driver.session.troubles(driver.clock.time(), 0.0, with_channels=True))

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._driver.endpoint.address} {self.state}, {len(self._channels)} channels>"

    # --- channels

    @takes_misuse
    def channel(
        self,
        topic: str,
        *misplaced: Never,
        private: bool = False,
        echo: bool = False,
        ack: bool = False,
        presence_key: str | None = None,
        replay_since: float | datetime | None = None,
        replay_limit: int | None = None,
        replay_gaps: bool = True,
        replication_ready: bool = False,
        wait: bool | float = False,
        token: str | Secret | None = None,
        **misnamed: Never,
    ) -> AsyncChannel:
        """Return the channel of a topic (`realtime:` in front is optional); the same object for the same topic.

        Args: see `ChannelOptions`; for a channel that exists, omitted options keep their values.
        Raises: InvalidArgumentError: also when the options differ from those of the first call. ClosedError.
        """
        if misplaced or misnamed:
            raise wrong_channel(topic, misplaced, misnamed)
        self._driver.check_loop()
        full = check_topic(topic)
        options = ChannelOptions(
            private=private,
            echo=echo,
            ack=ack,
            presence_key=presence_key,
            replay_since=replay_since,
            replay_limit=replay_limit,
            replay_gaps=replay_gaps,
            replication_ready=replication_ready,
            wait=wait,
            token=token,
        )
        core = self._driver.session.channel(full, options)
        if core.name not in self._channels:
            self._channels[core.name] = self._kind(self._driver, full, options)
        return self._channels[core.name]

    async def remove_channel(self, channel: AsyncChannel) -> None:
        """Leave a channel and end its object: later calls on it raise. The topic can be used again at once."""
        self._driver.check_loop()
        check_kind("channel", channel, AsyncChannel, "a channel of client.channel(...)")
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]
            topic = f"realtime:{channel.topic}"
            if self._driver.telemetry is not None:
                self._driver.telemetry.channel_removed(channel.topic, channel.stats())
            self._driver.session.remove(topic, self._driver.now())
            self._driver.registry.remove_all(topic)
            self._driver.pump()

    async def remove_all_channels(self) -> None:
        """Call `remove_channel` for every channel."""
        for channel in list(self._channels.values()):
            await self.remove_channel(channel)

    @overload
    def listen(
        self, *, heartbeats: Literal[False] = ..., buffer: int = ..., overflow: Overflow = ..., key: Key | None = ...
    ) -> AsyncStream[Status | Gap]: ...
    @overload
    def listen(
        self, *, heartbeats: Literal[True], buffer: int = ..., overflow: Overflow = ..., key: Key | None = ...
    ) -> AsyncStream[Status | Gap | Heartbeat]: ...
    def listen(
        self, *, heartbeats: bool = False, buffer: int = 1000, overflow: Overflow = "error", key: Key | None = None
    ) -> AsyncStream[Any]:
        """Return an iterator over state changes of the connection and of channels, and gaps; see `AsyncChannel.listen`.

        Args: heartbeats: also yield a `Heartbeat` for each one that is sent, answered or not answered.
        """
        check_bool("heartbeats", heartbeats)
        self._driver.check_loop()
        kept = make_buffer(buffer, overflow, key, self._driver.pauses.overflow_pause)
        registration = self._driver.registry.add(None, (), kept.put, kept, self._driver.now(), None, heartbeats)
        return AsyncStream(registration, kept, ClientEvents(self._driver))

    @overload
    def mirror(
        self, table: str, *, key: str | Sequence[str], fetch: RowSource, fetch_row: RowLookup | None = ...,
        schema: str | None = ..., filter: str | None = ..., where: Where | None = ...,
        select: Sequence[str] | None = ..., model: None = None, plain: bool = ..., narrow: bool = ...,
        topic: str | None = ..., private: bool = ..., settle: float = ..., timeout: float | None = ...,
        backoff: Backoff = ..., pause: float = ..., buffer: int = ..., refresh_every: float | None = ...,
        verify: float | None = ..., verifier: Verifier | None = ..., cache: str | PathLike[str] | None = ...,
    ) -> AsyncMirror[dict[str, Any]]: ...  # fmt: skip
    @overload
    def mirror(
        self, table: str, *, key: str | Sequence[str], fetch: RowSource, fetch_row: RowLookup | None = ...,
        schema: str | None = ..., filter: str | None = ..., where: Where | None = ...,
        select: Sequence[str] | None = ..., model: type[M], plain: bool = ..., narrow: bool = ...,
        topic: str | None = ..., private: bool = ..., settle: float = ..., timeout: float | None = ...,
        backoff: Backoff = ..., pause: float = ..., buffer: int = ..., refresh_every: float | None = ...,
        verify: float | None = ..., verifier: Verifier | None = ..., cache: str | PathLike[str] | None = ...,
    ) -> AsyncMirror[M]: ...  # fmt: skip
    def mirror(
        self,
        table: str,
        *,
        key: str | Sequence[str],
        fetch: RowSource,
        fetch_row: RowLookup | None = None,
        schema: str | None = None,
        filter: str | None = None,
        where: Where | None = None,
        select: Sequence[str] | None = None,
        model: type[Any] | None = None,
        plain: bool = False,
        narrow: bool = False,
        topic: str | None = None,
        private: bool = False,
        settle: float = 1.0,
        timeout: float | None = 60.0,
        backoff: Backoff = Backoff(initial=1.0),
        pause: float = 1.0,
        buffer: int = 10_000,
        refresh_every: float | None = None,
        verify: float | None = None,
        verifier: Verifier | None = None,
        cache: str | PathLike[str] | None = None,
    ) -> AsyncMirror[Any]:
        """Return a live copy of a table, or of the rows that match a filter, kept up to date by changes.

        It starts at once, on a channel of its own: it listens for changes, then fetches the rows.
        The call returns immediately; `async with` or `ready()` waits until it is live. Rows are fetched
        again after every gap in changes, and when a change does not contain the whole row. Until then, and while
        `fetch` fails, the mirror keeps the rows that it has, and `live` is False.

        Args:
            key: the column of the primary key, or its columns.
            fetch: returns the current rows, as mappings from column to value: all columns, or those of `select`,
                and the same rows as the filter. Plain (run on a thread, may block) or async, or a generator. It has to
                read from the primary, with the rights of the client's token. Exceptions go to `on_error`.
            fetch_row: called with the key of one row, such as `{"id": 7}`; returns this row as `fetch` would, or None
                if there is none or it does not match the filter. With it, only this row is fetched when a change does
                not contain the whole row.
            schema, filter, where, select, model: as for `changes`. plain: rows as JSON has them, for a fetch by
                PostgREST or supabase-py; if omitted, they are exact Python values, as database drivers return them.
            narrow: receive only the changes that match the filter. Less traffic, but rows that leave the filter by an
                UPDATE are not reported, nor are most deleted rows.
            topic, private: those of its channel; if omitted, a public topic that is not in use.
            settle: seconds to wait after a fetch for changes that it already includes; the server may deliver them up
                to 0.5 s late.
            timeout: seconds for one fetch; None: no limit. backoff: delays between failed fetches. pause: seconds from
                a successful fetch to the next one, at least. buffer: the most changes kept during a fetch; with more of
                them the fetch fails with `SlowConsumerError`.
            refresh_every: seconds after which a live copy is fetched again and compared, for changes that the server
                lost without a message; only differences are applied, as one `Resynced`. None: never.
            verify: the same, but with the help of `verifier`, such as `PostgresVerifier`: only the rows that differ are
                fetched, by `fetch_row`, or all if that is not given.
            cache: path of a file that keeps the rows for the next start of the program; until they are fetched, the
                mirror shows them, and `live` is False. It is only used for the same table, selection and user.

        Raises: InvalidArgumentError. RateLimitedError: too many channels are subscribed. ClosedError.
        Wire: docs/protocol.md, Postgres changes.
        """
        return AsyncMirror(*self._mirror_options(
            table, fetch, fetch_row, key=key, schema=schema, filter=filter, where=where, select=select, model=model,
            plain=plain, narrow=narrow, topic=topic, private=private, settle=settle, timeout=timeout, backoff=backoff,
            pause=pause, buffer=buffer, refresh_every=refresh_every, verify=verify, verifier=verifier, cache=cache,
        ))  # fmt: skip

    def _mirror_options(
        self, table: str, fetch: RowSource, fetch_row: RowLookup | None, **options: Any
    ) -> tuple[Driver, MirrorOptions, RowSource, RowLookup | None]:
        self._driver.begin_call()
        topics = self._driver.session.channels
        checked = read_mirror_options(topics, table, fetch=fetch, fetch_row=fetch_row, **options)
        return self._driver, checked, fetch, fetch_row

    # --- by HTTP

    def outbox(
        self,
        store: OutboxStore,
        *,
        via: Literal["http", "socket"] = "http",
        backoff: Backoff = Backoff(initial=0.5),
        max_attempts: int = 10,
        max_age: float | None = None,
        poll: float = 1.0,
    ) -> AsyncOutbox:
        """Return an outbox: it sends the messages of a store, each until the server has accepted it, over restarts.

        It starts at once. Messages are sent in order per topic, with an id by which receivers drop a second copy. If
        several outboxes have the same store, in any process, one of them sends and another takes over when it ends.

        Args:
            store: `SqliteOutbox`, `PostgresOutbox`, or an object with the methods of `OutboxStore`.
            via: "http": several messages in one request. "socket": a topic whose channel is joined with `ack=True` gets
                its messages there, one at a time, and each is confirmed; the others go by HTTP.
            backoff: delays after failures. max_attempts: how often one message may fail without a clear answer, while
                others are accepted, until it is dead. max_age: seconds after which a message is dead; None: never.
            poll: seconds between two looks at an empty store, for messages that other processes add.

        Raises: InvalidArgumentError. ClosedError.
        Wire: docs/protocol.md, HTTP batch.
        """
        self._driver.begin_call()
        longest = self._driver.options.max_retry_after
        settings = read_outbox_settings(store, via, backoff, max_attempts, max_age, poll, longest)
        return AsyncOutbox(self._driver, store, settings)

    async def publish(
        self,
        topic: str,
        event: str,
        payload: Any,
        *,
        private: bool = False,
        id: str | UUID | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Sent:
        """Broadcast one message by HTTP; needs neither a channel nor a connection.

        Returns once the server has accepted the message; delivery is not guaranteed. This client's own listeners
        receive it as well. `Sent.acked` is False when it was sent in the batch form (with an `id`, with a key `private`
        in the payload, or to an old server): a private message that the token may not send is then dropped silently.

        A message is sent at most once, unless it has an `id`, by which receivers can recognise a duplicate: then it is
        repeated when it may have been lost. A message that was certainly not accepted is always retried, within the
        timeout.

        Args: payload: a JSON object, or `bytes`. private: send to private channels of the topic. id: a UUID, received
            as `Broadcast.id`. timeout: seconds for all attempts together; if omitted, the client's; None: no limit.
        Raises: InvalidArgumentError, PayloadTooLargeError. HttpError: refused, or no answer; `maybe_sent` is True when
            the message may have been accepted. RateLimitedError, OperationTimeout, ClosedError.
        Wire: docs/protocol.md, HTTP batch, HTTP single, HTTP answers.
        """
        self._driver.begin_call()
        limit = self._driver.options.limits.payload_bytes
        message = read_message(topic, event, payload, private, id, limit)
        seconds = check_timeout(timeout, self._driver.options.timeout)
        if self._driver.telemetry is None:
            return await self._driver.publisher.publish(message, seconds)
        with self._driver.telemetry.publish(message.topic, 1) as traceparent:
            return await self._driver.publisher.publish(carrying(message, traceparent, limit), seconds)

    async def publish_many(
        self, messages: Iterable[Message] | Iterable[Mapping[str, Any]], *, timeout: Timeout = DEFAULT
    ) -> Published:
        """Broadcast many messages by HTTP, in order, in as few requests as sizes and limits allow.

        Returns when all were accepted, see `Published`. Each payload of bytes is a request of its own. The first
        failure ends the call: earlier messages stay accepted, and `HttpError.outcomes` has the outcome of each message.

        Args: messages: dicts with topic, event, payload, and optionally private and id. timeout: see `publish`.
        Raises: InvalidArgumentError, PayloadTooLargeError: before anything is sent. HttpError, ClosedError.
        Wire: docs/protocol.md, HTTP batch.
        """
        self._driver.begin_call()
        limit = self._driver.options.limits.payload_bytes
        checked = read_messages(messages, limit)
        seconds = check_timeout(timeout, self._driver.options.timeout)
        if self._driver.telemetry is None:
            return await self._driver.publisher.publish_many(checked, seconds)
        with self._driver.telemetry.publish(None, len(checked)) as traceparent:
            traced = [carrying(message, traceparent, limit) for message in checked]
            return await self._driver.publisher.publish_many(traced, seconds)

    # --- the connection

    async def set_auth(self, token: str | Secret | None) -> None:
        """Set the user's token for all channels without a token of their own; None: use the API key alone.

        The new token is sent on joined channels at once, and on others with their next join; for None they join again.
        A token provider overrides it at the next refresh.
        Raises: InvalidArgumentError: the value cannot be a token. ClosedError.
        Wire: docs/protocol.md, Token refresh.
        """
        self._driver.check_loop()
        self._driver.session.set_token(None if token is None else check_token("token", token), self._driver.now())
        self._driver.pump()

    async def ping(self, *, timeout: Timeout = DEFAULT) -> float:
        """Measure one round trip to the server, in seconds.

        Args: timeout: seconds; if omitted, the client's, not counting time behind unanswered joins; None: no limit.
        Raises: ConnectionLostError: there is no connection, or it was lost. OperationTimeout. ClosedError.
        Wire: docs/protocol.md, Heartbeat.
        """
        self._driver.check_loop()
        limit = check_timeout(timeout, self._driver.options.timeout)
        ticket = self._driver.session.ping(limit, self._driver.now(), ignore_queue_time=timeout is DEFAULT)
        return await self._driver.outcome(ticket)

    def reconnect(self) -> None:
        """Connect now instead of at the end of the backoff; an open connection is replaced."""
        self._driver.check_loop()
        self._driver.session.reconnect(self._driver.now())
        self._driver.pump()

    async def drain(self, timeout: float | None = 10.0) -> None:
        """Shut down gracefully: accept no new calls, finish pending sends, leave all channels, then `close()`.

        Sends that are queued, paced, or wait for their confirmation are finished, also over a reconnect; events that
        arrive meanwhile still reach their listeners. From this call on, a new send or subscription raises `StateError`.
        Use it when the program has been asked to stop.

        Args: timeout: seconds for all of it; None: no limit.
        Raises: OperationTimeout: something was not finished in time. The client is closed all the same, and each
            unfinished send has raised `ClosedError` in its own caller.
        """
        self._driver.check_loop()
        limit = check_timeout(timeout, None)
        await self._driver.drain([f"realtime:{topic}" for topic in self._channels], limit)

    async def close(self) -> None:
        """Leave all channels and close the client permanently; a second call does nothing.

        Returns when no task, timer, thread or socket of the client is left, or after some seconds if the server does
        not answer. Called from inside a handler, it returns when everything except that handler has ended. Pending
        calls raise `ClosedError`, and so do later ones.
        """
        self._driver.check_loop()
        await self._driver.close()

    async def wait_closed(self) -> None:
        """Wait until the client has ended. Raises the error that ended it, unless that was `close()`."""
        self._driver.check_loop()
        await self._driver.tasks.ended()
        if self._driver.error is not None:
            raise again(self._driver.error)

    if not TYPE_CHECKING:
        __enter__ = __exit__ = misused("this client is for async code", "Write `async with`, or use connect().")

    async def __aenter__(self) -> Self:
        self._driver.check_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
