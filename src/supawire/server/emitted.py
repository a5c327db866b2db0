"""Row changes as `emit` says them: checked, and with columns when it says none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from supawire.errors import InvalidArgumentError
from supawire.options import check_choice, check_kind, check_text, check_writable, refuse
from supawire.rows import infer_columns
from supawire.server.bindings import TYPES

KEY: Final = "id"
"""The primary key's column, since there is no catalogue."""

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One row change. Values are those of the user; `columns` in table order."""

    type: str
    schema: str
    table: str
    columns: tuple[tuple[str, str], ...]
    record: Row | None = None
    old_record: Row | None = None
    errors: tuple[str, ...] = ()

    @property
    def key(self) -> frozenset[str]:
        """Names of the primary key's columns."""
        return frozenset({KEY})


def make_change(
    type: str,
    table: str,
    *,
    record: Row | None = None,
    old_record: Row | None = None,
    schema: str = "public",
    columns: Mapping[str, str] | Iterable[Mapping[str, str]] | None = None,
    errors: str | Sequence[str] | None = None,
) -> Change:
    """A change from what a user says about it.

    Args: type: INSERT, UPDATE or DELETE. record: the new row; INSERT and UPDATE need it. old_record: the old row;
    DELETE needs it, an UPDATE without one has the key column `id` of the new row. columns: types by name, or a list
    of `{"name", "type"}`; left out, they are taken from the Python values. errors: texts for the frame's `errors`;
    400 and 401 leave the rows out, 413 leaves out long values, as the server does (protocol §4.4).
    Raises: InvalidArgumentError.
    """
    kind = check_choice("type", type.upper() if isinstance(type, str) else type, TYPES)
    for name, value in (("table", table), ("schema", schema)):
        check_text(name, value)
    for name, row in (("record", record), ("old_record", old_record)):
        _check_row(name, row)
    if kind == "DELETE":
        if old_record is None or record is not None:
            raise InvalidArgumentError("a DELETE has an old_record and no record: emit_delete(table, old_record={…})")
    elif record is None:
        raise InvalidArgumentError(f"an {kind} has a record: the new row, such as record={{'id': 1}}")
    if kind == "INSERT" and old_record is not None:
        raise InvalidArgumentError("an INSERT has no old_record")
    if kind == "UPDATE" and old_record is None and record is not None:
        old_record = {name: record[name] for name in record if name == KEY}
    row = record if record is not None else old_record
    return Change(kind, schema, table, _columns(columns, row or {}), record, old_record, _errors(errors))


def _check_row(name: str, row: object) -> None:
    if row is None:
        return
    check_kind(name, row, Mapping, "a row, such as {'id': 1}")
    for column in cast("Mapping[object, object]", row):
        check_text(f"a column of {name}", column)


def _columns(given: Mapping[str, str] | Iterable[Mapping[str, str]] | None, row: Row) -> tuple[tuple[str, str], ...]:
    if isinstance(given, Mapping):
        pairs = tuple(cast("Mapping[str, str]", given).items())
    else:
        try:
            listed = infer_columns(row) if given is None else given
            pairs = tuple((column["name"], column["type"]) for column in listed)
        except (TypeError, KeyError) as error:
            raise refuse("columns", given, "types by name, as {'id': 'int8'}, or a list of {'name', 'type'}") from error
    for name, kind in pairs:
        check_text("a column's name", name)
        check_text(f"the type of the column {name}", kind)
    return pairs


def _errors(given: str | Sequence[str] | None) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else given or ()
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise refuse("errors", given, "a text or a list of texts")
    for said in texts:
        check_writable("errors", check_kind("errors", said, str, "a text or a list of texts"))
    return tuple(texts)
