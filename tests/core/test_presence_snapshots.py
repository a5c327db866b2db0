"""Snapshots of presence, which never change."""

import threading
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from supawire.core.presence import Metas, Snapshot, Snapshots
from supawire.events import Presence

KEYS = ("a", "b", "c", "d")


def metas(key: str, number: int) -> Metas:
    return (Presence(key, str(number), None, Raw(b"{}")),)


class Model:
    """A state that changes as presence changes it, and the expected content of each snapshot."""

    def __init__(self, members: int = 0) -> None:
        self.live: dict[str, Metas] = {f"user-{number}": metas("user", number) for number in range(members)}
        self.snapshots = Snapshots()
        self.held: list[tuple[Snapshot, dict[str, Metas]]] = []

    def change(self, key: str, after: Metas) -> None:
        self.snapshots.change(key, after)
        if after:
            self.live[key] = after
        else:
            self.live.pop(key, None)

    def take(self) -> Snapshot:
        self.held.append((self.snapshots.snapshot(self.live), dict(self.live)))
        return self.held[-1][0]

    def replace(self, number: int) -> None:
        self.live = {key: metas(key, number) for key in KEYS[:2]}
        self.snapshots.forget()

    def check(self) -> None:
        for snapshot, true in self.held:
            assert len(snapshot) == len(true)
            assert {key: snapshot.get(key) for key in KEYS} == {key: true.get(key) for key in KEYS}
            assert [key in snapshot for key in KEYS] == [key in true for key in KEYS]
            assert dict(snapshot) == dict(snapshot.items()) == true
            assert set(snapshot) == snapshot.keys() == true.keys()
            assert {one.ref for (one,) in snapshot.values()} == {one.ref for (one,) in true.values()}
            assert sorted(repr(snapshot)) == sorted(repr(true))


STEPS = st.one_of(
    st.tuples(st.just("change"), st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("take")),
    st.tuples(st.just("drop"), st.integers(0, 9)),
    st.tuples(st.just("replace")),
)


@given(st.lists(STEPS, max_size=40))
def test_a_snapshot_never_changes(steps: list[tuple[str, str | int, bool]]):
    """Each snapshot has the state at its time, whichever other snapshots are kept or dropped."""
    model = Model()
    for number, (what, *more) in enumerate(steps):
        match what, more:
            case "change", [str(key), comes]:
                model.change(key, metas(key, number) if comes else ())
            case "take", _:
                model.take()
            case "drop", [int(place)] if model.held:
                del model.held[place % len(model.held)]
            case "replace", _:
                model.replace(number)
            case _:
                continue
        model.check()


def test_a_snapshot_is_the_same_object_until_a_change():
    """Two reads of an unchanged state return the same read-only object."""
    model = Model()
    model.change("a", metas("a", 1))
    one, other = model.snapshots.snapshot(model.live), model.snapshots.snapshot(model.live)
    assert one is other
    with pytest.raises(TypeError):
        one["b"] = ()  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    model.change("a", ())
    assert model.snapshots.snapshot(model.live) is not one
    with pytest.raises(KeyError):
        _ = model.snapshots.snapshot(model.live)["a"]


MANY = 20_000


def allocated(work: Callable[[], object]) -> int:
    """Return the maximum number of bytes allocated at one time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_len_and_a_lookup_after_each_diff_copy_nothing():
    """If length and one key are read after every diff, the state is copied only rarely."""
    model = Model(MANY)
    whole = allocated(model.live.copy)
    model.take()
    copies = 0
    for number in range(100):
        model.change(f"guest-{number}", metas("guest", number))

        def read(number: int = number) -> None:
            snapshot = model.snapshots.snapshot(model.live)
            assert (len(snapshot), snapshot[f"guest-{number}"][0].ref) == (MANY + number + 1, str(number))

        copies += allocated(read) > whole / 10
    assert copies <= 2


def test_the_result_of_an_iteration_is_cached():
    """The merged state of the first iteration is cached."""
    model = Model(MANY)
    whole = allocated(model.live.copy)
    model.take()
    model.change("a", metas("a", 1))
    snapshot = model.take()
    assert len(list(snapshot)) == MANY + 1
    reads = (snapshot.keys, snapshot.values, snapshot.items, lambda: len(snapshot), lambda: next(iter(snapshot)))
    assert [allocated(read) > whole / 10 for read in reads] == [False] * len(reads)


def test_changes_of_an_unread_state_are_not_recorded():
    """After one read, changes are recorded only up to a limit."""
    model = Model(100)
    model.take()
    for number in range(1_000):
        model.change(f"b{number}", metas("b", number))
    assert model.snapshots.recorded_changes == 0


def test_a_snapshot_may_be_read_while_the_state_changes():
    """A snapshot read on another thread shows no concurrent change of the state."""
    model = Model()
    everyone = [f"user-{number}" for number in range(200)]
    for key in everyone:
        model.change(key, metas(key, 0))
    seen: set[str] = set()
    turns = 0
    done = threading.Event()

    def read() -> None:
        nonlocal turns
        while not done.is_set():
            snapshot, true = model.held[0]
            seen.update(snapshot[key][0].ref for key in everyone)
            assert len(list(snapshot)) == len(snapshot) == len(true)
            turns += 1

    model.take()
    reader = threading.Thread(target=read)
    reader.start()
    number = 0
    while turns < 20 and reader.is_alive():
        number += 1
        for key in everyone:
            model.change(key, () if number % 2 else metas(key, number))
        newest = model.snapshots.snapshot(model.live)
        assert len(newest) in (0, len(everyone))
    done.set()
    reader.join()
    assert (turns >= 20, seen) == (True, {"0"})
