"""The arguments of `client.mirror(...)`: checked, and put where they belong."""

from collections.abc import Container, Sequence
from copy import deepcopy
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any, Final, cast
from uuid import UUID

from msgspec import Struct

from supawire import filters
from supawire._mirrored import Row, Shown
from supawire._models import Model, check_model
from supawire._where import Where
from supawire.core.frames import PREFIX
from supawire.core.mirrorparts import MirrorSettings
from supawire.core.tablecopy import KeyColumns
from supawire.errors import InvalidArgumentError
from supawire.options import (
    Backoff,
    ChannelOptions,
    check_bool,
    check_count,
    check_number,
    check_takes,
    check_timeout,
    check_topic,
)
from supawire.selectors import ANY, ChangesSelector, changes

_FLAT: Final = frozenset({str, int, float, bool, bytes, type(None), UUID, Decimal, datetime, date, time})
"""Types of values that nobody can change."""


class Mirroring(Struct, frozen=True):
    """What a mirror is to be. timeout: seconds of one fetch, None for no limit."""

    topic: str
    channel: ChannelOptions
    settings: MirrorSettings
    shown: Shown
    timeout: float | None


def read_mirroring(
    taken: Container[str],
    table: str,
    *,
    key: str | Sequence[str],
    fetch: object,
    schema: str | None,
    filter: str | None,
    where: Where | None,
    select: Sequence[str] | None,
    model: type[Any] | None,
    plain: bool,
    narrow: bool,
    topic: str | None,
    private: bool,
    settle: float,
    timeout: float | None,
    backoff: Backoff,
    buffer: int,
    refresh_every: float | None,
) -> Mirroring:
    """Check everything. `taken`: the topics that are in use. Raises: InvalidArgumentError."""
    wanted = cast("ChangesSelector[Any]", changes(table, schema=schema, filter=filter, where=where, select=select))
    if ANY in (table, wanted.schema):
        raise InvalidArgumentError("a mirror is of one table: give table and schema by name", hint="Make one for each.")
    check_takes("fetch", fetch, 0, "a function without arguments that gives the rows")
    columns = check_key(key)
    made = check_model(model)
    text = wanted.filter if wanted.filter and wanted.filter.strip() else None
    if check_bool("narrow", narrow) and text is None:
        raise InvalidArgumentError("narrow=True asks for what filter= or where= fits, and neither is given")
    if not isinstance(backoff, Backoff) or (backoff.max_attempts, backoff.max_elapsed) != (None, None):
        raise InvalidArgumentError(
            f"backoff must be a Backoff without an end, not {backoff!r}: a mirror tries as long as it is open",
            hint="ready(timeout=…) says how long you wait.",
        )
    columns_of = KeyColumns(columns)
    return Mirroring(
        check_topic(topic) if topic is not None else _free(f"{PREFIX}mirror:{wanted.schema}.{table}", taken),
        ChannelOptions(private=private, replay_gaps=False),  # or a gap would wait for messages that nobody wants
        MirrorSettings(
            table,
            columns,
            schema=wanted.schema,
            filter=text,
            judged=frozenset(condition.column for condition in filters.parse(text or "")),
            select=None if wanted.select is None else tuple(dict.fromkeys((*wanted.select, *columns))),
            narrow=narrow,
            plain=check_bool("plain", plain),
            modelled=made is not None,
            settle=check_number("settle", settle, minimum=0, unit="seconds"),
            backoff=backoff,
            buffer=check_count("buffer", buffer),
            refresh_every=None
            if refresh_every is None
            else check_number("refresh_every", refresh_every, above=0, unit="seconds, or None"),
        ),
        show_rows(columns_of, made),
        check_timeout(timeout, None),
    )


def check_key(key: object) -> tuple[str, ...]:
    """The columns of a mirror's key. Raises: InvalidArgumentError."""
    columns = (
        (key,) if isinstance(key, str) else tuple(cast("Sequence[object]", key)) if isinstance(key, Sequence) else ()
    )
    names = [column for column in columns if isinstance(column, str) and column]
    if not names or len(set(names)) < len(columns):
        raise InvalidArgumentError(
            f"key must be the column of the primary key, or the list of its columns, not {key!r}",
            hint='key="id", or key=("order_id", "line").',
        )
    return tuple(names)


def _free(topic: str, taken: Container[str]) -> str:
    """The topic, or with a number behind it the first that nobody uses."""
    tried = (topic if number == 1 else f"{topic}:{number}" for number in count(1))
    return check_topic(next(name for name in tried if name not in taken))


def show_rows(columns: KeyColumns, model: Model | None) -> Shown:
    """How users see rows with this key, as dicts or as objects of the model."""
    return Shown(columns.shown, _copied if model is None else partial(_made, model))


def _made(model: Model, row: Row) -> Any:
    return model.make(_copied(row), frozenset())


def _copied(row: Row) -> Row:
    """A row to give away: nothing in it is shared with the one that is kept."""
    return {name: value if type(value) in _FLAT else deepcopy(value) for name, value in row.items()}
