"""Single rows of a mirror that came incomplete and are fetched by themselves."""

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


def test_only_the_row_is_fetched_that_came_incomplete() -> None:
    """The mirror is not live until the row is known; all rows are not fetched again."""
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
    """A row that came incomplete at its INSERT is not in the copy before; one that is gone never is."""
    driven = by_row()
    driven.receive(truncated(1, "INSERT"), truncated(2, "INSERT"))
    one, two = driven.rows_fetched
    driven.answer_row(row(1, big="y"), one)
    driven.answer_row(None, two)
    assert driven.rows == []
    driven.run(1)
    assert driven.rows == [row(1, big="y")] and kinds(driven) == [(RowInserted, 1)]
    assert driven.state is MirrorState.LIVE


def test_a_row_that_left_is_deleted_when_its_fetch_finds_none() -> None:
    """`None` means that there is no such row, or that it does not match the filter any more."""
    driven = by_row(row(1))
    driven.receive(truncated(1))
    driven.answer_row(None)
    driven.run(1)
    assert driven.rows == [] and kinds(driven) == [(RowDeleted, 1)] and driven.state is MirrorState.LIVE


@pytest.mark.parametrize("answered", [False, True])
def test_a_later_complete_change_wins(answered: bool) -> None:
    """It is newer than the incomplete one and says everything, so the fetch is cancelled and its answer dropped."""
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
def test_a_later_delete_wins(answered: bool) -> None:
    """A deleted row does not come back with the answer of its fetch."""
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
    """Within the settle time it is not known whether the answer includes the change."""
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


def test_a_server_that_is_late_is_waited_for() -> None:
    """While changes from before the answer arrive, of whatever row, the answer waits longer."""
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
    """The row has certainly left its old key."""
    driven = by_row(row(1))
    sent = row(2, v=1)
    del sent["big"]
    driven.receive(change("UPDATE", sent, {"id": 1}, errors=TOO_LARGE))
    assert driven.rows == [] and list(driven.rows_fetched.values()) == [{"id": 2}]
    driven.answer_row(row(2, big="y", v=1))
    driven.run(1)
    assert driven.rows == [row(2, big="y", v=1)] and kinds(driven) == [(RowDeleted, 1), (RowInserted, 2)]


def test_a_value_that_was_not_sent_and_is_not_known_is_fetched_with_its_row() -> None:
    """So are rows with a column of which the server sends only the beginning."""
    driven = by_row()
    driven.receive(change("UPDATE", {"id": 1, "a": 1, "v": 1}))
    assert list(driven.rows_fetched.values()) == [{"id": 1}]
    driven = by_row(row(1))
    driven.receive(change("UPDATE", {**row(1), "c": "y"}, columns={"id": "int8", "c": "bpchar"}))
    assert list(driven.rows_fetched.values()) == [{"id": 1}]


def test_rows_that_come_incomplete_during_a_fetch_of_all_rows_are_fetched_after_it() -> None:
    """The copy is shown first, and is live when they are known."""
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
    """More than the most at once are cheaper to fetch together."""
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
def test_what_is_not_the_row_fails_its_fetch(given: Any, text: str) -> None:
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
    """A loss, a gap or the end cancels them; what they answer is dropped."""
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
    """Values that a later change omits are not taken from a row that came incomplete."""
    driven = Driven().live(row(1))
    driven.receive(truncated(1, v=1))
    unsent = row(1, v=2)
    del unsent["big"]
    driven.receive(change("UPDATE", unsent))
    assert driven.state is MirrorState.WAITING and driven.rows == [row(1)] and not driven.rows_fetched
