"""Filters match exactly when they match in PostgreSQL, whether Python or PostgreSQL evaluates them."""

import asyncio
from decimal import Decimal
from random import Random
from typing import Any, LiteralString, cast

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from supawire._values.filter_syntax import Condition
from supawire.server import LocalServer
from supawire.server.postgres import filtering, row_data
from supawire.server.postgres.catalog import Catalog, Type
from supawire.server.postgres.database import Database
from supawire.server.postgres.filtering import PendingCheck, decide
from supawire.server.postgres.pgoutput import Begin, CommittedChange, Relation, RelationColumn, Row
from supawire.server.postgres.values import Writers

from .listening import Listeners, of
from .test_changes import publish, run

Sql = psycopg.Connection[tuple[Any, ...]]
Case = tuple[Condition, Type, str | None]

VALUES: dict[str, list[str | None]] = {
    "int4": ["-7", "0", "5", "40", "2147483647", None],
    "int8": ["-9223372036854775808", "9007199254740993", "5", None],
    "numeric": ["1.10", "1.1", "-0.5", "1e30", "NaN", "0", "Infinity", None],
    "float8": ["0.1", "1e20", "-0", "NaN", "-Infinity", "5", None],
    "float4": ["0.1", "5", "16777217", None],
    "bool": ["t", "f", None],
    "text": ["", "a", "B", "aB", "a_b", "a%b", "ä", "Z", "10", "9", "line\nline", "a ", None],
    "varchar": ["a", "ab", "A", None],
    "bpchar": ["a", "ab", "b ", None],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000", None],
    "date": ["2024-01-02", "0044-03-15 BC", "infinity", "1999-12-31", None],
    "time": ["03:04:05", "24:00:00", None],
    "timestamp": ["2024-01-02 03:04:05.5", "-infinity", "2024-01-02", None],
    "timestamptz": ["2024-01-02 03:04:05+00", "2024-01-02 03:04:05.123456+05:30", "infinity", None],
    "interval": ["1 day", "24:00:00", "-1 mon", None],
    "jsonb": ['{"a": 1}', '"text"', "5", "null", "[1, 2]", None],
    "json": ['{"a": 1}', None],
    "bytea": ["\\xdead", None],
    "inet": ["10.0.0.1", "10.0.0.0/8", None],
    "int4range": ["[1,5)", "empty", None],
    "_int4": ["{1,2}", "{}", None],
    "bit": ["101", None],
    "money": ["$5.00", None],
    "oid": ["26", None],
    "name": ["a", "b", None],
}
OPERANDS = [
    "", "0", "5", "-7", " 5", "40", "5.0", "1.1", "1e30", "NaN", "nan", "inf", "0.1", "16777216", "9007199254740993",
    "true", "t", "yes", "off", "f", "a", "A", "aB", "ab", "a%", "_", "%b", "a_b", "^a", "[[:alpha:]]+", "a|b", "ä", "Ä",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC999C0B4EF8BB6D6BB9BD380A11", "2024-01-02", "Jan 2, 2024", "infinity",
    "2024-01-02T03:04:05.500", "2024-01-02 03:04:05+00", "2024-01-02 08:34:05.1234565+05:30", "03:04:05", "1 day",
    '{"a": 1}', '{"a":1.0}', "null", "10.0.0.1", "[1,5)", "{1,2}", "101", "$5.00", "26", "a ", "\\xdead",
]  # fmt: skip
OPS = ("eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike", "is", "match", "imatch", "isdistinct")
IS = ("null", "true", "false", "unknown")


SIGNS = {
    "eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "like": "~~", "ilike": "~~*", "match": "~",
    "imatch": "~*", "isdistinct": "is distinct from",
}  # fmt: skip


def expected_result(sql: Sql, condition: Condition, type: Type, value: str | None) -> bool | None:
    """Return PostgreSQL's result in the simplest way: cast both sides to the type and compare; an error counts as
    false. None for an operand that is not valid for the type: it cannot be subscribed.
    """
    given = f"(%s::text)::{type.sql}"
    parameters = [value, condition.value]
    if condition.op == "is":
        test, parameters = f"{given} is {condition.value}", [value]
    elif condition.op == "in":
        test, parameters = f"{given} = any((%s::text)::{type.sql}[])", [value, condition.wire_value]
    elif "~" in SIGNS[condition.op]:
        test = f"{given} {SIGNS[condition.op]} %s::text"
    else:
        test = f"{given} {SIGNS[condition.op]} {given}"
    try:
        row = sql.execute(cast("LiteralString", f"select {test}"), parameters).fetchone()
    except psycopg.Error:
        return None if value is None else False
    assert row is not None
    return row[0] is not None and row[0] is not condition.negated


async def ours(url: str, cases: list[Case]) -> list[bool]:
    """Return the results decided in Python, and those that PostgreSQL evaluates in one query."""
    database = Database(url)
    try:
        found = [decide(*case) for case in cases]
        doubts = [
            PendingCheck(one, kind, value or "")
            for (one, kind, value), yes in zip(cases, found, strict=True)
            if yes is None
        ]
        results = await filtering.evaluate(database, doubts)
        return [
            results[PendingCheck(one, kind, value or "")] if yes is None else yes
            for (one, kind, value), yes in zip(cases, found, strict=True)
        ]
    finally:
        await database.close()


async def catalogue(url: str) -> tuple[dict[int, Type], Writers]:
    """Return the types of `VALUES`, and the writers of these values, with the JSON that PostgreSQL computes."""
    database = Database(url)
    try:
        catalog = Catalog(database)
        names = "select oid::int8, typname::text from pg_type where typname = any(%s) and oid < 16384"
        found = await database.query(names, [list(VALUES)])
        await catalog.load_types(oid for oid, _ in found)
        columns = [
            (RelationColumn(name, oid, -1, in_identity=False), text) for oid, name in found for text in VALUES[name]
        ]
        relation = Relation(1, "public", "todos", "d", tuple(column for column, _ in columns))
        row: Row = [None if text is None else text.encode() for _, text in columns]
        writers = Writers(catalog.types)
        change = CommittedChange(Begin(1, 0, 5), "INSERT", relation, row, None)
        await row_data.compute_json(database, catalog.types, writers, [change])
        return catalog.types, writers
    finally:
        await database.close()


def random_case(random: Random) -> tuple[Condition, str, str | None]:
    """Return a condition, a type and a value of it."""
    name, op = random.choice(sorted(VALUES)), random.choice(OPS)
    operand = random.choice(IS if op == "is" else OPERANDS)
    if op == "in":
        items = [one for one in random.choices(OPERANDS, k=random.randrange(5)) if not {'"', "\\"} & set(one)]
        operand = ",".join([f'"{item}"' for item in items] + ["NULL"] * random.randrange(2))
    return Condition("c", op, operand, random.random() < 0.3), name, random.choice(VALUES[name])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_filters_hold_where_they_hold_in_postgresql(database: str, sql: Sql, seed: int):
    """Each operator on each type, negated or not, with values of the stream and operands of every kind."""
    types, writers = asyncio.run(catalogue(database))
    named, random = {one.name: one for one in types.values()}, Random(seed)
    cases: list[Case] = []
    for condition, name, text in (random_case(random) for _ in range(1500)):
        written = b"null" if text is None else writers.of_column(named[name].oid)(text.encode())
        cases.append((condition, named[name], filtering.text_of(written)))
    for case, yes in zip(cases, asyncio.run(ours(database, cases)), strict=True):
        assert expected_result(sql, *case) in {yes, None}, case


@pytest.mark.parametrize(
    ("filter", "matching"),
    [
        ("n=gt.5", {6, 7}),
        ("n=gt.5,a=eq.b", {7}),
        ("n=not.gt.5", {1}),
        ("n=is.null", {9}),
        ("n=not.is.null", {1, 6, 7}),
        ("a=isdistinct.b", {1, 6, 9}),
        ("a=lt.b", {1, 6}),
        ("a=imatch.^B", {7}),
        ("a=ilike.B%", {7}),
        ("a=in.(a,b)", {1, 6, 7}),
        ("at=gte.2024-01-06 01:00+01", {6, 7}),
        ("n=in.()", set[int]()),
        ("", {1, 6, 7, 9}),
    ],
)
@pytest.mark.slow
def test_channels_receive_rows_that_match_their_filter(listeners: Listeners, sql: Sql, filter: str, matching: set[int]):
    """New rows, and deleted ones if all columns are known."""
    publish(
        sql, "todos", "id int4 primary key, n int4, a text, at timestamptz", "alter table todos replica identity full"
    )
    with listeners.listen(of("todos", filter=filter), of("todos", filter="id=eq.100")) as listener:
        ids = listener.ids[0]
        run(
            sql,
            "insert into todos values (1, 1, 'a', '2024-01-01'), (6, 6, 'a', '2024-01-06'), (7, 7, 'b', '2024-01-07'),"
            " (9, null, null, null)",
            "delete from todos",
            "insert into todos values (100)",
        )
        received: list[tuple[str, int]] = []
        while (payload := listener.wait("postgres_changes"))["data"].get("record", {}).get("id") != 100:
            assert payload["ids"] == [ids]
            row = payload["data"].get("record") or payload["data"]["old_record"]
            received.append((payload["data"]["type"], row["id"]))
    assert received == [(kind, number) for kind in ("INSERT", "DELETE") for number in sorted(matching)]


@pytest.mark.slow
def test_a_delete_with_the_key_only_matches_no_other_filter(listeners: Listeners, sql: Sql):
    """With the default identity a deleted row has only its key."""
    publish(sql, "todos", "id int4 primary key, n int4")
    with listeners.listen(of("todos", "DELETE", filter="n=eq.1"), of("todos", "DELETE", filter="id=gt.1")) as listener:
        run(sql, "insert into todos values (1, 1), (2, 1)", "delete from todos")
        payload = listener.wait("postgres_changes")
        assert (payload["data"]["old_record"], payload["ids"]) == ({"id": 2}, [listener.ids[1]])


ODD = (
    "timezone = 'America/New_York'",
    "datestyle = 'SQL, DMY'",
    "intervalstyle = 'iso_8601'",
    "bytea_output = 'escape'",
    "extra_float_digits = 0",
)


@pytest.mark.slow
def test_settings_of_the_database_do_not_change_values(database: str, sql: Sql):
    """Values have the same format with any time zone and style; timestamps without a zone are not converted."""
    name = conninfo_to_dict(database)["dbname"]
    for setting in ODD:
        run(sql, f'alter database "{name}" set {setting}')
    publish(sql, "odd", "at timestamptz primary key, d date, i interval, b bytea, f float8, s timestamp")
    run(sql, "alter table odd enable row level security", "create policy p on odd using (true)")
    with LocalServer(database=database) as server:
        binding = of("odd", filter="at=gte.2024-01-02 03:00,d=lt.31/01/2024")
        with Listeners(server).listen(binding) as listener:
            run(sql, "insert into odd values ('2024-01-02 07:59+00')")
            run(
                sql,
                "insert into odd values ('2024-01-02 08:00+00', '2024-01-02', '1 day 02:03', '\\xde61', "
                "0.1::float8 + 0.2, '2024-01-02 03:04')",
            )
            assert listener.change()["record"] == {
                "at": "2024-01-02T08:00:00+00:00",
                "d": "2024-01-02",
                "i": "1 day 02:03:00",
                "b": "de61",
                "f": Decimal("0.30000000000000004"),
                "s": "2024-01-02T03:04:00",
            }
