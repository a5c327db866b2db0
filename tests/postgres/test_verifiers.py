"""The verifier of PostgreSQL computes the same hashes as the mirror, and a mirror is repaired with it."""

import os
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from supawire import LocalServer, PostgresVerifier, RowUpdated, VerifiedTable, connect
from supawire.core.verification import CompareSummary, Verification, version_text
from supawire.errors import InvalidArgumentError, SetupError

SOME = UUID("6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11")


@pytest.fixture
def checked(database: str, sql: Any) -> str:
    """Return the URL of a database with tables of each type of key and version."""
    sql.execute("""
        create table ints (id bigint primary key, v timestamptz, note text);
        insert into ints select n, timestamptz '2026-01-05 10:11:12.123456+00' + n * interval '1.7 s', 'x'
            from generate_series(-500, 4500) n;
        insert into ints values (9000, null, 'no version');
        create table texts (id text primary key, v int, note text);
        insert into texts select 'kö' || n || chr(128512), n, 'x' from generate_series(1, 300) n;
        create table uuids (id uuid primary key, v timestamp, note text);
        insert into uuids select gen_random_uuid(), timestamp '1960-01-05 10:11:12.5' + n * interval '1 year', 'x'
            from generate_series(1, 300) n;
        create table pairs (a int, b text, v uuid, note text, primary key (a, b));
        insert into pairs select n, n::text || ':', gen_random_uuid(), 'x' from generate_series(1, 300) n;
        create table names (k int, bucket text, v int, note text, primary key (k, bucket, v));
        insert into names select n, n::text, n, 'x' from generate_series(1, 300) n;
    """)
    return database


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("ints", ("id",)),
        ("texts", ("id",)),
        ("uuids", ("id",)),
        ("pairs", ("a", "b")),
        ("names", ("k", "bucket", "v")),
    ],
)
@pytest.mark.parametrize("buckets", [1, 64])
def test_the_hashes_are_the_same(checked: str, table: str, key: tuple[str, ...], buckets: int):
    """For each type of key and version, the summary and the versions of PostgreSQL are those of the fetched rows."""
    verifier = PostgresVerifier(checked, version="v")
    with psycopg.connect(checked, row_factory=cast("Any", dict_row)) as connection:
        fetched: list[Any] = connection.execute(cast("Any", f"select * from {table}")).fetchall()
    rows: dict[Any, dict[str, Any]] = {tuple(str(row[name]) for name in key): row for row in fetched}
    checked_table = VerifiedTable("public", table, key)
    summary = verifier.summary(checked_table, buckets)
    verification = Verification("v", key, 1.0, 10.0, 100)
    differing = verification.compare(CompareSummary(summary, buckets, rows))
    assert differing.buckets == () and sum(count for count, _ in summary.buckets.values()) == len(rows)
    listed = {
        tuple(str(one[name]) for name in key): version
        for one, version in verifier.versions(checked_table, buckets, range(buckets))
    }
    assert listed == {name: version_text(row["v"], summary.kind) for name, row in rows.items()}
    some = next(iter(rows))
    del rows[some]
    assert len(verification.compare(CompareSummary(summary, buckets, rows)).buckets) == 1
    verifier.close()


def test_without_a_version_any_change_of_the_table_shows(checked: str, sql: Any):
    """With `xmin` the summary changes with each insert, update and delete, and not without one."""
    verifier = PostgresVerifier(checked)
    table = VerifiedTable("public", "ints", ("id",))
    before = verifier.summary(table, 1)
    assert verifier.summary(table, 1) == before
    for change in (
        "update ints set note = 'y' where id = 7",
        "delete from ints where id = 7",
        "insert into ints values (7, null, 'z')",
    ):
        sql.execute(change)
        after = verifier.summary(table, 1)
        assert after != before
        before = after
    verifier.close()


def test_a_filter_and_a_role_apply(checked: str, sql: Any):
    """The condition and the policies of the role limit what is summarized."""
    sql.execute("""
        alter table texts enable row level security;
        grant select on texts to authenticated;
        create policy own on texts for select to authenticated
            using (v <= (current_setting('request.jwt.claims')::json ->> 'most')::int);
    """)
    table = VerifiedTable("public", "texts", ("id",))
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 300),
        ({"where": "v > 290"}, 10),
        ({"role": "authenticated", "claims": {"most": 20}}, 20),
        ({"role": "authenticated", "claims": {"most": 20}, "where": "v > 15"}, 5),
    ]
    for options, count in cases:
        verifier = PostgresVerifier(checked, version="v", **options)
        assert verifier.summary(table, 1).buckets[0][0] == count
        verifier.close()


def test_tables_that_cannot_be_verified(checked: str, sql: Any):
    """A missing table or column, a key of another type and a lost connection are errors that say so."""
    sql.execute("create table dates (id date primary key, v int)")
    for table, version, text in (
        ("nothing", "v", "no column id"),
        ("ints", "updated_at", "no column updated_at"),
        ("dates", "v", "the column id of public.dates is date"),
    ):
        verifier = PostgresVerifier(checked, version=version)
        with pytest.raises(SetupError, match=text):
            verifier.summary(VerifiedTable("public", table, ("id",)), 1)
        verifier.close()
    away = PostgresVerifier("postgresql://me:secret@127.0.0.1:1/x")
    with pytest.raises(SetupError) as caught:
        away.summary(VerifiedTable("public", "ints", ("id",)), 1)
    assert "secret" not in f"{caught.value} {away!r}"
    for wrong in ({"version": ""}, {"where": 1}, {"claims": {"sub": "x"}}):
        with pytest.raises(InvalidArgumentError):
            PostgresVerifier(checked, **cast("dict[str, Any]", wrong))
    with (
        LocalServer() as server,
        connect(server.url, server.anon_key) as client,
        pytest.raises(InvalidArgumentError, match="filter"),
    ):
        client.mirror("ints", key="id", fetch=list, filter="id=gt.5", verify=5, verifier=PostgresVerifier(checked))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_opens_its_own_connection(checked: str):
    """A forked child queries with a connection of its own and closes it, and the one of its parent stays open."""
    verifier = PostgresVerifier(checked, version="v")
    table = VerifiedTable("public", "ints", ("id",))
    summary = verifier.summary(table, 1)
    connection = verifier._connection
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if verifier.summary(table, 1) == summary and verifier._connection is not connection else 2
            verifier.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert verifier.summary(table, 1) == summary and verifier._connection is connection
    verifier.close()


def test_a_mirror_of_a_table_is_repaired(checked: str, sql: Any):
    """An update of which the server sent no change is found in 5,000 rows, and only its row is fetched."""
    with psycopg.connect(checked, autocommit=True, row_factory=cast("Any", dict_row)) as connection:

        def fetch() -> Any:
            return connection.execute("select * from ints").fetchall()

        def fetch_row(key: dict[str, Any]) -> Any:
            return connection.execute("select * from ints where id = %(id)s", key).fetchone()

        verifier = PostgresVerifier(checked, version="v")
        with LocalServer() as server, connect(server.url, server.anon_key) as client:  # it reports no changes
            options: dict[str, Any] = {"verify": 0.2, "verifier": verifier, "settle": 0.05, "pause": 0}
            with client.mirror("ints", key="id", fetch=fetch, fetch_row=fetch_row, **options) as mirror:
                events = mirror.listen()
                next(events)
                sql.execute("update ints set note = 'changed', v = now() where id = 17")
                event = next(events)
                assert isinstance(event, RowUpdated)
                assert (event.key, event.row["note"]) == (17, "changed")
                stats = mirror.stats()
                assert (stats.fetches, stats.row_fetches, stats.differences) == (1, 1, 1)
                assert stats.verified_at is not None and stats.verified_at <= datetime.now(UTC)
        verifier.close()
