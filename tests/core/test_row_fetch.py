"""Single fetches of rows of which a mirror received an incomplete change."""

from typing import Any

import pytest

from supawire._mirror_events import MirrorState, RowDeleted, RowInserted, RowUpdated
from supawire.errors import HandlerError, RowError

from .mirror_harness import Driven, at, change, row

TOO_LARGE = "Error 413: Payload Too Large"


def truncated(key: int, kind: str = "UPDATE", **values: Any) -> Any:
    """Return a change without the large value of its row."""
    whole = row(key, **values)
    del whole["big"]
    return change(kind, whole, errors=TOO_LARGE)


def by_row(*rows: Any, **settings: Any) -> Driven:
    """Return a live mirror that can fetch single rows."""
    return Driven(by_row=True, **settings).live(*rows)


def kinds(driven: Driven) -> list[tuple[type[Any], Any]]:
    """Return the classes and keys of the events."""
    return [(type(event), event.key) for event in driven.events]


def test_only_the_incomplete_row_is_fetched() -> None:
    """The mirror is not live until the row is complete; the other rows are not fetched again."""
    driven = by_row(row(1), row(2))
    driven.receive(truncated(1, v=1))
    assert driven.state is MirrorState.REFETCHING and driven.rows == [row(1), row(2)]
    assert driven.mirror.incomplete == ({"id": 1, "a": 0, "v": 1},)
    assert list(driven.rows_fetched.values()) == [{"id": 1}]
    driven.receive(change("UPDATE", row(2, v=1)))
    driven.answer_row(row(1, big="y", v=1))
    driven.run(0.9)
    assert driven.state is MirrorState.REFETCHING and driven.rows == [row(1), row(2, v=1)]
    driven.run(0.1)
    assert driven.state is MirrorState.LIVE and driven.rows == [row(1, big="y", v=1), row(2, v=1)]
    assert kinds(driven) == [(RowUpdated, 2), (RowUpdated, 1)]
    assert driven.fetches == [1] and driven.mirror.incomplete == ()


def test_an_inserted_row_is_shown_when_it_is_fetched() -> None:
    """A row with an incomplete INSERT is added after its fetch, or never if the fetch finds no row."""
    driven = by_row()
    driven.receive(truncated(1, "INSERT"), truncated(2, "INSERT"))
    one, two = driven.rows_fetched
    driven.answer_row(row(1, big="y"), one)
    driven.answer_row(None, two)
    assert driven.rows == []
    driven.run(1)
    assert driven.rows == [row(1, big="y")] and kinds(driven) == [(RowInserted, 1)]
    assert driven.state is MirrorState.LIVE


def test_a_row_is_deleted_when_its_fetch_finds_none() -> None:
    """A fetch that returns `None` deletes the row: it does not exist or no longer matches the filter."""
    driven = by_row(row(1))
    driven.receive(truncated(1))
    driven.answer_row(None)
    driven.run(1)
    assert driven.rows == [] and kinds(driven) == [(RowDeleted, 1)] and driven.state is MirrorState.LIVE


@pytest.mark.parametrize("answered", [False, True])
def test_a_later_complete_change_replaces_the_fetch(answered: bool) -> None:
    """A complete change is newer than the incomplete one, so the fetch is cancelled and its answer dropped."""
    driven = by_row(row(1))
    driven.receive(truncated(1, v=1))
    if answered:
        driven.answer_row(row(1, big="y", v=1))
    driven.receive(change("UPDATE", row(1, v=2)))
    assert driven.state is MirrorState.LIVE and driven.rows == [row(1, v=2)]
    assert driven.rows_abandoned == ([] if answered else [1])
    driven.mirror.row_fetched(1, row(1, v=1), at(driven.now))
    driven.run(5)
    assert driven.rows == [row(1, v=2)]


@pytest.mark.parametrize("answered", [False, True])
def test_a_later_delete_ends_the_fetch(answered: bool) -> None:
    """The answer of its fetch does not add a deleted row again."""
    driven = by_row(row(1))
    driven.receive(truncated(1, v=1))
    if answered:
        driven.answer_row(row(1, big="y", v=1))
    driven.receive(change("DELETE", {"id": 1}))
    driven.mirror.row_fetched(1, row(1, v=1), at(driven.now))
    driven.run(5)
    assert driven.rows == [] and driven.state is MirrorState.LIVE and kinds(driven) == [(RowDeleted, 1)]


def test_another_incomplete_change_during_the_fetch_fetches_the_row_again() -> None:
    """The answer is shown, but may lack that change; the next fetch begins after a pause."""
    driven = by_row(row(1))
    driven.receive(truncated(1, v=1), truncated(1, v=2))
    assert list(driven.rows_fetched) == [1]
    driven.answer_row(row(1, big="y", v=1))
    assert driven.rows == [row(1, big="y", v=1)] and driven.state is MirrorState.REFETCHING
    driven.run(0.9)
    assert not driven.rows_fetched
    driven.run(0.1)
    assert list(driven.rows_fetched.values()) == [{"id": 1}]
    driven.answer_row(row(1, big="y", v=2))
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.rows == [row(1, big="y", v=2)]


def test_an_incomplete_change_after_the_answer_fetches_the_row_again() -> None:
    """Within the settle time the answer may lack the change, so the row is fetched again."""
    driven = by_row(row(1))
    driven.receive(truncated(1, v=1))
    driven.answer_row(row(1, big="y", v=1))
    unsent = row(1, v=2)
    del unsent["big"]
    driven.run(0.5)
    driven.receive(change("UPDATE", unsent))
    assert driven.rows == [row(1, big="y", v=1)]
    driven.run(0.5)
    assert list(driven.rows_fetched) == [2]
    driven.answer_row(row(1, big="y", v=2))
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.rows == [row(1, big="y", v=2)]


def test_the_answer_waits_for_late_changes() -> None:
    """While changes of any row arrive that are older than the answer, the answer is not applied."""
    driven = by_row(row(1), row(2))
    driven.receive(truncated(1, v=1))
    driven.answer_row(row(1, big="y", v=1))
    before = at(driven.now - 3).at().isoformat()
    driven.run(0.9)
    driven.receive(change("UPDATE", row(2, v=1), committed=before))
    driven.run(0.9)
    assert driven.state is MirrorState.REFETCHING
    driven.run(0.1)
    assert driven.state is MirrorState.LIVE


def test_an_incomplete_row_with_another_key_is_a_deleted_and_a_fetched_one() -> None:
    """The old key is deleted at once, and the row with the new key is fetched."""
    driven = by_row(row(1))
    sent = row(2, v=1)
    del sent["big"]
    driven.receive(change("UPDATE", sent, {"id": 1}, errors=TOO_LARGE))
    assert driven.rows == [] and list(driven.rows_fetched.values()) == [{"id": 2}]
    driven.answer_row(row(2, big="y", v=1))
    driven.run(1)
    assert driven.rows == [row(2, big="y", v=1)] and kinds(driven) == [(RowDeleted, 1), (RowInserted, 2)]


def test_a_missing_value_of_an_unknown_row_causes_a_fetch() -> None:
    """A row is fetched if a change lacks a value that the copy does not have, or contains only its beginning."""
    driven = by_row()
    driven.receive(change("UPDATE", {"id": 1, "a": 1, "v": 1}))
    assert list(driven.rows_fetched.values()) == [{"id": 1}]
    driven = by_row(row(1))
    driven.receive(change("UPDATE", {**row(1), "c": "y"}, columns={"id": "int8", "c": "bpchar"}))
    assert list(driven.rows_fetched.values()) == [{"id": 1}]


def test_rows_that_are_incomplete_after_a_fetch_of_all_rows_are_fetched_alone() -> None:
    """The copy is shown first, and is live when these rows are complete."""
    driven = Driven(by_row=True)
    driven.ready()
    driven.receive(truncated(1, v=1))
    driven.answer(row(1), row(2))
    driven.receive(truncated(2, v=1), change("UPDATE", row(1, v=2)))
    driven.run(1)
    assert driven.state is MirrorState.REFETCHING and driven.rows == [row(1, v=2), row(2)]
    assert list(driven.rows_fetched.values()) == [{"id": 2}]
    driven.answer_row(row(2, big="y", v=1))
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.fetches == [1]


def test_too_many_incomplete_rows_fetch_all_rows() -> None:
    """With more incomplete rows than the maximum, all rows are fetched together."""
    driven = by_row(*map(row, range(4)), most_rows=3)
    driven.receive(*(truncated(key, v=1) for key in range(3)))
    assert len(driven.rows_fetched) == 3 and driven.state is MirrorState.REFETCHING
    driven.receive(truncated(3, v=1))
    assert not driven.rows_fetched and driven.rows_abandoned == [1, 2, 3]
    driven.run()
    assert driven.fetches == [1, 2] and driven.state is MirrorState.FETCHING


@pytest.mark.parametrize(
    ("given", "text"),
    [(row(9), "key 9"), ([row(1)], "mapping"), ({"a": 1}, "without id")],
    ids=["another key", "list", "no key"],
)
def test_a_fetch_that_returns_another_row_fails(given: Any, text: str) -> None:
    """The error is reported, and all rows are fetched."""
    driven = by_row(row(1))
    driven.receive(truncated(1))
    driven.answer_row(given)
    driven.run()
    (error,) = driven.errors
    assert isinstance(error, RowError) and text in error.message
    assert driven.fetches == [1, 2] and driven.mirror.error is error


def test_a_fetch_that_fails_fetches_all_rows() -> None:
    """The fetches of other rows are cancelled; the copy is live again after the fetch of all rows."""
    driven = by_row(row(1), row(2))
    driven.receive(truncated(1, v=1), truncated(2, v=1))
    del driven.rows_fetched[1]
    driven.mirror.row_failed(1, HandlerError("no"))
    driven.pump()
    assert not driven.rows_fetched and driven.state is MirrorState.WAITING
    driven.mirror.row_failed(2, HandlerError("late"))
    driven.run()
    driven.answer(row(1, big="y", v=1), row(2, big="y", v=1))
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.mirror.error is None
    assert [str(error) for error in driven.errors] == ["no"]


@pytest.mark.parametrize("end", ["lost", "stale", "closed"])
def test_the_fetches_of_rows_end_with_the_copy(end: str) -> None:
    """A loss, a gap or the end cancels the fetches; late answers are dropped."""
    driven = by_row(row(1))
    driven.receive(truncated(1, v=1))
    match end:
        case "lost":
            driven.mirror.changes_lost(None)
        case "stale":
            driven.mirror.mark_stale("refresh")
        case _:
            driven.mirror.close()
    driven.pump()
    assert driven.rows_abandoned == [1] and driven.mirror.incomplete == ()
    driven.mirror.row_fetched(1, row(1, v=9), at(driven.now))
    driven.run(0)
    assert driven.rows == [row(1)]


def test_without_a_fetch_of_rows_all_rows_are_fetched() -> None:
    """All rows are fetched, and omitted values are not taken from an incomplete row."""
    driven = Driven().live(row(1))
    driven.receive(truncated(1, v=1))
    unsent = row(1, v=2)
    del unsent["big"]
    driven.receive(change("UPDATE", unsent))
    assert driven.state is MirrorState.WAITING and driven.rows == [row(1)] and not driven.rows_fetched
