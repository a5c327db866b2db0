"""Each row of the server's tables leads to what it says: joins, system messages, handshakes (§1.3, §3.6, §9.2).

The tables here are written from the protocol page, not from the code: a row that the code lost or changed fails.
"""

import json
from collections.abc import Callable
from typing import Literal

import pytest

from supawire.errors import (
    HANDSHAKE,
    JOIN_REASONS,
    SYSTEM_MESSAGES,
    AuthError,
    ConnectError,
    JoinDeniedError,
    JoinError,
    RealtimeError,
    body_text,
    classify_handshake,
    classify_join,
    classify_system,
)
from supawire.options import Secret, SessionOptions
from supawire.selectors import changes
from supawire.testing.pilot import NOT_YET, error_of
from supawire.types import ChannelState, LinkState

from .conftest import Story

Class = Literal["retry", "slow", "refresh", "refresh once", "give up"]

REASONS: dict[str, Class] = {  # protocol §9.2
    "TopicNameRequired: You must provide a topic name": "give up",
    "InvalidJWTToken: Token has expired 5 seconds ago": "refresh",
    "InvalidJWTToken: Fields `role` and `exp` are required in JWT": "give up",
    "InvalidJWTToken: Token expiration time is invalid": "refresh",
    "InvalidJWTExpiration: Token has expired": "refresh",
    "MalformedJWT: The token provided is not a valid JWT": "give up",
    "JwtSignatureError: Failed to validate JWT signature": "refresh once",
    "JwtSignerError: Failed to generate JWT signer, check your JWT secret": "refresh once",
    "Unauthorized: You do not have permissions to read from this Channel topic: room": "give up",
    "PrivateOnly: This project only allows private channels": "give up",
    "TenantNotFound: Tenant with the given ID does not exist": "give up",
    "RealtimeDisabledForTenant: Realtime disabled for this tenant": "give up",
    "ChannelRateLimitReached: Too many channels": "give up",
    "ConnectionRateLimitReached: Too many connected users": "slow",
    "ClientJoinRateLimitReached: Too many joins per second": "slow",
    "IncreaseConnectionPool: Please increase your connection pool size": "retry",
    "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect": "retry",
    "DatabaseConnectionRateLimitReached: Too many database connections attempts per second": "slow",
    "UnableToConnectToProject: Realtime was unable to connect to the project database": "retry",
    "InitializingProjectConnection: Connecting to the project database": "retry",
    "InitializingProjectConnection: Realtime is initializing the project connection": "retry",
    "Realtime was unable to connect to the project database": "retry",
    "QueryCanceled: canceling statement due to user request": "retry",
    "MissingPartition: Realtime was unable to find the expected messages partition": "retry",
    "TimeoutOnRpcCall: Node request timeout": "retry",
    "ErrorOnRpcCall: RPC call error: :noproc": "retry",
    "MusterJoinError: no": "retry",
    "RealtimeRestarting: Realtime is restarting, please standby": "retry",
    "UnableToReplayMessages: Replay is not allowed for public channels": "give up",
    "UnableToReplayMessages: Replay params are not valid": "give up",
    "UnableToReplayMessages: Realtime was unable to replay messages": "retry",
    "Unknown Error on Channel": "retry",
    "UnknownErrorOnChannel: boom": "retry",
    "join crashed": "retry",
    "too many channels joined": "give up",
    "unmatched topic": "give up",
    # §9.1: an unknown code is retried; §10: never require a code, match "expired" in the text
    "SomethingNew: of a newer server": "retry",
    "no code at all": "retry",
    "": "retry",
    '%{reason: :token_expired, message: "expired"}': "refresh",
}

SYSTEMS: dict[str, Class] = {  # protocol §3.6, extension "system": each is followed by phx_close
    "Replication connection was not established in time": "retry",
    "Token has expired 7 seconds ago": "refresh",
    "Fields `role` and `exp` are required in JWT": "give up",
    "The token provided is not a valid JWT": "give up",
    ":signature_error": "refresh once",
    ":error_generating_signer": "refresh once",
    'Failed to generate JWT signer for key ID (kid) "x", check your JWT secret': "refresh once",
    "You do not have permissions to read from this Channel topic: room": "give up",
    "You no longer have permission to read from this Channel topic: room": "give up",
    "Realtime was unable to connect to the project database": "retry",
    "Query was cancelled, please try again": "retry",
    "Node request timeout": "retry",
    "RPC call error: :noproc": "retry",
    ":increase_connection_pool": "retry",
    "Too many messages per second": "slow",
    "Too many presence messages per second": "slow",
    "Client presence rate limit exceeded": "slow",
    "Track message size exceeded": "give up",
    "something new": "retry",
}

CHANGES: dict[str, Literal["passes", "never"]] = {  # protocol §3.6, extension "postgres_changes": the channel stays
    'Error parsing `filter` params: ["foo", "hey"]': "never",
    "Error parsing `select` params: expected a list of column name strings, got: 1": "never",
    "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.": "never",
    "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: %{}": "never",
    "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect "
    "parameters: []": "never",
    "Unable to subscribe to changes with given parameters. An exception happened so please check your connect "
    "parameters: []. Exception: ERROR 42703": "never",
    '{:error, "Too many database timeouts"}': "passes",
    "something new": "passes",
}

SOON, SLOWLY, LONGEST = 1.0, 15.0, 30.0
"""Seconds of the default rejoin backoff: its first step; half its longest step; its longest step."""


def with_provider(name: str = "room") -> tuple[Story, str]:
    """A client with a token provider and a channel whose join is out."""
    story = Story(SessionOptions(has_token_provider=True))
    story.do(story.session.open)
    story.give_token("first")
    story.accept()
    room = story.channel(name)
    story.do(story.session.join, room)
    story.give_token("first")
    return story, room


def follow(story: Story, room: str, says: Callable[[], None], what: Class) -> None:
    """Let the server say it, and check that what the row says follows."""
    says()
    if what == "give up":
        assert story.state(room) is ChannelState.FAILED
        story.run_alive(120)
        assert len(story.sent("phx_join")) == 1, "nothing is tried again by itself"
        return
    assert story.state(room) is ChannelState.RETRYING
    error = story.at(room).error
    assert error is not None
    assert error.retryable
    story.run_alive(SOON + 0.01 if what != "slow" else SLOWLY - 0.01)
    if what == "slow":
        assert story.state(room) is ChannelState.RETRYING
        story.run_alive(LONGEST - SLOWLY + 0.02)
    story.give_token("second")
    assert story.state(room) is ChannelState.JOINING
    assert story.sent("phx_join")[-1].payload["access_token"] == "second"
    if what in ("refresh", "refresh once"):
        story.refuse_join("JwtSignatureError: no" if what == "refresh once" else "InvalidJWTToken: Token has expired 1")
        assert story.state(room) is (ChannelState.FAILED if what == "refresh once" else ChannelState.RETRYING)


@pytest.mark.parametrize(("reason", "what"), REASONS.items())
def test_each_reason_of_a_refused_join_leads_to_what_its_row_says(reason: str, what: Class) -> None:
    """Fatal reasons stop, passing ones are retried, limits more slowly, tokens after a fresh one (R29)."""
    story, room = with_provider()
    waiting = story.do(story.session.join, room)
    follow(story, room, lambda: story.refuse_join(reason), what)
    if what == "give up":
        error = error_of(story.outcome(waiting))
        assert isinstance(error, JoinDeniedError)
        assert reason in str(error)
        assert error.hint
        assert error.docs
    elif story.state(room) is not ChannelState.FAILED:
        assert story.outcome(waiting) is NOT_YET


@pytest.mark.parametrize(("text", "what"), SYSTEMS.items())
def test_each_system_error_leads_to_what_its_row_says(text: str, what: Class) -> None:
    """A system error and the phx_close after it: the same classes, with the server's text as the reason (R29)."""
    story, room = with_provider()
    story.answer_join()
    follow(story, room, lambda: story.end_channel(room, text), what)
    if what == "give up":
        assert text in str(story.at(room).error)


@pytest.mark.parametrize(("text", "what"), CHANGES.items())
def test_no_system_error_of_changes_ends_the_channel(text: str, what: str) -> None:
    """Each is a lost readiness with the server's text; those that the server never retries are reported (R19, R29)."""
    story, db = with_provider("db")
    story.do(story.session.leave, db, 1.0)
    story.reply(story.sent("phx_join")[-1], {})
    story.reply(story.sent("phx_leave")[-1])
    story.collect(db, changes("users"))
    ready = story.do(story.session.join, db, ready=True)
    story.give_token("first")
    story.answer_join()
    story.system(db, text, status="error")
    story.run_alive(60)
    assert story.state(db) is ChannelState.JOINED
    assert len(story.sent("phx_join")) == 2
    if what == "never":
        assert text in str(error_of(story.outcome(ready)))
        assert [text in str(error) for error in story.errors] == [True]
    else:
        assert story.outcome(ready) is NOT_YET
        assert story.errors == []


def test_every_row_of_the_tables_is_told_here() -> None:
    """Each row of the code's tables is reached by a text of this file, so that none is untested (R29, R30)."""
    said = [classify_join(reason) for reason in REASONS]
    said += [row for text in SYSTEMS if (row := classify_system("system", "error", text))]
    said += [row for text in CHANGES if (row := classify_system("postgres_changes", "error", text))]
    said += [
        classify_handshake(status, body_text(body) or body.decode("utf-8", "replace")) for status, body, _ in HANDSHAKES
    ]
    assert [row for row in (*JOIN_REASONS, *SYSTEM_MESSAGES, *HANDSHAKE) if row not in said] == []


def test_a_fatal_refusal_is_tried_again_when_the_token_changes(make_story: Callable[..., Story]) -> None:
    """Unauthorized stops until the token changes; the same token again changes nothing (R29)."""
    story = make_story(token="v1")
    story.open()
    room = story.channel(private=True)
    story.do(story.session.join, room)
    assert story.sent("phx_join")[0].payload["access_token"] == "v1", "in the first join frame"
    story.refuse_join("Unauthorized: no")
    story.do(story.session.set_token, Secret("v1"))
    assert story.state(room) is ChannelState.FAILED
    story.do(story.session.set_token, Secret("v2"))
    assert story.state(room) is ChannelState.JOINING
    assert story.sent("phx_join")[1].payload["access_token"] == "v2"


def test_a_fatal_refusal_stays_through_reconnects(story: Story) -> None:
    """A channel that was refused for good is not joined again because the socket is new (R29)."""
    story.open()
    room, other = story.channel(), story.joined("other")
    story.do(story.session.join, room)
    story.refuse_join("TenantNotFound: Tenant with the given ID does not exist")
    story.drop(1001)
    story.come_back()
    assert [frame.topic for frame in story.sent("phx_join")[2:]] == [other]
    assert story.state(room) is ChannelState.FAILED


@pytest.mark.parametrize(
    "response", [{"reason": "RealtimeRestarting: wait"}, "RealtimeRestarting: wait", {}, None, [], 5]
)
def test_a_refusal_of_any_shape_is_a_refusal(story: Story, response: object) -> None:
    """Reasons that are bare strings, missing, or no text at all are taken as refusals that may pass (R29, R40)."""
    story.open()
    room = story.channel()
    story.do(story.session.join, room)
    story.hear(room, "phx_reply", {"status": "error", "response": response}, ref=story.sent("phx_join")[0].ref)
    assert story.state(room) is ChannelState.RETRYING
    assert isinstance(story.at(room).error, JoinError)


# --- handshakes

HANDSHAKES: list[tuple[int, bytes, Class]] = [  # protocol §1.3
    (403, b"", "refresh once"),
    (404, b'{"error":"Tenant not found"}', "give up"),
    (403, b'{"error":"Realtime was disabled for this tenant"}', "give up"),
    (401, b'{"error":"API key is missing"}', "give up"),
    (401, b'{"error":"Token has expired"}', "refresh once"),
    (401, b'{"error":"Fields `role` and `exp` are required in JWT"}', "give up"),
    (401, b'{"error":"The token provided is not a valid JWT"}', "give up"),
    (401, b'{"error":"Failed to validate JWT signature"}', "refresh once"),
    (401, b'{"error":"Failed to generate JWT signer, check your JWT secret or JWKS configuration"}', "give up"),
    (401, b'{"error":"Failed to generate JWT signer for key ID (kid) \\"k\\", check your JWT"}', "refresh once"),
    (429, b'{"error":"Too many connected users"}', "slow"),
    (429, b'{"error":"Too many joins per second"}', "slow"),
    (500, b'{"error":"Error connecting to Realtime"}', "retry"),
    # gateways, proxies and old servers
    (401, b"", "refresh once"),
    (401, b'{"message":"Invalid API key"}', "refresh once"),
    (403, b'{"message":"forbidden"}', "give up"),
    (403, b'{"message":"Token has expired"}', "refresh once"),
    (404, b"<html>not found</html>", "give up"),
    (414, b"", "give up"),
    (431, b"", "give up"),
    (429, b"", "slow"),
    (500, b"", "retry"),
    (502, b"<html>bad gateway</html>", "retry"),
    (503, b"", "retry"),
    (504, b"\xff\xfe", "retry"),
    (200, b"hello", "retry"),
    (302, b"", "retry"),
    (418, b"[" * 5000, "retry"),
]


@pytest.mark.parametrize(("status", "body", "what"), HANDSHAKES)
@pytest.mark.parametrize("provider", [True, False], ids=["provider", "no provider"])
def test_each_refused_handshake_leads_to_what_its_row_says(
    make_story: Callable[..., Story], status: int, body: bytes, what: Class, provider: bool
) -> None:
    """401 is one token refresh, then the end; 403 and 404 are the end; 429 and 5xx are retried (R30)."""
    story = make_story(has_token_provider=provider, open_timeout=None)
    opened = story.do(story.session.open)
    if provider:
        story.give_token("first")
    story.drop(status=status, body=body)
    if what == "refresh once" and provider:
        assert story.session.state is LinkState.CONNECTING, "at once"
        assert story.fetches == 2
        story.give_token("second")
        assert story.connects == 2
        story.drop(status=status, body=body)
        what = "give up"
    if what in ("give up", "refresh once"):
        assert story.session.state is LinkState.CLOSED
        error = error_of(story.outcome(opened))
        assert isinstance(error, ConnectError)
        assert error.status == status
        assert error.hint
        assert story.session.next_deadline is None
        return
    assert story.session.state is LinkState.RETRYING
    assert story.outcome(opened) is NOT_YET
    wait = (story.session.next_deadline or 0) - story.now.mono
    assert SLOWLY <= wait <= LONGEST if what == "slow" else wait <= 1.5


@pytest.mark.parametrize(("status", "body", "what"), HANDSHAKES)
def test_a_refused_handshake_keeps_what_the_server_said(story: Story, status: int, body: bytes, what: Class) -> None:
    """The error has the status and the text of the JSON body, or of any body (R30)."""
    story.do(story.session.open)
    story.drop(status=status, body=body)
    error = story.session.error
    assert isinstance(error, ConnectError)
    assert str(status) in str(error)
    assert error.retryable is (what != "give up")
    if body.startswith(b"{"):
        (said,) = json.loads(body).values()
        assert said in str(error)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retry_after_is_honoured_when_it_is_longer(story: Story, status: int) -> None:
    """The server's Retry-After wins over a shorter backoff, for that attempt alone (R30)."""
    story.do(story.session.open)
    story.accept()
    story.drop(1006)
    story.run_to_attempt()
    story.drop(status=status, retry_after=90.0)
    story.run_for(89.9)
    assert story.session.state is LinkState.RETRYING
    story.run_for(0.2)
    assert story.session.state is LinkState.CONNECTING
    story.drop(text="refused")
    story.run_for(30)
    assert story.session.state is not LinkState.RETRYING


def test_a_short_retry_after_does_not_shorten_the_backoff(story: Story) -> None:
    """Retry-After of a second after a 429 leaves the slow wait as it is (R30)."""
    story.do(story.session.open)
    story.accept()
    story.drop(1006)
    story.run_to_attempt()
    story.drop(status=429, retry_after=1.0)
    assert (story.session.next_deadline or 0) - story.now.mono >= SLOWLY


def test_retry_after_holds_for_a_backoff_of_the_user(make_story: Callable[..., Story]) -> None:
    """Where the user has a function for the backoff, the longer of both counts (R30)."""
    story = make_story(backoff=None, open_timeout=None)
    story.do(story.session.open)
    story.drop(status=503, retry_after=40.0)
    story.do(story.session.delay_ready, ("connect",), 2.0)
    story.run_for(39.9)
    assert story.session.state is LinkState.RETRYING
    story.run_for(0.2)
    assert story.session.state is LinkState.CONNECTING


def test_one_refresh_is_for_one_connection(make_story: Callable[..., Story]) -> None:
    """After a connection that succeeded, a 401 is again answered with one refresh (R30)."""
    story = make_story(has_token_provider=True)
    story.do(story.session.open)
    for _ in range(2):
        story.give_token("old")
        story.drop(status=401, body=b'{"error":"Token has expired"}')
        story.give_token("new")
        story.accept()
        assert story.session.state is LinkState.OPEN
        story.drop(1006)
        story.run_to_attempt()
    story.give_token("old")
    story.drop(status=401, body=b'{"error":"Token has expired"}')
    assert story.session.state is LinkState.CONNECTING


def test_the_reason_of_a_close_is_the_word_before_it(story: Story) -> None:
    """A phx_close after a system error has that error; one without a word has none of an earlier join (R29)."""
    story.open()
    room = story.joined()
    story.end_channel(room, "Too many messages per second")
    assert "Too many messages" in str(story.at(room).error)
    story.run_alive(31)
    story.answer_join()
    story.close_channel(room, story.sent("phx_join")[-1].ref)
    assert "Too many messages" not in str(story.at(room).error)
    assert isinstance(story.at(room).error, RealtimeError)


def test_an_expired_token_is_an_auth_error(story: Story) -> None:
    """What ends a channel for its token is an AuthError, also for `except PermissionError` (R29)."""
    story.open()
    room = story.joined()
    story.end_channel(room, "Token has expired 1 seconds ago")
    assert isinstance(story.at(room).error, AuthError)
    assert isinstance(story.at(room).error, PermissionError)
