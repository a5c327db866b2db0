"""Presence on one topic: diffs, states, replies and limits."""

from typing import Any

import pytest

from supawire.server.limits import ServerLimits
from supawire.server.rooms import RoomPresence
from tests.server.world import OK, World, system

ENABLED = {"presence": {"enabled": True, "key": "ada"}}


def test_a_first_payload_joins() -> None:
    """The diff has the new entry with its phx_ref as a join, and no leaves."""
    diff = RoomPresence().track(1, "ada", {"at": "desk"}, "ref-1")
    assert diff is not None
    assert diff.joins == {"ada": {"metas": [{"at": "desk", "phx_ref": "ref-1"}]}}
    assert diff.leaves == {}


def test_an_update_joins_the_new_and_leaves_the_old() -> None:
    """The new meta has the ref of the previous one, and the old meta leaves unchanged."""
    roster = RoomPresence()
    roster.track(1, "ada", {"n": 1}, "ref-1")
    roster.track(1, "ada", {"n": 2}, "ref-2")
    diff = roster.track(1, "ada", {"n": 3}, "ref-3")
    assert diff is not None
    assert diff.joins["ada"]["metas"] == [{"n": 3, "phx_ref": "ref-3", "phx_ref_prev": "ref-2"}]
    assert diff.leaves["ada"]["metas"] == [{"n": 2, "phx_ref": "ref-2", "phx_ref_prev": "ref-1"}]


@pytest.mark.parametrize(("old", "new", "changed"), [({"n": 1}, {"n": 1}, False), ({"n": 1}, {"n": True}, True)])
def test_the_same_payload_gives_no_diff(old: dict[str, Any], new: dict[str, Any], changed: bool) -> None:
    """Tracking an equal payload has no effect; 1 and true are different."""
    roster = RoomPresence()
    roster.track(1, "ada", old, "ref-1")
    assert (roster.track(1, "ada", new, "ref-2") is not None) is changed


def test_channels_may_share_a_key() -> None:
    """Each channel has one meta of the key, which leaves separately."""
    roster = RoomPresence()
    roster.track(1, "ada", {"tab": 1}, "ref-1")
    roster.track(2, "ada", {"tab": 2}, "ref-2")
    assert [meta["tab"] for meta in roster.state()["ada"]["metas"]] == [1, 2]
    diff = roster.untrack(1)
    assert diff is not None and diff.leaves["ada"]["metas"] == [{"tab": 1, "phx_ref": "ref-1"}]
    assert list(roster.keys()) == ["ada"]
    assert roster.untrack(1) is None


def test_a_track_is_sent_to_all_channels() -> None:
    """All channels, including its own, get one diff with null refs and a phx_ref of 16 characters."""
    world = World()
    ada, bob = world.connect(), world.connect(vsn="1.0.0")
    ada.join(config=ENABLED)
    bob.join(config={"presence": {"enabled": True}})
    ada.take()
    bob.take()
    ref = ada.track("realtime:lab", {"at": "desk"})
    diff = bob.events("presence_diff")[0]
    (meta,) = diff["joins"]["ada"]["metas"]
    assert meta["at"] == "desk" and len(meta["phx_ref"]) == 16
    assert ["1", ref, "realtime:lab", "phx_reply", OK] in ada.got
    assert [None, None, "realtime:lab", "presence_diff", diff] in ada.got


def test_the_state_is_sent_once_after_a_join_with_presence() -> None:
    """It is complete and has the join_ref."""
    world = World()
    ada, bob = world.connect(), world.connect()
    ada.join(config=ENABLED)
    ada.track("realtime:lab", {"n": 1})
    ref = bob.join(config={"presence": {"enabled": True}})
    state = bob.got[-1]
    assert state[:4] == [ref, None, "realtime:lab", "presence_state"]
    assert state[4]["ada"]["metas"][0]["n"] == 1


def test_without_enabled_there_are_diffs_but_no_state() -> None:
    """A public channel receives diffs also without `enabled`."""
    world = World()
    ada, bob = world.connect(), world.connect()
    bob.join()
    assert not bob.events("presence_state")
    ada.join(config=ENABLED)
    ada.track("realtime:lab", {})
    assert bob.events("presence_diff")


def test_a_missing_key_is_generated() -> None:
    """An empty key is replaced by a UUID that is not sent to the client."""
    world = World()
    ada = world.connect()
    ada.join(config={"presence": {"enabled": True, "key": ""}})
    ada.track("realtime:lab", {})
    (key,) = ada.events("presence_diff")[0]["joins"]
    assert len(key) == 36 and key.count("-") == 4


@pytest.mark.parametrize("how", ["leave", "disconnect", "rejoin", "close"])
def test_the_entry_is_removed_with_the_channel(how: str) -> None:
    """A leave, a lost socket, a new join and a close by the server all give the others a leave."""
    world = World()
    ada, bob = world.connect(), world.connect()
    ada.join(config=ENABLED)
    ada.track("realtime:lab", {"n": 1})
    bob.join(config={"presence": {"enabled": True}})
    bob.take()
    if how == "leave":
        ada.push("realtime:lab", "phx_leave", {}, join_ref="1")
    elif how == "disconnect":
        ada.disconnect()
    elif how == "rejoin":
        ada.join(config=ENABLED)
    else:
        world.fault("drop_connections", 1012, connection=ada.number)
    (diff,) = bob.events("presence_diff")
    assert diff["joins"] == {} and diff["leaves"]["ada"]["metas"][0]["n"] == 1


NOT_A_MAP = {"status": "error", "response": {"reason": "Presence track payload must be a map"}}
ERROR = {"status": "error", "response": {}}


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        ({"type": "presence", "event": "bogus"}, ERROR),
        ({"type": "presence"}, OK),
        ({"type": "presence", "event": "track", "payload": "str"}, NOT_A_MAP),
        ({"type": "presence", "event": "track", "payload": None}, OK),
        ({"type": "presence", "event": "track"}, OK),
        ({"type": "presence", "event": "TRACK", "payload": {"UP": 1}}, OK),
        ({"type": "presence", "event": "untrack"}, OK),
        ({"type": "presence", "event": 5}, ERROR),
        ("text", OK),
    ],
)
def test_every_presence_push_is_answered(payload: Any, answer: Any) -> None:
    """Valid, empty and invalid pushes each have their reply."""
    world = World()
    ada = world.connect()
    ada.join(config=ENABLED)
    ref = ada.push("realtime:lab", "presence", payload, join_ref="1")
    assert ["1", ref, "realtime:lab", "phx_reply", answer] in ada.got


def test_the_sixth_push_in_thirty_seconds_closes_the_channel() -> None:
    """It gets no reply but a system error and phx_close, and the others get the leave."""
    world = World(limits=ServerLimits.self_hosted())
    ada, bob = world.connect(), world.connect()
    ada.join(config=ENABLED)
    bob.join()
    for n in range(5):
        ada.track("realtime:lab", {"n": n})
    ada.take()
    bob.take()
    ada.track("realtime:lab", {"n": 5})
    assert ada.received() == [("system", system("Client presence rate limit exceeded")), ("phx_close", {})]
    assert bob.events("presence_diff")[0]["leaves"]["ada"]


def test_five_pushes_every_thirty_seconds_are_allowed() -> None:
    """A window ends 30 s after its first push."""
    world = World(limits=ServerLimits.self_hosted())
    ada = world.connect()
    ada.join(config=ENABLED)
    for _ in range(3):
        for n in range(5):
            ada.track("realtime:lab", {"n": n})
        world.run(30.0)
    assert not ada.events("system")


def test_a_tracked_payload_that_is_too_big_closes_the_channel() -> None:
    """The channel gets `Track message size exceeded`, then phx_close."""
    world = World(limits=ServerLimits(payload_kb=1))
    ada = world.connect()
    ada.join(config=ENABLED)
    ada.take()
    ada.track("realtime:lab", {"x": "a" * 2000})
    assert ada.received() == [("system", system("Track message size exceeded")), ("phx_close", {})]


def test_a_track_over_the_presence_rate_closes_the_channel() -> None:
    """The channel gets `Too many presence messages per second` once the average is over the limit."""
    world = World(limits=ServerLimits(presence=1))
    ada = world.connect()
    ada.join(config=ENABLED)
    for n in range(10):
        ada.track("realtime:lab", {"n": n})
    world.run(5.0)
    ada.take()
    ada.track("realtime:lab", {"n": 10})
    assert ada.received() == [("system", system("Too many presence messages per second")), ("phx_close", {})]
