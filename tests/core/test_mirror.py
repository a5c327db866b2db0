"""The state machine of a mirror: when it fetches, what it applies, and what it reports."""

from decimal import Decimal
from typing import Any

import pytest

from supawire._mirror_events import MirrorState, Resynced, RowDeleted, RowInserted, RowUpdated
from supawire.core.mirror import SaveCopy
from supawire.core.states import MirrorTrigger
from supawire.errors import HandlerError, InvalidArgumentError, LocalProtocolError, RowError, SlowConsumerError
from supawire.events import System
from supawire.options import Backoff

from .mirror_harness import Driven, at, change, gap, row

# --- the order


def test_rows_are_not_fetched_before_changes_are_live() -> None:
    """A fetch before changes are live would miss commits in between."""
    driven = Driven()
    driven.run(60)
    assert driven.fetches == [] and driven.state is MirrorState.JOINING
    driven.ready()
    assert driven.fetches == [1] and driven.state is MirrorState.FETCHING


def test_changes_during_a_fetch_are_applied_to_its_rows() -> None:
    """A newer update replaces the fetched row, a deleted row stays deleted, an inserted one stays."""
    driven = Driven()
    driven.ready()
    driven.receive(change("UPDATE", row(1, v=9)), change("DELETE", {"id": 2}), change("INSERT", row(3, v=9)))
    driven.answer(row(1), row(2))
    driven.run(1)
    assert driven.rows == [row(1, v=9), row(3, v=9)]


def test_changes_before_a_fetch_are_not_applied_to_its_rows() -> None:
    """A change received before the fetch began is not applied over newer rows."""
    driven = Driven()
    driven.live(row(1))
    driven.mirror.mark_stale("refresh")
    driven.receive(change("UPDATE", row(1, v=1)))
    driven.run()
    driven.answer(row(1, v=2))
    driven.run(1)
    assert driven.rows == [row(1, v=2)]


def test_the_new_copy_is_shown_after_the_settle_time() -> None:
    """The copy is not shown until `settle` seconds after the fetch, and changes it includes are not visible."""
    driven = Driven(settle=0.5)
    driven.ready()
    driven.answer(row(1, v=2))
    driven.receive(change("UPDATE", row(1, v=1)))
    assert driven.rows == [] and driven.state is MirrorState.SETTLING
    driven.receive(change("UPDATE", row(1, v=2)))
    driven.run(0.5)
    assert driven.state is MirrorState.LIVE
    [event] = driven.events
    assert isinstance(event, Resynced) and event.reason == "first" and event.rows == {1: row(1, v=2)}


def test_the_settle_time_is_extended_for_a_late_server() -> None:
    """While changes arrive that were committed before the fetch result, the copy is delayed, but not forever."""
    driven = Driven(settle=1.0)
    driven.ready()
    driven.answer(row(1, v=9))
    old, new = (at(driven.now + seconds).at().isoformat() for seconds in (-3, 3))
    for number in range(5):
        driven.run(0.9)
        assert driven.state is MirrorState.SETTLING
        driven.receive(change("UPDATE", row(1, v=number), committed=old))
    driven.receive(change("UPDATE", row(1, v=9), committed=old), change("UPDATE", row(1, v=10), committed=new))
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.rows == [row(1, v=10)]
    driven.mirror.mark_stale("refresh")
    driven.run(1)
    driven.answer(row(1, v=10))
    for _ in range(20):
        driven.receive(change("UPDATE", row(1, v=10), committed=old), change("DELETE", {"id": 5}, committed="no time"))
        driven.run(0.6)
    assert driven.state is MirrorState.LIVE


def test_the_old_copy_follows_changes_until_there_is_a_new_one() -> None:
    """While the rows are fetched again, changes are still applied and reported."""
    driven = Driven().live(row(1))
    driven.mirror.mark_stale("refresh")
    driven.run()
    driven.receive(change("UPDATE", row(1, v=1)))
    assert driven.rows == [row(1, v=1)] and driven.state is not MirrorState.LIVE
    driven.answer(row(1, v=1))
    driven.run(1)
    update, resynced = driven.events
    assert isinstance(update, RowUpdated) and isinstance(resynced, Resynced)
    assert resynced.changes == () and resynced.reason == "refresh"


# --- lost changes


def test_a_gap_in_changes_fetches_the_rows_again() -> None:
    """After a gap the rows are fetched, and the difference is one event; gaps of other kinds have no effect."""
    driven = Driven().live(row(1), row(2))
    driven.mirror.gap(gap("broadcast"))
    driven.run()
    assert driven.fetches == [1] and driven.state is MirrorState.LIVE
    driven.mirror.changes_lost(None)
    assert driven.state is MirrorState.JOINING and driven.rows == [row(1), row(2)]
    driven.mirror.changes_live()
    driven.mirror.gap(gap("changes"))
    driven.run()
    driven.answer(row(2, v=1), row(3))
    driven.run(1)
    [event] = driven.events
    assert isinstance(event, Resynced) and event.reason == "gap: connection_lost"
    assert [(type(one), one.key) for one in event.changes] == [(RowDeleted, 1), (RowUpdated, 2), (RowInserted, 3)]


def test_a_repeated_subscription_message_fetches_the_rows_again() -> None:
    """A repeated "changes are live" makes the copy stale; the first one and other messages do not."""
    word = System("users", "postgres_changes", "ok", "Subscribed to PostgreSQL")
    driven = Driven()
    driven.mirror.system_message(word)
    driven.live(row(1))
    driven.mirror.system_message(System("users", "system", "ok", "Replication connection established"))
    driven.run(5)
    assert driven.fetches == [1]
    driven.mirror.system_message(word)
    driven.run()
    assert driven.fetches == [1, 2] and driven.state is MirrorState.FETCHING
    driven.mirror.close()
    driven.mirror.system_message(word)


def test_a_gap_and_the_message_that_changes_are_live_cause_one_fetch() -> None:
    """A gap and a repeated "changes are live" arrive together and cause a single fetch."""
    driven = Driven().live()
    driven.mirror.changes_lost(None)
    driven.mirror.changes_live()
    driven.mirror.gap(gap("changes"))
    driven.run(5)
    assert driven.fetches == [1, 2]


def test_lost_changes_abandon_a_fetch() -> None:
    """The result of a fetch during which changes were lost is ignored, whenever it arrives."""
    driven = Driven()
    driven.ready()
    driven.mirror.changes_lost(HandlerError("the line"))
    driven.pump()
    assert driven.abandoned == [1] and str(driven.mirror.error) == "the line"
    driven.answer(row(1))
    driven.ready()
    driven.mirror.fetched(1, driven.mirror.read([row(1)]), at(driven.now))
    assert driven.fetches == [1, 2] and driven.state is MirrorState.FETCHING
    driven.answer(row(2))
    driven.run(1)
    assert driven.rows == [row(2)] and driven.mirror.error is None


def test_lost_changes_while_settling_drop_the_new_copy() -> None:
    """A copy that waits for the settle time is dropped, because it lacks the lost changes."""
    driven = Driven().live(row(1))
    driven.mirror.mark_stale("refresh")
    driven.run()
    driven.answer(row(2))
    driven.mirror.changes_lost(None)
    driven.run(5)
    assert driven.rows == [row(1)] and driven.state is MirrorState.JOINING


# --- incomplete changes


TRUNCATED = change("UPDATE", {"id": 1}, errors="Error 413: Payload Too Large")


def test_an_incomplete_change_during_a_fetch_causes_another() -> None:
    """The fetched rows may be older than the change: they are shown, and live after another fetch."""
    driven = Driven()
    driven.ready()
    driven.receive(TRUNCATED)
    driven.answer(row(1))
    driven.run(1)
    assert driven.state is MirrorState.WAITING and driven.rows == [row(1)]
    driven.run(driven.mirror.settings.pause)
    assert driven.fetches == [1, 2]
    driven.answer(row(1, v=2))
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.rows == [row(1, v=2)]


def test_several_incomplete_rows_share_one_fetch() -> None:
    """Several stale rows share one fetch, since there is a pause between two fetches."""
    driven = Driven().live(row(1))
    for _ in range(100):
        driven.receive(TRUNCATED)
        driven.run(0.1)
        if driven.state is MirrorState.FETCHING:
            driven.answer(row(1))
    assert len(driven.fetches) <= 7


# --- the fetch


BAD_ROWS = {
    "no mapping": ([("id", 1)], r"returned a tuple.*\.data"),
    "no key": ([{"a": 1}], "without id"),
    "a null key": ([{"id": None}], "without id"),
    "a key that can be changed": ([{"id": [1]}], "list cannot be a key"),
    "two rows of one key": ([row(1), row(1, v=1)], "two different rows with the key 1"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_fetch_result_that_is_not_rows_is_an_error(name: str) -> None:
    """The reason is reported and visible, the copy is not changed, and the fetch is retried."""
    rows, text = BAD_ROWS[name]
    driven = Driven()
    driven.ready()
    driven.answer(*rows)
    assert driven.state is MirrorState.WAITING
    [error] = driven.errors
    assert isinstance(error, RowError) and driven.mirror.error is error
    with pytest.raises(RowError, match=text):
        raise error
    driven.run(1)
    assert driven.fetches == [1, 2]


def test_a_failed_fetch_is_repeated_after_growing_delays() -> None:
    """Each failure is reported and increases the delay; the first success resets it."""
    driven = Driven(backoff=Backoff(initial=1, maximum=8, jitter=0))
    driven.ready()
    for wait in (1, 2, 4, 8, 8):
        driven.mirror.failed(driven.fetches[-1], HandlerError("down"), at(driven.now))
        driven.pump()
        driven.run(wait - 0.01)
        assert driven.state is MirrorState.WAITING
        driven.run(0.01)
        assert driven.state is MirrorState.FETCHING
    assert len(driven.errors) == 5 and driven.fetches == [1, 2, 3, 4, 5, 6]
    driven.answer()
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.mirror.error is None


def test_too_many_changes_during_a_fetch_make_it_fail() -> None:
    """The buffer is bounded: nothing is lost silently, the fetch is cancelled and retried."""
    driven = Driven(buffer=3)
    driven.ready()
    driven.receive(*(change("INSERT", row(key)) for key in range(4)))
    [error] = driven.errors
    assert isinstance(error, SlowConsumerError) and driven.abandoned == [1] and driven.mirror.error is error
    assert driven.state is MirrorState.WAITING
    driven.run(1)
    driven.answer(*(row(key) for key in range(5)))
    driven.run(1)
    assert len(driven.rows) == 5


def test_more_columns_than_selected_are_left_out() -> None:
    """With `select`, fetched columns that changes never include are omitted, since they would become stale."""
    driven = Driven(select=("id", "a")).live(row(1, 3))
    assert driven.rows == [{"id": 1, "a": 3}]


@pytest.mark.parametrize("plain", [False, True])
def test_different_types_in_rows_and_changes_are_reported_once(plain: bool) -> None:
    """If fetch and changes give values of different types, `on_error` is called once, with a hint."""
    columns = {"id": "int8", "price": "numeric"}
    driven = Driven(plain=plain).live({"id": 1, "price": Decimal("1.5") if plain else 1.5})
    driven.receive(*(change("UPDATE", {"id": 1, "price": price}, columns=columns) for price in (2.5, 3.5)))
    [error] = driven.errors
    assert isinstance(error, InvalidArgumentError)
    assert "price is a Decimal in the rows of fetch" in str(error) if plain else "plain=True" in str(error)


def test_equal_types_in_rows_and_changes_are_not_reported() -> None:
    """Nulls, ints next to floats and JSON columns may differ without an error."""
    columns = {"id": "int8", "f": "float8", "j": "jsonb", "n": "text"}
    driven = Driven().live({"id": 1, "f": 1.5, "j": [1], "n": None})
    driven.receive(change("UPDATE", {"id": 1, "f": 2, "j": {"a": 1}, "n": "x"}, columns=columns))
    assert driven.errors == []


def test_plain_rows_keep_their_json_values() -> None:
    """With plain=True a change's row has the form that PostgREST uses."""
    columns = {"id": "uuid", "at": "timestamptz", "n": "int8"}
    sent = {"id": "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11", "at": "2026-01-05T10:11:12+00:00", "n": 2**60}
    driven = Driven(plain=True).live()
    driven.receive(change("INSERT", sent, columns=columns))
    assert driven.rows == [sent]
    driven.receive(change("DELETE", {"id": sent["id"]}, columns=columns))
    assert driven.rows == []


# --- events, and the end


def test_a_change_without_effect_causes_no_event() -> None:
    """An UPDATE to the same values is not reported."""
    driven = Driven().live(row(1))
    driven.receive(change("UPDATE", row(1)))
    assert driven.events == []


def test_a_closed_mirror_keeps_its_copy_and_ignores_changes() -> None:
    """After close nothing changes the copy, and the result of a running fetch is dropped."""
    driven = Driven().live(row(1))
    driven.mirror.mark_stale("refresh")
    driven.run()
    driven.mirror.close()
    driven.pump()
    driven.answer(row(2))
    driven.receive(change("INSERT", row(3)))
    driven.mirror.changes_lost(None)
    driven.mirror.changes_live()
    driven.mirror.gap(gap("changes"))
    driven.run(60)
    driven.mirror.close()
    assert driven.state is MirrorState.CLOSED and driven.rows == [row(1)] and driven.abandoned == [2]


def test_an_impossible_transition_raises() -> None:
    """A transition missing from the table raises."""
    with pytest.raises(LocalProtocolError, match="JOINING and cannot handle DUE"):
        Driven().mirror._move(MirrorTrigger.DUE)


# --- comparisons


def comparing(**settings: object) -> Driven:
    """Return a live mirror of one row that is compared every 100 s ± 10 s."""
    driven = Driven(refresh_every=100.0, **settings)
    driven.live(row(1))
    driven.events.clear()
    return driven


def test_without_refresh_every_a_live_mirror_fetches_nothing() -> None:
    """A live copy is not fetched again by default."""
    driven = Driven()
    driven.live(row(1))
    before = len(driven.fetches)
    driven.run(10_000)
    assert len(driven.fetches) == before and driven.mirror.next_deadline is None


def test_a_comparison_applies_and_reports_lost_changes() -> None:
    """Lost changes are found and reported as one event with the difference; the mirror stays live."""
    driven = comparing()
    driven.run(111)
    assert driven.fetches[-1] == 2 and driven.state is MirrorState.LIVE
    driven.answer(row(1, v=5), row(2))
    driven.run(2)
    assert driven.rows == [row(1, v=5), row(2)] and driven.state is MirrorState.LIVE
    [event] = driven.events
    assert isinstance(event, Resynced) and event.reason == "compared"
    assert [type(change) for change in event.changes] == [RowUpdated, RowInserted]


def test_a_comparison_without_differences_causes_no_event() -> None:
    """Equal rows are not reported, NaN equals NaN, and the next comparison comes after the same time."""
    driven = Driven(refresh_every=100.0)
    driven.live({"id": 1, "v": float("nan"), "w": [float("nan")], "x": Decimal("NaN")})
    driven.events.clear()
    for number in (2, 3):
        driven.run(111)
        assert driven.fetches[-1] == number
        driven.answer({"id": 1, "v": float("nan"), "w": [float("nan")], "x": Decimal("NaN")})
        driven.run(2)
        assert driven.events == [] and driven.state is MirrorState.LIVE
        driven.run(80)
        assert driven.fetches[-1] == number, "it is paced"


def test_changes_during_a_comparison_are_in_both_copies() -> None:
    """A change during a comparison is reported once, and the comparison does not undo it."""
    driven = comparing()
    driven.run(111)
    driven.receive(change("UPDATE", row(1, v=1)))
    driven.answer(row(1, v=0), row(2))
    driven.receive(change("UPDATE", row(1, v=2)))
    assert driven.rows == [row(1, v=2)]
    driven.run(2)
    assert driven.rows == [row(1, v=2), row(2)]
    assert [type(event) for event in driven.events] == [RowUpdated, RowUpdated, Resynced]
    assert [type(each) for each in driven.events[-1].changes] == [RowInserted]


@pytest.mark.parametrize("answered", [False, True])
def test_an_incomplete_change_abandons_a_comparison(answered: bool) -> None:
    """If the copy becomes stale during a comparison, it is fetched again and the comparison is ignored."""
    driven = comparing()
    driven.run(111)
    if answered:
        driven.answer(row(1, v=7))
    driven.mirror.mark_stale("refresh")
    driven.run()
    driven.run(1)
    assert driven.fetches[-1] == 3 and driven.state is MirrorState.FETCHING
    driven.answer(row(1, v=8))
    driven.run(1)
    assert driven.rows == [row(1, v=8)] and driven.state is MirrorState.LIVE
    assert [event.reason for event in driven.events] == ["refresh"]


def test_a_failed_comparison_leaves_the_copy_live() -> None:
    """A fetch that raises during a comparison is reported, and the next one comes later."""
    driven = comparing()
    driven.run(111)
    error = HandlerError("the database is away")
    driven.mirror.failed(2, error, at(driven.now))
    driven.pump()
    assert driven.errors == [error] and driven.state is MirrorState.LIVE and driven.mirror.error is None
    driven.run(111)
    assert driven.fetches[-1] == 3


def test_a_lost_connection_ends_a_comparison() -> None:
    """If changes stop during a comparison, it is cancelled, and all rows are fetched when they resume."""
    driven = comparing()
    driven.run(111)
    driven.mirror.changes_lost(None)
    driven.run()
    assert driven.state is MirrorState.JOINING
    driven.mirror.fetched(2, {1: row(1, v=7)}, at(driven.now))
    driven.run(300)
    assert driven.rows == [row(1)]


def test_a_comparison_with_too_many_changes_is_abandoned() -> None:
    """More changes than `buffer` during a comparison cancel it, and the mirror stays live."""
    driven = comparing(buffer=2)
    driven.run(111)
    driven.receive(*(change("UPDATE", row(1, v=number)) for number in range(5)))
    assert driven.state is MirrorState.LIVE and isinstance(driven.errors[0], SlowConsumerError)
    driven.run(111)
    assert driven.fetches[-1] == 3


def saving(*rows: Any) -> Driven:
    """Return a live mirror whose copy is saved every 30 s."""
    return Driven(save_every=30.0).live(*rows)


def test_rows_of_an_earlier_run_are_shown_but_not_live() -> None:
    """Restored rows are reported, follow complete changes, and are replaced by the first fetch."""
    driven = Driven(save_every=30.0)
    driven.mirror.restore({1: row(1), 2: row(2)})
    driven.ready()
    driven.receive(change("UPDATE", row(1, a=5)))
    assert driven.mirror.is_cached and driven.state is MirrorState.FETCHING
    assert driven.rows == [row(1, a=5), row(2)]
    driven.answer(row(1, a=5), row(3))
    driven.run(1)
    assert not driven.mirror.is_cached and driven.state is MirrorState.LIVE
    first, updated, second = driven.events
    assert (first.reason, first.rows, second.reason, second.rows) == (
        "cache", {1: row(1), 2: row(2)}, "first", {1: row(1, a=5), 3: row(3)},
    )  # fmt: skip
    assert isinstance(updated, RowUpdated)


def test_rows_of_an_earlier_run_do_not_replace_newer_ones() -> None:
    """Rows that are restored after the first fetch, or after the end, are dropped."""
    driven = Driven().live(row(1))
    driven.mirror.restore({2: row(2)})
    driven.mirror.close()
    driven.mirror.restore({2: row(2)})
    assert driven.rows == [row(1)] and not driven.mirror.is_cached


def test_a_live_copy_is_saved_as_a_whole_and_then_what_has_changed() -> None:
    """The first save has all rows, later ones the rows that changed, at most every `save_every` seconds."""
    driven = saving(row(1), row(2), row(3))
    driven.run(60)
    assert driven.saves == [SaveCopy({1: row(1), 2: row(2), 3: row(3)}, whole=True)]
    driven.mirror.saved(complete=True)
    driven.receive(change("UPDATE", row(1, a=5)), change("DELETE", {"id": 2}), change("UPDATE", row(9), {"id": 3}))
    driven.run(31)
    assert driven.saves[1:] == [SaveCopy({1: row(1, a=5), 2: None, 9: row(9), 3: None}, whole=False)]
    driven.mirror.saved(complete=True)
    driven.run(100)
    assert len(driven.saves) == 2, "nothing has changed"


def test_a_copy_that_could_not_be_saved_is_saved_as_a_whole() -> None:
    """After a save that failed, and after a new fetch, all rows are saved; one save runs at a time."""
    driven = saving(row(1))
    driven.run(60)
    driven.receive(change("UPDATE", row(1, a=5)))
    driven.run(60)
    assert len(driven.saves) == 1
    driven.mirror.saved(complete=False)
    driven.run(60)
    assert driven.saves[1:] == [SaveCopy({1: row(1, a=5)}, whole=True)]


def test_a_copy_that_is_not_live_is_not_saved() -> None:
    """While the copy may be wrong, it is not saved, also not at the end."""
    driven = saving(row(1))
    driven.mirror.saved(complete=True)
    driven.receive(change("UPDATE", row(1, a=5)))
    driven.mirror.changes_lost(None)
    driven.mirror.save(at(driven.now))
    driven.run(100)
    assert len(driven.saves) == 1
