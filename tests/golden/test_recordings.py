"""Every recorded connection, lived through by the client's core.

The steps of the recorded client are taken with our API, the recorded frames of the server are fed under virtual time,
and what comes out is compared with what the recording alone says must come out. Steps that our client refuses or never
takes are left out; they stand in a list with the reason, and the list is exact.
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
from .ledger import Checks, Topic
from .left_out import LEFT_OUT, NO_FRAMES, NOT_PLAYED, names
from .player import Player, Taken
from .recordings import Record, every, scenarios
from .steps import Join, Leave, Ping, Send, Track
from .test_codec import GARBAGE, way_of

UNASKED: Final = {
    "err-malformed v2": ["phx_join"],  # the channel crashed, and joins again by itself
}
"""What our session sends by itself besides heartbeats, by scenario."""

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
"""Where a channel is at last that is not joined any more, by the server's word."""

REFUSED: Final = {
    "Unauthorized": JoinDeniedError,
    "ChannelRateLimitReached": JoinDeniedError,
    "InvalidJWTToken": JoinError,
    "ClientJoinRateLimitReached": JoinError,
    "payload_size_exceeded": PayloadTooLargeError,
    "": PushError,
}
"""What the caller gets, by the reason of a reply."""

SCENARIOS: Final = every()


class Life:
    """One connection at its end: the session, and what it should have come to."""

    def __init__(self, vsn: str, started_at: float) -> None:
        self.player = Player(vsn, started_at)
        self.ledger = Checks()
        self.garbage = 0
        self.states: dict[str, ChannelState] = {}
        """Of channels, before the client was closed."""
        self.link = ConnectionState.IDLE
        """The state then."""
        self.presence: dict[str, Any] = {}

    def take(self, record: Record) -> None:
        if record.kind == "close":
            self.player.pass_until(record.t)
            self.look()
        before = len(self.player.taken)
        self.player.play(record)
        for taken in self.player.taken[before:]:
            self.note(taken)
        if record.kind in {"http", "close"}:
            self.link = self.player.session.state
        elif not record.sent:
            if way_of(record) == GARBAGE and record.kind == "text":
                self.garbage += 1
            else:
                self.ledger.take(record)

    def note(self, taken: Taken) -> None:
        topic, ref, _, step = taken.asked
        if isinstance(step, Join):
            self.ledger.joined(topic, ref, step.config)
        elif isinstance(step, Leave):
            self.ledger.left(ref)

    def look(self) -> None:
        session = self.player.session
        self.states = {topic: channel.state for topic, channel in session.channels.items()}
        self.presence = {topic: state_of(session.presence_state(topic)) for topic in session.channels}


@cache
def lived(vsn: str, name: str) -> dict[str, Life]:
    """The connections of a scenario, closed at the end."""
    lives: dict[str, Life] = {}
    for record in scenarios(vsn)[name]:
        if record.label is not None or (name, record.conn) in NOT_PLAYED:
            continue  # a label stands for a request over HTTP, which the session does not make
        life = lives.setdefault(record.conn, Life(vsn, record.t))
        life.take(record)
    for life in lives.values():
        life.player.close()
    return lives


def lives_of(vsn: str, name: str) -> list[tuple[str, Life]]:
    return [(f"{name} v{vsn[0]} {conn}", life) for conn, life in lived(vsn, name).items()]


def types_of(value: Any) -> Any:
    """The types inside a value, since 1 == True == Decimal(1)."""
    if isinstance(value, dict):
        return {key: types_of(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [types_of(inner) for inner in value]
    return type(value)


def assert_same(got: Any, expected: Any, where: str) -> None:
    assert got == expected, where
    assert types_of(got) == types_of(expected), where


# ------------------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_listeners_get_what_the_recording_says(vsn: str, name: str):
    """Broadcasts, system messages and presence of each channel arrive as recorded, all of them, once and in order."""
    for where, life in lives_of(vsn, name):
        assert set(life.player.heard) == set(life.ledger.topics), where
        for topic, expected in life.ledger.topics.items():
            assert_same(life.player.heard[topic], expected.heard, f"{where} {topic}")


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_changes_reach_their_bindings_with_typed_rows(vsn: str, name: str):
    """Each binding gets the rows whose ids name it, with exact Python values in records, columns and commit times."""
    for where, life in lives_of(vsn, name):
        for topic, expected in life.ledger.topics.items():
            if not expected.changes:
                continue
            assert_same(life.player.changes[topic], expected.changes, f"{where} {topic}")


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_presence_is_at_last_what_the_recording_says(vsn: str, name: str):
    """The presence state of each channel is the recorded state with the recorded diffs."""
    for where, life in lives_of(vsn, name):
        for topic, expected in life.ledger.topics.items():
            assert_same(life.presence[topic], expected.presence, f"{where} {topic}")


# ----------------------------------------------------------------------------------------------------- what is owed


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_every_request_comes_to_what_the_server_answered(vsn: str, name: str):
    """What a step is owed is settled with ok, with the recorded reason, or with an error when no answer came (R31)."""
    for where, life in lives_of(vsn, name):
        for taken in life.player.taken:
            outcome = NOT_YET if taken.ticket is None else life.player.outcome(taken.ticket)
            check_outcome(outcome, life, taken, f"{where} #{taken.record.number}")


def check_outcome(outcome: Any, life: Life, taken: Taken, where: str) -> None:
    reply, step = life.ledger.replies.get(taken.asked.ref), taken.asked.step
    if taken.ticket is None:
        assert isinstance(step, Send) and not life.player.session.channels[taken.asked.topic].options.ack, where
    elif reply is None:
        assert isinstance(outcome, OperationTimeout | ClosedError | ConnectionLostError), f"{where}: {outcome!r}"
    elif reply.ok:
        good = {Join: None, Track: None, Leave: None, Send: Sent("socket", acked=True)}
        assert (outcome >= 0) if isinstance(step, Ping) else outcome == good[type(step)], f"{where}: {outcome!r}"
    else:
        error = next(kind for reason, kind in REFUSED.items() if reply.reason.startswith(reason))
        assert type(outcome) is error and reply.reason in str(outcome), f"{where}: {outcome!r}"


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_channels_end_where_the_server_put_them(vsn: str, name: str):
    """At the end a channel is joined, left, waiting for a link, or given up with the server's reason."""
    for where, life in lives_of(vsn, name):
        for topic, expected in life.ledger.topics.items():
            assert life.states[topic] is end_of(expected), f"{where} {topic}: {expected.end}"


def end_of(topic: Topic) -> ChannelState:
    if topic.joined:
        return ChannelState.JOINED
    return ENDS[topic.end]


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_nothing_is_left_of_a_client_that_was_closed(vsn: str, name: str):
    """After close the link is CLOSED, nothing is owed and no deadline stands (R10)."""
    for where, life in lives_of(vsn, name):
        session = life.player.session
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
"""What becomes of a link whose upgrade is refused: with one static token nothing is there to refresh."""


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_a_refused_upgrade_ends_the_link_or_is_tried_again(vsn: str, name: str):
    """A permanent refusal ends the client with the server's words, a passing one is waited out, and 101 opens (R7)."""
    for where, life in lives_of(vsn, name):
        (status,) = [
            r.status for r in scenarios(vsn)[name] if r.kind == "http" and not r.label and r.conn == where.split()[2]
        ]
        assert life.player.opening is not None
        outcome = life.player.outcome(life.player.opening)
        if status == 101:
            assert outcome is None, where
            continue
        state, words = REFUSALS[name]
        assert life.link is state, where
        if state is ConnectionState.CLOSED:
            assert type(outcome) is ConnectError and words in str(outcome), f"{where}: {outcome!r}"
        else:
            assert type(outcome) is ClosedError, f"{where}: {outcome!r}"


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_a_close_that_we_did_not_ask_for_is_followed_by_a_reconnect(vsn: str, name: str):
    """Closed by the server, also with 1000, the link retries and channels wait; closed by us it stays closed (R5)."""
    for record in scenarios(vsn)[name]:
        if record.kind == "close":
            if (name, record.conn) in NOT_PLAYED:
                continue
            life = lived(vsn, name)[record.conn]
            by_server = record.code in (1001, 1009, 1012) or name == "idle-no-heartbeat"
            assert life.link is (ConnectionState.RETRYING if by_server else ConnectionState.CLOSED), record.name


# ----------------------------------------------------------------------------------------------------- what is not ours


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_what_is_left_out_is_listed(vsn: str, name: str):
    """A recorded step that was not taken stands in the list once, with its reason."""
    for _, life in lives_of(vsn, name):
        for record, error in life.player.left_out.items():
            found = [key for key in (*LEFT_OUT, *NO_FRAMES) if names(key, record)]
            assert len(found) == 1, f"{record.name} ({error}) {record.data[:200]!r}: {found}"


@pytest.mark.parametrize("key", [*LEFT_OUT, *NO_FRAMES], ids=repr)
def test_the_list_of_what_is_left_out_is_exact(key: tuple[str, bytes]):
    """Each entry is needed: a step that it names was left out."""
    versions = [vsn for vsn, name in SCENARIOS if name == key[0]]
    assert any(
        names(key, record) for vsn in versions for _, life in lives_of(vsn, key[0]) for record in life.player.left_out
    )


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_our_session_sends_nothing_that_was_not_asked(vsn: str, name: str):
    """Besides heartbeats, and a join after a crash, every frame of ours answers a recorded step."""
    for where, life in lives_of(vsn, name):
        unasked = [event for event in life.player.unasked if event != "heartbeat"]
        assert unasked == UNASKED.get(f"{name} v{vsn[0]}", []), where


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_frames_are_only_given_up_where_the_recording_has_garbage(vsn: str, name: str):
    """Garbage is counted for exactly the recorded frames that are none, and nothing is reported as impossible (R40)."""
    for where, life in lives_of(vsn, name):
        assert life.player.session.stats().garbage_frames == life.garbage, where
        kinds = Counter(type(effect) for effect in life.player.effects)
        assert kinds[UnreadableFrame] == life.garbage, where
        assert not {TransitionMissing, BindingMismatch} & set(kinds), where


def test_the_share_that_is_played():
    """Of 254 recorded steps of clients 153 are taken, and 417 frames of the server are fed."""
    players = [life.player for vsn, name in SCENARIOS for _, life in lives_of(vsn, name)]
    taken, left_out = sum(len(player.taken) for player in players), sum(len(player.left_out) for player in players)
    made_up = sum(player.unasked.count("heartbeat") for player in players)
    fed = sum(player.session.stats().frames_received for player in players) - made_up
    assert (taken, taken + left_out, fed) == (153, 254, 417)
