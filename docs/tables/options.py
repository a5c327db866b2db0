"""Tables of the options, from `supawire.options`. An option without a meaning here fails the test."""

from dataclasses import Field, fields
from typing import Any

from docs.tables import rows, table
from supawire.options import Backoff, ChannelOptions, ClientOptions, Limits

CLIENT = {
    "token": "The user's JWT, or a callable (plain or `async`) that returns one or `None`. It is called before every connection and "
    "join, and before the token expires.",
    "protocol": 'Protocol version; `"1.0.0"` for old servers. Payloads of bytes need `"2.0.0"`.',
    "heartbeat": "Seconds between two heartbeats, below 60. If one is not answered within `timeout`, the connection is closed and "
    "replaced.",
    "timeout": "Seconds to wait for the reply to a request and for one attempt to connect; twice that for joins. Calls have their own "
    "`timeout`.",
    "open_timeout": "Seconds for the first connection, all attempts together; `None`: no limit.",
    "backoff": "Delays between attempts to connect: a `Backoff`, or a callable that takes the number of the attempt and returns seconds.",
    "rejoin_backoff": "The same for attempts to join a channel.",
    "offline": 'What a send does while the channel is not joined: `"raise"`, `"wait"` until it is sent or its timeout has passed, '
    '`"queue"` and return at once, or send by HTTP (`"http"`; the result says so).',
    "queue_size": 'Number of sends that `offline="queue"` keeps.',
    "limits": "Limits that the client enforces itself, see below.",
    "idle_disconnect": "Seconds without a subscribed channel after which the connection is closed; the next `subscribe` opens it again.",
    "max_sockets": "The most sockets of this client. Each has at most `limits.channels` channels; with more than 1, another one is "
    "opened when all are full, see [more than 100 channels](connections.md#more-than-100-channels).",
    "token_on_heartbeat": "Also call the callable of `token` at each heartbeat, for tokens that can be revoked or replaced before they "
    "expire; a changed token is sent to the server at once.",
    "max_retry_after": "Longest delay in seconds that the server can request with `Retry-After`; longer ones are reduced to this.",
    "headers": "Additional headers for the handshake and for HTTP requests.",
    "params": "Additional parameters for the query of the URL.",
    "ssl": "TLS settings; certificates are verified unless an `ssl.SSLContext` here says otherwise.",
    "proxy": "URL of a proxy: `http://`, `https://`, or with the extra `supawire[socks]` `socks5://`, `socks5h://` (the proxy resolves "
    "names), `socks4://`, `socks4a://`.",
    "host": "Name for the Host header and for TLS, if it differs from the URL's.",
    "on_error": "Called with every error that no call raises: exceptions of handlers, failures in the background. Without it they are "
    "logged.",
    "transport": "A WebSocket implementation, see `supawire.transport`.",
    "http": "An HTTP client, see `supawire.transport.HttpClient`.",
    "logger": "The parent logger, instead of `supawire`.",
    "on_frame": "Called with every frame, without tokens. Must return quickly.",
    "fallback": '`"longpoll"`: use long polling where WebSockets are blocked, and try WebSockets again from time to time; see '
    "[transports](transports.md#long-polling).",
    "history": "What reads stored messages for `history` and for `listen(from_=…)`: a `DatabaseHistory`, a `RestHistory` or one of yours; "
    "see [history](history.md). You close it.",
    "telemetry": "A `supawire.telemetry.Telemetry`, which makes spans and metrics; see [OpenTelemetry](telemetry.md).",
}

CHANNEL = {
    "private": "Join the private topic of that name, which policies protect. The public topic of the same name is separate.",
    "echo": "Also receive this client's own broadcasts.",
    "ack": "Each broadcast waits for the server's confirmation.",
    "presence_key": "This client's key in presence; if omitted, the server generates one.",
    "replay_since": "Receive messages stored since then: Unix seconds or an aware `datetime`. Private channels only.",
    "replay_limit": "Number of messages to replay, 1 to 25; the newest are sent. After a gap it is always 25.",
    "replay_gaps": "After a rejoin of a private channel, receive the messages stored meanwhile; see `Gap`.",
    "replication_ready": "Ask the server to report when broadcasts from the database are live; `ready()` waits for it.",
    "wait": "The server answers a join with listeners for changes only when changes are live, and refuses it if they are not in time: "
    "`True` for 15 seconds, or how many; the server's own maximum is 20. A server that does not know the option answers at once; "
    "`subscribe()` waits all the same.",
    "token": "A token for this channel only.",
}

LIMITS = {
    "channels": "subscribed channels on one connection",
    "joins_per_second": "joins",
    "messages_per_second": "messages sent",
    "presence_calls": "`track` and `untrack` on one channel within `presence_window`",
    "presence_window": "seconds",
    "presence_per_second": "`track` and `untrack` on all channels of the client; the server's limit is for all clients of the project",
    "presence_keys": "keys of one tracked payload",
    "payload_bytes": "size of a broadcast's payload",
    "frame_bytes": "size of a frame",
}


def _default(field: Field[Any]) -> str:
    value = field.default
    if isinstance(value, Backoff):
        return f"`Backoff(initial={value.initial:g})`"
    return f"`{value!r}`" if value != Limits() else "`Limits()`"


def _options(kind: type[ClientOptions | ChannelOptions], meanings: dict[str, str]) -> str:
    return rows(
        ["option", "default", "meaning"],
        [[f"`{field.name}`", _default(field), meanings[field.name]] for field in fields(kind)],
    )


@table("options")
def options() -> str:
    """Return the table of the options of `connect` and `connect_async`."""
    return _options(ClientOptions, CLIENT)


@table("channel-options")
def channel_options() -> str:
    """Return the table of the options of `channel`."""
    return _options(ChannelOptions, CHANNEL)


@table("limits")
def limits() -> str:
    """Return the table of the predefined `Limits`."""
    plans = {
        "Limits()": Limits(),
        ".free()": Limits.free(),
        ".pro()": Limits.pro(),
        ".team()": Limits.team(),
        ".off()": Limits.off(),
    }
    names = [field.name for field in fields(Limits)]
    return rows(
        ["limit", "of", *(f"`{plan}`" for plan in plans)],
        [[f"`{name}`", LIMITS[name], *(_number(getattr(plan, name)) for plan in plans.values())] for name in names],
    )


def _number(value: float | None) -> str:
    return "no limit" if value is None else f"{value:,}".removesuffix(".0")
