"""`presence(model=…)`: tracked payloads as objects of the user's classes."""

from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pytest
from msgspec import Raw
from pydantic import create_model

from supawire import InvalidArgumentError, PresenceJoin, PresenceSync, RowError, presence, testing
from supawire._values.models import check_model
from supawire.core.listeners import ModelAdapter
from supawire.core.presence import ChannelPresence
from supawire.events import Presence
from tests.modelled import refusal, typed_dict

create: Any = create_model  # its arguments depend on the fields
FIELDS: dict[str, Any] = {"name": str, "score": Decimal, "big": int}
KINDS: dict[str, type[Any]] = {
    "dataclass": make_dataclass("User", FIELDS.items()),
    "attrs": attrs.make_class("User", {name: attrs.field(type=of) for name, of in FIELDS.items()}),
    "struct": msgspec.defstruct("User", FIELDS.items(), forbid_unknown_fields=True),
    "TypedDict": typed_dict("User", FIELDS),
    "pydantic": create("User", __config__={"extra": "forbid"}, **{name: (of, ...) for name, of in FIELDS.items()}),
}


@dataclass
class User:
    name: str


def entries(*names: str, of: str = '{{"phx_ref":"{0}","name":"{0}"}}') -> Raw:
    """Return a state, or half of a diff, in which each entry has this key, name and ref."""
    shown = [f'"{name}":{{"metas":[{of.format(name)}]}}' for name in names]
    return Raw(f"{{{','.join(shown)}}}".encode())


def received(*states: Raw, model: type[Any]) -> list[Any]:
    """Return the events that a listener with the model receives when the server sends these states in order."""
    made = check_model(model)
    assert made is not None
    events: list[Any] = []
    deliver, roster = ModelAdapter(events.append, presence(), made), ChannelPresence("room")
    for state in states:
        roster.joined(enabled=True)
        for event in roster.replace(state):
            deliver(event)
    return events


@pytest.mark.parametrize("model", KINDS.values(), ids=KINDS)
def test_entries_become_objects(model: type[Any]):
    """The payload of an entry is an object of the class without the server's own members; numbers are exact."""
    raw = Raw(b'{"phx_ref":"1","phx_ref_prev":"0","name":"alice","score":1.10,"big":9007199254740993}')
    entry: Presence[Any] = Presence("alice", "1", "0", raw, check_model(model))
    payload = entry.payload
    assert payload == model(name="alice", score=Decimal("1.10"), big=9007199254740993) and entry.payload is payload


def test_every_event_has_objects():
    """`current` and `previous` of joins, updates and leaves, and the state of a sync, contain objects."""
    update = entries("alice", of='{{"phx_ref":"2","phx_ref_prev":"{0}","name":"ann"}}')
    join, first, updated, second, left, third = received(entries("alice"), update, entries(), model=User)
    assert [type(event).__name__[8:] for event in (join, updated, left)] == ["Join", "Update", "Leave"]
    assert [entry.payload for entry in join.current] == [User("alice")]
    assert [entry.payload for entry in (*updated.current, *updated.previous)] == [User("ann"), User("alice")]
    assert [entry.payload for entry in left.previous] == [User("ann")]
    assert all(isinstance(event, PresenceSync) for event in (first, second, third))


def test_objects_of_a_state_are_created_on_access():
    """Entries that are not read create no objects; an entry that was read stays the same object."""
    made: list[str] = []

    @dataclass
    class Counted:
        name: str

        def __post_init__(self) -> None:
            made.append(self.name)

    *_, sync = received(entries(*map(str, range(100))), model=Counted)
    assert len(sync.state) == 100 and "7" in sync.state and "alice" not in sync.state and not made
    assert list(sync.state) == list(map(str, range(100)))
    assert sync.state["7"][0].payload is sync.state["7"][0].payload
    assert sync.state.get("alice") is None
    assert made == ["7"]


def test_listeners_with_different_models_are_independent():
    """Listeners without a model or with another one are not affected, and the state is copied once."""
    roster = ChannelPresence("room")
    roster.joined(enabled=True)
    *_, sync = roster.replace(entries("alice"))
    assert isinstance(sync, PresenceSync)
    modelled: list[Any] = []
    for model in KINDS["TypedDict"], User:
        made = check_model(model)
        assert made is not None
        ModelAdapter(modelled.append, presence(), made)(sync)
    assert modelled[1].state["alice"][0].payload == User("alice")
    roster.apply(entries("bob"), entries())
    assert {key: one.payload for key, (one,) in sync.state.items()} == {"alice": {"name": "alice"}}
    assert set(modelled[0].state) == {"alice"}
    assert modelled[0] == modelled[1] == sync and repr(modelled[1]) == repr(sync)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ('{"phx_ref":"1","name":7}', "the payload cannot be converted to User: name: Expected `str`, got `int`"),
        ('{"phx_ref":"1"}', "the payload cannot be converted to User: Object missing required field `name`"),
        ('{"phx_ref":"1","name":', "the presence payload cannot be decoded as JSON"),
    ],
)
def test_an_invalid_entry_raises_on_access(sent: str, message: str):
    """Reading its payload raises RowError with the received entry; the entry can still be printed."""
    entry: Presence[Any] = Presence("alice", "1", None, Raw(sent.encode()), check_model(User))
    for _ in range(2):
        error = refusal(entry, "payload")
        assert str(error).startswith(message) and error.raw == sent.encode()
    assert (entry.key, entry.ref) == ("alice", "1") and repr(entry)


def test_one_invalid_entry_does_not_affect_others():
    """The event and the other entries stay readable."""
    invalid = Raw(b'{"bob":{"metas":[{"phx_ref":"1","name":null}]},' + bytes(entries("alice"))[1:])
    bob, alice, sync = received(invalid, model=User)
    assert isinstance(bob, PresenceJoin) and isinstance(alice, PresenceJoin)
    with pytest.raises(RowError):
        _ = bob.current[0].payload
    assert alice.current[0].payload == sync.state["alice"][0].payload == User("alice")


def test_entries_are_compared_as_sent():
    """Entries that differ only in `model=` are equal, before and after they are read."""
    plain = testing.presence("alice", {"name": "a"}, ref="1")
    modelled = testing.presence("alice", {"name": "a"}, ref="1", model=User)
    other = testing.presence("alice", {"name": "b"}, ref="1", model=User)
    for _ in range(2):
        assert plain == modelled != other and repr(plain) == repr(modelled) and hash(plain) == hash(modelled)
        assert (plain.payload, modelled.payload, other.payload) == ({"name": "a"}, User("a"), User("b"))


@pytest.mark.parametrize("model", [int, dict, "User", User("alice")])
def test_unsupported_models_of_presence_are_refused(model: Any):
    """The error is raised when the selector is created."""
    with pytest.raises(InvalidArgumentError, match="model must be"):
        presence(model=model)
