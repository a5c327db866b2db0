"""The hub with a database backend: what waits for the answer to a query, and for how long."""

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
    """Return a client that has joined a private channel."""
    client = world.connect()
    client.join(topic, config or PRIVATE)
    world.answer(reads)
    client.take()
    return client


@pytest.fixture
def world() -> World:
    return World(database=True)


# --- joins ---


def test_a_join_suspends_its_connection_until_its_rights_are_known(world: World) -> None:
    """Frames received behind the join are answered after it, in order."""
    client = world.connect(token=world.token(sub="7"))
    client.join(config=PRIVATE)
    client.push("phoenix", "heartbeat", {})
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    assert client.got == []
    (query,) = world.pending.values()
    assert isinstance(query, PermissionsQuery)
    assert (query.topic, query.action, query.extensions) == ("lab", "read", ("broadcast", "presence"))
    assert query.requester.claims.values["sub"] == "7"
    world.answer(BOTH)
    assert [event for event, _ in client.received()] == ["phx_reply", "phx_reply", "presence_state"]
    assert [client.parts(frame).ref for frame in client.take()] == ["1", "2", None]
    world.answer(BROADCAST)
    assert [event for event, _ in client.received()] == ["broadcast", "phx_reply"]
    world.run(11)  # no deadline is left of what was answered
    assert world.hub.late_answers == 0


def test_a_query_has_the_headers_of_the_connection(world: World) -> None:
    """Policies can read `request.headers`; they may contain the key, so the query's repr does not show them."""
    world.handshake(1, {"apikey": world.token()}, headers={"x-tenant-hint": "blue", "accept": "*/*"})
    client = world.clients[1] = Client(world, 1, v2=False)
    client.join(config={"private": True})
    (query,) = world.pending.values()
    assert isinstance(query, PermissionsQuery)
    assert query.requester.headers == {"x-tenant-hint": "blue"}
    assert "blue" not in repr(query)
    assert query.extensions == ("broadcast",)


def test_a_public_join_queries_nothing(world: World) -> None:
    """It is answered at once."""
    client = world.connect()
    client.join(config={"broadcast": {"ack": True}})
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    assert client.events("phx_reply")[-1] == OK
    assert world.pending == {}


def test_a_join_without_a_read_right_is_refused(world: World) -> None:
    """The reason is the real server's."""
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
def test_a_failed_query_refuses_a_join(trouble: QueryError, reason: str) -> None:
    """Each error has the real server's reason, and the reply is delayed as for any refusal."""
    world = World(database=True, timings=Timings(join_error=5.0))
    client = world.connect()
    client.join(config=PRIVATE)
    world.answer(trouble)
    world.run(4.9)
    assert client.got == []
    world.run(0.2)
    assert client.events("phx_reply") == [denied(reason)]


def test_a_query_without_an_answer_refuses_the_join(world: World) -> None:
    """The join is refused after ten seconds and the socket resumes; a later answer is dropped."""
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


def test_a_connection_that_ends_while_it_joins_creates_no_channel(world: World) -> None:
    """The answer is ignored, and no room has the channel."""
    client = world.connect()
    client.join(config=PRIVATE)
    client.disconnect()
    world.answer(BOTH)
    other = joined(world)
    assert client.got == [] and other.got == []
    world.hub.broadcast("lab", "e", {}, world.now, private=True)
    world.pump()
    assert client.got == [] and len(other.got) == 1


def test_public_joins_are_refused_during_an_outage_too(world: World) -> None:
    """Joins are refused until the shell reports that the database works again."""
    world.hub.set_database_error(QueryError.DOWN, world.now)
    client = world.connect()
    client.join()
    reason = "UnableToConnectToProject: Realtime was unable to connect to the project database"
    assert client.events("phx_reply") == [denied(reason)]
    world.hub.set_database_error(None, world.now)
    client.join()
    assert client.events("phx_reply")[-1]["status"] == "ok"


def test_a_delayed_join_also_waits_for_its_rights(world: World) -> None:
    """A join that is delayed by a fault queries its rights after the delay."""
    world.fault("delay_join", "lab", 3)
    client = world.connect()
    client.join(config=PRIVATE)
    client.push("phoenix", "heartbeat", {})
    assert world.pending == {}
    world.run(3)
    assert client.got == []
    world.answer(BOTH)
    assert [event for event, _ in client.received()] == ["phx_reply", "phx_reply", "presence_state"]


def test_a_replaced_channel_is_closed_after_the_reply_to_the_new_join(world: World) -> None:
    """The order is the same when the new join has to wait for its rights."""
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


def test_a_replay_is_queried_after_the_rights(world: World) -> None:
    """The reply comes first, then the stored messages, and none of them a second time when it is delivered live."""
    client = world.connect()
    client.join(config=REPLAY)
    world.answer(BROADCAST)
    assert client.got == []
    assert world.answer((stored(1), stored(2))) == MessagesQuery("lab", Replay(since=5, limit=3))
    reply, *replayed = client.received()
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


def test_a_message_delivered_during_the_replay_query_is_not_lost(world: World) -> None:
    """It is not in the answer and was delivered before the channel existed, so it follows the replayed messages."""
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
    """The reason is the same for all errors."""
    client = world.connect()
    client.join(config=REPLAY)
    world.answer(BROADCAST)
    world.answer(QueryError.DOWN)
    assert client.events("phx_reply") == [denied("UnableToReplayMessages: Realtime was unable to replay messages")]


def test_nothing_is_replayed_without_read_access_to_broadcasts(world: World) -> None:
    """The replay is not queried."""
    client = world.connect()
    client.join(config={**REPLAY, "presence": {"enabled": True}})
    world.answer(PRESENCE)
    assert world.pending == {} and client.events("phx_reply")[0]["status"] == "ok"


# --- writing ---


def test_the_first_broadcast_queries_write_access(world: World) -> None:
    """Later frames of the channel wait and are handled in order; the right is then cached."""
    client = joined(world)
    refs = [client.push(LAB, "broadcast", ping(n), join_ref="1") for n in range(3)]
    assert client.got == []
    query = world.answer(BROADCAST)
    assert isinstance(query, PermissionsQuery)
    assert (query.action, query.extensions) == ("write", ("broadcast",))
    assert [payload["payload"]["n"] for payload in client.events("broadcast")] == [0, 1, 2]
    assert [client.parts(frame).ref for frame in client.got if client.parts(frame).event == "phx_reply"] == refs
    client.push(LAB, "broadcast", ping(3), join_ref="1")
    assert world.pending == {} and len(client.events("broadcast")) == 4


def test_other_channels_of_the_connection_do_not_wait(world: World) -> None:
    """Only the channel with the pending query waits."""
    client = joined(world)
    client.join("realtime:open", {"broadcast": {"ack": True}})
    client.take()
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    client.push("realtime:open", "broadcast", ping(1), join_ref="2")
    client.push("phoenix", "heartbeat", {})
    assert [event for event, _ in client.received()] == ["phx_reply", "phx_reply"]


def test_denied_broadcasts_are_dropped(world: World) -> None:
    """They get no reply, even with `ack`, and the denial is cached."""
    client = joined(world)
    for n in range(2):
        client.push(LAB, "broadcast", ping(n), join_ref="1")
    world.answer(NONE)
    client.push(LAB, "broadcast", ping(2), join_ref="1")
    assert client.got == [] and world.pending == {}


@pytest.mark.parametrize("trouble", list(QueryError))
def test_a_failed_query_of_write_access_is_not_cached(trouble: QueryError) -> None:
    """The message is dropped, and the next one queries again."""
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


def test_track_queries_write_access_to_presence(world: World) -> None:
    """A denied track gets an error without a reason."""
    client = joined(world)
    ref = client.track(LAB, {"n": 1})
    query = world.answer(NONE)
    assert isinstance(query, PermissionsQuery) and query.extensions == ("presence",)
    assert client.take() == [["1", ref, LAB, "phx_reply", {"status": "error", "response": {}}]]
    other = joined(world)
    other.track(LAB, {"n": 2})
    world.answer(PRESENCE)
    assert [event for event, _ in other.received()] == ["phx_reply", "presence_diff"]


def test_a_track_without_enabled_presence_queries_write_and_read_access(world: World) -> None:
    """Frames behind it wait for both answers; the channel then receives diffs."""
    client = joined(world, {"private": True, "broadcast": {"ack": True}}, reads=BROADCAST)
    client.track(LAB, {"n": 1})
    client.push(LAB, "presence", {"type": "presence", "event": "untrack"}, join_ref="1")
    world.answer(PRESENCE)
    assert client.got == []
    query = world.answer(PRESENCE)
    assert isinstance(query, PermissionsQuery) and (query.action, query.extensions) == ("read", ("presence",))
    assert [event for event, _ in client.received()] == ["phx_reply", "presence_diff", "phx_reply", "presence_diff"]


def test_leaves_and_joins_wait_behind_a_query(world: World) -> None:
    """The message before them is sent first, and each is answered in order."""
    client = joined(world)
    other = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    client.join(config=PRIVATE)
    client.push("phoenix", "heartbeat", {})
    assert [event for event, _ in client.received()] == ["phx_reply"]
    world.answer(BROADCAST)
    assert [payload["payload"]["n"] for payload in other.events("broadcast")] == [1]
    world.answer(BOTH)
    assert client.events("phx_close") == [{}]
    client.push(LAB, "broadcast", ping(2), join_ref="3")
    client.push(LAB, "phx_leave", {}, join_ref="3")
    client.take()
    world.answer(BROADCAST)
    assert [event for event, _ in client.received()] == ["broadcast", "phx_reply", "phx_reply", "phx_close"]


def test_frames_behind_a_waiting_join_are_handled_after_it(world: World) -> None:
    """The join waits for the channel that it replaces, and then for its own rights."""
    client, other = joined(world), joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    client.join(config=PRIVATE)
    for n in (2, 3):
        client.push(LAB, "broadcast", ping(n), join_ref="3")
    world.answer(BROADCAST)
    world.answer(BOTH)
    world.answer(BROADCAST)
    assert [payload["payload"]["n"] for payload in other.events("broadcast")] == [1, 2, 3]


def test_a_channel_that_ends_while_it_waits_drops_its_frame(world: World) -> None:
    """Frames that waited behind it are answered as on a topic without a channel."""
    client = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    ref = client.track(LAB, {})
    world.fault("expire_tokens", "lab")
    client.take()
    world.answer(BROADCAST)
    assert client.got == [[None, ref, LAB, "phx_reply", denied("unmatched topic")]]


def test_frames_stay_in_order_when_the_connection_is_suspended_meanwhile(world: World) -> None:
    """An answer that arrives while another topic joins does not let later frames overtake."""
    client = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    client.push(LAB, "broadcast", ping(2), join_ref="1")
    client.join("realtime:second", {"private": True})
    client.push(LAB, "broadcast", ping(3), join_ref="1")
    first, second = world.pending
    world.answer(BROADCAST, first)
    assert client.got == []
    world.answer(BROADCAST, second)
    assert [payload["payload"]["n"] for payload in client.events("broadcast")] == [1, 2, 3]


def test_reading_pauses_while_too_many_frames_wait(world: World) -> None:
    """Reading resumes when the queue has been handled."""
    client = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    for _ in range(3):
        client.user_push(LAB, "big", b'"' + b"x" * 3_000_000 + b'"', json=True)
    assert client.reading == ["PauseReading"]
    world.answer(BROADCAST)
    assert client.reading == ["PauseReading", "ResumeReading"]
    assert len([frame for frame in client.got if isinstance(frame, bytes)]) == 3
    client.push(LAB, "access_token", {"access_token": world.token(sub="8")}, join_ref="1")
    world.answer(BOTH)
    assert client.reading == ["PauseReading", "ResumeReading"]


# --- tokens ---


def test_a_new_token_queries_read_access_and_clears_the_cache(world: World) -> None:
    """Frames behind it wait for the answer."""
    client = joined(world)
    client.push(LAB, "broadcast", ping(1), join_ref="1")
    world.answer(BROADCAST)
    client.take()
    client.push(LAB, "access_token", {"access_token": world.token(sub="8")}, join_ref="1")
    client.push(LAB, "broadcast", ping(2), join_ref="1")
    query = world.answer(BOTH)
    assert isinstance(query, PermissionsQuery)
    assert query.action == "read" and query.requester.claims.values["sub"] == "8"
    query = world.answer(NONE)
    assert isinstance(query, PermissionsQuery) and query.action == "write"
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
def test_a_channel_without_read_access_after_a_new_token_ends(answer: Any, message: str) -> None:
    """It gets a `system` error and `phx_close`; a failed query has the same effect."""
    world = World(database=True)
    client = joined(world)
    client.push(LAB, "access_token", {"access_token": world.token(sub="8")}, join_ref="1")
    world.answer(answer)
    assert client.received() == [("system", system(message)), ("phx_close", {})]


@pytest.mark.parametrize("before", [BROADCAST, PRESENCE])
def test_a_new_token_may_add_read_access(world: World, before: frozenset[Extension]) -> None:
    """The channel then receives what it may read."""
    client, other = joined(world, reads=before), joined(world)
    client.push(LAB, "access_token", {"access_token": world.token(sub="8")}, join_ref="1")
    world.answer(BOTH)
    other.push(LAB, "broadcast", ping(1), join_ref="1")
    world.answer(BROADCAST)
    other.track(LAB, {})
    world.answer(PRESENCE)
    assert [event for event, _ in client.received()] == ["broadcast", "presence_diff"]


def test_a_new_token_with_an_earlier_expiry_ends_the_channel_earlier(world: World) -> None:
    """The expiry of the new token counts."""
    client = joined(world)
    client.push(LAB, "access_token", {"access_token": world.token(lasts=10)}, join_ref="1")
    world.answer(BOTH)
    world.run(9)
    assert client.got == []
    world.run(2)
    assert client.received() == [("system", system("Token has expired 0 seconds ago")), ("phx_close", {})]


def test_a_long_lived_token_is_checked_again() -> None:
    """It is checked every five minutes until it expires."""
    world = World(timings=Timings(idle=10_000))
    client = world.connect(token=world.token(lasts=700))
    client.join()
    client.take()
    world.run(699)
    assert client.got == []
    world.run(2)
    assert [event for event, _ in client.received()] == ["system", "phx_close"]


# --- REST ---


def test_a_private_request_is_answered_when_the_right_is_known(world: World) -> None:
    """The status is 202 with write access and 403 without; a public message does not wait."""
    client = joined(world)
    path = "/api/broadcast/lab/events/e"
    assert world.rest(path, {"n": 1}, query={"private": "true"}) is PENDING
    query = world.answer(BROADCAST)
    assert isinstance(query, PermissionsQuery) and query.topic == "lab"
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
def test_a_failed_query_of_a_single_message_has_its_status(trouble: QueryError, status: int, message: bytes) -> None:
    """Status and message are the real server's."""
    world = World(database=True, limits=ServerLimits(messages=50))
    world.rest("/api/broadcast/lab/events/e", {}, query={"private": "true"})
    world.answer(trouble)
    answer = world.responses[world.later]
    assert (answer.status, answer.body) == (status, message)
    assert ("x-rate-limit", "50") in answer.headers


def test_a_batch_queries_each_private_topic_once(world: World) -> None:
    """Messages without write access are skipped, and the others keep their order."""
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
    topics = [query.topic for query in world.pending.values() if isinstance(query, PermissionsQuery)]
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


def test_bindings_are_subscribed_when_the_database_confirms(world: World) -> None:
    """The query has the channel's number, with which the channel is unsubscribed when it ends."""
    client = world.connect()
    client.join(config=CHANGES)
    assert [event for event, _ in client.received()] == ["phx_reply"]
    query = world.answer(None)
    assert isinstance(query, SubscribeQuery)
    assert [binding.table for binding in query.bindings] == ["users"]
    subscribed = system("Subscribed to PostgreSQL", status="ok", extension="postgres_changes")
    assert client.events("system") == [subscribed]
    client.push(LAB, "phx_leave", {}, join_ref="1")
    assert world.unsubscribed == [query.channel]


def test_refused_bindings_are_not_retried(world: World) -> None:
    """The channel gets the error and stays open."""
    client = world.connect()
    client.join(config=CHANGES)
    world.answer("Unable to subscribe")
    assert client.events("system") == [system("Unable to subscribe", extension="postgres_changes")]
    world.run(60)
    assert world.pending == {}


def test_a_failed_subscription_is_retried(world: World) -> None:
    """It is retried after five seconds, and the client gets both messages."""
    client = world.connect()
    client.join(config=CHANGES)
    world.answer(QueryError.BUSY)
    assert client.events("system") == [system('{:error, "Too many database timeouts"}', extension="postgres_changes")]
    world.run(5)
    world.answer(None)
    assert client.events("system")[-1]["status"] == "ok"


def test_an_invalid_binding_is_not_sent_to_the_database(world: World) -> None:
    """The hub knows its error, and one invalid binding makes all of them fail."""
    client = world.connect()
    client.join(config={"postgres_changes": [*CHANGES["postgres_changes"], {"event": "*"}]})
    assert world.pending == {} and client.events("system")[0]["status"] == "error"
    client.push(LAB, "phx_leave", {}, join_ref="1")
    assert world.unsubscribed == []


def test_a_channel_that_has_left_gets_no_result_of_its_subscription(world: World) -> None:
    """The answer is ignored."""
    client = world.connect()
    client.join(config=CHANGES)
    client.push(LAB, "phx_leave", {}, join_ref="1")
    client.take()
    world.answer(None)
    assert client.got == []


# --- messages from the database ---

READY = {"private": True, "broadcast": {"replication_ready": True}}
ESTABLISHED = system("Replication connection established", status="ok")


def test_replication_ready_is_announced_when_broadcasts_are_delivered(world: World) -> None:
    """It is announced at once when they are already delivered, and only to channels that requested it."""
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


def test_replication_ready_times_out_after_a_minute() -> None:
    """Only channels that still wait are closed."""
    world = World(database=True, timings=Timings(idle=1000))
    client, other = joined(world, READY), joined(world)
    world.run(59)
    assert client.got == []
    world.run(2)
    message = "Replication connection was not established in time"
    assert client.received() == [("system", system(message)), ("phx_close", {})]
    assert other.got == []
    late = joined(world, READY)
    world.hub.set_broadcasts_ready(True, world.now)
    world.pump()
    late.take()
    at_once = joined(world, READY)
    world.run(61)
    assert late.got == [] and at_once.got == []


def test_a_database_broadcast_is_delivered_to_its_room_only() -> None:
    """It is private or public, JSON or bytes, and has its id; over the size limit it is dropped."""
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
