"""A mirror and a table under random commits, fetches, losses and delays: a live copy is correct and never reverts.

The model has what the mirror lacks: the commit of each snapshot, and the changes in flight. Changes are delivered
in commit order, less than `settle` seconds after their commit; a fetch sees the table at any moment between request
and answer.
"""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supawire._mirror_events import MirrorState, Resynced, Row, RowDeleted, RowInserted, RowUpdated
from supawire.core.mirror import Abandon, Emit, Fetch, MirrorCore, MirrorSettings
from supawire.core.row_fetch import AbandonRow, Answer, FetchRow, RowFetches
from supawire.core.table_copy import Incomplete, Put, TableCopy
from supawire.errors import HandlerError, LocalProtocolError
from supawire.events import Instant
from supawire.options import Backoff

from .mirror_harness import PLAIN, at, change, gap

LATENCY = 0.9
FILTERS = {"all": frozenset[str](), "a": frozenset({"a"}), "big": frozenset({"big"})}


def fits(name: str, row: Row) -> bool:
    """Return whether a row, as far as known, matches the filter; a missing column matches nothing."""
    return {"all": True, "a": row.get("a", 0) >= 5, "big": row.get("big", "").startswith("y")}[name]


class Life:
    """A table, the transport of its changes, and the mirror."""

    def __init__(self, which: str, *, by_row: bool = False, refresh_every: float | None = None) -> None:
        self.which = which
        self.now = 1000.0
        self.table: dict[int, Row] = {}
        self.history: list[dict[int, Row]] = [{}]
        """The matching rows after each commit."""
        self.log: list[Any] = [None]
        """The change of each commit, and whether it matches the filter."""
        self.in_flight: deque[tuple[float, int]] = deque()
        """Latest arrival time of each change, and the number of its commit."""
        self.arrived = 0
        """The newest commit that arrived."""
        self.joined = self.ever_joined = False
        self.fetch: Fetch | None = None
        self.snapshot: list[Row] | None = None
        self.late: tuple[Fetch, list[Row]] | None = None
        """A cancelled fetch, and its late answer."""
        self.from_events: dict[int, Row] = {}
        """The rows as known from the events alone."""
        self.version: dict[int, int] = {}
        self.row_fetches: dict[int, FetchRow] = {}
        self.seen_rows: dict[int, Row | None] = {}
        """Answers in flight, by number of the fetch."""
        self.late_rows: list[tuple[int, Row | None]] = []
        """The answers of cancelled fetches of rows."""
        self.fetched_rows = 0
        self.fetches = 0
        """Number of fetches of all rows."""
        self.incomplete_fetch = False
        """Whether the latest fetch that was shown may have been incomplete."""
        self.ever: set[tuple[Any, ...]] = set()
        """Every row that ever existed."""

        text = None if which == "all" else f"{which}=gte.5"
        self.mirror = MirrorCore(
            MirrorSettings(
                "users",
                ("id",),
                filter=text,
                filter_columns=FILTERS[which],
                backoff=Backoff(jitter=0),
                by_row=by_row,
                most_rows=3,
                refresh_every=refresh_every,
            ),
            PLAIN,
            random.Random(1),
        )
        for key in (1, 3):
            self.table[key] = {"id": key, "a": key * 2, "big": "x", "v": 0}
        self.commit(None)

    # --- the table

    def commit(self, row_change: Any, *, fitting: bool = True) -> None:
        self.ever.update(tuple(sorted(row.items())) for row in self.table.values())
        self.history.append({key: dict(row) for key, row in self.table.items() if fits(self.which, row)})
        self.log.append((row_change, fitting))
        if self.joined and row_change is not None:
            self.in_flight.append((self.now + LATENCY, len(self.log) - 1))

    @property
    def stamp(self) -> str:
        """Return the time in the server's format."""
        return at(self.now).at().isoformat()

    def put(self, kind: str, key: int, row: Row, *, unsent: Collection[str] = (), **settings: Any) -> None:
        self.table[key] = row
        sent = {name: value for name, value in row.items() if name not in unsent}
        self.commit(change(kind, sent, committed=self.stamp, **settings), fitting=fits(self.which, sent))

    def insert(self, key: int, a: int) -> None:
        big = "xy"[a % 2]
        if key not in self.table:
            self.put("INSERT", key, {"id": key, "a": a, "big": big, "v": len(self.log)})

    def update(self, key: int, a: int) -> None:
        """Update without a new value: the large one is not sent."""
        big = ("x", "y", None)[a % 3]
        if key in self.table:
            row = {**self.table[key], "a": a, "v": len(self.log)} | ({} if big is None else {"big": big})
            self.put("UPDATE", key, row, unsent={"big"} if big is None else ())

    def move(self, key: int, a: int) -> None:
        to = a % 4 + 1
        if key in self.table and to not in self.table:
            row = {**self.table.pop(key), "id": to, "v": len(self.log)}
            self.put("UPDATE", to, row, old={"id": key})

    def delete(self, key: int, _: int) -> None:
        if key in self.table:
            del self.table[key]
            self.commit(change("DELETE", {"id": key}, committed=self.stamp))

    def update_to_a_large_row(self, key: int, a: int) -> None:
        """Update to a large row: the server omits its values and reports an error."""
        if key in self.table:
            row = {**self.table[key], "a": a, "big": "y" * 99, "v": len(self.log)}
            self.put("UPDATE", key, row, unsent={"big"}, errors="Error 413: Payload Too Large")

    # --- the delivery of changes

    def join(self, early: int = 0, _: int = 0) -> None:
        """Make changes live, and deliver some changes that were committed just before."""
        if self.joined:
            return
        self.joined = True
        self.arrived = max(1, self.arrived, len(self.log) - 1 - early)
        late = range(self.arrived + 1, len(self.log))
        self.in_flight.extend((self.now + LATENCY, number) for number in late if self.log[number][0] is not None)
        self.arrived = self.arrived if self.in_flight else len(self.log) - 1
        self.mirror.changes_live()
        if self.ever_joined:
            self.mirror.gap(gap("changes"))
        self.ever_joined = True
        self.pump()

    def become_live(self) -> None:
        self.join()
        self.wait(1)
        self.take_snapshot()
        self.answer()
        self.wait(4)
        assert self.mirror.state is MirrorState.LIVE

    def lose(self, *_: int) -> None:
        if not self.joined:
            return
        self.joined = False
        self.in_flight.clear()
        self.mirror.changes_lost(None)
        self.pump()

    def arrive(self, *_: int) -> None:
        if not self.in_flight:
            return
        number = self.in_flight.popleft()[1]
        self.arrived = number
        row_change, fitting = self.log[number]
        self.mirror.row_changed(row_change, at(self.now), inside=fitting)
        self.pump()

    def wait(self, which: int, _: int = 0) -> None:
        end = self.now + (0.1, 0.5, 1.0, 3.0)[which - 1]
        while True:
            deadline = self.mirror.next_deadline
            arrival = self.in_flight[0][0] if self.in_flight else None
            in_flight = [max(self.now, when) for when in (deadline, arrival) if when is not None and when <= end]
            if not in_flight:
                break
            self.now = min(in_flight)
            if arrival is not None and arrival <= self.now:
                self.arrive()
            else:
                self.mirror.tick(at(self.now))
                self.pump()
        self.now = end

    # --- the fetch

    def take_snapshot(self, *_: int) -> None:
        """Let the database answer with its current rows; the answer is in flight."""
        if self.fetch is not None and self.snapshot is None:
            self.snapshot = [dict(row) for row in self.history[-1].values()]

    def answer(self, *_: int) -> None:
        fetch, rows = self.fetch, self.snapshot
        if fetch is None or rows is None:
            return
        self.fetch = self.snapshot = None
        self.mirror.fetched(fetch.generation, self.mirror.read(rows), at(self.now))
        self.pump()

    def answer_late(self, *_: int) -> None:
        late, self.late = self.late, None
        if late is not None:
            self.mirror.fetched(late[0].generation, self.mirror.read(late[1]), at(self.now))
            self.pump()

    def fail(self, *_: int) -> None:
        fetch, self.fetch, self.snapshot = self.fetch, None, None
        if fetch is None:
            return
        self.mirror.failed(fetch.generation, HandlerError("no"), at(self.now))
        self.pump()

    # --- the fetches of rows

    def take_row_snapshot(self, which: int = 0, _: int = 0) -> None:
        """Let the database answer the fetch of a row with the current row; the answer is in flight."""
        unseen = [number for number in self.row_fetches if number not in self.seen_rows]
        if unseen:
            number = unseen[which % len(unseen)]
            row = self.history[-1].get(self.row_fetches[number].key["id"])
            self.seen_rows[number] = None if row is None else dict(row)

    def answer_row(self, which: int = 0, _: int = 0) -> None:
        if not self.seen_rows:
            return
        number = sorted(self.seen_rows)[which % len(self.seen_rows)]
        row = self.seen_rows.pop(number)
        fetch = self.row_fetches.pop(number)
        self.fetched_rows += 1
        self.mirror.row_fetched(number, self.mirror.read_row(fetch.key, row), at(self.now))
        self.pump()

    def answer_row_late(self, *_: int) -> None:
        if self.late_rows:
            self.mirror.row_fetched(*self.late_rows.pop(), at(self.now))
            self.pump()

    def fail_row(self, which: int, _: int = 0) -> None:
        if self.row_fetches:
            number = sorted(self.row_fetches)[which % len(self.row_fetches)]
            del self.row_fetches[number]
            self.seen_rows.pop(number, None)
            self.mirror.row_failed(number, HandlerError("no"))
            self.pump()

    def refresh(self, *_: int) -> None:
        self.mirror.mark_stale("refresh")
        self.pump()

    # --- effects and checks

    def pump(self) -> None:
        while self.mirror.effects:
            match self.mirror.effects.popleft():
                case Fetch() as fetch:
                    assert self.fetch is None, "two fetches at once"
                    self.fetch, self.snapshot = fetch, None
                    self.fetches += 1
                case Abandon(generation):
                    assert self.fetch is not None and self.fetch.generation == generation
                    self.late = self.fetch, self.snapshot or [*self.history[-1].values()]
                    self.fetch = self.snapshot = None
                case FetchRow(number) as fetch_row:
                    keys = [one.key for one in self.row_fetches.values()]
                    assert fetch_row.key not in keys, "two fetches of one row at once"
                    assert len(keys) < self.mirror.settings.most_rows
                    self.row_fetches[number] = fetch_row
                case AbandonRow(number):
                    key = self.row_fetches.pop(number).key["id"]
                    self.late_rows.append((number, self.seen_rows.pop(number, self.history[-1].get(key))))
                case Emit(event):
                    self.apply_event(event)
                case _:
                    pass

    def apply_event(self, event: Any) -> None:
        match event:
            case RowInserted(key=key, row=row):
                assert key not in self.from_events
                self.from_events[key] = row
            case RowUpdated(key=key, old_key=old_key, row=row, old=old):
                assert self.from_events.pop(old_key) == old
                self.from_events[key] = row
            case RowDeleted(key=key, old=old):
                assert self.from_events.pop(key) == old
            case _:
                assert isinstance(event, Resynced)
                rows, changes = event.rows, event.changes
                assert {
                    one.key for one in changes if isinstance(one, RowDeleted)
                } == self.from_events.keys() - rows.keys()
                assert {
                    one.key for one in changes if isinstance(one, RowInserted)
                } == rows.keys() - self.from_events.keys()
                self.from_events = rows
                self.incomplete_fetch = self.mirror.state is not MirrorState.LIVE
                if self.incomplete_fetch:
                    self.version.clear()

    def check(self) -> None:
        """Check that a live copy equals the table after the latest change, and that events describe all of it.

        Each visible row existed at some time and is never older than one seen before, except stale rows until the next
        fetch.
        """
        if self.mirror.state is MirrorState.LIVE:
            assert self.mirror.rows == self.history[self.arrived]
        assert self.mirror.rows == self.from_events
        fetched_now = {row["id"] for row in self.mirror.incomplete}
        if self.mirror.state in (MirrorState.LIVE, MirrorState.REFETCHING):
            for key in (self.from_events.keys() | self.history[self.arrived].keys()) - fetched_now:
                assert self.from_events.get(key) == self.history[self.arrived].get(key)
        for key in fetched_now:  # the row may be newer than the changes that have arrived
            self.version.pop(key, None)
        for key, row in self.from_events.items() if not self.incomplete_fetch else ():
            assert tuple(sorted(row.items())) in self.ever
            assert row["v"] >= self.version.get(key, 0)
            if key not in fetched_now:
                self.version[key] = row["v"]

    def end(self) -> None:
        """Let all changes arrive, and check that the mirror is live and equals the table."""
        self.join()
        for _ in range(20):
            self.wait(4)
            self.take_snapshot()
            self.answer()
            for _ in range(3):
                self.take_row_snapshot(0)
                self.answer_row(0)
            self.check()
            if self.mirror.state is MirrorState.LIVE and not self.in_flight:
                break
        assert self.mirror.state is MirrorState.LIVE
        assert self.mirror.rows == self.history[-1]


ACTS: dict[Callable[..., None], int] = {
    Life.insert: 4, Life.update: 6, Life.move: 2, Life.delete: 2, Life.update_to_a_large_row: 1,
    Life.join: 4, Life.lose: 1, Life.arrive: 6, Life.wait: 8,
    Life.take_snapshot: 8, Life.answer: 4, Life.answer_late: 2, Life.fail: 1, Life.refresh: 1,
}  # fmt: skip
"""The possible steps and their frequency."""

CHOICES = [act for act, weight in ACTS.items() for _ in range(weight)]
Step = tuple[Callable[..., None], int, int]


def play(which: str, steps: Iterable[Step], *, by_row: bool = False, refresh_every: float | None = None) -> Life:
    """Run one sequence of steps and return its end. With `by_row` the user can fetch single rows."""
    life = Life(which, by_row=by_row, refresh_every=refresh_every)
    if by_row:
        life.become_live()
    for act, key, number in steps:
        act(life, key, number)
        life.check()
    life.end()
    return life


ROW_ACTS: dict[Callable[..., None], int] = {
    Life.insert: 12, Life.update: 24, Life.move: 4, Life.delete: 8, Life.update_to_a_large_row: 24,
    Life.join: 8, Life.lose: 1, Life.arrive: 24, Life.wait: 16, Life.take_snapshot: 24, Life.answer: 24,
    Life.refresh: 1, Life.take_row_snapshot: 20, Life.answer_row: 16, Life.answer_row_late: 4, Life.fail_row: 1,
}  # fmt: skip
"""The possible steps of a mirror that fetches single rows, and their frequency."""

ROW_CHOICES = [act for act, weight in ROW_ACTS.items() for _ in range(weight)]


def dice(seed: int, choices: list[Callable[..., None]] = CHOICES) -> tuple[str, list[Step]]:
    """Return the reproducible sequence for this number."""
    rng = random.Random(seed)
    steps = [(rng.choice(choices), rng.randint(1, 4), rng.randint(0, 9)) for _ in range(80)]
    return rng.choice(sorted(FILTERS)), steps


def play_many(count: int, *, by_row: bool = False) -> None:
    """Run this many sequences."""
    for seed in range(count):
        play(*dice(seed, ROW_CHOICES if by_row else CHOICES), by_row=by_row)


@settings(max_examples=80)
@given(
    which=st.sampled_from(sorted(FILTERS)),
    steps=st.lists(st.tuples(st.sampled_from(CHOICES), st.integers(1, 4), st.integers(0, 9)), min_size=40, max_size=80),
)
def test_a_mirror_is_the_table_when_it_is_live(which: str, steps: list[Step]) -> None:
    """Whatever is committed, lost, late or fetched: a live copy is correct, and no row reverts (R44)."""
    play(which, steps)


@settings(max_examples=80)
@given(
    which=st.sampled_from(sorted(FILTERS)),
    refresh_every=st.sampled_from([None, 4.0]),
    steps=st.lists(
        st.tuples(st.sampled_from(ROW_CHOICES), st.integers(1, 4), st.integers(0, 9)), min_size=40, max_size=80
    ),
)
def test_a_mirror_that_fetches_single_rows_is_the_table_when_it_is_live(
    which: str, refresh_every: float | None, steps: list[Step]
) -> None:
    """With many incomplete rows, each of them is fetched alone, and all others stay correct."""
    play(which, steps, by_row=True, refresh_every=refresh_every)


def _complete(life: Life) -> None:
    life.update(1, 4)


def _partial(life: Life) -> None:
    life.update(1, 5)


def _truncated(life: Life) -> None:
    life.update_to_a_large_row(1, 6)


def _delete_or_insert(life: Life) -> None:
    (life.delete if 1 in life.table else life.insert)(1, 7)


def _wait(life: Life) -> None:
    life.wait(3)


ORDERS = [
    _complete,
    _partial,
    _truncated,
    _delete_or_insert,
    _wait,
    Life.arrive,
    Life.take_row_snapshot,
    Life.answer_row,
]


def play_in_order(acts: Iterable[Callable[[Life], None]]) -> None:
    """Run these steps on a live mirror for whose first row an incomplete change has just arrived."""
    life = Life("all", by_row=True)
    life.become_live()
    _truncated(life)
    life.arrive()
    assert life.mirror.state is MirrorState.REFETCHING
    for act in acts:
        act(life)
        life.check()
    life.end()
    assert life.fetch is None and life.fetches == 1, "all rows were fetched again"


@pytest.mark.parametrize("first", ORDERS, ids=lambda act: act.__name__.strip("_"))
def test_every_order_of_changes_and_the_fetch_of_their_row(first: Callable[[Life], None]) -> None:
    """After an incomplete change, every order of four steps ends with the right row and without a fetch of all rows."""
    for others in product(ORDERS, repeat=3):
        play_in_order((first, *others))


def _instead(patch: pytest.MonkeyPatch, name: str, before: Callable[[MirrorCore], None]) -> None:
    """Call a function with the mirror before each call of one of its methods."""
    method = getattr(MirrorCore, name)

    def wrapped(self: MirrorCore, *args: Any) -> None:
        before(self)
        method(self, *args)

    patch.setattr(MirrorCore, name, wrapped)


def _at_once(self: MirrorCore) -> float | None:
    return None if self.state not in (MirrorState.WAITING, MirrorState.SETTLING) else 0.0


def _any_generation(self: MirrorCore, generation: int) -> bool:
    return self.state is MirrorState.FETCHING


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "fetched rows replace changed rows": lambda patch: patch.setattr(MirrorCore, "_replay", lambda *_: None),
    "changes during the fetch are dropped": lambda patch: _instead(
        patch, "fetched", lambda self: self._buffered.clear()
    ),
    "changes are applied newest first": lambda patch: _instead(patch, "fetched", lambda self: self._buffered.reverse()),
    "the new copy is shown at once": lambda patch: patch.setattr(MirrorCore, "next_deadline", property(_at_once)),
    "the answer of an older fetch is used": lambda patch: patch.setattr(MirrorCore, "_is_current", _any_generation),
    "a gap is ignored": lambda patch: patch.setattr(MirrorCore, "changes_lost", lambda *_: None),
    "an incomplete row is ignored": lambda patch: patch.setattr(MirrorCore, "mark_stale", lambda *_: None),
}


def _settled_at_once(patch: pytest.MonkeyPatch) -> None:
    method = RowFetches.answered

    def wrapped(self: RowFetches, number: int, row: Row | None, now: Instant) -> Answer | None:
        shown = method(self, number, row, now)
        for one in self._fetches.values():
            one.due_at = min(one.due_at, now.mono)
        return shown

    patch.setattr(RowFetches, "answered", wrapped)


def _complete_without_fetch(self: TableCopy, op: Put, known_as: Any) -> Row | Incomplete:
    return {**self.rows.get(known_as, {"a": 0, "big": "x", "v": 0}), **op.row}


ROW_MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a fetched row does not wait for late changes": _settled_at_once,
    "a change during the fetch of its row is ignored": lambda patch: patch.setattr(
        RowFetches, "changed", lambda *_: None
    ),
    "a delete does not end the fetch of its row": lambda patch: patch.setattr(
        TableCopy, "_drop", lambda self, key: self.rows.pop(key, None) and None
    ),
    "a complete change does not end the fetch of its row": lambda patch: patch.setattr(
        TableCopy, "_complete", lambda *_: None
    ),
    "the answer of a cancelled fetch is used": lambda patch: patch.setattr(
        RowFetches, "_running", lambda self, number: next(iter(self._fetches.items()), None)
    ),
    "an omitted value is taken from an incomplete row": lambda patch: patch.setattr(
        TableCopy, "_whole", _complete_without_fetch
    ),
    "a loss does not end the fetches": lambda patch: patch.setattr(MirrorCore, "_clear_row_fetches", lambda *_: None),
}


@pytest.mark.parametrize("mutant", ROW_MUTANTS)
def test_the_model_finds_a_mirror_that_fetches_rows_wrongly(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to get the order of fetched rows wrong is detected."""
    ROW_MUTANTS[mutant](monkeypatch)
    with pytest.raises((AssertionError, LocalProtocolError, KeyError)):
        play_many(1000, by_row=True)


def test_rows_are_fetched_alone_in_the_model() -> None:
    """The sequences of the model fetch many single rows."""
    rows = 0
    for seed in range(50):
        which, steps = dice(seed, ROW_CHOICES)
        rows += play(which, steps, by_row=True).fetched_rows
    assert rows > 50


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_finds_a_mirror_that_is_wrong(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to get the order wrong is detected by sequences like those of the test above."""
    MUTANTS[mutant](monkeypatch)
    with pytest.raises(AssertionError):
        play_many(1000)
