"""The exceptions of supawire, and `Sent`, the result of a send, which stands beside errors in `HttpError.outcomes`."""

from copy import copy
from dataclasses import dataclass
from typing import Final, Literal, TypedDict, TypeVar, Unpack

from supawire._display import hide_tokens, printable

DOCS_URL: Final = "https://supawire.readthedocs.io/en/latest/"
"""The address of the hosted pages; valid from the first release on."""

_MAX_MESSAGE: Final = 2000
"""Maximum characters of a message."""

E = TypeVar("E", bound=BaseException)


def again(error: E) -> E:
    """Return a copy of an error, for raising it in several places: a shared one would accumulate their tracebacks."""
    mine = copy(error)
    mine.__cause__, mine.__suppress_context__ = error.__cause__, error.__suppress_context__
    return mine


def docs_of(anchor: str) -> str:
    """Return the address of a section of the page of errors."""
    return f"{DOCS_URL}errors.html#{anchor}"


class Details(TypedDict, total=False):
    """Keyword arguments common to all errors."""

    code: str | None
    topic: str | None
    retryable: bool | None
    hint: str | None
    docs: str | None


class RealtimeError(Exception):
    """Base class of all exceptions that this library raises deliberately.

    Attributes: message: what happened. code: the server's error code, if it sent one. topic: the channel's sub-topic.
    retryable: whether the same call may succeed later without a change. hint: what you can do. docs: the address of the
    section of the page of errors that explains it.
    `str()` shows message and hint. An error never contains a token, a key or a control character, even if the server's
    text does. A long message is cut.
    """

    default_retryable: bool = False

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        topic: str | None = None,
        retryable: bool | None = None,
        hint: str | None = None,
        docs: str | None = None,
    ) -> None:
        self.message: str = printable(message, _MAX_MESSAGE)
        super().__init__(self.message)
        self.code: str | None = code
        self.topic: str | None = topic
        self.retryable: bool = self.default_retryable if retryable is None else retryable
        self.hint: str | None = hint
        self.docs: str = docs or docs_of(self._documented_class().__name__.lower())

    @classmethod
    def _documented_class(cls) -> type["RealtimeError"]:
        """Return this class, or for a subclass from elsewhere its nearest base in this module."""
        return next(base for base in cls.__mro__ if base.__module__ == __name__ and issubclass(base, RealtimeError))

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.hint}" if self.hint else self.message


class InvalidArgumentError(RealtimeError, ValueError):
    """An argument or option has a value that is not allowed; raised at once, before anything is sent."""


class StateError(RealtimeError, RuntimeError):
    """The call is not possible in this state, thread, process or event loop."""


class ClosedError(RealtimeError):
    """The client or channel was closed or removed; a closed one stays closed."""


class AuthError(RealtimeError, PermissionError):
    """A token cannot be obtained, or the server no longer accepts the current one."""


class ConnectError(RealtimeError, ConnectionError):
    """The connection could not be opened.

    `status`, `body`: the HTTP response, None when there was none; `retry_after`: the seconds to wait that it requested.
    `reached`: whether something accepted the connection and gave no HTTP answer, as far as the transport knows.
    """

    default_retryable: bool = True

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        body: str | None = None,
        retry_after: float | None = None,
        reached: bool = False,
        **details: Unpack[Details],
    ) -> None:
        super().__init__(message, **details)
        self.reached: bool = reached
        self.status: int | None = status
        self.body: str | None = None if body is None else hide_tokens(body)
        self.retry_after: float | None = retry_after


class ReconnectExhaustedError(ConnectError):
    """All connection attempts that `backoff` allows have failed."""

    default_retryable: bool = False


class ConnectionLostError(RealtimeError, ConnectionError):
    """The connection was lost while a request was pending.

    `maybe_sent`: True when the frame may have reached the server, False when it was certainly not sent.
    `close_code`: the WebSocket close code, None when none was received.
    """

    default_retryable: bool = True

    def __init__(
        self, message: str = "", *, maybe_sent: bool = True, close_code: int | None = None, **details: Unpack[Details]
    ) -> None:
        super().__init__(message, **details)
        self.maybe_sent: bool = maybe_sent
        self.close_code: int | None = close_code


class OperationTimeout(RealtimeError, TimeoutError):
    """The call's timeout has expired; a message may still have been delivered."""

    default_retryable: bool = True


class RateLimitedError(RealtimeError):
    """A limit on messages, joins, presence calls or channels delays the call beyond its timeout."""

    default_retryable: bool = True


class PayloadTooLargeError(RealtimeError):
    """A payload or frame is larger than the limit; nothing was delivered."""


class ProtocolError(RealtimeError):
    """One of the two sides violated the protocol."""


class LocalProtocolError(ProtocolError):
    """This library was about to violate the protocol or its own state machine: a bug in it."""


class RemoteProtocolError(ProtocolError):
    """The peer sent data that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of sending a broadcast.

    `via`: how it was sent; "queue": it is queued, see `offline`; "replaced": it was not sent, because a newer message
    with the same `latest` key took its place.

    `acked`: the server confirmed it; by HTTP, that it was authorized and is queued.

    `id`: the id of the stored message, if the server stores it and returns it, or the one given to `publish`.
    """

    via: Literal["socket", "http", "queue", "replaced"]
    acked: bool = False
    id: str | None = None


class HttpError(RealtimeError):
    """An HTTP request failed or was refused. `status`, `body`: the response; `status` is None when there was none.

    `maybe_sent`: True when the server may have processed the request, False when it certainly has not. `retry_after`:
    the seconds to wait that the server requested. `outcomes`: after `publish_many`, the result or error of each message
    in the order given; empty for a single message.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        body: str | None = None,
        maybe_sent: bool = False,
        retry_after: float | None = None,
        outcomes: tuple[Sent | RealtimeError, ...] = (),
        **details: Unpack[Details],
    ) -> None:
        super().__init__(message, **details)
        self.status: int | None = status
        self.body: str | None = None if body is None else hide_tokens(body)
        self.maybe_sent: bool = maybe_sent
        self.retry_after: float | None = retry_after
        self.outcomes = outcomes


class StreamError(RealtimeError):
    """A stream has ended, and is not complete. `status` says how, `reason` why.

    cancelled, failed: by its producer. lost: a part cannot be had any more. interrupted: the producer no longer
    answers, or reading has ended. corrupt: length or digest differ from those of the producer. too_large: longer than
    the reader accepts.
    """

    def __init__(
        self, message: str = "", *, status: str = "failed", reason: str | None = None, **details: Unpack[Details]
    ):
        super().__init__(message, **details)
        self.status: str = status
        self.reason: str | None = reason


class SlowConsumerError(RealtimeError):
    """A consumer was too slow and its buffer overflowed; events were dropped for it."""


class RowError(RealtimeError, ValueError):
    """A row does not fit its columns or its model. `raw`: the row as it was sent."""

    def __init__(self, message: str = "", *, raw: bytes | None = None, **details: Unpack[Details]) -> None:
        super().__init__(message, **details)
        self.raw: bytes | None = raw


class HandlerError(RealtimeError):
    """A handler raised; `__cause__` is its exception."""


class CacheError(RealtimeError):
    """The snapshot file of a mirror cannot be read or written; the mirror goes on without it."""


class SetupError(RealtimeError):
    """The database is not prepared for a worker, an outbox or a verifier. `sql`: statements that mend it, or None."""

    def __init__(self, message: str = "", *, sql: str | None = None, **details: Unpack[Details]) -> None:
        super().__init__(message, **details)
        self.sql: str | None = sql

    def __str__(self) -> str:
        return super().__str__() + (f"\n{self.sql}" if self.sql else "")


class JobLostError(RealtimeError):
    """The result of this attempt of a job no longer counts: its lease or its time has ended, or it was given back."""


class OutboxError(RealtimeError):
    """The store of an outbox cannot be read or written."""

    default_retryable: bool = True


class OutboxFullError(OutboxError):
    """An outbox has as many messages or bytes as it may hold; nothing was added."""


class BridgeError(RealtimeError):
    """A bridge cannot hand messages on for now, a message was given up, or its checkpoint cannot be used."""

    default_retryable: bool = True


class ServerError(RealtimeError):
    """The server refused a request or ended a channel."""


class JoinError(ServerError):
    """The server refused a join or a part of it."""


class JoinDeniedError(JoinError):
    """The server refused a join and will refuse it again until permissions or configuration change."""


class PushError(ServerError):
    """The server answered a broadcast or presence request with an error."""


TREE: Final = (
    RealtimeError,
    InvalidArgumentError,
    StateError,
    ClosedError,
    AuthError,
    ConnectError,
    ReconnectExhaustedError,
    ConnectionLostError,
    OperationTimeout,
    RateLimitedError,
    PayloadTooLargeError,
    ProtocolError,
    LocalProtocolError,
    RemoteProtocolError,
    HttpError,
    StreamError,
    SlowConsumerError,
    RowError,
    HandlerError,
    CacheError,
    SetupError,
    JobLostError,
    OutboxError,
    OutboxFullError,
    BridgeError,
    ServerError,
    JoinError,
    JoinDeniedError,
    PushError,
)
