"""The history of the inspector is bounded, and finds its entries."""

from supawire.events import Instant
from supawire.server.effects import Send
from supawire.server.inspector.history import ENTRY_BYTES, History

NOW = Instant(1.0, 1_764_000_000.5)


def test_the_history_is_bounded_in_entries_and_bytes() -> None:
    """The oldest entries are dropped; one that is larger than the bound is kept alone."""
    history = History(max_entries=5)
    for number in range(12):
        history.frame_received(1, b"%d" % number, False, NOW)
    assert [entry.data for entry in history.since(0)] == [b"7", b"8", b"9", b"10", b"11"]
    small = History(max_bytes=10 * ENTRY_BYTES)
    for _ in range(100):
        small.frame_received(1, b"x" * ENTRY_BYTES, False, NOW)
    assert len(small.since(0)) == 4
    small.frame_received(1, b"x" * 100 * ENTRY_BYTES, False, NOW)
    assert len(small.since(0)) == 1


def test_receivers_count_for_the_bound() -> None:
    """A frame for many connections costs as much as its list of connections."""
    history = History(max_bytes=20_000)
    for _ in range(20):
        data = bytes(bytearray(b"same"))
        for connection in range(500):
            history.frame_sent(Send(connection, data, False), NOW)
    assert len(history.since(0)) == 4


def test_entries_are_found_by_their_number() -> None:
    """Numbers go on when old entries are dropped, and a dropped entry is not found."""
    history = History(max_entries=3)
    for number in range(1, 6):
        history.frame_received(1, b"%d" % number, False, NOW)
    assert (history.first, history.next) == (3, 6)
    assert [None if entry is None else entry.data for entry in map(history.find, range(1, 8))] == [
        None, None, b"3", b"4", b"5", None, None,
    ]  # fmt: skip
    assert [entry.number for entry in history.since(4)] == [4, 5]


def test_a_frame_that_a_page_has_is_not_changed() -> None:
    """A copy of a frame that is sent after the page has read it becomes an entry of its own."""
    history = History()
    data = b"same"
    history.frame_sent(Send(1, data, False), NOW)
    history.since(0)[0].seen = True
    history.frame_sent(Send(2, data, False), NOW)
    assert [entry.connections for entry in history.since(0)] == [[1], [2]]
