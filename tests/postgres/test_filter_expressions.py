"""Filters written in Python, their texts and their evaluation, compared with PostgreSQL."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final, LiteralString

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.sql import SQL, Composed

from supawire import Where, changes, col, connect_async
from supawire._values.compare import text_of
from supawire._values.encode import to_wire
from supawire._values.filter_syntax import Condition, check_condition, matches, parse
from supawire.errors import InvalidArgumentError
from supawire.server.postgres.cluster import Cluster
from tests.clients.test_filters import ROWS, WANTED

from .listening import Listeners

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
moment = datetime.fromisoformat
c = col("c")
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
texts = st.text(st.sampled_from(list("aAb,\" '\\().%_{}é☃\n")), max_size=4)
KINDS: Final[dict[LiteralString, st.SearchStrategy[Any]]] = {
    "int2": st.integers(-(2**15), 2**15 - 1),
    "int8": st.integers(-(2**63), 2**63 - 1),
    "numeric": st.decimals(allow_nan=False, min_value=-(10**20), max_value=10**20),
    "float8": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "timestamp": st.datetimes(),
    "timestamptz": st.datetimes(moment("0002-01-01"), moment("9998-01-01"), timezones=zones),
    "date": st.dates(),
    "time": st.times(),
    "timetz": st.times(timezones=zones),
    "uuid": st.uuids(),
    "bytea": st.binary(max_size=3),
    "text": texts,
}
ALSO: Final[dict[LiteralString, st.SearchStrategy[Any]]] = {
    "interval": st.timedeltas(timedelta(days=-(10**5)), timedelta(days=10**5)),
    "inet": st.ip_addresses(),
}
"""What the evaluator compares as text."""
SIGNS: Final[dict[str, LiteralString]] = {
    "eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "isdistinct": "is distinct from",
    "like": "~~", "ilike": "~~*", "match": "~", "imatch": "~*",
}  # fmt: skip
IS: Final[dict[str, LiteralString]] = {
    "null": "is null", "true": "is true", "false": "is false", "unknown": "is unknown",
}  # fmt: skip


@pytest.fixture(scope="module")
def plain_connection(cluster: Cluster) -> Iterator[Sql]:
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute("set timezone to 'UTC'")
        yield connection


def question(condition: Condition, kind: LiteralString) -> tuple[Composed, list[str]]:
    """Return SQL that compares a text like the server: both sides are cast to the type."""
    column = SQL("(%s::text)::") + SQL(kind) + (SQL(' collate "C"') if kind == "text" else SQL(""))
    if condition.op == "is":
        expression, parameters = column + SQL(" ") + SQL(IS[condition.value]), []
    elif condition.op == "in":
        expression, parameters = column + SQL(" = any((%s::text)::") + SQL(kind) + SQL("[])"), [condition.wire_value]
    else:
        expression = column + SQL(" ") + SQL(SIGNS[condition.op]) + SQL(" (%s::text)::") + SQL(kind)
        parameters = [condition.value]
    return SQL("not ({})" if condition.negated else "({})").format(expression), parameters


def answers(plain_connection: Sql, wheres: Sequence[Where], kind: LiteralString, value: str | None) -> list[bool]:
    """Return PostgreSQL's result for each query, with NULL as False."""
    parts = [question(parse(str(where))[0], kind) for where in wheres]
    columns = SQL(", ").join(SQL("coalesce({}, false)").format(text) for text, _ in parts)
    row = plain_connection.execute(
        SQL("select ") + columns, [each for _, parameters in parts for each in (value, *parameters)]
    ).fetchone()
    assert row is not None
    return list(row)


@pytest.mark.parametrize("kind", KINDS)
def test_filter_expressions_mean_the_same_in_postgresql(plain_connection: Sql, kind: LiteralString):
    """Each comparison, list and negation, with values of each type: PostgreSQL and the local server agree (R43)."""
    values = KINDS[kind]

    @given(values | st.none(), values, st.lists(values, min_size=1, max_size=3))
    @settings(max_examples=40)
    def compare(value: Any, operand: Any, several: list[Any]) -> None:
        one: list[Where] = [c == operand, c != operand, c < operand, c <= operand, c > operand, c >= operand]
        one += [c.is_distinct_from(operand), c.in_([operand, *several]), c.in_(several), c.is_(None)]
        one += [c.is_(True), c.is_(False), c.is_("unknown")] if kind == "bool" else []
        every = one + [~where for where in one]
        wire = to_wire(value)
        ours = [matches(where.conditions, {"c": value}, {"c": kind}) for where in every]
        assert ours == answers(plain_connection, every, kind, None if wire is None else text_of(wire))

    compare()


READ = {kind: values for kind, values in (KINDS | ALSO).items() if kind != "bytea"}  # its hex is compared as text


@pytest.mark.parametrize("kind", READ)
def test_the_text_of_a_value_is_cast_to_that_value(plain_connection: Sql, kind: LiteralString):
    """PostgreSQL casts the text of a value in a filter to that value, alone and in a list (R43)."""

    @given(st.lists(READ[kind], min_size=1, max_size=3))
    @settings(max_examples=40)
    def read(values: list[Any]) -> None:
        (alone,), (listed,) = parse(str(c == values[0])), parse(str(c.in_(values)))
        expression = SQL("select (%s::text)::{0} = %s::{0}, (%s::text)::{0}[] = %s::{0}[]").format(SQL(kind))
        assert plain_connection.execute(expression, [alone.value, values[0], listed.wire_value, values]).fetchone() == (
            True,
            True,
        )

    read()


@given(texts, texts)
@settings(max_examples=300)
def test_like_patterns_mean_the_same_in_postgresql(plain_connection: Sql, value: str, pattern: str):
    """Patterns with every special character: PostgreSQL and the local server agree (R43)."""
    try:
        wheres = [c.like(pattern), ~c.like(pattern), c.ilike(pattern)]
    except InvalidArgumentError:
        reached = re.sub(r"(?s)\\(.)|(_)|%", lambda found: found[1] or ("x" if found[2] else ""), pattern[:-1]) + "x"
        with pytest.raises(psycopg.errors.InvalidEscapeSequence):
            plain_connection.execute("select %s::text like %s", [reached, pattern])
        return
    ours = [matches(where.conditions, {"c": value}, {"c": "text"}) for where in wheres]
    assert ours == answers(plain_connection, wheres, "text", value)


PIECES: Final = [
    *"ab.*+?|()[]{}^$,-0123:é",
    "[:alpha:]",
    r"\d",
    r"\w",
    "\\",
    r"\.",
    "[^",
    "(?:",
    "{1,2}",
    "{2,1}",
    "*?",
    "[[",
]


@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
@settings(max_examples=500)
def test_refused_regular_expressions_are_invalid_in_postgresql(plain_connection: Sql, pattern: str):
    """A pattern that is refused without a query is also refused by PostgreSQL (R43)."""
    try:
        check_condition(Condition("c", "match", pattern))
    except InvalidArgumentError:
        with pytest.raises(psycopg.errors.InvalidRegularExpression):
            plain_connection.execute("select 'x' ~ %s", [pattern])


async def test_filter_expressions_select_rows_of_every_type(listeners: Listeners, sql: Sql):
    """Rows inserted by SQL pass the same filters as those of a server without a database, with every type (R43)."""
    sql.execute(
        "create table orders (id int8 primary key, total numeric, at timestamptz, key uuid, note text, data bytea, "
        "done bool)"
    )
    sql.execute("alter publication supabase_realtime add table orders")
    async with connect_async(listeners.server.url, listeners.server.service_key) as client:
        room = client.channel("db")
        streams = [room.listen(changes("orders", event="INSERT", where=where)) for where, _ in WANTED]
        await room.subscribe(wait="ready")
        for row in ROWS:
            sql.execute("insert into orders values (%s, %s, %s, %s, %s, %s, %s)", list(row.values()))
        got = [
            [(await anext(each)).record for _ in expected] for each, (_, expected) in zip(streams, WANTED, strict=True)
        ]
        await room.unsubscribe()
        late = [event for each in streams async for event in each]
    assert [{ROWS.index(record) for record in records} for records in got] == [expected for _, expected in WANTED]
    assert late == []
