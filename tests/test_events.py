"""Events: printing, comparing, copying, pickling and creating them."""

import copy
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
from msgspec import Raw

from supawire import (
    Broadcast,
    ChannelState,
    Gap,
    InvalidArgumentError,
    JoinError,
    RowError,
    Status,
    System,
    broadcast,
    changes,
    gaps,
    presence,
    status,
    system,
    testing,
)
from supawire._values.models import check_model
from supawire.events import ChangeData, Insert, LateBroadcast, Presence, PresenceSync, presence_with_model

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2lnbmF0dXJl"


@dataclass
class User:
    id: int
    name: str = ""


ROW = {"id": 7, "name": "alice"}
ALICE = testing.presence("alice", {"at": 1}, ref="a")
PHONE = testing.presence("alice", {"at": 2}, ref="b", previous_ref="a")


def modelled(event: PresenceSync) -> Any:
    """Return the event as a listener with `model=` receives it."""
    model = check_model(User)
    assert model is not None
    return presence_with_model(event, model)


MAKERS: dict[str, Any] = {
    "insert": lambda: testing.insert("users", ROW, commit_timestamp=NOW),
    "insert with a model": lambda: testing.insert("users", ROW, model=User),
    "update": lambda: testing.update("users", ROW, {"id": 7}),
    "delete": lambda: testing.delete("users", {"id": 7}, errors=["Error 401: Unauthorized"]),
    "broadcast": lambda: testing.broadcast("typing", {"user": "alice"}, id="1", replayed=True),
    "broadcast with a model": lambda: testing.broadcast("typing", {"id": 1}, model=User),
    "bytes": lambda: testing.broadcast("typing", b"\x00\x01"),
    "presence": lambda: testing.presence("alice", {"at": 1}, ref="a"),
    "presence with a model": lambda: testing.presence("alice", {"id": 1}, ref="a", model=User),
    "join": lambda: testing.presence_join(ALICE, PHONE, previous=[ALICE]),
    "leave": lambda: testing.presence_leave(ALICE),
    "update of presence": lambda: testing.presence_update(PHONE, ALICE),
    "sync": lambda: testing.presence_sync(ALICE, PHONE, testing.presence("bob", ref="c")),
    "sync with a model": lambda: modelled(testing.presence_sync(testing.presence("alice", {"id": 1}, ref="a"))),
    "system": lambda: System("room", "postgres_changes", "ok", "Subscribed to PostgreSQL"),
    "gap": lambda: Gap("room", NOW, NOW, "connection_lost", 3, "complete", frozenset({"changes"})),
    "status": lambda: Status("room", ChannelState.FAILED, ChannelState.JOINING, JoinError("refused", hint="ask")),
    "row inserted": lambda: testing.row_inserted(ROW, key="id", model=User),
    "row updated": lambda: testing.row_updated(ROW, {"id": 7, "name": "a"}, key=("id",)),
    "row deleted": lambda: testing.row_deleted(ROW, key="id"),
    "resynced": lambda: testing.resynced([ROW], key="id", model=User),
}
EVERY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@EVERY
def test_events_with_equal_contents_are_equal(make: Any):
    """Events with equal contents are equal and have the same hash."""
    assert make() == make() and hash(make()) == hash(make())
    assert make() != object() and make() != None  # noqa: E711


def test_events_with_other_contents_differ():
    """Events of other classes or with other contents are not equal."""
    made = [make() for make in MAKERS.values()]
    assert all((one == other) is (one is other) for one in made for other in made)


@EVERY
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
@pytest.mark.parametrize(
    "copied",
    [lambda event: pickle.loads(pickle.dumps(event)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deep"],
)
def test_a_copy_is_equal(make: Any, read: bool, copied: Any):
    """The results of pickle, copy and deepcopy are equal and readable, whatever was read before."""
    event = make()
    if read:
        for name in ("record", "old_record", "payload", "state", "rows", "row"):
            getattr(event, name, None)
    other = copied(event)
    assert other == event == make() and type(other) is type(event) and repr(other) == repr(event)
    for name in ("record", "old_record", "payload", "state", "row", "rows", "changes"):
        assert getattr(other, name, None) == getattr(event, name, None)


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        ("insert", "Insert(topic='test', schema='public', table='users', record={'id': 7, 'name': 'alice'}, "),
        ("insert", ", commit_timestamp='2026-01-02T03:04:05+00:00')"),
        ("insert with a model", "record={'id': 7, 'name': 'alice'}"),
        ("update", "record={'id': 7, 'name': 'alice'}, old_record={'id': 7}"),
        ("delete", "Delete(topic='test', schema='public', table='users', old_record={'id': 7}, errors=['Error 401: "),
        ("broadcast", "Broadcast(topic='test', event='typing', payload={'user': 'alice'}, id='1', replayed=True)"),
        ("broadcast with a model", "payload={'id': 1}"),
        ("bytes", r"payload=b'\x00\x01'"),
        ("presence", "Presence(key='alice', payload={'at': 1}, ref='a')"),
        ("presence with a model", "Presence(key='alice', payload={'id': 1}, ref='a')"),
        ("sync with a model", "state={'alice': (Presence(key='alice', payload={'id': 1}, ref='a'),)}"),
        ("join", "current=(Presence(key='alice', payload={'at': 1}, ref='a'), "),
        ("sync", "state={'alice': (Presence("),
        ("row updated", "RowUpdated(key=7, row={'id': 7, 'name': 'alice'}, old={'id': 7, 'name': 'a'})"),
        ("resynced", "Resynced(reason='first', rows={7: {'id': 7, 'name': 'alice'}})"),
    ],
)  # fmt: skip
def test_print_shows_the_payload(made: str, shown: str):
    """`print(event)` shows the payload or row, and the topic."""
    assert shown in str(MAKERS[made]())


WIDE = {f"c{number}": "x" * 50 for number in range(5000)}


@pytest.mark.parametrize(
    "event",
    [
        testing.insert("t", {"a": "x" * 100_000}),
        testing.insert("t", WIDE),
        testing.update("t", WIDE, WIDE),
        testing.insert("t", {"n": Decimal("1" * 5000)}),
        testing.broadcast("e", list(range(100_000))),
        testing.broadcast("e", "y" * 100_000),
        testing.broadcast("e", b"z" * 100_000),
        Broadcast("r", "e", 10**5000),
        Broadcast("r", "e", msgspec.json.decode("[" * 500 + "]" * 500)),
        testing.presence("k" * 5000, WIDE),
        testing.presence_join(*[testing.presence("k", {"n": 1}) for _ in range(5000)]),
        testing.presence_sync(*[testing.presence(str(n), {"n": 1}) for n in range(5000)]),
        testing.resynced([{"id": n} for n in range(5000)], key="id"),
        System("room", "system", "error", "e" * 100_000),
    ],
)
def test_the_repr_has_a_maximum_length(event: Any):
    """The text of an event is limited, however large the event is."""
    assert len(repr(event)) < 3000


class FailingRepr:
    def __repr__(self) -> str:
        raise ValueError("no")


def test_a_failing_repr_of_a_user_class_is_replaced():
    """When the `__repr__` of a user's class raises, the class and the exception are named instead."""
    assert "<FailingRepr whose repr raised ValueError>" in repr(Broadcast("room", "e", [FailingRepr()]))


@pytest.mark.parametrize(
    "event",
    [
        testing.broadcast("e", {"access_token": "hush"}),
        testing.broadcast("e", {"deep": [{"Refresh-Token": "hush"}]}),
        testing.broadcast("e", {"note": f"hush? {JWT}"[6:]}),
        testing.insert("users", {"id": 1, "encrypted_password": "hush", "api_key": "hush"}),
        testing.insert("users", {"id": 1, "v": "sb_secret_hush"}),
        testing.presence("a", {"token": {"inner": "hush"}}),
        testing.row_inserted({"id": 1, "password": "hush"}, key="id"),
        System("room", "system", "error", f"token {JWT}"),
    ],
)
def test_secrets_are_not_printed(event: Any):
    """Tokens, secret keys, and values under names such as password are replaced."""
    assert "hush" not in repr(event) and JWT[:20] not in repr(event) and "***" in repr(event)


def test_unreadable_data_can_be_printed_compared_and_copied():
    """An event with unreadable data raises an error only when the data is read."""
    broken = ChangeData("public", "users", "INSERT", None, Raw(b"["), Raw(b"{"), Raw(b"null"), Raw(b"?"))
    change = Insert[Any]("room", broken)
    assert repr(change).startswith("Insert(topic='room', schema='public', table='users', record=<1 bytes that cannot")
    assert change == pickle.loads(pickle.dumps(change)) and hash(change) == hash(copy.deepcopy(change))
    with pytest.raises(RowError):
        print(change.record)
    message = LateBroadcast[Any]("room", "e", msgspec.UNSET, None, False, b"", Raw(b"{x"), None)
    assert "payload=<2 bytes that cannot be read>" in repr(message) and message == copy.copy(message)
    invalid = Presence("key", "ref", None, Raw(b"{"))
    assert "payload=<1 bytes" in repr(invalid) and invalid == copy.copy(invalid)


def test_printing_creates_no_model_objects():
    """Printing and comparing do not run code of the user's classes."""
    made: list[int] = []

    @dataclass
    class Counted:
        id: int

        def __post_init__(self) -> None:
            made.append(self.id)

    change = testing.insert("t", {"id": 1}, model=Counted)
    message = testing.broadcast("e", {"id": 2}, model=Counted)
    entry = testing.presence("alice", {"id": 3}, model=Counted)
    print(change, message, change == copy.copy(change), hash(message))
    print(entry, entry == testing.presence("alice", {"id": 4}, ref=entry.ref, model=Counted))
    assert made == []
    assert (change.record.id, message.payload.id, made) == (1, 2, [1, 2])


def test_created_events_equal_received_ones():
    """Rows are converted to the wire format and decoded as exact Python values."""
    row = {
        "id": 1,
        "at": NOW,
        "price": Decimal("1.50"),
        "tags": ["a"],
        "key": UUID(int=3),
        "doc": {"a": [1]},
        "n": None,
    }
    change = testing.insert("orders", row, topic="db", commit_timestamp=NOW)
    assert change.record == row and change.commit_timestamp == NOW and change.topic == "db"
    assert [column.type for column in change.columns][:3] == ["int8", "timestamptz", "numeric"]
    typed = testing.update("orders", {"id": 1}, {"id": 2}, columns={"id": "int4", "note": "text"})
    assert (typed.columns[1].name, typed.old_record, typed.type) == ("note", {"id": 2}, "UPDATE")
    assert testing.delete("orders", {"id": 2}, errors=["Error 413: Payload Too Large"]).truncated
    assert testing.insert("users", ROW, model=User).record == User(7, "alice")
    assert testing.broadcast("e", {"id": 7}, model=User).payload == User(7)
    assert testing.presence("alice", {"id": 7}, model=User).payload == User(7)
    assert testing.presence_sync(ALICE, PHONE).state == {"alice": (ALICE, PHONE)}
    assert testing.row_inserted(ROW, key="id", model=User).row == User(7, "alice")
    (change,) = testing.resynced([ROW], [], key=["id"]).changes
    assert change == testing.row_inserted(ROW, key="id")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: testing.insert("t", cast("Any", [1])), "record must be a mapping"),
        (lambda: testing.insert("t", {"a": object()}), "no column type"),
        (lambda: testing.broadcast("e", {1, object()}), "cannot be encoded as JSON"),
        (lambda: testing.presence_join(), "0 keys"),
        (lambda: testing.presence_join(ALICE, testing.presence("bob")), "2 keys"),
        (lambda: testing.row_deleted({"a": 1}, key="id"), "a row has no id"),
        (lambda: testing.row_deleted({"a": 1}, key=[]), "key must be"),
    ],
)
def test_invalid_arguments_for_events_are_refused(call: Any, expected: str):
    """An invalid argument raises an error that names it."""
    with pytest.raises(InvalidArgumentError, match=expected):
        call()


@pytest.mark.parametrize(
    ("selector", "shown"),
    [
        (broadcast("typing"), "broadcast('typing')"),
        (broadcast("typing", model=User), "broadcast('typing', model=User)"),
        (changes("users"), "changes('users')"),
        (changes("users", schema="app", event="INSERT", filter="id=eq.1", select=["id"], model=User),
         "changes('users', schema='app', event='INSERT', filter='id=eq.1', select=('id',), model=User)"),
        (presence(), "presence()"), (presence(model=User), "presence(model=User)"),
        (system(), "system()"), (gaps(), "gaps()"), (status(), "status()"),
    ],
)  # fmt: skip
def test_the_repr_of_a_selector_is_the_call(selector: object, shown: str):
    """The repr is the expression that creates the selector."""
    assert repr(selector) == shown


def test_a_model_is_pickled_as_its_class():
    """Events with `model=` can be pickled."""
    assert pickle.loads(pickle.dumps(check_model(User))) == check_model(User)
