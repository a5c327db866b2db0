"""The options, from `supawire.options`; one without its meaning here fails the test."""

from dataclasses import Field, fields
from typing import Any

from docs.tables import rows, table
from supawire.options import Backoff, ChannelOptions, ClientOptions, Limits

CLIENT = {
    "token": "The user's JWT, or a callable (plain or `async`) that returns one or `None`. The callable is asked before every "
    "connection and join, and before the token runs out.",
    "protocol": 'Version of the wire; `"1.0.0"` for old servers. Payloads of bytes need `"2.0.0"`.',
    "heartbeat": "Seconds between two heartbeats, below 60. A heartbeat that is not answered within `timeout` ends the connection, "
    "and a new one is made.",
    "timeout": "Seconds for the reply to a request and for one attempt to connect; joins get twice that. Calls take their own.",
    "open_timeout": "Seconds for the first connection, all attempts together; `None`: no limit.",
    "backoff": "Delays between attempts to connect: a `Backoff`, or a callable from the number of the attempt to seconds.",
    "rejoin_backoff": "The same for attempts to join a channel.",
    "offline": 'What a send does while the channel is not joined: `"raise"`, `"wait"` until sent or timed out, `"queue"` and '
    'return at once, or `"http"`: go out by HTTP, visibly.',
    "queue_size": 'How many sends `offline="queue"` holds.',
    "limits": "What the client paces or refuses by itself, see below.",
    "idle_disconnect": "Close the socket after so many seconds without a wanted channel; the next `subscribe` opens it again.",
    "token_on_heartbeat": "Ask the callable of `token` at each heartbeat too, for tokens that may be withdrawn or replaced before "
    "they run out; a changed one is told to the server at once.",
    "max_retry_after": "The longest wait in seconds that the server may ask for with `Retry-After`; a longer one is cut to this.",
    "headers": "More headers for the handshake and for HTTP requests.",
    "params": "More parameters for the query of the URL.",
    "ssl": "The TLS settings; certificates are verified unless you say otherwise here.",
    "proxy": "URL of a proxy: `http://`, `https://`, or with the extra `supawire[socks]` `socks5://`, `socks5h://` (names are looked up there), `socks4://`, `socks4a://`.",
    "host": "Name for the Host header and for TLS, where it is not the URL's.",
    "on_error": "Gets every error that no call waits for: exceptions of handlers, failures in the background. Left out, they are "
    "logged.",
    "transport": "Another WebSocket, see `supawire.transport`.",
    "http": "Another HTTP client, see `supawire.transport.HttpClient`.",
    "logger": "Another logger than `supawire`.",
    "on_frame": "Sees every frame, without tokens. Must be quick.",
}

CHANNEL = {
    "private": "Join the private room of that name, which policies guard. A public room of the same name is another room.",
    "echo": "Also get what this client broadcasts.",
    "ack": "Each broadcast waits for the server's confirmation.",
    "presence_key": "This client's name in presence; left out, the server makes one up.",
    "replay_since": "Get stored messages since then: Unix seconds or an aware `datetime`. Private channels only.",
    "replay_limit": "How many of them, 1 to 25: the newest. After a gap it is always 25.",
    "replay_gaps": "After a rejoin of a private channel, get what the server stored meanwhile; see `Gap`.",
    "replication_ready": "Ask the server to say when broadcasts from the database are live; `ready()` waits for it.",
    "token": "A token for this channel alone.",
}

LIMITS = {
    "channels": "wanted channels on one connection",
    "joins_per_second": "joins",
    "messages_per_second": "messages sent",
    "presence_calls": "`track` and `untrack` on one channel within `presence_window`",
    "presence_window": "seconds",
    "presence_per_second": "`track` and `untrack` on all channels of the client; the project counts everybody's",
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
    """Every option of `connect` and `connect_async`."""
    return _options(ClientOptions, CLIENT)


@table("channel-options")
def channel_options() -> str:
    """Every option of `channel`."""
    return _options(ChannelOptions, CHANNEL)


@table("limits")
def limits() -> str:
    """What each ready-made `Limits` says."""
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
