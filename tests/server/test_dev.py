"""`POST /dev/emit` and `POST /dev/token`: changes and tokens for another process."""

import json
from typing import Any

import pytest

from supawire.server.effects import RestAnswer, RestRequest, Send
from supawire.server.tokens import Claims, check
from tests.server.world import SECRET, Client, World

INSERT = {"type": "INSERT", "table": "users", "record": {"id": 1, "name": "alice"}}
WANTED = {"postgres_changes": [{"event": "*", "schema": "public", "table": "users"}]}


@pytest.fixture
def world() -> World:
    return World(dev=True)


def listener(world: World) -> Client:
    client = world.connect()
    client.join(config=WANTED)
    client.take()
    return client


def emit(world: World, body: Any = INSERT, *, role: str = "service_role", **fields: Any) -> RestAnswer:
    token = world.token(role)
    return world.rest("/dev/emit", body, headers={"authorization": f"Bearer {token}"}, **fields)


def message(answer: RestAnswer) -> str:
    return json.loads(answer.body)["message"]


def test_a_posted_change_is_delivered(world: World):
    """A change posted with the service key arrives as a postgres_changes frame, with types from its JSON values."""
    client = listener(world)
    assert emit(world).status == 202
    [payload] = client.events("postgres_changes")
    assert payload["data"]["record"] == {"id": 1, "name": "alice"}
    assert payload["data"]["columns"] == [{"name": "id", "type": "int8"}, {"name": "name", "type": "text"}]


def test_numbers_keep_their_digits(world: World):
    """A numeric value keeps its trailing zeros and all its digits."""
    listener(world)
    record = b'{"id":1,"pi":3.141592653589793238462643383280,"price":19.90}'
    body = b'{"type":"INSERT","table":"users","columns":{"id":"int8","price":"numeric","pi":"numeric"},"record":%b}'
    headers = {"authorization": f"Bearer {world.token('service_role')}"}
    request = RestRequest("POST", "/dev/emit", "localhost", headers=headers, body=body % record)
    assert world.hub.rest(request, world.now) == RestAnswer(202)
    effect = world.hub.next_effect()
    assert isinstance(effect, Send)
    assert b'"record":' + record in effect.data


@pytest.mark.parametrize("kind", ["UPDATE", "DELETE"])
def test_updates_and_deletes_are_delivered(world: World, kind: str):
    """They have an old_record, and columns may be a list with types."""
    client = listener(world)
    columns = [{"name": "id", "type": "int4"}]
    rows = {"old_record": {"id": 7}} | ({"record": {"id": 7}} if kind == "UPDATE" else {})
    assert emit(world, {"type": kind, "table": "users", "columns": columns, **rows}).status == 202
    [payload] = client.events("postgres_changes")
    assert payload["data"]["type"] == kind
    assert payload["data"]["old_record"] == {"id": 7}
    assert payload["data"]["columns"] == columns


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_other_roles_are_refused(world: World, role: str):
    """A token without the service role gets 403, and nothing is delivered."""
    client = listener(world)
    answer = emit(world, role=role)
    assert (answer.status, message(answer)) == (403, "this route needs the service key")
    assert client.got == []


@pytest.mark.parametrize("authorization", ["", "Bearer nonsense"])
def test_invalid_tokens_are_refused(world: World, authorization: str):
    """A request without a token, or with one signed by another key, gets 401."""
    client = listener(world)
    assert world.rest("/dev/emit", INSERT, headers={"authorization": authorization}).status == 401
    assert client.got == []


@pytest.mark.parametrize(
    "host",
    [
        "127.evil.example:4000",
        "127.0.0.1.evil.example",
        "10.0.0.1:4000",
        "0.0.0.0",
        "localhost.evil.example",
        "example.com",
        "",
        "[::2]:4000",
    ],
)
def test_another_host_is_refused(world: World, host: str):
    """A Host header that does not name this machine, as with DNS rebinding, gets 403."""
    client = listener(world)
    assert emit(world, host=host).status == 403
    assert client.got == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:4000", "127.0.0.2:4000", "LOCALHOST:4000", "[::1]:4000", "[::1]"]
)
def test_local_hosts_are_accepted(world: World, host: str):
    """Every name of this machine is accepted, with and without a port."""
    assert emit(world, host=host).status == 202


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"type":"INSERT"}',
        b"\xff",
        {**INSERT, "type": "TRUNCATE"},
        {**INSERT, "record": None},
        {**INSERT, "sql": "drop table users"},
        {**INSERT, "columns": [{"name": "id"}]},
    ],
)
def test_an_invalid_change_is_refused(world: World, body: Any):
    """An invalid body gets 422 with the reason, and nothing is delivered."""
    client = listener(world)
    answer = emit(world, body)
    assert answer.status == 422
    assert message(answer)
    assert client.got == []


def test_a_huge_exponent_is_not_expanded(world: World):
    """A short number with a huge exponent does not become a long text."""
    answer = world.rest(
        "/dev/emit",
        b'{"type":"INSERT","table":"users","record":{"id":1e999999999}}',
        headers={"authorization": f"Bearer {world.token('service_role')}"},
    )
    assert answer.status == 202


def test_the_route_is_off_by_default():
    """A server without `dev`, such as `LocalServer`, answers 404 as the real one does."""
    world = World()
    client = listener(world)
    assert emit(world).status == 404
    assert emit(World(dev=True), method="GET").status == 404
    assert client.got == []


def token(world: World, body: Any, *, role: str = "service_role") -> RestAnswer:
    return world.rest("/dev/token", body, headers={"authorization": f"Bearer {world.token(role)}"})


def test_a_token_is_signed_for_the_service_key(world: World):
    """It has the role, the claims and the lifetime of the request, and the server accepts it."""
    answer = token(world, {"role": "authenticated", "expires_in": 60, "claims": {"sub": "u1"}})
    assert answer.status == 200
    claims = check(json.loads(answer.body)["token"], SECRET, world.now)
    assert isinstance(claims, Claims)
    assert claims.values == {"role": "authenticated", "sub": "u1", "exp": int(world.now.wall + 60)}


@pytest.mark.parametrize("body", [{"expires_in": 1e300}, {"expires_in": "1"}, {"unknown": 1}, {"claims": []}, "no"])
def test_a_wrong_request_for_a_token_is_described(world: World, body: Any):
    """Status 422, with a message."""
    answer = token(world, body)
    assert answer.status == 422 and message(answer)


def test_a_token_needs_the_service_key(world: World):
    """Status 403 for another role, and 404 without the development routes."""
    assert token(world, {}, role="anon").status == 403
    assert token(World(), {}).status == 404


def test_with_a_database_rows_change_by_sql():
    """`/dev/emit` answers 409 with the reason, and `/dev/token` works."""
    world = World(dev=True, database=True)
    assert emit(world).status == 409
    assert token(world, {}).status == 200
