"""Permissions on private topics come from the policies on `realtime.messages`."""

from collections.abc import AsyncIterator
from typing import Any, LiteralString, cast

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from supawire.server.postgres.database import DatabaseError
from supawire.server.postgres.policies import Policies
from supawire.server.queries import Action, Extension, PermissionsQuery, QueryError, Requester
from supawire.server.tokens import Claims

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
BOTH: tuple[Extension, ...] = ("broadcast", "presence")


def run(sql: Sql, text: str) -> None:
    sql.execute(cast("LiteralString", text))


@pytest.fixture
async def policies(database: str) -> AsyncIterator[Policies]:
    policies = Policies(database)
    yield policies
    await policies.close()


@pytest.fixture
async def impatient(database: str) -> AsyncIterator[Policies]:
    """Policies that are cancelled after 0.2 s."""
    policies = Policies(database, timeout=0.2)
    yield policies
    await policies.close()


def request(
    action: Action = "read",
    extensions: tuple[Extension, ...] = BOTH,
    topic: str = "lab",
    role: str = "authenticated",
    headers: dict[str, str] | None = None,
    **claims: Any,
) -> PermissionsQuery:
    values = {"role": role, "exp": 1, **claims}
    return PermissionsQuery(Requester(Claims(values, role, 1), headers or {}), topic, action, extensions)


async def test_without_a_policy_nothing_is_permitted(policies: Policies):
    """Row level security is enabled from the start."""
    for action in ("read", "write"):
        assert await policies.permissions(request(action)) == frozenset()


async def test_the_service_role_passes_every_policy(policies: Policies):
    """The service role is exempt from row level security."""
    for action in ("read", "write"):
        assert await policies.permissions(request(action, role="service_role")) == {"broadcast", "presence"}


@pytest.mark.parametrize("extension", BOTH)
@pytest.mark.parametrize("action", ["read", "write"])
async def test_each_of_the_four_permissions_has_its_own_policy(
    policies: Policies, sql: Sql, action: Action, extension: Extension
):
    """`select` is for reading and `insert` for writing; the column `extension` distinguishes broadcast and presence."""
    if action == "read":
        run(sql, f"create policy p on realtime.messages for select to authenticated using (extension = '{extension}')")
    else:
        check = f"with check (extension = '{extension}')"
        run(sql, f"create policy p on realtime.messages for insert to authenticated {check}")
    assert await policies.permissions(request(action)) == {extension}
    other: Action = "write" if action == "read" else "read"
    assert await policies.permissions(request(other)) == frozenset()
    assert await policies.permissions(request(action, role="anon")) == frozenset()


async def test_only_the_queried_extensions_are_checked(policies: Policies, sql: Sql):
    """The permission for presence is not checked when presence is disabled."""
    sql.execute("create policy p on realtime.messages for select using (true)")
    assert await policies.permissions(request(extensions=("broadcast",))) == {"broadcast"}
    assert await policies.permissions(request(extensions=("presence",))) == {"presence"}


async def test_policies_can_read_topic_claims_role_and_headers(policies: Policies, sql: Sql):
    """Policies read them by `realtime.topic()`, `auth.uid()`, and the settings that PostgREST also sets."""
    sql.execute("""create policy p on realtime.messages for select to authenticated using (
        realtime.topic() = 'room:7' and topic = 'room:7' and auth.uid() = '00000000-0000-0000-0000-00000000000a'
        and current_setting('request.jwt.claim.sub') = '00000000-0000-0000-0000-00000000000a'
        and current_setting('request.jwt.claim.role') = 'authenticated'
        and current_setting('request.jwt.claims')::jsonb -> 'rooms' ? 'room:7'
        and current_setting('request.headers')::jsonb ->> 'x-team' = 'bl''ue'
        and current_user = 'authenticated' and event is null and payload is null)""")
    good: dict[str, Any] = {
        "topic": "room:7",
        "sub": "00000000-0000-0000-0000-00000000000a",
        "rooms": ["room:7"],
        "headers": {"x-team": "bl'ue"},
    }
    assert await policies.permissions(request(**good)) == {"broadcast", "presence"}
    wrongs: list[dict[str, Any]] = [{"topic": "room:8"}, {"sub": None}, {"rooms": []}, {"headers": {}}]
    for wrong in wrongs:
        assert not await policies.permissions(request(**good | wrong))


@pytest.mark.parametrize(
    "topic", ["it's", 'a"b', "back\\slash", "%s", "$1", "ünï", "; drop table realtime.messages --"]
)
async def test_any_topic_is_passed_to_the_policy_unchanged(policies: Policies, sql: Sql, topic: str):
    """The topic is a parameter and never part of the SQL."""
    sql.execute("create table wanted (topic text)")
    sql.execute("grant select on wanted to authenticated")
    sql.execute("insert into wanted values (%s)", [topic])
    sql.execute("create policy r on realtime.messages for select using (topic = (select w.topic from wanted w))")
    sql.execute("create policy w on realtime.messages for insert with check (realtime.topic() = topic)")
    assert await policies.permissions(request(topic=topic)) == {"broadcast", "presence"}
    assert await policies.permissions(request("write", topic=topic)) == {"broadcast", "presence"}
    assert not await policies.permissions(request(topic=topic + "x"))


async def test_any_claim_is_passed_to_the_policy_unchanged(policies: Policies, sql: Sql):
    """Numbers of any size and text with quotes are passed; a zero byte, which PostgreSQL cannot store, is refused."""
    sql.execute(r"""create policy p on realtime.messages for select using (
        (auth.jwt() ->> 'n')::numeric = 1e30 and auth.jwt() ->> 's' = $q$it's "\☃$q$)""")
    assert await policies.permissions(request(n=10**30, s="it's \"\\☃"))
    assert not await policies.permissions(request(n=10**30 + 1, s="it's \"\\☃"))
    for odd in (request(sub="a\0b"), request(topic="a\0b"), request(role="a\0b")):
        assert await policies.permissions(odd) is QueryError.POLICY


async def test_a_check_leaves_no_row_role_or_setting(policies: Policies, sql: Sql, database: str):
    """The next query on the same connection is not affected."""
    sql.execute("create policy p on realtime.messages for all using (true) with check (true)")
    for action in ("read", "write"):
        await policies.permissions(request(action, sub="secret"))
    assert sql.execute("select count(*) from realtime.messages").fetchone() == (0,)
    pool = policies.database
    settings = "select current_setting('request.jwt.claims', true), current_user, current_setting('statement_timeout')"
    ((claims, user, timeout),) = await pool.query(settings)
    assert not claims and user != "authenticated" and timeout == "0"
    assert pool.idle == 1


# --- trouble ---


@pytest.mark.parametrize("action", ["read", "write"])
@pytest.mark.parametrize(
    ("policy", "trouble"),
    [("1 / 0 = 1", QueryError.POLICY), ("pg_sleep(20) is null", QueryError.CANCELED)],
)
async def test_a_policy_that_raises_or_does_not_end_is_an_error(
    impatient: Policies, sql: Sql, action: Action, policy: str, trouble: QueryError
):
    """The connection is used again for the next query."""
    policies = impatient
    run(sql, f"create policy r on realtime.messages for select using ({policy})")
    run(sql, f"create policy w on realtime.messages for insert with check ({policy})")
    assert await policies.permissions(request(action)) is trouble
    sql.execute("drop policy r on realtime.messages")
    sql.execute("drop policy w on realtime.messages")
    assert await policies.permissions(request(action)) == frozenset()
    assert policies.database.idle == 1


@pytest.mark.parametrize("action", ["read", "write"])
async def test_an_unknown_role_is_an_error(policies: Policies, action: Action):
    """A join is refused as unauthorized, a request as an RLS error."""
    assert await policies.permissions(request(action, role="stranger")) is QueryError.POLICY
    assert await policies.permissions(request(action, role="x'; reset role; --")) is QueryError.POLICY


async def test_a_role_that_the_server_cannot_set_is_an_error(cluster: Any, database: str, sql: Sql):
    """The server's own role must be a member of it."""
    sql.execute("create role modest login password 'm'")
    sql.execute("grant authenticated to modest")
    sql.execute("grant usage on schema realtime to modest")
    sql.execute("grant all on realtime.messages to modest")
    sql.execute("create policy p on realtime.messages for all using (true) with check (true)")
    policies = Policies(make_conninfo(database, user="modest", password="m"))
    try:
        assert await policies.permissions(request("write")) == {"broadcast", "presence"}
        assert await policies.permissions(request()) == {"broadcast", "presence"}
        for action in ("read", "write"):
            assert await policies.permissions(request(action, role="service_role")) is QueryError.POLICY
    finally:
        await policies.close()
        sql.execute("drop owned by modest")
        sql.execute("drop role modest")


async def test_a_role_without_the_privilege_has_no_permission(policies: Policies, sql: Sql):
    """A missing grant for `insert` denies writing; one for `select` is an error, which refuses a join as well."""
    sql.execute("create policy p on realtime.messages for all using (true) with check (true)")
    sql.execute("revoke all on realtime.messages from authenticated")
    assert await policies.permissions(request("write")) == frozenset()
    assert await policies.permissions(request()) is QueryError.POLICY


async def test_a_missing_partition_is_an_error(policies: Policies, sql: Sql):
    """A missing partition has its own QueryError, because the real server names it."""
    for (part,) in sql.execute(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'realtime.messages'::regclass"
    ).fetchall():
        run(sql, f"drop table {part}")
    sql.execute("create policy p on realtime.messages for all using (true) with check (true)")
    for action in ("read", "write"):
        assert await policies.permissions(request(action)) is QueryError.NO_PARTITION


async def test_a_lost_idle_connection_is_replaced(policies: Policies, sql: Sql):
    """After a connection was lost, as by a restart of the database, the next query is answered."""
    sql.execute("create policy p on realtime.messages for select using (true)")
    await policies.permissions(request())
    sql.execute("""select pg_terminate_backend(pid, 10000) from pg_stat_activity
        where pid <> pg_backend_pid() and datname = current_database()""")
    assert await policies.permissions(request()) == {"broadcast", "presence"}


async def test_an_unreachable_database_is_a_database_error(database: str):
    """The backend makes QueryError.DOWN of it."""
    policies = Policies(make_conninfo(database, port="1"))
    with pytest.raises(DatabaseError) as error:
        await policies.permissions(request())
    assert error.value.retryable
