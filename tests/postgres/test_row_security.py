"""Row level security: policies, roles and claims decide who receives a row."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from supawire.server import LocalServer

from .listening import Listener, Listeners, of
from .test_changes import publish, run

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
OWN = "nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'"


@pytest.fixture(autouse=True)
def notes(sql: Sql) -> None:
    """Create notes that only their owner may read; `anon` may read public ones."""
    publish(sql, "notes", "id int4 primary key, owner text, public bool default false, body text")
    run(sql, "alter table notes replica identity full", "alter table notes enable row level security")
    run(sql, f"create policy own on notes for select to authenticated using (owner = {OWN})")
    run(sql, "create policy open on notes for select to anon using (public)")


@pytest.fixture
def isolating(database: str) -> Iterator[Listeners]:
    """Listeners of a server with isolate_policy_errors, unlike the real one."""
    with LocalServer(database=database, isolate_policy_errors=True) as server:
        yield Listeners(server)


def bodies(listener: Listener, count: int) -> list[Any]:
    return [data["record"]["body"] for data in listener.changes(count)]


def test_each_identity_receives_its_own_rows(listeners: Listeners, sql: Sql):
    """Claims decide for users, the role for others; the service role receives all rows."""
    with (
        listeners.listen(of("notes"), sub="ada") as ada,
        listeners.listen(of("notes"), sub="ben") as ben,
        listeners.listen(of("notes"), role="anon") as anon,
        listeners.listen(of("notes"), role="service_role") as service,
    ):
        run(sql, "insert into notes values (1, 'ada', false, 'a1'), (2, 'ben', true, 'b2'), (3, 'ada', true, 'a3')")
        run(sql, "update notes set body = body || '!'")
        assert bodies(ada, 4) == ["a1", "a3", "a1!", "a3!"]
        assert bodies(ben, 2) == ["b2", "b2!"]
        assert bodies(anon, 4) == ["b2", "a3", "b2!", "a3!"]
        assert bodies(service, 6) == ["a1", "b2", "a3", "a1!", "b2!", "a3!"]


def test_a_delete_is_sent_to_every_subscriber_with_its_key_only(listeners: Listeners, sql: Sql):
    """Its visibility cannot be checked any more. Also with FULL; filters still use all columns."""
    with (
        listeners.listen(of("notes", "DELETE"), sub="ada") as ada,
        listeners.listen(of("notes", "DELETE", filter="owner=eq.ben"), sub="ada") as filtered,
    ):
        run(sql, "insert into notes values (1, 'cy', false, 'x'), (2, 'ben', false, 'y')", "delete from notes")
        deleted = ada.changes(2)
        assert [data["old_record"] for data in deleted] == [{"id": 1}, {"id": 2}]
        assert [column["name"] for column in deleted[0]["columns"]] == ["id", "owner", "public", "body"]
        assert filtered.change()["old_record"] == {"id": 2}


def test_a_row_deleted_in_the_same_transaction_is_sent_as_a_delete_only(listeners: Listeners, sql: Sql):
    """Visibility is checked after the commit."""
    with listeners.listen(of("notes"), sub="ada") as ada:
        run(sql, "begin; insert into notes values (1, 'ada', false, 'x'); delete from notes; commit")
        assert ada.change()["type"] == "DELETE"


def test_a_row_with_a_new_owner_is_not_sent_to_the_old_one(listeners: Listeners, sql: Sql):
    """The new owner receives the update."""
    with listeners.listen(of("notes"), sub="ada") as ada, listeners.listen(of("notes"), sub="ben") as ben:
        run(sql, "insert into notes values (1, 'ada', false, 'x')")
        assert bodies(ada, 1) == ["x"]
        run(sql, "update notes set owner = 'ben', body = 'y'", "insert into notes values (2, 'ada', false, 'z')")
        assert bodies(ada, 1) == ["z"]
        assert bodies(ben, 1) == ["y"]


def test_changed_policies_apply_to_the_next_change(listeners: Listeners, sql: Sql):
    """Also when row level security is disabled or enabled."""
    with listeners.listen(of("notes"), sub="ada") as ada:
        run(sql, "insert into notes values (1, 'ben', true, 'hidden'), (2, 'ada', false, 'own')")
        assert bodies(ada, 1) == ["own"]
        run(sql, "create policy more on notes for select to authenticated using (public)")
        run(sql, "insert into notes values (3, 'ben', true, 'shown')")
        assert bodies(ada, 1) == ["shown"]
        run(sql, "alter table notes disable row level security", "insert into notes values (4, 'cy', false, 'open')")
        assert bodies(ada, 1) == ["open"]
        run(sql, "alter table notes enable row level security")
        run(sql, "insert into notes values (5, 'cy', false, 'no'), (6, 'ada', false, 'last')")
        assert bodies(ada, 1) == ["last"]


def test_an_isolated_policy_error_hides_the_row_from_its_subscriber(isolating: Listeners, sql: Sql):
    """With isolate_policy_errors that subscriber receives an error; others receive the row."""
    run(sql, "drop policy own on notes")
    run(sql, f"create policy cast_it on notes for select to authenticated using (length(body) / ({OWN})::int > 0)")
    with isolating.listen(of("notes"), sub="0") as broken, isolating.listen(of("notes"), sub="1") as sound:
        run(sql, "insert into notes values (1, 'x', false, 'secret'), (2, 'x', false, 'other')")
        for data in broken.changes(2):
            assert data["errors"] == ["Error 500: Internal Server Error, RLS policy evaluation failed"]
            assert (data["record"], data["columns"], data["commit_timestamp"]) == ({}, [], None)
        assert bodies(sound, 2) == ["secret", "other"]


def test_a_new_token_subscribes_with_its_claims(listeners: Listeners, sql: Sql):
    """The bindings are resolved again, and the channel is notified."""
    with listeners.listen(of("notes"), sub="ada") as listener:
        run(sql, "insert into notes values (1, 'ben', false, 'before'), (2, 'ada', false, 'mark')")
        assert bodies(listener, 1) == ["mark"]
        listener.push("access_token", {"access_token": listeners.server.token(sub="ben")})
        assert listener.system() == ("ok", "Subscribed to PostgreSQL")
        run(sql, "insert into notes values (3, 'ada', false, 'old'), (4, 'ben', false, 'new')")
        assert bodies(listener, 1) == ["new"]


def test_a_row_checked_during_a_token_change_uses_the_new_claims(listeners: Listeners, sql: Sql):
    """After `Subscribed to PostgreSQL` no row arrives that only the earlier claims can see, and none is lost."""
    run(sql, "drop policy own on notes")
    slowly = "pg_sleep(0.5)::text is not null"
    run(sql, f"create policy slow on notes for select to authenticated using (owner = {OWN} and {slowly})")
    run(sql, f"create policy none on notes for select to authenticated using ({slowly} and false)")
    with listeners.listen(of("notes"), sub="ada") as listener:
        run(sql, "insert into notes values (1, 'ada', false, 'old'), (2, 'ben', false, 'new')")
        while not sql.execute("select from pg_stat_activity where wait_event = 'PgSleep'").fetchall():
            pass  # the rows are not looked at yet
        listener.push("access_token", {"access_token": listeners.server.token(sub="ben")})
        assert listener.system() == ("ok", "Subscribed to PostgreSQL")
        assert bodies(listener, 1) == ["new"]
        run(sql, "insert into notes values (3, 'ben', false, 'last')")
        assert bodies(listener, 1) == ["last"]


def test_keys_with_several_columns_of_any_type(listeners: Listeners, sql: Sql):
    """Rows are found by the whole key."""
    kinds = "at timestamptz, name text, n numeric, u uuid, b bytea, e char(3)"
    publish(sql, "keyed", f"{kinds}, owner text, primary key (at, name, n, u, b, e)")
    run(sql, "alter table keyed enable row level security")
    run(sql, f"create policy own on keyed for select to authenticated using (owner = {OWN})")
    key = "'2024-01-02 03:04:05.678+02', 'q''\"\\x', 1.50, gen_random_uuid(), '\\xdead', 'ab'"
    with listeners.listen(of("keyed"), sub="ada") as ada:
        run(sql, f"insert into keyed values ({key}, 'ben')", f"insert into keyed values ({key}, 'ada')")
        assert ada.change()["record"]["owner"] == "ada"


def test_a_policy_that_raises_for_every_row_is_evaluated_for_a_few_only(isolating: Listeners, sql: Sql):
    """Thousands of rows are hidden with an error after a few evaluations, and other subscribers receive theirs."""
    run(sql, "drop policy own on notes")
    run(sql, f"create policy cast_it on notes for select to authenticated using (({OWN})::int = id % 2)")
    with isolating.listen(of("notes"), sub="ada") as broken, isolating.listen(of("notes"), sub="1") as sound:
        run(sql, "insert into notes select n, 'x', false, n::text from generate_series(1, 3000) n")
        assert {data["errors"][0][:9] for data in broken.changes(3000)} == {"Error 500"}
        assert bodies(sound, 1500) == [str(n) for n in range(1, 3001, 2)]


def test_a_hundred_users_receive_their_own_rows(listeners: Listeners, sql: Sql):
    """Rows arrive also for more identities than fit into one query."""
    with ExitStack() as stack:
        users = [stack.enter_context(listeners.listen(of("notes"), sub=f"u{n}")) for n in range(100)]
        run(sql, "insert into notes select n, 'u' || n, false, n::text from generate_series(0, 99) n")
        assert [bodies(user, 1) for user in users] == [[str(n)] for n in range(100)]


def test_a_transaction_with_rows_of_many_users(listeners: Listeners, sql: Sql):
    """Each user receives exactly their own rows, in order."""
    with listeners.listen(of("notes"), sub="u0") as first, listeners.listen(of("notes"), sub="u7") as second:
        run(sql, "insert into notes select n, 'u' || n % 10, false, n::text from generate_series(1, 3000) n")
        assert bodies(first, 300) == [str(n) for n in range(10, 3001, 10)]
        assert bodies(second, 300) == [str(n) for n in range(7, 3000, 10)]


def test_the_server_role_need_not_be_a_superuser(database: str, sql: Sql):
    """It may replicate and set the roles of tokens, and has no privilege on any table."""
    run(sql, "drop role if exists modest", "create role modest login replication bypassrls password 'modest'")
    run(sql, "grant anon, authenticated, service_role to modest", "grant usage on schema realtime to modest")
    run(sql, "grant select, insert on realtime.messages to modest")
    url = make_conninfo(database, user="modest", password="modest")
    try:
        with LocalServer(database=url) as server, Listeners(server).listen(of("notes"), sub="ada") as ada:
            run(sql, "insert into notes values (1, 'ben', false, 'no'), (2, 'ada', false, 'yes')")
            assert bodies(ada, 1) == ["yes"]
    finally:
        run(sql, "drop owned by modest", "drop role modest")


def test_an_unchanged_large_key_is_taken_from_the_old_row(listeners: Listeners, sql: Sql):
    """PostgreSQL does not repeat such a value in the new row."""
    publish(sql, "large", "id text primary key, owner text, n int4")
    run(sql, "alter table large alter id set storage external", "alter table large replica identity full")
    run(sql, "alter table large enable row level security")
    run(sql, f"create policy own on large for select to authenticated using (owner = {OWN})")
    long = "(select string_agg(md5(n::text), '') from generate_series(1, 80) n)"
    with listeners.listen(of("large", "UPDATE"), sub="ada") as ada:
        run(sql, f"insert into large values ({long}, 'ada', 1)", "update large set n = 2")
        update = ada.change()
    assert (update["record"]["n"], len(update["record"]["id"])) == (2, 80 * 32)
