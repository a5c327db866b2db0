"""The tree of errors, and the one table of what the server says when it refuses.

    RealtimeError
    ├── InvalidArgumentError (ValueError)      ├── OperationTimeout (TimeoutError)
    ├── StateError (RuntimeError)              ├── RateLimitedError · PayloadTooLargeError
    ├── ClosedError                            ├── ProtocolError → LocalProtocolError, RemoteProtocolError
    ├── AuthError (PermissionError)            ├── HttpError
    ├── ConnectError (ConnectionError)         ├── SlowConsumerError
    │   └── ReconnectExhaustedError            ├── RowError (ValueError)
    └── ConnectionLostError (ConnectionError)  ├── HandlerError
                                               └── ServerError → (JoinError → JoinDeniedError), PushError

Every text and code of protocol §1.3, §3.6, §5.3, §6.2, §6.7, §8 and §9.2 is one row of `_servercodes`: which class,
what follows by itself, and what the user can do. Here the rows are looked up and turned into exceptions.
"""

import re
from collections.abc import Iterable
from typing import Final, cast

import msgspec
from msgspec.structs import replace

from supawire._errortree import (
    AuthError,
    ClosedError,
    ConnectError,
    ConnectionLostError,
    Details,
    HandlerError,
    HttpError,
    InvalidArgumentError,
    JoinDeniedError,
    JoinError,
    LocalProtocolError,
    OperationTimeout,
    PayloadTooLargeError,
    ProtocolError,
    PushError,
    RateLimitedError,
    RealtimeError,
    ReconnectExhaustedError,
    RemoteProtocolError,
    RowError,
    ServerError,
    SlowConsumerError,
    StateError,
    again,
)
from supawire._servercodes import (
    CHANNEL_ENDED,
    CLOSE_CODES,
    CLOSED,
    DISCONNECTING,
    EXPIRED_CHANNEL,
    EXPIRED_JOIN,
    HANDSHAKE,
    HTTP_ANSWERS,
    HTTP_BROKEN,
    HTTP_REFUSED,
    JOIN_REASONS,
    KEY_HINTS,
    KEY_JUDGED,
    NOT_REALTIME,
    OLD_REFUSAL,
    PUSH_REPLIES,
    REFUSED_PUSH,
    REPLICATING,
    SUBSCRIBED,
    SYSTEM_MESSAGES,
    UNKNOWN_JOIN,
    Action,
    Known,
)

__all__ = [
    "CLOSE_CODES",
    "DISCONNECTING",
    "HANDSHAKE",
    "HTTP_ANSWERS",
    "JOIN_REASONS",
    "PUSH_REPLIES",
    "REPLICATING",
    "SUBSCRIBED",
    "SYSTEM_MESSAGES",
    "Action",
    "AuthError",
    "ClosedError",
    "ConnectError",
    "ConnectionLostError",
    "HandlerError",
    "HttpError",
    "InvalidArgumentError",
    "JoinDeniedError",
    "JoinError",
    "Known",
    "LocalProtocolError",
    "OperationTimeout",
    "PayloadTooLargeError",
    "ProtocolError",
    "PushError",
    "RateLimitedError",
    "RealtimeError",
    "ReconnectExhaustedError",
    "RemoteProtocolError",
    "RowError",
    "ServerError",
    "SlowConsumerError",
    "StateError",
    "again",
    "body_text",
    "classify_close",
    "classify_handshake",
    "classify_http",
    "classify_join",
    "classify_push",
    "classify_system",
    "connect_error",
    "http_error",
    "join_error",
    "lost_error",
    "push_error",
    "reason_of",
    "system_error",
]

_SHOWN_BODY: Final = 2000


def _first(rows: Iterable[Known], code: str | int | None, text: str) -> Known | None:
    return next((row for row in rows if row.code == code and text.startswith(row.starts)), None)


def _split(reason: str) -> tuple[str | None, str]:
    code, colon, text = reason.partition(": ")
    return (code, text) if colon and re.fullmatch(r"[A-Za-z]{1,64}", code) else (None, reason)


def classify_join(reason: str) -> Known:
    """The row of a join's error reason (§9.1, §10).

    What is unknown is retried; where its text says "expired", with a fresh token.
    """
    code, text = _split(reason)
    row = _first(JOIN_REASONS, code, text)
    if row is not None:
        return row
    return replace(EXPIRED_JOIN if "expired" in text.lower() else UNKNOWN_JOIN, code=code)


def classify_handshake(status: int, body_error: str | None) -> Known:
    """The row of a refused upgrade; `body_error` is the text of its JSON body, None when there is none (§1.3)."""
    if status == 403 and not body_error:
        return OLD_REFUSAL
    text = body_error or ""
    if status in (401, 403) and "expired" in text.lower():
        text = "Token has expired"
    return _first(HANDSHAKE, status, text) or replace(NOT_REALTIME, code=status)


def classify_system(extension: str, status: str, message: str) -> Known | None:
    """The row of a `system` message that reports an error, None for one that does not (§3.6).

    GIVE_UP for postgres_changes: the server never tries this again by itself; RETRY: it does, and the channel stays
    joined either way. For any other extension the server closes the channel next, and the action is what follows that.
    """
    if status != "error":
        return None
    row = _first(SYSTEM_MESSAGES, extension, message)
    if row is None and "expired" in message.lower():
        row = EXPIRED_CHANNEL
    return row or replace(CHANNEL_ENDED, code=extension)


def classify_close(code: int | None) -> Known:
    """The row of a WebSocket close code; None or an unlisted code is an ordinary loss (§8)."""
    return _first(CLOSE_CODES, code, "") or replace(CLOSED, code=code)


def classify_push(reason: str) -> Known:
    """The row of an error reply to a broadcast or presence request (§5.3, §6.2)."""
    return _first(PUSH_REPLIES, None, reason) or REFUSED_PUSH


def classify_http(status: int, message: str) -> Known:
    """The row of a REST answer that is not a success; `message` is the text of its body (§6.7)."""
    row = _first(HTTP_ANSWERS, status, message)
    return row or replace(HTTP_BROKEN if status >= 500 else HTTP_REFUSED, code=status)


def reason_of(response: object) -> str:
    """The reason in the response of an error reply: a bare string, `reason` or `error` in it, or all of it as JSON."""
    reason = response
    if isinstance(response, dict):
        given = cast("dict[str, object]", response)
        reason = given.get("reason", given.get("error", given))
    if isinstance(reason, str):
        return reason
    return "" if reason in (None, {}) else msgspec.json.encode(reason).decode()[:_SHOWN_BODY]


def body_text(body: bytes | str) -> str | None:
    """The text in an error body: `error`, `message` or `msg` of its JSON, else its `errors` as JSON text, else None."""
    try:
        document = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for key in ("error", "message", "msg"):
        text = document.get(key)
        if isinstance(text, str) and text:
            return text
    errors = document.get("errors")
    return msgspec.json.encode(errors).decode() if errors else None


def _shown(body: bytes | str) -> str:
    return (body if isinstance(body, str) else body.decode("utf-8", "replace"))[:_SHOWN_BODY]


def _said(row: Known, topic: str | None = None, code: str | None = None) -> Details:
    return {"retryable": row.retryable, "hint": row.hint, "docs": row.docs, "topic": topic, "code": code}


def _judged(row: Known, *, keyed: bool) -> Known:
    """The row with a hint about the key, where there was no token and the key was refused in its place."""
    about_key = KEY_HINTS.get(row.slug) if keyed else None
    return row if about_key is None else replace(row, hint=KEY_JUDGED + about_key)


def join_error(reason: str, topic: str | None = None, *, keyed: bool = False) -> RealtimeError:
    """The exception for a refused join. Args: keyed: it carried the key, as no token was given."""
    row = _judged(classify_join(reason), keyed=keyed)
    code, _ = _split(reason)
    return row.error(f"the server refused the join: {reason or 'no reason given'}", **_said(row, topic, code))


def connect_error(status: int, body: bytes | str = b"", retry_after: float | None = None) -> ConnectError:
    """The exception for a refused upgrade; `retry_after` in seconds."""
    text = body_text(body)
    row = classify_handshake(status, text if text is not None else _shown(body).strip() or None)
    message = f"the server refused the connection with status {status}" + (f": {text}" if text else "")
    return ConnectError(message, status=status, body=_shown(body), retry_after=retry_after, **_said(row))


def system_error(extension: str, message: str, topic: str | None = None, *, keyed: bool = False) -> RealtimeError:
    """The exception for a `system` message with status error. Args: keyed: see `join_error`."""
    row = _judged(classify_system(extension, "error", message) or CHANNEL_ENDED, keyed=keyed)
    return row.error(f"the server says: {message}", **_said(row, topic))


def push_error(response: object, topic: str | None = None) -> RealtimeError:
    """The exception for an error reply to a broadcast or presence request; `response` as it came."""
    reason = reason_of(response)
    row = classify_push(reason)
    code, _ = _split(reason)
    return row.error(f"the server refused: {reason or 'no reason given'}", **_said(row, topic, code))


def lost_error(close_code: int | None, *, maybe_sent: bool, topic: str | None = None) -> ConnectionLostError:
    """The exception for a request that a lost connection ended."""
    row = classify_close(close_code)
    message = "the connection was lost" + (f" with close code {close_code}" if close_code is not None else "")
    return ConnectionLostError(message, maybe_sent=maybe_sent, close_code=close_code, **_said(row, topic))


def http_error(
    status: int,
    body: bytes | str = b"",
    topic: str | None = None,
    *,
    maybe_sent: bool = False,
    retry_after: float | None = None,
) -> HttpError:
    """The exception for a REST answer that is not a success; `retry_after` in seconds."""
    text = body_text(body)
    row = classify_http(status, text or "")
    message = f"the server answered {status}" + (f": {text}" if text else "")
    return HttpError(
        message,
        status=status,
        body=_shown(body),
        maybe_sent=maybe_sent,
        retry_after=retry_after,
        **_said(row, topic),
    )
