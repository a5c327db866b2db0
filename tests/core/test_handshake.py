"""Refused handshakes: typed, with the server's reason, and retried according to the error table (R30)."""

import json
from collections.abc import Callable

import pytest

from supawire._server_errors import (
    HANDSHAKE,
    JOIN_REASONS,
    SYSTEM_MESSAGES,
    body_text,
    classify_handshake,
    classify_join,
    classify_system,
)
from supawire.errors import ConnectError
from supawire.events import ConnectionState
from supawire.options import Backoff
from supawire.testing.harness import NOT_YET, error_of

from .conftest import Harness
from .server_texts import CHANGES, HANDSHAKES, LONGEST, REASONS, SLOWLY, SYSTEMS, Class


@pytest.mark.parametrize(("status", "body", "what"), HANDSHAKES)
@pytest.mark.parametrize("provider", [True, False], ids=["provider", "no provider"])
def test_each_refused_handshake_is_handled_as_its_row_in_the_table(
    make_harness: Callable[..., Harness], status: int, body: bytes, what: Class, provider: bool
) -> None:
    """401 causes one token refresh, then the end; 403 and 404 are final; 429 and 5xx are retried (R30)."""
    harness = make_harness(has_token_provider=provider, open_timeout=None)
    opened = harness.call(harness.session.open)
    if provider:
        harness.give_token("first")
    harness.drop(status=status, body=body)
    if what == "refresh once" and provider:
        assert harness.session.state is ConnectionState.CONNECTING, "at once"
        assert harness.fetches == 2
        harness.give_token("second")
        assert harness.connects == 2
        harness.drop(status=status, body=body)
        what = "give up"
    if what in ("give up", "refresh once"):
        assert harness.session.state is ConnectionState.CLOSED
        error = error_of(harness.outcome(opened))
        assert isinstance(error, ConnectError)
        assert error.status == status
        assert error.hint
        assert harness.session.next_deadline is None
        return
    assert harness.session.state is ConnectionState.RETRYING
    assert harness.outcome(opened) is NOT_YET
    wait = (harness.session.next_deadline or 0) - harness.now.mono
    assert SLOWLY <= wait <= LONGEST if what == "slow" else wait <= 1.5


@pytest.mark.parametrize(("status", "body", "what"), HANDSHAKES)
def test_a_refused_handshake_keeps_the_answer_of_the_server(
    harness: Harness, status: int, body: bytes, what: Class
) -> None:
    """The error contains the status and the text of the JSON body, or of any body (R30)."""
    harness.call(harness.session.open)
    harness.drop(status=status, body=body)
    error = harness.session.error
    assert isinstance(error, ConnectError)
    assert str(status) in str(error)
    assert error.retryable is (what != "give up")
    if body.startswith(b"{"):
        (message,) = json.loads(body).values()
        assert message in str(error)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retry_after_is_used_when_it_is_longer(harness: Harness, status: int) -> None:
    """A Retry-After longer than the backoff applies to that attempt only (R30)."""
    harness.call(harness.session.open)
    harness.accept()
    harness.drop(1006)
    harness.run_to_attempt()
    harness.drop(status=status, retry_after=90.0)
    harness.run_for(89.9)
    assert harness.session.state is ConnectionState.RETRYING
    harness.run_for(0.2)
    assert harness.session.state is ConnectionState.CONNECTING
    harness.drop(text="refused")
    harness.run_for(30)
    assert harness.session.state is not ConnectionState.RETRYING


@pytest.mark.parametrize("retry_after", [999_999_999.0, float("inf"), 1e300])
@pytest.mark.parametrize("backoff", [Backoff(), None])
def test_retry_after_is_limited_to_the_maximum(
    make_harness: Callable[..., Harness], retry_after: float, backoff: Backoff | None
) -> None:
    """However long the server's Retry-After, the next attempt comes after at most `max_retry_after` (R30)."""
    harness = make_harness(open_timeout=None, max_retry_after=120.0, backoff=backoff)
    harness.call(harness.session.open)
    harness.drop(status=503, retry_after=retry_after)
    if backoff is None:
        harness.call(harness.session.delay_ready, None, 2.0)
    harness.run_for(119.9)
    assert harness.session.state is ConnectionState.RETRYING
    harness.run_for(0.2)
    assert harness.session.state is ConnectionState.CONNECTING


@pytest.mark.parametrize("retry_after", [float("nan"), -1e9])
def test_an_invalid_retry_after_is_ignored(harness: Harness, retry_after: float) -> None:
    """A Retry-After that is negative or not a number does not change the backoff (R30)."""
    harness.call(harness.session.open)
    harness.drop(status=503, retry_after=retry_after)
    harness.run_for(2.0)
    assert harness.session.state is ConnectionState.CONNECTING


def test_a_short_retry_after_does_not_shorten_the_backoff(harness: Harness) -> None:
    """A Retry-After of one second after a 429 does not shorten the slow backoff (R30)."""
    harness.call(harness.session.open)
    harness.accept()
    harness.drop(1006)
    harness.run_to_attempt()
    harness.drop(status=429, retry_after=1.0)
    assert (harness.session.next_deadline or 0) - harness.now.mono >= SLOWLY


def test_retry_after_also_applies_to_a_backoff_function(make_harness: Callable[..., Harness]) -> None:
    """If the backoff is the user's function, the longer of the two delays counts (R30)."""
    harness = make_harness(backoff=None, open_timeout=None)
    harness.call(harness.session.open)
    harness.drop(status=503, retry_after=40.0)
    harness.call(harness.session.delay_ready, None, 2.0)
    harness.run_for(39.9)
    assert harness.session.state is ConnectionState.RETRYING
    harness.run_for(0.2)
    assert harness.session.state is ConnectionState.CONNECTING


def test_a_token_is_refreshed_once_for_each_connection(make_harness: Callable[..., Harness]) -> None:
    """After a successful connection, a 401 again causes one refresh (R30)."""
    harness = make_harness(has_token_provider=True)
    harness.call(harness.session.open)
    for _ in range(2):
        harness.give_token("old")
        harness.drop(status=401, body=b'{"error":"Token has expired"}')
        harness.give_token("new")
        harness.accept()
        assert harness.session.state is ConnectionState.OPEN
        harness.drop(1006)
        harness.run_to_attempt()
    harness.give_token("old")
    harness.drop(status=401, body=b'{"error":"Token has expired"}')
    assert harness.session.state is ConnectionState.CONNECTING


def test_every_row_of_the_tables_has_a_case_here() -> None:
    """Each row of the code's tables is reached by a text of this file, so that none is untested (R29, R30)."""
    rows = [classify_join(reason) for reason in REASONS]
    rows += [row for text in SYSTEMS if (row := classify_system("system", "error", text))]
    rows += [row for text in CHANGES if (row := classify_system("postgres_changes", "error", text))]
    rows += [
        classify_handshake(status, body_text(body) or body.decode("utf-8", "replace")) for status, body, _ in HANDSHAKES
    ]
    assert [row for row in (*JOIN_REASONS, *SYSTEM_MESSAGES, *HANDSHAKE) if row not in rows] == []
