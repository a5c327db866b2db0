"""Joined and ready: the server's messages about changes and database broadcasts after the join."""

from collections.abc import Callable

import pytest

from supawire.core.listeners import Listener
from supawire.errors import JoinError, OperationTimeout
from supawire.events import ChannelState, Gap, Status
from supawire.options import Secret
from supawire.selectors import changes, gaps, status, system
from supawire.server.bindings import make_change
from supawire.testing.harness import NOT_YET, error_of
from supawire.testing.linked import World

from .conftest import SUBSCRIBED, TROUBLE, Harness

REPLICATING = "Replication connection established"
NEVER = (
    "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect "
    "parameters: [event: *, schema: public, table: users, filters: [], select: []]"
)


def test_ready_waits_for_the_system_message_and_a_row_after_it_arrives() -> None:
    """If changes take seconds to be live, ready comes after that, and a row written then is received (R18)."""
    world = World()
    ada = world.client()
    db = ada.channel("db")
    rows = ada.collect(db, changes("users"))
    world.act(world.hub.faults.delay_join, "db", 3.0)
    joined = ada.start(ada.session.join, db)
    ready = ada.start(ada.session.join, db, ready=True)
    world.run_for(2.9)
    assert (ada.outcome(joined), ada.outcome(ready)) == (NOT_YET, NOT_YET)
    world.run_until(lambda: ada.outcome(ready) is not NOT_YET, 10)
    assert (ada.outcome(joined), ada.outcome(ready)) == (None, None)
    world.act(world.hub.emit, make_change("INSERT", "users", record={"id": 1}), world.clock.now)
    world.run_for(1)
    assert len(rows) == 1


def test_a_channel_is_joined_before_it_is_ready(each: Harness) -> None:
    """Between the join's ok and the system message a channel is joined but not ready, as its statuses show (R18)."""
    each.open()
    db = each.channel("db")
    moves = each.collect(db, status())
    each.collect(db, changes("users"))
    joined, ready = each.call(each.session.join, db), each.call(each.session.join, db, ready=True)
    each.answer_join()
    assert (each.outcome(joined), each.outcome(ready)) == (None, NOT_YET)
    assert (each.at(db).ready, moves[-1].ready) == (False, False)
    each.run_for(3)
    each.system(db, SUBSCRIBED)
    assert each.outcome(ready) is None
    assert (each.at(db).ready, moves[-1].ready) == (True, True)


def test_a_channel_without_changes_is_ready_when_joined(harness: Harness) -> None:
    """A channel without changes and without replication_ready is ready with the join's ok (R18)."""
    harness.open()
    assert harness.outcome(harness.join(harness.channel(), ready=True)) is None


@pytest.mark.parametrize("order", [(SUBSCRIBED, REPLICATING), (REPLICATING, SUBSCRIBED)])
def test_ready_waits_for_both_messages_if_both_were_requested(harness: Harness, order: tuple[str, str]) -> None:
    """With changes and replication_ready, ready needs both messages, in any order (R18)."""
    harness.open()
    db = harness.channel("db", replication_ready=True)
    harness.collect(db, changes("users"))
    ready = harness.join(db, ready=True)
    assert harness.sent("phx_join")[0].payload["config"]["broadcast"]["replication_ready"] is True
    extensions = {SUBSCRIBED: "postgres_changes", REPLICATING: "system"}
    harness.system(db, order[0], extension=extensions[order[0]])
    assert harness.outcome(ready) is NOT_YET
    harness.system(db, order[1], extension=extensions[order[1]])
    assert harness.outcome(ready) is None


def test_a_timeout_while_waiting_for_ready_leaves_the_channel_joined(harness: Harness) -> None:
    """The timeout error says that the channel is joined but not ready; it stays joined (R18)."""
    harness.open()
    db = harness.channel("db")
    harness.collect(db, changes("users"))
    ready = harness.join(db, ready=True, timeout=5.0)
    harness.run_for(5.1)
    error = error_of(harness.outcome(ready))
    assert isinstance(error, OperationTimeout)
    assert "not ready" in str(error)
    assert harness.state(db) is ChannelState.JOINED


def test_a_system_error_of_changes_degrades_without_a_rejoin(each: Harness) -> None:
    """Error, then ok: degraded, then ready, with the server's text, one join in all, and a gap for changes (R19)."""
    each.open()
    db = each.channel("db")
    moves, reported, messages = each.collect(db, status()), each.collect(db, gaps()), each.collect(db, system())
    each.collect(db, changes("users"))
    each.join(db)
    each.system(db, SUBSCRIBED)
    began = each.now.at()
    each.system(db, TROUBLE, status="error")
    assert each.state(db) is ChannelState.JOINED
    last: Status = moves[-1]
    assert (last.state, last.ready) == (ChannelState.JOINED, False)
    assert "Too many database timeouts" in str(last.cause)
    each.run_alive(30)
    assert reported == [], "it is reported when changes are live again"
    each.system(db, SUBSCRIBED)
    assert (moves[-1].state, moves[-1].ready, moves[-1].cause) == (ChannelState.JOINED, True, None)
    assert [(gap.reason, gap.started_at, gap.ended_at, gap.lost) for gap in reported] == [
        ("degraded", began, each.now.at(), {"changes"})
    ]
    assert len(each.sent("phx_join")) == 1
    assert [one.status for one in messages] == ["ok", "error", "ok"]


def test_an_error_that_the_server_never_retries_is_raised_and_reported(each: Harness) -> None:
    """A bad binding fails the callers waiting for ready at once with the server's text; the channel stays (R19)."""
    each.open()
    db = each.channel("db")
    each.collect(db, changes("users"))
    ready = each.join(db, ready=True, timeout=None)
    each.system(db, NEVER, status="error")
    error = error_of(each.outcome(ready))
    assert isinstance(error, JoinError)
    assert "Please check Realtime is enabled" in str(error)
    assert each.state(db) is ChannelState.JOINED
    assert [type(one) for one in each.errors] == [JoinError]
    assert error_of(each.outcome(each.call(each.session.join, db, ready=True, timeout=None)))
    each.run_alive(60)
    assert len(each.sent("phx_join")) == 1


def test_a_transient_error_does_not_end_the_wait_for_ready(harness: Harness) -> None:
    """After a transient error of changes, callers continue to wait for ready until the ok (R19)."""
    harness.open()
    db = harness.channel("db")
    harness.collect(db, changes("users"))
    ready = harness.join(db, ready=True, timeout=None)
    harness.system(db, TROUBLE, status="error")
    harness.run_alive(8)
    assert harness.outcome(ready) is NOT_YET
    harness.system(db, SUBSCRIBED)
    assert harness.outcome(ready) is None


def test_a_repeated_ok_changes_nothing(harness: Harness) -> None:
    """After a token refresh the server sends "Subscribed" again: no status, no gap, no join (R19)."""
    harness.open()
    db = harness.channel("db")
    moves, reported = harness.collect(db, status()), harness.collect(db, gaps())
    harness.collect(db, changes("users"))
    harness.join(db)
    harness.system(db, SUBSCRIBED)
    harness.call(harness.session.set_token, Secret("token"))
    before = len(moves)
    harness.system(db, SUBSCRIBED)
    assert len(moves) == before
    assert reported == []


def test_the_gap_of_changes_does_not_wait_for_replication(harness: Harness) -> None:
    """A server that never confirms replication does not delay the gap of changes (R44)."""
    harness.open()
    db = harness.channel("db", replication_ready=True)
    reported = harness.collect(db, gaps())
    harness.collect(db, changes("users"))
    harness.join(db)
    harness.system(db, SUBSCRIBED)
    harness.drop(1006)
    harness.reconnect()
    harness.answer_join()
    assert reported == []
    harness.system(db, SUBSCRIBED)
    assert [gap.reason for gap in reported] == ["connection_lost"]
    harness.system(db, TROUBLE, status="error")
    harness.system(db, SUBSCRIBED)
    assert [gap.reason for gap in reported] == ["connection_lost", "degraded"]


def test_a_system_message_of_the_old_join_does_not_apply_to_the_new_one(each: Harness) -> None:
    """During a rejoin, "Subscribed" of the old join neither ends the gap nor makes it ready (R18, R44)."""
    each.open()
    db = each.channel("db")
    reported = each.collect(db, gaps())
    each.collect(db, changes("users"))
    each.join(db)
    old = each.sent("phx_join")[-1].ref if each.options.protocol == "2.0.0" else None
    each.collect(db, changes("orders"))
    each.run_for(0)
    assert each.state(db) is ChannelState.REJOINING
    ready = each.call(each.session.join, db, ready=True)
    payload = {"extension": "postgres_changes", "status": "ok", "message": SUBSCRIBED, "channel": "db"}
    each.receive(db, "system", payload, join_ref=old)
    assert reported == []
    assert each.outcome(ready) is NOT_YET
    each.answer_join()
    assert reported == []
    assert each.outcome(ready) is NOT_YET
    each.system(db, SUBSCRIBED)
    assert [gap.reason for gap in reported] == ["rejoin"]
    assert each.outcome(ready) is None


def test_a_gap_stays_open_while_changes_fail() -> None:
    """An error of changes during the second in which replays are counted keeps the gap open until the ok (R44)."""
    harness = Harness()
    harness.open()
    db = harness.channel("db", private=True)
    reported = harness.collect(db, gaps())
    harness.collect(db, changes("users"))
    harness.join(db)
    harness.system(db, SUBSCRIBED)
    harness.drop(1006)
    harness.reconnect()
    harness.answer_join()
    harness.system(db, SUBSCRIBED)
    harness.run_for(0.5)
    harness.system(db, TROUBLE, status="error")
    harness.run_for(5)
    assert reported == []
    harness.system(db, SUBSCRIBED)
    harness.run_for(1.1)
    assert len(reported) == 1
    assert reported[0].ended_at.timestamp() >= harness.now.wall - 1.2


@pytest.mark.parametrize("extension", ["postgres_changes", "system", "other"])
def test_unknown_system_messages_change_nothing(harness: Harness, extension: str) -> None:
    """An ok with an unknown text, and an unknown status, reach listeners and have no other effect (R40)."""
    harness.open()
    db = harness.channel("db")
    messages = harness.collect(db, system())
    harness.collect(db, changes("users"))
    harness.join(db)
    harness.system(db, "All is well", extension=extension)
    harness.system(db, "Hm", status="timeout", extension=extension)
    assert [(one.extension, one.message) for one in messages] == [(extension, "All is well"), (extension, "Hm")]
    assert harness.state(db) is ChannelState.JOINED
    assert not harness.at(db).ready


# --- a listener that is added to a joined channel


def late(each: Harness) -> str:
    """Return a joined and ready channel that has a new listener missing from its join."""
    each.open()
    db = each.channel("db")
    each.join(db)
    assert each.outcome(each.call(each.session.join, db, ready=True)) is None
    each.collect(db, changes("users"))
    return db


def test_ready_after_a_late_listener_waits_for_the_rejoin(each: Harness) -> None:
    """Right after a late listener for changes was added, ready means the new join, not the active one (R17, R18)."""
    db = late(each)
    ready = each.call(each.session.join, db, ready=True)
    joined = each.call(each.session.join, db)
    assert (each.outcome(ready), each.outcome(joined)) == (NOT_YET, None)
    each.run_for(0)
    each.answer_join()
    assert each.outcome(ready) is NOT_YET
    each.system(db, SUBSCRIBED)
    assert each.outcome(ready) is None


def test_ready_does_not_wait_for_a_listener_that_was_removed(each: Harness) -> None:
    """If the late listener is removed before the new join, ready refers to the active join."""
    each.open()
    db = each.channel("db")
    each.join(db)
    listener = Listener((changes("users"),), lambda event: None)
    each.call(each.session.listen, db, listener)
    ready = each.call(each.session.join, db, ready=True)
    assert each.outcome(ready) is NOT_YET
    each.session.unlisten(db, listener)
    each.run_for(0)
    assert each.outcome(ready) is None
    assert len(each.sent("phx_join")) == 1


def test_a_permanent_error_does_not_end_the_wait_for_a_rejoin(each: Harness) -> None:
    """A late listener may repair a channel that cannot be ready: the next join's result counts."""
    each.open()
    db = each.channel("db")
    each.collect(db, changes("users"))
    each.join(db)
    each.system(db, NEVER, status="error")
    each.collect(db, changes("orders"))
    ready = each.call(each.session.join, db, ready=True)
    assert each.outcome(ready) is NOT_YET
    each.run_for(0)
    each.answer_join()
    each.system(db, NEVER, status="error")
    assert isinstance(error_of(each.outcome(ready)), JoinError)


def test_a_repeated_subscription_without_a_token_push_is_a_gap(each: Harness) -> None:
    """A repeated "Subscribed" without a token push: the server's worker was replaced, rows may be missing."""
    each.open()
    db = each.channel("db")
    reported = each.collect(db, changes("users"), gaps())
    each.join(db)
    each.system(db, SUBSCRIBED)
    joined_at = each.now.at()
    each.run_alive(40)
    each.system(db, SUBSCRIBED)
    lost = frozenset({"changes"})
    assert reported == [Gap("db", joined_at, each.now.at(), "resubscribed", 0, "not_replayable", lost)]
    each.run_alive(600)
    each.system(db, SUBSCRIBED)
    assert len(reported) == 2
    assert (reported[1].ended_at - reported[1].started_at).total_seconds() == pytest.approx(60)
    assert each.at(db).ready


def test_a_repeated_subscription_during_a_rejoin_is_of_the_old_join(make_harness: Callable[..., Harness]) -> None:
    """Frames of a new join come only after its reply, so this message is about the older one: a gap (R12)."""
    harness = make_harness(protocol="1.0.0")
    harness.open()
    db = harness.channel("db")
    reported = harness.collect(db, changes("users"), gaps())
    harness.join(db)
    harness.system(db, SUBSCRIBED)
    joined_at = harness.now.at()
    harness.run_alive(40)
    harness.collect(db, changes("orders"))
    harness.run_for(0)
    harness.system(db, SUBSCRIBED)
    harness.answer_join()
    harness.system(db, SUBSCRIBED)
    lost = frozenset({"changes"})
    assert reported == [Gap("db", joined_at, harness.now.at(), "resubscribed", 0, "not_replayable", lost)]


@pytest.mark.parametrize(("pushes", "expected_gaps"), [(1, 1), (3, 1), (2, 0)])
def test_a_subscription_after_a_token_push_is_not_a_gap(harness: Harness, pushes: int, expected_gaps: int) -> None:
    """Each pushed token makes the server report a subscription; any additional report is a gap (R25)."""
    harness.open()
    db = harness.channel("db")
    reported = harness.collect(db, changes("users"), gaps())
    harness.join(db)
    harness.system(db, SUBSCRIBED)
    for number in range(pushes):
        harness.call(harness.session.set_token, Secret(f"token-{number}"))
    for _ in range(pushes + expected_gaps):
        harness.run_alive(2)
        harness.system(db, SUBSCRIBED)
    assert len(reported) == expected_gaps


def test_an_old_token_push_does_not_explain_a_subscription(harness: Harness) -> None:
    """A token pushed long ago does not explain a new subscription (R25)."""
    harness.open()
    db = harness.channel("db")
    reported = harness.collect(db, changes("users"), gaps())
    harness.join(db)
    harness.system(db, SUBSCRIBED)
    harness.call(harness.session.set_token, Secret("token"))
    harness.run_alive(70)
    harness.system(db, SUBSCRIBED)
    assert [gap.reason for gap in reported] == ["resubscribed"]


def test_a_subscription_without_requested_changes_is_not_a_gap(harness: Harness) -> None:
    """Messages about changes that were not requested cause no gap (R44)."""
    harness.open()
    reported = harness.collect(harness.joined(), gaps())
    harness.system("realtime:room", SUBSCRIBED)
    assert reported == []
