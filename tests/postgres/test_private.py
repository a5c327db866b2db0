"""Private channels with a database: joins, messages, and the texts of refusals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, LiteralString

import aiohttp
import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from supawire.server import LocalServer
from supawire.server.postgres.backend import BackendOptions
from supawire.server.postgres.cluster import Cluster
from tests.postgres.listening import ServerWithOptions
from tests.postgres.wire import Wire, wire

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
LAB = "realtime:lab"
OK = {"status": "ok", "response": {}}
ERROR = {"status": "error", "response": {}}
NO_READ = "You do not have permissions to read from this Channel topic: lab"
LOST_READ = "You no longer have permission to read from this Channel topic: lab"
CONFIG: dict[str, Any] = {"broadcast": {"ack": True, "self": True}, "presence": {"enabled": True, "key": "me"}}
MEMBER = "auth.jwt() -> 'rooms' ? realtime.topic()"
MEMBERS: LiteralString = f"""
    create policy hear on realtime.messages for select to authenticated using ({MEMBER});
    create policy speak on realtime.messages for insert to authenticated with check ({MEMBER});
"""


@pytest.fixture
async def server(database: str, sql: Sql) -> AsyncIterator[LocalServer]:
    """Run a server whose private topics require a token that lists them in `rooms`."""
    sql.execute(MEMBERS)
    async with LocalServer(database=database) as server:
        yield server


@pytest.fixture
async def impatient_server(database: str, sql: Sql) -> AsyncIterator[LocalServer]:
    """Run the same server with a policy timeout of 0.2 s."""
    sql.execute(MEMBERS)
    async with ServerWithOptions(database, BackendOptions(policy_timeout=0.2)) as server:
        yield server


def member(server: LocalServer, **claims: Any) -> str:
    every: dict[str, Any] = {"rooms": ["lab"], **claims}
    return server.token(**every)


def denied(reason: str) -> dict[str, Any]:
    return {"status": "error", "response": {"reason": reason}}


def system(message: str) -> dict[str, Any]:
    return {"message": message, "status": "error", "extension": "system", "channel": "lab"}


def ping(n: int) -> dict[str, Any]:
    return {"type": "broadcast", "event": "ping", "payload": {"n": n}}


def track(n: int) -> dict[str, Any]:
    return {"type": "presence", "event": "track", "payload": {"n": n}}


async def joined(client: Wire) -> None:
    reply = await client.join(**CONFIG)
    assert reply["status"] == "ok", reply


# --- joins ---


async def test_a_member_can_join_broadcast_and_track(server: LocalServer):
    """Broadcasts have their echo and ack, presence its reply."""
    async with wire(server, member(server)) as client:
        await joined(client)
        assert await client.request(LAB, "broadcast", ping(1)) == OK
        assert await client.request(LAB, "presence", track(1)) == OK
        assert [frame.event for frame in client.got if frame.event != "phx_reply"][:2] == [
            "presence_state",
            "broadcast",
        ]


DROP_PARTITIONS: LiteralString = """do $$ declare part text; begin
  for part in select inhrelid::regclass from pg_inherits where inhparent = 'realtime.messages'::regclass
  loop execute 'drop table ' || part; end loop; end $$"""


@pytest.mark.parametrize(
    "claims", [{"rooms": []}, {"role": "anon"}, {"role": "stranger"}, {"role": 'a"; drop role anon'}]
)
async def test_a_join_without_permission_is_refused(server: LocalServer, claims: dict[str, Any]):
    """The join is refused without a policy for the claims, and with a role that does not exist."""
    async with wire(server, member(server, **claims)) as client:
        assert await client.join() == denied(f"Unauthorized: {NO_READ}")
        assert (await client.join("realtime:open", private=False))["status"] == "ok"


async def test_the_service_key_can_join_every_topic(server: LocalServer):
    """The service role passes every policy."""
    async with wire(server, server.service_key) as client:
        await joined(client)
        assert await client.request(LAB, "broadcast", ping(1)) == OK


@pytest.mark.parametrize(
    ("sabotage", "reason"),
    [
        ("alter policy hear on realtime.messages using (1 / 0 = 1)", f"Unauthorized: {NO_READ}"),
        (
            "alter policy hear on realtime.messages using (pg_sleep(30) is null)",
            "QueryCanceled: Query was cancelled, please try again",
        ),
        (
            DROP_PARTITIONS,
            "MissingPartition: Realtime was unable to find the expected messages partition",
        ),
    ],
    ids=["failing", "endless", "no partition"],
)
async def test_a_database_error_refuses_a_join_with_its_reason(
    impatient_server: LocalServer, sql: Sql, sabotage: LiteralString, reason: str
):
    """Each has the text of the real server."""
    sql.execute(sabotage)
    server = impatient_server
    async with wire(server, member(server)) as client:
        assert await client.join() == denied(reason)


async def test_a_socket_waits_for_a_slow_policy(server: LocalServer, sql: Sql):
    """Frames after the join are answered after it; other sockets continue."""
    sql.execute("""create function public.slow() returns boolean language plpgsql security definer as
        $$ begin perform pg_advisory_xact_lock_shared(7); return true; end $$""")
    sql.execute("alter policy hear on realtime.messages using (public.slow())")
    sql.execute("select pg_advisory_lock(7)")
    async with wire(server, member(server)) as client, wire(server, member(server)) as other:
        join = await client.push(LAB, "phx_join", {"config": {"private": True}})
        beat = await client.push("phoenix", "heartbeat", {})
        assert await other.frames_before_heartbeat() == []
        sql.execute("select pg_advisory_unlock(7)")
        await client.reply(join)
        await client.reply(beat)
        assert [frame.ref for frame in client.got] == [join, beat]


async def test_endless_policies_delay_only_permission_checks(server: LocalServer, sql: Sql):
    """Public channels, messages and replays of others continue; a permission check is cancelled after a while."""
    sql.execute("""create policy stuck on realtime.messages for select to anon using (pg_sleep(30) is null)""")
    async with AsyncExitStack() as sockets:
        stuck = [await sockets.enter_async_context(wire(server, server.token("anon"))) for _ in range(6)]
        reader = await sockets.enter_async_context(wire(server, member(server)))
        await joined(reader)
        for client in stuck:
            await client.push(LAB, "phx_join", {"config": {"private": True}})
        sql.execute("""select realtime.send('{"n": 1}', 'ping', 'lab')""")
        assert (await reader.broadcast())["payload"]["n"] == 1
        assert (await reader.join("realtime:open", private=False))["status"] == "ok"
        assert await reader.request("realtime:lab", "phx_leave", {}) == OK


# --- writing ---


async def test_a_reader_cannot_send(server: LocalServer, sql: Sql):
    """A broadcast gets no reply, even with `ack`; a track gets an error without a reason."""
    sql.execute("drop policy speak on realtime.messages")
    async with wire(server, member(server)) as client:
        await joined(client)
        await client.push(LAB, "broadcast", ping(1), join_ref="1")
        assert await client.request(LAB, "presence", track(1)) == ERROR
        assert [frame.event for frame in client.got] == ["phx_reply", "presence_state", "phx_reply"]


@pytest.mark.parametrize("extension", ["broadcast", "presence"])
async def test_each_extension_has_its_own_permission(server: LocalServer, sql: Sql, extension: str):
    """What the policy does not permit is neither received nor sent."""
    clauses: tuple[tuple[str, LiteralString], ...] = (("hear", "using"), ("speak", "with check"))
    for policy, clause in clauses:
        sql.execute(
            SQL("alter policy {} on realtime.messages {} (extension = {})").format(
                Identifier(policy), SQL(clause), Literal(extension)
            )
        )
    async with wire(server, member(server)) as client:
        await joined(client)
        await client.push(LAB, "broadcast", ping(1), join_ref="1")
        reply = await client.request(LAB, "presence", track(1))
        await client.frames_before_heartbeat()
        events = [frame.event for frame in client.got if frame.event != "phx_reply"]
        if extension == "broadcast":
            assert reply == ERROR and events == ["broadcast"]
        else:
            assert reply == OK and events == ["presence_state", "presence_diff"]


async def test_permissions_are_cached_until_a_new_token(server: LocalServer, sql: Sql):
    """A changed policy applies with the next token or join."""
    async with wire(server, member(server)) as client:
        await joined(client)
        assert await client.request(LAB, "broadcast", ping(1)) == OK
        sql.execute("drop policy speak on realtime.messages")
        assert await client.request(LAB, "broadcast", ping(2)) == OK
        await client.push(LAB, "access_token", {"access_token": member(server, sub="again")}, join_ref="1")
        await client.push(LAB, "broadcast", ping(3), join_ref="1")
        assert await client.request(LAB, "presence", track(1)) == ERROR
        sql.execute(f"create policy speak on realtime.messages for insert with check ({MEMBER})")
        await client.push(LAB, "broadcast", ping(4), join_ref="1")
        assert await client.request(LAB, "presence", track(2)) == ERROR
        assert [frame.payload["payload"]["n"] for frame in client.got if frame.event == "broadcast"] == [1, 2]


# --- new tokens ---


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("false", NO_READ),
        ("extension = 'broadcast'", LOST_READ),
        ("extension = 'presence'", LOST_READ),
        ("1 / 0 = 1", NO_READ),
    ],
)
async def test_a_new_token_without_permission_closes_the_channel(
    server: LocalServer, sql: Sql, policy: LiteralString, message: str
):
    """The channel receives `system` and `phx_close`; the same token again causes no check."""
    token = member(server)
    async with wire(server, token) as client:
        await joined(client)
        sql.execute("alter policy hear on realtime.messages using (" + policy + ")")
        await client.push(LAB, "access_token", {"access_token": token}, join_ref="1")
        assert await client.request(LAB, "broadcast", ping(1)) == OK
        await client.push(LAB, "access_token", {"access_token": member(server, sub="new")}, join_ref="1")
        assert await client.system() == system(message)
        await client.until(lambda frame: frame.event == "phx_close")


async def test_a_new_token_of_another_user_has_that_users_permissions(server: LocalServer):
    """Policies read the claims of the new token."""
    async with wire(server, member(server)) as client:
        await joined(client)
        await client.push(LAB, "access_token", {"access_token": server.token(rooms=["den"])}, join_ref="1")
        assert await client.system() == system(NO_READ)


# --- HTTP ---


async def post(server: LocalServer, path: str, body: Any, token: str | None) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as http, http.post(server.url + path, json=body, headers=headers) as answer:
        return answer.status, await answer.json() if answer.content_length else None


async def test_an_http_broadcast_needs_the_permission_to_write(server: LocalServer, sql: Sql):
    """A single message gets 202, 403 or 422; a batch is always accepted and skips what is not permitted."""
    one = "/api/broadcast/lab/events/ping?private=true"
    outsider = server.token(rooms=[])
    async with wire(server, member(server)) as client:
        await joined(client)
        assert await post(server, one, {"n": 1}, member(server)) == (202, None)
        assert (await client.broadcast())["payload"] == {"n": 1}
        assert await post(server, one, {"n": 2}, outsider) == (403, {"message": "Unauthorized"})
        assert await post(server, one, {"n": 2}, server.token("stranger")) == (422, {"message": "RLS policy error"})
        batch = {
            "messages": [
                {"topic": "den", "event": "ping", "payload": {"n": 3}, "private": True},
                {"topic": "lab", "event": "ping", "payload": {"n": 4}, "private": True},
                {"topic": "lab", "event": "ping", "payload": {"n": 5}},
            ]
        }
        assert await post(server, "/api/broadcast", batch, outsider) == (202, None)
        assert await post(server, "/api/broadcast", batch, member(server)) == (202, None)
        assert (await client.broadcast())["payload"] == {"n": 4}
        assert await client.frames_before_heartbeat() == []


@pytest.mark.parametrize(
    ("sabotage", "answer"),
    [
        ("alter policy speak on realtime.messages with check (1 / 0 = 1)", "RLS policy error"),
        ("alter policy speak on realtime.messages with check (pg_sleep(30) is null)", "Query canceled"),
        (
            DROP_PARTITIONS,
            "Missing messages partition",
        ),
    ],
    ids=["failing", "endless", "no partition"],
)
async def test_a_database_error_is_the_response_to_an_http_broadcast(
    impatient_server: LocalServer, sql: Sql, sabotage: LiteralString, answer: str
):
    """The response has status 422 and the text of the real server."""
    sql.execute(sabotage)
    server = impatient_server
    path = "/realtime/v1/api/broadcast/lab/events/ping?private=true"
    assert await post(server, path, {}, member(server)) == (422, {"message": answer})


async def test_policies_can_read_headers_of_sockets_and_requests(server: LocalServer, sql: Sql):
    """Headers that begin with `x-` are in `request.headers`."""
    header = "current_setting('request.headers')::jsonb ->> 'x-team' = 'blue'"
    sql.execute("alter policy hear on realtime.messages using (" + header + ")")
    sql.execute("alter policy speak on realtime.messages with check (" + header + ")")
    async with wire(server, member(server), **{"x-team": "blue"}) as client:
        await joined(client)
    async with wire(server, member(server), **{"x-team": "red"}) as client:
        assert await client.join() == denied(f"Unauthorized: {NO_READ}")


# --- a lost database ---


async def test_a_lost_database_refuses_joins_until_it_is_back():
    """Joins, also public ones, and HTTP broadcasts are refused; channels stay, and later everything works again."""
    gone = denied("UnableToConnectToProject: Realtime was unable to connect to the project database")
    path = "/api/broadcast/lab/events/ping?private=true"
    with Cluster() as cluster:
        async with LocalServer(database=cluster.url, prepare=True) as server:
            server.sql(MEMBERS)
            token = member(server)
            async with wire(server, token) as client, wire(server, token) as other, wire(server, token) as late:
                await joined(client)
                await asyncio.to_thread(cluster.down)
                assert await other.join() == gone
                assert await post(server, path, {}, token) == (422, {"message": "Tenant database unavailable"})
                topics = (f"realtime:open:{n}" for n in count())
                while (await other.join(next(topics), private=False)) != gone:
                    pass  # until the loss was noticed
                await asyncio.to_thread(cluster.up)
                while (await other.join(next(topics), private=False)) == gone:
                    pass
                assert (await late.join())["status"] == "ok"
                assert await client.request(LAB, "broadcast", ping(1)) == OK
                assert await post(server, path, {}, token) == (202, None)
