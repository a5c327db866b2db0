"""Verification of mirrors: rows whose changes were lost silently are found and repaired, and no others."""

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from supawire._mirror_events import MirrorState, Row
from supawire.core.mirror import MirrorCore, MirrorSettings
from supawire.core.verification import (
    AbandonVerification,
    CompareSummary,
    Differences,
    Differing,
    ListVersions,
    Summarize,
    Summary,
    Verification,
    Verify,
    bucket_of,
    digest_of,
    key_text,
    version_text,
)
from supawire.errors import HandlerError, RowError
from supawire.options import Backoff

from .mirror_harness import PLAIN, at
from .test_mirror_converges import FILTERS, Life

EVERY = 5.0


def summary_of(rows: Iterable[Row], buckets: int) -> Summary:
    """Return what a verifier returns for these rows."""
    found: dict[int, tuple[int, int]] = {}
    for row in rows:
        text = key_text(row, ("id",))
        count, total = found.get(bucket_of(text, buckets), (0, 0))
        found[bucket_of(text, buckets)] = count + 1, (total + digest_of(text, str(row["v"]))) % 2**64
    return Summary(found)


class VerifiedLife(Life):
    """A table some of whose changes are lost silently, and a mirror that is verified."""

    def __init__(self, which: str, *, by_row: bool, version: bool, luck: random.Random) -> None:
        self.request: Verify | None = None
        self.seen: Any = None
        self.lost = 0
        self.partial = False
        """Whether a change omitted a value: together with a lost change, the row may be one that never existed."""
        self.requests = 0
        super().__init__(which, by_row=by_row)
        self.mirror = MirrorCore(
            MirrorSettings(
                "users", ("id",), filter=None if which == "all" else f"{which}=gte.5", filter_columns=FILTERS[which],
                backoff=Backoff(jitter=0), by_row=by_row, most_rows=2, refresh_every=EVERY, verified=True,
                version="v" if version else None,
            ),
            PLAIN,
            luck,
        )  # fmt: skip

    def pump(self) -> None:
        kept = list(self.mirror.effects)
        for effect in kept:
            if isinstance(effect, Verify):
                assert self.request is None
                self.request, self.seen = effect, None
                self.requests += 1
            elif isinstance(effect, AbandonVerification):
                assert self.request is not None and self.request.number == effect.number
                self.request = self.seen = None
        super().pump()

    def lose_silently(self, which: int, _: int = 0) -> None:
        """Drop a change in flight, of which nothing tells."""
        if self.in_flight and self.mirror.state is not MirrorState.JOINING:
            del self.in_flight[which % len(self.in_flight)]
            self.lost += 1

    def see(self, *_: int) -> None:
        """Let the verifier read the table; its answer is in flight."""
        if self.request is None or self.seen is not None:
            return
        rows = self.history[-1].values()
        match self.request.request:
            case Summarize(buckets):
                self.seen = summary_of(rows, buckets)
            case CompareSummary() as request:
                self.seen = self.mirror.verification.compare(request)
            case ListVersions(buckets, chosen):
                self.seen = {row["id"]: str(row["v"]) for row in rows if bucket_of(str(row["id"]), buckets) in chosen}

    def report(self, *_: int) -> None:
        if self.request is not None and self.seen is not None:
            request, seen = self.request, self.seen
            self.request = self.seen = None
            self.mirror.verified(request.number, seen, at(self.now))
            self.pump()

    def fail_verifier(self, *_: int) -> None:
        if self.request is not None:
            request = self.request
            self.request = self.seen = None
            self.mirror.verification_failed(request.number, HandlerError("no"), at(self.now))
            self.pump()

    def check(self) -> None:
        if not self.lost:
            super().check()
            assert self.mirror.verification.running or self.mirror.counts.differences == 0
        assert self.mirror.rows == self.from_events
        if not self.partial and not self.incomplete_fetch:
            for row in self.from_events.values():
                assert tuple(sorted(row.items())) in self.ever

    def put(self, *args: Any, unsent: Any = (), **settings: Any) -> None:
        self.partial |= bool(unsent)
        super().put(*args, unsent=unsent, **settings)

    def end(self) -> None:
        """Let changes arrive and verify a few times: the mirror is live and equals the table."""
        self.join()
        for _ in range(40):
            self.wait(4)
            self.take_snapshot()
            self.answer()
            self.see()
            self.report()
            for _ in range(3):
                self.take_row_snapshot(0)
                self.answer_row(0)
            self.check()
        for _ in range(20):  # until a moment at which no verification is running and no row is being fetched
            if self.mirror.state is MirrorState.LIVE:
                break
            self.wait(2)
            self.take_snapshot()
            self.answer()
            self.take_row_snapshot(0)
            self.answer_row(0)
        assert self.mirror.state is MirrorState.LIVE
        assert self.mirror.rows == self.history[-1]


ACTS: dict[Callable[..., None], int] = {
    Life.insert: 6, Life.update: 8, Life.move: 2, Life.delete: 3, Life.update_to_a_large_row: 1, Life.join: 4,
    Life.lose: 1, Life.arrive: 4, Life.wait: 16, Life.take_snapshot: 8, Life.answer: 8, Life.fail: 1,
    Life.take_row_snapshot: 8, Life.answer_row: 6, Life.answer_row_late: 1, Life.fail_row: 1,
    VerifiedLife.see: 16, VerifiedLife.report: 16, VerifiedLife.fail_verifier: 1,
}  # fmt: skip
CHOICES = [act for act, weight in ACTS.items() for _ in range(weight)]


def play(seed: int, *, losing: bool) -> VerifiedLife:
    """Play one random schedule."""
    luck = random.Random(seed)
    which = luck.choice(sorted(FILTERS))
    life = VerifiedLife(which, by_row=luck.random() < 0.5, version=luck.random() < 0.7, luck=luck)
    choices = [*CHOICES, *[VerifiedLife.lose_silently] * 5] if losing else CHOICES
    if luck.random() < 0.7:
        life.become_live()
    for _ in range(120):
        act = luck.choice(choices)
        act(life, luck.randint(1, 4), luck.randint(0, 9))
        life.check()
    life.end()
    return life


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_silently_lost_changes_are_repaired(start: int):
    """Whatever changes are lost silently, a few verifications later the mirror equals the table, and meanwhile it shows
    only rows that existed."""
    lives = [play(seed, losing=True) for seed in range(start, start + 50)]
    assert sum(life.lost for life in lives) > 20
    assert sum(life.mirror.counts.differences for life in lives) > 0


@pytest.mark.parametrize("start", range(1000, 1200, 20))
def test_changes_in_flight_are_no_differences(start: int):
    """Without a lost change no verification finds a difference, whatever is committed and delivered meanwhile, and the
    live mirror stays correct."""
    lives = [play(seed, losing=False) for seed in range(start, start + 20)]
    assert sum(life.mirror.counts.verifications for life in lives) > 20
    assert sum(life.mirror.counts.differences for life in lives) == 0


def live(*, by_row: bool = True, version: bool = True, rows: int = 4) -> VerifiedLife:
    """Return a live mirror of a table of some rows."""
    life = VerifiedLife("all", by_row=by_row, version=version, luck=random.Random(1))
    for key in range(1, rows + 1):
        life.insert(key, 1)
    life.become_live()
    return life


def verify(life: VerifiedLife) -> None:
    """Let time pass until a verification has ended, with its answers at once."""
    before = life.mirror.counts.verifications
    for _ in range(200):
        life.wait(2)
        life.see()
        life.report()
        life.take_snapshot()
        life.answer()
        if life.mirror.counts.verifications > before:
            return
    raise AssertionError("no verification ended")


def test_only_the_rows_that_differ_are_fetched():
    """A lost update, insert and delete cost one fetch of each row, and none of the table."""
    for act in (lambda life: life.update(2, 7), lambda life: life.delete(2, 0), lambda life: life.insert(9, 1)):
        life = live()
        fetches = life.fetches
        act(life)
        life.lose_silently(0)
        verify(life)
        assert life.mirror.state is MirrorState.REFETCHING and len(life.row_fetches) == 1
        life.take_row_snapshot()
        life.answer_row()
        life.wait(4)
        assert life.mirror.state is MirrorState.LIVE and life.mirror.rows == life.table
        assert (life.fetches, life.fetched_rows, life.mirror.counts.differences) == (fetches, 1, 1)


def test_many_differences_or_no_fetch_of_rows_fetch_all():
    """More rows than may be fetched at once, or a mirror without `fetch_row`, fetch all rows."""
    for by_row, count in ((True, 3), (False, 1)):
        life = live(by_row=by_row)
        for key in range(1, count + 1):
            life.delete(key, 0)
            life.lose_silently(0)
        verify(life)
        assert life.mirror.state is not MirrorState.LIVE and life.mirror.counts.differences == count
        life.wait(3)
        life.take_snapshot()
        life.answer()
        life.wait(4)
        assert life.mirror.state is MirrorState.LIVE and life.mirror.rows == life.table


def test_a_table_that_did_not_change_is_not_fetched():
    """Without versions, the rows are fetched and compared once, and then only after the table has changed."""
    life = live(version=False)
    verify(life)
    fetches = life.fetches
    for _ in range(3):
        verify(life)
    assert life.fetches == fetches
    life.delete(2, 0)
    life.lose_silently(0)
    verify(life)
    assert life.fetches == fetches + 1
    assert life.mirror.state is MirrorState.LIVE and life.mirror.rows == life.table


def test_a_disputed_row_is_reported_once_per_verification_and_not_fetched_again():
    """A row about which verifier and fetch disagree is fetched once, and reported afterwards."""
    life = live()
    life.table[2]["v"] = 999  # the verifier sees a version that no change and no fetch has
    life.history[-1][2] = {**life.history[-1][2], "v": 999}
    shown = dict(life.mirror.rows[2])
    verify(life)
    (number,) = life.row_fetches
    del life.row_fetches[number]
    life.mirror.row_fetched(number, shown, at(life.now))
    life.wait(4)
    fetched = life.mirror.counts.row_fetches
    verify(life)
    assert life.mirror.state is MirrorState.LIVE and life.mirror.counts.row_fetches == fetched


@pytest.mark.parametrize("equal", [False, True])
def test_a_row_whose_delete_is_lost_twice_is_repaired_twice(equal: bool):
    """A row that was repaired, came back, and was deleted silently again differs once more and is fetched once more,
    whether or not the table was found equal in between."""
    life = live()
    for _ in range(2):
        life.delete(2, 0)
        life.lose_silently(0)
        verify(life)
        assert len(life.row_fetches) == 1
        life.take_row_snapshot()
        life.answer_row()
        life.wait(4)
        assert life.mirror.state is MirrorState.LIVE and 2 not in life.mirror.rows
        if equal:
            verify(life)
        life.insert(2, 1)
        life.arrive()
        assert 2 in life.mirror.rows


def test_a_failing_verifier_leaves_the_mirror_live():
    """An error of the verifier is reported, the mirror stays live, and the next verification is after the interval."""
    life = live()
    while life.request is None:
        life.wait(2)
    life.fail_verifier()
    assert life.mirror.state is MirrorState.LIVE
    began, requests = life.now, life.requests
    while life.requests == requests:
        life.wait(1)
    assert life.now - began >= 0.9 * EVERY


def test_too_many_changes_abandon_a_verification():
    """When more rows change during the last step than are remembered, the verification is tried again later."""
    checked = Verification("v", ("id",), 1.0, 10.0, 2)
    checked.begin(10)
    checked.answered(1, Summary({0: (1, 1)}), at(0))
    checked.tick({}, {}, at(1))
    checked.answered(2, Differing((0,), frozenset()), at(1))
    checked.changed((1, 2))
    assert checked.running
    checked.changed((3,))
    assert not checked.running and isinstance(checked.effects[-1], AbandonVerification)
    assert checked.answered(3, {}, at(2)) is None


def test_a_late_server_delays_the_comparison():
    """A change from before the summary that arrives late delays the comparison, up to a limit."""
    checked = Verification("v", ("id",), 1.0, 3.0, 100)
    checked.begin(0)
    checked.answered(1, Summary({}), at(10))
    for moment in (10.9, 11.8, 12.7):
        checked.await_older(at(9).at(), at(moment))
    assert checked.next_deadline == 13.0
    assert checked.tick({}, {}, at(13)) is None
    assert checked.answered(2, Differing((), frozenset()), at(13)) == Differences(frozenset(), frozenset())


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "time", ""),
        (7, "text", "7"),
        ("abc", "text", "abc"),
        (datetime(1970, 1, 1, 0, 0, 1, 5, UTC), "time", "1000005"),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "time", "0"),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC).replace(tzinfo=None), "time", "-1"),
        ("2026-01-05T10:11:12.123456+00:00", "time", "1767607872123456"),
        ("2026-01-05T10:11:12.5", "time", "1767607872500000"),
        ("2026-01-05T10:11:12Z", "time", "1767607872000000"),
    ],
)
def test_versions_as_text(value: object, kind: Any, text: str):
    """Times are compared as microseconds, in exact rows and in JSON rows; other versions as they are."""
    assert version_text(value, kind) == text


def test_keys_as_text():
    """Keys of integers, text and UUIDs have the same text in both forms of rows; other types are refused."""
    some = UUID("6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11")
    assert key_text({"id": some}, ("id",)) == key_text({"id": str(some)}, ("id",)) == str(some)
    assert key_text({"a": 1, "b": "23"}, ("a", "b")) == "1:12:23" != key_text({"a": 12, "b": "3"}, ("a", "b"))
    for wrong in (1.5, True, datetime.now(UTC)):
        with pytest.raises(RowError, match="integers, text or UUIDs"):
            key_text({"id": wrong}, ("id",))
    with pytest.raises(RowError, match="not a time"):
        version_text("soon", "time")
    with pytest.raises(RowError, match="must be a time"):
        version_text(5, "time")
