"""The hub with a database that it has to ask: what waits for an answer, and for how long (protocol §3, §6, §7.4)."""

from typing import Any

import pytest

from supawire.server.effects import RestAnswer
from supawire.server.hub_options import Timings
from supawire.server.limits import ServerLimits
from supawire.server.queries import (
    Extension,
    MessagesQuery,
    PermissionsQuery,
    QueryError,
    Replay,
    StoredMessage,
    SubscribeQuery,
)
from tests.server.world import OK, PENDING, Client, World, denied, system

LAB = "realtime:lab"
PRIVATE = {"private": True, "broadcast": {"ack": True, "self": True}, "presence": {"enabled": True}}
NONE: frozenset[Extension] = frozenset()
BROADCAST: frozenset[Extension] = frozenset({"broadcast"})
PRESENCE: frozenset[Extension] = frozenset({"presence"})
BOTH = BROADCAST | PRESENCE
NO_READ = "You do not have permissions to read from this Channel topic: lab"
LOST_READ = "You no longer have permission to read from this Channel topic: lab"


def ping(n: int) -> dict[str, Any]:
    return {"type": "broadcast", "event": "ping", "payload": {"n": n}}


def joined(world: World, config: dict[str, Any] | None = None, topic: str = LAB, reads: Any = BOTH) -> Client:
    """A client whose private channel is joined."""
    client = world.connect()
    client.join(topic, config or PRIVATE)
    world.answer(reads)
    client.take()
    return client


@pytest.fixture
def world() -> World:
    return World(database=True)


# --- joins ---


def test_a_private_join_waits_for_its_rights_and_the_socket_stands_meanwhile(world: World) -> None:
    """What comes in behind it waits and is answered after it, in order (§3.2)."""
    client = world.connect(token=world.token(sub="7"))
    client.join(config=PRIVATE)
    client.push("phoenix", "heartbeat", {})
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    assert client.got == []
    (question,) = world.asked.values()
    assert isinstance(question, PermissionsQuery)
    assert (question.topic, question.action, question.extensions) == ("lab", "read", ("broadcast", "presence"))
    assert question.requester.claims.values["sub"] == "7"
    world.answer(BOTH)
    assert [event for event, _ in client.heard()] == ["phx_reply", "phx_reply", "presence_state"]
    assert [client.parts(frame).ref for frame in client.take()] == ["1", "2", None]
    world.answer(BROADCAST)
    assert [event for event, _ in client.heard()] == ["broadcast", "phx_reply"]
    world.run(11)  # no deadline is left of what was answered
    assert world.hub.late_answers == 0


def test_headers_of_the_socket_come_with_the_question(world: World) -> None:
    """Policies may look at `request.headers`; the key is among them, so a question does not print them."""
    world.handshake(1, {"apikey": world.token()}, headers={"x-tenant-hint": "blue", "accept": "*/*"})
    client = world.clients[1] = Client(world, 1, v2=False)
    client.join(config={"private": True})
    (question,) = world.asked.values()
    assert isinstance(question, PermissionsQuery)
    assert question.requester.headers == {"x-tenant-hint": "blue"}
    assert "blue" not in repr(question)
    assert question.extensions == ("broadcast",)


def test_a_public_join_asks_nothing(world: World) -> None:
    """Whatever the database may be doing."""
    client = world.connect()
    client.join(config={"broadcast": {"ack": True}})
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    assert client.events("phx_reply")[-1] == OK
    assert world.asked == {}


def test_a_join_without_a_read_right_is_refused(world: World) -> None:
    """With the server's text, after the usual delay."""
    client = world.connect()
    client.join(config=PRIVATE)
    world.answer(NONE)
    assert client.events("phx_reply") == [denied(f"Unauthorized: {NO_READ}")]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (QueryError.POLICY, f"Unauthorized: {NO_READ}"),
        (QueryError.CANCELED, "QueryCanceled: Query was cancelled, please try again"),
        (
            QueryError.NO_PARTITION,
            "MissingPartition: Realtime was unable to find the expected messages partition",
        ),
        (QueryError.DOWN, "UnableToConnectToProject: Realtime was unable to connect to the project database"),
        (QueryError.BUSY, "IncreaseConnectionPool: Please increase your connection pool size"),
        (QueryError.UNKNOWN, "Realtime was unable to connect to the project database"),
    ],
)
def test_trouble_refuses_a_join_with_its_text(trouble: QueryError, reason: str) -> None:
    """Each with the reason of the real server (§9.2), held back as any refusal."""
    world = World(database=True, timings=Timings(join_error=5.0))
    client = world.connect()
    client.join(config=PRIVATE)
    world.answer(trouble)
    world.run(4.9)
    assert client.got == []
    world.run(0.2)
    assert client.events("phx_reply") == [denied(reason)]


def test_without_an_answer_a_join_is_refused_and_the_socket_goes_on(world: World) -> None:
    """After ten seconds; an answer that comes later finds nobody."""
    client = world.connect()
    client.join(config=PRIVATE)
    client.push("phoenix", "heartbeat", {})
    world.run(9.9)
    assert client.got == []
    world.run(0.2)
    reason = "IncreaseConnectionPool: Please increase your connection pool size"
    assert client.events("phx_reply") == [denied(reason), OK]
    world.answer(BOTH)
    assert client.events("phx_reply") == [denied(reason), OK]
    assert world.hub.late_answers == 1


def test_a_socket_that_goes_away_while_it_joins_leaves_nothing(world: World) -> None:
    """The answer finds nobody, and no room has a member."""
    client = world.connect()
    client.join(config=PRIVATE)
    client.disconnect()
    world.answer(BOTH)
    other = joined(world)
    assert client.got == [] and other.got == []
    world.hub.broadcast("lab", "e", {}, world.now, private=True)
    world.pump()
    assert client.got == [] and len(other.got) == 1


def test_a_database_that_is_down_refuses_public_joins_too(world: World) -> None:
    """Until the shell says that it is back (§3.1: the connection is checked before anything is read)."""
    world.hub.set_database_error(QueryError.DOWN, world.now)
    client = world.connect()
    client.join()
    reason = "UnableToConnectToProject: Realtime was unable to connect to the project database"
    assert client.events("phx_reply") == [denied(reason)]
    world.hub.set_database_error(None, world.now)
    client.join()
    assert client.events("phx_reply")[-1]["status"] == "ok"


def test_delays_and_answers_hold_a_join_together(world: World) -> None:
    """A join that is delayed by a fault and then waits for its rights goes on after both."""
    world.fault("delay_join", "lab", 3)
    client = world.connect()
    client.join(config=PRIVATE)
    client.push("phoenix", "heartbeat", {})
    assert world.asked == {}
    world.run(3)
    assert client.got == []
    world.answer(BOTH)
    assert [event for event, _ in client.heard()] == ["phx_reply", "phx_reply", "presence_state"]


def test_a_replaced_channel_is_closed_after_the_answer_to_the_new_join(world: World) -> None:
    """Also when that answer has to wait for its rights (§3.2)."""
    client = joined(world)
    client.join(config=PRIVATE)
    assert client.got == []
    world.answer(BOTH)
    assert client.got[0][:4] == ["2", "2", LAB, "phx_reply"]
    assert client.got[1] == ["1", "1", LAB, "phx_close", {}]


# --- replay ---


def stored(n: int, **more: Any) -> StoredMessage:
    fields: dict[str, Any] = {"topic": "lab", "event": "e", "payload": b'{"n":%d}' % n, "json": True, "private": True}
    return StoredMessage(id=f"id-{n}", sent_at=0.0, **{**fields, **more})


REPLAY = {"private": True, "broadcast": {"replay": {"since": 5, "limit": 3}}}


def test_a_replay_is_asked_for_once_the_rights_are_known(world: World) -> None:
    """Then the reply, what was missed, and nothing live a second time (§3.7, §6.3)."""
    client = world.connect()
    client.join(config=REPLAY)
    world.answer(BROADCAST)
    assert client.got == []
    assert world.answer((stored(1), stored(2))) == MessagesQuery("lab", Replay(since=5, limit=3))
    reply, *replayed = client.heard()
    assert reply[0] == "phx_reply" and reply[1]["status"] == "ok"
    assert [payload["payload"] for _, payload in replayed] == [{"n": 1}, {"n": 2}]
    assert [payload["meta"] for _, payload in replayed] == [
        {"id": "id-1", "replayed": True},
        {"id": "id-2", "replayed": True},
    ]
    client.take()
    world.hub.deliver(stored(2), world.now)
    world.hub.deliver(stored(3), world.now)
    world.pump()
    assert len(client.got) == 1 and b'"id-3"' in client.got[0]


def test_a_message_that_passes_while_a_replay_is_looked_up_is_not_lost(world: World) -> None:
    """It was delivered before the channel was there and is not in the answer: it comes after what is replayed."""
    client = world.connect()
    client.join(config=REPLAY)
    world.answer(BROADCAST)
    for message in (stored(2), stored(3), stored(4, topic="other"), stored(5, private=False)):
        world.hub.deliver(message, world.now)
    world.pump()
    world.answer((stored(1), stored(2)))
    frames = [client.parts(frame) for frame in client.got[1:]]
    assert [frame.payload.get("payload") for frame in frames[:2]] == [{"n": 1}, {"n": 2}]
    assert len(frames) == 3 and b'"id-3"' in frames[2].payload


def test_a_replay_that_fails_refuses_the_join(world: World) -> None:
    """Whatever the trouble is, with one text (§9.2)."""
    client = world.connect()
    client.join(config=REPLAY)
    world.answer(BROADCAST)
    world.answer(QueryError.DOWN)
    assert client.events("phx_reply") == [denied("UnableToReplayMessages: Realtime was unable to replay messages")]


def test_who_may_not_read_broadcasts_is_replayed_none(world: World) -> None:
    """The question is not even asked."""
    client = world.connect()
    client.join(config={**REPLAY, "presence": {"enabled": True}})
    world.answer(PRESENCE)
    assert world.asked == {} and client.events("phx_reply")[0]["status"] == "ok"


# --- writing ---


def test_the_first_broadcast_asks_and_the_channel_waits_in_order(world: World) -> None:
    """Later frames of this channel wait behind it; then the right is known and asked for no more (§7.4)."""
    client = joined(world)
    refs = [client.push(LAB, "broadcast", ping(n), join_ref="1") for n in range(3)]
    assert client.got == []
    question = world.answer(BROADCAST)
    assert isinstance(question, PermissionsQuery)
    assert (question.action, question.extensions) == ("write", ("broadcast",))
    assert [payload["payload"]["n"] for payload in client.events("broadcast")] == [0, 1, 2]
    assert [client.parts(frame).ref for frame in client.got if client.parts(frame).event == "phx_reply"] == refs
    client.push(LAB, "broadcast", ping(3), join_ref="1")
    assert world.asked == {} and len(client.events("broadcast")) == 4


def test_other_channels_of_the_socket_go_on_meanwhile(world: World) -> None:
    """Only the channel that asks waits."""
    client = joined(world)
    client.join("realtime:open", {"broadcast": {"ack": True}})
    client.take()
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    client.push("realtime:open", "broadcast", ping(1), join_ref="2")
    client.push("phoenix", "heartbeat", {})
    assert [event for event, _ in client.heard()] == ["phx_reply", "phx_reply"]


def test_a_denied_broadcast_vanishes_and_so_do_those_behind_it(world: World) -> None:
    """No answer, even with `ack` (§6.2); the no is kept."""
    client = joined(world)
    for n in range(2):
        client.push(LAB, "broadcast", ping(n), join_ref="1")
    world.answer(NONE)
    client.push(LAB, "broadcast", ping(2), join_ref="1")
    assert client.got == [] and world.asked == {}


@pytest.mark.parametrize("trouble", list(QueryError))
def test_trouble_while_a_right_is_asked_for_is_no_answer_to_keep(trouble: QueryError) -> None:
    """The message is lost without a word, and the next one asks again (§6.2)."""
    world = World(database=True)
    client = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    world.answer(trouble)
    assert client.got == []
    client.push(LAB, "broadcast", ping(2), join_ref="1")
    world.answer(BROADCAST)
    assert [payload["payload"]["n"] for payload in client.events("broadcast")] == [2]
    client.take()
    ref = client.track(LAB, {})
    world.answer(trouble)
    assert client.got == [["1", ref, LAB, "phx_reply", {"status": "error", "response": {}}]]


def test_track_asks_for_its_own_right(world: World) -> None:
    """A denied one is answered with an error without a reason (§5.3)."""
    client = joined(world)
    ref = client.track(LAB, {"n": 1})
    question = world.answer(NONE)
    assert isinstance(question, PermissionsQuery) and question.extensions == ("presence",)
    assert client.take() == [["1", ref, LAB, "phx_reply", {"status": "error", "response": {}}]]
    other = joined(world)
    other.track(LAB, {"n": 2})
    world.answer(PRESENCE)
    assert [event for event, _ in other.heard()] == ["phx_reply", "presence_diff"]


def test_a_track_without_enabled_presence_asks_twice_and_hears_from_then_on(world: World) -> None:
    """First whether it may track, then whether it may read; what comes behind it waits for both (§5.4)."""
    client = joined(world, {"private": True, "broadcast": {"ack": True}}, reads=BROADCAST)
    client.track(LAB, {"n": 1})
    client.push(LAB, "presence", {"type": "presence", "event": "untrack"}, join_ref="1")
    world.answer(PRESENCE)
    assert client.got == []
    question = world.answer(PRESENCE)
    assert isinstance(question, PermissionsQuery) and (question.action, question.extensions) == ("read", ("presence",))
    assert [event for event, _ in client.heard()] == ["phx_reply", "presence_diff", "phx_reply", "presence_diff"]


def test_a_leave_and_a_join_wait_behind_a_right(world: World) -> None:
    """The message before them is sent first, and each is answered in its turn."""
    client = joined(world)
    other = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    client.join(config=PRIVATE)
    client.push("phoenix", "heartbeat", {})
    assert [event for event, _ in client.heard()] == ["phx_reply"]
    world.answer(BROADCAST)
    assert [payload["payload"]["n"] for payload in other.events("broadcast")] == [1]
    world.answer(BOTH)
    assert client.events("phx_close") == [{}]
    client.push(LAB, "broadcast", ping(2), join_ref="3")
    client.push(LAB, "phx_leave", {}, join_ref="3")
    client.take()
    world.answer(BROADCAST)
    assert [event for event, _ in client.heard()] == ["broadcast", "phx_reply", "phx_reply", "phx_close"]


def test_what_stands_behind_a_join_that_waited_comes_after_it(world: World) -> None:
    """The join had to wait for the channel before it, and then for its own rights."""
    client, other = joined(world), joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    client.join(config=PRIVATE)
    for n in (2, 3):
        client.push(LAB, "broadcast", ping(n), join_ref="3")
    world.answer(BROADCAST)
    world.answer(BOTH)
    world.answer(BROADCAST)
    assert [payload["payload"]["n"] for payload in other.events("broadcast")] == [1, 2, 3]


def test_a_channel_that_ends_while_it_waits_sends_nothing(world: World) -> None:
    """Its token ran out meanwhile; what waited behind is answered as on any topic that is not joined."""
    client = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    ref = client.track(LAB, {})
    world.fault("expire_tokens", "lab")
    client.take()
    world.answer(BROADCAST)
    assert client.got == [[None, ref, LAB, "phx_reply", denied("unmatched topic")]]


def test_a_socket_that_stands_still_keeps_the_order_of_what_waited(world: World) -> None:
    """An answer that comes while another topic joins does not let frames pass that came later."""
    client = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    client.push(LAB, "broadcast", ping(2), join_ref="1")
    client.join("realtime:second", {"private": True})
    client.push(LAB, "broadcast", ping(3), join_ref="1")
    first, second = world.asked
    world.answer(BROADCAST, first)
    assert client.got == []
    world.answer(BROADCAST, second)
    assert [payload["payload"]["n"] for payload in client.events("broadcast")] == [1, 2, 3]


def test_a_client_that_sends_too_much_meanwhile_is_read_no_further(world: World) -> None:
    """Until what waits has shrunk."""
    client = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    for _ in range(3):
        client.user_push(LAB, "big", b'"' + b"x" * 3_000_000 + b'"', json=True)
    assert client.held == ["PauseReading"]
    world.answer(BROADCAST)
    assert client.held == ["PauseReading", "ResumeReading"]
    assert len([frame for frame in client.got if isinstance(frame, bytes)]) == 3
    client.push(LAB, "access_token", {"access_token": world.token(sub="8")}, join_ref="1")
    world.answer(BOTH)
    assert client.held == ["PauseReading", "ResumeReading"]


# --- tokens ---


def test_a_new_token_asks_for_the_read_rights_and_forgets_the_others(world: World) -> None:
    """What comes behind it waits for the answer (§7.3)."""
    client = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    world.answer(BROADCAST)
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(sub="8")}, join_ref="1")
    client.push(LAB, "broadcast", ping(2), join_ref="1")
    question = world.answer(BOTH)
    assert isinstance(question, PermissionsQuery)
    assert question.action == "read" and question.requester.claims.values["sub"] == "8"
    question = world.answer(NONE)
    assert isinstance(question, PermissionsQuery) and question.action == "write"
    assert client.got == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (NONE, NO_READ),
        (BROADCAST, LOST_READ),
        (QueryError.POLICY, NO_READ),
        (QueryError.CANCELED, "Query was cancelled, please try again"),
        (QueryError.NO_PARTITION, "Realtime was unable to connect to the project database"),
        (QueryError.DOWN, "Realtime was unable to connect to the project database"),
        (QueryError.BUSY, ":increase_connection_pool"),
        (QueryError.UNKNOWN, "Realtime was unable to connect to the project database"),
    ],
)
def test_rights_that_are_lost_or_unknown_end_the_channel(answer: Any, message: str) -> None:
    """With a `system` error and `phx_close` (§3.6)."""
    world = World(database=True)
    client = joined(world)
    client.push(LAB, "access_token", {"access_token": world.token(sub="8")}, join_ref="1")
    world.answer(answer)
    assert client.heard() == [("system", system(message)), ("phx_close", {})]


@pytest.mark.parametrize("before", [BROADCAST, PRESENCE])
def test_a_new_token_may_give_what_the_one_before_did_not(world: World, before: frozenset[Extension]) -> None:
    """From then on the channel hears what it may read (§7.3)."""
    client, other = joined(world, reads=before), joined(world)
    client.push(LAB, "access_token", {"access_token": world.token(sub="8")}, join_ref="1")
    world.answer(BOTH)
    other.push(LAB, "broadcast", ping(1), join_ref="1")
    world.answer(BROADCAST)
    other.track(LAB, {})
    world.answer(PRESENCE)
    assert [event for event, _ in client.heard()] == ["broadcast", "presence_diff"]


def test_a_new_token_that_lasts_shorter_ends_the_channel_sooner(world: World) -> None:
    """Its end is looked for, not that of the token before (§7.2)."""
    client = joined(world)
    client.push(LAB, "access_token", {"access_token": world.token(lasts=10)}, join_ref="1")
    world.answer(BOTH)
    world.run(9)
    assert client.got == []
    world.run(2)
    assert client.heard() == [("system", system("Token has expired 0 seconds ago")), ("phx_close", {})]


def test_a_token_that_outlives_one_look_is_looked_at_again() -> None:
    """Every five minutes until it ends (§7.2)."""
    world = World(timings=Timings(idle=10_000))
    client = world.connect(token=world.token(lasts=700))
    client.join()
    client.take()
    world.run(699)
    assert client.got == []
    world.run(2)
    assert [event for event, _ in client.heard()] == ["system", "phx_close"]


# --- REST ---


def test_a_private_post_is_answered_when_the_right_is_known(world: World) -> None:
    """One message to one topic: 202, 403, or what the trouble says (§6.7)."""
    client = joined(world)
    path = "/api/broadcast/lab/events/e"
    assert world.rest(path, {"n": 1}, query={"private": "true"}) is PENDING
    question = world.answer(BROADCAST)
    assert isinstance(question, PermissionsQuery) and question.topic == "lab"
    assert world.responses[world.later] == RestAnswer(202)
    assert len(client.got) == 1
    assert world.rest(path, {"n": 1}, query={"private": "true"}) is PENDING
    world.answer(NONE)
    assert world.responses[world.later].status == 403
    assert world.rest(path, {"n": 1}) == RestAnswer(202)
    assert len(client.got) == 1


@pytest.mark.parametrize(
    ("trouble", "status", "message"),
    [
        (QueryError.POLICY, 422, b'{"message":"RLS policy error"}'),
        (QueryError.CANCELED, 422, b'{"message":"Query canceled"}'),
        (QueryError.NO_PARTITION, 422, b'{"message":"Missing messages partition"}'),
        (QueryError.DOWN, 422, b'{"message":"Tenant database unavailable"}'),
        (QueryError.BUSY, 429, b'{"message":"Connection pool exhausted"}'),
        (QueryError.UNKNOWN, 500, b'{"message":"Unable to authorize broadcast"}'),
    ],
)
def test_trouble_of_a_single_post_has_its_own_answer(trouble: QueryError, status: int, message: bytes) -> None:
    """Status and message are the real server's (§6.7)."""
    world = World(database=True, limits=ServerLimits(messages=50))
    world.rest("/api/broadcast/lab/events/e", {}, query={"private": "true"})
    world.answer(trouble)
    answer = world.responses[world.later]
    assert (answer.status, answer.body) == (status, message)
    assert ("x-rate-limit", "50") in answer.headers


def test_a_batch_asks_once_for_each_private_topic(world: World) -> None:
    """What is denied or unknown is skipped without a word; order is kept (§6.5)."""
    lab, den = joined(world), joined(world, topic="realtime:den")
    public = world.connect()
    public.join()
    public.take()
    messages = [
        {"topic": topic, "event": "e", "payload": {"n": n}, "private": private}
        for n, (topic, private) in enumerate(
            [("lab", True), ("den", True), ("lab", False), ("lab", True), ("hut", True)]
        )
    ]
    assert world.rest("/api/broadcast", {"messages": messages}) is PENDING
    topics = [question.topic for question in world.asked.values() if isinstance(question, PermissionsQuery)]
    assert topics == ["lab", "den", "hut"]
    world.answer(BROADCAST)
    world.answer(NONE)
    assert lab.got == [] and world.responses == {}
    world.answer(QueryError.DOWN)
    assert world.responses[world.later] == RestAnswer(202)
    assert [payload["payload"]["n"] for payload in lab.events("broadcast")] == [0, 3]
    assert den.got == [] and [payload["payload"]["n"] for payload in public.events("broadcast")] == [2]


# --- subscriptions ---

CHANGES = {"postgres_changes": [{"event": "INSERT", "schema": "public", "table": "users"}]}


def test_bindings_are_live_when_the_database_says_so(world: World) -> None:
    """The question has the channel's number, which is named again when it ends."""
    client = world.connect()
    client.join(config=CHANGES)
    assert [event for event, _ in client.heard()] == ["phx_reply"]
    question = world.answer(None)
    assert isinstance(question, SubscribeQuery)
    assert [binding.table for binding in question.bindings] == ["users"]
    subscribed = system("Subscribed to PostgreSQL", status="ok", extension="postgres_changes")
    assert client.events("system") == [subscribed]
    client.push(LAB, "phx_leave", {}, join_ref="1")
    assert world.unsubscribed == [question.channel]


def test_bindings_that_the_database_refuses_are_said_and_not_tried_again(world: World) -> None:
    """The channel stays (§3.6)."""
    client = world.connect()
    client.join(config=CHANGES)
    world.answer("Unable to subscribe")
    assert client.events("system") == [system("Unable to subscribe", extension="postgres_changes")]
    world.run(60)
    assert world.asked == {}


def test_bindings_that_meet_trouble_are_tried_again(world: World) -> None:
    """After five seconds, and the client is told (§3.6)."""
    client = world.connect()
    client.join(config=CHANGES)
    world.answer(QueryError.BUSY)
    assert client.events("system") == [system('{:error, "Too many database timeouts"}', extension="postgres_changes")]
    world.run(5)
    world.answer(None)
    assert client.events("system")[-1]["status"] == "ok"


def test_a_malformed_binding_does_not_reach_the_database(world: World) -> None:
    """Its text is known here; one bad one spoils all."""
    client = world.connect()
    client.join(config={"postgres_changes": [*CHANGES["postgres_changes"], {"event": "*"}]})
    assert world.asked == {} and client.events("system")[0]["status"] == "error"
    client.push(LAB, "phx_leave", {}, join_ref="1")
    assert world.unsubscribed == []


def test_a_channel_that_has_left_is_told_nothing_of_its_bindings(world: World) -> None:
    """The answer comes too late."""
    client = world.connect()
    client.join(config=CHANGES)
    client.push(LAB, "phx_leave", {}, join_ref="1")
    client.take()
    world.answer(None)
    assert client.got == []


# --- messages from the database ---

READY = {"private": True, "broadcast": {"replication_ready": True}}
ESTABLISHED = system("Replication connection established", status="ok")


def test_who_asked_is_told_when_messages_flow(world: World) -> None:
    """At once when they do already (§3.6)."""
    client = joined(world, READY)
    assert client.got == []
    world.hub.set_broadcasts_ready(True, world.now)
    world.pump()
    assert client.events("system") == [ESTABLISHED]
    other = world.connect()
    other.join(config=READY)
    world.answer(BOTH)
    assert other.events("system") == [ESTABLISHED]
    world.hub.set_broadcasts_ready(False, world.now)
    assert joined(world, READY).got == []
    assert joined(world).got == []


def test_a_minute_without_messages_flowing_closes_who_asked() -> None:
    """And nobody else (§3.6); who was told in time is left alone."""
    world = World(database=True, timings=Timings(idle=1000))
    client, other = joined(world, READY), joined(world)
    world.run(59)
    assert client.got == []
    world.run(2)
    message = "Replication connection was not established in time"
    assert client.heard() == [("system", system(message)), ("phx_close", {})]
    assert other.got == []
    late = joined(world, READY)
    world.hub.set_broadcasts_ready(True, world.now)
    world.pump()
    late.take()
    at_once = joined(world, READY)
    world.run(61)
    assert late.got == [] and at_once.got == []


def test_a_message_of_the_database_reaches_its_room_only() -> None:
    """Private or public, JSON or raw, with its id; over the size limit it is lost without a word (§6.4)."""
    world = World(database=True, limits=ServerLimits(payload_kb=1))
    private, old = joined(world), world.connect(vsn="1.0.0")
    old.join(config={"private": True})
    world.answer(BOTH)
    public = world.connect()
    public.join()
    for client in (old, public):
        client.take()
    for message in (
        stored(1),
        stored(2, private=False),
        stored(3, payload=b"\x00\xff", json=False),
        stored(4, payload=b'{"big":"' + b"x" * 2000 + b'"}'),
    ):
        world.hub.deliver(message, world.now)
    world.pump()
    assert len(private.got) == 2 and b"id-1" in private.got[0] and private.got[1].endswith(b"\x00\xff")
    assert [payload["meta"] for payload in old.events("broadcast")] == [{"id": "id-1"}]
    assert len(public.got) == 1 and b"id-2" in public.got[0]
