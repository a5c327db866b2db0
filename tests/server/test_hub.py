"""The hub: frames in order, joins, leaves, broadcasts, the end of sockets (protocol §2.4, §3, §6)."""

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
def test_a_bad_handshake_is_refused(query: dict[str, str], host: str, status: int, error: str | None) -> None:
    """The first failing check gives status and text (protocol §1.3)."""
    answer = World().handshake(1, query, host=host)
    assert isinstance(answer, Refusal)
    assert answer.status == status
    assert answer.body == (b"" if error is None else f'{{"error":"{error}"}}'.encode())
    assert answer.content_type == (None if error is None else "application/json; charset=utf-8")


def test_refusals_are_held_back_when_strict() -> None:
    """Two seconds for all but an unknown version; none by default."""
    strict = World(timings=Timings.strict())
    held = [strict.handshake(1, query) for query in ({}, {"vsn": "9.0.0"})]
    assert [answer.delay for answer in held if isinstance(answer, Refusal)] == [2.0, 0.0]
    answer = World().handshake(1, {})
    assert isinstance(answer, Refusal) and answer.delay == 0.0


@pytest.mark.parametrize("host", ["127.0.0.1:4000", "localhost", "realtime-dev.localhost:4000"])
def test_the_tenants_of_a_local_machine_exist(host: str) -> None:
    """Loopback by number and by name, and the self-hosted default."""
    assert World().connect(host=host)


def test_the_version_is_one_when_nothing_is_said() -> None:
    """`vsn` defaults to 1.0.0, and patch versions are taken."""
    world = World()
    token = world.token()
    answers = [world.handshake(n, {"apikey": token, **vsn}) for n, vsn in enumerate(({}, {"vsn": "2.0.1"}))]
    assert answers == [Accepted(v2=False), Accepted(v2=True)]


def test_the_header_wins_over_the_query() -> None:
    """`x-api-key` is taken when both are there."""
    world = World()
    answer = world.handshake(1, {"apikey": "garbage"}, headers={"x-api-key": world.token()})
    assert isinstance(answer, Accepted)


# --- frames of the socket ---


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_a_heartbeat_is_answered(vsn: str) -> None:
    """With its ref, whatever JSON that is, and without a join_ref."""
    client = World().connect(vsn=vsn)
    client.push("phoenix", "heartbeat", {}, ref=7, join_ref="x")
    part = client.parts(client.got[0])
    assert (part.join_ref, part.ref, part.topic, part.event, part.payload) == (None, 7, "phoenix", "phx_reply", OK)


def test_version_one_never_gets_a_join_ref() -> None:
    """An object frame has exactly four members (protocol §2.1)."""
    client = World().connect(vsn="1.0.0")
    client.join(config={"presence": {"enabled": True}})
    client.push(LAB, "phx_leave", {}, join_ref="1")
    assert client.got and all(set(frame) == {"topic", "event", "payload", "ref"} for frame in client.got)


@pytest.mark.parametrize("topic", ["realtime:never", "nosuch:topic", 5, None, ["x"]])
@pytest.mark.parametrize("event", ["broadcast", "access_token", "whatever", 3])
def test_an_event_on_a_topic_that_is_not_joined_is_unmatched(topic: Any, event: Any) -> None:
    """An error reply with the ref and no join_ref."""
    client = World().connect()
    ref = client.push(topic, event, {}, join_ref="1")
    assert client.got == [[None, ref, topic, "phx_reply", UNMATCHED]]


def test_a_join_elsewhere_is_unmatched() -> None:
    """Only `realtime:` topics can be joined."""
    client = World().connect()
    ref = client.push("nosuch:topic", "phx_join", {"config": {}}, join_ref="1")
    assert client.got == [[None, ref, "nosuch:topic", "phx_reply", UNMATCHED]]


def test_unreadable_frames_are_dropped_without_a_word() -> None:
    """Garbage is neither answered nor does it close the socket."""
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
    """The limit itself is allowed."""
    client = World().connect()
    client.raw(" " * 5_000_000)
    assert client.closed is None
    client.raw(" " * 5_000_001)
    assert client.closed == (1009,)


def test_a_silent_socket_is_closed_with_1000_after_a_minute() -> None:
    """Any byte counts, also a ping; what the server sends does not."""
    world = World()
    client, other = world.connect(), world.connect()
    world.run(59)
    world.hub.reset_idle_timeout(client.number, world.now)
    world.run(2)
    assert (client.closed, other.closed) == (None, (1000,))
    world.run(58)
    assert client.closed == (1000,)


def test_a_socket_without_channels_is_cut_when_strict() -> None:
    """At the sweep, every ten minutes; one that never joined is left alone (protocol §8)."""
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


def test_leaving_is_answered_then_closed() -> None:
    """The reply carries the ref, the close the join_ref twice."""
    client = World().connect()
    join_ref = client.join()
    client.take()
    ref = client.push(LAB, "phx_leave", {}, join_ref=join_ref)
    assert client.got == [[join_ref, ref, LAB, "phx_reply", OK], [join_ref, join_ref, LAB, "phx_close", {}]]


@pytest.mark.parametrize("join_ref", ["other", None, 1])
def test_leaving_with_another_join_ref_is_ignored(join_ref: Any) -> None:
    """No reply, and the channel lives on (protocol §3.3)."""
    client = World().connect()
    client.join(config={"broadcast": {"ack": True}})
    client.take()
    client.push(LAB, "phx_leave", {}, join_ref=join_ref)
    assert client.got == []
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert client.got[0][4] == OK


def test_leaving_what_is_not_joined_is_ok() -> None:
    """An ok with the frame's own join_ref, and no close."""
    client = World().connect()
    ref = client.push("realtime:never", "phx_leave", {}, join_ref="9")
    assert client.got == [["9", ref, "realtime:never", "phx_reply", OK]]


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_joining_again_replaces_the_channel(vsn: str) -> None:
    """The new join is answered, then comes the close of the old one, and only the new one hears."""
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


def test_values_of_the_wrong_type_are_defaults() -> None:
    """A mistyped join is not refused: texts that say true are true, everything else is left out (protocol §3.1)."""
    client = World().connect()
    config = {
        "broadcast": {"self": "true", "ack": "TRUE"},
        "presence": {"enabled": "yes"},
        "postgres_changes": "x",
        "private": 3,
    }
    client.join(config=config)
    assert client.heard() == [("phx_reply", {"status": "ok", "response": {"postgres_changes": []}})]
    client.push(LAB, "broadcast", PING, join_ref="1")
    assert [event for event, _ in client.heard()][1:] == ["broadcast", "phx_reply"]


def test_nulls_among_the_bindings_are_dropped() -> None:
    """The others are echoed in order."""
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
def test_a_join_that_cannot_be_is_refused(topic: str, payload: Any, reason: str) -> None:
    """The reason is the server's, and no channel exists afterwards."""
    client = World().connect()
    ref = client.push(topic, "phx_join", payload, join_ref="1")
    assert client.take() == [["1", ref, topic, "phx_reply", denied(reason)]]
    client.push(topic, "broadcast", PING, join_ref="1")
    assert client.got[0][4] == UNMATCHED


@pytest.mark.parametrize("key", [42, 1.5, "text"])
def test_a_key_that_is_a_number_becomes_text(key: Any) -> None:
    """Numbers are taken as presence keys."""
    client = World().connect()
    client.join(config={"presence": {"enabled": True, "key": key}})
    client.track(LAB, {})
    assert list(client.events("presence_diff")[0]["joins"]) == [str(key)]


def test_the_frames_after_a_join_have_their_order() -> None:
    """Reply, replays, changes, replication, presence (protocol §3.7)."""
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
    order = [(event, payload.get("message")) for event, payload in client.heard()]
    assert order == [
        ("phx_reply", None),
        ("broadcast", None),
        ("system", "Subscribed to PostgreSQL"),
        ("system", "Replication connection established"),
        ("presence_state", None),
    ]


# --- a socket that stands still ---


def test_a_refused_join_holds_its_socket_for_five_seconds_when_strict() -> None:
    """Nothing else on that socket is answered or delivered meanwhile, and then all of it in order (protocol §3.2)."""
    world = World(timings=Timings.strict())
    held, other = world.connect(), world.connect()
    held.join(config={"broadcast": {"ack": True, "self": True}})
    other.join()
    held.take()
    other.take()
    held.push("realtime:x", "phx_join", {"config": {}, "access_token": "bad"}, ref="9", join_ref="9")
    held.push("phoenix", "heartbeat", {}, ref="10")
    held.push(LAB, "broadcast", {**PING, "event": "mine"}, ref="11", join_ref="1")
    other.push(LAB, "broadcast", {**PING, "event": "theirs"}, join_ref="1")
    world.run(4.9)
    assert held.got == [] and other.got == []
    world.run(0.2)
    shown = [(part.ref, part.event, part.payload.get("event")) for part in map(held.parts, held.got)]
    assert shown == [
        ("9", "phx_reply", None),
        ("10", "phx_reply", None),
        (None, "broadcast", "theirs"),
        (None, "broadcast", "mine"),
        ("11", "phx_reply", None),
    ]
    assert len(other.got) == 1


def test_refused_joins_hold_one_after_another() -> None:
    """N failing joins take N times five seconds."""
    world = World(timings=Timings.strict())
    client = world.connect()
    for n in range(3):
        client.push("realtime:", "phx_join", {"config": {}}, ref=str(n), join_ref=str(n))
    client.push("phoenix", "heartbeat", {}, ref="last")
    world.run(14.9)
    assert len(client.got) == 2
    world.run(0.2)
    assert [part.ref for part in map(client.parts, client.got)] == ["0", "1", "2", "last"]


def test_a_socket_that_stands_still_is_read_no_further_than_some_megabytes() -> None:
    """Reading stops over a bound and goes on when the queue is worked off."""
    world = World(timings=Timings.strict())
    client = world.connect()
    client.push("realtime:", "phx_join", {"config": {}})
    blob = "x" * 3_000_000
    for _ in range(MAX_QUEUED_IN // 3_000_000 + 1):
        client.push("phoenix", "heartbeat", {"x": blob})
    assert client.held == ["PauseReading"]
    world.run(5.1)
    assert client.held == ["PauseReading", "ResumeReading"]


def test_a_socket_that_stands_still_too_long_is_cut() -> None:
    """What waits for a client is bounded; over the bound the socket is gone (protocol §8)."""
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


def test_a_broadcast_reaches_the_others_unchanged() -> None:
    """Text goes out as text, refs null, with every key it had; the sender gets nothing."""
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


def test_another_channel_of_the_same_client_hears() -> None:
    """Only the sending channel is skipped; public and private rooms of one name stay apart."""
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
def test_self_and_ack_are_asked_for(config: dict[str, Any], events: list[str]) -> None:
    """Neither the own message nor an answer comes unasked (protocol §6.2)."""
    client = World().connect()
    client.join(config={"broadcast": config})
    client.take()
    client.push(LAB, "broadcast", PING, join_ref="stale")
    assert [event for event, _ in client.heard()] == events


def test_a_binary_broadcast_is_converted_for_each_recipient() -> None:
    """JSON reaches 1.0.0 as text and 2.0.0 as kind 4; raw bytes reach 2.0.0 only (protocol §2.4)."""
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
    """And 1.0.0 gets a text that is not JSON (protocol §2.3)."""
    world = World()
    ada, bob, old = world.connect(), world.connect(), world.connect(vsn="1.0.0")
    for client in (ada, bob, old):
        client.join()
        client.take()
    ada.raw(b"\x00\x01\x01\x0c\x0917realtime:labbroadcast\x01\x02")
    assert bob.got == [b"\x02\x0c\x09realtime:labbroadcast\x01\x02"]
    assert "unable to parse response" in old.got[0]


@pytest.mark.parametrize("payload", ["text", [1, 2], None, 5])
def test_a_payload_that_is_no_object_crashes_the_sender_when_version_two_listens(payload: Any) -> None:
    """`phx_error` with the join_ref, no answer, and the channel is gone; among 1.0.0 alone it is relayed (§2.2)."""
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
def test_a_payload_over_the_limit_goes_nowhere(ack: bool) -> None:
    """With `ack` the answer is an error whose response is a bare text."""
    world = World(limits=ServerLimits(payload_kb=1))
    ada, bob = world.connect(), world.connect()
    ada.join(config={"broadcast": {"ack": ack}})
    bob.join()
    ada.take()
    bob.take()
    ada.push(LAB, "broadcast", {"payload": "a" * 1600}, join_ref="1")
    ada.user_push(LAB, "big", b"a" * 1600, json=False)
    assert bob.got == []
    assert [payload for _, payload in ada.heard()] == [
        {"status": "error", "response": "payload_size_exceeded"} for _ in range(2 if ack else 0)
    ]


def test_a_payload_of_many_small_members_counts_as_large() -> None:
    """Sizes are those of decoded terms, so short texts may be over the limit (protocol §8)."""
    world = World(limits=ServerLimits(payload_kb=1))
    client = world.connect()
    client.join(config={"broadcast": {"ack": True}})
    client.push(LAB, "broadcast", {"payload": [{}] * 300}, join_ref="1")
    assert client.events("phx_reply")[-1]["response"] == "payload_size_exceeded"


def test_who_hears_while_the_rate_is_exceeded_is_closed() -> None:
    """The message arrives, then the system error and the close; a sender that hears nothing stays (protocol §8)."""
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
    assert bob.heard() == [("broadcast", PING), ("system", system("Too many messages per second")), ("phx_close", {})]
    assert ada.got == []


# --- limits of joins and sockets ---


def test_a_socket_has_so_many_channels() -> None:
    """The next join is refused, and possible again after a leave."""
    client = World(limits=ServerLimits(channels=2)).connect()
    for name in ("a", "b", "c"):
        client.join(f"realtime:{name}")
    assert client.events("phx_reply")[-1] == denied("ChannelRateLimitReached: Too many channels")
    client.push("realtime:a", "phx_leave", {}, join_ref="1")
    client.join("realtime:c")
    assert client.events("phx_reply")[-1]["status"] == "ok"


def test_too_many_joins_a_second_close_the_socket_with_1001() -> None:
    """After the error reply; and new sockets are refused with 429."""
    world = World(limits=ServerLimits(joins=2))
    client = world.connect()
    for _ in range(10):
        client.join()
    world.run(5)
    client.take()
    client.join()
    assert client.heard() == [
        ("phx_reply", denied("ClientJoinRateLimitReached: Too many joins per second")),
    ]
    assert client.closed == (1001,)
    answer = world.handshake(9, {"apikey": world.token()})
    assert isinstance(answer, Refusal) and (answer.status, answer.body) == (
        429,
        b'{"error":"Too many joins per second"}',
    )


def test_too_many_sockets_with_channels_are_refused() -> None:
    """At the handshake with 429, at a join with its reason (protocol §8)."""
    world = World(limits=ServerLimits(connections=1))
    first, second = world.connect(), world.connect()
    first.join()
    second.join()
    assert second.events("phx_reply") == [denied("ConnectionRateLimitReached: Too many connected users")]
    answer = world.handshake(9, {"apikey": world.token()})
    assert isinstance(answer, Refusal) and answer.body == b'{"error":"Too many connected users"}'


# --- the end ---


def test_a_shutdown_closes_every_socket_with_1012() -> None:
    """Without a word on the channels."""
    world = World()
    clients = [world.connect() for _ in range(3)]
    for client in clients:
        client.join()
        client.take()
    world.hub.shutdown(world.now)
    world.pump()
    assert [(client.got, client.closed) for client in clients] == [([], (1012,))] * 3


def test_a_requested_disconnect_is_announced() -> None:
    """A system message without a channel, refs null, then 1012 (protocol §3.6)."""
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
    """Two hubs with one seed answer byte for byte alike, phx_refs and keys included."""

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


def test_clients_that_come_and_go_leave_nothing() -> None:
    """No socket, room or deadline stays behind."""
    world = World(timings=Timings.strict())
    for _ in range(500):
        client = world.connect()
        client.join(config={"presence": {"enabled": True}})
        client.track(LAB, {})
        client.disconnect()
    assert not world.hub.connections.peers and world.hub.rooms.get("lab", False) is None
    assert len(world.hub.schedule) < 300


def test_no_token_in_a_join_stops_the_server() -> None:
    """A header of odd types is refused as any other, and everybody else goes on."""
    world = World(timings=Timings.strict())
    odd, other = world.connect(), world.connect()
    other.join("realtime:other")
    odd.join(access_token=unsigned({"alg": []}))
    odd.join("realtime:lab", access_token=unsigned({"alg": "HS256", "kid": {}}))
    world.run(11)
    assert [payload["status"] for payload in odd.events("phx_reply")] == ["error", "error"]
    other.push("phoenix", "heartbeat", {})
    assert other.events("phx_reply")[-1] == OK


def test_a_binding_as_deep_as_json_is_read_is_refused_in_words() -> None:
    """It names no table, so the system message repeats it."""
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
def test_bytes_that_could_end_a_json_text_do_not_reach_version_one(payload: bytes) -> None:
    """There they would be a part of a larger text, and could add a topic, an event or a close of their own."""
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
def test_plain_text_that_claims_to_be_json_is_relayed(payload: str) -> None:
    """As on the real server; the frame is not JSON then, and clients drop it."""
    world = World()
    sender, old = world.connect(), world.connect(vsn="1.0.0")
    sender.join()
    old.join()
    old.take()
    sender.user_push(LAB, "e", payload.encode(), json=True)
    (text,) = old.got
    assert f'"payload":{payload},"type":"broadcast"' in text or text["payload"]["payload"] != text["payload"]["payload"]
