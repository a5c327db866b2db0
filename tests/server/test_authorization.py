"""Private channels, stored messages and the expiry of tokens."""

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
    """Return a policy that allows these rights, such as `broadcast read`."""
    return lambda claims, topic, extension, action: f"{extension} {action}" in rights


@pytest.mark.parametrize(
    ("role", "allowed"), [("service_role", True), ("authenticated", True), ("anon", False), ("stranger", False)]
)
def test_without_a_policy_the_role_decides(role: str, allowed: bool) -> None:
    """`authenticated` and `service_role` are allowed everything, other roles nothing."""
    assert default_policy({"role": role}, "lab", "broadcast", "read") is allowed
    client = World().connect(token=World().token(role))
    client.join(config={"private": True})
    reply = client.events("phx_reply")[0]
    assert reply["status"] == "ok" if allowed else reply == denied(f"Unauthorized: {NO_READ}")


def test_a_policy_gets_claims_topic_extension_and_action() -> None:
    """It is called at the join for reading, at the first message and the first track for writing, and then no more."""
    calls: list[tuple[Any, ...]] = []

    def policy(claims: Any, topic: str, extension: str, action: str) -> bool:
        calls.append((claims["sub"], topic, extension, action))
        return True

    world = World(policy=policy)
    client = world.connect(token=world.token(sub="7"))
    client.join(config=PRIVATE)
    assert calls == [("7", "lab", "broadcast", "read"), ("7", "lab", "presence", "read")]
    for _ in range(2):
        client.push(LAB, "broadcast", PING, join_ref="1")
        client.track(LAB, {})
    assert calls[2:] == [("7", "lab", "broadcast", "write"), ("7", "lab", "presence", "write")]


def test_a_policy_that_raises_denies_access() -> None:
    """The exception is reported without the claims."""

    def policy(*_: Any) -> bool:
        raise KeyError("secret-detail")

    world = World(policy=policy)
    client = world.connect()
    client.join(config={"private": True})
    assert client.events("phx_reply") == [denied(f"Unauthorized: {NO_READ}")]
    assert world.reports == ["the policy raised KeyError for broadcast read on 'lab': denied"]


def test_a_public_channel_does_not_call_the_policy() -> None:
    """Everything is allowed on a public channel."""
    client = World(policy=allow()).connect()
    client.join(config={"broadcast": {"ack": True}})
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert client.events("phx_reply")[-1] == OK


def test_a_denied_broadcast_gets_no_reply() -> None:
    """A denied broadcast is dropped even with `ack`; a denied track gets an error without a reason."""
    world = World(policy=allow("broadcast read", "presence read"))
    client, other = world.connect(), world.connect()
    for each in (client, other):
        each.join(config=PRIVATE)
        each.take()
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert client.got == [] and other.got == []
    ref = client.track(LAB, {})
    assert client.got == [["1", ref, LAB, "phx_reply", ERROR]]


def test_a_channel_without_read_access_to_broadcasts_receives_presence_only() -> None:
    """Read access to one extension is enough to join."""
    world = World(policy=allow("presence read", "presence write", "broadcast write"))
    client, other = world.connect(), world.connect()
    for each in (client, other):
        each.join(config=PRIVATE)
    assert client.events("presence_state") == [{}]
    client.take()
    other.push(LAB, "broadcast", PING, join_ref="1")
    other.track(LAB, {})
    assert [event for event, _ in client.received()] == ["presence_diff"]


def test_a_channel_without_read_access_to_presence_receives_broadcasts_only() -> None:
    """It gets neither the presence state nor diffs."""
    world = World(policy=allow("broadcast read", "broadcast write", "presence write"))
    client, other = world.connect(), world.connect()
    for each in (client, other):
        each.join(config=PRIVATE)
        each.take()
    other.track(LAB, {})
    other.push(LAB, "broadcast", PING, join_ref="1")
    assert [event for event, _ in client.received()] == ["broadcast"]


def test_a_private_channel_without_presence_receives_diffs_after_its_own_track() -> None:
    """Before its first track it gets neither state nor diffs."""
    world = World()
    client, other = world.connect(), world.connect()
    client.join(config={"private": True})
    other.join(config=PRIVATE)
    client.take()
    other.track(LAB, {"n": 1})
    assert client.got == []
    client.track(LAB, {})
    other.track(LAB, {"n": 2})
    assert [event for event, _ in client.received()] == ["phx_reply", "presence_diff", "presence_diff"]


def test_public_and_private_channels_of_a_topic_are_separate() -> None:
    """Broadcasts and presence of one are not delivered to the other."""
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
    """Version 1.0.0 gets `meta`, 2.0.0 a binary frame of kind 4 with metadata; the payload has the id too."""
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
    """An `id` in the payload is not replaced; the message's id is in `meta`."""
    world = World()
    old = private(world, "1.0.0")
    name = world.hub.send("lab", "e", {"id": "mine"}, world.now)
    world.pump()
    (payload,) = old.events("broadcast")
    assert (payload["payload"], payload["meta"]) == ({"id": "mine"}, {"id": name})


def test_stored_bytes_reach_version_two_only() -> None:
    """They are sent as kind 4 with the id."""
    world = World()
    new, old = private(world), private(world, "1.0.0")
    new.take()
    old.take()
    world.hub.send("lab", "bin", b"\x00\xff", world.now)
    world.pump()
    assert len(new.got) == 1 and new.got[0].endswith(b"}\x00\xff")
    assert old.got == []


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_replayed_messages_arrive_oldest_first(vsn: str) -> None:
    """JSON messages arrive as text with `meta`, in 2.0.0 with the join_ref; bytes as kind 4 and in 2.0.0 only."""
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


def test_a_replay_is_limited_to_the_newest_messages() -> None:
    """`limit` counts from the newest and is between 1 and 25; messages before `since` are left out."""
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
    """Broadcasts of clients, HTTP messages, public messages and other topics are not replayed."""
    world = World()
    sender = private(world)
    sender.push(LAB, "broadcast", PING, join_ref="1")
    world.hub.send("lab", "public", {}, world.now, private=False)
    world.hub.send("lab2", "other", {}, world.now)
    world.hub.broadcast("lab", "unstored", {}, world.now, private=True)
    assert private(world, replay={"since": 0}).events("broadcast") == []


def test_the_store_is_bounded() -> None:
    """The number of stored messages is bounded, and their age by 72 hours."""

    def message(n: int, at: float) -> StoredMessage:
        return StoredMessage(str(n), "lab", "e", b"{}", True, True, at)

    store = MessageStore(kept=3)
    for n in range(5):
        store.add(message(n, float(n)))
    assert [kept.id for kept in store.replay("lab", Replay(0, 25), 5.0)] == ["2", "3", "4"]
    store.add(message(9, 72 * 3600 + 4.0))
    assert len(store) == 2


def test_a_message_over_the_payload_limit_is_dropped() -> None:
    """It is neither delivered nor stored."""
    world = World(limits=ServerLimits(payload_kb=1))
    client = private(world)
    client.take()
    world.hub.send("lab", "e", {"x": "a" * 3000}, world.now)
    world.pump()
    assert client.got == []


# --- tokens ---


def test_a_channel_ends_when_its_token_expires() -> None:
    """It gets a system error and phx_close in that second; the socket and other channels stay open."""
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


def test_a_channel_without_a_token_uses_that_of_its_connection() -> None:
    """The same holds for null and for API keys of the newer kind."""
    world = World()
    client = world.connect(token=world.token(lasts=8))
    for token in (None, "sb_publishable_x"):
        client.join("realtime:" + str(token), access_token=token)
    world.run(8.1)
    assert len(client.events("phx_close")) == 2


def test_a_new_token_replaces_the_old_one() -> None:
    """It gets no reply, and the expiry of the old token has no effect any more."""
    world = World()
    client = world.connect()
    client.join(access_token=world.token(lasts=8))
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(lasts=100)}, join_ref="1")
    world.run(50)
    assert client.got == []


@pytest.mark.parametrize("payload", [{}, {"access_token": None}, {"access_token": "sb_x"}, {"access_token": 5}, "text"])
def test_a_push_without_a_token_is_ignored(payload: Any) -> None:
    """It gets no reply, and the channel stays open."""
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
def test_an_invalid_new_token_closes_the_channel(lasts: float | None, role: str | None, message: str) -> None:
    """The channel gets the real server's system error, then phx_close."""
    world = World()
    client = world.connect()
    client.join()
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(role, lasts)}, join_ref="1")
    assert client.received() == [("system", system(message)), ("phx_close", {})]


def test_a_new_token_without_read_access_closes_a_private_channel() -> None:
    """Read access is queried again for the new token."""
    world = World()
    client = world.connect()
    client.join(config={"private": True})
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token("anon")}, join_ref="1")
    assert client.received() == [("system", system(NO_READ)), ("phx_close", {})]


def test_losing_one_right_to_read_closes_a_private_channel() -> None:
    """The system error is the one for a right that existed before."""
    world = World(policy=lambda claims, topic, extension, action: extension == "broadcast" or "sub" not in claims)
    client = world.connect()
    client.join(config=PRIVATE)
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(sub="7")}, join_ref="1")
    message = "You no longer have permission to read from this Channel topic: lab"
    assert client.received() == [("system", system(message)), ("phx_close", {})]


def test_write_access_is_queried_again_after_a_new_token() -> None:
    """A broadcast that was denied before may be allowed."""
    world = World(policy=lambda claims, topic, extension, action: action == "read" or "sub" in claims)
    client = world.connect()
    client.join(config=PRIVATE)
    client.take()
    client.push(LAB, "broadcast", PING, join_ref="1")
    client.push(LAB, "access_token", {"access_token": world.token(sub="7")}, join_ref="1")
    assert client.got == []
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert [event for event, _ in client.received()] == ["broadcast", "phx_reply"]


@pytest.mark.parametrize(("timings", "wait"), [(Timings(), 0.0), (Timings.strict(), 1.0)])
def test_changes_are_subscribed_again_after_a_new_token(timings: Timings, wait: float) -> None:
    """`Subscribed to PostgreSQL` is sent again, after a second when strict; changes are delivered in the meantime."""
    world = World(timings=timings)
    client = world.connect()
    client.join(config={"postgres_changes": [{"table": "t"}]})
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(lasts=999)}, join_ref="1")
    world.emit("INSERT", "t", record={"id": 1})
    assert len(client.events("postgres_changes")) == 1
    world.run(wait)
    assert [payload["message"] for payload in client.events("system")] == ["Subscribed to PostgreSQL"]
