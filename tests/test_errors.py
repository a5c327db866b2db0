"""The error texts of the server, and the exceptions and actions that follow from them."""

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire import _server_errors
from supawire import errors as tree
from supawire._server_errors import Action

R, S, T, G = Action.RETRY, Action.SLOW_RETRY, Action.REFRESH, Action.GIVE_UP

JOIN = {
    "TopicNameRequired: You must provide a topic name": G,
    "InvalidJWTToken: Token has expired 12 seconds ago": T,
    "InvalidJWTToken: Fields `role` and `exp` are required in JWT": G,
    "InvalidJWTToken: Token expiration time is invalid": T,
    "InvalidJWTExpiration: Token has expired 3 seconds ago": T,
    "MalformedJWT: The token provided is not a valid JWT": G,
    "JwtSignatureError: Failed to validate JWT signature": T,
    "JwtSignerError: Failed to generate JWT signer, check your JWT secret or JWKS configuration": T,
    "Unauthorized: You do not have permissions to read from this Channel topic: X": G,
    "PrivateOnly: This project only allows private channels": G,
    "TenantNotFound: Tenant with the given ID does not exist": G,
    "RealtimeDisabledForTenant: Realtime disabled for this tenant": G,
    "RealtimeDisabledForConfiguration: The configuration will not provide any Postgres Changes": G,
    "PostgresChangesSubscribeTimeout: Timed out subscribing to Postgres Changes": R,
    "ChannelRateLimitReached: Too many channels": G,
    "ConnectionRateLimitReached: Too many connected users": S,
    "ClientJoinRateLimitReached: Too many joins per second": S,
    "IncreaseConnectionPool: Please increase your connection pool size": R,
    "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect": R,
    "DatabaseConnectionRateLimitReached: Too many database connections attempts per second": S,
    "UnableToConnectToProject: Realtime was unable to connect to the project database": R,
    "InitializingProjectConnection: Connecting to the project database": R,
    "InitializingProjectConnection: Realtime is initializing the project connection": R,
    "Realtime was unable to connect to the project database": R,
    "QueryCanceled: canceling statement due to user request": R,
    "MissingPartition: Realtime was unable to find the expected messages partition": R,
    "TimeoutOnRpcCall: Node request timeout": R,
    "ErrorOnRpcCall: RPC call error: :nodedown": R,
    "MusterJoinError: :timeout": R,
    "RealtimeRestarting: Realtime is restarting, please standby": R,
    "UnableToReplayMessages: Replay is not allowed for public channels": G,
    "UnableToReplayMessages: Replay params are not valid": G,
    "UnableToReplayMessages: Realtime was unable to replay messages": R,
    "Unknown Error on Channel": R,
    "UnknownErrorOnChannel: %{a: 1}": R,
    "join crashed": R,
    "too many channels joined": G,
    "unmatched topic": G,
    # texts of old and future servers
    "SomethingNew: nobody knows": R,
    "SomethingNew: your token is expired": T,
    "%{code: :unknown, detail: ...}": R,
    "Token expired": T,
    "": R,
}

HANDSHAKE: list[tuple[int, str | None, Action]] = [
    (403, None, T),
    (401, None, T),
    (401, "Token has expired", T),
    (403, "JWT expired", T),
    (404, "Tenant not found", G),
    (403, "Realtime was disabled for this tenant", G),
    (403, "blocked by the gateway", G),
    (401, "API key is missing", G),
    (401, "Fields `role` and `exp` are required in JWT", G),
    (401, "The token provided is not a valid JWT", G),
    (401, "Failed to validate JWT signature", T),
    (401, "Failed to generate JWT signer, check your JWT secret or JWKS configuration", G),
    (401, 'Failed to generate JWT signer for key ID (kid) "K", check your JWT secret or JWKS configuration', T),
    (401, "No API key found in request", T),
    (429, "Too many connected users", S),
    (429, "Too many joins per second", S),
    (431, None, G),
    (414, None, G),
    (500, "Error connecting to Realtime", R),
    (502, None, R),
    (503, "upstream", R),
    (400, "not a websocket", R),
    (200, None, R),
]

SYSTEM: list[tuple[str, str, type[_server_errors.RealtimeError], Action]] = [
    ("postgres_changes", 'Error parsing `filter` params: ["foo", "x"]', _server_errors.JoinError, G),
    ("postgres_changes", "Error parsing `select` params: expected a list", _server_errors.JoinError, G),
    ("postgres_changes", "Column selection is not supported for wildcard subscriptions.", _server_errors.JoinError, G),
    ("postgres_changes", "No subscription params provided. Please provide", _server_errors.JoinError, G),
    (
        "postgres_changes",
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given",
        _server_errors.JoinError,
        G,
    ),
    (
        "postgres_changes",
        "Unable to subscribe to changes with given parameters. An exception happened so please check",
        _server_errors.JoinError,
        G,
    ),
    ("postgres_changes", '{:error, "Too many database timeouts"}', _server_errors.JoinError, R),
    ("system", "Replication connection was not established in time", _server_errors.ServerError, R),
    ("system", "Token has expired 4 seconds ago", _server_errors.AuthError, T),
    ("system", "Fields `role` and `exp` are required in JWT", _server_errors.AuthError, G),
    ("system", "The token provided is not a valid JWT", _server_errors.AuthError, G),
    ("system", ":signature_error", _server_errors.AuthError, T),
    ("system", ":error_generating_signer", _server_errors.AuthError, T),
    ("system", "Failed to generate JWT signer for key ID (kid) K", _server_errors.AuthError, T),
    ("system", "You do not have permissions to read from this Channel topic: lab", _server_errors.JoinDeniedError, G),
    ("system", "You no longer have permission to read from this Channel topic: lab", _server_errors.JoinDeniedError, G),
    ("system", "Realtime was unable to connect to the project database", _server_errors.ServerError, R),
    ("system", "Query was cancelled, please try again", _server_errors.ServerError, R),
    ("system", ":increase_connection_pool", _server_errors.ServerError, R),
    ("system", "Too many messages per second", _server_errors.RateLimitedError, S),
    ("system", "Too many presence messages per second", _server_errors.RateLimitedError, S),
    ("system", "Client presence rate limit exceeded", _server_errors.RateLimitedError, S),
    ("system", "Track message size exceeded", _server_errors.PayloadTooLargeError, G),
    ("realtime", "the jwt is expired", _server_errors.AuthError, T),
]

HTTP: list[tuple[int, str, Action]] = [
    (400, "", G),
    (401, "Tenant not found in database", G),
    (401, "Unauthorized", T),
    (403, "Tenant is suspended", G),
    (403, "Unauthorized", G),
    (404, "", G),
    (413, "", G),
    (415, "Unsupported Media Type. Use application/json or application/octet-stream", G),
    (422, "RLS policy error", G),
    (422, "Query canceled", R),
    (422, "Missing messages partition", R),
    (422, "Tenant database unavailable", R),
    (422, "Tenant database initializing", R),
    (422, "Tenant database connection initializing", R),
    (422, "Tenant database has too many connections", R),
    (422, "Connect rate limit reached", S),
    (422, '{"payload":["Payload size exceeds tenant limit"]}', G),
    (429, "Too many requests", S),
    (429, "Too many messages to broadcast, please reduce the batch size", S),
    (429, "Connection pool exhausted", S),
    (500, "Unable to authorize broadcast", R),
    (500, "RPC error", R),
    (503, "", R),
    (418, "", G),
]


@pytest.mark.parametrize(("reason", "action"), JOIN.items(), ids=str)
def test_every_join_reason_has_its_action(reason: str, action: Action):
    """Each known reason of a refused join has the documented action; unknown reasons are retried."""
    row = _server_errors.classify_join(reason)
    assert row.action is action
    error = _server_errors.join_error(reason, "lab")
    assert isinstance(error, _server_errors.JoinError)
    assert isinstance(error, _server_errors.JoinDeniedError) is (action is G)
    assert error.topic == "lab"
    assert error.retryable is (action is not G)
    assert error.hint
    assert reason in str(error)


def test_a_code_can_have_two_meanings():
    """InvalidJWTToken causes a token refresh for an expired token, and is permanent when claims are missing."""
    assert _server_errors.join_error("InvalidJWTToken: Token has expired 1 seconds ago").code == "InvalidJWTToken"
    assert _server_errors.classify_join("InvalidJWTToken: Token has expired 1 seconds ago").action is T
    assert _server_errors.classify_join("InvalidJWTToken: Fields `role` and `exp` are required in JWT").action is G


@pytest.mark.parametrize("code", ["JwtSignatureError", "JwtSignerError"])
def test_a_wrong_signature_is_refreshed_once(code: str):
    """A token that the server cannot verify is refreshed once, then permanent; an expired one is always refreshed."""
    assert _server_errors.classify_join(f"{code}: text").once
    assert not _server_errors.classify_join("InvalidJWTToken: Token has expired 1 seconds ago").once


def test_only_words_before_the_colon_are_a_code():
    """The text before a colon is a code only if it is a word."""
    assert _server_errors.join_error("%{a: 1}").code is None
    assert _server_errors.join_error("Realtime: x").code == "Realtime"


@pytest.mark.parametrize(("status", "text", "action"), HANDSHAKE)
def test_every_refused_handshake_has_its_action(status: int, text: str | None, action: Action):
    """401 is refreshed unless its text excludes it, 403 and 404 are permanent, 429 and 5xx are retried."""
    assert _server_errors.classify_handshake(status, text).action is action
    body = json.dumps({"error": text}) if text is not None else ""
    error = _server_errors.connect_error(status, body.encode(), retry_after=3.0)
    assert (error.status, error.body, error.retry_after) == (status, body, 3.0)
    assert error.retryable is (action is not G)
    assert text is None or text in str(error)


def test_a_403_without_a_body_is_treated_as_a_401():
    """Servers before 2.116 answer 403 without a body to every invalid token."""
    assert (
        _server_errors.classify_handshake(403, None).action is _server_errors.classify_handshake(401, None).action is T
    )
    assert _server_errors.classify_handshake(403, "").once


def test_handshake_bodies_of_gateways_are_read():
    """The text of a refusal is found in the JSON of several gateways; other bodies are shown unchanged."""
    assert _server_errors.body_text(b'{"message":"No API key found in request"}') == "No API key found in request"
    assert _server_errors.body_text(b'{"msg":"x"}') == "x"
    assert (
        _server_errors.body_text(b'{"errors":{"messages":["can\'t be blank"]}}') == '{"messages":["can\'t be blank"]}'
    )
    assert _server_errors.body_text(b"<html>") is None
    assert _server_errors.body_text(b"\xff\xfe") is None
    assert _server_errors.body_text(b"[" * 100_000) is None
    assert _server_errors.connect_error(502, b"<html>" + b"x" * 10_000).body == "<html>" + "x" * 1994


@pytest.mark.parametrize(("extension", "message", "kind", "action"), SYSTEM)
def test_every_system_error_has_its_class(
    extension: str, message: str, kind: type[_server_errors.RealtimeError], action: Action
):
    """A system error maps to class and action; GIVE_UP for postgres_changes: the server does not retry."""
    row = _server_errors.classify_system(extension, "error", message)
    assert row is not None
    assert (row.error, row.action) == (kind, action)
    error = _server_errors.system_error(extension, message, "lab")
    assert type(error) is kind
    assert message in str(error)


@pytest.mark.parametrize(
    "message", [_server_errors.SUBSCRIBED, _server_errors.REPLICATING, _server_errors.DISCONNECTING]
)
def test_a_system_message_with_status_ok_is_not_an_error(message: str):
    """Only messages with status error have a row."""
    assert _server_errors.classify_system("postgres_changes", "ok", message) is None


@pytest.mark.parametrize("code", [None, 1000, 1001, 1002, 1006, 1007, 1009, 1011, 1012, 1013, 4000])
def test_no_close_code_is_permanent(code: int | None):
    """Every close that the client did not start is followed by a reconnect, a slow one after too many joins."""
    assert _server_errors.classify_close(code).action is (S if code == 1001 else R)
    error = _server_errors.lost_error(code, maybe_sent=False)
    assert (error.close_code, error.maybe_sent, error.retryable) == (code, False, True)


@pytest.mark.parametrize(("status", "text", "action"), HTTP)
def test_every_http_status_has_its_action(status: int, text: str, action: Action):
    """An HTTP refusal is an HttpError with status and body, and `retryable` is whether a retry can succeed (R34)."""
    assert _server_errors.classify_http(status, text).action is action
    error = _server_errors.http_error(status, json.dumps({"message": text}))
    assert (type(error), error.status) == (_server_errors.HttpError, status)
    assert error.retryable is (action is not G)


@pytest.mark.parametrize(
    ("response", "kind", "code"),
    [
        ("payload_size_exceeded", _server_errors.PayloadTooLargeError, None),
        ({"reason": "payload_size_exceeded"}, _server_errors.PayloadTooLargeError, None),
        ({"error": "payload_size_exceeded"}, _server_errors.PayloadTooLargeError, None),
        ({"reason": "Presence track payload must be a map"}, _server_errors.PushError, None),
        ({"reason": "unmatched topic"}, _server_errors.PushError, None),
        ({"reason": "NewCode: text"}, _server_errors.PushError, "NewCode"),
        ({}, _server_errors.PushError, None),
        (None, _server_errors.PushError, None),
        ([1, 2], _server_errors.PushError, None),
        ({"reason": {"a": 1}}, _server_errors.PushError, None),
    ],
)
def test_error_replies_of_any_shape_are_errors(
    response: object, kind: type[_server_errors.RealtimeError], code: str | None
):
    """The response of an error reply may be an object, a string or another value; it becomes a typed error."""
    error = _server_errors.push_error(response, "lab")
    assert (type(error), error.code, error.topic) == (kind, code, "lab")
    assert error.hint


ROWS = [
    *_server_errors.JOIN_REASONS,
    *_server_errors.HANDSHAKE,
    *_server_errors.SYSTEM_MESSAGES,
    *_server_errors.PUSH_REPLIES,
    *_server_errors.CLOSE_CODES,
    *_server_errors.HTTP_ANSWERS,
]


def test_every_row_can_be_reached():
    """No row of a table matches only texts that an earlier row matches."""
    for table in (
        _server_errors.JOIN_REASONS,
        _server_errors.HANDSHAKE,
        _server_errors.SYSTEM_MESSAGES,
        _server_errors.HTTP_ANSWERS,
    ):
        for at, row in enumerate(table):
            assert not [
                other for other in table[:at] if other.code == row.code and row.starts.startswith(other.starts)
            ], row


def test_every_row_has_a_hint_and_an_anchor():
    """The hint is a sentence, and the anchor exists on the page of errors."""
    for row in ROWS:
        assert row.hint.endswith(".")
        assert row.docs == f"https://supawire.readthedocs.io/en/latest/errors.html#{row.slug}"


BUILTINS: dict[type[_server_errors.RealtimeError], type[Exception]] = {
    _server_errors.InvalidArgumentError: ValueError,
    _server_errors.StateError: RuntimeError,
    _server_errors.AuthError: PermissionError,
    _server_errors.ConnectError: ConnectionError,
    _server_errors.ReconnectExhaustedError: _server_errors.ConnectError,
    _server_errors.ConnectionLostError: ConnectionError,
    _server_errors.OperationTimeout: TimeoutError,
    _server_errors.RowError: ValueError,
    _server_errors.LocalProtocolError: _server_errors.ProtocolError,
    _server_errors.RemoteProtocolError: _server_errors.ProtocolError,
    _server_errors.JoinDeniedError: _server_errors.JoinError,
    _server_errors.JoinError: _server_errors.ServerError,
    _server_errors.PushError: _server_errors.ServerError,
}


@pytest.mark.parametrize("kind", tree.TREE, ids=lambda kind: kind.__name__)
def test_errors_can_be_copied_and_pickled(kind: type[_server_errors.RealtimeError]):
    """Each class derives from RealtimeError and a builtin, and keeps its attributes through copy and pickle."""
    assert getattr(tree, kind.__name__) is kind
    assert kind.__module__ == "supawire.errors"
    assert issubclass(kind, BUILTINS.get(kind, _server_errors.RealtimeError))
    error = kind("it broke", code="Code", topic="lab", retryable=True, hint="Mend it.", docs="https://example.com/#x")
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is kind
        assert vars(twin) == vars(error)
        assert str(twin) == "it broke. Mend it."


def test_attributes_of_single_classes_can_be_copied():
    """A copy keeps the attributes that only some classes have."""
    made: list[_server_errors.RealtimeError] = [
        _server_errors.ConnectError("x", status=401, body="b", retry_after=2.0),
        _server_errors.ConnectionLostError("x", maybe_sent=False, close_code=1001),
        _server_errors.HttpError("x", status=422, body="b"),
        _server_errors.RowError("x", raw=b"{}"),
    ]
    for error in made:
        assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


@pytest.mark.parametrize("kind", tree.TREE, ids=lambda kind: kind.__name__)
def test_an_error_without_a_section_of_its_own_names_that_of_its_class(kind: type[_server_errors.RealtimeError]):
    """`docs` is the section of the class, for a subclass of a user that of its base."""

    class Subclass(kind):
        pass

    for error in (kind(), Subclass()):
        assert error.docs == f"https://supawire.readthedocs.io/en/latest/errors.html#{kind.__name__.lower()}"


def test_a_message_without_a_hint_is_shown_alone():
    """str() is the message, and an error without one is empty text."""
    assert str(_server_errors.ClosedError("closed")) == "closed"
    assert str(_server_errors.RealtimeError()) == ""


def test_errors_have_a_default_of_retryable():
    """Without information from the server, lost connections, timeouts and limits are retryable."""
    assert _server_errors.ConnectionLostError().retryable
    assert _server_errors.OperationTimeout().retryable
    assert not _server_errors.InvalidArgumentError().retryable
    assert not _server_errors.ReconnectExhaustedError().retryable


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_error_reply_can_be_converted(response: Any):
    """Any JSON value as the response of an error reply becomes an error."""
    assert isinstance(_server_errors.push_error(response), _server_errors.RealtimeError)
    assert isinstance(_server_errors.join_error(_server_errors.reason_of(response)), _server_errors.JoinError)


@given(st.integers(100, 599), st.binary())
def test_any_http_response_can_be_converted(status: int, body: bytes):
    """Any status and body of an unsuccessful response becomes an error."""
    assert _server_errors.connect_error(status, body).status == status
    assert _server_errors.http_error(status, body).status == status


def test_hints_about_addresses_name_the_path_of_a_bare_server():
    """A server without a gateway answers 404 to an address without a path, and the hint names the missing path."""
    for error in (
        _server_errors.connect_error(404),
        _server_errors.connect_error(200, b"<html>"),
        _server_errors.http_error(418),
    ):
        assert error.hint is not None and "/socket" in error.hint


def test_a_refused_publish_names_both_reasons():
    """The hint of a 401 of the HTTP interface names both causes: an expired token, and a token of another project."""
    assert "has expired" in str(_server_errors.http_error(401)) and "another secret" in str(
        _server_errors.http_error(401)
    )
