"""The merge of stored and live messages, against a model of the table with transactions, restarts and lost frames."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supawire import Broadcast, Gap
from supawire.core.history import MAX_SEEN, ReplayReader, StoredItem, StoredReader
from supawire.cursors import Cursor, Page, PageQuery, StoredRow
from supawire.events import Instant

TOPIC = "room"
SETTLE = 5.0
START = 1_000_000.0


def number(index: int) -> str:
    """Return the id of the message with this index; ids are not in the order of the messages."""
    return str(UUID(int=(index * 7919) % 104_729 << 64 | index))


@dataclass
class Sent:
    """A message: the start and the commit of its transaction, in Unix seconds."""

    index: int
    begun: float
    committed: float


@dataclass
class Table:
    """The stored messages. `sees_transactions`: whether a reader sees those that are open."""

    messages: list[Sent]
    sees_transactions: bool
    oldest: float = 0.0

    def read(self, query: PageQuery, wall: float) -> Page:
        """Return a page as a database would at this time."""
        horizon = wall - query.settle
        if self.sees_transactions:
            horizon = min([horizon, *(one.begun for one in self.messages if one.begun <= wall < one.committed)])
        limit = int(horizon * 1e6)
        visible = sorted(
            (
                StoredRow(number(one.index), "e", b"%d" % one.index, True, int(one.begun * 1e6), one.index)
                for one in self.messages
                if one.committed <= wall and one.begun >= self.oldest
            ),
            key=lambda row: row.position,
        )
        rows = [
            row
            for row in visible
            if row.position > query.after and row.id not in query.seen and (not query.settled_only or row.at < limit)
        ][: query.limit]
        read = {row.id for row in rows}
        found = tuple(row for row in visible if row.id in query.ids and row.id not in read)
        return Page(tuple(rows), int(wall * 1e6), limit, int(self.oldest * 1e6), found)


@dataclass
class Reader:
    """A reader that is driven by hand through time, and may be restarted from its cursor."""

    table: Table
    cursor: Cursor = field(default_factory=lambda: Cursor(TOPIC, 0))
    wall: float = START
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    delivered: list[int] = field(default_factory=list[int])
    gaps: list[Gap] = field(default_factory=list[Gap])

    def __post_init__(self) -> None:
        self.restart()

    @property
    def now(self) -> Instant:
        return Instant(self.wall, self.wall)

    def restart(self) -> None:
        """Start again from the cursor, as a new process does."""
        self.core = StoredReader(Cursor.parse(str(self.cursor)), settle=SETTLE, **self.options)

    def read(self) -> None:
        """Read one page if it is due."""
        if self.core.next_read_at <= self.wall:
            self.core.page_read(self.table.read(self.core.query(), self.wall), self.now)

    def take(self, count: int | None = None) -> None:
        """Handle this many messages, all that can be had if omitted; the cursor moves after each."""
        while count is None or count > 0:
            item = self.core.take()
            if item is None:
                if self.core.next_read_at > self.wall:
                    self.cursor = self.core.cursor  # saved before waiting
                    return
                self.read()
                continue
            if isinstance(item, Gap):
                self.gaps.append(item)
                continue
            self.delivered.append(int(item.row.payload))
            self.cursor = item.cursor
            count = None if count is None else count - 1

    def go(self, seconds: float) -> None:
        """Let time pass; the messages that are committed meanwhile wake the reader."""
        until = self.wall + seconds
        for one in sorted(self.table.messages, key=lambda one: one.committed):
            if self.wall < one.committed <= until:
                self.wall = one.committed
                self.core.wake(number(one.index), self.now)
                self.take()
        self.wall = until


def at_once(count: int, begin: float = START - 1000) -> list[Sent]:
    """Return messages of short transactions, ten a second."""
    return [Sent(index, begin + index / 10, begin + index / 10) for index in range(count)]


def test_stored_messages_are_delivered_in_order_in_pages():
    """All stored messages come once each, oldest first, whatever the size of a page."""
    for page in (1, 7, 500):
        reader = Reader(Table(at_once(100), True), options={"page": page})
        reader.take()
        assert reader.delivered == list(range(100))
        assert reader.core.caught_up


def test_messages_of_one_instant_are_in_the_order_of_their_places():
    """A transaction with many messages is delivered in its own order, across pages and a restart."""
    messages = [Sent(index, START - 100, START - 99) for index in range(50)]
    reader = Reader(Table(messages, True), options={"page": 7})
    reader.take(23)
    reader.restart()
    reader.take()
    assert reader.delivered == list(range(50))


def test_a_live_message_is_delivered_at_once_and_once():
    """A message that wakes the reader is delivered before it has settled, and not again later or after a restart."""
    reader = Reader(Table([Sent(1, START + 1, START + 1)], True))
    reader.take()
    reader.go(1.5)
    assert reader.delivered == [1]
    assert reader.cursor.seen == {number(1)}
    reader.restart()
    reader.take()
    reader.wall += 60
    reader.take()
    assert reader.delivered == [1]
    assert reader.cursor.seen == frozenset()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_message_that_is_committed_late_is_delivered_behind_newer_ones(restarted: bool):
    """A transaction that began before a delivered message and commits after it is found, also by a new process."""
    messages = [Sent(1, START + 1, START + 60), Sent(2, START + 30, START + 30)]
    reader = Reader(Table(messages, sees_transactions=True))
    reader.take()
    reader.go(40)
    assert reader.delivered == [2]
    if restarted:
        reader.restart()
        reader.wall = START + 100  # the live copy of the late message was missed
        reader.take()
    else:
        reader.go(60)
    assert reader.delivered == [2, 1]


def test_a_late_message_is_found_by_its_live_copy_without_seeing_transactions():
    """Where open transactions cannot be seen, the live copy of a message that is older than the position finds it."""
    messages = [Sent(1, START + 1, START + 60), Sent(2, START + 30, START + 30)]
    reader = Reader(Table(messages, sees_transactions=False))
    reader.take()
    for _ in range(80):
        reader.go(1)
        reader.take()
    assert reader.delivered == [2, 1]


def test_strict_order_waits_until_messages_have_settled():
    """With strict, a message is delivered when it has settled, and never behind a newer one."""
    messages = [Sent(1, START + 1, START + 4), Sent(2, START + 2, START + 2)]
    reader = Reader(Table(messages, True), options={"strict": True})
    reader.take()
    reader.go(4)
    assert reader.delivered == []
    for _ in range(10):
        reader.go(1)
        reader.take()
    assert reader.delivered == [1, 2]


def test_a_live_message_that_is_not_visible_yet_is_looked_for_again():
    """The live copy may arrive before the row is visible; the table is read again until it is."""
    reader = Reader(Table([Sent(1, START, START + 0.05)], True))
    reader.take()
    reader.wall = START + 0.01
    reader.core.wake(number(1), reader.now)
    reader.take()
    assert reader.delivered == []
    reader.wall = START + 0.06
    assert reader.core.next_read_at <= reader.wall
    reader.take()
    assert reader.delivered == [1]


def test_an_id_that_is_never_found_does_not_cause_reads_for_ever():
    """Messages of an HTTP batch have an id and are not stored: after some time they are no longer looked for."""
    reader = Reader(Table([], True))
    reader.take()
    reader.core.wake(number(1), reader.now)
    reads = 0
    for _ in range(6000):
        reader.wall += 0.01
        if reader.core.next_read_at <= reader.wall:
            reads += 1
        reader.take()
    assert reads < 40
    assert not reader.core.query().ids


def test_messages_without_an_id_are_read_a_little_later():
    """The broadcast of a client has no id; it may be stored after its delivery, so the table is read soon after."""
    reader = Reader(Table([Sent(1, START + 0.1, START + 0.1)], True))
    reader.take()
    reader.core.wake(None, reader.now)
    assert START + 0.1 < reader.core.next_read_at < START + 1


def test_many_unsettled_messages_wait_until_they_settle():
    """A cursor has a bounded number of ids: with more unsettled messages the newest wait, and none is lost."""
    messages = [Sent(index, START + index / 1000, START + index / 1000) for index in range(3 * MAX_SEEN)]
    reader = Reader(Table(messages, True))
    reader.wall = START + 3
    reader.take()
    assert len(reader.delivered) == MAX_SEEN
    assert len(reader.cursor.seen) == MAX_SEEN
    for _ in range(20):
        reader.wall += 1
        reader.take()
    assert reader.delivered == list(range(3 * MAX_SEEN))
    assert not reader.cursor.seen


def test_all_unsettled_messages_can_be_read_to_the_end():
    """A reader that ends with what is stored returns also more unsettled messages than a cursor has ids."""
    messages = [Sent(index, START - 3 + index / 1000, START - 3 + index / 1000) for index in range(2 * MAX_SEEN + 500)]
    reader = Reader(Table(messages, True), options={"ends": True})
    while not reader.core.caught_up:
        reader.core.page_read(reader.table.read(reader.core.query(), reader.wall), reader.now)
        while isinstance(item := reader.core.take(), StoredItem):
            reader.delivered.append(int(item.row.payload))
            reader.cursor = item.cursor
    assert reader.delivered == list(range(2 * MAX_SEEN + 500))
    assert len(reader.cursor.seen) == MAX_SEEN
    del reader.delivered[MAX_SEEN:], reader.options["ends"]  # as of a process that continues from the last cursor
    reader.restart()
    for _ in range(20):
        reader.take()
        reader.wall += 1
    assert reader.delivered == list(range(2 * MAX_SEEN + 500))


@pytest.mark.parametrize("wakes", ["refresh", "no id"])
def test_a_wake_up_during_a_read_causes_another_read(wakes: str):
    """A message that is stored after the page was read, and before its answer is handled, is not left to the poll."""
    reader = Reader(Table([Sent(1, START, START + 0.01)], True))
    reader.core.page_read(reader.table.read(reader.core.query(), reader.wall), reader.now)
    reader.core.refresh(reader.now)
    page = reader.table.read(reader.core.query(), reader.wall)
    if wakes == "refresh":
        reader.core.refresh(reader.now)
    else:
        reader.core.wake(None, reader.now)
    reader.core.page_read(page, reader.now)
    reader.wall += 0.3
    reader.take()
    assert reader.delivered == [1]


def test_a_message_that_becomes_visible_between_the_statements_of_a_read_is_delivered():
    """A late message that only the second statement of a read sees is before the horizon, and not lost."""
    late = Sent(1, START - 50, START)
    reader = Reader(Table([late], False))
    reader.wall = START - 1
    reader.core.wake(number(1), reader.now)
    query = reader.core.query()
    page = reader.table.read(query, reader.wall)
    seen = reader.table.read(query, START).rows
    reader.core.page_read(Page(page.rows, page.now, page.horizon, page.oldest, seen), reader.now)
    reader.take()
    assert reader.delivered == [1]
    reader.restart()
    reader.wall = START + 100
    reader.take()
    assert reader.delivered == [1]


def test_a_cursor_older_than_the_retention_gives_a_gap_once():
    """What may have been removed since the cursor is reported first, once, and then what is left is delivered."""
    reader = Reader(Table(at_once(100), True, oldest=START - 1000 + 5), cursor=Cursor(TOPIC, int((START - 2000) * 1e6)))
    reader.options = {"page": 10}
    reader.restart()
    reader.take()
    (gap,) = reader.gaps
    assert (gap.verdict, gap.reason, gap.lost) == ("truncated", "retention", frozenset({"broadcast"}))
    assert gap.started_at == datetime.fromtimestamp(START - 2000, UTC)
    assert reader.delivered == list(range(50, 100))


def test_a_reader_that_starts_at_the_oldest_message_has_no_gap():
    """Who asks for everything that is stored misses nothing."""
    reader = Reader(Table(at_once(10), True, oldest=START - 2000), options={"oldest": True})
    reader.take()
    assert reader.delivered == list(range(10))
    assert not reader.gaps


def test_an_idle_reader_moves_its_cursor():
    """Without messages the cursor follows the time, so that it is not older than the retention after days."""
    reader = Reader(Table(at_once(1), True))
    reader.take()
    reader.wall += 1e6
    reader.take()
    assert reader.cursor.inserted_at == datetime.fromtimestamp(reader.wall - SETTLE, UTC) or (
        abs(reader.cursor.inserted_at.timestamp() - (reader.wall - SETTLE)) < 0.001
    )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Return a table with transactions of any length, which a reader sees while they are open."""
    messages: list[Sent] = []
    wall = START - draw(st.integers(0, 100))
    for index in range(draw(st.integers(0, 40))):
        wall += draw(st.sampled_from((0.0, 0.001, 0.3, 2.0, 20.0)))
        messages.append(Sent(index, wall, wall + draw(st.sampled_from((0.0, 0.0, 0.01, 1.0, 4.0, 30.0, 200.0)))))
    return Table(messages, sees_transactions=True)


@settings(max_examples=150, deadline=None)
@given(table=tables(), seed=st.integers(0, 2**32), page=st.sampled_from((1, 3, 500)), strict=st.booleans())
def test_every_message_is_delivered_once_over_any_restarts(table: Table, seed: int, page: int, strict: bool):
    """Each message comes exactly once if every handled message is committed, whatever is lost of live frames.

    Restarts happen between two messages, so nothing is handled and not committed.
    """
    rng = random.Random(seed)
    reader = Reader(table, options={"page": page, "strict": strict, "poll": 30.0})
    for _ in range(120):
        if rng.random() < 0.3:
            reader.restart()
        if rng.random() < 0.5:
            reader.take(rng.randrange(5))
        if rng.random() < 0.5:
            reader.go(rng.choice((0.01, 1.0, 10.0)))
        else:
            reader.wall += rng.choice((0.01, 1.0, 10.0))  # live copies are lost
            reader.take()
    for _ in range(20):
        reader.wall += 31
        reader.take()
    assert sorted(reader.delivered) == list(range(len(table.messages)))
    begun = {one.index: one.begun for one in table.messages}
    if strict:
        times = [begun[index] for index in reader.delivered]
        assert times == sorted(times)


@pytest.mark.parametrize("seed", range(20))
def test_unhandled_messages_are_delivered_again_after_a_kill(seed: int):
    """After a kill, the messages after the last saved cursor come again, and none is lost."""
    rng = random.Random(seed)
    messages = [
        Sent(index, begun, begun + rng.choice((0.0, 0.0, 3.0, 50.0)))
        for index, begun in enumerate(sorted(START + rng.random() * 100 for _ in range(200)))
    ]
    reader = Reader(Table(messages, True), options={"page": 20})
    saved = reader.cursor
    while reader.wall < START + 300:
        reader.wall += rng.random() * 3
        reader.take(rng.randrange(20))
        if rng.random() < 0.5:
            saved = reader.cursor
        if rng.random() < 0.2:
            reader.cursor = saved
            reader.restart()
    reader.take()
    assert set(reader.delivered) == set(range(200))


# --- replay


def received(index: int, *, replayed: bool = False) -> Broadcast[Any]:
    """Return a stored message as it is received on the socket."""
    return Broadcast(TOPIC, "e", index, number(index), replayed)


def test_replayed_and_live_messages_are_delivered_once():
    """A message that was handled before the restart, or comes twice, is skipped; unstored ones are not delivered."""
    now = Instant(START, START)
    first = ReplayReader(Cursor.since(TOPIC, START))
    for index in range(3):
        first.received(received(index), START, now)
    items = [first.take() for _ in range(2)]
    assert [item.event.payload for item in items if item is not None and not isinstance(item, Gap)] == [0, 1]
    second = ReplayReader(Cursor.parse(str(first.cursor)))
    second.received(Broadcast(TOPIC, "e", "unstored"), START, now)
    for index in (0, 1, 2, 2, 3):
        second.received(received(index, replayed=True), START, now)
    got: list[Any] = []
    while (item := second.take()) is not None:
        assert not isinstance(item, Gap | StoredItem)
        got.append(item.event.payload)
    assert got == [2, 3]


def test_the_cursor_of_a_replay_has_a_margin_and_few_ids():
    """The time of the cursor is the server's, less the margin for clocks; its ids are those of the newest messages."""
    reader = ReplayReader(Cursor.since(TOPIC, 0.0))
    for index in range(300):
        reader.received(received(index), START + index, Instant(index, 0.0))
        reader.take()
    assert reader.cursor.inserted_at == datetime.fromtimestamp(START + 299 - 5, UTC)
    assert reader.cursor.seen == {number(index) for index in range(200, 300)}


def test_gaps_that_the_replay_closed_are_not_reported():
    """Only a gap of which messages may be missing is delivered, in its place."""
    at = datetime.fromtimestamp(START, UTC)
    closed = Gap(TOPIC, at, at, "x", 3, "complete", frozenset({"broadcast"}))
    cut = Gap(TOPIC, at, at, "x", 25, "truncated", frozenset({"broadcast"}))
    reader = ReplayReader(Cursor.since(TOPIC, 0.0))
    reader.gap(closed)
    reader.gap(cut)
    assert (reader.take(), reader.take()) == (cut, None)


def test_a_replay_from_a_cursor_older_than_the_retention_begins_with_a_gap():
    """Messages that the server no longer keeps cannot be replayed, which is reported first."""
    reader = ReplayReader(Cursor.since(TOPIC, START - 100), oldest=int(START * 1e6))
    reader.received(received(1), START, Instant(START, START))
    gap = reader.take()
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.verdict) == ("retention", "truncated")
    assert not isinstance(reader.take(), Gap)
    assert ReplayReader(Cursor(TOPIC, 0), oldest=int(START * 1e6)).take() is None


def test_too_many_waiting_messages_give_a_gap():
    """A consumer that is too slow gets a gap behind the messages that waited."""
    reader = ReplayReader(Cursor.since(TOPIC, 0.0), limit=2)
    for index in range(5):
        reader.received(received(index), START, Instant(index, START + index))
    items = [reader.take() for _ in range(3)]
    assert isinstance(items[2], Gap)
    assert (items[2].reason, items[2].verdict, reader.dropped) == ("slow_consumer", "not_replayable", 3)
    reader.received(received(9), START, Instant(9, START))
    assert reader.take() is not None
