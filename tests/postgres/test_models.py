"""Rows of PostgreSQL as values and models of the client."""

from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from typing import Any, LiteralString, cast

import psycopg
import pytest

from supawire import Channel, RowError, Stream, Update, changes, connect
from supawire.server import LocalServer, ServerLimits

from .listening import Listeners

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def channel(listeners: Listeners) -> Iterator[Channel]:
    """A channel of a client of the server with the database."""
    with connect(listeners.server.url, listeners.server.anon_key, token=listeners.server.token()) as client:
        yield client.channel("db")


def execute(sql: Sql, *statements: str) -> None:
    for statement in statements:
        sql.execute(cast("LiteralString", statement))


VALUES: dict[str, list[str]] = {
    "smallint": ["-32768", "32767"],
    "bigint": ["-9223372036854775808", "9223372036854775807", "9007199254740993"],
    "oid": ["4294967295"],
    "numeric": ["0", "-0.00", "1.1000", "1e30", "-1e-30", "12345678901234567890.123456789", "99999999999999999999"],
    "numeric(10,4)": ["1", "-999999.9999"],
    "price": ["12.30", "12345678.90"],
    "real": ["1.5", "-3.4e38", "1e-40"],
    "double precision": ["0.1", "1.7976931348623157e308", "5e-324"],
    "boolean": ["t", "f"],
    "text": ["", "é ' \" \\\\ \t", "{}", "null"],
    "mood": ["sad"],
    "uuid": ["6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"],
    "date": ["0001-01-01", "9999-12-31", "2024-02-29"],
    "time": ["00:00:00", "23:59:59.999999", "03:04:05.5"],
    "timetz": ["03:04:05.5+00", "03:04:05+05:30", "03:04:05.000001-12:45"],
    "timestamp": ["0001-01-01 00:00:00", "9999-12-31 23:59:59.999999", "2024-01-02 03:04:05.1"],
    "timestamptz": ["0001-01-02 00:00:00+00", "9999-12-30 23:59:59.999999+00", "1890-01-01 00:00:00+00:53:28"],
    "bytea": ["\\x", "\\x00ff5c78", "\\x5c7864656164"],
    "jsonb": ['{"a": [1, 12345678901234567890123, 1.5, null, "x"]}', '"x"', "5"],
    "bigint[]": ["{}", "{9007199254740993,NULL}", "{{1,2},{3,NULL}}", "{{{1}},{{2}}}"],
    "numeric[]": ["{1.10,NULL,2.00}", "{{1.0},{2.00}}"],
    "text[]": ['{a,"b, c","\\"","\\\\","NULL",NULL,""}', '{{a,b},{"{}",NULL}}'],
    "boolean[]": ["{t,f,NULL}"],
    "date[]": ["{2024-01-02,NULL}"],
    "timestamptz[]": ['{"2024-01-02 03:04:05.000001+00"}'],
    "uuid[]": ["{6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11}"],
    "bytea[]": ['{"\\\\x00ff",NULL,"\\\\x"}'],
    "double precision[]": ["{0.1,Infinity,-Infinity,NULL}"],
}
"""Values at the edges of each type that Python has one for, by declared type."""


def test_rows_have_the_values_that_psycopg_reads(channel: Channel, sql: Sql):
    """Each value has the same type, digits, scale, instant and offset as psycopg reads from the table (R42)."""
    cases = [(kind, text) for kind, texts in VALUES.items() for text in [*texts, None]]
    columns = ", ".join(f"c{number} {kind}" for number, (kind, _) in enumerate(cases))
    execute(sql, "create type mood as enum ('sad'); create domain price as numeric(10, 2)")
    execute(sql, f"create table t (id int primary key, {columns})", "alter publication supabase_realtime add table t")
    execute(sql, "set timezone = 'UTC'")
    rows = channel.listen(changes("t", event="INSERT"))
    channel.subscribe(wait="ready")
    marks = ", ".join(f"%s::{kind}" for kind, _ in cases)
    sql.execute(cast("LiteralString", f"insert into t values (1, {marks})"), [text for _, text in cases])
    record = rows.get(timeout=30).record
    stored = sql.execute("select * from t").fetchone()
    assert stored is not None
    got = [(*case, repr(record[f"c{number}"])) for number, case in enumerate(cases)]
    assert got == [(*case, repr(in_utc(value))) for case, value in zip(cases, stored[1:], strict=True)]


def in_utc(value: Any) -> Any:
    """Return the same instant in UTC: psycopg has its own class for the zone of the session."""
    if isinstance(value, list):
        return [in_utc(item) for item in cast("list[Any]", value)]
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else value


@dataclass
class Span:
    """Columns whose values are text in a row and objects in a model."""

    pause: timedelta
    pauses: list[timedelta | None]
    host: IPv4Interface
    address: IPv4Address
    six: IPv6Address
    net: IPv4Network


def test_intervals_and_networks_become_objects_in_models(channel: Channel, sql: Sql):
    """Intervals without months, and networks, are equal to what psycopg reads."""
    execute(
        sql,
        "create table t (id int primary key, pause interval, pauses interval[])",
        "alter table t add host inet, add address inet, add six inet, add net cidr",
        "alter publication supabase_realtime add table t",
    )
    rows = channel.listen(changes("t", event="INSERT", model=Span))
    channel.subscribe(wait="ready")
    for number, pause in enumerate(["0", "1 day", "-1 day 2 hours", "100:00:00.000001", "3 days -04:05:06.7"]):
        networks = "'10.0.0.1/8', '10.0.0.1', '::1', '10.0.0.0/8'"
        execute(sql, f"insert into t values ({number}, '{pause}', array['{pause}', null]::interval[], {networks})")
        stored = sql.execute("select * from t where id = %s", [number]).fetchone()
        assert stored is not None
        assert rows.get(timeout=30).record == Span(*stored[1:])


Post = make_dataclass("Post", [("id", int), ("title", str), ("body", str | None, None)])


def test_a_row_without_an_unchanged_large_value_makes_no_model(channel: Channel, sql: Sql):
    """The unchanged TOASTed column is missing; under REPLICA IDENTITY FULL it is present (R42)."""
    execute(
        sql,
        "create table posts (id int primary key, title text, body text)",
        "alter table posts alter column body set storage external",
        "alter publication supabase_realtime add table posts",
    )
    posts: Stream[Update[Any]] = channel.listen(changes("posts", event="UPDATE", model=Post))
    channel.subscribe(wait="ready")
    execute(sql, "insert into posts values (1, 'one', repeat('x', 10000))", "update posts set title = 'two'")
    update = posts.get(timeout=30)
    with pytest.raises(RowError, match="the row cannot be converted to Post: the server did not send body"):
        _ = update.record
    assert update.row == {"id": 1, "title": "two"} and update.old_record == {"id": 1}
    assert not update.truncated
    execute(sql, "update posts set body = null")
    assert posts.get(timeout=30).record == Post(1, "two", None)
    execute(sql, "alter table posts replica identity full", "update posts set body = repeat('y', 10000)")
    assert posts.get(timeout=30).record == Post(1, "two", "y" * 10000)
    execute(sql, "update posts set title = 'three'")
    update = posts.get(timeout=30)
    assert update.record == Post(1, "three", "y" * 10000)
    assert update.old_record == {"id": 1, "title": "two", "body": "y" * 10000}


def test_a_truncated_row_makes_no_model(database: str, sql: Sql):
    """Of a row that is too large the small values are sent, it is `truncated`, and no model is made (R42)."""
    execute(
        sql,
        "create table posts (id int primary key, title text, body text)",
        "alter publication supabase_realtime add table posts",
    )
    limits = ServerLimits.self_hosted()
    with (
        LocalServer(database=database, limits=limits) as server,
        connect(server.url, server.anon_key, token=server.token()) as client,
    ):
        channel = client.channel("db")
        posts = channel.listen(changes("posts", event="INSERT", model=Post))
        channel.subscribe(wait="ready")
        execute(sql, "insert into posts values (1, 'one', repeat('x', 1100000))")
        insert = posts.get(timeout=30)
        assert insert.truncated and insert.row == {"id": 1, "title": "one"}
        with pytest.raises(RowError, match="did not send body"):
            _ = insert.record
