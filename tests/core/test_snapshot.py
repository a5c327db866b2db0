"""Snapshots of presence: what was true at one moment stays so, whatever happens to the state since."""

import gc
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from supawire.core.snapshot import Metas, Snapshot, Snapshots
from supawire.types import Presence

KEYS = ("a", "b", "c", "d")


def metas(key: str, number: int) -> Metas:
    return (Presence(key, str(number), None, Raw(b"{}")),)


class Model:
    """A state that changes as the roster changes it, and what each snapshot has to show."""

    def __init__(self) -> None:
        self.live: dict[str, Metas] = {}
        self.snapshots = Snapshots()
        self.held: list[tuple[Snapshot, dict[str, Metas]]] = []

    def change(self, key: str, after: Metas) -> None:
        newest = self.snapshots.newest
        if newest is not None:
            newest.keep(key, self.live.get(key, ()))
        if after:
            self.live[key] = after
        else:
            self.live.pop(key, None)

    def take(self) -> None:
        self.held.append((self.snapshots.take(self.live), dict(self.live)))

    def replace(self, number: int) -> None:
        self.live = {key: metas(key, number) for key in KEYS[:2]}
        self.snapshots.forget()

    def check(self) -> None:
        for snapshot, true in self.held:
            assert dict(snapshot) == true
            assert len(snapshot) == len(true)
            assert {key: snapshot.get(key) for key in KEYS} == {key: true.get(key) for key in KEYS}
            assert [key in snapshot for key in KEYS] == [key in true for key in KEYS]


STEPS = st.one_of(
    st.tuples(st.just("change"), st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("take")),
    st.tuples(st.just("drop"), st.integers(0, 9)),
    st.tuples(st.just("replace")),
)


@given(st.lists(STEPS, max_size=40))
def test_a_snapshot_never_changes(steps: list[tuple[str, str | int, bool]]):
    """Each snapshot that is held shows what was true when it was taken, whichever others are held or dropped."""
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


def test_the_same_object_until_something_changes():
    """Two reads of an unchanged state give the same object; it cannot be changed."""
    model = Model()
    model.change("a", metas("a", 1))
    one, other = model.snapshots.take(model.live), model.snapshots.take(model.live)
    assert one is other
    with pytest.raises(TypeError):
        one["b"] = ()  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    model.change("a", ())
    assert model.snapshots.take(model.live) is not one
    with pytest.raises(KeyError):
        _ = model.snapshots.take(model.live)["a"]


def snapshots() -> list[object]:
    """Those that are alive; of other tests too, whose garbage is not collected yet."""
    return [thing for thing in gc.get_objects() if type(thing) is Snapshot]


def test_an_old_snapshot_keeps_no_others_alive():
    """A program that holds on to one old state does not thereby keep all that came after it."""
    others = snapshots()
    model = Model()
    model.change("a", metas("a", 0))
    model.take()
    for number in range(1, 100):
        model.change("a", metas("a", number))
        model.snapshots.take(model.live)
    gc.collect()
    known = set(map(id, others))
    assert len([one for one in snapshots() if id(one) not in known]) <= 10
    assert model.snapshots.take(model.live)["a"][0].ref == "99"
    model.check()


def test_a_snapshot_may_be_read_while_the_state_changes():
    """Another thread that reads a snapshot sees no change of the state that is going on meanwhile."""
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
            assert len(snapshot) == len(true)
            turns += 1

    model.take()
    reader = threading.Thread(target=read)
    reader.start()
    number = 0
    while turns < 20 and reader.is_alive():
        number += 1
        for key in everyone:
            model.change(key, () if number % 2 else metas(key, number))
        newest = model.snapshots.take(model.live)
        assert len(newest) in (0, len(everyone))
    done.set()
    reader.join()
    assert (turns >= 20, seen) == (True, {"0"})
