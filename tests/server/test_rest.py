"""The HTTP endpoints: responses, and what is delivered to channels."""

from typing import Any

import pytest

from supawire.server.limits import ServerLimits
from supawire.server.wire import decode
from tests.server.world import SECRET, Client, World

BATCH = "/api/broadcast"
SINGLE = "/api/broadcast/lab/events/e1"
MESSAGE = {"topic": "lab", "event": "e1", "payload": {"a": 1}}
JSON = "application/json; charset=utf-8"


def listener(world: World, vsn: str = "2.0.0", **config: Any) -> Client:
    client = world.connect(vsn=vsn)
    client.join(config=config)
    client.take()
    return client


def test_a_batch_is_delivered_in_order() -> None:
    """Messages are sent as text to both versions, without `meta`; the response is 202 without a body."""
    world = World()
    new, old = listener(world), listener(world, "1.0.0")
    answer = world.rest(BATCH, {"messages": [MESSAGE, {**MESSAGE, "event": "e2"}]})
    assert (answer.status, answer.body) == (202, b"")
    for client in (new, old):
        assert client.events("broadcast") == [
            {"event": name, "payload": {"a": 1}, "type": "broadcast"} for name in ("e1", "e2")
        ]


def test_an_id_becomes_meta() -> None:
    """Without an id there is no `meta`."""
    world = World()
    client = listener(world)
    name = "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"
    world.rest(BATCH, {"messages": [{**MESSAGE, "id": name}]})
    assert client.events("broadcast")[0]["meta"] == {"id": name}


def test_topics_have_no_prefix() -> None:
    """A topic with `realtime:` is delivered to no channel, and the response is 202 all the same."""
    world = World()
    client = listener(world)
    assert world.rest(BATCH, {"messages": [{**MESSAGE, "topic": "realtime:lab"}]}).status == 202
    assert client.got == []


def test_private_messages_are_for_private_channels() -> None:
    """Without write access they are skipped in a batch, and a single one is refused."""
    world = World()
    public, private = listener(world), listener(world, private=True)
    anon = {"headers": {"authorization": f"Bearer {world.token('anon')}"}}
    assert world.rest(BATCH, {"messages": [{**MESSAGE, "private": True}]}, **anon).status == 202
    refused = world.rest(SINGLE, {"a": 1}, query={"private": "true"}, **anon)
    assert (refused.status, refused.body) == (403, b'{"message":"Unauthorized"}')
    assert private.got == []
    world.rest(BATCH, {"messages": [{**MESSAGE, "private": True}]})
    world.rest(SINGLE, {"a": 1}, query={"private": "true"})
    assert len(private.got) == 2 and public.got == []


def test_a_single_message_is_its_body() -> None:
    """It is sent as kind 4 to 2.0.0 and as text to 1.0.0."""
    world = World()
    new, old = listener(world), listener(world, "1.0.0")
    assert world.rest("/api/broadcast/lab/events/caf%C3%A9%2Fx", {"a": 1}).status == 202
    assert new.got == ["\x04\x0c\x07\x00\x01realtime:labcafé/x".encode() + b'{"a":1}']
    assert old.events("broadcast") == [{"event": "café/x", "payload": {"a": 1}, "type": "broadcast"}]


def test_single_bytes_reach_version_two_only() -> None:
    """A body of type `application/octet-stream` is the payload."""
    world = World()
    new, old = listener(world), listener(world, "1.0.0")
    assert world.rest(SINGLE, b"\x00\xff", headers={"content-type": "application/octet-stream"}).status == 202
    assert new.got == [b"\x04\x0c\x02\x00\x00realtime:labe1\x00\xff"]
    assert old.got == []


@pytest.mark.parametrize(
    ("body", "kind", "payload"),
    [
        (b"[1,2]", "application/json", {"_json": [1, 2]}),
        (b'"x"', "application/json; charset=utf-8", {"_json": "x"}),
        (b"", "application/json", {}),
        (b"whatever", None, {}),
    ],
)
def test_bodies_that_are_not_objects_are_delivered_as_objects(body: bytes, kind: str | None, payload: Any) -> None:
    """Other JSON values are wrapped; a body without a content type is ignored."""
    world = World()
    client = listener(world, "1.0.0")
    assert world.rest(SINGLE, body, headers={"content-type": kind}).status == 202
    assert client.events("broadcast")[0]["payload"] == payload


def test_a_private_key_in_a_single_body_overrides_the_query() -> None:
    """Parameters of query and body are merged, and those of the body take precedence."""
    world = World()
    public, private = listener(world), listener(world, private=True)
    world.rest(SINGLE, {"private": False}, query={"private": "true"})
    assert public.got and not private.got


@pytest.mark.parametrize(
    ("path", "kind", "status", "body"),
    [
        (
            SINGLE,
            "text/plain",
            415,
            b'{"error":"Unsupported Media Type. Use application/json or application/octet-stream"}',
        ),
        (BATCH, "text/plain", 422, b'{"errors":{"messages":["can\'t be blank"]}}'),
        ("/api/nothing", "application/json", 404, b"Not Found"),
        ("/api/broadcast/lab/events", "application/json", 404, b"Not Found"),
    ],
)
def test_other_content_types_and_paths_are_refused(path: str, kind: str, status: int, body: bytes) -> None:
    """A content type gets 415 in the single form only, and an unknown route 404."""
    answer = World().rest(path, b"{}", headers={"content-type": kind})
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(
    ("messages", "errors"),
    [
        ([{"topic": "x"}], [{"event": ["can't be blank"], "payload": ["can't be blank"]}]),
        ([{**MESSAGE, "payload": "str"}], [{"payload": ["is invalid"]}]),
        ([{**MESSAGE, "topic": ""}, MESSAGE], [{"topic": ["can't be blank"]}, {}]),
        ([{**MESSAGE, "private": 3}], [{"private": ["is invalid"]}]),
        ([], ["can't be blank"]),
        (None, ["can't be blank"]),
        ("x", ["is invalid"]),
        (["x"], ["is invalid"]),
    ],
)
def test_a_batch_is_validated(messages: Any, errors: Any) -> None:
    """The response is 422 with one object for each message, and nothing is delivered."""
    world = World()
    client = listener(world)
    answer = world.rest(BATCH, {"messages": messages})
    assert answer.status == 422 and answer.content_type == JSON
    assert decode(answer.body) == {"errors": {"messages": errors}}
    assert client.got == []


def test_invalid_json_is_400() -> None:
    """The body of the response is text, not JSON."""
    answer = World().rest(BATCH, b"{")
    assert (answer.status, answer.body, answer.content_type) == (400, b"Bad Request", "text/html; charset=utf-8")


def test_a_body_over_eight_megabytes_is_413() -> None:
    """This is checked first."""
    assert World().rest(BATCH, b" " * 8_000_001).status == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": None}, 401),
        ({"authorization": "Bearer garbage"}, 401),
        ({"authorization": "Bearer"}, 500),
        ({"authorization": "Basic x"}, 401),
        ({"authorization": None, "x-api-key": World().token()}, 401),
        ({"authorization": None, "apikey": World().token()}, 202),
        ({"authorization": f"Bearer {World().token(lasts=-1)}"}, 401),
    ],
)
def test_a_token_is_needed(headers: dict[str, Any], status: int) -> None:
    """It is a bearer token or in `apikey`; a malformed header is a server error."""
    answer = World().rest(BATCH, {"messages": [MESSAGE]}, headers=headers)
    assert answer.status == status
    if status == 401:
        assert answer.body == b'{"message":"Unauthorized"}'


def test_an_unknown_host_is_refused() -> None:
    """This is checked before the token, so that another site's page cannot use a rebound name."""
    answer = World().rest(BATCH, {"messages": [MESSAGE]}, host="evil.example:4000")
    assert (answer.status, answer.body) == (401, b'{"message":"Tenant not found in database"}')


def test_limits_are_enforced() -> None:
    """There are limits of size, batch size and rate, and the rates are in the headers."""
    world = World(limits=ServerLimits(messages=100, payload_kb=1))
    big = {**MESSAGE, "payload": {"x": "a" * 2000}}
    answer = world.rest(BATCH, {"messages": [big]})
    assert decode(answer.body) == {"errors": {"messages": [{"payload": ["Payload size exceeds tenant limit"]}]}}
    answer = world.rest(SINGLE, {"x": "a" * 2000})
    assert decode(answer.body) == {"errors": {"payload": ["Payload size exceeds tenant limit"]}}
    answer = world.rest(BATCH, {"messages": [MESSAGE] * 101})
    assert (answer.status, answer.body) == (
        429,
        b'{"message":"Too many messages to broadcast, please reduce the batch size"}',
    )
    assert dict(answer.headers)["x-rate-limit"] == "100"


def test_messages_over_the_rate_limit_are_refused() -> None:
    """The response is the real server's 429."""
    world = World(limits=ServerLimits(messages=10))
    client = listener(world, broadcast={"self": True})
    for _ in range(60):
        client.push("realtime:lab", "broadcast", {}, join_ref="1")
    world.run(5)
    answer = world.rest(BATCH, {"messages": [MESSAGE]})
    assert (answer.status, answer.body) == (429, b'{"message":"You have exceeded your rate limit"}')


def test_requests_over_the_rate_limit_are_refused() -> None:
    """Requests are counted separately from messages."""
    world = World(limits=ServerLimits(messages=2))
    for _ in range(20):
        world.rest(BATCH, {"messages": []})
    world.run(5)
    assert world.rest(BATCH, {"messages": []}).body == b'{"message":"Too many requests"}'


def test_health_checks_are_answered() -> None:
    """`/healthcheck` is answered to all hosts, `/api/ping` to known tenants."""
    world = World()
    assert world.rest("/healthcheck", method="GET", host="x").body == b"ok"
    assert world.rest("/api/ping", method="GET").body == b'{"message":"Success"}'
    assert world.rest("/api/ping", method="GET", host="evil.example").status == 401


def test_no_response_contains_the_secret() -> None:
    """No response has the secret or a token."""
    world = World()
    for headers in ({}, {"authorization": "Bearer x.y.z"}, {"authorization": "Basic abc"}):
        answer = world.rest(BATCH, {"messages": [{}]}, headers=headers)
        assert SECRET.encode() not in answer.body and b"x.y.z" not in answer.body
