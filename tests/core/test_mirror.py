"""The machine behind a mirror: when it fetches, what it applies, and what it says."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from supawire._mirrored import MirrorState, Resynced, RowDeleted, RowInserted, RowUpdated, Shown
from supawire.core.mirror import PAUSE, Abandon, Complain, Emit, Fetch, Mirror, MirrorSettings
from supawire.core.states import MirrorOn
from supawire.core.tablecopy import KeyColumns
from supawire.errors import HandlerError, InvalidArgumentError, LocalProtocolError, RowError, SlowConsumerError
from supawire.options import Backoff
from supawire.selectors import ChangesSelector

from .mirrored import COLUMNS, at, change, gap, row


class Driven:
    """A mirror, driven by hand."""

    def __init__(self, **settings: Any) -> None:
        settings = {"table": "users", "key": ("id",), "backoff": Backoff(initial=1, jitter=0), **settings}
        key = KeyColumns(settings["key"])
        self.mirror = Mirror(
            MirrorSettings(**settings),
            Shown(key.shown, dict),
            None,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # nothing is drawn
        )
        self.now = 1000.0
        self.fetches: list[int] = []
        self.abandoned: list[int] = []
        self.events: list[Any] = []
        self.errors: list[Exception] = []

    def pump(self) -> None:
        while self.mirror.effects:
            match self.mirror.effects.popleft():
                case Fetch(generation):
                    self.fetches.append(generation)
                case Abandon(generation):
                    self.abandoned.append(generation)
                case Emit(event):
                    self.events.append(event)
                case Complain(error):
                    self.errors.append(error)

    def run(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while (deadline := self.mirror.next_deadline) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.mirror.tick(at(self.now))
            self.pump()
        self.now = end

    def ready(self) -> None:
        self.mirror.changes_live()
        self.run()

    def answer(self, *rows: Any) -> None:
        self.mirror.fetched(self.fetches[-1], rows, at(self.now))
        self.pump()

    def hear(self, *changes: Any, inside: bool = True) -> None:
        for one in changes:
            self.mirror.take(one, at(self.now), inside=inside)
            self.pump()

    def live(self, *rows: Any) -> "Driven":
        self.ready()
        self.answer(*rows)
        self.run(1)
        assert self.mirror.state is MirrorState.LIVE
        self.run(PAUSE)
        self.events.clear()
        return self

    @property
    def state(self) -> MirrorState:
        return self.mirror.state

    @property
    def rows(self) -> list[Any]:
        return list(self.mirror.rows.values())


# --- the order


def test_nothing_is_fetched_before_changes_are_live() -> None:
    """A fetch that began earlier would miss what is committed until then."""
    driven = Driven()
    driven.run(60)
    assert driven.fetches == [] and driven.state is MirrorState.JOINING
    driven.ready()
    assert driven.fetches == [1] and driven.state is MirrorState.FETCHING


def test_what_comes_during_a_fetch_is_applied_over_its_rows() -> None:
    """A newer update wins over the fetched row, a deleted row stays deleted, an inserted one stays."""
    driven = Driven()
    driven.ready()
    driven.hear(change("UPDATE", row(1, v=9)), change("DELETE", {"id": 2}), change("INSERT", row(3, v=9)))
    driven.answer(row(1), row(2))
    driven.run(1)
    assert driven.rows == [row(1, v=9), row(3, v=9)]


def test_what_came_before_a_fetch_is_in_it() -> None:
    """A change that came before the fetch began is not applied over newer rows."""
    driven = Driven()
    driven.live(row(1))
    driven.mirror.doubt("refresh")
    driven.hear(change("UPDATE", row(1, v=1)))
    driven.run()
    driven.answer(row(1, v=2))
    driven.run(1)
    assert driven.rows == [row(1, v=2)]


def test_the_copy_is_shown_when_what_the_fetch_saw_has_come() -> None:
    """Until `settle` seconds after the answer nothing is shown, and a change that the fetch has seen is never seen."""
    driven = Driven(settle=0.5)
    driven.ready()
    driven.answer(row(1, v=2))
    driven.hear(change("UPDATE", row(1, v=1)))
    assert driven.rows == [] and driven.state is MirrorState.SETTLING
    driven.hear(change("UPDATE", row(1, v=2)))
    driven.run(0.5)
    assert driven.state is MirrorState.LIVE
    [event] = driven.events
    assert isinstance(event, Resynced) and event.reason == "first" and event.rows == {1: row(1, v=2)}


def test_the_old_copy_follows_changes_until_there_is_a_new_one() -> None:
    """While the rows are fetched anew, changes are still applied and told."""
    driven = Driven().live(row(1))
    driven.mirror.doubt("refresh")
    driven.run()
    driven.hear(change("UPDATE", row(1, v=1)))
    assert driven.rows == [row(1, v=1)] and driven.state is not MirrorState.LIVE
    driven.answer(row(1, v=1))
    driven.run(1)
    update, resynced = driven.events
    assert isinstance(update, RowUpdated) and isinstance(resynced, Resynced)
    assert resynced.changes == () and resynced.reason == "refresh"


# --- losses


def test_a_gap_in_changes_fetches_anew() -> None:
    """After a gap the rows are fetched, and what was missed is told as one event; a gap in anything else is none."""
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


def test_a_gap_with_the_word_that_changes_are_live_is_one_fetch() -> None:
    """Both come together, and the fetch that is due then is begun once."""
    driven = Driven().live()
    driven.mirror.changes_lost(None)
    driven.mirror.changes_live()
    driven.mirror.gap(gap("changes"))
    driven.run(5)
    assert driven.fetches == [1, 2]


def test_a_loss_during_a_fetch_gives_it_up() -> None:
    """The answer of a fetch during which changes were lost counts no more, whenever it comes."""
    driven = Driven()
    driven.ready()
    driven.mirror.changes_lost(HandlerError("the line"))
    driven.pump()
    assert driven.abandoned == [1] and str(driven.mirror.error) == "the line"
    driven.answer(row(1))
    driven.ready()
    driven.mirror.fetched(1, [row(1)], at(driven.now))
    assert driven.fetches == [1, 2] and driven.state is MirrorState.FETCHING
    driven.answer(row(2))
    driven.run(1)
    assert driven.rows == [row(2)] and driven.mirror.error is None


def test_a_loss_while_it_settles_drops_the_new_copy() -> None:
    """What was to be shown has holes now."""
    driven = Driven().live(row(1))
    driven.mirror.doubt("refresh")
    driven.run()
    driven.answer(row(2))
    driven.mirror.changes_lost(None)
    driven.run(5)
    assert driven.rows == [row(1)] and driven.state is MirrorState.JOINING


# --- changes that do not say all


UNCLEAR = {
    "truncated": change("UPDATE", {"id": 1}, errors="Error 413: Payload Too Large"),
    "unauthorized": change("INSERT", {}, columns={}, errors="Error 401: Unauthorized"),
    "no primary key": change("INSERT", {}, columns={}, errors="Error 400: Bad Request, no primary key"),
    "an update without its old key": change("UPDATE", row(1), {}),
    "a row without its key": change("INSERT", {"a": 1}),
    "a delete without its key": change("DELETE", {}, {}),
    "a row that is no row": change("INSERT", []),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "a char(n)": change("UPDATE", row(1) | {"code": "D"}, columns=COLUMNS | {"code": "bpchar"}),
    "a large value that is not known": change("UPDATE", {"id": 7, "a": 1, "v": 1}),
    "the key of another row": change("UPDATE", row(2), {"id": 1}),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_change_that_does_not_say_all_fetches_anew(name: str) -> None:
    """The copy stays as it is, is live no more, and the rows are fetched; the reason is told."""
    driven = Driven().live(row(1), row(2))
    driven.hear(UNCLEAR[name])
    assert driven.state is MirrorState.WAITING and driven.rows == [row(1), row(2)]
    driven.run()
    driven.answer(row(1, v=3), row(2))
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.rows == [row(1, v=3), row(2)]
    assert driven.events[-1].reason.startswith("row: ")


def test_a_doubt_during_a_fetch_is_followed_by_another() -> None:
    """The fetch may have been too early: what it gave is shown, and is not live before the next."""
    driven = Driven()
    driven.ready()
    driven.hear(UNCLEAR["truncated"])
    driven.answer(row(1))
    driven.run(1)
    assert driven.state is MirrorState.WAITING and driven.rows == [row(1)]
    driven.run(PAUSE)
    assert driven.fetches == [1, 2]
    driven.answer(row(1, v=2))
    driven.run(1)
    assert driven.state is MirrorState.LIVE and driven.rows == [row(1, v=2)]


def test_rows_in_doubt_are_fetched_together() -> None:
    """However many come, from one answer to the next fetch there is a pause."""
    driven = Driven().live(row(1))
    for _ in range(100):
        driven.hear(UNCLEAR["truncated"])
        driven.run(0.1)
        if driven.state is MirrorState.FETCHING:
            driven.answer(row(1))
    assert len(driven.fetches) <= 7


def test_a_large_value_that_is_not_sent_is_the_known_one() -> None:
    """An UPDATE without an unchanged large column keeps it, in the order of columns."""
    driven = Driven().live(row(1, big="x" * 5000))
    driven.hear(change("UPDATE", {"id": 1, "a": 5, "v": 1}))
    assert driven.rows == [row(1, 5, "x" * 5000, 1)] and list(driven.rows[0]) == list(COLUMNS)
    assert driven.state is MirrorState.LIVE


def test_the_key_is_enough_to_delete() -> None:
    """A DELETE of a row that is too large, or of one that is not there, needs no fetch."""
    driven = Driven().live(row(1))
    driven.hear(change("DELETE", {"id": 1}, errors="Error 413: Payload Too Large"), change("DELETE", {"id": 5}))
    assert driven.rows == [] and driven.state is MirrorState.LIVE


# --- keys


def test_a_row_whose_key_changes_is_one_row() -> None:
    """It is told as an update with both keys."""
    driven = Driven().live(row(1))
    driven.hear(change("UPDATE", row(2, v=1), {"id": 1}))
    [event] = driven.events
    assert (event.key, event.old_key, event.row, event.old) == (2, 1, row(2, v=1), row(1))
    assert driven.rows == [row(2, v=1)]


def test_several_columns_are_one_key() -> None:
    """With `key=("id", "a")` keys are tuples, and an update of one of them moves the row."""
    driven = Driven(key=("id", "a")).live(row(1, 1), row(1, 2))
    driven.hear(change("UPDATE", row(1, 3), {"id": 1, "a": 2}), change("DELETE", {}, {"id": 1, "a": 1}))
    assert driven.rows == [row(1, 3)]
    assert driven.events[0].key == (1, 3)
    assert driven.mirror.key.asked((1, 3)) in driven.mirror.rows


def test_a_uuid_is_the_same_as_object_and_as_text() -> None:
    """A fetch that gives UUIDs as text and changes that give objects speak of the same row."""
    columns = {"id": "uuid", "a": "int4"}
    text = "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"
    driven = Driven().live({"id": text, "a": 1})
    driven.hear(change("UPDATE", {"id": text, "a": 2}, columns=columns))
    assert driven.rows == [{"id": UUID(text), "a": 2}]
    assert {driven.mirror.key.asked(key) in driven.mirror.rows for key in (text, UUID(text))} == {True}


# --- filters


def unheard(change: Any, *, inside: bool) -> None:
    """Nobody listens."""


def both(filter: str = "a=gte.5", **settings: Any) -> tuple[Driven, Callable[..., None]]:
    """A mirror with a filter, and what gives it a change as a frame does: to whom it fits, in the listeners' order."""
    driven = Driven(filter=filter, judged=frozenset({"a"}), **settings)
    listeners = driven.mirror.listeners(lambda change, *, inside: driven.hear(change, inside=inside))

    def frame(one: Any, *, fits: bool) -> None:
        for listener in listeners if fits else listeners[1:]:
            listener.deliver(one)

    return driven, frame


def test_a_row_that_leaves_the_filter_is_gone() -> None:
    """An UPDATE that the filter does not fit any more takes the row out; one that it fits now takes one in."""
    driven, frame = both()
    driven.live(row(1, 6))
    frame(change("UPDATE", row(2, 7)), fits=True)
    frame(change("UPDATE", row(1, 2)), fits=False)
    frame(change("INSERT", row(3, 2)), fits=False)
    frame(change("UPDATE", row(3, 1)), fits=False)
    assert driven.rows == [row(2, 7)]
    assert [type(event) for event in driven.events] == [RowInserted, RowDeleted]


def test_a_filter_asks_for_the_whole_table_too() -> None:
    """Of most DELETEs and of rows that leave, a filter alone is told nothing; narrow=True accepts that."""
    asked = [one.selectors[0] for one in both()[0].mirror.listeners(unheard)]
    assert [(one.filter, one.table) for one in asked if isinstance(one, ChangesSelector)] == [
        ("a=gte.5", "users"),
        (None, "users"),
    ]
    narrow = Driven(filter="a=gte.5", narrow=True).mirror.listeners(unheard)
    assert [one.selectors for one in narrow] == [(asked[0],)]


def test_a_filter_judged_without_its_column_fetches_anew() -> None:
    """What is not sent fits no condition: whether the row has left cannot be known."""
    driven, frame = both()
    driven.live(row(1, 6))
    frame(change("UPDATE", {"id": 1, "big": "x", "v": 1}), fits=False)
    assert driven.state is MirrorState.WAITING and driven.rows == [row(1, 6)]


def test_a_table_with_a_similar_name_is_another() -> None:
    """`_` in a name is a wildcard of the server; its changes of `userXa` are not those of `user_a`."""
    driven = Driven(table="user_a").live()
    driven.hear(change("INSERT", row(1), table="userXa"), change("INSERT", row(2), table="user_a"))
    assert driven.rows == [row(2)]


# --- the fetch


BAD_ROWS = {
    "no mapping": ([("id", 1)], r"gave a tuple .*\.data"),
    "no key": ([{"a": 1}], "without id"),
    "a null key": ([{"id": None}], "without id"),
    "a key that can be changed": ([{"id": [1]}], "list is no key"),
    "two rows of one key": ([row(1), row(1, v=1)], "two different rows with the key 1"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_what_are_no_rows_fails_the_fetch(name: str) -> None:
    """The reason is told and visible, the copy is not touched, and it is tried again."""
    rows, words = BAD_ROWS[name]
    driven = Driven()
    driven.ready()
    driven.answer(*rows)
    assert driven.state is MirrorState.WAITING
    [error] = driven.errors
    assert isinstance(error, RowError) and driven.mirror.error is error
    with pytest.raises(RowError, match=words):
        raise error
    driven.run(1)
    assert driven.fetches == [1, 2]


def test_a_fetch_that_fails_is_tried_again_ever_later() -> None:
    """Each failure is told and waited for longer; the first success starts the waits anew."""
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


def test_too_many_changes_during_a_fetch_fail_it() -> None:
    """What is kept is bounded: nothing is lost in silence, the fetch is given up and tried again."""
    driven = Driven(buffer=3)
    driven.ready()
    driven.hear(*(change("INSERT", row(key)) for key in range(4)))
    [error] = driven.errors
    assert isinstance(error, SlowConsumerError) and driven.abandoned == [1] and driven.mirror.error is error
    assert driven.state is MirrorState.WAITING
    driven.run(1)
    driven.answer(*(row(key) for key in range(5)))
    driven.run(1)
    assert len(driven.rows) == 5


def test_more_columns_than_selected_are_left_out() -> None:
    """With `select`, a column that changes will never have would go stale."""
    driven = Driven(select=("id", "a")).live(row(1, 3))
    assert driven.rows == [{"id": 1, "a": 3}]


@pytest.mark.parametrize("plain", [False, True])
def test_rows_of_different_make_are_told_once(plain: bool) -> None:
    """When fetch and changes give values of different types, `on_error` hears it with what to do."""
    columns = {"id": "int8", "price": "numeric"}
    driven = Driven(plain=plain).live({"id": 1, "price": Decimal("1.5") if plain else 1.5})
    driven.hear(*(change("UPDATE", {"id": 1, "price": price}, columns=columns) for price in (2.5, 3.5)))
    [error] = driven.errors
    assert isinstance(error, InvalidArgumentError)
    assert "price is a Decimal in the rows of fetch" in str(error) if plain else "plain=True" in str(error)


def test_rows_of_one_make_are_no_matter() -> None:
    """Nulls, ints beside floats and JSON columns differ without harm."""
    columns = {"id": "int8", "f": "float8", "j": "jsonb", "n": "text"}
    driven = Driven().live({"id": 1, "f": 1.5, "j": [1], "n": None})
    driven.hear(change("UPDATE", {"id": 1, "f": 2, "j": {"a": 1}, "n": "x"}, columns=columns))
    assert driven.errors == []


def test_plain_rows_are_as_they_were_sent() -> None:
    """With plain=True a change's row has the same form as PostgREST gives it."""
    columns = {"id": "uuid", "at": "timestamptz", "n": "int8"}
    sent = {"id": "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11", "at": "2026-01-05T10:11:12+00:00", "n": 2**60}
    driven = Driven(plain=True).live()
    driven.hear(change("INSERT", sent, columns=columns))
    assert driven.rows == [sent]
    driven.hear(change("DELETE", {"id": sent["id"]}, columns=columns))
    assert driven.rows == []


# --- events, and the end


def test_a_change_that_changes_nothing_is_no_event() -> None:
    """An UPDATE to the same values is not told."""
    driven = Driven().live(row(1))
    driven.hear(change("UPDATE", row(1)))
    assert driven.events == []


def test_a_closed_mirror_keeps_its_copy_and_hears_nothing() -> None:
    """After close nothing changes it, and an answer that was on its way is dropped."""
    driven = Driven().live(row(1))
    driven.mirror.doubt("refresh")
    driven.run()
    driven.mirror.close()
    driven.pump()
    driven.answer(row(2))
    driven.hear(change("INSERT", row(3)))
    driven.mirror.changes_lost(None)
    driven.mirror.changes_live()
    driven.mirror.gap(gap("changes"))
    driven.run(60)
    driven.mirror.close()
    assert driven.state is MirrorState.CLOSED and driven.rows == [row(1)] and driven.abandoned == [2]


def test_an_impossible_move_is_said() -> None:
    """A move that the table does not have raises."""
    with pytest.raises(LocalProtocolError, match="JOINING; DUE is no move"):
        Driven().mirror._move(MirrorOn.DUE)
