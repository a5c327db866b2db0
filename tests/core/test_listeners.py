"""Routing of events to listeners: wildcards, binding ids, each listener once (R41)."""

import itertools
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.core import binary
from supawire.core.listeners import Index, Listener
from supawire.selectors import (
    BroadcastSelector,
    ChangesSelector,
    Selector,
    broadcast,
    changes,
    gaps,
    presence,
    status,
    system,
)

from .conftest import Harness

KINDS = ("INSERT", "UPDATE", "DELETE")


def test_wildcards_receive_every_event(each: Harness) -> None:
    """`*` for broadcasts receives all events, and named listeners receive only theirs (R41)."""
    each.open()
    room = each.channel()
    every, typing = each.collect(room, broadcast("*")), each.collect(room, broadcast("typing"))
    each.join(room)
    for event in ("typing", "cursor", "", "*", "é"):
        each.receive(room, "broadcast", {"event": event, "payload": {}})
    assert [message.event for message in every] == ["typing", "cursor", "", "*", "é"]
    assert [message.event for message in typing] == ["typing"]


def test_binary_broadcasts_find_the_same_listeners(harness: Harness) -> None:
    """Events of binary frames are looked up by their UTF-8, known or not, JSON or raw (R41)."""
    harness.open()
    room = harness.channel("räum")
    every, cafe = harness.collect(room, broadcast()), harness.collect(room, broadcast("café"))
    harness.join(room)
    for event, json in itertools.product(("café", "other"), (True, False)):
        data = binary.pack(binary.USER_BROADCAST, room.encode(), event.encode(), b"", payload=b"[1]", json=json)
        harness.receive_raw(data, binary=True)
    assert [(one.event, one.payload) for one in every] == [
        ("café", [1]),
        ("café", b"[1]"),
        ("other", [1]),
        ("other", b"[1]"),
    ]
    assert [one.payload for one in cafe] == [[1], b"[1]"]


def test_a_listener_with_overlapping_selectors_receives_an_event_once(each: Harness) -> None:
    """Overlapping selectors of one listener deliver each event and each row once (R41)."""
    each.open()
    db = each.channel("db")
    rows = changes("*"), changes("users"), changes("users", event="INSERT")
    both = each.collect(db, broadcast(), broadcast("e"), broadcast("e"), *rows)
    each.join(db)
    each.receive(db, "broadcast", {"event": "e", "payload": {}})
    each.row(db, 100, 101, 102, id=1)
    each.row(db, 102, 100, id=2)
    assert len(both) == 3
    assert [change.record["id"] for change in both[1:]] == [1, 2]


def test_rows_are_routed_by_binding_id_alone(each: Harness) -> None:
    """The binding ids decide which listener receives a row: same table, other filter, other listener (R41)."""
    each.open()
    db = each.channel("db")
    low = each.collect(db, changes("users", filter="id=lt.10"))
    high = each.collect(db, changes("users", filter="id=gte.10"))
    every = each.collect(db, changes())
    each.join(db)
    each.row(db, 100, 102, id=1)
    each.row(db, 101, 102, id=50)
    each.row(db, 102, id=7)
    each.row(db, id=9)
    each.row(db, 999, id=9)
    assert [[change.record["id"] for change in received] for received in (low, high, every)] == [[1], [50], [1, 50, 7]]


def test_equal_bindings_are_one_binding(each: Harness) -> None:
    """Two listeners for the same rows need one binding, and both receive the rows (R41)."""
    each.open()
    db = each.channel("db")
    one, two = each.collect(db, changes("users")), each.collect(db, changes("users", event="*", schema="public"))
    each.join(db)
    assert len(each.sent("phx_join")[0].payload["config"]["postgres_changes"]) == 1
    each.row(db, 100, id=1)
    assert (len(one), len(two)) == (1, 1)


def test_bindings_with_equal_ids_each_receive_their_kind(each: Harness) -> None:
    """If two bindings have the same id, each listener still receives only its kinds, once (R41)."""
    each.open()
    db = each.channel("db")
    inserts = each.collect(db, changes("users", event="INSERT"))
    deletes = each.collect(db, changes("users", event="DELETE"))
    each.call(each.session.join, db)
    bindings = each.sent("phx_join")[0].payload["config"]["postgres_changes"]
    each.answer_join({"postgres_changes": [{**binding, "id": 7} for binding in bindings]})
    for kind in KINDS:
        each.row(db, 7, kind=kind, id=1)
    assert [type(change).__name__ for change in inserts] == ["Insert"]
    assert [type(change).__name__ for change in deletes] == ["Delete"]


def test_a_removed_listener_receives_nothing_more(each: Harness) -> None:
    """Removing a listener takes effect at once, also twice, also while an event is delivered (R41)."""
    each.open()
    room = each.channel()
    received: list[Any] = []
    first: list[Listener] = []

    def once(event: Any) -> None:
        received.append(event)
        each.session.unlisten(room, first[0])
        each.session.unlisten(room, first[0])

    first.append(Listener((broadcast(),), once))
    each.call(each.session.listen, room, first[0])
    other = each.collect(room, broadcast())
    each.join(room)
    for _ in range(2):
        each.receive(room, "broadcast", {"event": "e", "payload": {}})
    assert (len(received), len(other)) == (1, 2)
    each.session.unlisten("realtime:nobody", first[0])


def test_listeners_are_called_in_order_of_registration(each: Harness) -> None:
    """Wildcard or named, the listener that was added first is called first (R41)."""
    each.open()
    room = each.channel()
    order: list[int] = []
    for number, selector in enumerate((broadcast("e"), broadcast(), broadcast("e"), broadcast("*"))):
        each.call(each.session.listen, room, Listener((selector,), lambda _, number=number: order.append(number)))
    each.join(room)
    each.receive(room, "broadcast", {"event": "e", "payload": {}})
    assert order == [0, 1, 2, 3]


def test_every_kind_of_selector_has_its_own_listeners(harness: Harness) -> None:
    """Presence, system, gaps and status events are delivered only to listeners for them."""
    harness.open()
    room = harness.channel()
    selectors: list[Selector[Any]] = [presence(), system(), gaps(), status()]
    received = [harness.collect(room, selector) for selector in selectors]
    harness.join(room)
    harness.receive(room, "presence_state", {})
    harness.system(room, "hello", extension="x")
    harness.drop(1006)
    harness.reconnect()
    harness.answer_join()
    kinds = [{type(event).__name__ for event in events} for events in received]
    assert kinds == [{"PresenceSync"}, {"System"}, {"Gap"}, {"Status"}]


@dataclass
class User:
    id: int


class Row(TypedDict):
    id: int


class Note(msgspec.Struct):
    id: int


def test_each_listener_receives_rows_in_its_own_model(each: Harness) -> None:
    """Listeners with different models and without one each receive a row in their form and share a binding (R42)."""
    each.open()
    db = each.channel("db")
    selectors = changes("users"), changes("users", model=User), changes("users", model=Note), changes("users")
    received = [each.collect(db, selector) for selector in selectors]
    each.join(db)
    assert len(each.sent("phx_join")[0].payload["config"]["postgres_changes"]) == 1
    each.row(db, 100, id=1)
    assert [change.record for (change,) in received] == [{"id": 1}, User(1), Note(1), {"id": 1}]
    assert received[0][0] is received[3][0]
    later = each.collect(db, changes("users", model=Note))
    each.row(db, 100, id=2)
    assert [change.record for change in later] == [Note(2)]
    assert len(each.sent("phx_join")) == 1  # the join includes this binding, whatever model its rows have


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("ids", [(100, 101), (101, 100)])
def test_the_first_matching_selector_decides_the_model(harness: Harness, swapped: bool, ids: tuple[int, ...]) -> None:
    """A row that matches several selectors of a listener is delivered once, by the first, in any order of ids."""
    harness.open()
    db = harness.channel("db")
    harness.collect(db, changes("users", event="INSERT"))  # so that bindings and selectors differ in order
    pair = [changes("users", model=User), changes("users", event="INSERT", model=Note)]
    received = harness.collect(db, *(reversed(pair) if swapped else pair))
    harness.join(db)
    harness.row(db, *ids, id=1)
    harness.row(db, *ids, id=2)
    harness.row(db, 101, kind="UPDATE", id=3)
    first = Note if swapped else User
    assert [change.record for change in received] == [first(1), first(2), User(3)]


def test_a_plain_selector_before_one_with_a_model_gives_dicts(harness: Harness) -> None:
    """Of two selectors for the same rows in one listener the first counts, even if it has no model."""
    harness.open()
    db = harness.channel("db")
    plain_first = harness.collect(db, changes("users"), changes("users", model=User))
    model_first = harness.collect(db, changes("users", model=User), changes("users"), changes("users", model=Note))
    harness.join(db)
    harness.row(db, 100, id=1)
    assert [change.record for change in (*plain_first, *model_first)] == [{"id": 1}, User(1)]


def test_messages_of_every_form_become_objects(each: Harness) -> None:
    """Text, binary and stored broadcasts, by name and wildcard, reach each listener in its own model."""
    each.open()
    room = each.channel()
    named, every = each.collect(room, broadcast("e", model=User)), each.collect(room, broadcast(model=Row))
    plain = each.collect(room, broadcast("e"))
    each.join(room)
    each.receive(room, "broadcast", {"event": "e", "payload": {"id": 1}})
    each.receive(room, "broadcast", {"event": "e", "payload": {"id": 2}, "meta": {"id": "m2", "replayed": True}})
    each.receive(room, "broadcast", {"event": "other", "payload": {"id": 3}})
    data = binary.pack(binary.USER_BROADCAST, room.encode(), b"e", b"", payload=b'{"id": 4}', json=True)
    each.receive_raw(data, binary=True)
    assert [message.payload for message in named] == [User(1), User(2), User(4)]
    assert [message.payload for message in every] == [{"id": 1}, {"id": 2}, {"id": 3}, {"id": 4}]
    assert [message.payload for message in plain] == [{"id": 1}, {"id": 2}, {"id": 4}]
    assert (named[1].id, named[1].replayed) == ("m2", True)


def test_the_cache_for_several_ids_is_bounded() -> None:
    """The cache for rows with several binding ids is bounded, since the server chooses the ids."""
    index = Index()
    listener = Listener((changes("users"),), print)
    index.add(listener)
    index.joined(dict.fromkeys(index.bindings, 1))
    for number in range(2, 2000):
        assert index.union([1, number], "INSERT") == (print,)
    assert index.union(range(1_000_000), "INSERT") == (print,)
    assert index.cached_unions == 1, "unknown ids are not part of the key"
    index.remove(listener)
    assert index.union([1, 2], "INSERT") == ()


SELECTORS: list[Selector[Any]] = [
    *(BroadcastSelector(event) for event in ("*", "a", "b")),
    *(ChangesSelector(table=table, event=event) for table in ("*", "t", "u") for event in ("*", "INSERT", "DELETE")),
]
LISTENERS = st.lists(st.lists(st.sampled_from(SELECTORS), min_size=1, max_size=4), max_size=6)


@given(selector_lists=LISTENERS, same_ids=st.booleans(), removed=st.sets(st.integers(0, 5)))
def test_the_index_finds_what_a_search_finds(
    selector_lists: list[list[Selector[Any]]], same_ids: bool, removed: set[int]
) -> None:
    """For any listeners, the lookups return exactly what a search through all selectors returns (R41)."""
    index = Index()
    listeners = [Listener(tuple(selectors), [].append) for selectors in selector_lists]
    for listener in listeners:
        index.add(listener)
    ids = {binding: 7 if same_ids else place for place, binding in enumerate(index.bindings)}
    index.joined(ids)
    for number in removed & set(range(len(listeners))):
        index.remove(listeners[number])
    live = [listener for number, listener in enumerate(listeners) if number not in removed]
    for event in ("a", "b", "other"):
        found = index.listeners_of(event)
        assert list(found) == [listener.deliver for listener in live if _receives(listener, event)]
    for kind in KINDS:
        for binding, number in ids.items():
            if same_ids or binding.event not in ("*", kind):
                continue
            found = index.union([number], kind)
            assert set(map(id, found)) == {id(one.deliver) for one in live if binding in one.selectors}
        every = index.union([*ids.values()] * 2, kind)
        assert len(set(map(id, every))) == len(every)
        assert set(map(id, every)) == {
            id(one.deliver)
            for one in live
            if any(isinstance(s, ChangesSelector) and s.event in ("*", kind) for s in one.selectors)
        }


@given(steps=st.lists(st.tuples(st.integers(0, 5), st.lists(st.sampled_from(SELECTORS), min_size=1, max_size=3))))
def test_the_index_stays_correct_while_listeners_change(
    steps: list[tuple[int, list[Selector[Any]]]],
) -> None:
    """The lookups equal a search, in order of registration, while listeners are added and removed."""
    index = Index()
    ids = {selector: place // 2 for place, selector in enumerate(SELECTORS) if isinstance(selector, ChangesSelector)}
    index.joined(ids)
    requested = tuple(ids)[:4]
    live: list[Listener] = []
    for which, selectors in steps:
        if which < len(live):
            index.remove(live.pop(which))
        else:
            live.append(Listener(tuple(selectors), [].append))
            index.add(live[-1])
        for event in ("a", "b", "other", "*"):
            expected = [listener.deliver for listener in live if _receives(listener, event)]
            name, binary = index.binary.get(event.encode(), (event, index.any_broadcast))
            assert list(index.listeners_of(event)) == expected
            assert list(binary) in ([], expected) and name == event
        for kind in KINDS:
            for number in set(ids.values()):
                matching = {selector for selector in ids if ids[selector] == number and selector.event in ("*", kind)}
                receivers = [listener.deliver for listener in live if matching & set(listener.selectors)]
                by_kind = index.changes.get(number)
                found = (index.build_changes(number) if by_kind is None else by_kind)[kind]
                assert list(found) == list(index.union([number, 99], kind)) == receivers
        current = {each for listener in live for each in listener.selectors if isinstance(each, ChangesSelector)}
        assert set(index.bindings) == current
        assert index.lacks_binding(requested) == (not current <= set(requested))
    for listener in live:
        index.remove(listener)
    assert not (index.stale or index.broadcasts or index.binary or index.any_broadcast or index.kinds())


def _receives(listener: Listener, event: str) -> bool:
    return any(isinstance(s, BroadcastSelector) and s.event in ("*", event) for s in listener.selectors)


@pytest.mark.parametrize("kind", ["changes", "broadcast", "presence"])
def test_a_gap_names_the_kinds_that_have_listeners(kind: str) -> None:
    """A gap names changes, broadcast and presence if there are listeners for them, and nothing else (R44)."""
    index = Index()
    assert index.kinds() == frozenset()
    selector: Selector[Any] = {"changes": changes("t"), "broadcast": broadcast("e"), "presence": presence()}[kind]
    listener = Listener((selector, system(), status()), print)
    index.add(listener)
    assert index.kinds() == {kind}
    index.remove(listener)
    assert index.kinds() == frozenset()


@pytest.mark.parametrize("payload", [b'{"n": 1}', b"[" * 5000 + b"]" * 5000], ids=["plain", "deep"])
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("is_binary", [False, True])
def test_the_first_message_reaches_a_listener_however_it_is_decoded(
    harness: Harness, payload: bytes, heavy: bool, is_binary: bool
) -> None:
    """The first message after a listener was added reaches it: deep or not, text or binary, small or large."""
    harness.open()
    room = harness.joined()
    take = harness.session.receive_large if heavy else harness.session.receive
    for selector in (broadcast("e"), broadcast()):
        received = harness.collect(room, selector)
        if is_binary:
            topic = room.encode()
            data = bytes((4, len(topic), 1, 0, 1)) + topic + b"e" + payload
        else:
            data = b'[null,null,"%s","broadcast",{"type":"broadcast","event":"e","payload":%s}]' % (
                room.encode(),
                payload,
            )
        delivery = take(harness.session.generation, data, is_binary, harness.now)
        assert delivery is not None
        for listener in delivery[0]:
            listener(delivery[1])
        assert len(received) == 1
