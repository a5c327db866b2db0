"""Odd input that was sent to the real server (2.129.8) and to this one: each scenario says what the real one did.

These are the facts of protocol §13 that the hub and the HTTP interface decide. What differs: `docs/conformance.md`.
"""

from typing import Any

import aiohttp
import pytest

from supawire.server.effects import Accepted, Refusal
from supawire.server.hub_options import HubOptions, Timings
from supawire.server.queries import QueryError
from supawire.server.wire import decode
from tests.server.test_app import TOKEN, running
from tests.server.world import OK, SECRET, Client, World, denied, system

LAB = "realtime:lab"
MESSAGE = {"topic": "lab", "event": "e", "payload": {"a": 1}}
NO_DATABASE = "Realtime was unable to connect to the project database"


def joined(world: World, vsn: str = "2.0.0", **config: Any) -> Client:
    client = world.connect(vsn=vsn)
    client.join(config=config)
    client.take()
    return client


# --- tokens ---


@pytest.mark.parametrize("subject", [5, None, ["a"], {"a": 1}, True])
def test_a_subject_that_is_not_a_string_fails_in_the_database(subject: Any) -> None:
    """Real: a private join is refused with this text and no code; a public join, which asks nothing, is accepted."""
    world = World()
    client = world.connect(token=world.token(sub=subject))
    client.join(config={"private": True})
    assert client.events("phx_reply") == [denied(NO_DATABASE)]
    client.take()
    client.join()
    assert client.events("phx_reply")[0]["status"] == "ok"


def test_a_new_token_whose_subject_is_not_a_string_ends_a_private_channel() -> None:
    """Real: the same text in the system message, then the close."""
    world = World()
    client = joined(world, private=True)
    client.push(LAB, "access_token", {"access_token": world.token(sub=5)}, join_ref="1")
    assert client.heard() == [("system", system(NO_DATABASE)), ("phx_close", {})]


def test_a_subject_that_is_not_a_string_may_not_publish_privately() -> None:
    """Real: the single form says that it cannot authorize, the batch skips the message and answers 202."""
    world = World()
    listener = joined(world, private=True)
    headers = {"authorization": f"Bearer {world.token(sub=5)}"}
    answer = world.rest("/api/broadcast/lab/events/e", {}, query={"private": "true"}, headers=headers)
    assert (answer.status, decode(answer.body)) == (500, {"message": "Unable to authorize broadcast"})
    batch = world.rest("/api/broadcast", {"messages": [{**MESSAGE, "private": True}]}, headers=headers)
    assert (batch.status, listener.got) == (202, [])


@pytest.mark.parametrize("damage", ['"{}"', "'{}'", "x{}"])
def test_a_malformed_key_is_a_failure_of_the_server(damage: str) -> None:
    """Real: 500 with this text at the handshake, and a join is refused with an unknown error."""
    world = World()
    answer = world.handshake(1, {"apikey": damage.format(world.token())})
    assert isinstance(answer, Refusal)
    assert (answer.status, answer.body) == (500, b'{"error":"Error connecting to Realtime"}')
    client = world.connect()
    client.join(access_token=damage.format(world.token()))
    (payload,) = client.events("phx_reply")
    assert payload["response"]["reason"].startswith(("Unknown Error on Channel", "UnknownErrorOnChannel: Erlang error"))


# --- joins ---


@pytest.mark.parametrize("broadcast", [[], "x", [{}], 5, False])
def test_a_join_with_an_odd_broadcast_is_never_answered(broadcast: Any) -> None:
    """Real: no reply at all, and the socket goes on."""
    world = World(timings=Timings.strict())
    client = world.connect()
    client.join(config={"broadcast": broadcast})
    client.push("phoenix", "heartbeat", {})
    world.run(30)
    assert client.events("phx_reply") == [OK]


def test_a_join_with_null_for_broadcast_is_a_plain_one() -> None:
    """Real: null counts as not given."""
    world = World()
    client = world.connect()
    client.join(config={"broadcast": None})
    assert client.events("phx_reply")[0]["status"] == "ok"


def test_a_replay_limit_of_null_is_the_default() -> None:
    """Real: accepted as if it were not there."""
    world = World()
    for number in range(30):
        world.hub.send("lab", "e", {"n": number}, world.now)
    client = world.connect()
    client.join(config={"private": True, "broadcast": {"replay": {"since": 0, "limit": None}}})
    assert client.events("phx_reply")[0]["status"] == "ok"
    assert len(client.events("broadcast")) == 25


@pytest.mark.parametrize("select", [5, 1.5, True, None])
def test_a_select_that_is_neither_a_list_nor_text_is_ignored(select: Any) -> None:
    """Real: the whole row is sent; only text is refused."""
    world = World()
    binding = {"event": "*", "schema": "public", "table": "todos", "select": select}
    client = world.connect()
    client.join(config={"postgres_changes": [binding]})
    assert client.events("system")[0]["message"] == "Subscribed to PostgreSQL"
    world.emit("INSERT", "todos", record={"id": 1, "b": 2})
    assert client.events("postgres_changes")[0]["data"]["record"] == {"id": 1, "b": 2}


def test_who_may_read_presence_only_joins_only_with_presence() -> None:
    """Real: refused without, joined with; broadcasts are withheld."""

    def policy(claims: Any, topic: str, extension: str, action: str) -> bool:
        return extension == "presence"

    world = World(policy=policy)
    client = world.connect()
    client.join(config={"private": True})
    reason = "Unauthorized: You do not have permissions to read from this Channel topic: lab"
    assert client.events("phx_reply") == [denied(reason)]
    client.take()
    client.join(config={"private": True, "presence": {"enabled": True}})
    assert client.events("phx_reply")[0]["status"] == "ok"
    world.hub.send("lab", "e", {}, world.now)
    world.pump()
    assert client.events("broadcast") == []


def test_each_accepted_token_is_followed_by_another_subscribed() -> None:
    """Real: the bindings are made anew with its claims, 1 to 3 seconds later; nothing is lost meanwhile."""
    world = World(timings=Timings.strict())
    client = joined(world, postgres_changes=[{"event": "*", "schema": "public", "table": "todos"}])
    for lasts in (100, 200, 300):
        client.push(LAB, "access_token", {"access_token": world.token(lasts=lasts)}, join_ref="1")
        world.emit("INSERT", "todos", record={"id": lasts})
        world.run(3)
    assert [payload["message"] for payload in client.events("system")] == ["Subscribed to PostgreSQL"] * 3
    assert len(client.events("postgres_changes")) == 3


# --- changes ---


def test_the_keys_of_a_row_are_in_the_order_of_jsonb() -> None:
    """Real: by length, then by bytes, while `columns` is in the table's order."""
    world = World()
    client = joined(world, postgres_changes=[{"event": "*", "schema": "public", "table": "todos"}])
    row = {"title": "x", "id": 1, "é": 2, "b": 3, "B": 4, "done": False}
    world.emit("UPDATE", "todos", record=row, old_record=row)
    data = client.events("postgres_changes")[0]["data"]
    assert list(data["record"]) == list(data["old_record"]) == ["B", "b", "id", "é", "done", "title"]
    assert [column["name"] for column in data["columns"]] == list(row)


@pytest.mark.parametrize(("pattern", "sent"), [("abc", False), ("abc%", True), ("abc__", True)])
def test_like_on_char_compares_the_padded_value(pattern: str, sent: bool) -> None:
    """Real: the blanks at the end of a `char(5)` count, although they do not where it is compared with `eq`."""
    world = World()
    binding = {"event": "*", "schema": "public", "table": "codes", "filter": f"code=like.{pattern}"}
    client = joined(world, postgres_changes=[binding])
    world.emit("INSERT", "codes", record={"id": 1, "code": "abc  "}, columns={"id": "int4", "code": "bpchar"})
    assert bool(client.events("postgres_changes")) is sent


# --- after the join ---


def test_a_broadcast_of_text_reaches_version_one() -> None:
    """Real: 1.0.0 listeners get it; a listener with 2.0.0 makes the sender's channel crash all the same."""
    world = World()
    sender, old = joined(world, "1.0.0", broadcast={"ack": True}), joined(world, "1.0.0")
    sender.push(LAB, "broadcast", "bare", join_ref="1")
    assert (old.heard(), sender.heard()) == ([("broadcast", "bare")], [("phx_reply", OK)])
    old.take()
    sender.take()
    new = joined(world)
    sender.push(LAB, "broadcast", "bare", join_ref="1")
    assert (old.heard(), new.heard()) == ([("broadcast", "bare")], [])
    assert sender.heard() == [("phx_error", {"reason": "channel_crash"})]


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_a_number_that_is_no_float_drops_the_frame(vsn: str) -> None:
    """Real: `1e400` in a payload, and the frame is dropped without a word."""
    world = World()
    sender, listener = joined(world, vsn, broadcast={"ack": True}), joined(world)
    frame = f'["1","9","{LAB}","broadcast",{{"event":"e","payload":{{"n":1e400}}}}]'
    if vsn == "1.0.0":
        payload = '{"event":"e","payload":{"n":1e400}}'
        frame = f'{{"topic":"{LAB}","event":"broadcast","payload":{payload},"ref":"9","join_ref":"1"}}'
    sender.raw(frame)
    assert sender.got == listener.got == []


@pytest.mark.parametrize("payload", [None, "text", {"type": "presence", "event": "track", "payload": None}])
def test_presence_without_a_payload_is_ok(payload: Any) -> None:
    """Real: answered with ok, and nobody is present."""
    world = World()
    client = joined(world, presence={"enabled": True})
    client.push(LAB, "presence", payload, join_ref="1")
    assert client.heard() == [("phx_reply", OK)]


# --- HTTP ---


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer"])
def test_the_scheme_of_a_token_is_in_any_case(scheme: str) -> None:
    """Real: 202."""
    world = World()
    headers = {"authorization": f"{scheme} {world.token()}"}
    assert world.rest("/api/broadcast", {"messages": [MESSAGE]}, headers=headers).status == 202


def test_with_another_scheme_the_apikey_counts() -> None:
    """Real: Basic with `apikey` is 202, and 401 without; a header that is not two words is a failure of the server."""
    world = World()
    for headers, status in (
        ({"authorization": "Basic eDp5", "apikey": world.token()}, 202),
        ({"authorization": "Basic eDp5"}, 401),
        ({"authorization": "Bearer", "apikey": world.token()}, 500),
        ({"authorization": f"Bearer  {world.token()}"}, 500),
        ({"authorization": f"Bearer {world.token()} more"}, 500),
        ({"authorization": "Bearer caf\udcc3\udca9"}, 401),
        ({"authorization": f"Bearer {world.token()}\udcff"}, 401),
    ):
        assert world.rest("/api/broadcast", {"messages": [MESSAGE]}, headers=headers).status == status, headers


@pytest.mark.parametrize("name", ["zz", "7", "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"])
def test_the_id_of_a_message_may_be_any_text(name: str) -> None:
    """Real: 202, and it arrives as `meta.id`; a number is refused."""
    world = World()
    client = joined(world)
    assert world.rest("/api/broadcast", {"messages": [{**MESSAGE, "id": name}]}).status == 202
    assert client.events("broadcast")[0]["meta"] == {"id": name}
    answer = world.rest("/api/broadcast", {"messages": [{**MESSAGE, "id": 7}]})
    assert decode(answer.body) == {"errors": {"messages": [{"id": ["is invalid"]}]}}


@pytest.mark.parametrize(("private", "secret"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_private_may_be_a_word_in_a_batch(private: str, secret: bool) -> None:
    """Real: 202, and the message goes where the word says."""
    world = World()
    public, hidden = joined(world), joined(world, private=True)
    assert world.rest("/api/broadcast", {"messages": [{**MESSAGE, "private": private}]}).status == 202
    assert (len(public.got), len(hidden.got)) == ((0, 1) if secret else (1, 0))
    answer = world.rest("/api/broadcast", {"messages": [{**MESSAGE, "private": "yes"}]})
    assert decode(answer.body) == {"errors": {"messages": [{"private": ["is invalid"]}]}}


@pytest.mark.parametrize("name", ["topic", "event", "payload"])
@pytest.mark.parametrize("blank", ["", "  ", None])
def test_blank_text_is_nothing(name: str, blank: Any) -> None:
    """Real: white space counts as not given."""
    answer = World().rest("/api/broadcast", {"messages": [{**MESSAGE, name: blank}]})
    assert decode(answer.body) == {"errors": {"messages": [{name: ["can't be blank"]}]}}


async def test_preflights_are_answered_by_a_gateway_only() -> None:
    """Real: 404 on the container itself; the gateway of a project and of the self-hosted stack answers them."""
    async with running() as net:
        for path, status in (("/api/broadcast", 404), ("/healthcheck", 404), ("/realtime/v1/api/broadcast", 204)):
            async with net.http.options(net.url + path, headers={"Origin": "http://localhost:3000"}) as answer:
                assert answer.status == status
        async with net.http.head(net.url + "/healthcheck") as answer:
            assert answer.status == 404
        async with net.http.get(net.url + "/healthcheck") as answer:
            assert (answer.status, await answer.text()) == (200, "ok")


async def test_a_token_that_is_not_ascii_is_refused() -> None:
    """Real: 401, whatever bytes the header has."""
    async with running() as net:
        body = {"messages": [MESSAGE]}
        for token in ("café", f"{TOKEN}é", "\u2603"):
            headers = {"Authorization": f"Bearer {token}"}
            async with net.http.post(f"{net.url}/api/broadcast", json=body, headers=headers) as answer:
                assert answer.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await net.open(apikey=f"{TOKEN}é")
        assert refused.value.status == 401


# --- the database ---


def test_after_an_outage_of_the_database_joins_are_refused_for_a_while() -> None:
    """Real: `IncreaseConnectionPool` for about a minute after a crash of PostgreSQL; here with strict timings only."""
    reason = "IncreaseConnectionPool: Please increase your connection pool size"
    for timings, waits in ((Timings.strict(), 60.0), (Timings(), 0.0)):
        world = World(database=True, timings=timings)
        client = world.connect()
        world.hub.set_database_error(QueryError.DOWN, world.now)
        world.hub.set_database_error(None, world.now)
        if waits:
            client.join()
            world.run(waits - 1)
            assert client.events("phx_reply") == [denied(reason)]
            world.run(1.5)
            client = world.connect()
        client.join()
        assert client.events("phx_reply")[0]["status"] == "ok"


def test_a_first_look_that_finds_no_trouble_refuses_nothing() -> None:
    """The wait follows an outage, not a start."""
    world = World(database=True, timings=Timings.strict())
    world.hub.set_database_error(None, world.now)
    client = world.connect()
    client.join()
    assert client.events("phx_reply")[0]["status"] == "ok"


def test_the_handshake_does_not_need_the_database() -> None:
    """Real: sockets are opened during an outage."""
    world = World(database=True)
    world.hub.set_database_error(QueryError.DOWN, world.now)
    assert isinstance(world.handshake(9, {"apikey": world.token()}), Accepted)
    assert HubOptions(secret=SECRET).timings.recovery == 0.0
