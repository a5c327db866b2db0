"""The effect of changes on the copy of a table, and changes that cannot be applied."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from supawire._mirror_events import MirrorState, RowDeleted, RowInserted
from supawire.core.listeners import Index
from supawire.selectors import ChangesSelector

from .mirror_harness import COLUMNS, Driven, change, row

# --- incomplete changes


UNCLEAR = {
    "truncated": change("UPDATE", {"id": 1}, errors="Error 413: Payload Too Large"),
    "unauthorized": change("INSERT", {}, columns={}, errors="Error 401: Unauthorized"),
    "no primary key": change("INSERT", {}, columns={}, errors="Error 400: Bad Request, no primary key"),
    "an update without its old key": change("UPDATE", row(1), {}),
    "a row without its key": change("INSERT", {"a": 1}),
    "a delete without its key": change("DELETE", {}, {}),
    "a row that is not an object": change("INSERT", []),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "a char(n)": change("UPDATE", row(1) | {"code": "D"}, columns=COLUMNS | {"code": "bpchar"}),
    "a large value that is not known": change("UPDATE", {"id": 7, "a": 1, "v": 1}),
    "the key of another row": change("UPDATE", row(2), {"id": 1}),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_an_incomplete_change_fetches_all_rows(name: str) -> None:
    """The copy is unchanged but no longer live, the rows are fetched, and the reason is reported."""
    driven = Driven().live(row(1), row(2))
    driven.receive(UNCLEAR[name])
    assert driven.state is MirrorState.WAITING and driven.rows == [row(1), row(2)]
    driven.run()
    driven.answer(row(1, v=3), row(2))
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.rows == [row(1, v=3), row(2)]
    assert driven.events[-1].reason.startswith("row: ")


def test_a_large_value_that_was_not_sent_is_taken_from_the_known_row() -> None:
    """An UPDATE without an unchanged large column keeps its value, in column order."""
    driven = Driven().live(row(1, big="x" * 5000))
    driven.receive(change("UPDATE", {"id": 1, "a": 5, "v": 1}))
    assert driven.rows == [row(1, 5, "x" * 5000, 1)] and list(driven.rows[0]) == list(COLUMNS)
    assert driven.state is MirrorState.LIVE


def test_a_delete_needs_only_the_key() -> None:
    """A DELETE of a row that is too large, or unknown, needs no fetch."""
    driven = Driven().live(row(1))
    driven.receive(change("DELETE", {"id": 1}, errors="Error 413: Payload Too Large"), change("DELETE", {"id": 5}))
    assert driven.rows == [] and driven.state is MirrorState.LIVE


# --- keys


def test_a_row_whose_key_changes_stays_one_row() -> None:
    """A change of the key is reported as an update with both keys."""
    driven = Driven().live(row(1))
    driven.receive(change("UPDATE", row(2, v=1), {"id": 1}))
    [event] = driven.events
    assert (event.key, event.old_key, event.row, event.old) == (2, 1, row(2, v=1), row(1))
    assert driven.rows == [row(2, v=1)]


def test_a_key_may_have_several_columns() -> None:
    """With `key=("id", "a")` keys are tuples, and an update of one of them moves the row."""
    driven = Driven(key=("id", "a")).live(row(1, 1), row(1, 2))
    driven.receive(change("UPDATE", row(1, 3), {"id": 1, "a": 2}), change("DELETE", {}, {"id": 1, "a": 1}))
    assert driven.rows == [row(1, 3)]
    assert driven.events[0].key == (1, 3)
    assert driven.mirror.key.lookup((1, 3)) in driven.mirror.rows


@pytest.mark.parametrize("key", [1, "13", None])
def test_an_invalid_key_of_several_columns_is_not_found(key: Any) -> None:
    """A lookup of a key with the wrong shape finds no row and raises no error."""
    driven = Driven(key=("id", "a")).live(row(1, 3))
    assert driven.mirror.key.lookup(key) not in driven.mirror.rows


def test_a_uuid_key_equals_its_text() -> None:
    """A fetch that returns UUIDs as text and changes that contain objects refer to the same row."""
    columns = {"id": "uuid", "a": "int4"}
    text = "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"
    driven = Driven().live({"id": text, "a": 1})
    driven.receive(change("UPDATE", {"id": text, "a": 2}, columns=columns))
    assert driven.rows == [{"id": UUID(text), "a": 2}]
    assert {driven.mirror.key.lookup(key) in driven.mirror.rows for key in (text, UUID(text))} == {True}


# --- filters


def ignore(change: Any, *, inside: bool) -> None:
    """Ignore a change."""


def both(filter: str = "a=gte.5", **settings: Any) -> tuple[Driven, Callable[..., None]]:
    """Return a mirror with a filter, and a function that delivers a change to its listeners in order."""
    driven = Driven(filter=filter, filter_columns=frozenset({"a"}), **settings)
    listeners = driven.mirror.listeners(lambda change, *, inside: driven.receive(change, inside=inside))

    def frame(one: Any, *, fits: bool) -> None:
        for listener in listeners if fits else listeners[1:]:
            listener.deliver(one)

    return driven, frame


def test_a_row_that_leaves_the_filter_is_removed() -> None:
    """An UPDATE that no longer matches the filter removes the row; one that matches now adds it."""
    driven, frame = both()
    driven.live(row(1, 6))
    frame(change("UPDATE", row(2, 7)), fits=True)
    frame(change("UPDATE", row(1, 2)), fits=False)
    frame(change("INSERT", row(3, 2)), fits=False)
    frame(change("UPDATE", row(3, 1)), fits=False)
    assert driven.rows == [row(2, 7)]
    assert [type(event) for event in driven.events] == [RowInserted, RowDeleted]


def test_with_a_filter_changes_of_the_whole_table_are_requested_too() -> None:
    """A filtered subscription misses most DELETEs and rows that leave; narrow=True accepts that."""
    requested = [one.selectors[0] for one in both()[0].mirror.listeners(ignore)]
    assert [(one.filter, one.table) for one in requested if isinstance(one, ChangesSelector)] == [
        ("a=gte.5", "users"),
        (None, "users"),
    ]
    narrow = Driven(filter="a=gte.5", narrow=True).mirror.listeners(ignore)
    assert [one.selectors for one in narrow] == [(requested[0],)]


@pytest.mark.parametrize("ids", [(5, 3), (3, 5)])
def test_a_row_matches_in_any_order_of_its_ids(ids: tuple[int, int]) -> None:
    """The server lists the ids of a row's bindings in any order; the listeners are called in their own order."""
    driven, index = Driven(filter="a=gte.5", filter_columns=frozenset({"a"})), Index()
    for listener in driven.mirror.listeners(lambda change, *, inside: driven.receive(change, inside=inside)):
        index.add(listener)
    index.joined(dict(zip(index.bindings, (5, 3), strict=True)))
    driven.live()
    fits, fits_not = change("INSERT", row(1, 7)), change("INSERT", row(2, 1))
    for deliver in index.union(ids, "INSERT"):
        deliver(fits)
    for deliver in index.union((3,), "INSERT"):
        deliver(fits_not)
    assert driven.rows == [row(1, 7)]


def test_a_filter_evaluated_without_its_column_fetches_all_rows() -> None:
    """A value that is not sent never matches: whether the row has left is unknown."""
    driven, frame = both()
    driven.live(row(1, 6))
    frame(change("UPDATE", {"id": 1, "big": "x", "v": 1}), fits=False)
    assert driven.state is MirrorState.WAITING and driven.rows == [row(1, 6)]


def test_changes_of_a_table_with_a_similar_name_are_ignored() -> None:
    """`_` in a table name is a wildcard for the server; changes of `userXa` are not those of `user_a`."""
    driven = Driven(table="user_a").live()
    driven.receive(change("INSERT", row(1), table="userXa"), change("INSERT", row(2), table="user_a"))
    assert driven.rows == [row(2)]
