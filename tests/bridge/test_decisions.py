"""Which rows become messages, and in which order messages are sent and tried again."""

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supawire._mirror_events import Resynced, RowDeleted, RowInserted, RowUpdated, RowView
from supawire.bridge.decisions import Delivery, TableChanges
from supawire.bridge.messages import BridgeMessage, Draft, Failure, Result
from supawire.options import Backoff

VIEW = RowView(lambda row: row["id"], dict)
BACKOFF = Backoff(initial=1, maximum=8, jitter=0)


def resynced(reason: str, *rows: dict[str, Any]) -> Resynced[Any]:
    return Resynced(reason, {}, {row["id"]: row for row in rows}, VIEW)


def table(rows: dict[bytes, bytes] | None = None, *, snapshot: bool = True) -> TableChanges:
    return TableChanges("public", "items", ["id"], {} if rows is None else rows, snapshot=snapshot)


def shown(drafts: list[Draft]) -> list[tuple[str, Any, Any]]:
    bodies = [json.loads(draft.body or b"{}") for draft in drafts]
    return [(body["type"], body["key"]["id"], body.get("resynced")) for body in bodies]


def test_changes_become_messages():
    """Each change of a row becomes one message, with the key and the new row, and an update of the key two."""
    changes = table()
    assert shown(list(changes.drafts(resynced("first", {"id": 1, "v": 1})))) == [("INSERT", 1, "start")]
    drafts = list(changes.drafts(RowInserted({"id": 2, "v": 1}, VIEW)))
    drafts += changes.drafts(RowUpdated({"id": 2, "v": 2}, {"id": 2, "v": 1}, VIEW))
    drafts += changes.drafts(RowUpdated({"id": 3, "v": 2}, {"id": 2, "v": 2}, VIEW))
    drafts += changes.drafts(RowDeleted({"id": 3, "v": 2}, VIEW))
    assert shown(drafts) == [
        ("INSERT", 2, None), ("UPDATE", 2, None), ("DELETE", 2, None), ("INSERT", 3, None), ("DELETE", 3, None),
    ]  # fmt: skip
    assert json.loads(drafts[1].body or b"") == {
        "kind": "change", "type": "UPDATE", "schema": "public", "table": "items", "key": {"id": 2},
        "record": {"id": 2, "v": 2},
    }  # fmt: skip


def test_only_differences_become_messages_after_a_gap():
    """After a gap or a restart, rows that are unchanged become no message, and rows that are gone become a DELETE."""
    known: dict[bytes, bytes] = {}
    list(table(known).drafts(resynced("first", {"id": 1, "v": 1}, {"id": 2, "v": 1}, {"id": 3, "v": 1})))
    drafts = list(table(dict(known)).drafts(resynced("first", {"id": 2, "v": 1}, {"id": 3, "v": 9}, {"id": 4, "v": 1})))
    assert shown(drafts) == [("DELETE", 1, "start"), ("UPDATE", 3, "start"), ("INSERT", 4, "start")]


def test_the_order_of_members_does_not_make_a_difference():
    """A row whose JSON column has its members in another order is the same row."""
    known: dict[bytes, bytes] = {}
    list(table(known).drafts(resynced("first", {"id": 1, "v": {"a": 1, "b": 2}})))
    assert not list(table(known).drafts(resynced("first", {"v": {"b": 2, "a": 1}, "id": 1})))


def test_without_a_snapshot_rows_are_only_recorded():
    """With snapshot=False the rows of the first start are recorded without a message, and later changes are sent."""
    changes = table(snapshot=False)
    first = list(changes.drafts(resynced("first", {"id": 1, "v": 1})))
    assert [(draft.body, draft.digest is None) for draft in first] == [(None, False)]
    assert shown(list(changes.drafts(RowDeleted({"id": 1, "v": 1}, VIEW)))) == [("DELETE", 1, None)]


def message(number: int, key: str) -> BridgeMessage:
    return BridgeMessage(str(number), ("x",), key, b"{}")


def delivery(messages: list[BridgeMessage], *, ordered: bool = False, attempts: int = 3, wave: int = 4) -> Delivery:
    return Delivery(messages, ordered=ordered, wave=wave, attempts=attempts, backoff=BACKOFF)


def test_a_broker_that_is_away_is_tried_without_end():
    """While a broker is away the delays grow to their maximum, and no message is given up."""
    sending = delivery([message(1, "a")])
    delays: list[float] = []
    for _ in range(50):
        step = sending.record(sending.wave(), [Failure("away")], random.Random(1))
        assert not step.dead
        delays.append(step.delay)
    assert delays[:3] == [2, 4, 8] and delays[-1] == 8
    assert sending.record(sending.wave(), ["stored"], random.Random(1)).stored == 1
    assert not sending.wave()


def test_a_refused_message_is_given_up_after_its_attempts():
    """A message that the broker refuses again and again is given up, and the ones behind it are sent."""
    sending = delivery([message(1, "a"), message(2, "a")])
    steps = [sending.record(sending.wave(), [Failure("no", "refused", after=20)], random.Random(1)) for _ in range(3)]
    assert [step.delay for step in steps] == [20, 20, 0]
    assert [[one.id for one, _ in step.dead] for step in steps] == [[], [], ["1"]]
    assert [one.id for one in sending.wave()] == ["2"]


def test_a_rejected_message_is_given_up_at_once():
    """A message that the broker will never take is given up at once, without a delay."""
    sending = delivery([message(1, "a"), message(2, "b")], ordered=True)
    step = sending.record(sending.wave(), [Failure("too large", "rejected"), "duplicate"], random.Random(1))
    assert ([one.id for one, _ in step.dead], step.duplicates, step.delay) == (["1"], 1, 0)
    assert not sending.wave()


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_order_of_each_key_is_kept(keys: list[str], wave: int, luck: random.Random):
    """Whatever the broker answers, the messages of a key are stored in their order, each once."""
    messages = [message(number, key) for number, key in enumerate(keys)]
    sending = delivery(messages, wave=wave)
    stored: list[BridgeMessage] = []
    while chosen := sending.wave():
        assert len(chosen) <= wave and len({one.key for one in chosen}) == len(chosen)
        results: list[Result] = [luck.choice(["stored", Failure("away")]) for _ in chosen]
        stored += [one for one, result in zip(chosen, results, strict=True) if result == "stored"]
        sending.record(chosen, results, luck)
    for key in set(keys):
        assert [one for one in stored if one.key == key] == [one for one in messages if one.key == key]
    assert len(stored) == len(messages)
