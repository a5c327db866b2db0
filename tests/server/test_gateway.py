"""API keys that are not JWTs: translated on the gateway's paths, refused elsewhere."""

from typing import Any

import aiohttp
import pytest

from supawire import connect_async
from supawire.errors import ConnectError, HttpError, JoinDeniedError
from supawire.events import Instant
from supawire.server import LocalServer
from supawire.server.effects import Request, RestRequest
from supawire.server.gateway import Gateway, publishable_key, secret_key
from supawire.server.tokens import Claims, check
from supawire.testing import VirtualServer
from tests.server.test_app import TOKEN, running
from tests.server.world import SECRET, START, World

NOW = Instant(5.0, START)
PUBLISHABLE, SECRET_KEY = publishable_key(SECRET), secret_key(SECRET)
UPGRADE = {"vsn": "2.0.0"}


def role(token: str) -> str:
    claims = check(token, SECRET, NOW)
    assert isinstance(claims, Claims)
    return claims.role


def test_keys_depend_only_on_the_secret() -> None:
    """They have the form of real keys and stay valid when a server with the same secret starts again."""
    assert LocalServer(secret=SECRET).publishable_key == PUBLISHABLE
    assert PUBLISHABLE.startswith("sb_publishable_") and SECRET_KEY.startswith("sb_secret_")
    assert len({PUBLISHABLE, SECRET_KEY, publishable_key("other"), secret_key("other")}) == 4
    assert SECRET not in PUBLISHABLE + SECRET_KEY


@pytest.mark.parametrize(("key", "expected"), [(PUBLISHABLE, "anon"), (SECRET_KEY, "service_role")])
def test_a_key_becomes_a_jwt_of_its_role(key: str, expected: str) -> None:
    """It is replaced in the query and in `x-api-key` of a socket, and in `Authorization` of a request."""
    gateway = Gateway(SECRET)
    socket = gateway.socket(Request("localhost", {**UPGRADE, "apikey": key}, {"x-client-info": "a"}), NOW)
    assert role(socket.query["apikey"]) == role(socket.headers["x-api-key"]) == expected
    assert (socket.query["vsn"], socket.headers["x-client-info"]) == ("2.0.0", "a")
    for given in ({}, {"authorization": f"Bearer {key}"}):
        rest = gateway.rest(RestRequest("POST", "/api/broadcast", "localhost", headers={"apikey": key, **given}), NOW)
        assert role(rest.headers["authorization"].removeprefix("Bearer ")) == expected


@pytest.mark.parametrize(
    "key", ["", "sb_publishable_", PUBLISHABLE[:-1], PUBLISHABLE + "x", "sb_secret_x", TOKEN, "\udcff"]
)
def test_other_keys_are_not_changed(key: str) -> None:
    """JWTs and unknown keys are passed on as they are."""
    gateway = Gateway(SECRET)
    socket = Request("localhost", {**UPGRADE, "apikey": key})
    assert gateway.socket(socket, NOW) is socket
    rest = RestRequest("POST", "/api/broadcast", "localhost", headers={"apikey": key})
    assert gateway.rest(rest, NOW) is rest


def test_a_users_token_is_kept() -> None:
    """A token in `Authorization` is not replaced; another API key there is passed on and refused."""
    gateway = Gateway(SECRET)
    for given in (f"Bearer {TOKEN}", f"Bearer {SECRET_KEY}", "Basic eDp5"):
        headers = {"apikey": PUBLISHABLE, "authorization": given}
        rest = RestRequest("POST", "/api/broadcast", "localhost", headers=headers)
        assert gateway.rest(rest, NOW) is rest


@pytest.mark.parametrize("key", [PUBLISHABLE, SECRET_KEY])
async def test_the_containers_own_paths_refuse_them(key: str) -> None:
    """The real server answers 401, because there is no gateway in front of these paths."""
    async with running() as net:
        for path, status in (("/socket/websocket", 401), ("/realtime/v1/websocket", 400)):
            async with net.http.get(net.url + path, params={**UPGRADE, "apikey": key}) as answer:
                assert answer.status == status  # 400: all is well, but for the upgrade
        message = {"messages": [{"topic": "lab", "event": "e", "payload": {}}]}
        for path, status in (("/api/broadcast", 401), ("/realtime/v1/api/broadcast", 202)):
            async with net.http.post(net.url + path, json=message, headers={"apikey": key}) as answer:
                assert answer.status == status


@pytest.mark.parametrize("name", ["access_token", "user_token"])
def test_they_are_ignored_as_channel_tokens(name: str) -> None:
    """As on the real server they are ignored in joins and pushes, and the channel has the rights of its connection."""
    world = World()
    client = world.connect(token=world.token("anon"))
    more: dict[str, Any] = {name: SECRET_KEY}
    client.join(config={"private": True}, **more)
    assert client.events("phx_reply")[0]["response"]["reason"].startswith("Unauthorized")
    client.take()
    client.join("realtime:open")
    client.take()
    client.push("realtime:open", "access_token", {"access_token": SECRET_KEY}, join_ref="2")
    assert client.got == []


async def test_the_client_works_with_them() -> None:
    """The publishable key has the role `anon`, the secret key `service_role`; a user's token can be used with both."""
    async with LocalServer() as server:
        async with connect_async(server.url, server.publishable_key) as client:
            await client.channel("open").subscribe()
            await client.publish("open", "e", {})
            with pytest.raises(JoinDeniedError):
                await client.channel("hidden", private=True).subscribe()
        async with connect_async(server.url, server.secret_key) as client:
            await client.channel("hidden", private=True).subscribe()
        async with connect_async(server.url, server.publishable_key, token=server.token()) as client:
            await client.channel("hidden", private=True).subscribe()
        with pytest.raises(ConnectError) as refused:
            await connect_async(server.url, server.publishable_key + "x", open_timeout=5)
        assert refused.value.status == 401
        with pytest.raises(aiohttp.ClientResponseError):
            async with aiohttp.ClientSession(raise_for_status=True) as http:
                await http.post(f"{server.url}/api/broadcast", headers={"apikey": server.secret_key})


async def test_the_in_memory_server_has_them_too() -> None:
    """They have the same names."""
    server = VirtualServer()
    async with connect_async(server.url, server.secret_key, transport=server.transport, http=server.http) as client:
        await client.channel("hidden", private=True).subscribe()
        await client.publish("hidden", "e", {}, private=True)
    with pytest.raises(HttpError):
        async with connect_async(
            server.url, server.publishable_key, transport=server.transport, http=server.http
        ) as client:
            await client.publish("hidden", "e", {}, private=True)
