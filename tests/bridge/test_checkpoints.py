"""What a checkpoint in SQLite keeps, and that one process is the leader."""

import subprocess
import sys
from pathlib import Path

import pytest

from supawire.bridge import BridgeMessage, Draft, LeaderLostError, SqliteCheckpoint
from supawire.errors import BridgeError, InvalidArgumentError

INSERT = Draft(("changes", "public", "items"), "items:1", b"{}", row=b'{"id":1}', digest=b"1" * 16)
DELETE = Draft(("changes", "public", "items"), "items:1", b"{}", row=b'{"id":1}')

HOLD = """
import sys, time
from supawire.bridge import SqliteCheckpoint
checkpoint = SqliteCheckpoint(sys.argv[1])
print(checkpoint.acquire("b"), flush=True)
time.sleep(60)
"""


def test_messages_keep_their_ids_over_a_restart(tmp_path: Path):
    """A message that was not confirmed has the same id after a restart, and no later one gets an id again."""
    with_path = tmp_path / "c.db"
    first = SqliteCheckpoint(with_path)
    assert first.acquire("b")
    one, two = first.record("s", [INSERT, DELETE])
    first.confirm("s", [one.id])
    first.release()
    second = SqliteCheckpoint(with_path)
    assert second.acquire("b")
    state = second.load("s")
    assert (state.rows, state.pending) == ({}, [two])
    assert second.record("s", [INSERT])[0].id not in (one.id, two.id)
    assert second.load("s").rows == {b'{"id":1}': b"1" * 16}
    assert second.load("other").rows == {}
    second.save_cursor("t", "x")
    assert second.load_cursor("t") == "x" and second.load_cursor("s") is None
    second.release()


def test_ids_are_new_from_an_older_copy(tmp_path: Path):
    """A checkpoint that lost its newest part, as after a power failure, gives no id again that the broker may know."""
    path = tmp_path / "c.db"
    first = SqliteCheckpoint(path)
    assert first.acquire("b")
    first.release()
    older = path.read_bytes()
    assert first.acquire("b")
    (lost,) = first.record("s", [INSERT])
    first.release()
    path.write_bytes(older)
    assert first.acquire("b")
    assert first.record("s", [DELETE])[0].id != lost.id
    first.release()


def test_own_ids_are_kept(tmp_path: Path):
    """A message that has an id already keeps it, and one without a body is not recorded as a message."""
    checkpoint = SqliteCheckpoint(tmp_path / "c.db")
    checkpoint.acquire("b")
    drafts = [Draft(("a",), "k", b"1", id="mine"), Draft(("a",), "k", None, row=b"r", digest=b"d")]
    assert checkpoint.record("s", drafts) == [BridgeMessage("mine", ("a",), "k", b"1")]
    checkpoint.confirm("s", ["mine"])
    assert checkpoint.load("s").pending == [] and checkpoint.load("s").rows == {b"r": b"d"}
    checkpoint.release()


def test_there_is_one_leader(tmp_path: Path):
    """While one holds the checkpoint no other can, and a process that is killed gives it up."""
    path = tmp_path / "c.db"
    mine = SqliteCheckpoint(path)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline().strip() == b"True"
        assert not mine.acquire("b")
        with pytest.raises(LeaderLostError):
            mine.record("s", [INSERT])
        other.kill()
        other.wait()
        assert mine.acquire("b")
        mine.check()
    mine.release()


def test_an_old_leader_cannot_record(tmp_path: Path):
    """A leader that was replaced although it runs, because its lock file was removed, cannot record or confirm."""
    path = tmp_path / "c.db"
    old, new = SqliteCheckpoint(path), SqliteCheckpoint(path)
    assert old.acquire("b")
    (pending,) = old.record("s", [INSERT])
    Path(f"{path}-leader").unlink()
    assert new.acquire("b")
    for call in (old.check, lambda: old.record("s", [DELETE]), lambda: old.confirm("s", [pending.id])):
        with pytest.raises(LeaderLostError, match="another process has become the leader"):
            call()
    assert new.load("s").pending == [pending]
    old.release()
    new.release()


def test_a_file_that_is_no_checkpoint(tmp_path: Path):
    """A file that is not SQLite, and a folder that does not exist, are errors that name the file."""
    path = tmp_path / "c.db"
    path.write_bytes(b"not a database, but longer than a header of SQLite would be" * 20)
    with pytest.raises(BridgeError, match=r"c\.db"):
        SqliteCheckpoint(path).acquire("b")
    with pytest.raises(InvalidArgumentError, match="missing"):
        SqliteCheckpoint(tmp_path / "missing" / "c.db").acquire("b")
