"""The blocking client: what `connect` gives.

The blocking door beside a client of the package `supabase`.
"""

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload
from uuid import UUID

from supawire._forgotten import call_site
from supawire._mirror_events import RowSource
from supawire._validation import misused, not_built
from supawire.aio.buffers import Key, Overflow
from supawire.aio.client import HttpClient, Transport, check_present
from supawire.aio.driver import Driver
from supawire.aio.http_publish import Message, Published
from supawire.aio.supabase import Account, Passed, Supabase
from supawire.errors import InvalidArgumentError
from supawire.events import ConnectionState, Gap, Heartbeat, Sent, Stats, Status
from supawire.filters import Where
from supawire.options import (
    DEFAULT,
    Backoff,
    ClientOptions,
    Limits,
    Offline,
    Protocol,
    Secret,
    Timeout,
    TokenProvider,
    check_kind,
    check_timeout,
)
from supawire.sync._async import ThreadedAsyncChannel, ThreadedAsyncClient
from supawire.sync.channel import Channel
from supawire.sync.mirror import Mirror
from supawire.sync.portal import Portal
from supawire.sync.stream import Stream

if TYPE_CHECKING:
    import ssl as tls


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
) -> "Client":
    """A client of Supabase Realtime for code that blocks, from any thread; open, and a context manager that closes it.

    The first connection is waited for: a refusal for good raises at once, anything else is tried again until
    `open_timeout`. After that the client reconnects for ever, but for a refusal for good, which ends it. It has one I/O
    thread of its own, and with the first handler a dispatch thread.

    Args:
        url: the project's URL, or one that ends in /realtime/v1, …/websocket or /socket/websocket; http(s) or ws(s).
        key: the project's API key.
        token: a user's JWT, or a callable (plain or async) that returns one or None; called before each connect and
            join, and before expiry.
        protocol, heartbeat, timeout, open_timeout, backoff, rejoin_backoff, offline, queue_size, limits,
            idle_disconnect, token_on_heartbeat, max_retry_after, headers, params, ssl, proxy, host: see
            `ClientOptions`; in seconds.
        on_error: called on the dispatch thread with every error that nobody waits for; left out, it is logged.
        transport: replaces the WebSocket transport; http: the HTTP client. logger: the parent of our loggers.
        on_frame: called with ("in" or "out", data, binary) for each frame, tokens hidden; must be quick, and may not
            call the client, since it runs on the I/O thread.

    Raises: InvalidArgumentError. ConnectError, AuthError.
    """
    options = ClientOptions(
        token, protocol, heartbeat, timeout, open_timeout, backoff, rejoin_backoff, offline, queue_size, limits,
        idle_disconnect, token_on_heartbeat, max_retry_after, headers, params, ssl, proxy, host, on_error, transport,
        http, logger, on_frame,
    )  # fmt: skip
    endpoint = options.endpoint(url, key)
    check_present(options)

    async def start() -> Driver:
        driver = Driver(endpoint, options, blocking=True)
        await driver.open()
        return driver

    portal = Portal()
    return Client(portal, portal.open(start))


class Client:
    """An open client; made by `connect`. Any thread may call it; a forked child may not."""

    def __init__(self, portal: Portal, driver: Driver, *_: object, **__: object) -> None:
        self._portal = not_built("Client", portal, Portal, "`with connect(url, key) as client:`")
        self._async = ThreadedAsyncClient(driver)
        driver.registry.client = weakref.ref(self)
        driver.finalizer = weakref.finalize(self, portal.forgotten, call_site())
        driver.finalizer.atexit = False
        self._channels: dict[str, Channel] = {}

    # --- what it is

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._async.state

    @property
    def channels(self) -> Mapping[str, Channel]:
        """The channels by topic; a view."""
        return MappingProxyType(self._channels)

    def stats(self) -> Stats:
        """Counters since the client was made, and what is going on now."""
        return self._portal.run(self._async.stats)

    def __repr__(self) -> str:
        return f"<Client of {self._async.address} {self.state}, {len(self._channels)} channels>"

    # --- channels

    def channel(
        self,
        topic: str,
        *,
        private: bool = False,
        echo: bool = False,
        ack: bool = False,
        presence_key: str | None = None,
        replay_since: float | datetime | None = None,
        replay_limit: int | None = None,
        replay_gaps: bool = True,
        replication_ready: bool = False,
        token: str | Secret | None = None,
    ) -> Channel:
        """The channel of a topic (`realtime:` in front is optional); asked again, the same object.

        Args: see `ChannelOptions`; left out for a channel that exists, they stay as they are.
        Raises: InvalidArgumentError: also for other options than the first time. ClosedError.
        """
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
        """Leave a channel and end its object: later calls on it raise, and its topic can be had anew at once."""
        check_kind("channel", channel, Channel, "a channel of client.channel(...)")
        self._portal.call(self._remove, channel)

    async def _remove(self, channel: Channel) -> None:
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]
            await self._async.remove_channel(self._async.channels[channel.topic])

    def remove_all_channels(self) -> None:
        """`remove_channel` for all."""
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
        """An iterator over moves of the connection and of all channels, and gaps; see `Channel.listen`.

        Args: heartbeats: give a `Heartbeat` too for each one that is sent, answered or not answered.
        """
        return Stream(self._portal, *self._portal.run(self._async.listen_on_thread, buffer, overflow, key, heartbeats))

    @overload
    def mirror(
        self, table: str, *, key: str | Sequence[str], fetch: RowSource, schema: str | None = ...,
        filter: str | None = ..., where: Where | None = ..., select: Sequence[str] | None = ..., model: None = None,
        plain: bool = ..., narrow: bool = ..., topic: str | None = ..., private: bool = ..., settle: float = ...,
        timeout: float | None = ..., backoff: Backoff = ..., buffer: int = ...,
        refresh_every: float | None = ...,
    ) -> Mirror[dict[str, Any]]: ...  # fmt: skip
    @overload
    def mirror(
        self, table: str, *, key: str | Sequence[str], fetch: RowSource, schema: str | None = ...,
        filter: str | None = ..., where: Where | None = ..., select: Sequence[str] | None = ..., model: type[M],
        plain: bool = ..., narrow: bool = ..., topic: str | None = ..., private: bool = ..., settle: float = ...,
        timeout: float | None = ..., backoff: Backoff = ..., buffer: int = ...,
        refresh_every: float | None = ...,
    ) -> Mirror[M]: ...  # fmt: skip
    def mirror(
        self,
        table: str,
        *,
        key: str | Sequence[str],
        fetch: RowSource,
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
        buffer: int = 10_000,
        refresh_every: float | None = None,
    ) -> Mirror[Any]:
        """A live copy of a table, or of the rows that a filter fits: changes are listened for, then rows are fetched.

        It begins at once, as a channel of its own; `async with` or `ready()` waits until it is live. Rows are fetched
        anew after every gap in changes, and when a change does not say all (protocol §4.4); until then, and while
        `fetch` fails, it keeps what it has and says that it is not `live`.

        Args:
            key: the column of the primary key, or its columns.
            fetch: gives the rows as they are now, as mappings from column to value: all columns, or those of `select`,
                and the same rows as the filter. A plain function or generator, on a thread of its own, where it may
                block. It has to read from the primary, with the rights of the client's token. What it raises goes to
                `on_error`.
            schema, filter, where, select, model: as for `changes`. plain: rows as JSON has them, for a fetch by
                PostgREST or supabase-py; left out, they are exact Python values, as database drivers give them.
            narrow: get only the changes that the filter fits. Less traffic, but nothing is told of rows that leave it
                by an UPDATE, nor of most that are deleted (protocol §4.3).
            topic, private: those of its channel; left out, a public one that nobody else uses.
            settle: seconds in which changes may still come that the fetch has seen; the server needs up to half a one.
            timeout: seconds for one fetch; None: no limit. backoff: between fetches that fail. buffer: changes that
                are kept during a fetch; more of them fail it with `SlowConsumerError`.
            refresh_every: seconds after which a live copy is fetched again and compared, for changes that the server
                lost without a message; only what differs is applied, as one `Resynced`. None: never.

        Raises: InvalidArgumentError. RateLimitedError: too many channels are wanted. ClosedError.
        Wire: protocol §4.
        """
        made = self._portal.run(
            self._async.mirror_behind, table, fetch, key=key, schema=schema, filter=filter, where=where, select=select,
            model=model, plain=plain, narrow=narrow, topic=topic, private=private, settle=settle, timeout=timeout,
            backoff=backoff, buffer=buffer, refresh_every=refresh_every,
        )  # fmt: skip
        return Mirror(self._portal, made)

    # --- by HTTP

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
        """Broadcast one message by HTTP: no channel is needed, and no connection.

        Returns when the server has accepted it; nobody need have got it. `Sent.acked` is False when it went by the
        batch form (with an `id`, with a key `private` in the payload, or to an old server): a private message that the
        token may not send is dropped there, without a word. Sent at most once, but with an `id`, by which receivers
        know a second copy, it is repeated when it is not certain that it arrived; what was certainly not taken is
        always tried again, within the timeout. Listeners of our own get it too.

        Args: payload: a JSON object, or `bytes`. private: to the private room of that topic. id: a UUID, which arrives
            as `Broadcast.id`. timeout: seconds, all attempts together; left out, the client's; None: no limit.
        Raises: InvalidArgumentError, PayloadTooLargeError. HttpError: refused, or no answer; `maybe_sent` says whether
            it may have been taken. RateLimitedError, OperationTimeout, ClosedError.
        Wire: protocol §6.5 to §6.7.
        """
        return self._portal.call(self._async.publish, topic, event, payload, private=private, id=id, timeout=timeout)

    def publish_many(
        self, messages: Iterable[Message] | Iterable[Mapping[str, Any]], *, timeout: Timeout = DEFAULT
    ) -> Published:
        """Broadcast many messages by HTTP, in their order: as one request, or as few as sizes and limits allow.

        Returns when all were accepted, see `Published`. Payloads of bytes go alone, in between. The first failure ends
        it: what was accepted before stays so, and `HttpError.outcomes` says for each message what became of it.

        Args: messages: dicts with topic, event, payload, and if wanted private and id. timeout: see `publish`.
        Raises: InvalidArgumentError, PayloadTooLargeError: before anything is sent. HttpError, ClosedError.
        Wire: protocol §6.5.
        """
        given = list(messages) if isinstance(messages, Iterator) else messages  # a generator runs here
        return self._portal.call(self._async.publish_many, given, timeout=timeout)

    # --- the connection

    def set_auth(self, token: str | Secret | None) -> None:
        """The user's token from now on, for all channels without their own; None: the API key alone.

        Joined channels tell the server at once, the others with their next join; for None they join again. A provider
        wins at its next refresh.
        Raises: InvalidArgumentError: no token could look like this. ClosedError.
        Wire: protocol §3.5.
        """
        self._portal.call(self._async.set_auth, token)

    def ping(self, *, timeout: Timeout = DEFAULT) -> float:
        """Seconds of one round trip to the server.

        Args: timeout: seconds; left out, the client's; None: no limit.
        Raises: ConnectionLostError: there is no connection, or it was lost. OperationTimeout. ClosedError.
        Wire: protocol §3.4.
        """
        return self._portal.call(self._async.ping, timeout=timeout)

    def reconnect(self) -> None:
        """Connect now instead of at the end of the backoff; an open connection is replaced."""
        self._portal.run(self._async.reconnect)

    def drain(self, timeout: float | None = 10.0) -> None:
        """End in good order: take nothing new, finish what is being sent, leave all channels, then `close()`.

        Sends that are queued, paced, or wait for their confirmation are finished, also over a reconnect; events that
        arrive meanwhile still reach their listeners. From the call on, a new send or subscription raises `StateError`.
        For the end of a program that was told to stop.

        Args: timeout: seconds for all of it; None: no limit.
        Raises: OperationTimeout: something was not finished in time. The client is closed all the same, and each send
            that was not finished has raised `ClosedError` for its own caller.
        """
        limit = check_timeout(timeout, None)  # here, since whatever happens there ends the client
        self._portal.close(partial(self._async.drain, limit))

    def close(self) -> None:
        """Leave all channels and close the connection, for good; twice is once.

        Returns when nothing of the client is left: no task, timer, thread or socket; after some seconds also when the
        server does not answer. From inside a handler it returns when everything but that handler has ended. Everyone
        who waits gets `ClosedError`, and so does every later call.
        """
        self._portal.close(self._async.close)

    def wait_closed(self) -> None:
        """Wait until the client has ended. Raises what ended it, when that was not `close()` (R2)."""
        self._portal.spare()
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
    """A client of Realtime for code that blocks, for a sync client of the package `supabase`.

    URL and key are the other client's, and the token is that of the user who is signed in there: also after a refresh,
    after somebody else has signed in, and when nobody is signed in any more; then it is the key. A client that was made
    with an `Authorization` header sends that one until somebody signs in. Closing this client lets go of the other one,
    and does not close it. Everything else as with `connect`.

    Args: client: what `create_client` of `supabase` gives. close_on_sign_out: end this client with `AuthError` when the
        session is lost, by a sign-out or because it cannot be refreshed; left out, it goes on with the key. options:
        those of `connect`, but `token`.
    Raises: InvalidArgumentError: also for an async client, whose session can only be asked in its own event loop.
        ConnectError, AuthError.
    """
    account = Account(client, "from_supabase", close_on_sign_out)
    if account.waits:
        raise InvalidArgumentError(
            "from_supabase wants a sync client of the package supabase, and this one is async",
            hint="In its event loop: async with from_supabase_async(client) as realtime. Or create_client(url, key).",
        )
    chosen, endpoint = account.read(options)

    async def start() -> Driver:
        driver = Driver(endpoint, chosen, blocking=True)
        await account.open(driver)
        return driver

    portal = Portal()
    return Client(portal, portal.open(start))
