"""The sync client that `connect` and `from_supabase` return."""

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from os import PathLike
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Never, Self, TypeVar, Unpack, overload
from uuid import UUID

from supawire._mirror_events import RowLookup, RowSource
from supawire._other_clients import WithoutOtherNames, explain_names, takes_misuse, wrong_channel
from supawire._validation import call_site, misused, not_built
from supawire.aio.buffers import Key, Overflow
from supawire.aio.connect import HttpClient, Transport, check_installed
from supawire.aio.driver import Driver
from supawire.aio.http_publish import Message, Published
from supawire.aio.supabase import Account, Passed, Supabase
from supawire.cursors import HistorySource
from supawire.errors import InvalidArgumentError
from supawire.events import ConnectionState, Gap, HealthCheck, Heartbeat, Sent, Stats, Status
from supawire.filters import Where
from supawire.options import (
    DEFAULT,
    Backoff,
    ClientOptions,
    Fallback,
    Limits,
    Offline,
    Protocol,
    Secret,
    Timeout,
    TokenProvider,
    check_kind,
    check_timeout,
)
from supawire.outbox_stores.base import OutboxStore
from supawire.sync._async import ThreadedAsyncChannel, ThreadedAsyncClient
from supawire.sync.channel import Channel
from supawire.sync.mirror import Mirror
from supawire.sync.outbox import Outbox
from supawire.sync.portal import Portal
from supawire.sync.stream import Stream
from supawire.verifiers import Verifier

if TYPE_CHECKING:
    import ssl as tls

    from supawire.telemetry import Telemetry


M = TypeVar("M")


def connect(
    url: str,
    key: str | Secret,
    *,
    token: str | Secret | TokenProvider | None = None,
    protocol: Protocol = "2.0.0",
    heartbeat: float = 25.0,
    timeout: float = 10.0,
    open_timeout: float | None = 20.0,
    backoff: Backoff | Callable[[int], float] = Backoff(),
    rejoin_backoff: Backoff | Callable[[int], float] = Backoff(initial=1.0),
    offline: Offline = "raise",
    queue_size: int = 1000,
    limits: Limits = Limits(),
    idle_disconnect: float | None = None,
    max_sockets: int = 1,
    token_on_heartbeat: bool = False,
    max_retry_after: float = 300.0,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    ssl: "tls.SSLContext | None" = None,
    proxy: str | Secret | None = None,
    host: str | None = None,
    on_error: Callable[[Exception], object] | None = None,
    transport: Transport | None = None,
    http: HttpClient | None = None,
    logger: logging.Logger | None = None,
    on_frame: Callable[..., object] | None = None,
    history: HistorySource | None = None,
    telemetry: "Telemetry | None" = None,
    fallback: Fallback | None = None,
) -> "Client":
    """Open a sync client of Supabase Realtime, which any thread may call; a context manager that closes it.

    Opening waits for the first connection. A permanent refusal raises at once; any other failure is retried until
    `open_timeout`. Afterwards the client reconnects without limit, except after a permanent refusal, which ends it. It
    has one I/O thread of its own, and from the first handler on a dispatch thread.

    Args:
        url: the project's URL, or one that ends in /realtime/v1, …/websocket or /socket/websocket; http(s) or ws(s).
        key: the project's API key.
        token: a user's JWT, or a callable (plain or async) that returns one or None; called before each connect and
            join, and before expiry.
        protocol, heartbeat, timeout, open_timeout, backoff, rejoin_backoff, offline, queue_size, limits,
            idle_disconnect, max_sockets, token_on_heartbeat, max_retry_after, headers, params, ssl, proxy, host: see
            `ClientOptions`; durations in seconds.
        on_error: called on the dispatch thread with every error that is not raised to a caller; if omitted, it is
            logged.
        transport: replaces the WebSocket transport. http: replaces the HTTP client. logger: the parent logger.
        on_frame: called with ("in" or "out", data, binary) for each frame, tokens redacted; must be quick, and must not
            call the client, because it runs on the I/O thread.
        history: reads stored messages, such as `DatabaseHistory(url)`; not closed with the client.
        telemetry: OpenTelemetry: a `supawire.telemetry.Telemetry`.
        fallback: "longpoll" uses long polling where WebSockets are blocked.

    Raises: InvalidArgumentError. ConnectError, AuthError.
    """
    options = ClientOptions(
        token, protocol, heartbeat, timeout, open_timeout, backoff, rejoin_backoff, offline, queue_size, limits,
        idle_disconnect, max_sockets, token_on_heartbeat, max_retry_after, headers, params, ssl, proxy, host, on_error,
        transport, http, logger, on_frame, history, telemetry, fallback,
    )  # fmt: skip
    endpoint = options.endpoint(url, key)
    check_installed(options)

    async def start() -> Driver:
        driver = Driver(endpoint, options, on_thread=True)
        await driver.open()
        return driver

    portal = Portal()
    return Client(portal, portal.open(start))


@explain_names("client", sync=True)
class Client(metaclass=WithoutOtherNames):
    """An open client, made by `connect`. Any thread may call it; a forked child process may not."""

    def __init__(self, portal: Portal, driver: Driver, *_: object, **__: object) -> None:
        self._portal = not_built("Client", portal, Portal, "`with connect(url, key) as client:`")
        self._async = ThreadedAsyncClient(driver)
        driver.registry.client = weakref.ref(self)
        driver.finalizer = weakref.finalize(self, portal.close_unreferenced, call_site())
        driver.finalizer.atexit = False
        self._channels: dict[str, Channel] = {}

    # --- state

    @property
    def state(self) -> ConnectionState:
        """The state of the connection."""
        return self._async.state

    @property
    def channels(self) -> Mapping[str, Channel]:
        """A read-only view of the channels, by topic."""
        return MappingProxyType(self._channels)

    def stats(self) -> Stats:
        """Return counters since the client was made, and the current state. Any thread may call it."""
        self._portal.check()
        return self._async.stats()

    def healthy(self, *, grace: float = 0.0) -> HealthCheck:
        """Return whether the connection works, for a liveness probe. Cheap, and any thread may call it.

        It is healthy while the connection is open and a heartbeat was answered within the last `heartbeat` + `timeout`
        seconds, the most that a working connection needs; and while it is closed because no channel is subscribed
        (`idle_disconnect`). A closed client is not. The result is true or false, and has the `reasons`.

        Args: grace: seconds for which a lost connection still counts as healthy, while the client reconnects.
        """
        self._portal.check()
        return self._async.healthy(grace=grace)

    def is_ready(self) -> HealthCheck:
        """Return whether all that was subscribed is live, for a readiness probe. Cheap, and any thread may call it.

        It is ready when it is healthy, every subscribed channel is joined, and the server has confirmed that the
        changes and database broadcasts that it waits for are live. The result is true or false, and has the `reasons`.
        """
        self._portal.check()
        return self._async.is_ready()

    def __repr__(self) -> str:
        return f"<Client of {self._async.address} {self.state}, {len(self._channels)} channels>"

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
    ) -> Channel:
        """Return the channel of a topic (`realtime:` in front is optional); the same object for the same topic.

        Args: see `ChannelOptions`; for a channel that exists, omitted options keep their values.
        Raises: InvalidArgumentError: also when the options differ from those of the first call. ClosedError.
        """
        if misplaced or misnamed:
            raise wrong_channel(topic, misplaced, misnamed)
        return self._portal.run(
            self._channel,
            topic,
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

    def _channel(self, topic: str, **options: Any) -> Channel:
        made = self._async.channel(topic, **options)
        known = self._channels.get(made.topic)
        if known is None:
            assert isinstance(made, ThreadedAsyncChannel)
            known = self._channels[made.topic] = Channel(self._portal, made)
        return known

    def remove_channel(self, channel: Channel) -> None:
        """Leave a channel and end its object: later calls on it raise. The topic can be used again at once."""
        check_kind("channel", channel, Channel, "a channel of client.channel(...)")
        self._portal.call(self._remove, channel)

    async def _remove(self, channel: Channel) -> None:
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]
            await self._async.remove_channel(self._async.channels[channel.topic])

    def remove_all_channels(self) -> None:
        """Call `remove_channel` for every channel."""
        for channel in list(self._channels.values()):
            self.remove_channel(channel)

    @overload
    def listen(
        self, *, heartbeats: Literal[False] = ..., buffer: int = ..., overflow: Overflow = ..., key: Key | None = ...
    ) -> Stream[Status | Gap]: ...
    @overload
    def listen(
        self, *, heartbeats: Literal[True], buffer: int = ..., overflow: Overflow = ..., key: Key | None = ...
    ) -> Stream[Status | Gap | Heartbeat]: ...
    def listen(
        self, *, heartbeats: bool = False, buffer: int = 1000, overflow: Overflow = "error", key: Key | None = None
    ) -> Stream[Any]:
        """Return an iterator over state changes of the connection and of channels, and gaps; see `Channel.listen`.

        Args: heartbeats: also yield a `Heartbeat` for each one that is sent, answered or not answered.
        """
        return Stream(self._portal, *self._portal.run(self._async.listen_on_thread, buffer, overflow, key, heartbeats))

    @overload
    def mirror(
        self, table: str, *, key: str | Sequence[str], fetch: RowSource, fetch_row: RowLookup | None = ...,
        schema: str | None = ..., filter: str | None = ..., where: Where | None = ...,
        select: Sequence[str] | None = ..., model: None = None, plain: bool = ..., narrow: bool = ...,
        topic: str | None = ..., private: bool = ..., settle: float = ..., timeout: float | None = ...,
        backoff: Backoff = ..., pause: float = ..., buffer: int = ..., refresh_every: float | None = ...,
        verify: float | None = ..., verifier: Verifier | None = ..., cache: str | PathLike[str] | None = ...,
    ) -> Mirror[dict[str, Any]]: ...  # fmt: skip
    @overload
    def mirror(
        self, table: str, *, key: str | Sequence[str], fetch: RowSource, fetch_row: RowLookup | None = ...,
        schema: str | None = ..., filter: str | None = ..., where: Where | None = ...,
        select: Sequence[str] | None = ..., model: type[M], plain: bool = ..., narrow: bool = ...,
        topic: str | None = ..., private: bool = ..., settle: float = ..., timeout: float | None = ...,
        backoff: Backoff = ..., pause: float = ..., buffer: int = ..., refresh_every: float | None = ...,
        verify: float | None = ..., verifier: Verifier | None = ..., cache: str | PathLike[str] | None = ...,
    ) -> Mirror[M]: ...  # fmt: skip
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
    ) -> Mirror[Any]:
        """Return a live copy of a table, or of the rows that match a filter, kept up to date by changes.

        It starts at once, on a channel of its own: it listens for changes, then fetches the rows.
        The call returns immediately; `with` or `ready()` waits until it is live. Rows are fetched
        again after every gap in changes, and when a change does not contain the whole row. Until then, and while
        `fetch` fails, the mirror keeps the rows that it has, and `live` is False.

        Args:
            key: the column of the primary key, or its columns.
            fetch: returns the current rows, as mappings from column to value: all columns, or those of `select`,
                and the same rows as the filter. A plain function or generator; it runs on a thread of its own and may
                block. It has to read from the primary, with the rights of the client's token. Exceptions go to
                `on_error`.
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
        made = self._portal.run(
            self._async.make_mirror, table, fetch, fetch_row, key=key, schema=schema, filter=filter, where=where,
            select=select, model=model, plain=plain, narrow=narrow, topic=topic, private=private, settle=settle,
            timeout=timeout, backoff=backoff, pause=pause, buffer=buffer, refresh_every=refresh_every, verify=verify,
            verifier=verifier, cache=cache,
        )  # fmt: skip
        return Mirror(self._portal, made)

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
    ) -> Outbox:
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
        made = self._portal.run(
            self._async.outbox, store, via=via, backoff=backoff, max_attempts=max_attempts, max_age=max_age, poll=poll
        )
        return Outbox(self._portal, made)

    def publish(
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
        return self._portal.call(self._async.publish, topic, event, payload, private=private, id=id, timeout=timeout)

    def publish_many(
        self, messages: Iterable[Message] | Iterable[Mapping[str, Any]], *, timeout: Timeout = DEFAULT
    ) -> Published:
        """Broadcast many messages by HTTP, in order, in as few requests as sizes and limits allow.

        Returns when all were accepted, see `Published`. Each payload of bytes is a request of its own. The first
        failure ends the call: earlier messages stay accepted, and `HttpError.outcomes` has the outcome of each message.

        Args: messages: dicts with topic, event, payload, and optionally private and id. timeout: see `publish`.
        Raises: InvalidArgumentError, PayloadTooLargeError: before anything is sent. HttpError, ClosedError.
        Wire: docs/protocol.md, HTTP batch.
        """
        given = list(messages) if isinstance(messages, Iterator) else messages  # generators run on this thread
        return self._portal.call(self._async.publish_many, given, timeout=timeout)

    # --- the connection

    def set_auth(self, token: str | Secret | None) -> None:
        """Set the user's token for all channels without a token of their own; None: use the API key alone.

        The new token is sent on joined channels at once, and on others with their next join; for None they join again.
        A token provider overrides it at the next refresh.
        Raises: InvalidArgumentError: the value cannot be a token. ClosedError.
        Wire: docs/protocol.md, Token refresh.
        """
        self._portal.call(self._async.set_auth, token)

    def ping(self, *, timeout: Timeout = DEFAULT) -> float:
        """Measure one round trip to the server, in seconds.

        Args: timeout: seconds; if omitted, the client's, not counting time behind unanswered joins; None: no limit.
        Raises: ConnectionLostError: there is no connection, or it was lost. OperationTimeout. ClosedError.
        Wire: docs/protocol.md, Heartbeat.
        """
        return self._portal.call(self._async.ping, timeout=timeout)

    def reconnect(self) -> None:
        """Connect now instead of at the end of the backoff; an open connection is replaced."""
        self._portal.run(self._async.reconnect)

    def drain(self, timeout: float | None = 10.0) -> None:
        """Shut down gracefully: accept no new calls, finish pending sends, leave all channels, then `close()`.

        Sends that are queued, paced, or wait for their confirmation are finished, also over a reconnect; events that
        arrive meanwhile still reach their listeners. From this call on, a new send or subscription raises `StateError`.
        Use it when the program has been asked to stop.

        Args: timeout: seconds for all of it; None: no limit.
        Raises: OperationTimeout: something was not finished in time. The client is closed all the same, and each
            unfinished send has raised `ClosedError` in its own caller.
        """
        limit = check_timeout(timeout, None)  # before the portal closes the client, whatever the coroutine raises
        self._portal.close(partial(self._async.drain, limit))

    def close(self) -> None:
        """Leave all channels and close the client permanently; a second call does nothing.

        Returns when no task, timer, thread or socket of the client is left, or after some seconds if the server does
        not answer. Called from inside a handler, it returns when everything except that handler has ended. Pending
        calls raise `ClosedError`, and so do later ones.
        """
        self._portal.close(self._async.close)

    def wait_closed(self) -> None:
        """Wait until the client has ended. Raises the error that ended it, unless that was `close()`."""
        self._portal.exclude_current()
        self._portal.call(self._async.wait_closed)

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = misused("this client is for code that blocks", "Write `with`, or use connect_async().")

    def __enter__(self) -> Self:
        self._portal.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._portal.inherited:
            self.close()


def from_supabase(client: Supabase, *, close_on_sign_out: bool = False, **options: Unpack[Passed]) -> Client:
    """Open a sync Realtime client that follows the session of a sync client of the package `supabase`.

    URL and key are those of the given client, and the token is that of its signed-in user,
    also after a refresh or a new sign-in; after a sign-out the key is used. A client that was made with an
    `Authorization` header sends that header until a user signs in. Closing the Realtime client unsubscribes from the
    given client, and does not close it. Everything else as with `connect`.

    Args: client: the result of `create_client` of `supabase`. close_on_sign_out: end this client
        with `AuthError` when the session is lost, by a sign-out or because it cannot be refreshed; if False, continue
        with the key. options: those of `connect`, except `token`.
    Raises: InvalidArgumentError: also for an async client, whose session is available only in its own event loop.
        ConnectError, AuthError.
    """
    account = Account(client, "from_supabase", close_on_sign_out)
    if account.waits:
        raise InvalidArgumentError(
            "from_supabase needs a sync client of the package supabase, and this one is async",
            hint="In its event loop: async with from_supabase_async(client) as realtime. Or create_client(url, key).",
        )
    chosen, endpoint = account.read(options)

    async def start() -> Driver:
        driver = Driver(endpoint, chosen, on_thread=True)
        await account.open(driver)
        return driver

    portal = Portal()
    return Client(portal, portal.open(start))
