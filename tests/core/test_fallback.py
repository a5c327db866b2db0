"""When long polling replaces WebSockets, and when WebSockets are tried again."""

from collections.abc import Callable
from typing import Any

import pytest

from supawire.core.effects import Connect, FallbackChosen, ProbeWebSocket, Transmit
from supawire.core.fallback import Cause, Evidence, evidence
from supawire.events import ConnectionState

from .conftest import Harness

BLOCKED = Cause(status=400, body=b"<html>Bad Request</html>")


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (BLOCKED, Evidence.CERTAIN),
        (Cause(status=200, body=b"<html>"), Evidence.CERTAIN),
        (Cause(status=426), Evidence.CERTAIN),
        (Cause(status=501), Evidence.CERTAIN),
        (Cause(status=403, body=b"<html>blocked by policy</html>"), Evidence.CERTAIN),
        (Cause(late=True), Evidence.CERTAIN),
        (Cause(status=502), Evidence.LIKELY),
        (Cause(reached=True), Evidence.LIKELY),
        (Cause(text="connection refused"), Evidence.NONE),
        (Cause(status=401, body=b"<html>"), Evidence.NONE),
        (Cause(status=403), Evidence.NONE),
        (Cause(status=403, body=b'{"error":"Realtime was disabled"}'), Evidence.NONE),
        (Cause(status=404, body=b'{"error":"Tenant not found"}'), Evidence.NONE),
        (Cause(status=429), Evidence.NONE),
        (Cause(status=500, body=b'{"error":"Error connecting to Realtime"}'), Evidence.NONE),
        (Cause(status=302), Evidence.NONE),
    ],
)
def test_only_answers_of_others_are_evidence(cause: Cause, expected: Evidence):
    """An answer of Realtime, a redirect and an unreachable server say nothing about WebSockets."""
    assert evidence(cause) is expected


@pytest.fixture
def open_harness(make_harness: Callable[..., Harness]) -> Harness:
    """Return a session with fallback that connects."""
    harness = make_harness(fallback=True, open_timeout=None)
    harness.call(harness.session.open)
    return harness


def attempts(harness: Harness) -> list[bool]:
    """Return for each attempt whether it used long polling."""
    return [effect.longpoll for effect in harness.effects if isinstance(effect, Connect)]


def fail(harness: Harness, **cause: Any) -> None:
    """Fail the present attempt and wait for the next."""
    harness.drop(**cause)
    harness.run_to_attempt()


def test_a_blocked_upgrade_is_followed_by_long_polling(open_harness: Harness):
    """After a proxy's answer the next attempt polls, also for a status that would otherwise end the client."""
    fail(open_harness, status=403, body=b"<html>blocked</html>")
    assert attempts(open_harness) == [False, True]
    assert open_harness.reports(FallbackChosen)[0].longpoll
    assert open_harness.session.stats().fallbacks == 1


def test_a_failure_that_a_restart_explains_must_be_repeated(open_harness: Harness):
    """One 502 changes nothing; the second in a row does."""
    fail(open_harness, status=502)
    assert attempts(open_harness) == [False, False]
    fail(open_harness, status=502)
    assert attempts(open_harness)[-1]


def test_the_transports_alternate_while_neither_works(open_harness: Harness):
    """After a failed session of long polling the next attempt is a WebSocket, whatever the failure was."""
    fail(open_harness, status=400)
    fail(open_harness, status=404, body=b"<html>no such page</html>")
    fail(open_harness, status=400)
    assert attempts(open_harness) == [False, True, False, True]


def test_a_refusal_of_long_polling_ends_the_client(open_harness: Harness):
    """If the server itself refuses the key, the client gives up as with WebSockets."""
    fail(open_harness, status=400)
    open_harness.drop(status=403)
    assert open_harness.session.state is ConnectionState.CLOSED


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b'{"message":"no Route matched with those values"}'), (403, b"<html>blocked by policy</html>")],
)
def test_a_gateway_without_long_polling_does_not_end_the_client(open_harness: Harness, status: int, body: bytes):
    """After a restart that made long polling likely, a gateway that does not pass its path does not end the client."""
    fail(open_harness, status=502)
    fail(open_harness, status=502)
    fail(open_harness, status=status, body=body)
    assert attempts(open_harness) == [False, False, True, False]


def test_without_the_option_only_websockets_are_used(make_harness: Callable[..., Harness]):
    """Long polling must be asked for."""
    harness = make_harness(open_timeout=None)
    harness.call(harness.session.open)
    fail(harness, status=400)
    fail(harness, status=400)
    assert not any(attempts(harness))


def test_a_lost_session_is_opened_again_by_polling(open_harness: Harness):
    """A session that was open and is lost does not mean that WebSockets pass."""
    fail(open_harness, status=400)
    open_harness.accept()
    fail(open_harness)
    assert attempts(open_harness) == [False, True, True]


def probes(harness: Harness) -> int:
    return sum(isinstance(effect, ProbeWebSocket) for effect in harness.effects)


def test_websockets_are_tried_again_ever_less_often(open_harness: Harness):
    """While polling, a WebSocket is tried after 60 s, then after twice as long each time; if it works, it is used."""
    harness = open_harness
    fail(harness, status=400)
    harness.accept()
    session = harness.session
    for seconds in (60.0, 120.0):
        before = probes(harness)
        keep_alive(harness, seconds - 1)
        assert probes(harness) == before
        keep_alive(harness, 2)
        assert probes(harness) == before + 1
        harness.call(session.probed, session.generation, False)
    harness.call(session.probed, session.generation, True)
    assert attempts(harness)[-2:] == [True, False]
    assert not harness.reports(FallbackChosen)[-1].longpoll


def test_lost_sessions_do_not_postpone_the_trial(open_harness: Harness):
    """If sessions of long polling are lost again and again, a WebSocket is tried nevertheless."""
    harness = open_harness
    fail(harness, status=400)
    for _ in range(12):
        harness.accept()
        keep_alive(harness, 10)
        fail(harness)
    harness.accept()
    harness.run_for(1)
    assert probes(harness) > 0
    assert all(attempts(harness)[1:])


def keep_alive(harness: Harness, seconds: float) -> None:
    """Let time pass, and answer the heartbeats."""
    for _ in range(round(seconds)):
        harness.run_for(1)
        for frame in harness.new_frames("heartbeat"):
            harness.reply(frame)


def test_the_version_of_the_frames_is_that_of_the_connection(make_harness: Callable[..., Harness]):
    """Over a connection of version 1.0.0 a client of version 2.0.0 sends objects, and arrays again after the next."""
    harness = make_harness(open_timeout=None)
    harness.call(harness.session.open)
    harness.call(harness.session.transport_opened, harness.session.generation, protocol="1.0.0")
    harness.call(harness.session.ping, None)
    fail(harness)
    harness.accept()
    harness.call(harness.session.ping, None)
    first, second = (effect.data[:1] for effect in harness.effects if isinstance(effect, Transmit))
    assert (first, second) == (b"{", b"[")
