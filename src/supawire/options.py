"""Options, validated when they are created and frozen afterwards; mutable arguments are copied.

`ClientOptions` are those of `connect`, `SessionOptions` the part of them that the core needs, `ChannelOptions` those of
`channel`; `Endpoint` parses the URL. The argument checks of all other calls are re-exported from here too.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from supawire._endpoint import Endpoint, check_host, check_params
from supawire._validation import (
    DEFAULT,
    Default,
    Secret,
    Timeout,
    check_bool,
    check_callable,
    check_choice,
    check_count,
    check_event,
    check_headers,
    check_json,
    check_key,
    check_kind,
    check_number,
    check_plain,
    check_secret,
    check_takes,
    check_text,
    check_timeout,
    check_token,
    check_topic,
    check_writable,
    refuse,
)
from supawire.errors import InvalidArgumentError

if TYPE_CHECKING:
    import logging
    import ssl

    from supawire.cursors import HistorySource

__all__ = [
    "DEFAULT",
    "OFFLINE",
    "PROTOCOLS",
    "Backoff",
    "ChannelOptions",
    "ClientOptions",
    "Default",
    "Endpoint",
    "Fallback",
    "Limits",
    "Offline",
    "Protocol",
    "Secret",
    "SessionOptions",
    "Timeout",
    "TokenProvider",
    "check_bool",
    "check_callable",
    "check_choice",
    "check_count",
    "check_event",
    "check_json",
    "check_key",
    "check_kind",
    "check_number",
    "check_persist",
    "check_secret",
    "check_text",
    "check_timeout",
    "check_token",
    "check_topic",
    "check_writable",
    "refuse",
]

Protocol = Literal["1.0.0", "2.0.0"]
Fallback = Literal["longpoll"]
Offline = Literal["raise", "wait", "queue", "http"]
TokenProvider = Callable[[], str | Secret | Awaitable[str | Secret | None] | None]

PROTOCOLS: Final[tuple[Protocol, ...]] = ("2.0.0", "1.0.0")
FALLBACKS: Final[tuple[Fallback, ...]] = ("longpoll",)
OFFLINE: Final[tuple[Offline, ...]] = ("raise", "wait", "queue", "http")
DEFAULT_WAIT: Final = 15.0
"""Seconds of `wait=True`; the server's own maximum is 20 by default."""
MAX_TTL: Final = 72 * 3600
"""The most seconds for which the server stores a message."""
_PROXIES: Final = ("http://", "https://", "socks4://", "socks4a://", "socks5://", "socks5h://")
_IDLE_LIMIT: Final = "the server closes a socket that sends nothing for 60 s"


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before another attempt, in seconds.

    Attempt n = 0, 1, 2 … has the step min(maximum, initial * factor**n). Attempt 0 waits between 0 and its step, later
    ones between step * (1 - jitter/2) and the step; jitter=0 waits exactly the step. max_attempts: None for no limit;
    max_elapsed: seconds since the first failure after which no further attempt is made; None for no limit.
    """

    initial: float = 1.5
    maximum: float = 30.0
    factor: float = 2.0
    jitter: float = 1.0
    max_attempts: int | None = None
    max_elapsed: float | None = None

    def __post_init__(self) -> None:
        check_number("initial", self.initial, minimum=0, unit="seconds")
        check_number(
            "maximum",
            self.maximum,
            minimum=self.initial,
            unit="seconds",
            why="it limits every step, including the initial one",
        )
        check_number("factor", self.factor, minimum=1, why="the steps would become shorter")
        check_number("jitter", self.jitter, minimum=0, maximum=1)
        if self.max_attempts is not None:
            check_count("max_attempts", self.max_attempts, why="None means no limit")
        if self.max_elapsed is not None:
            check_number("max_elapsed", self.max_elapsed, above=0, unit="seconds", why="None means no limit")

    def ends(self, attempts: int, elapsed: float) -> bool:
        """Return whether no further attempt is made after this number of attempts and seconds."""
        return (self.max_attempts is not None and attempts >= self.max_attempts) or (
            self.max_elapsed is not None and elapsed >= self.max_elapsed
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that the client enforces itself, by delaying or refusing calls; None: no limit.

    channels: per connection. joins_per_second, messages_per_second: averages, with bursts of one second.
    presence_calls: track and untrack calls per channel in `presence_window` seconds;
    presence_per_second: average over all channels; presence_keys: in one payload. payload_bytes, frame_bytes: sizes.
    """

    channels: int | None = 100
    joins_per_second: float | None = 50
    messages_per_second: float | None = None
    presence_calls: int | None = 5
    presence_window: float = 30.0
    presence_per_second: float | None = None
    presence_keys: int | None = None
    payload_bytes: int | None = 3_000_000
    frame_bytes: int | None = 5_000_000

    def __post_init__(self) -> None:
        for name in ("channels", "presence_calls", "presence_keys", "payload_bytes", "frame_bytes"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), why="None means no limit")
        for name in ("joins_per_second", "messages_per_second", "presence_per_second", "presence_window"):
            if getattr(self, name) is not None or name == "presence_window":
                check_number(name, getattr(self, name), above=0)

    @classmethod
    def free(cls) -> Limits:
        """Return the limits of the hosted free plan. See docs/protocol.md, Limits."""
        return cls(
            joins_per_second=100,
            messages_per_second=100,
            presence_per_second=20,
            presence_keys=10,
            payload_bytes=256_000,
        )

    @classmethod
    def pro(cls) -> Limits:
        """Return the limits of the hosted pro plan. See docs/protocol.md, Limits."""
        return cls(joins_per_second=500, messages_per_second=500, presence_per_second=50, presence_keys=10)

    @classmethod
    def team(cls) -> Limits:
        """Return the limits of the hosted team and higher plans. See docs/protocol.md, Limits."""
        return cls(joins_per_second=2500, messages_per_second=2500, presence_per_second=1000, presence_keys=10)

    @classmethod
    def off(cls) -> Limits:
        """Return no client-side limits. The server's own limits still apply, and some of them close channels."""
        return cls(None, None, None, None, payload_bytes=None, frame_bytes=None)


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """The options of `channel`; equal options mean the same channel.

    private: use the private channel, which policies protect. echo: receive our own broadcasts. ack: broadcasts wait for
    the server's confirmation. presence_key: our key in presence. replay_since: Unix seconds or an aware datetime;
    replay_limit: 1 to 25; both for private channels only. replay_gaps: after a private channel is rejoined, request the
    messages stored meanwhile. replication_ready: report when database broadcasts are live. wait: the server answers a
    join with listeners for changes only when they are live; True, or for how many seconds at most. token: for this
    channel only.
    """

    private: bool = False
    echo: bool = False
    ack: bool = False
    presence_key: str | None = None
    replay_since: float | datetime | None = None
    replay_limit: int | None = None
    replay_gaps: bool = True
    replication_ready: bool = False
    wait: bool | float = False
    token: str | Secret | None = None

    def __post_init__(self) -> None:
        for name in ("private", "echo", "ack", "replication_ready", "replay_gaps"):
            check_bool(name, getattr(self, name))
        if self.presence_key is not None:
            check_text("presence_key", self.presence_key)
        if self.replay_since is not None:
            object.__setattr__(self, "replay_since", _unix_seconds(self.replay_since))
            if not self.private:
                raise InvalidArgumentError(
                    "replay_since requires private=True: the server stores messages of private topics only"
                )
        if self.replay_limit is not None:
            check_count(
                "replay_limit", self.replay_limit, maximum=25, why="the server sends at most 25 stored messages"
            )
            if self.replay_since is None:
                raise InvalidArgumentError("replay_limit requires replay_since; pass both")
        if not isinstance(self.wait, bool):
            check_number("wait", self.wait, above=0, unit="seconds, or True")
        if callable(self.token):
            raise InvalidArgumentError(
                "token= of a channel must be a string; pass a callable to connect(), for all channels"
            )
        if self.token is not None:
            object.__setattr__(self, "token", check_token("token", self.token))

    @property
    def replay_since_ms(self) -> int | None:
        """The start of the replay as sent to the server: whole milliseconds since 1970, rounded down."""
        return None if self.replay_since is None else math.floor(_unix_seconds(self.replay_since) * 1000)

    @property
    def wait_seconds(self) -> float | None:
        """How long the server may hold the reply to a join until changes are live; None: it replies at once."""
        if isinstance(self.wait, bool):
            return DEFAULT_WAIT if self.wait else None
        return self.wait

    @property
    def secret(self) -> Secret | None:
        """The channel's own token."""
        return None if self.token is None else check_token("token", self.token)


def _unix_seconds(value: object) -> float:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidArgumentError(
                f"replay_since={value!r} has no time zone; pass an aware datetime, such as datetime.now(UTC)"
            )
        return value.timestamp()
    seconds = check_number("replay_since", value, minimum=0, unit="in Unix seconds, or an aware datetime")
    if seconds > 100_000_000_000:
        raise InvalidArgumentError(f"replay_since={value!r} seems to be in milliseconds; pass Unix seconds")
    return seconds


def check_persist(value: object) -> bool | int:
    """Return a valid `persist`: whether to store a broadcast, or for how many whole seconds."""
    if isinstance(value, bool):
        return value
    return check_count(
        "persist", value, maximum=MAX_TTL, why="it is True, or the seconds to store the message, at most 72 hours"
    )


class SessionOptions(Struct, frozen=True):
    """The options that the core uses; where a delay is None, the core requests it from the shell (`AskDelay`)."""

    protocol: Protocol = "2.0.0"
    heartbeat: float = 25.0
    timeout: float = 10.0
    open_timeout: float | None = 20.0
    backoff: Backoff | None = Backoff()
    rejoin_backoff: Backoff | None = Backoff(initial=1.0)
    offline: Offline = "raise"
    queue_size: int = 1000
    limits: Limits = Limits()
    idle_disconnect: float | None = None
    max_sockets: int = 1
    token_on_heartbeat: bool = False
    max_retry_after: float = 300.0
    fallback: bool = False
    has_token_provider: bool = False
    traces: bool = False


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """All options of `connect`; times in seconds.

    token: a string, or a callable that returns one or None. heartbeat: its interval. timeout: for replies, and for
    one connection attempt. open_timeout: for the first connection, all attempts together; None: no limit. offline:
    what sending does while the channel is not joined. queue_size: how many messages "queue" holds. idle_disconnect:
    close the socket after this time without channels. max_sockets: the most sockets over which channels are spread,
    each with at most `limits.channels`. token_on_heartbeat: call the callable of token= at each heartbeat
    too. max_retry_after: the longest wait accepted from the server (Retry-After). host: Host and TLS name instead of
    the URL's.
    on_error: receives errors that no caller is waiting for. history: reads stored messages.
    telemetry: spans and metrics. fallback: "longpoll": use long polling where WebSockets are blocked.
    """

    token: str | Secret | TokenProvider | None = field(default=None, repr=False)
    protocol: Protocol = "2.0.0"
    heartbeat: float = 25.0
    timeout: float = 10.0
    open_timeout: float | None = 20.0
    backoff: Backoff | Callable[[int], float] = Backoff()
    rejoin_backoff: Backoff | Callable[[int], float] = Backoff(initial=1.0)
    offline: Offline = "raise"
    queue_size: int = 1000
    limits: Limits = Limits()
    idle_disconnect: float | None = None
    max_sockets: int = 1
    token_on_heartbeat: bool = False
    max_retry_after: float = 300.0
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    params: Mapping[str, str] | None = field(default=None, repr=False)
    ssl: ssl.SSLContext | None = None
    proxy: str | Secret | None = field(default=None, repr=False)
    host: str | None = None
    on_error: Callable[[Exception], object] | None = None
    transport: Any = None
    http: Any = None
    logger: logging.Logger | None = None
    on_frame: Callable[..., object] | None = None
    history: HistorySource | None = None
    telemetry: Any = None
    fallback: Fallback | None = None

    def __post_init__(self) -> None:
        if callable(self.token):
            check_takes("token", self.token, 0, "a string, or a function without arguments that returns one")
        elif self.token is not None:
            object.__setattr__(self, "token", check_token("token", self.token))
        check_choice("protocol", self.protocol, PROTOCOLS)
        check_choice("offline", self.offline, OFFLINE)
        check_number("heartbeat", self.heartbeat, above=0, below=60, unit="seconds", why=_IDLE_LIMIT)
        check_number("timeout", self.timeout, above=0, unit="seconds")
        check_number("max_retry_after", self.max_retry_after, minimum=0, unit="seconds")
        for name in ("open_timeout", "idle_disconnect"):
            check_timeout(getattr(self, name), None, name)
        check_count("queue_size", self.queue_size)
        check_count("max_sockets", self.max_sockets)
        check_bool("token_on_heartbeat", self.token_on_heartbeat)
        if self.fallback is not None:
            check_choice("fallback", self.fallback, FALLBACKS)
        self._check_delays()
        self._check_connection()
        if self.on_error is not None:
            check_takes("on_error", check_plain("on_error", self.on_error), 1, "a function of one error")
        if self.history is not None and not callable(getattr(self.history, "read", None)):
            raise InvalidArgumentError(
                f"history must have a method read, such as DatabaseHistory(url), not {self.history!r}"
            )
        if self.telemetry is not None and not callable(getattr(self.telemetry, "client", None)):
            raise InvalidArgumentError(
                f"telemetry must be a supawire.telemetry.Telemetry, not {self.telemetry!r}",
                hint="Give your providers to it: Telemetry(tracer_provider=…, meter_provider=…).",
            )
        if self.on_frame is not None:
            hook = check_plain("on_frame", self.on_frame)
            check_takes("on_frame", hook, 3, "a function of (direction, data, binary)")

    def _check_delays(self) -> None:
        for name in ("backoff", "rejoin_backoff"):
            value = getattr(self, name)
            if not isinstance(value, Backoff) and (isinstance(value, type) or not callable(value)):
                raise InvalidArgumentError(
                    f"{name} must be a Backoff or a function of the attempt number, not {value!r}"
                )
            if not isinstance(value, Backoff):
                check_takes(name, value, 1, "a Backoff or a function of the attempt number")
        if not isinstance(self.limits, Limits):
            raise InvalidArgumentError(f"limits must be a Limits, such as Limits.free(), not {self.limits!r}")

    def _check_connection(self) -> None:
        object.__setattr__(self, "headers", MappingProxyType(check_headers("headers", self.headers or {})))
        object.__setattr__(self, "params", MappingProxyType(check_params(self.params or {})))
        if self.host is not None:
            check_host(self.host)
        if self.ssl is not None and not hasattr(self.ssl, "wrap_bio"):
            raise InvalidArgumentError(
                f"ssl must be an ssl.SSLContext, not {self.ssl!r}; configure the checks of certificates in the context"
            )
        if self.proxy is not None:
            proxy = check_secret("proxy", self.proxy)
            if not proxy.reveal().startswith(_PROXIES):
                raise InvalidArgumentError(f"proxy must be a URL that begins with one of {', '.join(_PROXIES)}")
            object.__setattr__(self, "proxy", proxy)

    @property
    def secret(self) -> Secret | None:
        """The token, if it was given as a string."""
        return self.token if isinstance(self.token, Secret) else None

    @property
    def token_provider(self) -> TokenProvider | None:
        """The callable, if the token was given as one."""
        return self.token if callable(self.token) else None

    def endpoint(self, url: str, key: str | Secret) -> Endpoint:
        """Return the addresses for `url` with these options."""
        return Endpoint.of(url, key, protocol=self.protocol, params=self.params, host=self.host)

    def session(self) -> SessionOptions:
        """Return the options for the core."""
        return SessionOptions(
            protocol=self.protocol,
            heartbeat=self.heartbeat,
            timeout=self.timeout,
            open_timeout=self.open_timeout,
            backoff=self.backoff if isinstance(self.backoff, Backoff) else None,
            rejoin_backoff=self.rejoin_backoff if isinstance(self.rejoin_backoff, Backoff) else None,
            offline=self.offline,
            queue_size=self.queue_size,
            limits=self.limits,
            idle_disconnect=self.idle_disconnect,
            max_sockets=self.max_sockets,
            token_on_heartbeat=self.token_on_heartbeat,
            max_retry_after=self.max_retry_after,
            fallback=self.fallback is not None,
            has_token_provider=self.token_provider is not None,
            traces=self.telemetry is not None and self.telemetry.propagates,
        )
