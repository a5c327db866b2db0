"""Unusual input that was also sent to the real server (2.129.8).

"Real" in a docstring is what that server did. The deliberate differences are in `docs/conformance.md`.
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
    """Real: a private join is refused with this text and no code; a public join queries nothing and is accepted."""
    world = World()
    client = world.connect(token=world.token(sub=subject))
    client.join(config={"private": True})
    assert client.events("phx_reply") == [denied(NO_DATABASE)]
    client.take()
    client.join()
    assert client.events("phx_reply")[0]["status"] == "ok"


def test_a_new_token_whose_subject_is_not_a_string_ends_a_private_channel() -> None:
    """Real: the system message has the same text, then the channel is closed."""
    world = World()
    client = joined(world, private=True)
    client.push(LAB, "access_token", {"access_token": world.token(sub=5)}, join_ref="1")
    assert client.received() == [("system", system(NO_DATABASE)), ("phx_close", {})]


def test_a_subject_that_is_not_a_string_cannot_publish_privately() -> None:
    """Real: a single message gets an error, and a batch skips the message and answers 202."""
    world = World()
    listener = joined(world, private=True)
    headers = {"authorization": f"Bearer {world.token(sub=5)}"}
    answer = world.rest("/api/broadcast/lab/events/e", {}, query={"private": "true"}, headers=headers)
    assert (answer.status, decode(answer.body)) == (500, {"message": "Unable to authorize broadcast"})
    batch = world.rest("/api/broadcast", {"messages": [{**MESSAGE, "private": True}]}, headers=headers)
    assert (batch.status, listener.got) == (202, [])


@pytest.mark.parametrize("damage", ['"{}"', "'{}'", "x{}"])
def test_a_malformed_key_is_a_server_error(damage: str) -> None:
    """Real: the handshake is answered with 500 and this text, and a join with an unknown error."""
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
def test_a_join_with_an_invalid_broadcast_gets_no_reply(broadcast: Any) -> None:
    """Real: there is no reply, and the socket stays open."""
    world = World(timings=Timings.strict())
    client = world.connect()
    client.join(config={"broadcast": broadcast})
    client.push("phoenix", "heartbeat", {})
    world.run(30)
    assert client.events("phx_reply") == [OK]


def test_null_for_broadcast_is_the_default() -> None:
    """Real: null has the same effect as a missing key."""
    world = World()
    client = world.connect()
    client.join(config={"broadcast": None})
    assert client.events("phx_reply")[0]["status"] == "ok"


def test_a_replay_limit_of_null_is_the_default() -> None:
    """Real: null has the same effect as a missing key."""
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


def test_read_access_to_presence_alone_allows_a_join_with_presence_only() -> None:
    """Real: a join without presence is refused; with it, broadcasts are not delivered."""

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


def test_bindings_are_subscribed_again_after_each_new_token() -> None:
    """Real: it happens 1 to 3 seconds later with the new claims, and no change is lost meanwhile."""
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
    """Real: they are ordered by length, then by bytes; `columns` is in the order of the table."""
    world = World()
    client = joined(world, postgres_changes=[{"event": "*", "schema": "public", "table": "todos"}])
    row = {"title": "x", "id": 1, "é": 2, "b": 3, "B": 4, "done": False}
    world.emit("UPDATE", "todos", record=row, old_record=row)
    data = client.events("postgres_changes")[0]["data"]
    assert list(data["record"]) == list(data["old_record"]) == ["B", "b", "id", "é", "done", "title"]
    assert [column["name"] for column in data["columns"]] == list(row)


@pytest.mark.parametrize(("pattern", "sent"), [("abc", False), ("abc%", True), ("abc__", True)])
def test_like_on_char_compares_the_padded_value(pattern: str, sent: bool) -> None:
    """Real: the blanks at the end of a `char(5)` count for LIKE, although they do not for `eq`."""
    world = World()
    binding = {"event": "*", "schema": "public", "table": "codes", "filter": f"code=like.{pattern}"}
    client = joined(world, postgres_changes=[binding])
    world.emit("INSERT", "codes", record={"id": 1, "code": "abc  "}, columns={"id": "int4", "code": "bpchar"})
    assert bool(client.events("postgres_changes")) is sent


# --- after the join ---


def test_a_broadcast_of_a_string_reaches_version_1() -> None:
    """Real: 1.0.0 clients receive it, and a 2.0.0 recipient makes the sender's channel crash all the same."""
    world = World()
    sender, old = joined(world, "1.0.0", broadcast={"ack": True}), joined(world, "1.0.0")
    sender.push(LAB, "broadcast", "bare", join_ref="1")
    assert (old.received(), sender.received()) == ([("broadcast", "bare")], [("phx_reply", OK)])
    old.take()
    sender.take()
    new = joined(world)
    sender.push(LAB, "broadcast", "bare", join_ref="1")
    assert (old.received(), new.received()) == ([("broadcast", "bare")], [])
    assert sender.received() == [("phx_error", {"reason": "channel_crash"})]


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_a_number_too_large_for_a_float_drops_the_frame(vsn: str) -> None:
    """Real: a frame with `1e400` in its payload is dropped without a reply."""
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
    """Real: the reply is ok, and nothing is tracked."""
    world = World()
    client = joined(world, presence={"enabled": True})
    client.push(LAB, "presence", payload, join_ref="1")
    assert client.received() == [("phx_reply", OK)]


# --- HTTP ---


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer"])
def test_the_scheme_of_a_token_is_case_insensitive(scheme: str) -> None:
    """Real: 202."""
    world = World()
    headers = {"authorization": f"{scheme} {world.token()}"}
    assert world.rest("/api/broadcast", {"messages": [MESSAGE]}, headers=headers).status == 202


def test_with_another_scheme_the_apikey_is_used() -> None:
    """Real: Basic with `apikey` gets 202, and 401 without; a header that is not two words is a server error."""
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
def test_the_id_of_a_message_may_be_any_string(name: str) -> None:
    """Real: 202, and it arrives as `meta.id`; a number is refused."""
    world = World()
    client = joined(world)
    assert world.rest("/api/broadcast", {"messages": [{**MESSAGE, "id": name}]}).status == 202
    assert client.events("broadcast")[0]["meta"] == {"id": name}
    answer = world.rest("/api/broadcast", {"messages": [{**MESSAGE, "id": 7}]})
    assert decode(answer.body) == {"errors": {"messages": [{"id": ["is invalid"]}]}}


@pytest.mark.parametrize(("private", "secret"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_private_may_be_a_string_in_a_batch(private: str, secret: bool) -> None:
    """Real: 202, and the string counts as the boolean."""
    world = World()
    public, hidden = joined(world), joined(world, private=True)
    assert world.rest("/api/broadcast", {"messages": [{**MESSAGE, "private": private}]}).status == 202
    assert (len(public.got), len(hidden.got)) == ((0, 1) if secret else (1, 0))
    answer = world.rest("/api/broadcast", {"messages": [{**MESSAGE, "private": "yes"}]})
    assert decode(answer.body) == {"errors": {"messages": [{"private": ["is invalid"]}]}}


@pytest.mark.parametrize("name", ["topic", "event", "payload"])
@pytest.mark.parametrize("blank", ["", "  ", None])
def test_blank_strings_are_null(name: str, blank: Any) -> None:
    """Real: white space has the same effect as a missing value."""
    answer = World().rest("/api/broadcast", {"messages": [{**MESSAGE, name: blank}]})
    assert decode(answer.body) == {"errors": {"messages": [{name: ["can't be blank"]}]}}


async def test_preflights_are_answered_by_a_gateway_only() -> None:
    """Real: the container itself answers 404, and the gateways of projects and of the self-hosted stack answer them."""
    async with running() as net:
        for path, status in (("/api/broadcast", 404), ("/healthcheck", 404), ("/realtime/v1/api/broadcast", 204)):
            async with net.http.options(net.url + path, headers={"Origin": "http://localhost:3000"}) as answer:
                assert answer.status == status
        async with net.http.head(net.url + "/healthcheck") as answer:
            assert answer.status == 404
        async with net.http.get(net.url + "/healthcheck") as answer:
            assert (answer.status, await answer.text()) == (200, "ok")


async def test_a_token_that_is_not_ascii_is_refused() -> None:
    """Real: 401 for all such bytes."""
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
    """Real: `IncreaseConnectionPool` for about a minute after PostgreSQL crashed; here with strict timings only."""
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


def test_joins_are_not_refused_after_the_start() -> None:
    """The delay applies after an outage, not after the first check."""
    world = World(database=True, timings=Timings.strict())
    world.hub.set_database_error(None, world.now)
    client = world.connect()
    client.join()
    assert client.events("phx_reply")[0]["status"] == "ok"


def test_the_handshake_does_not_need_the_database() -> None:
    """Real: sockets are accepted during an outage."""
    world = World(database=True)
    world.hub.set_database_error(QueryError.DOWN, world.now)
    assert isinstance(world.handshake(9, {"apikey": world.token()}), Accepted)
    assert HubOptions(secret=SECRET).timings.recovery == 0.0
