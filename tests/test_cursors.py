"""Cursors: their text, their order, and the store in an SQLite file."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import warnings
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire import Cursor
from supawire.errors import InvalidArgumentError, StateError
from supawire.history import CursorStore, SqliteCursors

ID = "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"
IDS = st.uuids().map(str)


@given(
    topic=st.text(min_size=1, max_size=20),
    at=st.integers(0, 2**57),
    place=st.integers(0, 2**40),
    number=st.none() | IDS,
    seen=st.frozensets(IDS, max_size=5),
)
def test_a_cursor_is_the_same_after_its_text_was_parsed(
    topic: str, at: int, place: int, number: str | None, seen: frozenset[str]
):
    """`Cursor.parse(str(cursor))` is equal to the cursor."""
    cursor = Cursor(topic, at, place, number, seen)
    assert Cursor.parse(str(cursor)) == cursor
    assert hash(Cursor.parse(str(cursor))) == hash(cursor)


@pytest.mark.parametrize(
    "text",
    ["", "1", "2;0;0;;;room", "1;-1;0;;;room", "1;0;0;;;", "1;0;0;x;;room", f"1;0;0;{ID}x;;room", "1;0;0;;AAAA;room",
     "1;" + "9" * 18 + ";0;;;room", "1;0;0;;" + "A" * 21 + ";room", None, 5, b"1;0;0;;;room"],
)  # fmt: skip
def test_a_wrong_text_is_refused(text: Any):
    """What is not the text of a cursor raises InvalidArgumentError."""
    with pytest.raises(InvalidArgumentError, match="is not the text of a cursor"):
        Cursor.parse(text)


def test_cursors_are_ordered_by_their_position():
    """Cursors of a topic are ordered by time, place and id; those of different topics cannot be compared."""
    first, second, third = Cursor("a", 1, 5, ID), Cursor("a", 1, 6), Cursor("a", 2, 0)
    assert sorted([third, first, second]) == [first, second, third]
    assert first < second <= third
    assert third > first
    assert third >= third  # noqa: PLR0124  the operator is tested
    with pytest.raises(TypeError, match="different topics"):
        assert first < Cursor("b", 1)
    with pytest.raises(TypeError, match="cannot be compared"):
        assert first < 5  # pyright: ignore[reportOperatorIssue]


def test_a_cursor_of_a_time_is_before_its_first_message():
    """`since` accepts Unix seconds and aware datetimes."""
    instant = datetime(2026, 3, 9, 8, 15, 30, 250_000, tzinfo=UTC)
    cursor = Cursor.since("room", instant)
    assert cursor == Cursor.since("room", instant.timestamp())
    assert (instant - cursor.inserted_at).microseconds == 1


@pytest.mark.parametrize("value", [datetime(2026, 1, 1), "now", -1, 1e12, True, None])  # noqa: DTZ001
def test_a_wrong_time_is_refused(value: Any):
    """A naive datetime, milliseconds and other types raise InvalidArgumentError."""
    with pytest.raises(InvalidArgumentError):
        Cursor.since("room", value)


def test_sqlite_keeps_the_later_cursor(tmp_path: Path):
    """An earlier cursor does not replace a later one; at the same position the newer one is kept."""
    with SqliteCursors(tmp_path / "cursors.db") as store:
        assert isinstance(store, CursorStore)
        assert store.load("mine") is None
        store.save("mine", Cursor("room", 5))
        store.save("mine", Cursor("room", 4))
        assert store.load("mine") == Cursor("room", 5)
        store.save("mine", Cursor("room", 5, seen=frozenset({ID})))
        assert store.load("mine") == Cursor("room", 5, seen=frozenset({ID}))
        store.delete("mine")
        assert store.load("mine") is None
    with SqliteCursors(tmp_path / "cursors.db") as again:
        again.save("mine", Cursor("room", 1))
        assert again.load("mine") == Cursor("room", 1)


def test_a_cursor_is_saved_in_a_transaction_of_the_user(tmp_path: Path):
    """The statement of the store, executed in the user's transaction, is rolled back with it."""
    path = tmp_path / "cursors.db"
    with SqliteCursors(path) as store:
        connection = sqlite3.connect(path)
        connection.execute(*SqliteCursors.statement("mine", Cursor("room", 5)))
        connection.rollback()
        assert store.load("mine") is None
        connection.execute(*SqliteCursors.statement("mine", Cursor("room", 6)))
        connection.commit()
        connection.close()
        assert store.load("mine") == Cursor("room", 6)


def _save(path: str, first: int) -> None:
    with SqliteCursors(path) as store:
        for at in range(first, 200, 4):
            store.save("mine", Cursor("room", at, 0, str(UUID(int=at))))


@pytest.mark.slow
def test_several_processes_and_threads_use_one_file(tmp_path: Path):
    """Processes and threads that save at once leave the latest cursor."""
    path = str(tmp_path / "cursors.db")
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_save, args=(path, first)) for first in (0, 1)]
    threads = [threading.Thread(target=_save, args=(path, first)) for first in (2, 3)]
    for one in (*others, *threads):
        one.start()
    for one in (*others, *threads):
        one.join()
    assert [one.exitcode for one in others] == [0, 0]
    with SqliteCursors(path) as store:
        loaded = store.load("mine")
    assert loaded is not None
    assert loaded.at == 199


def test_a_file_that_another_process_prepares_is_waited_for(tmp_path: Path):
    """A file that is locked while it is opened is waited for, and the error after the timeout may be retried."""
    path = tmp_path / "cursors.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("create table another (name text)")
    other.execute("begin immediate")
    with pytest.raises(StateError, match="locked") as failed:
        SqliteCursors(path, timeout=0.02)
    assert failed.value.retryable
    stores: list[SqliteCursors] = []
    thread = threading.Thread(target=lambda: stores.append(SqliteCursors(path)))
    thread.start()
    other.execute("commit")
    thread.join()
    other.close()
    (store,) = stores
    store.save("mine", Cursor("room", 1))
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_use_the_store_at_once(tmp_path: Path):
    """A fork waits for the call of another thread; its child finds what that call has saved, and can use the file."""
    with SqliteCursors(tmp_path / "cursors.db") as store:
        store.save("mine", Cursor("room", 1))
        other = sqlite3.connect(tmp_path / "cursors.db", isolation_level=None, check_same_thread=False)
        other.execute("begin immediate")
        saving = threading.Thread(target=store.save, args=("mine", Cursor("room", 2)))
        saving.start()
        while store._lock.acquire(blocking=False):
            store._lock.release()
        releasing = threading.Thread(target=other.execute, args=("rollback",))  # the fork waits for the call
        releasing.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            found = store.load("mine") == Cursor("room", 2)
            store.save("mine", Cursor("room", 3))
            os._exit(0 if found else 1)
        assert os.waitpid(child, 0)[1] == 0
        releasing.join()
        other.close()
        saving.join()
        assert store.load("mine") == Cursor("room", 3)


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path):
    """Another file, and a folder that does not exist, raise InvalidArgumentError at once."""
    text = tmp_path / "notes.txt"
    text.write_text("these are notes, and not a database at all" * 50)
    for path in (text, tmp_path / "missing" / "cursors.db"):
        with pytest.raises(InvalidArgumentError, match="cannot be opened as an SQLite file"):
            SqliteCursors(path)


def test_a_file_that_becomes_unusable_raises(tmp_path: Path):
    """An error of the file when a cursor is saved is a StateError, which may be retried."""
    path = tmp_path / "cursors.db"
    with SqliteCursors(path) as store:
        with closing(sqlite3.connect(path)) as other:
            other.execute("drop table supawire_cursors")
        with pytest.raises(StateError, match="cannot be used") as failed:
            store.save("mine", Cursor("room", 1))
    assert failed.value.retryable


@pytest.mark.parametrize(
    ("name", "cursor"), [("", Cursor("room", 1)), (5, Cursor("room", 1)), ("mine", "1;0;0;;;room")]
)
def test_wrong_arguments_of_save_are_refused(tmp_path: Path, name: Any, cursor: Any):
    """A name is a text that is not empty, and a cursor is a Cursor, not its text."""
    with SqliteCursors(tmp_path / "cursors.db") as store, pytest.raises(InvalidArgumentError):
        store.save(name, cursor)
