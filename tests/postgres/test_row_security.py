"""Who sees which row: policies, roles and claims (protocol §4.5)."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from supawire.server import LocalServer

from .listening import Ear, Listener, of
from .test_changes import publish, run

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
OWN = "nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'"


@pytest.fixture(autouse=True)
def notes(sql: Sql) -> None:
    """Each user has notes; only their own are seen, and `anon` sees what is public."""
    publish(sql, "notes", "id int4 primary key, owner text, public bool default false, body text")
    run(sql, "alter table notes replica identity full", "alter table notes enable row level security")
    run(sql, f"create policy own on notes for select to authenticated using (owner = {OWN})")
    run(sql, "create policy open on notes for select to anon using (public)")


@pytest.fixture
def isolating(database: str) -> Iterator[Ear]:
    """Listeners of a server that keeps policies that raise apart, which the real one does not."""
    with LocalServer(database=database, isolate_policy_errors=True) as server:
        yield Ear(server)


def bodies(listener: Listener, count: int) -> list[Any]:
    return [data["record"]["body"] for data in listener.changes(count)]


def test_everybody_sees_their_own_rows(ear: Ear, sql: Sql):
    """By claims for signed-in users, by role for others; the service sees all."""
    with (
        ear.listen(of("notes"), sub="ada") as ada,
        ear.listen(of("notes"), sub="ben") as ben,
        ear.listen(of("notes"), role="anon") as anon,
        ear.listen(of("notes"), role="service_role") as service,
    ):
        run(sql, "insert into notes values (1, 'ada', false, 'a1'), (2, 'ben', true, 'b2'), (3, 'ada', true, 'a3')")
        run(sql, "update notes set body = body || '!'")
        assert bodies(ada, 4) == ["a1", "a3", "a1!", "a3!"]
        assert bodies(ben, 2) == ["b2", "b2!"]
        assert bodies(anon, 4) == ["b2", "a3", "b2!", "a3!"]
        assert bodies(service, 6) == ["a1", "b2", "a3", "a1!", "b2!", "a3!"]


def test_a_delete_is_told_to_everybody_and_shows_its_key_only(ear: Ear, sql: Sql):
    """Nobody can say any more who would have seen the row; also with FULL, and filters still look at all of it."""
    with (
        ear.listen(of("notes", "DELETE"), sub="ada") as ada,
        ear.listen(of("notes", "DELETE", filter="owner=eq.ben"), sub="ada") as filtered,
    ):
        run(sql, "insert into notes values (1, 'cy', false, 'x'), (2, 'ben', false, 'y')", "delete from notes")
        deleted = ada.changes(2)
        assert [data["old_record"] for data in deleted] == [{"id": 1}, {"id": 2}]
        assert [column["name"] for column in deleted[0]["columns"]] == ["id", "owner", "public", "body"]
        assert filtered.change()["old_record"] == {"id": 2}


def test_what_is_gone_before_anybody_looks_is_not_reported(ear: Ear, sql: Sql):
    """Visibility is that of now: within one transaction inserted and deleted, only the delete is told."""
    with ear.listen(of("notes"), sub="ada") as ada:
        run(sql, "begin; insert into notes values (1, 'ada', false, 'x'); delete from notes; commit")
        assert ada.change()["type"] == "DELETE"


def test_a_row_that_becomes_somebody_elses_is_not_reported_to_the_first(ear: Ear, sql: Sql):
    """The old owner hears nothing, the new one of the update."""
    with ear.listen(of("notes"), sub="ada") as ada, ear.listen(of("notes"), sub="ben") as ben:
        run(sql, "insert into notes values (1, 'ada', false, 'x')")
        assert bodies(ada, 1) == ["x"]
        run(sql, "update notes set owner = 'ben', body = 'y'", "insert into notes values (2, 'ada', false, 'z')")
        assert bodies(ada, 1) == ["z"]
        assert bodies(ben, 1) == ["y"]


def test_rights_change_while_somebody_listens(ear: Ear, sql: Sql):
    """A new policy, and row security that is switched off and on, count for the next change."""
    with ear.listen(of("notes"), sub="ada") as ada:
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


def test_a_policy_that_raises_hides_the_row_and_says_so(isolating: Ear, sql: Sql):
    """With isolate_policy_errors for those rows and those claims alone; others get theirs."""
    run(sql, "drop policy own on notes")
    run(sql, f"create policy cast_it on notes for select to authenticated using (length(body) / ({OWN})::int > 0)")
    with isolating.listen(of("notes"), sub="0") as broken, isolating.listen(of("notes"), sub="1") as sound:
        run(sql, "insert into notes values (1, 'x', false, 'secret'), (2, 'x', false, 'other')")
        for data in broken.changes(2):
            assert data["errors"] == ["Error 500: Internal Server Error, RLS policy evaluation failed"]
            assert (data["record"], data["columns"], data["commit_timestamp"]) == ({}, [], None)
        assert bodies(sound, 2) == ["secret", "other"]


def test_a_new_token_brings_new_claims(ear: Ear, sql: Sql):
    """The bindings are made anew with them, and the channel is told so (protocol §7.3)."""
    with ear.listen(of("notes"), sub="ada") as listener:
        run(sql, "insert into notes values (1, 'ben', false, 'before'), (2, 'ada', false, 'mark')")
        assert bodies(listener, 1) == ["mark"]
        listener.push("access_token", {"access_token": ear.server.token(sub="ben")})
        assert listener.system() == ("ok", "Subscribed to PostgreSQL")
        run(sql, "insert into notes values (3, 'ada', false, 'old'), (4, 'ben', false, 'new')")
        assert bodies(listener, 1) == ["new"]


def test_a_row_that_is_judged_while_the_token_changes_is_judged_by_the_new_one(ear: Ear, sql: Sql):
    """After `Subscribed to PostgreSQL` no row comes that only the earlier claims may see, and none is lost."""
    run(sql, "drop policy own on notes")
    slowly = "pg_sleep(0.5)::text is not null"
    run(sql, f"create policy slow on notes for select to authenticated using (owner = {OWN} and {slowly})")
    run(sql, f"create policy none on notes for select to authenticated using ({slowly} and false)")
    with ear.listen(of("notes"), sub="ada") as listener:
        run(sql, "insert into notes values (1, 'ada', false, 'old'), (2, 'ben', false, 'new')")
        while not sql.execute("select from pg_stat_activity where wait_event = 'PgSleep'").fetchall():
            pass  # the rows are not looked at yet
        listener.push("access_token", {"access_token": ear.server.token(sub="ben")})
        assert listener.system() == ("ok", "Subscribed to PostgreSQL")
        assert bodies(listener, 1) == ["new"]
        run(sql, "insert into notes values (3, 'ben', false, 'last')")
        assert bodies(listener, 1) == ["last"]


def test_the_key_may_have_several_columns_of_any_type(ear: Ear, sql: Sql):
    """Rows are found by the whole key."""
    kinds = "at timestamptz, name text, n numeric, u uuid, b bytea, e char(3)"
    publish(sql, "keyed", f"{kinds}, owner text, primary key (at, name, n, u, b, e)")
    run(sql, "alter table keyed enable row level security")
    run(sql, f"create policy own on keyed for select to authenticated using (owner = {OWN})")
    key = "'2024-01-02 03:04:05.678+02', 'q''\"\\x', 1.50, gen_random_uuid(), '\\xdead', 'ab'"
    with ear.listen(of("keyed"), sub="ada") as ada:
        run(sql, f"insert into keyed values ({key}, 'ben')", f"insert into keyed values ({key}, 'ada')")
        assert ada.change()["record"]["owner"] == "ada"


def test_a_policy_that_raises_for_every_row_is_not_asked_for_each(isolating: Ear, sql: Sql):
    """Thousands of rows are hidden after a few tries, all with their error, and others hear theirs."""
    run(sql, "drop policy own on notes")
    run(sql, f"create policy cast_it on notes for select to authenticated using (({OWN})::int = id % 2)")
    with isolating.listen(of("notes"), sub="ada") as broken, isolating.listen(of("notes"), sub="1") as sound:
        run(sql, "insert into notes select n, 'x', false, n::text from generate_series(1, 3000) n")
        assert {data["errors"][0][:9] for data in broken.changes(3000)} == {"Error 500"}
        assert bodies(sound, 1500) == [str(n) for n in range(1, 3001, 2)]


def test_a_hundred_users_each_hear_their_own(ear: Ear, sql: Sql):
    """More viewers than one message to PostgreSQL asks about."""
    with ExitStack() as stack:
        users = [stack.enter_context(ear.listen(of("notes"), sub=f"u{n}")) for n in range(100)]
        run(sql, "insert into notes select n, 'u' || n, false, n::text from generate_series(0, 99) n")
        assert [bodies(user, 1) for user in users] == [[str(n)] for n in range(100)]


def test_many_users_and_many_rows(ear: Ear, sql: Sql):
    """Each gets exactly their own, in order, when one transaction has rows of all."""
    with ear.listen(of("notes"), sub="u0") as first, ear.listen(of("notes"), sub="u7") as second:
        run(sql, "insert into notes select n, 'u' || n % 10, false, n::text from generate_series(1, 3000) n")
        assert bodies(first, 300) == [str(n) for n in range(10, 3001, 10)]
        assert bodies(second, 300) == [str(n) for n in range(7, 3000, 10)]


def test_a_server_whose_role_is_no_superuser(database: str, sql: Sql):
    """It may replicate and act as the roles of tokens, and has no right to any table: that is enough."""
    run(sql, "drop role if exists modest", "create role modest login replication bypassrls password 'modest'")
    run(sql, "grant anon, authenticated, service_role to modest", "grant usage on schema realtime to modest")
    run(sql, "grant select, insert on realtime.messages to modest")
    url = make_conninfo(database, user="modest", password="modest")
    try:
        with LocalServer(database=url) as server, Ear(server).listen(of("notes"), sub="ada") as ada:
            run(sql, "insert into notes values (1, 'ben', false, 'no'), (2, 'ada', false, 'yes')")
            assert bodies(ada, 1) == ["yes"]
    finally:
        run(sql, "drop owned by modest", "drop role modest")


def test_a_large_key_that_an_update_left_alone_finds_its_row(ear: Ear, sql: Sql):
    """PostgreSQL does not repeat such a value in the new row, so that the whole old row has to tell it."""
    publish(sql, "large", "id text primary key, owner text, n int4")
    run(sql, "alter table large alter id set storage external", "alter table large replica identity full")
    run(sql, "alter table large enable row level security")
    run(sql, f"create policy own on large for select to authenticated using (owner = {OWN})")
    long = "(select string_agg(md5(n::text), '') from generate_series(1, 80) n)"
    with ear.listen(of("large", "UPDATE"), sub="ada") as ada:
        run(sql, f"insert into large values ({long}, 'ada', 1)", "update large set n = 2")
        update = ada.change()
    assert (update["record"]["n"], len(update["record"]["id"])) == (2, 80 * 32)
