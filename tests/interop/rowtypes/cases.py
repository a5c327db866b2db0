"""One value of each type of PostgreSQL, and the JSON in which the server sends it.

`tests/postgres/test_values.py` inserts these values into PostgreSQL and compares the sent JSON with this table.
"""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

SETUP: Final = """
create type mood as enum ('sad', 'happy');
create type place as (street text, number int);
create domain email as text;
create domain price as numeric(10, 2);
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A column with a value. name: of the column; declared: its type in SQL; kind: the type's name on the wire."""

    name: str
    declared: str
    kind: str
    text: str | None
    wire: str

    @property
    def value(self) -> Any:
        """Return the JSON as Python values that the local server encodes in exactly this form."""
        return json.loads(self.wire, parse_float=Decimal)


CASES: Final = (
    Case("int2", "smallint", "int2", "-32768", "-32768"),
    Case("int4", "integer", "int4", "2147483647", "2147483647"),
    Case("int8", "bigint", "int8", "9007199254740993", "9007199254740993"),
    Case("oid", "oid", "oid", "4294967295", "4294967295"),
    Case("scaled", "numeric(10,4)", "numeric", "1.1000", "1.1000"),
    Case("long", "numeric", "numeric", "12345678901234567890.123456789", "12345678901234567890.123456789"),
    Case("float4", "real", "float4", "1.5", "1.5"),
    Case("float8", "double precision", "float8", "0.1", "0.1"),
    Case("nan", "double precision", "float8", "NaN", "null"),
    Case("bool", "boolean", "bool", "t", "true"),
    Case("text", "text", "text", 'déjà "vu"', '"déjà \\"vu\\""'),
    Case("varchar", "varchar(9)", "varchar", "12", '"12"'),
    Case("bpchar", "char(5)", "bpchar", "hello", '"h"'),
    Case("bit", "bit(3)", "bit", "101", '"1"'),
    Case("uuid", "uuid", "uuid", "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11", '"6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"'),
    Case("date", "date", "date", "2026-01-02", '"2026-01-02"'),
    Case("endless", "date", "date", "infinity", '"infinity"'),
    Case("time", "time", "time", "03:04:05.5", '"03:04:05.5"'),
    Case("timetz", "timetz", "timetz", "03:04:05+02", '"03:04:05+02"'),
    Case("timestamp", "timestamp", "timestamp", "2026-01-02 03:04:05.123456", '"2026-01-02T03:04:05.123456"'),
    Case(
        "timestamptz", "timestamptz", "timestamptz",
        "2026-01-02 03:04:05.123456+02", '"2026-01-02T01:04:05.123456+00:00"',
    ),
    Case("interval", "interval", "interval", "1 day 02:03:04", '"1 day 02:03:04"'),
    Case("json", "json", "json", '{"n": 9007199254740993}', '{"n": 9007199254740993}'),
    Case("jsonb", "jsonb", "jsonb", '[1.5, null, "a"]', '[1.5, null, "a"]'),
    Case("bytea", "bytea", "bytea", "\\xdeadbeef", '"deadbeef"'),
    Case("int8_array", "bigint[]", "_int8", "{9007199254740993,NULL}", "[9007199254740993, null]"),
    Case("numeric_array", "numeric[]", "_numeric", "{1.10,2.00}", "[1.10, 2.00]"),
    Case("text_array", "text[]", "_text", '{a,"b, c",NULL}', '["a", "b, c", null]'),
    Case("date_array", "date[]", "_date", "{2026-01-02}", '["2026-01-02"]'),
    Case("nested_array", "integer[][]", "_int4", "{{1,2},{3,4}}", "[[1, 2], [3, 4]]"),
    Case("mood", "mood", "mood", "happy", '"happy"'),
    Case("place", "place", "place", "(Main,5)", '{"number": 5, "street": "Main"}'),
    Case("email", "email", "email", "a@b.example", '"a@b.example"'),
    Case("price", "price", "price", "12.30", "12.30"),
    Case("int8range", "int8range", "int8range", "[1,10)", '"[1,10)"'),
    Case("inet", "inet", "inet", "10.0.0.0/8", '"10.0.0.0/8"'),
    Case("money", "money", "money", "1.50", '"$1.50"'),
    Case("tsvector", "tsvector", "tsvector", "'cat':1", "\"'cat':1\""),
    Case("point", "point", "point", "(1,2)", '"(1,2)"'),
    Case("none", "text", "text", None, "null"),
)  # fmt: skip
