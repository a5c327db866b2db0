"""The classification of the server's error answers, and their conversion to exceptions.

    RealtimeError
    ├── InvalidArgumentError (ValueError)      ├── OperationTimeout (TimeoutError)
    ├── StateError (RuntimeError)              ├── RateLimitedError · PayloadTooLargeError
    ├── ClosedError                            ├── ProtocolError → LocalProtocolError, RemoteProtocolError
    ├── AuthError (PermissionError)            ├── HttpError
    ├── ConnectError (ConnectionError)         ├── SlowConsumerError
    │   └── ReconnectExhaustedError            ├── RowError (ValueError)
    └── ConnectionLostError (ConnectionError)  ├── HandlerError
                                               └── ServerError → (JoinError → JoinDeniedError), PushError

Each text and code that the server sends is one row of a table: the exception class, the automatic reaction of the
client, and the hint for the user. The first matching row applies, because one code can have two meanings.
See docs/protocol.md, Errors and codes.
"""

import enum
import re
from collections.abc import Iterable
from typing import Final, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from supawire.errors import (
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
    docs_of,
)


class Action(enum.Enum):
    """The client's automatic reaction to an error."""

    RETRY = "retry"
    SLOW_RETRY = "slow_retry"
    REFRESH = "refresh"
    GIVE_UP = "give_up"


class Known(Struct, frozen=True):
    """One row of the tables: an error answer of the server.

    code: the code before the first ": " of a join reason, the HTTP status, the extension of a system message or the
    close code; None: no code. starts: how the text begins. error: the exception class. action: the client's reaction.
    hint: advice for the user. slug: anchor on the page of errors. once: stop if one token refresh does not help.
    """

    code: str | int | None
    starts: str
    error: type[RealtimeError]
    action: Action
    hint: str
    slug: str
    once: bool = False

    @property
    def retryable(self) -> bool:
        return self.action is not Action.GIVE_UP

    @property
    def docs(self) -> str:
        return docs_of(self.slug)


def _key_refused(slug: str) -> str:
    return _BY_KEY + KEY_HINTS[slug]


R, S, T, G = Action.RETRY, Action.SLOW_RETRY, Action.REFRESH, Action.GIVE_UP

_WAIT = "You need not do anything: the client retries."
_RECONNECT = "The client reconnects by itself; messages that were being sent are not sent again."
_SLOW_DOWN = "The client retries more slowly. Make fewer or later calls, or choose a plan with a higher limit."
_EXPIRED = (
    "Pass a callable as token=: it is called for a fresh token before each join and before the current one expires."
)
_CLAIMS = "Sign the token with both a role and an exp claim."
_NO_JWT = "Pass the access token of a signed-in user, or leave token= out to use the key."
_SIGNATURE = "The token was signed with another secret: check that URL, key and token belong to the same project."
_NOT_ACCEPTED = (
    "The token or key has expired, or was signed with another secret: pass a callable as token= that returns a fresh "
    "one, and check that URL, key and token belong to the same project."
)
_SIGNER = "The project does not know the token's key id or algorithm; after a key rotation fetch a new token."
_SAME = "check that URL and key belong to the same project, and that the key is complete."
KEY_HINTS: Final = {
    "token-expired": "it has expired; copy the project's current key.",
    "token-claims": "it has no role or no exp claim; copy the project's key again.",
    "token-malformed": _SAME,
    "token-signature": _SAME,
    "token-signer": f"{_SAME} After a rotation of the project's keys copy the new key.",
}
"""Hints by slug, put after `KEY_CHECKED`, for errors where the key was refused because no token was given."""

KEY_CHECKED: Final = "No token was given, so the server checks the key: "
_BY_KEY: Final = "The connection is opened with the key, not with token=: "

_DENIED = "Add a policy on realtime.messages that lets this role SELECT this topic, or sign in before joining."
_PROJECT = (
    "Check the project's URL; a Realtime server without a gateway needs /socket at the end of its address, and takes "
    "the project from the first label of the host name."
)
_DATABASE = (
    "The client retries. If the error persists, check that the project is not paused and its database is running."
)
_BUSY = "The client retries. If the error persists, raise the database's connection limits."
_BINDING = "Correct the arguments of changes(); the server does not retry this."
_LEAVE = "Leave a channel first, or pass max_sockets= to spread the channels of the client over several connections."
_REPLAY = "Replay needs private=True, a valid replay_since and a replay_limit from 1 to 25."
_TABLE = "Add the table to the publication supabase_realtime, and check schema and table."
_NO_REASON = "The server gave no reason: check key, token and protocol=."
_ADDRESS = (
    "The address did not answer like a Realtime server: check the URL, and proxies and gateways in between; a Realtime "
    "server without a gateway needs /socket at the end of its address."
)
_INSERT = "Add a policy on realtime.messages that lets this role INSERT for this topic."
_DISABLED = "Enable Realtime in the project's settings."
_AGAIN = "Send it again later."
_SMALLER = "Send less data, or store it and send a reference."

JOIN_REASONS: Final = (  # see docs/protocol.md, Join errors
    Known("TopicNameRequired", "", JoinDeniedError, G, "Give the channel a name.", "topic-name-required"),
    Known("InvalidJWTToken", "Token has expired", JoinError, T, _EXPIRED, "token-expired"),
    Known("InvalidJWTToken", "Fields `role` and `exp`", JoinDeniedError, G, _CLAIMS, "token-claims"),
    Known("InvalidJWTToken", "", JoinError, T, _EXPIRED, "token-expired"),
    Known("InvalidJWTExpiration", "", JoinError, T, _EXPIRED, "token-expired"),
    Known("MalformedJWT", "", JoinDeniedError, G, _NO_JWT, "token-malformed"),
    Known("JwtSignatureError", "", JoinError, T, _SIGNATURE, "token-signature", once=True),
    Known("JwtSignerError", "", JoinError, T, _SIGNER, "token-signer", once=True),
    Known("Unauthorized", "", JoinDeniedError, G, _DENIED, "unauthorized"),
    Known("PrivateOnly", "", JoinDeniedError, G, "Open the channel with private=True.", "private-only"),
    Known("TenantNotFound", "", JoinDeniedError, G, _PROJECT, "tenant-not-found"),
    Known("RealtimeDisabledForTenant", "", JoinDeniedError, G, _DISABLED, "disabled"),
    Known("RealtimeDisabledForConfiguration", "", JoinDeniedError, G, _TABLE, "changes-table"),
    Known("ChannelRateLimitReached", "", JoinDeniedError, G, _LEAVE, "channels"),
    Known("ConnectionRateLimitReached", "", JoinError, S, _SLOW_DOWN, "connections"),
    Known("ClientJoinRateLimitReached", "", JoinError, S, _SLOW_DOWN, "joins"),
    Known("IncreaseConnectionPool", "", JoinError, R, _BUSY, "database-busy"),
    Known("DatabaseLackOfConnections", "", JoinError, R, _BUSY, "database-busy"),
    Known("DatabaseConnectionRateLimitReached", "", JoinError, S, _BUSY, "database-busy"),
    Known("UnableToConnectToProject", "", JoinError, R, _DATABASE, "database-down"),
    Known("InitializingProjectConnection", "", JoinError, R, _WAIT, "starting"),
    Known(None, "Realtime was unable to connect to the project database", JoinError, R, _DATABASE, "database-down"),
    Known("QueryCanceled", "", JoinError, R, _WAIT, "database-busy"),
    Known("PostgresChangesSubscribeTimeout", "", JoinError, R, _BUSY, "database-busy"),
    Known("MissingPartition", "", JoinError, R, _WAIT, "missing-partition"),
    Known("TimeoutOnRpcCall", "", JoinError, R, _WAIT, "cluster"),
    Known("ErrorOnRpcCall", "", JoinError, R, _WAIT, "cluster"),
    Known("MusterJoinError", "", JoinError, R, _WAIT, "cluster"),
    Known("RealtimeRestarting", "", JoinError, R, _WAIT, "restarting"),
    Known("UnableToReplayMessages", "Replay is not allowed", JoinDeniedError, G, _REPLAY, "replay"),
    Known("UnableToReplayMessages", "Replay params", JoinDeniedError, G, _REPLAY, "replay"),
    Known("UnableToReplayMessages", "", JoinError, R, _WAIT, "replay"),
    Known("UnknownErrorOnChannel", "", JoinError, R, _WAIT, "unknown"),
    Known(None, "Unknown Error on Channel", JoinError, R, _WAIT, "unknown"),
    Known(None, "join crashed", JoinError, R, _WAIT, "unknown"),
    Known(None, "too many channels joined", JoinDeniedError, G, _LEAVE, "channels"),
    Known(
        None,
        "unmatched topic",
        JoinDeniedError,
        G,
        "The topic in a frame must begin with realtime:.",
        "unmatched-topic",
    ),
)

EXPIRED_JOIN: Final = Known(None, "", JoinError, T, _EXPIRED, "token-expired")
UNKNOWN_JOIN: Final = Known(None, "", JoinError, R, _WAIT, "unknown")

HANDSHAKE: Final = (  # gateways may send other texts, old servers 403 without a body
    Known(401, "Token has expired", ConnectError, T, _key_refused("token-expired"), "token-expired", once=True),
    Known(401, "API key is missing", ConnectError, G, "Pass the project's key to connect().", "key-missing"),
    Known(401, "Fields `role` and `exp`", ConnectError, G, _key_refused("token-claims"), "token-claims"),
    Known(
        401,
        "The token provided is not a valid JWT",
        ConnectError,
        G,
        _key_refused("token-malformed"),
        "token-malformed",
    ),
    Known(
        401,
        "Failed to generate JWT signer for key ID",
        ConnectError,
        T,
        _key_refused("token-signer"),
        "token-signer",
        once=True,
    ),
    Known(401, "Failed to generate JWT signer", ConnectError, G, _key_refused("token-signer"), "token-signer"),
    Known(401, "", ConnectError, T, _key_refused("token-signature"), "token-signature", once=True),
    Known(403, "Realtime was disabled", ConnectError, G, _DISABLED, "disabled"),
    Known(403, "Token has expired", ConnectError, T, _key_refused("token-expired"), "token-expired", once=True),
    Known(
        403, "", ConnectError, G, "Check URL and key, and the rules of the gateway in front of the server.", "forbidden"
    ),
    Known(404, "", ConnectError, G, _PROJECT, "tenant-not-found"),
    Known(414, "", ConnectError, G, "The URL is too long: use fewer params= or a shorter key.", "request-too-long"),
    Known(429, "", ConnectError, S, _SLOW_DOWN, "connections"),
    Known(431, "", ConnectError, G, "A header is too long: the server accepts 4096 bytes each.", "request-too-long"),
    Known(500, "Error connecting to Realtime", ConnectError, R, _DATABASE, "connecting"),
)
OLD_REFUSAL: Final = Known(403, "", ConnectError, T, _NO_REASON, "forbidden", once=True)
NOT_REALTIME: Final = Known(None, "", ConnectError, R, _ADDRESS, "connecting")

SUBSCRIBED: Final = "Subscribed to PostgreSQL"
REPLICATING: Final = "Replication connection established"
DISCONNECTING: Final = "Server requested disconnect"

SYSTEM_MESSAGES: Final = (  # extension "system" ends the channel, postgres_changes does not
    Known("postgres_changes", "Error parsing `filter` params", JoinError, G, _BINDING, "changes-filter"),
    Known("postgres_changes", "Error parsing `select` params", JoinError, G, _BINDING, "changes-select"),
    Known("postgres_changes", "Column selection is not supported", JoinError, G, _BINDING, "changes-select"),
    Known("postgres_changes", "No subscription params provided", JoinError, G, _BINDING, "changes-table"),
    Known(
        "postgres_changes",
        "Unable to subscribe to changes with given parameters. Please check",
        JoinError,
        G,
        _TABLE,
        "changes-table",
    ),
    Known(
        "postgres_changes",
        "Unable to subscribe to changes with given parameters",
        JoinError,
        G,
        _BINDING,
        "changes-refused",
    ),
    Known("postgres_changes", "", JoinError, R, _WAIT, "changes-waiting"),
    Known("system", "Replication connection was not established", ServerError, R, _DATABASE, "replication"),
    Known("system", "Token has expired", AuthError, T, _EXPIRED, "token-expired"),
    Known("system", "Fields `role` and `exp`", AuthError, G, _CLAIMS, "token-claims"),
    Known("system", "The token provided is not a valid JWT", AuthError, G, _NO_JWT, "token-malformed"),
    Known("system", ":signature_error", AuthError, T, _SIGNATURE, "token-signature", once=True),
    Known("system", ":error_generating_signer", AuthError, T, _SIGNER, "token-signer", once=True),
    Known("system", "Failed to generate JWT signer", AuthError, T, _SIGNER, "token-signer", once=True),
    Known("system", "You do not have permissions to read", JoinDeniedError, G, _DENIED, "unauthorized"),
    Known("system", "You no longer have permission to read", JoinDeniedError, G, _DENIED, "unauthorized"),
    Known("system", "Too many messages per second", RateLimitedError, S, _SLOW_DOWN, "messages"),
    Known("system", "Too many presence messages per second", RateLimitedError, S, _SLOW_DOWN, "presence-limit"),
    Known("system", "Client presence rate limit exceeded", RateLimitedError, S, _SLOW_DOWN, "presence-limit"),
    Known("system", "Track message size exceeded", PayloadTooLargeError, G, _SMALLER, "payload-size"),
    Known(
        "system", "Realtime was unable to connect to the project database", ServerError, R, _DATABASE, "database-down"
    ),
)
EXPIRED_CHANNEL: Final = Known("system", "", AuthError, T, _EXPIRED, "token-expired")
CHANNEL_ENDED: Final = Known("system", "", ServerError, R, _WAIT, "channel-ended")

PUSH_REPLIES: Final = (  # error replies to pushes
    Known(None, "payload_size_exceeded", PayloadTooLargeError, G, _SMALLER, "payload-size"),
    Known(None, "Presence track payload must be a map", PushError, G, "Track a JSON object.", "presence-payload"),
    Known(None, "unmatched topic", PushError, R, _WAIT, "unmatched-topic"),
    Known(None, "invalid_persist_ttl", PushError, G, "persist= is at most 72 hours.", "not-stored"),
)
NOT_STORED: Final = Known(
    None,
    "",
    PushError,
    G,
    "The server must support persisted broadcasts, which is a setting of the project, and a policy on "
    "realtime.messages must let this role INSERT for this topic with the extension persistence.",
    "not-stored",
)
REFUSED_PUSH: Final = Known(None, "", PushError, G, _INSERT, "push-refused")

CLOSE_CODES: Final = (  # the client reconnects after every close that it did not start
    Known(1000, "", ConnectionLostError, R, _RECONNECT, "closed"),
    Known(1001, "", ConnectionLostError, S, _SLOW_DOWN, "joins"),
    Known(1002, "", ConnectionLostError, R, "This library sent an invalid frame: please report it.", "closed-protocol"),
    Known(1007, "", ConnectionLostError, R, "This library sent an invalid frame: please report it.", "closed-protocol"),
    Known(
        1009, "", ConnectionLostError, R, "A frame was larger than the server's limit of 5,000,000 bytes.", "frame-size"
    ),
    Known(1012, "", ConnectionLostError, R, "The server is restarting or reloading the project.", "restarting"),
)
CLOSED: Final = Known(None, "", ConnectionLostError, R, _RECONNECT, "closed")

HTTP_ANSWERS: Final = (  # see docs/protocol.md, HTTP answers
    Known(400, "", HttpError, G, "The body is not JSON.", "http-body"),
    Known(401, "Tenant not found", HttpError, G, _PROJECT, "tenant-not-found"),
    Known(401, "", HttpError, T, _NOT_ACCEPTED, "http-unauthorized", once=True),
    Known(403, "Tenant is suspended", HttpError, G, _DISABLED, "disabled"),
    Known(403, "", HttpError, G, _INSERT, "unauthorized"),
    Known(
        404,
        "",
        HttpError,
        G,
        "The server is too old for this route, or the URL is not that of the project.",
        "http-route",
    ),
    Known(408, "", HttpError, R, _AGAIN, "http-unavailable"),
    Known(413, "", HttpError, G, _SMALLER, "payload-size"),
    Known(415, "", HttpError, G, "Send JSON or bytes.", "http-body"),
    Known(422, "RLS policy error", HttpError, G, "Correct the policy on realtime.messages.", "unauthorized"),
    Known(422, "Query canceled", HttpError, R, _AGAIN, "http-unavailable"),
    Known(422, "Missing messages partition", HttpError, R, _AGAIN, "missing-partition"),
    Known(422, "Tenant database", HttpError, R, _AGAIN, "http-unavailable"),
    Known(422, "Connect rate limit reached", HttpError, S, _AGAIN, "http-unavailable"),
    Known(422, "", HttpError, G, "Correct the message; the response names the field.", "http-body"),
    Known(429, "Too many messages to broadcast", HttpError, S, "Send smaller batches.", "messages"),
    Known(429, "", HttpError, S, "Send less often, or raise the project's limit.", "messages"),
    Known(500, "Unable to authorize broadcast", HttpError, R, _AGAIN, "http-unavailable"),
    Known(500, "RPC error", HttpError, R, _AGAIN, "http-unavailable"),
)
HTTP_REFUSED: Final = Known(None, "", HttpError, G, _ADDRESS, "http-route")
HTTP_BROKEN: Final = Known(None, "", HttpError, R, _AGAIN, "http-unavailable")


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
    "not_stored",
    "push_error",
    "reason_of",
    "system_error",
]

_MAX_BODY: Final = 2000


def _first(rows: Iterable[Known], code: str | int | None, text: str) -> Known | None:
    return next((row for row in rows if row.code == code and text.startswith(row.starts)), None)


def _split(reason: str) -> tuple[str | None, str]:
    code, colon, text = reason.partition(": ")
    return (code, text) if colon and re.fullmatch(r"[A-Za-z]{1,64}", code) else (None, reason)


def classify_join(reason: str) -> Known:
    """Return the row of a join's error reason.

    Unknown reasons are retried; those that contain "expired" with a new token.
    """
    code, text = _split(reason)
    row = _first(JOIN_REASONS, code, text)
    if row is not None:
        return row
    return replace(EXPIRED_JOIN if "expired" in text.lower() else UNKNOWN_JOIN, code=code)


def classify_handshake(status: int, body_error: str | None) -> Known:
    """Return the row of a refused upgrade; `body_error` is the text of its JSON body, None when there is none."""
    if status == 403 and not body_error:
        return OLD_REFUSAL
    text = body_error or ""
    if status in (401, 403) and "expired" in text.lower():
        text = "Token has expired"
    return _first(HANDSHAKE, status, text) or replace(NOT_REALTIME, code=status)


def classify_system(extension: str, status: str, message: str) -> Known | None:
    """Return the row of a `system` message that reports an error, None for other messages.

    For postgres_changes the channel stays joined; GIVE_UP: the server does not retry by itself, RETRY: it does. For any
    other extension the server closes the channel next, and the action applies after that.
    """
    if status != "error":
        return None
    row = _first(SYSTEM_MESSAGES, extension, message)
    if row is None and "expired" in message.lower():
        row = EXPIRED_CHANNEL
    return row or replace(CHANNEL_ENDED, code=extension)


def classify_close(code: int | None) -> Known:
    """Return the row of a WebSocket close code; None or an unlisted code is an ordinary connection loss."""
    return _first(CLOSE_CODES, code, "") or replace(CLOSED, code=code)


def classify_push(reason: str) -> Known:
    """Return the row of an error reply to a broadcast or presence request."""
    return _first(PUSH_REPLIES, None, reason) or REFUSED_PUSH


def classify_http(status: int, message: str) -> Known:
    """Return the row of an unsuccessful HTTP response; `message` is the text of its body."""
    row = _first(HTTP_ANSWERS, status, message)
    return row or replace(HTTP_BROKEN if status >= 500 else HTTP_REFUSED, code=status)


def reason_of(response: object) -> str:
    """Return the reason in an error reply: a string, its `reason` or `error`, or the whole response as JSON."""
    reason = response
    if isinstance(response, dict):
        given = cast("dict[str, object]", response)
        reason = given.get("reason", given.get("error", given))
    if isinstance(reason, str):
        return reason
    return "" if reason in (None, {}) else msgspec.json.encode(reason).decode()[:_MAX_BODY]


def body_text(body: bytes | str) -> str | None:
    """Return the text of an error body: `error`, `message` or `msg` of its JSON, else its `errors` as JSON, or None."""
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
    return (body if isinstance(body, str) else body.decode("utf-8", "replace"))[:_MAX_BODY]


def _details(row: Known, topic: str | None = None, code: str | None = None) -> Details:
    return {"retryable": row.retryable, "hint": row.hint, "docs": row.docs, "topic": topic, "code": code}


def _with_key_hint(row: Known, *, keyed: bool) -> Known:
    """Return the row with a hint about the key, for requests without a token where the key was refused."""
    about_key = KEY_HINTS.get(row.slug) if keyed else None
    return row if about_key is None else replace(row, hint=KEY_CHECKED + about_key)


def join_error(reason: str, topic: str | None = None, *, keyed: bool = False) -> RealtimeError:
    """Return the exception for a refused join. Args: keyed: the join carried the key because no token was given."""
    row = _with_key_hint(classify_join(reason), keyed=keyed)
    code, _ = _split(reason)
    return row.error(f"the server refused the join: {reason or 'no reason given'}", **_details(row, topic, code))


def connect_error(status: int, body: bytes | str = b"", retry_after: float | None = None) -> ConnectError:
    """Return the exception for a refused upgrade; `retry_after` in seconds."""
    text = body_text(body)
    row = classify_handshake(status, text if text is not None else _shown(body).strip() or None)
    message = f"the server refused the connection with status {status}" + (f": {text}" if text else "")
    return ConnectError(message, status=status, body=_shown(body), retry_after=retry_after, **_details(row))


def system_error(extension: str, message: str, topic: str | None = None, *, keyed: bool = False) -> RealtimeError:
    """Return the exception for a `system` message with status error. Args: keyed: see `join_error`."""
    row = _with_key_hint(classify_system(extension, "error", message) or CHANNEL_ENDED, keyed=keyed)
    return row.error(f"the server reported: {message}", **_details(row, topic))


def push_error(response: object, topic: str | None = None) -> RealtimeError:
    """Return the exception for an error reply to a broadcast or presence request; `response` as received."""
    reason = reason_of(response)
    row = classify_push(reason)
    code, _ = _split(reason)
    return row.error(f"the server refused: {reason or 'no reason given'}", **_details(row, topic, code))


def not_stored(topic: str | None = None) -> RealtimeError:
    """Return the exception for a broadcast with persist= that the server has delivered and not stored."""
    return NOT_STORED.error("the server delivered the broadcast and did not store it", **_details(NOT_STORED, topic))


def lost_error(close_code: int | None, *, maybe_sent: bool, topic: str | None = None) -> ConnectionLostError:
    """Return the exception for a request that was pending when the connection was lost."""
    row = classify_close(close_code)
    message = "the connection was lost" + (f" with close code {close_code}" if close_code is not None else "")
    return ConnectionLostError(message, maybe_sent=maybe_sent, close_code=close_code, **_details(row, topic))


def http_error(
    status: int,
    body: bytes | str = b"",
    topic: str | None = None,
    *,
    maybe_sent: bool = False,
    retry_after: float | None = None,
) -> HttpError:
    """Return the exception for an unsuccessful HTTP response; `retry_after` in seconds."""
    text = body_text(body)
    row = classify_http(status, text or "")
    message = f"the server answered {status}" + (f": {text}" if text else "")
    return HttpError(
        message,
        status=status,
        body=_shown(body),
        maybe_sent=maybe_sent,
        retry_after=retry_after,
        **_details(row, topic),
    )
