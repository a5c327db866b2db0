"""The outbox in a SQLite file: durable, bounded, private, shared by threads and processes."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from supawire import SqliteOutbox
from supawire.core.delivery import OutboxMessage
from supawire.errors import InvalidArgumentError, OutboxError, OutboxFullError, PayloadTooLargeError
from supawire.outbox_stores import sqlite
from supawire.outbox_stores.base import new_id

NONE = frozenset[str]()


def load(store: SqliteOutbox, without: frozenset[str] = NONE) -> tuple[Sequence[OutboxMessage], bool]:
    """Read as the sender."""
    store.acquire()
    return store.load(without)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that does not exist."""
    return tmp_path / "outbox.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteOutbox]:
    """Yield a store in a new file."""
    with SqliteOutbox(path) as store:
        yield store


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program with this Python."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_messages_stay_in_order(store: SqliteOutbox):
    """Messages are read in the order in which they were added, without the topics that are left out."""
    ids = [store.add(topic, "e", {"n": n}) for n, topic in enumerate("abab")]
    messages, complete = load(store)
    assert [(one.id, one.topic, one.payload) for one in messages] == [
        (ids[n], "abab"[n], b'{"n":%d}' % n) for n in range(4)
    ]
    assert complete
    assert [one.id for one in load(store, frozenset("a"))[0]] == [ids[1], ids[3]]
    assert load(store, frozenset("ab")) == ([], True)


def test_a_page_is_bounded(store: SqliteOutbox, monkeypatch: pytest.MonkeyPatch):
    """At most so many messages and so many bytes are read at once, and at least one message."""
    monkeypatch.setattr(sqlite, "LOADED_MESSAGES", 5)
    for _ in range(6):
        store.add("a", "e", {})
    messages, complete = load(store)
    assert len(messages) == 5 and not complete
    monkeypatch.setattr(sqlite, "LOADED_BYTES", 3)
    messages, complete = load(store)
    assert len(messages) == 2 and not complete


def test_counts_follow_the_messages(store: SqliteOutbox):
    """The totals count pending and dead messages and their bytes through all changes."""
    ids = [store.add("a", "e", {}) for _ in range(4)]
    store.settle(ids[:1], [(ids[1], "refused")])
    counts = store.counts()
    assert (counts.pending, counts.dead, counts.bytes) == (2, 1, 12)
    assert counts.oldest_at is not None
    assert (store.last(), store.has_pending(2), store.has_pending(3)) == (4, False, True)
    assert store.retry() == 1 and (store.counts().pending, store.counts().dead) == (3, 0)
    store.settle((), [(ids[1], "again"), (ids[2], "again")])
    assert store.discard([ids[1]]) == 1 and store.discard() == 1
    assert (store.counts().pending, store.counts().dead, store.counts().bytes) == (1, 0, 4)
    store.settle(ids, ())
    assert (store.counts().bytes, store.counts().oldest_at, store.last()) == (0, None, 0)


def test_an_id_is_stored_once(store: SqliteOutbox):
    """A message with an id that the outbox has is not added again, even if the outbox is full."""
    mine = uuid4()
    assert store.add("a", "e", {}, id=mine) == str(mine) == store.add("b", "f", {}, id=str(mine).upper())
    assert store.counts().pending == 1
    store.max_messages = 1
    assert store.add("a", "e", {}, id=mine) == str(mine)


def test_limits(path: Path):
    """Limits of messages and bytes, which dead messages count for, raise a typed error and add nothing."""
    with SqliteOutbox(path, max_messages=3, max_bytes=40, max_payload_bytes=30) as store:
        with pytest.raises(PayloadTooLargeError):
            store.add("a", "e", {"text": "x" * 30})
        first = store.add("a", "e", {"text": "x" * 15})
        store.settle((), [(first, "refused")])
        with pytest.raises(OutboxFullError, match=r"1 of 3 messages and 28 of 40 bytes, 1 of them dead"):
            store.add("a", "e", {"text": "x"})
        store.add("a", "e", {})
        store.add("a", "e", {})
        with pytest.raises(OutboxFullError, match="3 of 3 messages"):
            store.add("a", "e", {})
        store.discard()
        store.add("a", "e", {})


def test_only_this_user_may_read_the_files(path: Path, store: SqliteOutbox):
    """All files of the outbox have the mode 0600."""
    store.add("a", "e", {"secret": 1})
    assert store.acquire()
    files = sorted(path.parent.iterdir())
    assert [one.name for one in files] == ["outbox.db", "outbox.db-sender", "outbox.db-shm", "outbox.db-wal"]
    if os.name == "posix":
        assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}


def test_commits_reach_the_disk_before_they_return(store: SqliteOutbox):
    """The connection writes ahead and syncs at each commit."""
    connection = store._connection
    assert connection is not None
    names = ("journal_mode", "synchronous", "fullfsync")
    assert [connection.execute(f"pragma {name}").fetchone()[0] for name in names] == ["wal", 2, 1]


def test_one_process_sends(path: Path, store: SqliteOutbox):
    """Only one store object, of all processes, is the sender; the end of its process or `release` frees the lock."""
    program = """
import sys
from supawire import SqliteOutbox
store = SqliteOutbox(sys.argv[1])
print(store.acquire())
store.add("a", "e", {})
"""
    assert store.acquire() and not store.acquire()
    assert run(program, path).stdout == "False\n"
    store.release()
    assert run(program, path).stdout == "True\n"
    assert store.acquire() and store.counts().pending == 2


def test_a_store_that_was_closed_is_not_read_without_the_lock(store: SqliteOutbox):
    """After `close`, the messages are not read before the lock is held again, since another process may send them."""
    assert store.acquire()
    store.close()
    with pytest.raises(OutboxError, match="acquire"):
        store.load(NONE)
    assert store.acquire() and store.load(NONE) == ([], True)


def test_many_threads_and_processes_add(path: Path, store: SqliteOutbox):
    """Messages that many threads and processes add at once are all stored, each once."""
    program = (
        "import sys; from supawire import SqliteOutbox\nfor n in range(20): SqliteOutbox(sys.argv[1]).add('a', 'e', {})"
    )
    processes = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", program, str(path)]) for _ in range(3)]
    threads = [threading.Thread(target=lambda: [store.add("a", "e", {}) for _ in range(20)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(timeout=30) for process in processes] == [0, 0, 0]
    assert store.counts().pending == 120 and len({one.id for one in load(store)[0]}) == 120


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_opens_the_file_itself(store: SqliteOutbox):
    """A child of `fork()` adds with a connection of its own, also if another thread was adding, and leaves the lock of
    its parent alone."""
    assert store.acquire()
    with store._lock:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.add("a", "e", {})
                code = 0 if not store.acquire() else 2
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.counts().pending == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_a_forked_child_adds_is_kept(path: Path, store: SqliteOutbox):
    """What a forked child adds is kept, and the child can become the sender, after its parent has closed the file."""
    assert store.acquire()
    (opened, child_opened), (parent_closed, closed) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.add("a", "e", {"n": 1})
            os.write(child_opened, b"x")
            os.read(parent_closed, 1)
            store.add("a", "e", {"n": 2})
            code = 0 if store.acquire() else 2
        finally:
            os._exit(code)
    os.read(opened, 1)
    store.close()
    os.write(closed, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with SqliteOutbox(path) as later:
        assert [one.payload for one in load(later)[0]] == [b'{"n":1}', b'{"n":2}']


def test_an_interrupted_call_ends_its_transaction(path: Path, store: SqliteOutbox, monkeypatch: pytest.MonkeyPatch):
    """After an interruption inside a transaction, such as Ctrl-C, nothing is changed and other processes can write."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.05)
    kept = store.add("a", "e", {})

    def interrupted() -> Iterator[tuple[str, str]]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        store.settle([kept], interrupted())
    with SqliteOutbox(path) as other:
        other.add("a", "e", {})
    assert store.counts().pending == 2


@pytest.mark.skipif(os.name != "posix", reason="links need rights on this system")
def test_one_file_has_one_lock_whatever_it_is_called(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two names of one file have one lock, and a relative name means the same file in another working directory."""
    (tmp_path / "link.db").symlink_to(path)
    with SqliteOutbox(tmp_path / "link.db") as link, SqliteOutbox(path) as store:
        assert link.acquire() and not store.acquire()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with SqliteOutbox("outbox.db") as relative:
        relative.close()
        monkeypatch.chdir(tmp_path / "elsewhere")
        relative.add("a", "e", {})
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_lock_that_cannot_be_used_is_reported(path: Path, store: SqliteOutbox):
    """An error of the file with the lock is raised, and not taken for another process that sends."""
    lock = path.with_name("outbox.db-sender")
    with sqlite3.connect(lock) as connection:
        connection.execute("create table a (b)")
    connection.close()
    lock.write_bytes(lock.read_bytes()[:47] + b"\x63" + lock.read_bytes()[48:])  # a format of the future
    with pytest.raises(OutboxError, match="unsupported file format"):
        store.acquire()


def test_dead_messages_are_chosen_by_ids(store: SqliteOutbox):
    """`retry` and `discard` take a list of ids in any notation, and refuse anything else."""
    ids = [store.add("a", "e", {}) for _ in range(3)]
    store.settle([], [(one, "refused") for one in ids])
    for wrong in (ids[0], "x", 7, ["x"], [None]):
        for call in (store.retry, store.discard):
            with pytest.raises(InvalidArgumentError, match=r"ids must be|UUID"):
                call(wrong)  # pyright: ignore[reportArgumentType]
    assert store.retry([ids[0].upper()]) == 1 and store.discard([UUID(ids[1])]) == 1  # pyright: ignore[reportArgumentType]
    assert (store.counts().pending, store.counts().dead) == (1, 1)


def test_other_files_are_refused(tmp_path: Path):
    """A file of another kind, another database, a folder and an empty path raise an error that says so."""
    text = tmp_path / "text"
    text.write_text("no database " * 100)
    with pytest.raises(OutboxError, match="not a database"):
        SqliteOutbox(text)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("create table mine (a)")
    connection.close()
    with pytest.raises(InvalidArgumentError, match="not an outbox"):
        SqliteOutbox(other)
    with pytest.raises(OutboxError):
        SqliteOutbox(tmp_path)
    with pytest.raises(OutboxError, match="cannot be created"):
        SqliteOutbox(tmp_path / "missing" / "outbox.db")
    for wrong in ("", ":memory:", 5, None, b"outbox.db", "a\0b"):
        with pytest.raises(InvalidArgumentError, match="path of a file"):
            SqliteOutbox(wrong)  # pyright: ignore[reportArgumentType]


def test_a_store_that_another_process_holds_raises(path: Path, store: SqliteOutbox, monkeypatch: pytest.MonkeyPatch):
    """When another process writes for too long, `add` raises an error that can be retried, and nothing was added."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.05)
    with SqliteOutbox(path) as late:
        assert store._connection is not None
        store._connection.execute("begin immediate")
        with pytest.raises(OutboxError, match="locked") as caught:
            late.add("a", "e", {})
        assert caught.value.retryable
        store._connection.execute("rollback")
        late.add("a", "e", {})
        assert late.counts().pending == 1


def test_ids_sort_by_time():
    """Ids are UUIDs of version 7: later ones sort after earlier ones."""
    ids = [new_id(1_800_000_000 + number) for number in range(100)]
    assert ids == sorted(ids) and len(set(ids)) == 100
