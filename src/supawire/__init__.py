"""A client for Supabase Realtime, and a local server to run it against.

    with supawire.connect(url, key) as client:  # or: async with supawire.connect_async(url, key) as client:
        for change in client.channel("db").listen(supawire.changes("users")):
            print(change)

Every public name is imported from here. The client itself is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from supawire._mirror_events import (
    MirrorEvent,
    MirrorState,
    MirrorStats,
    Resynced,
    RowDeleted,
    RowInserted,
    RowUpdated,
)
from supawire.errors import (
    AuthError,
    BridgeError,
    CacheError,
    ClosedError,
    ConnectError,
    ConnectionLostError,
    HandlerError,
    HttpError,
    InvalidArgumentError,
    JobLostError,
    JoinDeniedError,
    JoinError,
    LocalProtocolError,
    OperationTimeout,
    OutboxError,
    OutboxFullError,
    PayloadTooLargeError,
    ProtocolError,
    PushError,
    RateLimitedError,
    RealtimeError,
    ReconnectExhaustedError,
    RemoteProtocolError,
    RowError,
    ServerError,
    SetupError,
    SlowConsumerError,
    StateError,
    StreamError,
)
from supawire.events import (
    Broadcast,
    Budget,
    Change,
    ChannelState,
    ChannelStats,
    ConnectionState,
    Delete,
    Event,
    Gap,
    HealthCheck,
    Heartbeat,
    Insert,
    Presence,
    PresenceEvent,
    PresenceJoin,
    PresenceLeave,
    PresenceState,
    PresenceSync,
    PresenceUpdate,
    Sent,
    SocketStats,
    Stats,
    Status,
    System,
    Update,
)
from supawire.filters import FilterColumn, Where, col
from supawire.options import Backoff, ChannelOptions, ClientOptions, Limits
from supawire.selectors import Selector, broadcast, changes, gaps, presence, status, system

if TYPE_CHECKING:
    from supawire.aio.channel import AsyncChannel, AsyncQueuedSent
    from supawire.aio.client import AsyncClient
    from supawire.aio.connect import ClientOpener, connect_async
    from supawire.aio.handlers import Subscription
    from supawire.aio.history import AsyncHistory, AsyncMessageStream
    from supawire.aio.http_publish import Message, Published
    from supawire.aio.live_streams import (
        AsyncStreamReader,
        AsyncStreams,
        AsyncStreamWriter,
        StoredStream,
        StreamResult,
        StreamStore,
    )
    from supawire.aio.mirror import AsyncMirror
    from supawire.aio.outbox import AsyncOutbox, OutboxStats
    from supawire.aio.stream import AsyncStream
    from supawire.aio.supabase import from_supabase_async
    from supawire.aio.throttled import AsyncThrottledSender
    from supawire.core.verification import Summary
    from supawire.cursors import Cursor, StoredBroadcast
    from supawire.outbox_stores.base import DeadMessage, OutboxStore
    from supawire.outbox_stores.postgres import PostgresOutbox
    from supawire.outbox_stores.sqlite import SqliteOutbox
    from supawire.server.local import LocalServer as LocalServer  # not in __all__: it requires an extra
    from supawire.sync.channel import Channel, QueuedSent
    from supawire.sync.client import Client, connect, from_supabase
    from supawire.sync.history import History, MessageStream
    from supawire.sync.live_streams import StreamReader, Streams, StreamWriter
    from supawire.sync.mirror import Mirror
    from supawire.sync.outbox import Outbox
    from supawire.sync.stream import Stream
    from supawire.sync.throttled import ThrottledSender
    from supawire.verifiers import PostgresVerifier, VerifiedTable, Verifier

    __version__: str

__all__ = [
    "AsyncChannel",
    "AsyncClient",
    "AsyncHistory",
    "AsyncMessageStream",
    "AsyncMirror",
    "AsyncOutbox",
    "AsyncQueuedSent",
    "AsyncStream",
    "AsyncStreamReader",
    "AsyncStreamWriter",
    "AsyncStreams",
    "AsyncThrottledSender",
    "AuthError",
    "Backoff",
    "BridgeError",
    "Broadcast",
    "Budget",
    "CacheError",
    "Change",
    "Channel",
    "ChannelOptions",
    "ChannelState",
    "ChannelStats",
    "Client",
    "ClientOpener",
    "ClientOptions",
    "ClosedError",
    "ConnectError",
    "ConnectionLostError",
    "ConnectionState",
    "Cursor",
    "DeadMessage",
    "Delete",
    "Event",
    "FilterColumn",
    "Gap",
    "HandlerError",
    "HealthCheck",
    "Heartbeat",
    "History",
    "HttpError",
    "Insert",
    "InvalidArgumentError",
    "JobLostError",
    "JoinDeniedError",
    "JoinError",
    "Limits",
    "LocalProtocolError",
    "Message",
    "MessageStream",
    "Mirror",
    "MirrorEvent",
    "MirrorState",
    "MirrorStats",
    "OperationTimeout",
    "Outbox",
    "OutboxError",
    "OutboxFullError",
    "OutboxStats",
    "OutboxStore",
    "PayloadTooLargeError",
    "PostgresOutbox",
    "PostgresVerifier",
    "Presence",
    "PresenceEvent",
    "PresenceJoin",
    "PresenceLeave",
    "PresenceState",
    "PresenceSync",
    "PresenceUpdate",
    "ProtocolError",
    "Published",
    "PushError",
    "QueuedSent",
    "RateLimitedError",
    "RealtimeError",
    "ReconnectExhaustedError",
    "RemoteProtocolError",
    "Resynced",
    "RowDeleted",
    "RowError",
    "RowInserted",
    "RowUpdated",
    "Selector",
    "Sent",
    "ServerError",
    "SetupError",
    "SlowConsumerError",
    "SocketStats",
    "SqliteOutbox",
    "StateError",
    "Stats",
    "Status",
    "StoredBroadcast",
    "StoredStream",
    "Stream",
    "StreamError",
    "StreamReader",
    "StreamResult",
    "StreamStore",
    "StreamWriter",
    "Streams",
    "Subscription",
    "Summary",
    "System",
    "ThrottledSender",
    "Update",
    "VerifiedTable",
    "Verifier",
    "Where",
    "broadcast",
    "changes",
    "col",
    "connect",
    "connect_async",
    "from_supabase",
    "from_supabase_async",
    "gaps",
    "presence",
    "status",
    "system",
]

_HOMES: Final = {
    "AsyncChannel": "aio.channel",
    "AsyncClient": "aio.client",
    "AsyncHistory": "aio.history",
    "AsyncMessageStream": "aio.history",
    "AsyncMirror": "aio.mirror",
    "AsyncOutbox": "aio.outbox",
    "AsyncQueuedSent": "aio.channel",
    "AsyncStream": "aio.stream",
    "AsyncStreamReader": "aio.live_streams",
    "AsyncStreamWriter": "aio.live_streams",
    "AsyncThrottledSender": "aio.throttled",
    "ThrottledSender": "sync.throttled",
    "AsyncStreams": "aio.live_streams",
    "Channel": "sync.channel",
    "Client": "sync.client",
    "DeadMessage": "outbox_stores.base",
    "Cursor": "cursors",
    "History": "sync.history",
    "LocalServer": "server",
    "Message": "aio.http_publish",
    "MessageStream": "sync.history",
    "Mirror": "sync.mirror",
    "ClientOpener": "aio.connect",
    "Outbox": "sync.outbox",
    "OutboxStats": "aio.outbox",
    "OutboxStore": "outbox_stores.base",
    "PostgresOutbox": "outbox_stores.postgres",
    "PostgresVerifier": "verifiers",
    "Summary": "core.verification",
    "VerifiedTable": "verifiers",
    "Verifier": "verifiers",
    "Published": "aio.http_publish",
    "QueuedSent": "sync.channel",
    "SqliteOutbox": "outbox_stores.sqlite",
    "StoredBroadcast": "cursors",
    "Stream": "sync.stream",
    "StreamReader": "sync.live_streams",
    "StoredStream": "aio.live_streams",
    "StreamResult": "aio.live_streams",
    "StreamStore": "aio.live_streams",
    "StreamWriter": "sync.live_streams",
    "Streams": "sync.live_streams",
    "Subscription": "aio.handlers",
    "connect": "sync.client",
    "connect_async": "aio.connect",
    "from_supabase": "sync.client",
    "from_supabase_async": "aio.supabase",
}

if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise accept every misspelt name

    def __getattr__(name: str) -> Any:
        """Import names that need asyncio or an extra when they are first used."""
        if name == "__version__":
            from importlib.metadata import version

            return version("supawire")
        if name == "LinkState":  # its name before 0.1.0
            return ConnectionState
        home = _HOMES.get(name)
        if home is None:
            from inspect import currentframe

            from supawire._other_clients import explain_import

            frame = currentframe()
            explained = explain_import(name, None if frame is None else frame.f_back)
            if explained is not None:
                raise explained
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES, "__version__"})
