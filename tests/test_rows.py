"""Decoding rows: PostgreSQL's types in Python, as sent by today's server and older ones."""

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supawire._values.encode import infer_columns, to_wire
from supawire._values.rows import (
    TYPES,
    Column,
    PlanCache,
    _make_plan,
    decode_columns,
    decode_row,
    read_array,
    read_interval,
)
from supawire.errors import InvalidArgumentError, RowError


def columns(**types: str) -> bytes:
    return msgspec.json.encode([{"name": name, "type": kind} for name, kind in types.items()])


def decoded(kind: str, text: str) -> Any:
    """Decode one value in a row with two columns, so that the single typed pass is used if possible."""
    row = decode_row(columns(v=kind, other="text"), b'{"v": %b, "other": "text"}' % text.encode())
    assert row["other"] == "text"
    return row["v"]


class IsNan:
    """Equal to any NaN, because two NaN are not equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decimal | float) and math.isnan(other)

    def __hash__(self) -> int:
        return 0


PLUS_5_30 = timezone(timedelta(hours=5, minutes=30))

TODAY: list[tuple[str, str, Any]] = [
    ("int2", "-7", -7),
    ("int4", "2147483647", 2147483647),
    ("int8", "9223372036854775807", 9223372036854775807),
    ("int8", "-9223372036854775808", -9223372036854775808),
    ("int8", "9007199254740993", 9007199254740993),
    ("oid", "4294967295", 4294967295),
    ("numeric", "1.1000", Decimal("1.1000")),
    ("numeric", "123456789012345678901234567890.000001", Decimal("123456789012345678901234567890.000001")),
    ("numeric", "1" + "0" * 400, Decimal("1" + "0" * 400)),
    ("numeric", "0.00", Decimal("0.00")),
    ("numeric", "-1e-7", Decimal("-1e-7")),
    ("numeric", '"Infinity"', Decimal("Infinity")),
    ("numeric", "null", None),
    ("numeric", "1" + "0" * 400 + ".5", Decimal("1" + "0" * 400 + ".5")),
    ("float8", "1", 1.0),
    ("float8", "1.5e-300", 1.5e-300),
    ("float4", "null", None),
    ("bool", "true", True),
    ("bool", "null", None),
    ("text", '"a \\u00e9 \\" b"', 'a é " b'),
    ("varchar", '""', ""),
    ("bpchar", '"x"', "x"),
    ("uuid", '"6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"', UUID("6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11")),
    ("date", '"2024-01-02"', date(2024, 1, 2)),
    ("date", '"0001-01-01"', date(1, 1, 1)),
    ("time", '"03:04:05.5"', time(3, 4, 5, 500000)),
    ("time", '"03:04:05"', time(3, 4, 5)),
    ("timetz", '"03:04:05.5+00"', time(3, 4, 5, 500000, UTC)),
    ("timetz", '"03:04:05+05:30"', time(3, 4, 5, 0, PLUS_5_30)),
    ("timestamp", '"2024-01-02T03:04:05.123456"', datetime(2024, 1, 2, 3, 4, 5, 123456)),  # noqa: DTZ001
    ("timestamptz", '"2024-01-02T01:04:05.123456+00:00"', datetime(2024, 1, 2, 1, 4, 5, 123456, UTC)),
    ("timestamptz", '"2024-01-02T01:04:05+05:30"', datetime(2024, 1, 2, 1, 4, 5, 0, PLUS_5_30)),
    ("timestamptz", '"9999-12-31T23:59:59.999999+00:00"', datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
    ("timestamptz", '"1890-01-01T00:00:00-07:52:58"', datetime(1890, 1, 1, tzinfo=timezone(-timedelta(0, 28378)))),
    ("bytea", '"deadbeef"', b"\xde\xad\xbe\xef"),
    ("bytea", '""', b""),
    ("json", '{"a": [1, 12345678901234567890123, 1.5, null]}', {"a": [1, 12345678901234567890123, 1.5, None]}),
    ("jsonb", '"2024-01-02"', "2024-01-02"),
    ("jsonb", "1" + "0" * 400 + ".5", Decimal("1" + "0" * 400 + ".5")),
    ("jsonb", "[" + "1" * 6000 + "]", [Decimal("1" * 6000)]),
    ("numeric", "1" * 6000, Decimal("1" * 6000)),
    ("_int4", "[1,2,null]", [1, 2, None]),
    ("_int4", "[[1,2],[3,null]]", [[1, 2], [3, None]]),
    ("_int8", "[9223372036854775807]", [9223372036854775807]),
    ("_numeric", "[1.10, 2]", [Decimal("1.10"), Decimal(2)]),
    ("_numeric", '[1.10, "NaN"]', [Decimal("1.10"), IsNan()]),
    ("_float8", '[1.5, null, "-Infinity"]', [1.5, None, -math.inf]),
    ("_bool", "[[true, null], [false, true]]", [[True, None], [False, True]]),
    ("_timestamptz", '["2024-01-02T01:04:05.000001+00:00"]', [datetime(2024, 1, 2, 1, 4, 5, 1, UTC)]),
    ("_int4", "[[[1], [2]], [[3], [4]]]", [[[1], [2]], [[3], [4]]]),
    ("_numeric", "[[1.10], [2.00]]", [[Decimal("1.10")], [Decimal("2.00")]]),
    ("_text", '["a", null, "null"]', ["a", None, "null"]),
    ("_text", "[]", []),
    ("_text", "null", None),
    ("_date", '["2024-01-02", "infinity"]', [date(2024, 1, 2), "infinity"]),
    ("_uuid", '["6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"]', [UUID("6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11")]),
    ("_bytea", '["00ff", null, ["ab"]]', [b"\x00\xff", None, [b"\xab"]]),
    ("_jsonb", '[{"a": 1}, [2]]', [{"a": 1}, [2]]),
    ("_timetz", '["03:04:05+00"]', [time(3, 4, 5, 0, UTC)]),
]

UNKNOWN: list[tuple[str, str, Any]] = [
    ("price", "1.10", Decimal("1.10")),
    ("price", "12345678901234567.89", Decimal("12345678901234567.89")),
    ("price", "9007199254740993", 9007199254740993),
    ("price", "1e400", Decimal("1e400")),
    ("_price", "[1.10, [2.00, null]]", [Decimal("1.10"), [Decimal("2.00"), None]]),
    ("item", '{"price": 1.10, "tags": ["a", 2.50]}', {"price": Decimal("1.10"), "tags": ["a", Decimal("2.50")]}),
]

AS_SENT: list[tuple[str, str, Any]] = [
    ("interval", '"1 day 02:03:04"', "1 day 02:03:04"),
    ("interval", '"-1 years -2 mons +3 days -04:05:06.000007"', "-1 years -2 mons +3 days -04:05:06.000007"),
    ("_interval", '["1 day", null]', ["1 day", None]),
    ("inet", '"10.0.0.1/8"', "10.0.0.1/8"),
    ("cidr", '"10.0.0.0/8"', "10.0.0.0/8"),
    ("macaddr", '"08:00:2b:01:02:03"', "08:00:2b:01:02:03"),
    ("bit", '"1"', "1"),
    ("varbit", '"101"', "101"),
    ("xml", '"<a/>"', "<a/>"),
    ("tsvector", "\"'cat':3 'fat':2\"", "'cat':3 'fat':2"),
    ("hstore", '{"a": "1", "b": null}', {"a": "1", "b": None}),
    ("vector", '"[1.5,2]"', "[1.5,2]"),
    ("money", '"$1,000.00"', "$1,000.00"),
    ("int4range", '"[1,10)"', "[1,10)"),
    ("tstzrange", '"[\\"2024-01-01 00:00:00+00\\",)"', '["2024-01-01 00:00:00+00",)'),
    ("numrange", '"empty"', "empty"),
    ("int4multirange", '"{[1,3),[5,7)}"', "{[1,3),[5,7)}"),
    ("_int4range", '["[1,10)", null]', ["[1,10)", None]),
    ("mood", '"sad"', "sad"),
    ("_mood", '["sad", null]', ["sad", None]),
    ("address", '{"street": "x", "zip": 1}', {"street": "x", "zip": 1}),
    ("", "[1]", [1]),
    ("date", '"infinity"', "infinity"),
    ("date", '"-infinity"', "-infinity"),
    ("date", '"0044-03-15 BC"', "0044-03-15 BC"),
    ("date", '"10000-01-01"', "10000-01-01"),
    ("timestamp", '"0044-03-15T00:00:00 BC"', "0044-03-15T00:00:00 BC"),
    ("timestamptz", '"infinity"', "infinity"),
    ("timestamptz", '"12345-01-02T03:04:05+00:00"', "12345-01-02T03:04:05+00:00"),
    ("time", '"24:00:00"', "24:00:00"),
    ("timetz", '"24:00:00+00"', "24:00:00+00"),
    ("int4", '"abc"', "abc"),
    ("int4", '"1_0"', "1_0"),
    ("int4", "1.5", 1.5),
    ("int4", "[1]", [1]),
    ("bool", '"maybe"', "maybe"),
    ("uuid", '"nope"', "nope"),
    ("bytea", '"abc"', "abc"),
    ("bytea", '"ab cd"', "ab cd"),
    ("_int4", '"{1,"', "{1,"),
    ("_int4", "7", 7),
]

OLDER: list[tuple[str, str, Any]] = [
    ("int8", '"9223372036854775807"', 9223372036854775807),
    ("numeric", '"1.1000"', Decimal("1.1000")),
    ("float8", '"1.5"', 1.5),
    ("float8", '"-Infinity"', -math.inf),
    ("bool", '"t"', True),
    ("bool", '"false"', False),
    ("date", '"2024-01-02"', date(2024, 1, 2)),
    ("timestamp", '"2024-01-02 03:04:05.5"', datetime(2024, 1, 2, 3, 4, 5, 500000)),  # noqa: DTZ001
    ("timestamptz", '"2024-01-02 03:04:05+00"', datetime(2024, 1, 2, 3, 4, 5, 0, UTC)),
    ("bytea", '"\\\\xdeadbeef"', b"\xde\xad\xbe\xef"),
    ("_int4", '"{1,NULL,3}"', [1, None, 3]),
    ("_int4", '"{{1,2},{3,4}}"', [[1, 2], [3, 4]]),
    ("_text", '"{a,\\"b,\\\\\\"c\\",NULL,\\"NULL\\"}"', ["a", 'b,"c', None, "NULL"]),
    ("_bool", '"{t,f}"', [True, False]),
    ("_bytea", '"{\\"\\\\\\\\x00ff\\"}"', [b"\x00\xff"]),
    ("_text", '"{}"', []),
    ("json", '"{\\"a\\": 1}"', '{"a": 1}'),
]


@pytest.mark.parametrize(("kind", "sent", "expected"), TODAY)
def test_values_are_exact(kind: str, sent: str, expected: Any):
    """Each type of today's server becomes its exact Python value."""
    value = decoded(kind, sent)
    assert value == expected
    assert type(value) is type(expected)
    if isinstance(expected, Decimal):
        assert value.as_tuple() == expected.as_tuple()
    if isinstance(expected, datetime | time):
        assert value.utcoffset() == expected.utcoffset()


@pytest.mark.parametrize(("kind", "sent", "expected"), AS_SENT)
def test_values_without_a_python_equivalent_are_unchanged(kind: str, sent: str, expected: Any):
    """Unknown types, infinite dates and invalid values stay as sent and do not affect the other columns."""
    value = decoded(kind, sent)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(("kind", "sent", "expected"), UNKNOWN)
@pytest.mark.parametrize("beside", ["text", "bytea"])
def test_numbers_of_domains_and_composites_keep_their_digits(kind: str, sent: str, expected: Any, beside: str):
    """An unknown type may be a domain over numeric or contain one, so no digit is lost."""
    listed, record = columns(v=kind, other=beside), b'{"v": %b, "other": "ab"}' % sent.encode()
    row = decode_row(listed, record)
    assert row == {"v": expected, "other": "ab" if beside == "text" else b"\xab"}
    assert repr(row["v"]) == repr(expected)


@pytest.mark.parametrize("kind", ["json", "jsonb", "_jsonb", "geometry", "geography", ""])
def test_numbers_of_json_are_floats(kind: str):
    """In json, jsonb and the JSON of PostGIS, numbers that are not integers are floats."""
    assert repr(decoded(kind, '[1.50, {"x": 2}]')) == "[1.5, {'x': 2}]"


@pytest.mark.parametrize(("kind", "sent", "expected"), OLDER)
def test_text_of_older_servers_is_converted(kind: str, sent: str, expected: Any):
    """A server that sends everything as text gives the same values."""
    value = decoded(kind, sent)
    assert value == expected
    assert type(value) is type(expected)


def test_nan_of_older_servers_is_nan():
    """The text NaN becomes the NaN of float and Decimal."""
    assert math.isnan(decoded("float8", '"NaN"'))
    assert decoded("numeric", '"NaN"').is_nan()
    assert str(decoded("_float8", '"{1.5,NaN,Infinity}"')) == "[1.5, nan, inf]", "an array is one text, today too"


def test_hex_is_decoded_once():
    """Bytes that look like hex of hex stay unchanged, since today's server sends plain hex."""
    assert decoded("bytea", '"5c7864656164"') == b"\\xdead"


def test_a_missing_column_is_missing():
    """An unchanged large value is not sent, and is not replaced by None."""
    listed = columns(id="int8", big="text", at="date")
    assert decode_row(listed, b'{"id": 1, "at": "2024-01-02"}') == {"id": 1, "at": date(2024, 1, 2)}
    assert decode_row(listed, b'{"id": 1}') == {"id": 1}
    assert decode_row(listed, b"{}") == {}


def test_an_unlisted_key_is_kept():
    """A key that is not listed is in the row as sent, and the other columns are converted."""
    row = decode_row(columns(id="int8", at="date"), b'{"id": 1, "at": "2024-01-02", "more": {"a": 1.5}}')
    assert row == {"id": 1, "at": date(2024, 1, 2), "more": {"a": 1.5}}


@pytest.mark.parametrize("listed", [b"null", b"[]", b"7", b"{", b'[{"type":"int8"}]', b"\xff", b"[" * 5000])
def test_without_columns_a_row_is_plain_json(listed: bytes):
    """If the columns are missing, empty or invalid, the row is its plain JSON."""
    assert decode_columns(listed) == ()
    assert decode_row(listed, b'{"a": "2024-01-02", "b": 1.5}') == {"a": "2024-01-02", "b": 1.5}


def test_null_is_an_empty_row():
    """A record of null gives an empty dict, with and without columns."""
    assert decode_row(columns(id="int8"), b"null") == {}
    assert decode_row(b"null", b"null") == {}


@pytest.mark.parametrize(
    "record", [b"[1]", b'"x"', b"7", b"{", b"", b'{"id": "\xff"}', b'{"id": nope}', b'{"id": NaN}']
)
def test_an_invalid_row_raises_an_error_with_the_raw_text(record: bytes):
    """A record that is not a JSON object raises RowError with the received text."""
    with pytest.raises(RowError) as caught:
        decode_row(columns(id="int8"), record)
    assert caught.value.raw == record


def test_deep_json_raises_a_row_error():
    """A value that is nested too deeply raises RowError instead of RecursionError."""
    for kind in ("jsonb", "item"):
        with pytest.raises(RowError):
            decode_row(columns(v=kind), b'{"v": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
        assert decode_row(columns(v=kind), b'{"v": ' + b"[" * 200 + b"1.5" + b"]" * 200 + b"}")["v"]


def test_columns_have_name_and_type():
    """Columns are in the table's order; other keys of older servers are ignored."""
    listed = b'[{"name":"id","type":"int8","type_modifier":-1,"flags":["key"]},{"name":"a b"}]'
    assert decode_columns(listed) == (Column("id", "int8"), Column("a b", ""))
    assert decode_columns(msgspec.Raw(listed)) == (Column("id", "int8"), Column("a b", ""))


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=300))
@example(["class", "None", "self", "_x", "é", "mro"])
@example(["id", "__weakref__", "__x", "__struct_fields__"])
@example(["id", "first name"])
def test_column_names_may_be_any_text(names: list[str]):
    """Names that are Python identifiers, keywords or neither are all keys of the row."""
    listed = columns(**dict.fromkeys(names, "int4"))
    record = msgspec.json.encode({name: number for number, name in enumerate(names)})
    assert decode_row(listed, record) == {name: number for number, name in enumerate(names)}


def test_a_column_listed_twice_is_decoded():
    """Two columns of one name give one key, decoded by the last type."""
    listed = b'[{"name":"a","type":"text"},{"name":"a","type":"date"}]'
    assert decode_row(listed, b'{"a": "2024-01-02"}') == {"a": date(2024, 1, 2)}


def test_decoders_are_cached_up_to_a_number():
    """One decoder serves all rows of a list of columns, and any number of new lists does not fill the memory."""
    cache = PlanCache(_make_plan, size=8)
    for number in range(100):
        cache.find(columns(**{f"c{number}": "int4"}))
    assert len(cache) == 8
    assert cache.find(msgspec.Raw(columns(c98="int4"))) is cache.find(columns(c98="int4"))
    assert cache.find(columns(c99="int4")).columns == (Column("c99", "int4"),)


scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(2**63, 2**80),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.text(),
    st.datetimes(),
    st.datetimes(timezones=st.sampled_from([UTC, PLUS_5_30])),
    st.dates(),
    st.times(),
    st.times(timezones=st.sampled_from([UTC, PLUS_5_30])),
    st.uuids(),
    st.binary(),
)
arrays = st.one_of(
    st.lists(st.integers(-(2**31), 2**31) | st.none()),
    st.lists(st.text() | st.none()),
    st.lists(st.lists(st.decimals(allow_nan=False, allow_infinity=False), max_size=3), max_size=3),
    st.lists(st.binary()),
    st.lists(st.datetimes(timezones=st.just(UTC))),
)
documents = st.dictionaries(st.text(), st.lists(st.integers() | st.text() | st.none() | st.booleans()))


def written(record: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({name: to_wire(value) for name, value in record.items()})


def readable(value: Any) -> Any:
    """Return the value as it is decoded again: an int outside int8 is a numeric."""
    return Decimal(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


@given(st.dictionaries(st.text(min_size=1), scalars | arrays | documents))
def test_values_of_the_local_server_are_decoded_unchanged(record: dict[str, Any]):
    """A row of Python values, encoded with the inferred columns, is decoded to the same values."""
    listed = msgspec.json.encode(infer_columns(record))
    row = decode_row(listed, written(record))
    expected = {name: readable(value) for name, value in record.items()}
    assert row == expected
    assert list(row) == list(expected)
    for name, value in expected.items():
        if isinstance(value, Decimal):
            assert format(row[name], "f") == format(value, "f")
        elif value not in ([], {}):
            assert type(row[name]) is type(value)


@given(st.dictionaries(st.text(min_size=1), scalars | arrays | documents, min_size=1))
def test_both_ways_of_decoding_agree(record: dict[str, Any]):
    """The single typed pass and decoding column by column give the same row."""
    listed = msgspec.json.encode(infer_columns(record))
    extended = written({**record, "": 1}) if "" not in record else written(record)
    slow = decode_row(listed, extended)
    slow.pop("", None)
    assert decode_row(listed, written(record)) == slow


@given(st.binary() | st.text().map(str.encode), st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_row_or_a_row_error(listed: bytes, record: bytes):
    """Any bytes as columns and record are decoded or raise RowError."""
    with contextlib.suppress(RowError):
        assert isinstance(decode_row(listed, record), dict)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["{1,2}", "infinity", "\\x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from([*TYPES, *(f"_{name}" for name in TYPES), "jsonb", "mood", "_"])


@given(st.lists(st.tuples(kinds, json_values), max_size=6))
def test_any_json_value_can_be_decoded_with_any_type(cells: list[tuple[str, Any]]):
    """A column of any type accepts any JSON value without an error."""
    listed = columns(**{f"c{number}": kind for number, (kind, _) in enumerate(cells)})
    record = msgspec.json.encode({f"c{number}": value for number, (_, value) in enumerate(cells)})
    assert set(decode_row(listed, record)) == {f"c{number}" for number in range(len(cells))}


# --- array literals

items: st.SearchStrategy[Any] = st.recursive(
    st.lists(st.text() | st.none(), min_size=1, max_size=4), lambda inner: st.lists(inner, min_size=1, max_size=3)
)


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "{" + ", ".join(map(literal, value)) + "}"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def depth(value: Any) -> int:
    return 1 + max(map(depth, value)) if isinstance(value, list) else 0


@given(items.filter(lambda value: depth(value) <= 6))
def test_array_literals_are_parsed(value: list[Any]):
    """An array literal gives its items, quoted text unquoted, nested arrays as nested lists."""
    assert read_array(literal(value)) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", []),
        (" { a , b c } ", ["a", "b c"]),
        ("{null,NULL,nULL}", [None, None, None]),
        ('{"null",\\null}', ["null", "null"]),
        ("{a\\,b,c\\}}", ["a,b", "c}"]),
        ("[0:1]={1,2}", ["1", "2"]),
        ("{{},{}}", [[], []]),
    ],
)
def test_special_cases_of_array_literals_are_parsed(text: str, expected: list[Any]):
    """Blanks, escapes, bounds and unquoted NULL are parsed as by PostgreSQL."""
    assert read_array(text) == expected


@pytest.mark.parametrize(
    "text", ["", "{", "}", "a", "{a", "{a,}", "{,a}", "{a}{b}", "{a}b", '{"a}', "{a b", "{{a}", '{a"b"}', "{a,,b}"]
)
def test_malformed_array_literals_raise(text: str):
    """Malformed array literals raise ValueError."""
    with pytest.raises(ValueError, match="malformed"):
        read_array(text)


@given(st.text(st.sampled_from('{},"\\ aN')))
def test_any_text_is_parsed_as_an_array_or_refused(text: str):
    """Any text is parsed as an array literal or raises ValueError."""
    with contextlib.suppress(ValueError):
        assert isinstance(read_array(text), list)


def test_many_braces_are_refused():
    """The parser does not recurse."""
    with pytest.raises(ValueError, match="malformed"):
        read_array("{" * 100_000)


# --- encoding


@pytest.mark.parametrize(
    ("value", "kind", "sent"),
    [
        (None, "text", b"null"),
        (True, "bool", b"true"),
        (7, "int8", b"7"),
        (2**63, "numeric", b"9223372036854775808"),
        (1.5, "float8", b"1.5"),
        (math.nan, "float8", b"null"),
        (Decimal("1.1000"), "numeric", b"1.1000"),
        (Decimal("1E+3"), "numeric", b"1000"),
        (Decimal("NaN"), "numeric", b'"NaN"'),
        (Decimal("-Infinity"), "numeric", b'"-Infinity"'),
        ("x", "text", b'"x"'),
        (datetime(2024, 1, 2, 3, 4, 5, 500000), "timestamp", b'"2024-01-02T03:04:05.5"'),  # noqa: DTZ001
        (datetime(2024, 1, 2, 3, 4, 5, 0, PLUS_5_30), "timestamptz", b'"2024-01-01T21:34:05+00:00"'),
        (date(2024, 1, 2), "date", b'"2024-01-02"'),
        (time(3, 4, 5, 120000), "time", b'"03:04:05.12"'),
        (time(3, 4, 5, 0, UTC), "timetz", b'"03:04:05+00"'),
        (time(3, 4, 5, 0, PLUS_5_30), "timetz", b'"03:04:05+05:30"'),
        (timedelta(hours=30, seconds=1.5), "interval", b'"30:00:01.5"'),
        (timedelta(seconds=-90), "interval", b'"-00:01:30"'),
        (UUID(int=1), "uuid", b'"00000000-0000-0000-0000-000000000001"'),
        (b"\xde\xad", "bytea", b'"dead"'),
        (bytearray(b"\xde\xad"), "bytea", b'"dead"'),
        ([1, None], "_int8", b"[1,null]"),
        ([[Decimal("1.10")]], "_numeric", b"[[1.10]]"),
        (("a",), "_text", b'["a"]'),
        ([1, "a"], "jsonb", b'[1,"a"]'),
        ([], "jsonb", b"[]"),
        ([{"a": 1}], "jsonb", b'[{"a":1}]'),
        ({"a": Decimal("1.10"), "b": [None]}, "jsonb", b'{"a":1.10,"b":[null]}'),
    ],
)
def test_python_values_have_a_column_type_and_an_encoding(value: Any, kind: str, sent: bytes):
    """Each Python value has the type that PostgreSQL would give it, and the documented JSON."""
    assert infer_columns({"v": value}) == [{"name": "v", "type": kind}]
    assert msgspec.json.encode(to_wire(value)) == sent


def test_values_without_a_column_type_are_refused():
    """The error names the column."""
    with pytest.raises(InvalidArgumentError, match="v: no column type for a object"):
        infer_columns({"v": object()})
    with pytest.raises(InvalidArgumentError, match="a object cannot be encoded"):
        to_wire([object()])


def test_alternating_tables_keep_their_types():
    """Rows of two tables in turn are decoded by the types of their own table."""
    number, stamp = columns(v="int8"), columns(v="timestamptz")
    for kind, text, value in (
        (number, b'{"v": 1}', 1),
        (number, b'{"v": 2}', 2),
        (stamp, b'{"v": "2026-11-24T00:00:00+00:00"}', datetime(2026, 11, 24, tzinfo=UTC)),
        (number, b'{"v": 3}', 3),
        (columns(w="int8"), b'{"w": 4}', None),
        (b"null", b'{"v": "5"}', "5"),
    ):
        assert decode_row(msgspec.Raw(kind), msgspec.Raw(text)).get("v") == value


def test_cached_columns_do_not_keep_their_frame_in_memory():
    """The columns are copied, because a view would keep the whole frame."""

    class Frame(msgspec.Struct):
        columns: msgspec.Raw

    frame = b'{"columns": [{"name": "v", "type": "int8"}], "rest": "%b"}' % (b"x" * 10_000)
    before = sys.getrefcount(frame)
    decode_row(msgspec.json.decode(frame, type=Frame).columns, b'{"v": 1}')
    assert sys.getrefcount(frame) == before


def test_long_numbers_and_arrays_are_parsed_in_linear_time():
    """Long runs of digits are scanned once; arrays have at most six dimensions."""
    digits = "1" * 2_000_000
    for kind, text in (("numeric", digits + "x"), ("float8", digits + "x"), ("_int4", "{" * 1_000_000)):
        columns = json.dumps([{"name": "c", "type": kind}]).encode()
        record = json.dumps({"c": text}).encode()
        assert decode_row(columns, record) == {"c": text}
    assert read_array("{" * 6 + "}" * 6)
    with pytest.raises(ValueError, match="malformed"):
        read_array("{" * 7 + "}" * 7)
    for text in ("9" * 12 + " days", "9" * 12 + ":00:00"):
        with pytest.raises(ValueError, match="timedelta"):
            read_interval(text)


@pytest.mark.parametrize("kind", ["numeric", "int4", "float8", "json", "jsonb", "_numeric", "unknown", "_unknown"])
@pytest.mark.parametrize(
    "number", ["1e9999999999999999999", "[1e9999999999999999999]", '{"a":[-1e9999999999999999999]}']
)
def test_a_number_that_is_too_large_is_a_row_error(kind: str, number: str):
    """No other exception is raised, whatever the type; sent as text, such a number stays text."""
    columns = json.dumps([{"name": "n", "type": kind}]).encode()
    with pytest.raises(RowError, match="too large"):
        decode_row(columns, f'{{"n":{number}}}'.encode())
    assert decode_row(columns, b'{"n":"{1e9999999999999999999}"}')
    assert decode_row(b'[{"name":"n","type":"numeric"}]', b'{"n":"1e9999999999999999999"}')["n"].startswith("1e")


def test_more_columns_than_a_table_can_have_are_decoded_without_a_cache():
    """A table has at most 1,600 columns; a server that lists more of them does not fill the cache."""
    listed = json.dumps([{"name": f"c{number}", "type": "int8"} for number in range(20_000)]).encode()
    assert decode_row(listed, b'{"c1":1,"c19999":"2"}') == {"c1": 1, "c19999": 2}
    assert len(decode_columns(listed)) == 20_000
    cache = PlanCache(_make_plan)
    cache.find(listed)
    assert len(cache) == 0
