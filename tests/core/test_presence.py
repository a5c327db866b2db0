"""The presence state compared with a simple model, and the events for each change (R45)."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from supawire.core.codec import encode_json
from supawire.core.effects import UnreadableFrame
from supawire.core.presence import MAX_KEYS, MAX_METAS, ChannelPresence
from supawire.events import (
    Presence,
    PresenceEvent,
    PresenceJoin,
    PresenceLeave,
    PresenceState,
    PresenceSync,
    PresenceUpdate,
)
from supawire.selectors import presence

from .conftest import Harness

Entries = Mapping[str, list[dict[str, Any]]]
"""Metas by key, as a server would send them."""


def raw(entries: Entries) -> Raw:
    """Return a `presence_state`, or one half of a diff."""
    return Raw(encode_json({key: {"metas": metas} for key, metas in entries.items()}))


def meta(ref: str, previous: str | None = None, **payload: Any) -> dict[str, Any]:
    """Return one tracked payload."""
    return {**payload, "phx_ref": ref} if previous is None else {**payload, "phx_ref": ref, "phx_ref_prev": previous}


def refs(state: PresenceState) -> dict[str, list[str]]:
    """Return the present refs by key."""
    return {key: [one.ref for one in metas] for key, metas in state.items()}


def as_tuples(events: list[PresenceEvent]) -> list[tuple[str, str, list[str], list[str]]]:
    """Return the events as kind, key, and the refs after and before."""
    kinds = {PresenceJoin: "join", PresenceLeave: "leave", PresenceUpdate: "update"}
    return [
        (kinds[type(event)], event.key, [one.ref for one in event.current], [one.ref for one in event.previous])
        for event in events
        if not isinstance(event, PresenceSync)
    ]


def settled(entries: Entries) -> ChannelPresence:
    """Return the presence of a join whose state has arrived."""
    roster = ChannelPresence("room")
    roster.joined(enabled=True)
    roster.replace(raw(entries))
    return roster


EMPTY: Entries = {}

# --- events


def test_joins_leaves_and_updates_are_reported_as_such() -> None:
    """A new meta is a join, a removed one a leave, one that names the ref it replaces an update (R45)."""
    roster = settled(EMPTY)
    assert as_tuples(roster.apply(raw({"ada": [meta("A")]}), raw(EMPTY))) == [("join", "ada", ["A"], [])]
    assert as_tuples(roster.apply(raw({"ada": [meta("B", "A")]}), raw({"ada": [meta("A")]}))) == [
        ("update", "ada", ["B"], ["A"])
    ]
    assert as_tuples(roster.apply(raw(EMPTY), raw({"ada": [meta("B", "A")]}))) == [("leave", "ada", [], ["B"])]
    assert refs(roster.state()) == {}


def test_a_key_stays_until_its_last_device_has_left() -> None:
    """A key with two metas keeps one when the other leaves; only the last leave removes the key (R45)."""
    roster = settled({"ada": [meta("A"), meta("B")]})
    assert as_tuples(roster.apply(raw(EMPTY), raw({"ada": [meta("A")]}))) == [("leave", "ada", ["B"], ["A", "B"])]
    assert refs(roster.state()) == {"ada": ["B"]}
    assert as_tuples(roster.apply(raw({"ada": [meta("C")]}), raw(EMPTY))) == [("join", "ada", ["B", "C"], ["B"])]


def test_a_leave_of_an_unknown_meta_has_no_effect() -> None:
    """In a diff with an unknown leave the other keys are applied and reported; alone it has no effect (R45)."""
    roster = settled({"ada": [meta("A")]})
    events = roster.apply(raw({"bob": [meta("B")]}), raw({"ghost": [meta("X")], "ada": [meta("A")]}))
    assert sorted(as_tuples(events)) == [("join", "bob", ["B"], []), ("leave", "ada", [], ["A"])]
    assert roster.apply(raw(EMPTY), raw({"ghost": [meta("X")]})) == []
    assert roster.apply(raw(EMPTY), raw({"bob": [meta("other")]})) == []
    assert refs(roster.state()) == {"bob": ["B"]}


def test_a_diff_without_effect_causes_no_event() -> None:
    """Repeated joins and empty diffs cause no event, no sync, and the same snapshot (R45)."""
    roster = settled({"ada": [meta("A")]})
    before = roster.state()
    assert roster.apply(raw({"ada": [meta("A")]}), raw(EMPTY)) == []
    assert roster.apply(raw(EMPTY), raw(EMPTY)) == []
    assert roster.state() is before


def test_diffs_before_the_state_are_buffered_and_applied_after_it() -> None:
    """Nothing is reported before the state of this join; then the state, and the buffered diffs in order (R45)."""
    roster = ChannelPresence("room")
    roster.joined(enabled=True)
    assert roster.apply(raw({"bob": [meta("B")]}), raw(EMPTY)) == []
    assert roster.apply(raw({"eve": [meta("E")]}), raw({"ada": [meta("A")]})) == []
    assert refs(roster.state()) == {}
    events = roster.replace(raw({"ada": [meta("A")], "eve": [meta("E")]}))
    assert refs(roster.state()) == {"eve": ["E"], "bob": ["B"]}
    assert isinstance(events[-1], PresenceSync)
    assert sum(isinstance(event, PresenceSync) for event in events) == 1
    assert as_tuples(roster.apply(raw({"zoe": [meta("Z")]}), raw(EMPTY))) == [("join", "zoe", ["Z"], [])], (
        "no longer buffered"
    )


def test_a_new_join_reports_only_differences() -> None:
    """The next join's state replaces the old one, visible until then; only differences are reported (R45)."""
    roster = settled({"ada": [meta("A")], "bob": [meta("B")], "eve": [meta("E")]})
    roster.joined(enabled=True)
    assert refs(roster.state()) == {"ada": ["A"], "bob": ["B"], "eve": ["E"]}
    events = roster.replace(raw({"ada": [meta("A")], "bob": [meta("B2", "B")], "zoe": [meta("Z")]}))
    assert sorted(as_tuples(events)) == [
        ("join", "zoe", ["Z"], []),
        ("leave", "eve", [], ["E"]),
        ("update", "bob", ["B2"], ["B"]),
    ]
    assert refs(roster.state()) == {"ada": ["A"], "bob": ["B2"], "zoe": ["Z"]}


def test_diffs_buffered_for_an_old_join_are_dropped_with_it() -> None:
    """Diffs buffered for a join that ended are not applied to the state of the next (R45)."""
    roster = ChannelPresence("room")
    roster.joined(enabled=True)
    roster.apply(raw({"ghost": [meta("G")]}), raw({"ada": [meta("A")]}))
    roster.joined(enabled=True)
    roster.replace(raw({"ada": [meta("A")]}))
    assert refs(roster.state()) == {"ada": ["A"]}


def test_diffs_for_an_older_join_are_dropped_when_it_closes() -> None:
    """Diffs received before the close of an older join are included in the state that follows (R45)."""
    roster = ChannelPresence("room")
    roster.joined(enabled=True)
    roster.apply(raw({"ghost": [meta("G")]}), raw(EMPTY))
    roster.older_join_ended()
    roster.apply(raw({"bob": [meta("B")]}), raw(EMPTY))
    roster.replace(raw({"ada": [meta("A")]}))
    assert refs(roster.state()) == {"ada": ["A"], "bob": ["B"]}
    roster.older_join_ended()
    assert refs(roster.state()) == {"ada": ["A"], "bob": ["B"]}


def test_a_join_without_presence_clears_the_state() -> None:
    """A join without presence receives no state, so the state of the previous join is cleared (R45)."""
    roster = settled({"ada": [meta("A")]})
    roster.joined(enabled=False)
    assert refs(roster.state()) == {}
    assert as_tuples(roster.apply(raw({"bob": [meta("B")]}), raw(EMPTY))) == [("join", "bob", ["B"], [])], (
        "not buffered"
    )


def test_an_unrequested_state_is_applied() -> None:
    """Old servers send an unrequested state, which is applied."""
    roster = ChannelPresence("room")
    roster.joined(enabled=False)
    assert as_tuples(roster.replace(raw({"ada": [meta("A")]}))) == [("join", "ada", ["A"], [])]


def test_an_empty_state_is_reported() -> None:
    """Each presence_state causes one sync, even if it is empty and nothing changed (R45)."""
    roster = settled(EMPTY)
    (event,) = roster.replace(raw(EMPTY))
    assert isinstance(event, PresenceSync)
    assert event.state == {}


def test_snapshots_do_not_change() -> None:
    """A returned snapshot never changes and is read-only (R45)."""
    roster = settled({"ada": [meta("A")]})
    before = roster.state()
    roster.apply(raw({"bob": [meta("B")]}), raw(EMPTY))
    assert refs(before) == {"ada": ["A"]}
    with pytest.raises(TypeError):
        before["x"] = ()  # pyright: ignore[reportIndexIssue]


def test_payloads_exclude_the_members_of_the_server() -> None:
    """`payload` is what was tracked; ref and previous ref are separate attributes (R45)."""
    roster = settled({"ada": [meta("B", "A", name="Ada", phx_custom=1)]})
    (one,) = roster.state()["ada"]
    assert isinstance(one, Presence)
    assert (one.key, one.ref, one.previous_ref, one.payload) == ("ada", "B", "A", {"name": "Ada"})


def test_the_number_of_buffered_diffs_is_bounded() -> None:
    """Memory is bounded if a server sends diffs forever and no state (R45)."""
    roster = ChannelPresence("room")
    roster.joined(enabled=True)
    for number in range(5000):
        roster.apply(raw({"ada": [meta(f"{number}", f"{number - 1}")]}), raw({"ada": [meta(f"{number - 1}")]}))
    assert 0 < roster.buffered_diffs <= 1000
    roster.replace(raw({"ada": [meta("4999")]}))
    assert refs(roster.state()) == {"ada": ["4999"]}


# --- malformed frames

ODD: list[tuple[bytes, dict[str, list[str]]]] = [
    (b"null", {}),
    (b"[]", {"ada": ["A"]}),
    (b"5", {"ada": ["A"]}),
    (b'{"bob":null}', {}),
    (b'{"bob":{}}', {}),
    (b'{"bob":{"metas":null}}', {}),
    (b'{"bob":{"metas":[]}}', {}),
    (b'{"bob":{"metas":[null,5,"x",{"phx_ref":"B"}]}}', {"bob": ["B"]}),
    (b'{"bob":{"metas":[{"phx_ref":7}]}}', {"bob": ["7"]}),
    (b'{"bob":{"metas":[{"phx_ref":"B","phx_ref_prev":5}]}}', {"bob": ["B"]}),
    (b'{"bob":{"metas":[{"name":"no ref"}]}}', {"bob": [""]}),
    (b'{"bob":{"metas":[{"phx_ref":"B"}],"more":1},"eve":5}', {"bob": ["B"]}),
    (b"{", {"ada": ["A"]}),
]


@pytest.mark.parametrize(("data", "expected"), ODD)
def test_malformed_states_are_read_in_part(data: bytes, expected: dict[str, list[str]]) -> None:
    """Members of the right shape count, others are omitted, and nothing raises (R40, R45)."""
    roster = settled({"ada": [meta("A")]})
    roster.replace(Raw(data))
    assert refs(roster.state()) == expected


@pytest.mark.parametrize(("data", "_"), ODD)
def test_malformed_diffs_do_not_raise(data: bytes, _: object) -> None:
    """Either half of a diff may be malformed: the other half of a readable one is applied (R40, R45)."""
    for halves in ((Raw(data), raw(EMPTY)), (raw(EMPTY), Raw(data))):
        roster = settled({"ada": [meta("A")]})
        roster.apply(*halves)
        assert "ada" in roster.state()


# --- against the model

KEYS = st.sampled_from(["ada", "bob", "eve"])
REFS = st.sampled_from([f"r{number}" for number in range(8)])
METAS = st.lists(st.builds(meta, REFS, st.none() | REFS), max_size=3, unique_by=lambda one: one["phx_ref"])
ENTRIES = st.dictionaries(KEYS, METAS, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("state"), ENTRIES),
        st.tuples(st.just("diff"), ENTRIES, ENTRIES),
        st.tuples(st.just("join"), st.booleans()),
        st.tuples(st.just("leave")),
    ),
    max_size=12,
)


class Model:
    """The documented rules of presence with plain lists: known refs are not added twice, listed refs are removed."""

    def __init__(self) -> None:
        self.state: dict[str, list[str]] = {}
        self.held: list[tuple[Entries, Entries]] | None = None

    def take(self, step: Any) -> None:
        """Apply one step."""
        match step:
            case ("join", enabled):
                self.held = [] if enabled else None
                if not enabled:
                    self.state = {}
            case ("leave",):
                self.state, self.held = {}, None
            case ("state", entries):
                self.state = {key: [one["phx_ref"] for one in metas] for key, metas in entries.items() if metas}
                held, self.held = self.held or [], None
                for joins, leaves in held:
                    self.apply(joins, leaves)
            case ("diff", joins, leaves):
                if self.held is None:
                    self.apply(joins, leaves)
                else:
                    self.held.append((joins, leaves))
            case _:
                raise AssertionError(step)

    def apply(self, joins: Entries, leaves: Entries) -> None:
        """Apply the joins, then the leaves."""
        for key, metas in joins.items():
            here = self.state.setdefault(key, [])
            here += [one["phx_ref"] for one in metas if one["phx_ref"] not in here]
        for key, metas in leaves.items():
            removed = {one["phx_ref"] for one in metas}
            self.state[key] = [ref for ref in self.state.get(key, []) if ref not in removed]
        self.state = {key: here for key, here in self.state.items() if here}


def perform(roster: ChannelPresence, step: Any) -> list[PresenceEvent]:
    """Apply the same step to the presence state."""
    match step:
        case ("join", enabled):
            roster.joined(enabled=enabled)
        case ("leave",):
            roster.clear()
        case ("state", entries):
            return roster.replace(raw(entries))
        case ("diff", joins, leaves):
            return roster.apply(raw(joins), raw(leaves))
        case _:
            raise AssertionError(step)
    return []


@given(STEPS)
def test_any_sequence_of_states_and_diffs_equals_the_model(steps: list[Any]) -> None:
    """Whatever states, diffs, joins and leaves come, the state equals that of the model (R45)."""
    roster, model = ChannelPresence("room"), Model()
    for step in steps:
        perform(roster, step)
        model.take(step)
        assert refs(roster.state()) == model.state


def here(state: PresenceState) -> dict[str, set[str]]:
    """Return the present refs by key; the server's order has no meaning."""
    return {key: {one.ref for one in metas} for key, metas in state.items()}


@given(STEPS)
def test_the_events_add_up_to_the_state(steps: list[Any]) -> None:
    """The events alone describe the state, between two syncs and through every rejoin (R45)."""
    roster = ChannelPresence("room")
    known: dict[str, set[str]] = {}
    for step in steps:
        events = perform(roster, step)
        if step[0] == "leave" or step == ("join", False):
            known = {}
        for event in events:
            if isinstance(event, PresenceSync):
                assert event is events[-1]
                assert here(event.state) == known
                continue
            before, after = ({one.ref for one in metas} for metas in (event.previous, event.current))
            assert known.get(event.key, set()) in (before, after), (
                "changes of a key in one frame are reported one by one"
            )
            known[event.key] = after
            if not event.current:
                del known[event.key]
        assert here(roster.state()) == known


# --- through the session


def test_presence_frames_cause_events(each: Harness) -> None:
    """State and diffs reach listeners of the active join, in both versions, whatever the keys are called (R45)."""
    each.open()
    room = each.channel()
    events = each.collect(room, presence())
    each.join(room)
    ref = each.sent("phx_join")[-1].ref if each.options.protocol == "2.0.0" else None
    names = ("status", "event", "payload", "response", "ids", "data", "joins", "meta", "ada")
    state = {name: {"metas": [meta(f"ref of {name}", at=name)]} for name in names}
    each.receive(room, "presence_diff", {"joins": {}, "leaves": {"ada": {"metas": [meta("ref of ada")]}}})
    assert events == []
    each.receive(room, "presence_state", state, join_ref=ref)
    assert set(each.session.presence_state(room)) == set(names) - {"ada"}
    assert each.session.presence_state(room)["status"][0].payload == {"at": "status"}
    assert isinstance(events[-1], PresenceSync)
    each.call(each.session.leave, room, 10.0)
    each.reply(each.sent("phx_leave")[-1])
    assert each.session.presence_state(room) == {}


def test_presence_of_topics_is_separate(each: Harness) -> None:
    """Two channels have separate presence states (R45)."""
    each.open()
    one, two = each.joined("one", presence_key="a"), each.joined("two", presence_key="a")
    each.receive(one, "presence_state", {"ada": {"metas": [meta("A")]}})
    each.receive(two, "presence_state", {"bob": {"metas": [meta("B")]}})
    assert set(each.session.presence_state(one)) == {"ada"}
    assert set(each.session.presence_state(two)) == {"bob"}


def test_presence_of_too_many_members_is_bounded_and_counted() -> None:
    """The number of members of a key and the number of keys are limited; dropped ones are counted."""
    metas = [meta(str(number)) for number in range(MAX_METAS + 5)]
    roster = settled({"a": metas})
    assert (len(roster.state()["a"]), roster.malformed) == (MAX_METAS, 1)
    assert not roster.apply(raw({"a": [meta("more")]}), raw({}))
    assert (len(roster.state()["a"]), roster.malformed) == (MAX_METAS, 2)
    left = roster.apply(raw({}), raw({"a": [meta("0")]}))
    assert len(as_tuples(left)) == 1 and len(roster.state()["a"]) == MAX_METAS - 1
    roster = settled({str(number): [meta("1")] for number in range(MAX_KEYS)})
    assert not roster.apply(raw({"one more": [meta("1")]}), raw({}))
    assert (len(roster.state()), roster.malformed) == (MAX_KEYS, 1)


def test_buffered_diffs_are_bounded_in_bytes() -> None:
    """The oldest diffs are dropped, since the state that follows includes them."""
    roster = ChannelPresence("room")
    roster.joined(enabled=True)
    for number in range(10):
        roster.apply(raw({str(number): [meta("1", text="x" * 10_000_000)]}), raw({}))
    events = roster.replace(raw({}))
    assert [event.key for event in events if isinstance(event, PresenceJoin)] == ["7", "8", "9"]


def test_presence_over_the_limits_is_reported(harness: Harness) -> None:
    """Dropped presence is logged and counted."""
    harness.open()
    room = harness.channel()
    harness.collect(room, presence())
    harness.join(room)
    harness.receive(room, "presence_state", {"a": {"metas": [{"phx_ref": str(n)} for n in range(MAX_METAS + 1)]}})
    assert len(harness.reports(UnreadableFrame)) == 1 == harness.session.stats().malformed_presence
