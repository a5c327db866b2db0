"""The tree of errors; `supawire.errors` is where it is imported from, and shows it at its top."""

from copy import copy
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar, Unpack

from supawire._display import hide_tokens, printable

if TYPE_CHECKING:
    from supawire.events import Sent

_LONGEST: Final = 2000
"""Characters of a message."""

E = TypeVar("E", bound=BaseException)


def again(error: E) -> E:
    """A copy to raise in one more place: an error that is raised in many collects the tracebacks of all of them."""
    mine = copy(error)
    mine.__cause__, mine.__suppress_context__ = error.__cause__, error.__suppress_context__
    return mine


class Details(TypedDict, total=False):
    """What every error of the tree takes by keyword."""

    code: str | None
    topic: str | None
    retryable: bool | None
    hint: str | None
    docs: str | None


class RealtimeError(Exception):
    """Base of everything this library raises on purpose.

    Attributes: message: what happened. code: the server's own code, where it gave one. topic: the channel's sub-topic.
    retryable: whether the same call may succeed later without a change. hint: what you can do. docs: where the page of
    errors says more.
    `str()` shows message and hint. No token or key is ever part of an error, and no control character: a server, or
    who speaks in its place, may say anything. A long message is cut.
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
        self.message: str = printable(message, _LONGEST)
        super().__init__(self.message)
        self.code: str | None = code
        self.topic: str | None = topic
        self.retryable: bool = self.default_retryable if retryable is None else retryable
        self.hint: str | None = hint
        self.docs: str | None = docs

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.hint}" if self.hint else self.message


class InvalidArgumentError(RealtimeError, ValueError):
    """An argument or option has a value that is not allowed; raised at once, before anything is sent."""


class StateError(RealtimeError, RuntimeError):
    """The call is not possible in this state, thread, process or event loop."""


class ClosedError(RealtimeError):
    """The client or channel was closed or removed; a closed one stays closed."""


class AuthError(RealtimeError, PermissionError):
    """A token cannot be had, or the server no longer takes the one it has."""


class ConnectError(RealtimeError, ConnectionError):
    """The connection could not be opened.

    `status`, `body`: the HTTP answer, None when none came; `retry_after`: the seconds to wait that it asked for.
    """

    default_retryable: bool = True

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        body: str | None = None,
        retry_after: float | None = None,
        **details: Unpack[Details],
    ) -> None:
        super().__init__(message, **details)
        self.status: int | None = status
        self.body: str | None = None if body is None else hide_tokens(body)
        self.retry_after: float | None = retry_after


class ReconnectExhaustedError(ConnectError):
    """The attempts that `backoff` allows are used up."""

    default_retryable: bool = False


class ConnectionLostError(RealtimeError, ConnectionError):
    """The connection ended under a request.

    `maybe_sent`: True when the frame may have reached the server, False when it was certainly not sent.
    `close_code`: the WebSocket close code, None when none came.
    """

    default_retryable: bool = True

    def __init__(
        self, message: str = "", *, maybe_sent: bool = True, close_code: int | None = None, **details: Unpack[Details]
    ) -> None:
        super().__init__(message, **details)
        self.maybe_sent: bool = maybe_sent
        self.close_code: int | None = close_code


class OperationTimeout(RealtimeError, TimeoutError):
    """The time given to the call is over; for a send it may still have arrived."""

    default_retryable: bool = True


class RateLimitedError(RealtimeError):
    """A limit on messages, joins, presence calls or channels holds the call beyond its timeout."""

    default_retryable: bool = True


class PayloadTooLargeError(RealtimeError):
    """A payload or frame is larger than the limit; nothing was delivered."""


class ProtocolError(RealtimeError):
    """The rules of the protocol were broken, by one of the two sides."""


class LocalProtocolError(ProtocolError):
    """This library was about to break the protocol or its own table of states: a bug in it."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what cannot be understood."""


class HttpError(RealtimeError):
    """An HTTP request was refused or not answered. `status`, `body`: the answer; `status` is None when none came.

    `maybe_sent`: True when the server may have taken it all the same, False when it certainly has not. `retry_after`:
    the seconds to wait that it asked for. `outcomes`: after `publish_many`, for each message in the order given, how it
    went out or why not; empty for one message.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        body: str | None = None,
        maybe_sent: bool = False,
        retry_after: float | None = None,
        outcomes: "tuple[Sent | RealtimeError, ...]" = (),
        **details: Unpack[Details],
    ) -> None:
        super().__init__(message, **details)
        self.status: int | None = status
        self.body: str | None = None if body is None else hide_tokens(body)
        self.maybe_sent: bool = maybe_sent
        self.retry_after: float | None = retry_after
        self.outcomes = outcomes


class SlowConsumerError(RealtimeError):
    """A consumer was slower than its events for longer than its buffer lasts; events were dropped for it."""


class RowError(RealtimeError, ValueError):
    """A row does not fit its columns or its model. `raw`: the row as it was sent."""

    def __init__(self, message: str = "", *, raw: bytes | None = None, **details: Unpack[Details]) -> None:
        super().__init__(message, **details)
        self.raw: bytes | None = raw


class HandlerError(RealtimeError):
    """A handler raised; `__cause__` is its exception."""


class ServerError(RealtimeError):
    """The server refused something or ended a channel."""


class JoinError(ServerError):
    """The server refused a join, or what the join asked for."""


class JoinDeniedError(JoinError):
    """The server refused a join and will refuse it again until something is changed."""


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
    SlowConsumerError,
    RowError,
    HandlerError,
    ServerError,
    JoinError,
    JoinDeniedError,
    PushError,
)
for _error in TREE:
    _error.__module__ = "supawire.errors"  # tracebacks and pickles name the module that users import
