"""Encode changed rows as the `data` of frames: each value once, then one text for each list of columns.

For `json` and for types with a cast to json of their own (`create cast (… as json)`), such as hstore and those of
PostGIS, the JSON is computed by PostgreSQL, as on the real server; all such values of a batch go into one query. See
docs/protocol.md, Change payload.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from psycopg import sql

from supawire.server.changes import jsonb_order
from supawire.server.postgres.catalog import Facts, Type
from supawire.server.postgres.database import Database, DatabaseError, quoted
from supawire.server.postgres.pgoutput import UNCHANGED, CommittedChange, Relation
from supawire.server.postgres.pgoutput import Row as RawRow
from supawire.server.postgres.values import NULL, Write, Writers

MAX_NUMERIC_DIGITS: Final = 131_072
"""Digits of the largest numeric that PostgreSQL accepts."""
MAX_VALUE_BYTES: Final = 16 * 2**20
"""Maximum bytes of JSON of one value. `1e131071` has 8 characters as json and 131,072 as jsonb."""

_ONE: Final = """
    select {}::int8, v.given, case when octet_length(made.text) <= {} then made.text end
    from unnest(%s::text[]) v(given), lateral (select to_jsonb(v.given::{})::text as text offset 0) made
"""
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|[eE]\+?0*(\d+)', re.DOTALL)
"""A string, also an unterminated one so that each byte is scanned once only; or an exponent."""


async def compute_json(
    database: Database, types: Mapping[int, Type], writers: Writers, changes: Sequence[CommittedChange]
) -> None:
    """Let PostgreSQL compute the JSON of the values in these changes, and store exactly these in the writers.

    Values that PostgreSQL cannot cast, or whose JSON is too long, are left out.
    """
    writers.computed.clear()
    texts = _texts(writers, changes)
    todo = [
        [(oid, text.decode()) for oid, some in texts.items() for text in some if _expanded(text) <= MAX_VALUE_BYTES]
    ]
    while todo:
        part = todo.pop()
        try:
            writers.computed.update(await _cast(database, types, part))
        except DatabaseError as error:
            if error.retryable:
                raise
            if len(part) > 1:  # split in halves until the failing value is isolated
                half = len(part) // 2
                todo += [part[half:], part[:half]]


async def _cast(
    database: Database, types: Mapping[int, Type], values: Sequence[tuple[int, str]]
) -> dict[tuple[int, bytes], bytes]:
    """Return the JSON of these values, from one query. Raises: DatabaseError when one cannot be cast."""
    if not values:
        return {}
    by_type: dict[int, list[str]] = {}
    for oid, text in values:
        by_type.setdefault(oid, []).append(text)
    limit = sql.Literal(MAX_VALUE_BYTES)
    queries = [sql.SQL(_ONE).format(sql.Literal(oid), limit, quoted(types[oid].sql)) for oid in by_type]
    rows = await database.query(sql.Composed(queries).join(" union all "), list(by_type.values()))
    return {(int(oid), str(given).encode()): str(made).encode() for oid, given, made in rows if made is not None}


def _expanded(text: bytes) -> int:
    """Return how many digits the exponents of a json text expand to; checked before PostgreSQL writes them out."""
    exponents = (found[1] for found in _TOKEN.finditer(text) if found[1])
    return sum(MAX_NUMERIC_DIGITS if len(digits) > 6 else min(int(digits), MAX_NUMERIC_DIGITS) for digits in exponents)


def _texts(writers: Writers, changes: Iterable[CommittedChange]) -> dict[int, set[bytes]]:
    """Return by type the distinct values whose JSON PostgreSQL must compute."""
    places: dict[int, tuple[Relation, list[tuple[int, int]]]] = {}
    texts: dict[int, set[bytes]] = {}
    for change in changes:
        relation = change.relation
        known = places.get(relation.oid)
        if known is None or known[0] is not relation:
            columns = [(place, one.type) for place, one in enumerate(relation.columns) if writers.computes(one.type)]
            known = places[relation.oid] = relation, columns
        for place, oid in known[1]:
            for row in (change.new, change.old):
                value: Any = None if row is None else row[place]
                if value is not None and value is not UNCHANGED:
                    texts.setdefault(oid, set()).add(value)
    return texts


MAX_KEPT_BYTES: Final = 64
"""Maximum bytes of JSON of a value that is kept in a row that is too large."""
NO_KEY: Final = "Error 400: Bad Request, no primary key"
NO_RIGHT: Final = "Error 401: Unauthorized"
TOO_LARGE: Final = "Error 413: Payload Too Large"
UNWRITABLE: Final = "Error 500: Internal Server Error, the value of column {name} cannot be written as JSON"
"""A text of this library: on the real server such a value makes the whole poll fail."""
POLICY_FAILED: Final = "Error 500: Internal Server Error, RLS policy evaluation failed"
"""A text of this library, used with `isolate_policy_errors`: the real server loses all changes (`matching.py`)."""

Values = dict[str, bytes]
"""JSON by column; columns with unknown values are missing."""


class RowLayout(NamedTuple):
    """A table as announced in the stream, with the writers for its columns."""

    relation: Relation
    names: tuple[str, ...]
    types: tuple[Type, ...]
    writes: tuple[Write, ...]
    identity: tuple[str, ...]
    computed: bool
    """Whether PostgreSQL computes the JSON of a column."""

    @classmethod
    def of(cls, relation: Relation, types: Mapping[int, Type], writers: Writers) -> "RowLayout":
        """Create the layout of a relation. All its types must be loaded."""
        columns = relation.columns
        return cls(
            relation,
            tuple(column.name for column in columns),
            tuple(types[column.type] for column in columns),
            tuple(writers.of_column(column.type) for column in columns),
            tuple(column.name for column in columns if column.in_identity),
            any(writers.computes(column.type) for column in columns),
        )

    def values(self, row: RawRow, failed: set[str]) -> Values:
        """Return a row's values as JSON; names of columns that cannot be encoded are added to `failed`."""
        try:
            return {
                name: NULL if value is None else write(value)
                for name, write, value in zip(self.names, self.writes, row, strict=True)
                if value is not UNCHANGED
            }
        except Exception:  # noqa: BLE001  an error in one value must not affect the others
            return dict(self._one_by_one(row, failed))

    def _one_by_one(self, row: RawRow, failed: set[str]) -> Iterator[tuple[str, bytes]]:
        """Encode a row one value at a time, skipping those that fail."""
        for name, write, value in zip(self.names, self.writes, row, strict=False):
            try:
                if value is not UNCHANGED:
                    yield name, NULL if value is None else write(value)
            except Exception:  # noqa: BLE001  the column is listed in `failed`
                failed.add(name)

    def type_of(self, name: str) -> Type:
        return self.types[self.names.index(name)]


class EncodedChange:
    """One change with its encoded values. new and old: None where the key does not apply to this type of change."""

    __slots__ = ("change", "failed", "layout", "new", "old", "record", "too_large")

    def __init__(self, change: CommittedChange, layout: RowLayout, limit: int | None) -> None:
        self.change: Final = change
        self.layout: Final = layout
        failed: set[str] = set()
        self.new: Final = None if change.new is None else layout.values(change.new, failed)
        self.old: Final = _old(change, layout, self.new, failed)
        self.failed: Final = failed
        """Columns whose value cannot be encoded as JSON; the others are complete."""
        self.too_large: Final = limit is not None and _longer_than(limit, self)
        self.record: Final = _filled(change, self.new, self.old)

    @property
    def filtered(self) -> Values:
        """The row that filters are applied to: the new one, or the known columns of a deleted one."""
        return (self.old if self.new is None else self.new) or {}


def _old(change: CommittedChange, layout: RowLayout, new: Values | None, failed: set[str]) -> Values | None:
    if change.type == "INSERT":
        return None
    if change.old is None:  # the key did not change, so the stream does not repeat it
        return {name: new[name] for name in layout.identity if name in new} if new else {}
    old = layout.values(change.old, failed)
    return old if change.whole else {name: old[name] for name in layout.identity if name in old}


def _filled(change: CommittedChange, new: Values | None, old: Values | None) -> Values | None:
    """Return the new row; unchanged large values are copied from the old row if it is complete."""
    if new is None or old is None or UNCHANGED not in (change.new or ()):
        return new
    return {**old, **new}


def _longer_than(limit: int, row: EncodedChange) -> bool:
    """Return whether the text that the real server measures (names, types and values) exceeds the limit."""
    size = 0
    for values in (row.new, row.old):
        size += sum(map(len, (values or {}).values()))
    if size > limit:
        return True
    if size * 2 < limit - 100_000:
        return False
    size += 150
    kinds = dict(zip(row.layout.names, row.layout.types, strict=True))
    for values in (row.new, row.old):
        size += sum(len(name) + len(kinds[name].sql) + 55 for name in values or ())
    return size > limit


class View:
    """The columns of a table that one role receives for one `select`; None for all."""

    __slots__ = ("columns", "facts", "shown")

    def __init__(self, facts: Facts, select: tuple[str, ...] | None) -> None:
        wanted = facts.readable if select is None else facts.readable.intersection((*select, *facts.key))
        self.facts: Final = facts
        names = sorted((name for name, _ in facts.columns if name in wanted), key=jsonb_order)
        self.shown: Final = {name: text(name) + b":" for name in names}
        """The encoded key of each column, in jsonb's key order."""
        self.columns: Final = msgspec.json.encode(
            [{"name": name, "type": kind} for name, kind in facts.columns if name in wanted]
        )


@lru_cache(maxsize=256)
def _view(facts: Facts, select: tuple[str, ...] | None) -> View:
    return View(facts, select)


def error_of(row: EncodedChange, facts: Facts) -> str | None:
    """Return why the role receives no data of this change, None if it does. See docs/protocol.md, Row errors."""
    if row.record is None:
        return None
    key = facts.key.intersection(row.record)
    if not key:
        return NO_KEY
    return None if key <= facts.readable else NO_RIGHT


def data_without_row(row: EncodedChange, error: str) -> bytes:
    """Return the `data` of a change whose rows are withheld."""
    return _data(row, b"[]", NULL, _errors(error), b"{}", b"{}")


def data(row: EncodedChange, facts: Facts, select: tuple[str, ...] | None) -> bytes:
    """Return the `data` of a change for one role and one list of columns; None for all columns."""
    view = _view(facts, select)
    only = view.facts.key if row.new is None and view.facts.row_security else None
    return _data(
        row,
        view.columns,
        _stamp(row.change.begin.commit_at),
        _errors(*_wrong(row, view)),
        _record(row, row.record, view),
        _record(row, row.old, view, only),
    )


def _data(row: EncodedChange, columns: bytes, stamp: bytes, errors: bytes, record: bytes, old_record: bytes) -> bytes:
    relation = row.layout.relation
    head = b'{"schema":%b,"table":%b,"type":%b,"commit_timestamp":%b,"columns":%b,"errors":%b' % (
        text(relation.schema),
        text(relation.table),
        text(row.change.type),
        stamp,
        columns,
        errors,
    )
    new = b"" if row.new is None else b',"record":' + record
    old = b"" if row.old is None else b',"old_record":' + old_record
    return head + new + old + b"}"


def _record(row: EncodedChange, values: Values | None, view: View, only: Collection[str] | None = None) -> bytes:
    if values is None:
        return b"{}"
    shown = view.shown
    if row.too_large or only is not None:
        return _object(
            head + values[name]
            for name, head in shown.items()
            if name in values
            and (only is None or name in only)
            and (not row.too_large or (values[name] != NULL and len(values[name]) <= MAX_KEPT_BYTES))
        )
    return _object([head + values[name] for name, head in shown.items() if name in values])


def _object(fields: Iterable[bytes]) -> bytes:
    return b"{" + b",".join(fields) + b"}"


@lru_cache(maxsize=4096)
def text(value: str) -> bytes:
    """Encode a name as JSON."""
    return msgspec.json.encode(value)


def _wrong(row: EncodedChange, view: View) -> list[str]:
    """Return the errors of the row, restricted to the columns of the view."""
    wrong = [UNWRITABLE.format(name=name) for name in sorted(row.failed) if name in view.shown]
    return [TOO_LARGE, *wrong] if row.too_large else wrong


def _errors(*errors: str) -> bytes:
    return msgspec.json.encode(errors) if errors else NULL


_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=16)
def _stamp(commit_at: int) -> bytes:
    """Format a commit time in UTC with exactly three decimals."""
    at = _EPOCH + timedelta(microseconds=commit_at)
    return at.strftime('"%Y-%m-%dT%H:%M:%S.').encode() + b'%03dZ"' % (at.microsecond // 1000)
