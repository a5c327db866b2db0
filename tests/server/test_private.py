"""Private channels, stored messages, and the life of tokens (protocol §6.3, §6.4, §7)."""

from typing import Any

import pytest

from supawire.server.authorization import default_policy
from supawire.server.broadcasts import MessageStore
from supawire.server.hub_options import Timings
from supawire.server.limits import ServerLimits
from supawire.server.queries import Replay, StoredMessage
from tests.server.world import OK, Client, World, denied, system

LAB = "realtime:lab"
PRIVATE = {"private": True, "broadcast": {"ack": True, "self": True}, "presence": {"enabled": True}}
PING = {"type": "broadcast", "event": "ping", "payload": {}}
NO_READ = "You do not have permissions to read from this Channel topic: lab"
ERROR = {"status": "error", "response": {}}


def allow(*rights: str) -> Any:
    """A policy that allows these, such as `broadcast read`."""
    return lambda claims, topic, extension, action: f"{extension} {action}" in rights


@pytest.mark.parametrize(
    ("role", "allowed"), [("service_role", True), ("authenticated", True), ("anon", False), ("stranger", False)]
)
def test_without_a_policy_the_role_decides(role: str, allowed: bool) -> None:
    """Signed-in users and the service may do everything, others nothing."""
    assert default_policy({"role": role}, "lab", "broadcast", "read") is allowed
    client = World().connect(token=World().token(role))
    client.join(config={"private": True})
    reply = client.events("phx_reply")[0]
    assert reply["status"] == "ok" if allowed else reply == denied(f"Unauthorized: {NO_READ}")


def test_a_policy_is_asked_with_claims_topic_extension_and_action() -> None:
    """At the join for reading, at the first message and the first track for writing, and then no more."""
    asked: list[tuple[Any, ...]] = []

    def policy(claims: Any, topic: str, extension: str, action: str) -> bool:
        asked.append((claims["sub"], topic, extension, action))
        return True

    world = World(policy=policy)
    client = world.connect(token=world.token(sub="7"))
    client.join(config=PRIVATE)
    assert asked == [("7", "lab", "broadcast", "read"), ("7", "lab", "presence", "read")]
    for _ in range(2):
        client.push(LAB, "broadcast", PING, join_ref="1")
        client.track(LAB, {})
    assert asked[2:] == [("7", "lab", "broadcast", "write"), ("7", "lab", "presence", "write")]


def test_a_policy_that_raises_denies() -> None:
    """It fails closed, and the operator is told without the claims."""

    def policy(*_: Any) -> bool:
        raise KeyError("secret-detail")

    world = World(policy=policy)
    client = world.connect()
    client.join(config={"private": True})
    assert client.events("phx_reply") == [denied(f"Unauthorized: {NO_READ}")]
    assert world.reports == ["the policy raised KeyError for broadcast read on 'lab': denied"]


def test_a_public_channel_asks_no_policy() -> None:
    """Whatever the policy says."""
    client = World(policy=allow()).connect()
    client.join(config={"broadcast": {"ack": True}})
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert client.events("phx_reply")[-1] == OK


def test_who_may_not_write_is_not_answered() -> None:
    """A denied broadcast vanishes, even with `ack`; a denied track has an error without a reason (§6.2, §5.3)."""
    world = World(policy=allow("broadcast read", "presence read"))
    client, other = world.connect(), world.connect()
    for each in (client, other):
        each.join(config=PRIVATE)
        each.take()
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert client.got == [] and other.got == []
    ref = client.track(LAB, {})
    assert client.got == [["1", ref, LAB, "phx_reply", ERROR]]


def test_who_may_not_read_broadcasts_hears_presence_only() -> None:
    """One read right is enough to join; what may not be read is withheld."""
    world = World(policy=allow("presence read", "presence write", "broadcast write"))
    client, other = world.connect(), world.connect()
    for each in (client, other):
        each.join(config=PRIVATE)
    assert client.events("presence_state") == [{}]
    client.take()
    other.push(LAB, "broadcast", PING, join_ref="1")
    other.track(LAB, {})
    assert [event for event, _ in client.heard()] == ["presence_diff"]


def test_who_may_not_read_presence_hears_broadcasts_only() -> None:
    """Neither state nor diffs."""
    world = World(policy=allow("broadcast read", "broadcast write", "presence write"))
    client, other = world.connect(), world.connect()
    for each in (client, other):
        each.join(config=PRIVATE)
        each.take()
    other.track(LAB, {})
    other.push(LAB, "broadcast", PING, join_ref="1")
    assert [event for event, _ in client.heard()] == ["broadcast"]


def test_a_private_channel_without_presence_hears_diffs_after_its_own_track() -> None:
    """Before that neither state nor diffs (protocol §5.4)."""
    world = World()
    client, other = world.connect(), world.connect()
    client.join(config={"private": True})
    other.join(config=PRIVATE)
    client.take()
    other.track(LAB, {"n": 1})
    assert client.got == []
    client.track(LAB, {})
    other.track(LAB, {"n": 2})
    assert [event for event, _ in client.heard()] == ["phx_reply", "presence_diff", "presence_diff"]


def test_public_and_private_are_two_rooms() -> None:
    """Nothing of one reaches the other, presence included."""
    world = World()
    client, other = world.connect(), world.connect()
    client.join(config={"presence": {"enabled": True}})
    other.join(config=PRIVATE)
    client.take()
    other.push(LAB, "broadcast", PING, join_ref="1")
    other.track(LAB, {})
    world.hub.send("lab", "e", {}, world.now)
    assert client.got == []


# --- stored messages ---


def private(world: World, vsn: str = "2.0.0", replay: dict[str, Any] | None = None) -> Client:
    client = world.connect(vsn=vsn)
    broadcast = {} if replay is None else {"replay": replay}
    client.join(config={"private": True, "broadcast": broadcast})
    return client


def test_a_sent_message_is_delivered_with_its_id() -> None:
    """Version 1.0.0 gets `meta`, 2.0.0 kind 4 with metadata, and the payload has the id too (protocol §6.4)."""
    world = World()
    new, old = private(world), private(world, "1.0.0")
    new.take()
    old.take()
    name = world.hub.send("lab", "dbevent", {"from": "db"}, world.now)
    world.pump()
    assert old.events("broadcast") == [
        {"event": "dbevent", "meta": {"id": name}, "payload": {"id": name, "from": "db"}, "type": "broadcast"}
    ]
    assert new.got == [
        b"\x04\x0c\x07\x2d\x01realtime:labdbevent"
        + f'{{"id":"{name}"}}'.encode()
        + f'{{"id":"{name}","from":"db"}}'.encode()
    ]


def test_a_payload_keeps_its_own_id() -> None:
    """Only `meta` has the message's then."""
    world = World()
    old = private(world, "1.0.0")
    name = world.hub.send("lab", "e", {"id": "mine"}, world.now)
    world.pump()
    (payload,) = old.events("broadcast")
    assert (payload["payload"], payload["meta"]) == ({"id": "mine"}, {"id": name})


def test_stored_bytes_reach_version_two_only() -> None:
    """As kind 4, raw, with the id."""
    world = World()
    new, old = private(world), private(world, "1.0.0")
    new.take()
    old.take()
    world.hub.send("lab", "bin", b"\x00\xff", world.now)
    world.pump()
    assert len(new.got) == 1 and new.got[0].endswith(b"}\x00\xff")
    assert old.got == []


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_replay_brings_what_was_stored_oldest_first(vsn: str) -> None:
    """JSON rows as text with `meta`, in 2.0.0 under the join_ref; raw rows as kind 4, for 2.0.0 only (§6.3)."""
    world = World()
    since = int(world.now.wall * 1000)
    names: list[str] = []
    for payload in ({"n": 1}, b"\x01", {"n": 2}):
        names.append(world.hub.send("lab", "e", payload, world.now))
        world.run(1)
    client = private(world, vsn, {"since": since})
    payloads = client.events("broadcast")
    assert [payload["meta"] for payload in payloads] == [
        {"id": names[0], "replayed": True},
        {"id": names[2], "replayed": True},
    ]
    assert [payload["payload"]["n"] for payload in payloads] == [1, 2]
    raw = [frame for frame in client.got if isinstance(frame, bytes)]
    assert len(raw) == (vsn == "2.0.0")
    if vsn == "2.0.0":
        assert client.got[1][:4] == ["1", None, LAB, "broadcast"]
        assert b'"replayed":true' in raw[0]


def test_replay_takes_the_newest_of_the_asked_for() -> None:
    """`limit` counts from the end and is between 1 and 25; older ones than `since` stay away."""
    world = World()
    for n in range(40):
        world.hub.send("lab", "e", {"n": n}, world.now)
        world.run(1)
    since = int((world.now.wall - 10) * 1000)

    def replayed(replay: dict[str, Any]) -> list[int]:
        return [payload["payload"]["n"] for payload in private(world, "1.0.0", replay).events("broadcast")]

    assert replayed({"since": 0}) == list(range(15, 40))
    assert replayed({"since": 0, "limit": 99}) == list(range(15, 40))
    assert replayed({"since": 0, "limit": 0}) == [39]
    assert replayed({"since": since}) == list(range(30, 40))


def test_only_stored_private_messages_of_the_topic_are_replayed() -> None:
    """Broadcasts of clients, REST, public messages and other topics are not."""
    world = World()
    sender = private(world)
    sender.push(LAB, "broadcast", PING, join_ref="1")
    world.hub.send("lab", "public", {}, world.now, private=False)
    world.hub.send("lab2", "other", {}, world.now)
    world.hub.broadcast("lab", "unstored", {}, world.now, private=True)
    assert private(world, replay={"since": 0}).events("broadcast") == []


def test_the_store_is_bounded() -> None:
    """In number, and in age by 72 hours."""

    def message(n: int, at: float) -> StoredMessage:
        return StoredMessage(str(n), "lab", "e", b"{}", True, True, at)

    store = MessageStore(kept=3)
    for n in range(5):
        store.add(message(n, float(n)))
    assert [kept.id for kept in store.replay("lab", Replay(0, 25), 5.0)] == ["2", "3", "4"]
    store.add(message(9, 72 * 3600 + 4.0))
    assert len(store) == 2


def test_a_message_over_the_payload_limit_is_dropped() -> None:
    """Neither delivered nor stored (protocol §6.4)."""
    world = World(limits=ServerLimits(payload_kb=1))
    client = private(world)
    client.take()
    world.hub.send("lab", "e", {"x": "a" * 3000}, world.now)
    world.pump()
    assert client.got == []


# --- tokens ---


def test_a_channel_ends_when_its_token_does() -> None:
    """A system error and phx_close at that second; the socket and other channels stay (protocol §7.2)."""
    world = World()
    client = world.connect()
    client.join(access_token=world.token(lasts=8))
    client.join("realtime:other")
    client.take()
    world.run(7.9)
    assert client.got == []
    world.run(0.2)
    assert client.got == [
        ["1", None, LAB, "system", system("Token has expired 0 seconds ago")],
        ["1", "1", LAB, "phx_close", {}],
    ]
    assert client.closed is None
    client.join(access_token=world.token(lasts=-2))
    assert client.got[-1][4] == denied("InvalidJWTToken: Token has expired 2 seconds ago")


def test_a_channel_without_a_token_of_its_own_uses_the_sockets() -> None:
    """Also for null and for new-style keys."""
    world = World()
    client = world.connect(token=world.token(lasts=8))
    for token in (None, "sb_publishable_x"):
        client.join("realtime:" + str(token), access_token=token)
    world.run(8.1)
    assert len(client.events("phx_close")) == 2


def test_a_newer_token_is_taken() -> None:
    """Without an answer; the old one's end is no end any more."""
    world = World()
    client = world.connect()
    client.join(access_token=world.token(lasts=8))
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(lasts=100)}, join_ref="1")
    world.run(50)
    assert client.got == []


@pytest.mark.parametrize("payload", [{}, {"access_token": None}, {"access_token": "sb_x"}, {"access_token": 5}, "text"])
def test_a_push_without_a_token_is_ignored(payload: Any) -> None:
    """Nothing comes back, and the channel stays."""
    client = World().connect()
    client.join()
    client.take()
    client.push(LAB, "access_token", payload, join_ref="1")
    assert client.got == []


@pytest.mark.parametrize(
    ("lasts", "role", "message"),
    [
        (-5, "authenticated", "Token has expired 5 seconds ago"),
        (60, None, "Fields `role` and `exp` are required in JWT"),
        (None, "authenticated", "Fields `role` and `exp` are required in JWT"),
    ],
)
def test_a_bad_new_token_closes_the_channel(lasts: float | None, role: str | None, message: str) -> None:
    """A system error in the server's words, then phx_close (protocol §7.3)."""
    world = World()
    client = world.connect()
    client.join()
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(role, lasts)}, join_ref="1")
    assert client.heard() == [("system", system(message)), ("phx_close", {})]


def test_a_new_token_without_the_right_to_read_closes_a_private_channel() -> None:
    """The policy is asked anew."""
    world = World()
    client = world.connect()
    client.join(config={"private": True})
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token("anon")}, join_ref="1")
    assert client.heard() == [("system", system(NO_READ)), ("phx_close", {})]


def test_losing_one_right_to_read_closes_a_private_channel() -> None:
    """With the words for a right that was there before."""
    world = World(policy=lambda claims, topic, extension, action: extension == "broadcast" or "sub" not in claims)
    client = world.connect()
    client.join(config=PRIVATE)
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(sub="7")}, join_ref="1")
    message = "You no longer have permission to read from this Channel topic: lab"
    assert client.heard() == [("system", system(message)), ("phx_close", {})]


def test_write_rights_are_asked_anew_with_a_new_token() -> None:
    """What was denied before may be allowed now."""
    world = World(policy=lambda claims, topic, extension, action: action == "read" or "sub" in claims)
    client = world.connect()
    client.join(config=PRIVATE)
    client.take()
    client.push(LAB, "broadcast", PING, join_ref="1")
    client.push(LAB, "access_token", {"access_token": world.token(sub="7")}, join_ref="1")
    assert client.got == []
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert [event for event, _ in client.heard()] == ["broadcast", "phx_reply"]


@pytest.mark.parametrize(("timings", "wait"), [(Timings(), 0.0), (Timings.strict(), 1.0)])
def test_changes_are_subscribed_again_with_a_new_token(timings: Timings, wait: float) -> None:
    """`Subscribed to PostgreSQL` comes once more, after a second when strict; rows arrive all the time."""
    world = World(timings=timings)
    client = world.connect()
    client.join(config={"postgres_changes": [{"table": "t"}]})
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(lasts=999)}, join_ref="1")
    world.emit("INSERT", "t", record={"id": 1})
    assert len(client.events("postgres_changes")) == 1
    world.run(wait)
    assert [payload["message"] for payload in client.events("system")] == ["Subscribed to PostgreSQL"]
