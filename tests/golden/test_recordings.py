"""Play every recorded connection with the client's core.

The steps of the recorded client are repeated with the API, and the recorded frames of the server are delivered under
virtual time. Events, outcomes and states are compared with those that `expected.py` computes from the recording. Steps
that the client refuses or never takes are skipped; `skipped.py` lists them with the reasons.
"""

from collections import Counter
from functools import cache
from typing import Any, Final

import pytest

from supawire.core.effects import BindingMismatch, TransitionMissing, UnreadableFrame
from supawire.errors import (
    ClosedError,
    ConnectError,
    ConnectionLostError,
    JoinDeniedError,
    JoinError,
    OperationTimeout,
    PayloadTooLargeError,
    PushError,
)
from supawire.events import ChannelState, ConnectionState, Sent
from supawire.testing.harness import NOT_YET

from .events import state_of
from .expected import Expected, ExpectedTopic
from .player import PlayedStep, Player
from .recordings import Record, all_scenarios, scenarios
from .skipped import INVALID_FRAMES, SKIPPED, SKIPPED_CONNECTIONS, matches
from .steps import Join, Leave, Ping, Send, Track
from .test_codec import GARBAGE, expected_decoder

UNREQUESTED: Final = {
    "err-malformed v2": ["phx_join"],  # the channel crashed, and joins again automatically
}
"""Frames besides heartbeats that the session sends without a recorded step, by scenario."""

ENDS: Final = {
    None: ChannelState.IDLE,
    "crashed": ChannelState.JOINING,
    "Track message size exceeded": ChannelState.FAILED,
    "ChannelRateLimitReached: Too many channels": ChannelState.FAILED,
    "InvalidJWTToken: Token has expired 2 seconds ago": ChannelState.FAILED,
    "Unauthorized: You do not have permissions to read from this Channel topic: room-1": ChannelState.FAILED,
    "Unauthorized: You do not have permissions to read from this Channel topic: private-x": ChannelState.FAILED,
    "": ChannelState.JOINING,
}
"""The final state of a channel that is no longer joined, by the server's reason."""

REFUSED: Final = {
    "Unauthorized": JoinDeniedError,
    "ChannelRateLimitReached": JoinDeniedError,
    "InvalidJWTToken": JoinError,
    "ClientJoinRateLimitReached": JoinError,
    "payload_size_exceeded": PayloadTooLargeError,
    "": PushError,
}
"""The error that the caller receives, by the reason of the reply."""

SCENARIOS: Final = all_scenarios()


class Playback:
    """A played connection: the session, and what is expected of it."""

    def __init__(self, vsn: str, started_at: float) -> None:
        self.player = Player(vsn, started_at)
        self.expected = Expected()
        self.garbage = 0
        self.states: dict[str, ChannelState] = {}
        """The states of the channels before the client was closed."""
        self.connection_state = ConnectionState.IDLE
        """The state of the connection before the client was closed."""
        self.presence: dict[str, Any] = {}

    def play(self, record: Record) -> None:
        if record.kind == "close":
            self.player.pass_until(record.t)
            self.record_states()
        before = len(self.player.played)
        self.player.play(record)
        for played in self.player.played[before:]:
            self.expect(played)
        if record.kind in {"http", "close"}:
            self.connection_state = self.player.session.state
        elif not record.sent:
            if expected_decoder(record) == GARBAGE and record.kind == "text":
                self.garbage += 1
            else:
                self.expected.receive(record)

    def expect(self, played: PlayedStep) -> None:
        topic, ref, _, step = played.step
        if isinstance(step, Join):
            self.expected.add_join(topic, ref, step.config)
        elif isinstance(step, Leave):
            self.expected.add_leave(ref)

    def record_states(self) -> None:
        session = self.player.session
        self.states = {topic: channel.state for topic, channel in session.channels.items()}
        self.presence = {topic: state_of(session.presence_state(topic)) for topic in session.channels}


@cache
def played_connections(vsn: str, name: str) -> dict[str, Playback]:
    """Play the connections of a scenario, and close each client at the end."""
    playbacks: dict[str, Playback] = {}
    for record in scenarios(vsn)[name]:
        if record.label is not None or (name, record.conn) in SKIPPED_CONNECTIONS:
            continue  # a label marks an HTTP request, which the session does not make
        playback = playbacks.setdefault(record.conn, Playback(vsn, record.t))
        playback.play(record)
    for playback in playbacks.values():
        playback.player.close()
    return playbacks


def playbacks_of(vsn: str, name: str) -> list[tuple[str, Playback]]:
    return [(f"{name} v{vsn[0]} {conn}", playback) for conn, playback in played_connections(vsn, name).items()]


def types_of(value: Any) -> Any:
    """Return the types inside a value, since 1 == True == Decimal(1)."""
    if isinstance(value, dict):
        return {key: types_of(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [types_of(inner) for inner in value]
    return type(value)


def assert_same(actual: Any, expected: Any, where: str) -> None:
    assert actual == expected, where
    assert types_of(actual) == types_of(expected), where


# ------------------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_listeners_receive_the_recorded_events(vsn: str, name: str):
    """Broadcasts, system messages and presence of each channel arrive as recorded, all of them, once and in order."""
    for where, playback in playbacks_of(vsn, name):
        assert set(playback.player.events) == set(playback.expected.topics), where
        for topic, expected in playback.expected.topics.items():
            assert_same(playback.player.events[topic], expected.events, f"{where} {topic}")


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_changes_reach_their_bindings_with_typed_rows(vsn: str, name: str):
    """Each binding gets the rows whose ids name it, with exact Python values in records, columns and commit times."""
    for where, playback in playbacks_of(vsn, name):
        for topic, expected in playback.expected.topics.items():
            if not expected.changes:
                continue
            assert_same(playback.player.changes[topic], expected.changes, f"{where} {topic}")


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_the_final_presence_is_the_recorded_one(vsn: str, name: str):
    """The presence state of each channel is the recorded state with the recorded diffs."""
    for where, playback in playbacks_of(vsn, name):
        for topic, expected in playback.expected.topics.items():
            assert_same(playback.presence[topic], expected.presence, f"{where} {topic}")


# -------------------------------------------------------------------------------------------------- outcomes and states


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_every_request_is_resolved_with_the_recorded_reply(vsn: str, name: str):
    """A call returns after an ok, raises the recorded reason, or raises an error if there was no reply (R31)."""
    for where, playback in playbacks_of(vsn, name):
        for played in playback.player.played:
            outcome = NOT_YET if played.ticket is None else playback.player.outcome(played.ticket)
            check_outcome(outcome, playback, played, f"{where} #{played.record.number}")


def check_outcome(outcome: Any, playback: Playback, played: PlayedStep, where: str) -> None:
    reply, step = playback.expected.replies.get(played.step.ref), played.step.step
    if played.ticket is None:
        assert isinstance(step, Send) and not playback.player.session.channels[played.step.topic].options.ack, where
    elif reply is None:
        assert isinstance(outcome, OperationTimeout | ClosedError | ConnectionLostError), f"{where}: {outcome!r}"
    elif reply.ok:
        results = {Join: None, Track: None, Leave: None, Send: Sent("socket", acked=True)}
        assert (outcome >= 0) if isinstance(step, Ping) else outcome == results[type(step)], f"{where}: {outcome!r}"
    else:
        error = next(kind for reason, kind in REFUSED.items() if reply.reason.startswith(reason))
        assert type(outcome) is error and reply.reason in str(outcome), f"{where}: {outcome!r}"


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_channels_end_in_the_recorded_state(vsn: str, name: str):
    """At the end a channel is joined, left, waiting for a connection, or failed with the server's reason."""
    for where, playback in playbacks_of(vsn, name):
        for topic, expected in playback.expected.topics.items():
            assert playback.states[topic] is end_of(expected), f"{where} {topic}: {expected.end_reason}"


def end_of(topic: ExpectedTopic) -> ChannelState:
    if topic.joined:
        return ChannelState.JOINED
    return ENDS[topic.end_reason]


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_a_closed_client_has_nothing_pending(vsn: str, name: str):
    """After close the connection is CLOSED, no call is pending and no deadline is set (R10)."""
    for where, playback in playbacks_of(vsn, name):
        session = playback.player.session
        assert session.state is ConnectionState.CLOSED, where
        assert session.stats().pending == 0, where
        assert session.next_deadline is None, where


# -------------------------------------------------------------------------------------------------------- connections


REFUSALS: Final = {
    "conn-bad-token": (ConnectionState.CLOSED, "not a valid JWT"),
    "conn-wrong-secret": (ConnectionState.CLOSED, "Failed to validate JWT signature"),
    "conn-expired": (ConnectionState.CLOSED, "Token has expired"),
    "conn-no-role": (ConnectionState.CLOSED, "Fields `role` and `exp`"),
    "conn-no-exp": (ConnectionState.CLOSED, "Fields `role` and `exp`"),
    "conn-no-apikey": (ConnectionState.CLOSED, "API key is missing"),
    "conn-unknown-tenant": (ConnectionState.CLOSED, "Tenant not found"),
    "conn-bad-vsn": (ConnectionState.CLOSED, "403"),
    "conn-wrong-path": (ConnectionState.CLOSED, "404"),
    "join-rate": (ConnectionState.RETRYING, "Too many joins per second"),
}
"""The state and error after a refused upgrade; a static token cannot be refreshed."""


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_a_refused_upgrade_closes_the_client_or_is_retried(vsn: str, name: str):
    """A permanent refusal closes the client with the server's text, a transient one is retried, and 101 opens (R7)."""
    for where, playback in playbacks_of(vsn, name):
        (status,) = [
            r.status for r in scenarios(vsn)[name] if r.kind == "http" and not r.label and r.conn == where.split()[2]
        ]
        assert playback.player.opening is not None
        outcome = playback.player.outcome(playback.player.opening)
        if status == 101:
            assert outcome is None, where
            continue
        state, text = REFUSALS[name]
        assert playback.connection_state is state, where
        if state is ConnectionState.CLOSED:
            assert type(outcome) is ConnectError and text in str(outcome), f"{where}: {outcome!r}"
        else:
            assert type(outcome) is ClosedError, f"{where}: {outcome!r}"


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_an_unrequested_close_is_followed_by_a_reconnect(vsn: str, name: str):
    """The client reconnects after a close by the server, also with 1000, and not after its own close (R5)."""
    for record in scenarios(vsn)[name]:
        if record.kind == "close":
            if (name, record.conn) in SKIPPED_CONNECTIONS:
                continue
            playback = played_connections(vsn, name)[record.conn]
            by_server = record.code in (1001, 1009, 1012) or name == "idle-no-heartbeat"
            expected = ConnectionState.RETRYING if by_server else ConnectionState.CLOSED
            assert playback.connection_state is expected, record.name


# --------------------------------------------------------------------------------- skipped steps, unrequested frames


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_every_skipped_step_is_listed(vsn: str, name: str):
    """A recorded step that was not played is in the list once, with its reason."""
    for _, playback in playbacks_of(vsn, name):
        for record, error in playback.player.skipped.items():
            found = [key for key in (*SKIPPED, *INVALID_FRAMES) if matches(key, record)]
            assert len(found) == 1, f"{record.name} ({error}) {record.data[:200]!r}: {found}"


@pytest.mark.parametrize("key", [*SKIPPED, *INVALID_FRAMES], ids=repr)
def test_the_list_of_skipped_steps_is_exact(key: tuple[str, bytes]):
    """Each entry is necessary: a step that it names was skipped."""
    versions = [vsn for vsn, name in SCENARIOS if name == key[0]]
    assert any(
        matches(key, record)
        for vsn in versions
        for _, playback in playbacks_of(vsn, key[0])
        for record in playback.player.skipped
    )


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_the_session_sends_only_requested_frames(vsn: str, name: str):
    """Besides heartbeats, and a join after a crash, every sent frame belongs to a recorded step."""
    for where, playback in playbacks_of(vsn, name):
        unrequested = [event for event in playback.player.unrequested if event != "heartbeat"]
        assert unrequested == UNREQUESTED.get(f"{name} v{vsn[0]}", []), where


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_only_recorded_garbage_is_counted_as_garbage(vsn: str, name: str):
    """Exactly the recorded frames that cannot be decoded are counted, and no impossible state is reported (R40)."""
    for where, playback in playbacks_of(vsn, name):
        assert playback.player.session.stats().garbage_frames == playback.garbage, where
        kinds = Counter(type(effect) for effect in playback.player.effects)
        assert kinds[UnreadableFrame] == playback.garbage, where
        assert not {TransitionMissing, BindingMismatch} & set(kinds), where


def test_most_recorded_steps_are_played():
    """Of 254 recorded steps of clients 153 are played, and 417 frames of the server are delivered."""
    players = [playback.player for vsn, name in SCENARIOS for _, playback in playbacks_of(vsn, name)]
    played, skipped = sum(len(player.played) for player in players), sum(len(player.skipped) for player in players)
    heartbeats = sum(player.unrequested.count("heartbeat") for player in players)
    delivered = sum(player.session.stats().frames_received for player in players) - heartbeats
    assert (played, played + skipped, delivered) == (153, 254, 417)
