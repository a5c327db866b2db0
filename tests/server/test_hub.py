"""The hub: handshakes, frames, joins, leaves, broadcasts, and the end of connections."""

from typing import Any

import pytest

from supawire.server.connection import MAX_QUEUED_IN, MAX_QUEUED_OUT
from supawire.server.effects import Accepted, Refusal
from supawire.server.hub_options import Timings
from supawire.server.limits import ServerLimits
from tests.server.world import OK, World, denied, system, unsigned

LAB = "realtime:lab"
UNMATCHED = denied("unmatched topic")
PING = {"type": "broadcast", "event": "ping", "payload": {"n": 1}}


# --- handshake ---


@pytest.mark.parametrize(
    ("query", "host", "status", "error"),
    [
        ({"vsn": "3.0.0"}, "localhost", 403, None),
        ({"vsn": "2.1.0"}, "localhost", 403, None),
        ({"vsn": "abc"}, "no-such-tenant.localhost", 403, None),
        ({}, "no-such-tenant.localhost:4000", 404, "Tenant not found"),
        ({"apikey": "garbage"}, "evil.example", 404, "Tenant not found"),
        ({}, "localhost", 401, "API key is missing"),
        ({"apikey": "garbage"}, "localhost", 401, "The token provided is not a valid JWT"),
    ],
)
def test_an_invalid_handshake_is_refused(query: dict[str, str], host: str, status: int, error: str | None) -> None:
    """Status and text are those of the first check that fails."""
    answer = World().handshake(1, query, host=host)
    assert isinstance(answer, Refusal)
    assert answer.status == status
    assert answer.body == (b"" if error is None else f'{{"error":"{error}"}}'.encode())
    assert answer.content_type == (None if error is None else "application/json; charset=utf-8")


def test_refusals_are_delayed_when_strict() -> None:
    """The delay is two seconds, except for an unknown version; by default there is none."""
    strict = World(timings=Timings.strict())
    refusals = [strict.handshake(1, query) for query in ({}, {"vsn": "9.0.0"})]
    assert [answer.delay for answer in refusals if isinstance(answer, Refusal)] == [2.0, 0.0]
    answer = World().handshake(1, {})
    assert isinstance(answer, Refusal) and answer.delay == 0.0


@pytest.mark.parametrize("host", ["127.0.0.1:4000", "localhost", "realtime-dev.localhost:4000"])
def test_local_hosts_are_known_tenants(host: str) -> None:
    """These are loopback by address and by name, and the default of a self-hosted server."""
    assert World().connect(host=host)


def test_the_default_version_is_1() -> None:
    """`vsn` defaults to 1.0.0, and patch versions are accepted."""
    world = World()
    token = world.token()
    answers = [world.handshake(n, {"apikey": token, **vsn}) for n, vsn in enumerate(({}, {"vsn": "2.0.1"}))]
    assert answers == [Accepted(v2=False), Accepted(v2=True)]


def test_the_key_in_the_header_takes_precedence() -> None:
    """`x-api-key` is used when the query has a key too."""
    world = World()
    answer = world.handshake(1, {"apikey": "garbage"}, headers={"x-api-key": world.token()})
    assert isinstance(answer, Accepted)


# --- frames of the socket ---


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_a_heartbeat_is_answered(vsn: str) -> None:
    """The reply has the ref of the heartbeat, which may be any JSON value, and no join_ref."""
    client = World().connect(vsn=vsn)
    client.push("phoenix", "heartbeat", {}, ref=7, join_ref="x")
    part = client.parts(client.got[0])
    assert (part.join_ref, part.ref, part.topic, part.event, part.payload) == (None, 7, "phoenix", "phx_reply", OK)


def test_version_one_never_gets_a_join_ref() -> None:
    """Its frames are objects with exactly four members."""
    client = World().connect(vsn="1.0.0")
    client.join(config={"presence": {"enabled": True}})
    client.push(LAB, "phx_leave", {}, join_ref="1")
    assert client.got and all(set(frame) == {"topic", "event", "payload", "ref"} for frame in client.got)


@pytest.mark.parametrize("topic", ["realtime:never", "nosuch:topic", 5, None, ["x"]])
@pytest.mark.parametrize("event", ["broadcast", "access_token", "whatever", 3])
def test_an_event_on_a_topic_that_is_not_joined_is_unmatched(topic: Any, event: Any) -> None:
    """The error reply has the ref and no join_ref."""
    client = World().connect()
    ref = client.push(topic, event, {}, join_ref="1")
    assert client.got == [[None, ref, topic, "phx_reply", UNMATCHED]]


def test_a_join_without_the_realtime_prefix_is_unmatched() -> None:
    """Only topics with the prefix `realtime:` can be joined."""
    client = World().connect()
    ref = client.push("nosuch:topic", "phx_join", {"config": {}}, join_ref="1")
    assert client.got == [[None, ref, "nosuch:topic", "phx_reply", UNMATCHED]]


def test_invalid_frames_are_dropped() -> None:
    """They get no reply and do not close the socket."""
    client = World().connect()
    client.join()
    client.take()
    for data in (b"{", b"", b"null", b"[1,2]", b'["1","2","realtime:lab","broadcast",{"x":"\xff"}]'):
        client.text(data)
    client.raw(b"\xff\xfe")
    client.push(LAB, "no_such_event", {"a": 1}, join_ref="1")
    client.push(LAB, {"odd": 1}, {}, join_ref="1")
    assert client.got == [] and client.closed is None


def test_a_frame_over_five_million_bytes_closes_with_1009() -> None:
    """A frame of exactly that size is accepted."""
    client = World().connect()
    client.raw(" " * 5_000_000)
    assert client.closed is None
    client.raw(" " * 5_000_001)
    assert client.closed == (1009,)


def test_an_idle_socket_is_closed_with_1000_after_a_minute() -> None:
    """All received bytes reset the timeout, also pings; sent frames do not."""
    world = World()
    client, other = world.connect(), world.connect()
    world.run(59)
    world.hub.reset_idle_timeout(client.number, world.now)
    world.run(2)
    assert (client.closed, other.closed) == (None, (1000,))
    world.run(58)
    assert client.closed == (1000,)


def test_a_socket_whose_channels_have_ended_is_aborted_when_strict() -> None:
    """This happens at the sweep every ten minutes; a socket that never had a channel stays open."""
    world = World(timings=Timings.strict())
    left, never = world.connect(), world.connect()
    left.join()
    left.push(LAB, "phx_leave", {}, join_ref="1")
    for _ in range(13):
        world.run(50)
        for client in (left, never):
            client.push("phoenix", "heartbeat", {})
    assert (left.closed, never.closed) == ((None,), None)


# --- joins and leaves ---


def test_a_leave_gets_a_reply_then_a_close() -> None:
    """The reply has the ref, and the close has the join_ref twice."""
    client = World().connect()
    join_ref = client.join()
    client.take()
    ref = client.push(LAB, "phx_leave", {}, join_ref=join_ref)
    assert client.got == [[join_ref, ref, LAB, "phx_reply", OK], [join_ref, join_ref, LAB, "phx_close", {}]]


@pytest.mark.parametrize("join_ref", ["other", None, 1])
def test_a_leave_with_another_join_ref_is_ignored(join_ref: Any) -> None:
    """It gets no reply, and the channel stays open."""
    client = World().connect()
    client.join(config={"broadcast": {"ack": True}})
    client.take()
    client.push(LAB, "phx_leave", {}, join_ref=join_ref)
    assert client.got == []
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert client.got[0][4] == OK


def test_leaving_a_topic_that_is_not_joined_is_ok() -> None:
    """The ok reply has the frame's own join_ref, and no close follows."""
    client = World().connect()
    ref = client.push("realtime:never", "phx_leave", {}, join_ref="9")
    assert client.got == [["9", ref, "realtime:never", "phx_reply", OK]]


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_joining_again_replaces_the_channel(vsn: str) -> None:
    """The reply to the new join is followed by the close of the old channel, and only the new one receives messages."""
    world = World()
    client, other = world.connect(vsn=vsn), world.connect()
    client.join()
    client.take()
    client.join()
    parts = [client.parts(frame) for frame in client.take()]
    assert [(part.event, part.ref) for part in parts] == [("phx_reply", "2"), ("phx_close", "1")]
    other.join()
    other.push(LAB, "broadcast", PING, join_ref="1")
    assert len(client.got) == 1


def test_values_of_the_wrong_type_are_replaced_by_defaults() -> None:
    """A join with such values is accepted; the string "true" counts as true."""
    client = World().connect()
    config = {
        "broadcast": {"self": "true", "ack": "TRUE"},
        "presence": {"enabled": "yes"},
        "postgres_changes": "x",
        "private": 3,
    }
    client.join(config=config)
    assert client.received() == [("phx_reply", {"status": "ok", "response": {"postgres_changes": []}})]
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert [event for event, _ in client.received()][1:] == ["broadcast", "phx_reply"]


def test_nulls_among_the_bindings_are_dropped() -> None:
    """The other bindings are echoed in order."""
    client = World().connect()
    client.join(config={"postgres_changes": [None, {"table": "a"}, None, {"table": "b"}]})
    elements = client.events("phx_reply")[0]["response"]["postgres_changes"]
    assert [element["table"] for element in elements] == ["a", "b"]


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("realtime:", {"config": {}}, "TopicNameRequired: You must provide a topic name"),
        (LAB, {"config": "text"}, "UnknownErrorOnChannel: no function clause matching in Access.get/3"),
        (LAB, "text", "join crashed"),
        (
            LAB,
            {"config": {"broadcast": {"replay": None}}},
            "UnableToReplayMessages: Replay is not allowed for public channels",
        ),
        (
            LAB,
            {"config": {"private": True, "broadcast": {"replay": {"since": "yesterday"}}}},
            "UnableToReplayMessages: Replay params are not valid",
        ),
        (LAB, {"config": {}, "access_token": "x"}, "MalformedJWT: The token provided is not a valid JWT"),
    ],
)
def test_an_invalid_join_is_refused(topic: str, payload: Any, reason: str) -> None:
    """The reason is the real server's, and no channel is created."""
    client = World().connect()
    ref = client.push(topic, "phx_join", payload, join_ref="1")
    assert client.take() == [["1", ref, topic, "phx_reply", denied(reason)]]
    client.push(topic, "broadcast", PING, join_ref="1")
    assert client.got[0][4] == UNMATCHED


@pytest.mark.parametrize("key", [42, 1.5, "text"])
def test_a_presence_key_may_be_a_number(key: Any) -> None:
    """It is used as a string."""
    client = World().connect()
    client.join(config={"presence": {"enabled": True, "key": key}})
    client.track(LAB, {})
    assert list(client.events("presence_diff")[0]["joins"]) == [str(key)]


def test_the_frames_after_a_join_are_in_order() -> None:
    """The order is reply, replayed messages, subscription, replication, presence."""
    world = World()
    world.hub.send("lab", "old", {"n": 1}, world.now)
    client = world.connect()
    config = {
        "private": True,
        "broadcast": {"replay": {"since": 0}, "replication_ready": True},
        "presence": {"enabled": True},
        "postgres_changes": [{"table": "t"}],
    }
    client.join(config=config)
    order = [(event, payload.get("message")) for event, payload in client.received()]
    assert order == [
        ("phx_reply", None),
        ("broadcast", None),
        ("system", "Subscribed to PostgreSQL"),
        ("system", "Replication connection established"),
        ("presence_state", None),
    ]


# --- a suspended socket ---


def test_a_refused_join_suspends_its_socket_for_five_seconds_when_strict() -> None:
    """Other frames on that socket wait meanwhile, in both directions, and then follow in order."""
    world = World(timings=Timings.strict())
    suspended, other = world.connect(), world.connect()
    suspended.join(config={"broadcast": {"ack": True, "self": True}})
    other.join()
    suspended.take()
    other.take()
    suspended.push("realtime:x", "phx_join", {"config": {}, "access_token": "bad"}, ref="9", join_ref="9")
    suspended.push("phoenix", "heartbeat", {}, ref="10")
    suspended.push(LAB, "broadcast", {**PING, "event": "mine"}, ref="11", join_ref="1")
    other.push(LAB, "broadcast", {**PING, "event": "theirs"}, join_ref="1")
    world.run(4.9)
    assert suspended.got == [] and other.got == []
    world.run(0.2)
    shown = [(part.ref, part.event, part.payload.get("event")) for part in map(suspended.parts, suspended.got)]
    assert shown == [
        ("9", "phx_reply", None),
        ("10", "phx_reply", None),
        (None, "broadcast", "theirs"),
        (None, "broadcast", "mine"),
        ("11", "phx_reply", None),
    ]
    assert len(other.got) == 1


def test_refused_joins_suspend_one_after_another() -> None:
    """N refused joins take N times five seconds."""
    world = World(timings=Timings.strict())
    client = world.connect()
    for n in range(3):
        client.push("realtime:", "phx_join", {"config": {}}, ref=str(n), join_ref=str(n))
    client.push("phoenix", "heartbeat", {}, ref="last")
    world.run(14.9)
    assert len(client.got) == 2
    world.run(0.2)
    assert [part.ref for part in map(client.parts, client.got)] == ["0", "1", "2", "last"]


def test_reading_from_a_suspended_socket_pauses_above_a_limit() -> None:
    """It resumes when the queue has been handled."""
    world = World(timings=Timings.strict())
    client = world.connect()
    client.push("realtime:", "phx_join", {"config": {}})
    blob = "x" * 3_000_000
    for _ in range(MAX_QUEUED_IN // 3_000_000 + 1):
        client.push("phoenix", "heartbeat", {"x": blob})
    assert client.reading == ["PauseReading"]
    world.run(5.1)
    assert client.reading == ["PauseReading", "ResumeReading"]


def test_a_suspended_socket_with_too_many_queued_frames_is_aborted() -> None:
    """The bytes that wait to be sent are bounded."""
    world = World(timings=Timings.strict())
    client, other = world.connect(), world.connect()
    client.join()
    other.join()
    client.push("realtime:", "phx_join", {"config": {}})
    blob = {"event": "x", "payload": "x" * 4_000_000}
    for _ in range(MAX_QUEUED_OUT // 4_000_000 + 1):
        other.push(LAB, "broadcast", blob, join_ref="1")
    assert client.closed == (None,)


# --- broadcasts ---


def test_a_broadcast_is_delivered_unchanged() -> None:
    """Text is sent as text with null refs and all keys; the sender gets nothing."""
    world = World()
    ada, bob, old = world.connect(), world.connect(), world.connect(vsn="1.0.0")
    for client in (ada, bob, old):
        client.join()
        client.take()
    payload = {"event": "ping", "weird": True, "payload": [1, None, "é☃", 12345678901234567890123]}
    ada.push(LAB, "broadcast", payload, join_ref="1")
    assert bob.got == [[None, None, LAB, "broadcast", payload]]
    assert old.got == [{"ref": None, "topic": LAB, "event": "broadcast", "payload": payload}]
    assert ada.got == []


def test_another_channel_of_the_same_client_receives_a_broadcast() -> None:
    """Only the sending channel is skipped, and public and private channels of a topic are separate."""
    world = World()
    client = world.connect()
    client.join()
    client.join("realtime:lab2")
    other = world.connect()
    other.join(config={"private": True})
    client.take()
    other.take()
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert client.got == [] and other.got == []


@pytest.mark.parametrize(
    ("config", "events"),
    [
        ({}, []),
        ({"self": True}, ["broadcast"]),
        ({"ack": True}, ["phx_reply"]),
        ({"self": True, "ack": True}, ["broadcast", "phx_reply"]),
    ],
)
def test_self_and_ack_are_off_by_default(config: dict[str, Any], events: list[str]) -> None:
    """Without them the sender gets neither its message nor a reply."""
    client = World().connect()
    client.join(config={"broadcast": config})
    client.take()
    client.push(LAB, "broadcast", PING, join_ref="stale")
    assert [event for event, _ in client.received()] == events


def test_a_binary_broadcast_is_converted_for_each_recipient() -> None:
    """JSON is sent as text to 1.0.0 and as kind 4 to 2.0.0; bytes are sent to 2.0.0 only."""
    world = World()
    ada, bob, old = world.connect(), world.connect(), world.connect(vsn="1.0.0")
    for client in (ada, bob, old):
        client.join(config={"broadcast": {"ack": True}})
        client.take()
    ada.user_push(LAB, "ping", b'{"a": 1}', json=True)
    ada.user_push(LAB, "blob", b"\x00\xff", json=False)
    assert bob.got == [
        b"\x04\x0c\x04\x00\x01realtime:labping" + b'{"a": 1}',
        b"\x04\x0c\x04\x00\x00realtime:labblob\x00\xff",
    ]
    assert old.events("broadcast") == [{"event": "ping", "payload": {"a": 1}, "type": "broadcast"}]
    assert ada.got == [["1", "2", LAB, "phx_reply", OK], ["1", "3", LAB, "phx_reply", OK]]


def test_a_plain_binary_push_is_relayed_as_kind_2() -> None:
    """Version 1.0.0 gets a text that is not JSON."""
    world = World()
    ada, bob, old = world.connect(), world.connect(), world.connect(vsn="1.0.0")
    for client in (ada, bob, old):
        client.join()
        client.take()
    ada.raw(b"\x00\x01\x01\x0c\x0917realtime:labbroadcast\x01\x02")
    assert bob.got == [b"\x02\x0c\x09realtime:labbroadcast\x01\x02"]
    assert "unable to parse response" in old.got[0]


@pytest.mark.parametrize("payload", ["text", [1, 2], None, 5])
def test_a_payload_that_is_not_an_object_crashes_the_sender_with_version_2_recipients(payload: Any) -> None:
    """The channel gets `phx_error` with its join_ref and ends; among 1.0.0 clients alone the payload is relayed."""
    world = World()
    old, older, new = world.connect(vsn="1.0.0"), world.connect(vsn="1.0.0"), world.connect()
    old.join(config={"broadcast": {"ack": True}})
    older.join()
    old.take()
    older.take()
    old.push(LAB, "broadcast", payload, join_ref="1")
    assert older.events("broadcast") == [payload] and old.events("phx_reply") == [OK]
    new.join()
    old.take()
    old.push(LAB, "broadcast", payload, join_ref="1")
    assert old.got == [{"ref": "1", "topic": LAB, "event": "phx_error", "payload": {"reason": "channel_crash"}}]


@pytest.mark.parametrize("ack", [True, False])
def test_a_payload_over_the_limit_is_dropped(ack: bool) -> None:
    """With `ack` the reply is an error whose response is a string."""
    world = World(limits=ServerLimits(payload_kb=1))
    ada, bob = world.connect(), world.connect()
    ada.join(config={"broadcast": {"ack": ack}})
    bob.join()
    ada.take()
    bob.take()
    ada.push(LAB, "broadcast", {"payload": "a" * 1600}, join_ref="1")
    ada.user_push(LAB, "big", b"a" * 1600, json=False)
    assert bob.got == []
    assert [payload for _, payload in ada.received()] == [
        {"status": "error", "response": "payload_size_exceeded"} for _ in range(2 if ack else 0)
    ]


def test_a_payload_of_many_small_members_counts_as_large() -> None:
    """The size of the decoded terms is compared with the limit, so that a shorter text may exceed it."""
    world = World(limits=ServerLimits(payload_kb=1))
    client = world.connect()
    client.join(config={"broadcast": {"ack": True}})
    client.push(LAB, "broadcast", {"payload": [{}] * 300}, join_ref="1")
    assert client.events("phx_reply")[-1]["response"] == "payload_size_exceeded"


def test_recipients_are_closed_while_the_rate_is_exceeded() -> None:
    """They get the message, the system error and the close; a sender without recipients stays open."""
    world = World(limits=ServerLimits(messages=10))
    ada, bob = world.connect(), world.connect()
    ada.join()
    bob.join()
    for _ in range(60):
        ada.push(LAB, "broadcast", PING, join_ref="1")
    world.run(5)
    ada.take()
    bob.take()
    ada.push(LAB, "broadcast", PING, join_ref="1")
    assert bob.received() == [
        ("broadcast", PING),
        ("system", system("Too many messages per second")),
        ("phx_close", {}),
    ]
    assert ada.got == []


# --- limits of joins and sockets ---


def test_the_channels_of_a_socket_are_limited() -> None:
    """The next join is refused, and accepted after a leave."""
    client = World(limits=ServerLimits(channels=2)).connect()
    for name in ("a", "b", "c"):
        client.join(f"realtime:{name}")
    assert client.events("phx_reply")[-1] == denied("ChannelRateLimitReached: Too many channels")
    client.push("realtime:a", "phx_leave", {}, join_ref="1")
    client.join("realtime:c")
    assert client.events("phx_reply")[-1]["status"] == "ok"


def test_too_many_joins_a_second_close_the_socket_with_1001() -> None:
    """The error reply comes first, and new sockets are refused with 429."""
    world = World(limits=ServerLimits(joins=2))
    client = world.connect()
    for _ in range(10):
        client.join()
    world.run(5)
    client.take()
    client.join()
    assert client.received() == [
        ("phx_reply", denied("ClientJoinRateLimitReached: Too many joins per second")),
    ]
    assert client.closed == (1001,)
    answer = world.handshake(9, {"apikey": world.token()})
    assert isinstance(answer, Refusal) and (answer.status, answer.body) == (
        429,
        b'{"error":"Too many joins per second"}',
    )


def test_too_many_sockets_with_channels_are_refused() -> None:
    """The handshake is refused with 429, and a join with its reason."""
    world = World(limits=ServerLimits(connections=1))
    first, second = world.connect(), world.connect()
    first.join()
    second.join()
    assert second.events("phx_reply") == [denied("ConnectionRateLimitReached: Too many connected users")]
    answer = world.handshake(9, {"apikey": world.token()})
    assert isinstance(answer, Refusal) and answer.body == b'{"error":"Too many connected users"}'


# --- the end ---


def test_a_shutdown_closes_every_socket_with_1012() -> None:
    """Nothing is sent on the channels before."""
    world = World()
    clients = [world.connect() for _ in range(3)]
    for client in clients:
        client.join()
        client.take()
    world.hub.shutdown(world.now)
    world.pump()
    assert [(client.got, client.closed) for client in clients] == [([], (1012,))] * 3


def test_a_requested_disconnect_is_announced() -> None:
    """Every channel gets a system message without `channel` and with null refs, then the socket is closed with 1012."""
    world = World()
    client = world.connect()
    client.join()
    client.take()
    world.hub.request_disconnect(world.now)
    world.pump()
    message = {"message": "Server requested disconnect", "status": "ok", "extension": "system"}
    assert client.got == [[None, None, LAB, "system", message]]
    assert client.closed == (1012,)


def test_the_same_inputs_give_the_same_outputs() -> None:
    """Two hubs with the same seed give the same bytes, including phx_refs and presence keys."""

    def play() -> list[Any]:
        world = World()
        one, two = world.connect(), world.connect(vsn="1.0.0")
        for client in (one, two):
            client.join(config={"presence": {"enabled": True}})
            client.track(LAB, {"n": 1})
        world.hub.send("lab", "e", {}, world.now)
        world.pump()
        return [one.got, two.got]

    assert play() == play()


def test_disconnected_clients_leave_nothing_behind() -> None:
    """No connection, room or timer remains."""
    world = World(timings=Timings.strict())
    for _ in range(500):
        client = world.connect()
        client.join(config={"presence": {"enabled": True}})
        client.track(LAB, {})
        client.disconnect()
    assert not world.hub.connections.peers and world.hub.rooms.get("lab", False) is None
    assert len(world.hub.schedule) < 300


def test_a_malformed_token_in_a_join_is_refused() -> None:
    """A header with values of other types is refused like any other, and other clients are not affected."""
    world = World(timings=Timings.strict())
    odd, other = world.connect(), world.connect()
    other.join("realtime:other")
    odd.join(access_token=unsigned({"alg": []}))
    odd.join("realtime:lab", access_token=unsigned({"alg": "HS256", "kid": {}}))
    world.run(11)
    assert [payload["status"] for payload in odd.events("phx_reply")] == ["error", "error"]
    other.push("phoenix", "heartbeat", {})
    assert other.events("phx_reply")[-1] == OK


def test_a_deeply_nested_binding_is_refused() -> None:
    """It has no table, so the system message repeats it."""
    world = World()
    client = world.connect()
    deep: Any = []
    for _ in range(800):
        deep = [deep]
    client.join(config={"postgres_changes": [{"event": "*", "deep": deep}]})
    assert client.events("system")[-1]["message"].startswith("No subscription params provided.")


@pytest.mark.parametrize(
    "payload",
    [
        b'{}},"ref":null},{"topic":"realtime:other","event":"phx_close","payload":{"a":{}',
        b'{},"type":"broadcast"},"topic":"realtime:secret","event":"phx_close","x":{"y":1',
        b'{"a":1} ,"b":2',
        b"{} {}",
        b"{",
        b'"',
        b"1,2",
        b"\\",
        b"caf\xc3\xa9",
        b"\xff",
        b"a\0",
        b'{"a":"\xff"}',
    ],
)
def test_bytes_that_could_end_a_json_text_are_not_sent_to_version_1(payload: bytes) -> None:
    """Embedded in a larger JSON text they could add a topic or an event of their own."""
    world = World()
    sender, old, new = world.connect(), world.connect(vsn="1.0.0"), world.connect()
    for client in (sender, old, new):
        client.join()
        client.take()
    sender.user_push(LAB, "e", payload, json=True)
    assert old.got == []
    assert [frame[-len(payload) :] if payload else b"" for frame in new.got] == [payload]  # relayed byte for byte
    sender.user_push(LAB, "e", b' {"n": [1.5e300]} ', json=True)
    assert old.events("broadcast") == [{"event": "e", "payload": {"n": [1.5e300]}, "type": "broadcast"}]


@pytest.mark.parametrize("payload", ["not json", "NaN", ""])
def test_plain_text_declared_as_json_is_relayed(payload: str) -> None:
    """As on the real server the resulting frame is not JSON, and clients drop it."""
    world = World()
    sender, old = world.connect(), world.connect(vsn="1.0.0")
    sender.join()
    old.join()
    old.take()
    sender.user_push(LAB, "e", payload.encode(), json=True)
    (text,) = old.got
    assert f'"payload":{payload},"type":"broadcast"' in text or text["payload"]["payload"] != text["payload"]["payload"]
