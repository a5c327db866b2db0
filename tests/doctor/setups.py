"""Set-ups, broken and healthy, each with what doctor must find there.

Each is an async context manager that provides the arguments of `diagnose_async`. Those of databases differ by SQL only.
"""

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import conninfo

from supawire.server import LocalServer
from supawire.server.postgres import preflight
from supawire.server.postgres.cluster import Cluster
from supawire.server.tokens import sign

from .world import (
    SECRET,
    USER,
    World,
    answering,
    garbage,
    hang_up,
    http_proxy,
    misbehaving,
    realtime,
    silent,
    with_tls,
)

Arguments = dict[str, Any]
Start = Callable[[World], AbstractAsyncContextManager[Arguments]]
BRIEF: Final = 1.0
"""Time limit in seconds of set-ups in which something is never answered."""


@dataclass(frozen=True, slots=True)
class SetUp:
    """One set-up. expected: the names of all findings. remedy: a text in one of the remedies or its SQL."""

    name: str
    start: Start
    expected: frozenset[str] = frozenset()
    remedy: str = ""


SET_UPS: Final[list[SetUp]] = []


def broken(
    name: str, *expected: str, remedy: str
) -> Callable[[Callable[[World], AsyncGenerator[Arguments]]], Callable[[World], AsyncGenerator[Arguments]]]:
    """Register a broken set-up."""

    def register(
        function: Callable[[World], AsyncGenerator[Arguments]],
    ) -> Callable[[World], AsyncGenerator[Arguments]]:
        SET_UPS.append(SetUp(name, asynccontextmanager(function), frozenset(expected), remedy))
        return function

    return register


def _row(name: str, start: Start, expected: tuple[str, ...], remedy: str) -> None:
    SET_UPS.append(SetUp(name, start, frozenset(expected), remedy))


def claims(**values: Any) -> str:
    """Return a signed token with exactly these claims."""
    return sign(values, SECRET)


def hour(hours: float = 1) -> int:
    """Return the Unix time in so many hours."""
    return int((datetime.now(UTC) + timedelta(hours=hours)).timestamp())


# --- the network


@broken("url-of-a-database", "url-invalid", remedy="dashboard")
async def _database_as_url(world: World) -> AsyncGenerator[Arguments]:
    yield {"url": "postgresql://postgres:pw@db.abc.supabase.co:5432/postgres", "key": world.plain.anon_key}


@broken("url-of-the-dashboard", "url-invalid", remedy="https://abc.supabase.co")
async def _dashboard_as_url(world: World) -> AsyncGenerator[Arguments]:
    yield {"url": "https://supabase.com/dashboard/project/abcdef", "key": world.plain.anon_key}


@broken("nothing-listens", "tcp-refused", remedy="Start the server")
async def _refused(world: World) -> AsyncGenerator[Arguments]:
    with LocalServer() as gone:
        url = gone.url
    yield {"url": url, "key": world.plain.anon_key}


def _tls(name: str, expected: str, remedy: str, identity: str = "localhost", days: float = 30, *, known: bool) -> None:
    @asynccontextmanager
    async def start(world: World) -> AsyncGenerator[Arguments]:
        now = datetime.now(UTC)
        certificate = world.authority.issue_cert(
            identity, not_before=now - timedelta(days=60), not_after=now + timedelta(days=days)
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        trusting = ssl.create_default_context()
        world.authority.configure_trust(trusting)
        async with with_tls(context, world.plain.url) as url:
            yield {"url": url, "key": world.plain.anon_key, "ssl": trusting if known else None}

    _row(name, start, (expected,), remedy)


_tls("certificate-expired", "tls-expired", "Renew", days=-1, known=True)
_tls("certificate-of-another-host", "tls-other-name", "host=", identity="elsewhere.example", known=True)
_tls("certificate-of-an-unknown-authority", "tls-untrusted", "cafile", known=False)
_tls("certificate-about-to-expire", "tls-expires-soon", "Renew", days=1, known=True)


@broken("https-to-a-server-without-tls", "tls-plain", remedy="http://")
async def _plain(world: World) -> AsyncGenerator[Arguments]:
    yield {"url": world.plain.url.replace("http://", "https://"), "key": world.plain.anon_key}


@broken("tls-never-answered", "tls-no-answer", remedy="port")
async def _tls_silent(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(silent) as url:
        yield {"url": url.replace("http://", "https://"), "key": world.plain.anon_key, "timeout": BRIEF}


def _answers(name: str, expected: tuple[str, ...], remedy: str, status: int, body: bytes, *headers: str) -> None:
    @asynccontextmanager
    async def start(world: World) -> AsyncGenerator[Arguments]:
        async with misbehaving(answering(status, body, *headers)) as url:
            yield {"url": url, "key": world.plain.anon_key}

    _row(name, start, expected, remedy)


HTML: Final = "Content-Type: text/html"
_answers("paused-project", ("http-paused", "handshake-refused"), "Restore", 540, b"paused")
_answers("project-over-its-quota", ("http-restricted", "handshake-refused"), "billing", 402, b"")
_answers("gateway-without-server", ("http-broken", "handshake-refused"), "server behind", 502, b"Bad Gateway")
_answers("a-website", ("http-web-page", "upgrade-removed"), "not that of a website", 200, b"<html></html>", HTML)
_answers("redirect", ("http-redirect", "handshake-redirect"), "redirects", 301, b"", "Location: https://x.example/")
_answers("unknown-project", ("handshake-refused",), "project's URL", 404, b'{"error":"Tenant not found"}')
_answers(
    "suspended-project",
    ("handshake-refused",),
    "Enable Realtime",
    403,
    b'{"error":"Realtime was disabled for this tenant"}',
)
_answers("too-many-connections", ("handshake-refused",), "higher limit", 429, b'{"error":"Too many connected users"}')
_answers("gateway-forbids", ("handshake-refused",), "rules of the gateway", 403, b'{"message":"no"}')


@broken("upgrade-removed-by-a-proxy", "upgrade-removed", remedy="nginx")
async def _no_upgrade(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(answering(426)) as url:
        yield {"url": url, "key": world.plain.anon_key}


@broken("websockets-blocked", "websockets-blocked", remedy="fallback='longpoll'")
async def _blocked(world: World) -> AsyncGenerator[Arguments]:
    world.plain.block_websockets(426)
    try:
        yield {"url": world.plain.url, "key": world.plain.anon_key}
    finally:
        world.plain.accept_connections()


@broken("nothing-answered", "http-no-answer", "handshake-no-answer", remedy="gateway")
async def _silent(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(silent) as url:
        yield {"url": url, "key": world.plain.anon_key, "timeout": BRIEF}


@broken("connection-closed-at-once", "http-failed", "handshake-failed", remedy="proxies")
async def _hang_up(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(hang_up) as url:
        yield {"url": url, "key": world.plain.anon_key}


@broken("not-an-http-server", "http-failed", "handshake-failed", remedy="HTTP server")
async def _garbage(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(garbage) as url:
        yield {"url": url, "key": world.plain.anon_key}


@broken("proxy-not-running", "http-failed", "handshake-failed", remedy="proxies")
async def _proxy_gone(world: World) -> AsyncGenerator[Arguments]:
    yield {"url": world.plain.url, "key": world.plain.anon_key, "proxy": "http://127.0.0.1:1"}


@broken("clock-behind", "clock-skew", remedy="NTP")
async def _clock(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(realtime(date=timedelta(minutes=10))) as url:
        yield {"url": url, "key": world.plain.anon_key}


@broken("clock-behind-the-expiry-of-the-token", "clock-expiry", "token-expired", remedy="NTP")
async def _clock_expiry(world: World) -> AsyncGenerator[Arguments]:
    token = world.plain.token("authenticated", expires_in=300)
    async with misbehaving(realtime(date=timedelta(minutes=10))) as url:
        yield {"url": url, "key": world.plain.anon_key, "token": token}


# --- key and token


def _key(name: str, expected: tuple[str, ...], remedy: str, make: Callable[[World], str]) -> None:
    @asynccontextmanager
    async def start(world: World) -> AsyncGenerator[Arguments]:
        yield {"url": world.plain.url, "key": make(world)}

    _row(name, start, expected, remedy)


_key("key-without-its-end", ("key-cut", "handshake-refused"), "whole key", lambda world: world.plain.anon_key[:-9])
_key("key-without-its-signature", ("key-cut",), "whole key", lambda world: world.plain.anon_key.rpartition(".")[0])
_key("key-in-quotation-marks", ("key-damaged",), "quotation marks", lambda world: f'"{world.plain.anon_key}"')
_key("the-jwt-secret-as-key", ("key-not-a-key", "handshake-refused"), "JWT secret", lambda _: SECRET)
_key(
    "expired-key", ("key-expired", "handshake-refused"), "current key", lambda world: claims(role="anon", exp=hour(-1))
)
_key("key-without-role", ("key-claims", "handshake-refused"), "role", lambda world: claims(exp=hour()))
_key(
    "key-of-another-server",
    ("handshake-refused",),
    "same project",
    lambda _: sign({"role": "anon", "exp": hour()}, "another-secret-that-is-long-enough"),
)
_key(
    "publishable-key-without-its-end",
    ("key-cut", "handshake-refused"),
    "whole key",
    lambda world: world.plain.publishable_key[:-4],
)


def _token(name: str, expected: tuple[str, ...], remedy: str, make: Callable[[World], str], **more: Any) -> None:
    @asynccontextmanager
    async def start(world: World) -> AsyncGenerator[Arguments]:
        yield {"url": world.plain.url, "key": world.plain.anon_key, "token": make(world), **more}

    _row(name, start, expected, remedy)


_token("expired-token", ("token-expired",), "callable", lambda world: world.plain.token(expires_in=-90), topic="room")
_token("token-without-exp", ("token-claims",), "exp", lambda _: claims(role="authenticated"))
_token("token-without-its-end", ("token-cut",), "whole", lambda world: world.plain.token()[:-5])
_token("token-with-its-prefix", ("token-damaged",), "Bearer", lambda world: f"Bearer {world.plain.token()}")
_token("refresh-token-as-token", ("token-not-a-jwt",), "access token", lambda _: "v1.Mr5xkTzQpL")
_token("key-as-token", ("token-is-a-key",), "as the key", lambda world: world.plain.publishable_key)
_token("token-about-to-expire", ("token-expires-soon",), "callable", lambda world: world.plain.token(expires_in=20))
_token(
    "exp-in-milliseconds",
    ("token-milliseconds",),
    "seconds",
    lambda _: claims(role="authenticated", exp=hour() * 1000),
)
_token(
    "token-of-another-server",
    ("public-refused-join", "private-refused"),
    "same project",
    lambda _: sign({"role": "authenticated", "exp": hour()}, "another-secret-that-is-long-enough"),
    topic="room",
)


# --- channels


def _faulty(
    name: str, expected: tuple[str, ...], remedy: str, fault: Callable[[LocalServer], object], **more: Any
) -> None:
    @asynccontextmanager
    async def start(world: World) -> AsyncGenerator[Arguments]:
        async with LocalServer(secret=SECRET) as server:
            fault(server)
            yield {"url": server.url, "key": world.plain.anon_key, **more}

    _row(name, start, expected, remedy)


_faulty(
    "private-channels-only",
    ("public-refused",),
    "private=True",
    lambda server: server.reject_join("*", "PrivateOnly: This project only allows private channels"),
)
_faulty(
    "database-of-the-project-down",
    ("public-refused-join",),
    "not paused",
    lambda server: server.reject_join("*", "UnableToConnectToProject: Realtime was unable to connect"),
)
_faulty(
    "join-never-answered",
    ("join-no-answer",),
    "longer timeout",
    lambda server: server.drop_reply("phx_join"),
    timeout=BRIEF,
)
_faulty(
    "private-topic-without-rights",
    ("private-refused",),
    "policy",
    lambda server: server.policy(lambda claims, topic, extension, action: False),
    topic="room",
)
_faulty(
    "private-join-never-answered",
    ("private-no-answer",),
    "longer timeout",
    lambda server: server.delay_join("room", 5),
    topic="room",
    timeout=BRIEF,
)


@broken("presence-switched-off", "presence-no-entry", remedy="enabled")
async def _presence_off(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(realtime(presence=lambda wire, frame: wire.reply(frame))) as url:
        yield {"url": url, "key": world.plain.anon_key, "timeout": BRIEF}


@broken("broadcasts-lost", "broadcast-not-delivered", remedy="cluster")
async def _broadcast_lost(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(realtime(broadcast=lambda wire, frame: wire.reply(frame))) as url:
        yield {"url": url, "key": world.plain.anon_key, "timeout": BRIEF}


@broken("broadcasts-not-answered", "broadcast-not-confirmed", remedy="log")
async def _broadcast_silent(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(realtime(broadcast=None)) as url:
        yield {"url": url, "key": world.plain.anon_key, "timeout": BRIEF}


@broken("changes-never-confirmed", "changes-not-ready", remedy="WAL level")
async def _changes_silent(world: World) -> AsyncGenerator[Arguments]:
    async with misbehaving(realtime()) as url:
        yield {"url": url, "key": world.plain.anon_key, "table": "orders", "timeout": BRIEF}


# --- tables, on a server with PostgreSQL

TABLE: Final = "create table {t} (id bigint primary key, status text, owner uuid default '{user}'); "
PUBLISHED: Final = TABLE + "alter publication supabase_realtime add table {t}; "
SECURED: Final = PUBLISHED + "alter table {t} enable row level security; insert into {t} values (1, 'open'); "


def _table(name: str, expected: tuple[str, ...], remedy: str, text: str, **more: Any) -> None:
    """Register a set-up of one table on the shared server."""

    @asynccontextmanager
    async def start(world: World) -> AsyncGenerator[Arguments]:
        table = world.table(text) if text else world.unused_name("t")
        arguments = {"table": table, "token": world.server.token(sub=USER)} | more
        yield {
            "url": world.server.url,
            "key": world.server.anon_key,
            "database_url": world.server.database_url,
            **arguments,
        }

    _row(name, start, expected, remedy)


_table("no-such-table", ("changes-refused", "table-missing"), "schema and table", "")
_table(
    "table-not-published", ("changes-refused", "table-unpublished"), "alter publication supabase_realtime add", TABLE
)
_table(
    "a-view",
    ("changes-refused", "table-view"),
    "tables that it reads: public.base_",
    "create table base_{t} (id bigint primary key); create view {t} as select * from base_{t}",
)
_table(
    "a-partitioned-table",
    ("changes-refused", "table-partitioned"),
    "public.part_",
    "create table {t} (id bigint primary key) partition by range (id); "
    "create table part_{t} partition of {t} for values from (0) to (10); "
    "alter publication supabase_realtime add table {t}",
)
_table(
    "an-unlogged-table",
    ("changes-refused", "table-unlogged", "table-unpublished"),
    "set logged",
    "create unlogged table {t} (id bigint primary key)",
)
_table(
    "no-primary-key",
    ("key-missing", "identity-nothing"),
    "add primary key (id)",
    "create table {t} (id bigint); alter publication supabase_realtime add table {t}",
)
_table(
    "replica-identity-nothing",
    ("identity-nothing",),
    "replica identity default",
    PUBLISHED + "alter table {t} replica identity nothing",
)
_table(
    "deletes-with-a-filter-on-another-column",
    ("identity-filter",),
    "replica identity full",
    PUBLISHED,
    filter="status=eq.open",
)
_table(
    "deletes-with-a-filter-and-row-security",
    ("identity-filter-security",),
    "separate selector",
    SECURED + "create policy p on {t} using (true); alter table {t} replica identity full",
    filter="status=eq.open",
)
_table(
    "row-filter-of-the-publication",
    ("publication-narrowed",),
    "row level security",
    TABLE + "alter publication supabase_realtime add table {t} where (id > 5)",
)
_table(
    "no-privilege-on-the-table",
    ("grant-table",),
    "grant select on public.t_",
    PUBLISHED + "revoke all on {t} from authenticated",
)
_table(
    "no-privilege-on-the-key",
    ("grant-key",),
    "grant select (id)",
    PUBLISHED + "revoke all on {t} from authenticated; grant select (status) on {t} to authenticated",
)
_table(
    "no-privilege-on-a-filtered-column",
    ("changes-refused", "grant-filter"),
    "grant select (status)",
    PUBLISHED + "revoke all on {t} from authenticated; grant select (id) on {t} to authenticated",
    filter="status=eq.open",
    event="INSERT",
)
_table(
    "filter-on-a-missing-column",
    ("changes-refused", "filter-column"),
    "id, status and owner",
    PUBLISHED,
    filter="state=eq.open",
    event="INSERT",
)
_table(
    "filter-with-a-value-of-another-type",
    ("changes-refused", "filter-value"),
    "value of the type",
    PUBLISHED,
    filter="id=eq.one",
)
_table("filter-that-is-malformed", ("filter-invalid",), "column=operator.value", PUBLISHED, filter="status is open")
_table(
    "filter-with-too-many-values",
    ("filter-invalid",),
    "at most 100",
    PUBLISHED,
    filter=f"id=in.({','.join(map(str, range(101)))})",
)
_table("row-security-without-a-policy", ("rows-no-policy",), "for select to authenticated", SECURED)
_table(
    "policy-for-another-role",
    ("rows-no-policy",),
    "pass the token of a signed-in user",
    SECURED + "create policy p on {t} for select to authenticated using (true)",
    token=None,
)
_table(
    "policy-that-hides-every-row",
    ("rows-all-hidden",),
    "policies: own",
    SECURED + "create policy own on {t} for select using (owner = auth.uid() and status = 'gone')",
)
_table(
    "policy-that-raises",
    ("rows-policy-raises",),
    "UUID",
    SECURED + "create policy own on {t} for select using (owner = auth.uid())",
    token=claims(role="authenticated", exp=hour(), sub="alice"),
)
_table(
    "policy-that-is-slow",
    ("rows-slow",),
    "Index",
    SECURED + "create policy slow on {t} for select using (pg_sleep(3) is not null)",
)


@broken("role-that-does-not-exist", "changes-refused", "role-missing", remedy="create role missing_")
async def _missing_role(world: World) -> AsyncGenerator[Arguments]:
    yield {
        "url": world.server.url,
        "key": world.server.anon_key,
        "token": claims(role=world.unused_name("missing"), exp=hour()),  # the test of its remedy creates the role
        "table": world.table(PUBLISHED),
        "database_url": world.server.database_url,
    }


@broken("schema-without-usage", "grant-schema", remedy="grant usage on schema shop_")
async def _schema(world: World) -> AsyncGenerator[Arguments]:
    schema = world.unused_name("shop")
    world.server.sql(
        f"create schema {schema}; create table {schema}.orders (id bigint primary key); "
        f"grant select on {schema}.orders to authenticated; "
        f"alter publication supabase_realtime add table {schema}.orders"
    )
    yield {
        "url": world.server.url,
        "key": world.server.anon_key,
        "token": world.server.token(),
        "table": f"{schema}.orders",
        "database_url": world.server.database_url,
    }


def _policies(name: str, expected: tuple[str, ...], remedy: str, text: str, **more: Any) -> None:
    """Register a set-up of policies on realtime.messages for one topic; `{topic}` in the text is its name."""

    @asynccontextmanager
    async def start(world: World) -> AsyncGenerator[Arguments]:
        topic = world.unused_name("room")
        if text:
            world.server.sql(text.replace("{topic}", topic))
        yield {
            "url": world.server.url,
            "key": world.server.anon_key,
            "token": world.server.token(sub=USER),
            "topic": topic,
            "database_url": world.server.database_url,
            **more,
        }

    _row(name, start, expected, remedy)


READ: Final = (
    "create policy read_{topic} on realtime.messages for select to authenticated using (realtime.topic() = '{topic}'); "
)
WRITE: Final = (
    "create policy write_{topic} on realtime.messages for insert to authenticated "
    "with check (realtime.topic() = '{topic}'); "
)
_policies("topic-without-policies", ("private-refused", "policies-read"), "create policy", "")
_policies(
    "topic-without-reading-broadcasts",
    ("policies-read-one",),
    "extension = 'broadcast'",
    READ.replace("')", "' and extension = 'presence')") + WRITE,
)
_policies("topic-without-writing", ("policies-write",), "for insert to authenticated", READ)
_policies(
    "topic-with-a-policy-that-raises",
    ("private-refused", "policies-raise"),
    "Correct the policy",
    "create policy bad_{topic} on realtime.messages for select to authenticated "
    "using (case when realtime.topic() = '{topic}' then 1 / (length(topic) - length(topic)) = 1 end)",
)


# --- whole databases, beside a server without one


def _own_database(
    name: str, expected: tuple[str, ...], remedy: str, text: str, *, prepared: bool = True, **more: Any
) -> None:
    """Register a set-up of a database that no server uses."""

    @asynccontextmanager
    async def start(world: World) -> AsyncGenerator[Arguments]:
        with world.database(text, prepared=prepared) as url:
            yield {
                "url": world.plain.url,
                "key": world.plain.anon_key,
                "token": world.plain.token(sub=USER),
                "database_url": url,
                **more,
            }

    _row(name, start, expected, remedy)


ORDERS: Final = (
    "create table orders (id bigint primary key); alter publication supabase_realtime add table orders; "
    "grant select on orders to authenticated; "
)
_own_database(
    "database-without-migrations",
    ("schema-missing", "publication-missing"),
    "--prepare",
    "create table orders (id bigint primary key); grant usage on schema public to authenticated; "
    "grant select on orders to authenticated",
    prepared=False,
    table="orders",
)
_own_database("old-migrations", ("schema-old",), "Update", "drop function realtime.broadcast_changes")
_own_database(
    "no-partition-for-today",
    ("partition-missing",),
    'create table realtime."messages_',
    "do $$ declare part regclass; begin for part in select inhrelid::regclass from pg_inherits "
    "where inhparent = 'realtime.messages'::regclass loop execute format('drop table %s', part); end loop; end $$",
)
_own_database(
    "publication-dropped",
    ("publication-missing",),
    "create publication supabase_realtime for table public.orders",
    ORDERS + "drop publication supabase_realtime",
    table="orders",
)
_own_database(
    "publication-of-inserts-only",
    ("publication-operations",),
    "insert, update, delete",
    ORDERS + "alter publication supabase_realtime set (publish = 'insert')",
    table="orders",
)
_own_database(
    "messages-without-privileges",
    ("policies-grant",),
    "grant select, insert on realtime.messages",
    "revoke all on realtime.messages from authenticated",
    topic="room",
)
_own_database(
    "messages-without-row-security",
    ("policies-open",),
    "enable row level security",
    "alter table realtime.messages disable row level security",
    topic="room",
)


@broken("wal-level-and-slots", "wal-level", "slots-used", remedy="alter system set wal_level = 'logical'")
async def _wal(world: World) -> AsyncGenerator[Arguments]:
    with Cluster(settings={"wal_level": "replica", "max_replication_slots": "1"}) as cluster:
        with psycopg.connect(cluster.url, autocommit=True) as admin:
            admin.execute(preflight.text("schema.sql"))
            admin.execute("select pg_create_physical_replication_slot('mine')")
        yield {"url": world.plain.url, "key": world.plain.anon_key, "database_url": cluster.url}


def _database_url(name: str, expected: str, remedy: str, change: Callable[[str], str]) -> None:
    @asynccontextmanager
    async def start(world: World) -> AsyncGenerator[Arguments]:
        url = change(world.server.database_url)
        yield {"url": world.plain.url, "key": world.plain.anon_key, "database_url": url}

    _row(name, start, (expected,), remedy)


_database_url(
    "wrong-database-password",
    "database-password",
    "percent-encoded",
    lambda url: f"{url}{'&' if '?' in url else '?'}password=wrong",
)
_database_url("wrong-database-name", "database-name", "/postgres", lambda url: url.replace("/tests", "/nothing_here"))
_database_url(
    "database-not-running",
    "database-unreachable",
    "database runs",
    lambda _: "postgresql://postgres@127.0.0.1:1/postgres",
)


# --- healthy


def healthy(name: str) -> Callable[[Callable[[World], AsyncGenerator[Arguments]]], object]:
    """Register a set-up in which nothing is wrong."""

    def register(function: Callable[[World], AsyncGenerator[Arguments]]) -> object:
        SET_UPS.append(SetUp(f"healthy-{name}", asynccontextmanager(function)))
        return function

    return register


@healthy("anon-key")
async def _healthy_anon(world: World) -> AsyncGenerator[Arguments]:
    yield {"url": world.plain.url, "key": world.plain.anon_key}


@healthy("publishable-key")
async def _healthy_publishable(world: World) -> AsyncGenerator[Arguments]:
    yield {"url": world.plain.url, "key": world.plain.publishable_key}


@healthy("secret-key-and-private-topic")
async def _healthy_secret(world: World) -> AsyncGenerator[Arguments]:
    yield {"url": world.plain.url, "key": world.plain.service_key, "topic": "room"}


@healthy("user-and-private-topic")
async def _healthy_user(world: World) -> AsyncGenerator[Arguments]:
    yield {
        "url": world.plain.url,
        "key": world.plain.anon_key,
        "token": world.plain.token(sub="alice"),
        "topic": "room",
    }


@healthy("url-of-the-socket")
async def _healthy_socket(world: World) -> AsyncGenerator[Arguments]:
    url = f"{world.plain.url.replace('http', 'ws')}/realtime/v1/websocket"
    yield {"url": url, "key": world.plain.anon_key, "table": "orders"}


@healthy("through-a-proxy")
async def _healthy_proxy(world: World) -> AsyncGenerator[Arguments]:
    async with http_proxy() as proxy:
        yield {"url": world.plain.url, "key": world.plain.anon_key, "proxy": proxy}


@healthy("tls")
async def _healthy_tls(world: World) -> AsyncGenerator[Arguments]:
    context, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    world.authority.issue_cert("localhost").configure_cert(context)
    world.authority.configure_trust(trusting)
    async with with_tls(context, world.plain.url) as url:
        yield {"url": url, "key": world.plain.anon_key, "ssl": trusting}


_table("healthy-table", (), "", PUBLISHED)
_table(
    "healthy-table-with-own-rows", (), "", SECURED + "create policy own on {t} for select using (owner = auth.uid())"
)
_table(
    "healthy-table-with-filter-and-whole-rows",
    (),
    "",
    PUBLISHED + "alter table {t} replica identity full",
    filter="status=eq.open",
)
_table(
    "healthy-hidden-column",
    (),
    "",
    PUBLISHED + "revoke all on {t} from authenticated; grant select (id, status) on {t} to authenticated",
)
_table("healthy-empty-secured-table", (), "", SECURED + "create policy p on {t} using (true); delete from {t}")


@healthy("database-role-that-may-not-act-as-others")
async def _healthy_reader(world: World) -> AsyncGenerator[Arguments]:
    reader = world.unused_name("reader")
    table = world.table(
        f"create role {reader} login password 'secret'; {SECURED} create policy p on {{t}} using (true)"
    )
    topic = world.unused_name("room")
    world.server.sql((READ + WRITE).replace("{topic}", topic))
    yield {
        "url": world.server.url,
        "key": world.server.anon_key,
        "token": world.server.token(),
        "table": table,
        "topic": topic,
        "database_url": conninfo.make_conninfo(world.server.database_url, user=reader, password="secret"),
    }


AUDITED: Final = (
    "create table log_{t} (at timestamptz); grant insert on log_{t} to authenticated; "
    "create function audit_{t}() returns boolean language sql as 'insert into log_{t} values (now()) returning true'; "
)
_table("healthy-policy-that-writes", (), "", AUDITED + SECURED + "create policy p on {t} using (audit_{t}())")
_policies("healthy-policies", (), "", READ + WRITE)
_policies("healthy-service-role", (), "", "", token=claims(role="service_role", exp=hour()))
_own_database("healthy-database", (), "", ORDERS, table="orders")
