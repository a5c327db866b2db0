"""Every type of PostgreSQL becomes the JSON that the real server sends, compared with PostgreSQL itself."""

import json
from decimal import Decimal
from typing import Any, LiteralString, cast

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.server.postgres import row_data
from supawire.server.postgres.catalog import Type
from supawire.server.postgres.database import Database
from supawire.server.postgres.pgoutput import Begin, CommittedChange, Relation, RelationColumn
from supawire.server.postgres.values import JSON, Writers, read_record
from tests.interop.rowtypes.cases import CASES, SETUP

from .listening import Listeners, of

Sql = psycopg.Connection[tuple[Any, ...]]

TABLE = (  # type of the column, value in SQL, JSON on the wire; see docs/protocol.md, Value types
    ("int2", "-32768", "-32768"),
    ("int4", "7", "7"),
    ("int8", "9223372036854775807", "9223372036854775807"),
    ("oid", "26", "26"),
    ("numeric", "1.1000", "1.1000"),
    ("numeric(30,4)", "123456789012345678901234.5", "123456789012345678901234.5000"),
    ("numeric", "'NaN'", "null"),
    ("numeric", "1e30", "1000000000000000000000000000000"),
    ("float4", "1.5", "1.5"),
    ("float8", "0.1", "0.1"),
    ("float8", "1e20", "100000000000000000000"),
    ("float8", "1e-7", "0.0000001"),
    ("float8", "'-0'", "0"),
    ("float8", "'NaN'", "null"),
    ("float4", "'-Infinity'", "null"),
    ("bool", "true", "true"),
    ("bool", "false", "false"),
    ("text", "E'a\"b\\\\c\\n\\tü😀'", json.dumps('a"b\\c\n\tü😀')),
    ("varchar(9)", "'abc'", '"abc"'),
    ("name", "'abc'", '"abc"'),
    ('"char"', "'x'", '"x"'),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    ("date", "'2024-01-02'", '"2024-01-02"'),
    ("date", "'infinity'", '"infinity"'),
    ("date", "'0044-03-15 BC'", '"0044-03-15 BC"'),
    ("time", "'03:04:05.5'", '"03:04:05.5"'),
    ("timetz", "'03:04:05.5+05:30'", '"03:04:05.5+05:30"'),
    ("timestamp", "'2024-01-02 03:04:05.123456'", '"2024-01-02T03:04:05.123456"'),
    ("timestamp", "'-infinity'", '"-infinity"'),
    ("timestamptz", "'2024-01-02 03:04:05.123456+02'", '"2024-01-02T01:04:05.123456+00:00"'),
    ("timestamptz", "'0044-03-15 10:00:00+00 BC'", '"0044-03-15T10:00:00+00:00 BC"'),
    ("interval", "'1 day 02:03:04'", '"1 day 02:03:04"'),
    ("json", """'{"b": 1.0, "a" : 1e2, "a": [null]}'""", '{"a": [null], "b": 1.0}'),
    ("jsonb", """'{"b": 1.0, "a": {"c": "\\u0041"}}'""", '{"a": {"c": "A"}, "b": 1.0}'),
    ("jsonb", "'null'", "null"),
    ("jsonb", "'\"x\"'", '"x"'),
    ("int4[]", "'{1,2,NULL}'", "[1, 2, null]"),
    ("int4[]", "'{}'", "[]"),
    ("int4[]", "'[0:1]={1,2}'", "[1, 2]"),
    ("int4[]", "'{{1,2},{3,4}}'", "[[1, 2], [3, 4]]"),
    ("text[]", """'{a,"b c","NULL","q\\"\\\\",""}'""", '["a", "b c", "NULL", "q\\"\\\\", ""]'),
    ("float8[]", "'{1.5,NaN,1e20}'", '[1.5, "NaN", 100000000000000000000]'),
    ("bool[]", "'{t,f}'", "[true, false]"),
    ("timestamptz[]", "'{\"2024-01-01 00:00:00+00\"}'", '["2024-01-01T00:00:00+00:00"]'),
    ("jsonb[]", """array['{"a": 1}', '[2]']::jsonb[]""", '[{"a": 1}, [2]]'),
    ("bytea[]", "array['\\xdead'::bytea]", '["\\\\xdead"]'),
    ("box[]", "'{(1,2),(3,4);(5,6),(7,8)}'", '["(3,4),(1,2)", "(7,8),(5,6)"]'),
    ("int4range", "'[1,5)'", '"[1,5)"'),
    ("int4multirange", "'{[1,5),[7,9)}'", '"{[1,5),[7,9)}"'),
    ("inet", "'10.0.0.1/8'", '"10.0.0.1/8"'),
    ("macaddr", "'08:00:2b:01:02:03'", '"08:00:2b:01:02:03"'),
    ("point", "'(1,2)'", '"(1,2)"'),
    ("tsvector", "'a:1 b:2'", """"'a':1 'b':2\""""),
    ("varbit", "'101'", '"101"'),
    ("pg_lsn", "'1/2'", '"1/2"'),
    ("bytea", "'\\xDEADBEEF'", '"deadbeef"'),
    ("char(4)", "'abc'", '"a"'),
    ("char(4)", "''", '" "'),
    ("char(4)[]", "'{abc}'", '["a"]'),
    ("bit(3)", "'101'", '"1"'),
    ("bit(3)[]", "'{101}'", '["1"]'),
    ("mood", "'so so'", '"so so"'),
    ("mood[]", "'{good,\"so so\"}'", '["good", "so so"]'),
    ("euros", "'1.50'", "1.50"),
    ("euros[]", "'{1.50}'", "[1.50]"),
    (
        "pair",
        "row(1, 'a \"b\" (c),', array['x y', null], row('so so', null))::pair",
        '{"n": 1, "t": "a \\"b\\" (c),", "tags": ["x y", null], "inner": {"m": "so so", "at": null}}',
    ),
    ("pair", "row(null, '', null, null)::pair", '{"n": null, "t": "", "tags": null, "inner": null}'),
    ("pair[]", "array[row(1, 'x', null, null)::pair]", '[{"n": 1, "t": "x", "tags": null, "inner": null}]'),
    ("nothing", "row()", "{}"),
    ("text", "null", "null"),
    ("int4[]", "null", "null"),
)
TYPES = """
    create type mood as enum ('good', 'so so');
    create domain euros as numeric(10, 2);
    create type nothing as ();
    create type felt as (m mood, at timestamptz);
    create type pair as (n int4, t text, tags text[], "inner" felt);
"""
NAMES = {"int4[]": "_int4", "char(4)": "bpchar", "varchar(9)": "varchar", "mood": "mood", "euros": "euros"}


@pytest.mark.slow
def test_each_type_is_encoded_like_on_the_real_server(listeners: Listeners, sql: Sql):
    """Each type, inserted into PostgreSQL, is sent as the documented JSON."""
    sql.execute(cast("LiteralString", TYPES))
    columns = ", ".join(f"c{place} {kind}" for place, (kind, _, _) in enumerate(TABLE))
    sql.execute(cast("LiteralString", f"create table kinds (id int primary key, {columns})"))
    sql.execute("alter publication supabase_realtime add table kinds")
    with listeners.listen(of("kinds")) as listener:
        values = ", ".join(value for _, value, _ in TABLE)
        sql.execute(cast("LiteralString", f"insert into kinds values (1, {values})"))
        data = listener.change()
    found = {f"{kind} {value}": data["record"][f"c{place}"] for place, (kind, value, _) in enumerate(TABLE)}
    assert found == {f"{kind} {value}": json.loads(wire, parse_float=Decimal) for kind, value, wire in TABLE}
    types = {column["name"]: column["type"] for column in data["columns"]}
    assert {kind: types[f"c{place}"] for place, (kind, _, _) in enumerate(TABLE) if kind in NAMES} == NAMES


@pytest.mark.slow
def test_a_cast_to_json_is_used(listeners: Listeners, sql: Sql):
    """As for hstore, which becomes an object: also in arrays, composites and domains, before and after the cast is
    created.
    """
    sql.execute(
        cast(
            "LiteralString",
            """
            create type mood as enum ('good', 'it''s %s');
            create function mood_json(mood) returns json language sql as $$ select json_build_object('is', $1::text) $$;
            create cast (mood as json) with function mood_json(mood);
            create domain feeling as mood;
            create type felt as (m mood);
            create table days (id mood primary key, a mood[], f feeling, c felt, n mood);
            alter table days replica identity full;
            alter publication supabase_realtime add table days;
            """,
        )
    )
    with listeners.listen(of("days"), of("days", filter="n=is.null")) as listener:
        sql.execute("insert into days values ('good', '{good,\"it''s %%s\",NULL}', 'good', row('good'), null)", ())
        insert = listener.change()
        sql.execute("update days set n = 'good'")
        update = listener.change()
    good = {"is": "good"}
    row = {"id": good, "a": [good, {"is": "it's %s"}, None], "f": good, "c": {"m": good}, "n": None}
    assert (insert["record"], update["record"], update["old_record"]) == (row, {**row, "n": good}, row)


@pytest.mark.slow
def test_a_type_that_loses_its_cast_is_written_as_before(listeners: Listeners, sql: Sql):
    """Also when it is then used as the item of an array: a loaded type does not change."""
    sql.execute(
        """
        create type mood as enum ('sad');
        create function mood_json(mood) returns json language sql immutable as
          $$ select json_build_object('mood', $1::text) $$;
        create cast (mood as json) with function mood_json(mood);
        create table one (id int4 primary key, m mood);
        create table many (id int4 primary key, m mood[]);
        alter publication supabase_realtime add table one, many;
        """
    )
    with listeners.listen(of("one"), of("many")) as listener:
        sql.execute("insert into one values (1, 'sad')")
        assert listener.change()["record"] == {"id": 1, "m": {"mood": "sad"}}
        sql.execute("drop cast (mood as json)")
        sql.execute("insert into many values (2, '{sad}')")
        assert listener.change()["record"] == {"id": 2, "m": ["sad"]}
        sql.execute("insert into one values (3, 'sad')")
        change = listener.change()
        assert (change["record"], change["errors"]) == ({"id": 3, "m": "sad"}, None)


@pytest.mark.slow
def test_numbers_keep_their_digits(listeners: Listeners, sql: Sql):
    """The scale of a numeric and the last digits of an int8 are in the frame as PostgreSQL wrote them."""
    sql.execute("create table digits (id int8 primary key, price numeric)")
    sql.execute("alter publication supabase_realtime add table digits")
    with listeners.listen(of("digits")) as listener:
        sql.execute("insert into digits values (9007199254740993, 12.30)")
        record = listener.change()["record"]
    assert (record["id"], str(record["price"])) == (9007199254740993, "12.30")


DEEP = "[" * 3000 + "]" * 3000
BAD_JSON = {  # what the type json takes and jsonb does not, or only as something very long
    "half of a surrogate pair": '"\\ud800"',
    "a null character": '"\\u0000"',
    "an exponent of nine digits": "1e999999999",
    "an exponent of eighteen digits": "-1E+999999999999999999",
    "a hundred million digits": "1e100000000",
    "many long numbers": json.dumps(["1e131071"] * 2000).replace('"', ""),
    "a small exponent of nine digits": "1e-999999999",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON)
def test_a_value_without_json_affects_no_other_value(listeners: Listeners, sql: Sql, text: str):
    """The error belongs to one value of one row: the key, the columns beside it and later rows are sent.

    On the real server the poll fails with such a value, and its changes are lost.
    """
    sql.execute("create table todos (id int4 primary key, j json, t text)")
    sql.execute("alter publication supabase_realtime add table todos")
    with listeners.listen(of("todos")) as listener, listeners.listen(of("todos", select=["t"])) as other:
        values = "(1, %s, 'x'), (2, '{\"b\": 1e2}', 'y')"
        sql.execute(cast("LiteralString", "insert into todos values " + values), [text])
        sql.execute("update todos set t = 'z' where id = 1")
        bad, good, update = listener.changes(3)
        assert (bad["record"], good["record"]) == ({"id": 1, "t": "x"}, {"id": 2, "j": {"b": 100}, "t": "y"})
        words = "Error 500: Internal Server Error, the value of column j cannot be written as JSON"
        assert (bad["errors"], good["errors"], update["errors"]) == ([words], None, [words])
        assert [data["errors"] for data in other.changes(3)] == [None] * 3
    assert len(listener.frames["system"]) == 1


@pytest.mark.slow
def test_json_may_be_nested_as_deeply_as_postgresql_reads_it(listeners: Listeners, sql: Sql):
    """Three thousand levels of `json` and `jsonb` are in the frame unchanged."""
    sql.execute("create table todos (id int4 primary key, j json, b jsonb)")
    sql.execute("alter publication supabase_realtime add table todos")
    with listeners.listen(of("todos")) as listener:
        sql.execute("insert into todos values (1, %s, %s)", [DEEP, DEEP])
        assert listener.raw("postgres_changes").count("[[[") >= 2 * 999
        sql.execute("insert into todos values (2, '1', '2')")
        assert listener.change()["record"] == {"id": 2, "j": 1, "b": 2}


async def test_json_with_too_many_digits_is_not_sent_to_postgresql():
    """The digits of exponents are counted before PostgreSQL would write them; strings do not count."""
    types = {JSON: Type(JSON, "json", "json"), 23: Type(23, "int4", "int4")}
    column = RelationColumn("j", JSON, -1, in_identity=False)
    relation = Relation(1, "public", "todos", "d", (column,))
    begin = Begin(1, 0, 5)
    made = Writers(types)
    for text in ("[" + "1e131071," * 200 + "1]", "1e131071 " * 200, '"' * 200_001 + "1e999999"):
        row = CommittedChange(begin, "INSERT", relation, [text.encode()], None)
        fake_database = FakeDatabase()
        await row_data.compute_json(cast("Database", fake_database), types, made, [row])
        assert fake_database.values == [] or text.startswith('"')
    row = CommittedChange(begin, "INSERT", relation, [b'["1e131071", "' + b"1e131071 " * 200 + b'"]'], None)
    fake_database = FakeDatabase()
    await row_data.compute_json(cast("Database", fake_database), types, made, [row])
    assert len(fake_database.values) == 1


class FakeDatabase:
    """Stores the values that it should cast."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    async def query(self, text: object, parameters: list[list[str]]) -> list[Any]:
        del text
        self.values += [value for some in parameters for value in some]
        return []


BUILTIN = {
    name: Type(oid, name, name)
    for name, oid in (("int4", 23), ("text", 25), ("numeric", 1700), ("timestamptz", 1184), ("json", 114))
}
TEXT_ARRAY = Type(1009, "_text", "text[]", item=25)


def writers(*types: Type) -> Writers:
    return Writers({one.oid: one for one in (*BUILTIN.values(), TEXT_ARRAY, *types)})


@given(st.text())
def test_any_text_is_a_json_string(text: str):
    """Control characters, quotes and letters of any script are encoded."""
    assert (
        json.loads(writers().of_column(25)(text.encode("utf-8", "replace"))) == text.encode("utf-8", "replace").decode()
    )


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_array_of_texts_is_a_list(items: list[str | None]):
    """Arrays with any quoting of PostgreSQL are parsed."""
    quoted = ['"' + one.replace("\\", "\\\\").replace('"', '\\"') + '"' if one is not None else "NULL" for one in items]
    assert json.loads(writers().of_column(1009)(("{" + ",".join(quoted) + "}").encode())) == items


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_composite_is_parsed(fields: list[str | None]):
    """Doubled quotes and backslashes in a composite are parsed, and an empty field is NULL."""
    quoted = ['"' + one.replace("\\", "\\\\").replace('"', '""') + '"' if one is not None else "" for one in fields]
    assert read_record("(" + ",".join(quoted) + ")") == fields


def test_composites_are_parsed_as_postgresql_writes_them():
    """Words without quotes and single escapes are parsed; malformed text is an error."""
    assert read_record('(1,a b,"x,""y""",,\\,z)') == ["1", "a b", 'x,"y"', None, ",z"]
    for text in ("", "1,2", '("a)', "(a(b)"):
        with pytest.raises(ValueError, match="malformed record"):
            read_record(text)


def test_a_type_of_a_user_may_have_any_name():
    """A domain called `json` is encoded by its base type, not by its name."""
    mine = Type(16_500, "json", "app.json", kind="d", base=25)
    assert writers(mine).of_column(16_500)(b"{x") == b'"{x"'
    with pytest.raises(KeyError):
        writers().of_column(999)


@pytest.mark.slow
def test_the_values_of_the_client_comparison_come_from_postgresql(listeners: Listeners, sql: Sql):
    """Each value, inserted by SQL, is sent with the JSON and the type that the page of types shows (R42)."""
    columns = ", ".join(f'"{case.name}" {case.declared}' for case in CASES)
    marks = ", ".join(f"%s::{case.declared}" for case in CASES)
    sql.execute(cast("LiteralString", f"{SETUP}; create table every_type (id int primary key, {columns})"))
    sql.execute("alter publication supabase_realtime add table every_type")
    with listeners.listen(of("every_type")) as listener:
        insert = f"insert into every_type values (1, {marks})"
        sql.execute(cast("LiteralString", insert), [case.text for case in CASES])
        sent = listener.change()
    assert {column["name"]: column["type"] for column in sent["columns"][1:]} == {
        case.name: case.kind for case in CASES
    }
    found, wanted = sent["record"], {case.name: case.value for case in CASES}
    assert {name: found[name] for name in wanted} == wanted
    digits = {name: str(value) for name, value in wanted.items() if isinstance(value, Decimal)}
    assert {name: str(found[name]) for name in digits} == digits
