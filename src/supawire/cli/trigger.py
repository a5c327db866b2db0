"""`supawire trigger`: change a row on the local server, so that listeners have something to receive."""

import asyncio
import os
import re
import secrets
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from supawire._values.encode import inferred_type, to_wire
from supawire.cli import env_files
from supawire.cli.connection import CONTEXT_NAME, DOTENV, Connect, Target
from supawire.cli.output import JsonFlag, Output, shown
from supawire.cli.plausible import type_name, value_for
from supawire.errors import InvalidArgumentError
from supawire.options import check_choice, check_count

KINDS: Final = ("INSERT", "UPDATE", "DELETE")
DEFAULT_COLUMNS: Final = {"id": "int8", "name": "text", "created_at": "timestamptz"}
MAX_COUNT: Final = 10_000

Row = dict[str, Any]


def trigger(
    kind: Annotated[str, Parameter(help="INSERT, UPDATE or DELETE.")],
    table: Annotated[str, Parameter(help="The name of the table.")],
    /,
    *,
    schema: Annotated[str, Parameter(help="The table's schema.")] = "public",
    set: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="A value as COLUMN=VALUE, VALUE as JSON or text. Repeatable.",
        ),
    ] = (),
    columns: Annotated[
        str | None,
        Parameter(
            help="Without a database: columns and types, such as id:int8,email:text; if omitted, those of --set, or "
            "id, name and created_at."
        ),
    ] = None,
    count: Annotated[int, Parameter(help="How many rows.")] = 1,
    database_url: Annotated[
        str | None,
        Parameter(
            env_var=env_files.DATABASE_URL,
            help="The database of the local server: a row changes there by SQL, with values for its columns.",
        ),
    ] = None,
    seed: Annotated[int | None, Parameter(help="Make the same values each time.")] = None,
    json: JsonFlag = False,
    connect: Connect = Connect(),
) -> int:
    """Insert, update or delete a row on the local server, with plausible values.

    With a database (`supawire serve --postgres`) the row changes in its table, by the columns that the table has: an
    UPDATE changes the newest row, a DELETE removes it. Without one the local server only sends the change.
    """
    wanted = check_choice("the kind of change", kind.upper(), KINDS)
    check_count("--count", count, maximum=MAX_COUNT)
    values = dict(map(_assignment, set))
    random = Random(secrets.randbits(64) if seed is None else seed)
    output = Output(json=json)
    url = database_url or _database_url_of(connect)
    if url is not None and columns is not None:
        raise InvalidArgumentError("--columns is for a server without a database; this table has columns")
    for _ in range(count):
        now = datetime.now(UTC)
        if url is None:
            target = connect.target(service=True)
            row = _emit(target, wanted, schema, table, values, _types(values, columns), random, now)
        else:
            from supawire.cli.trigger_sql import change_row

            row = change_row(url, wanted, schema, table, values, random, now)
        if json:
            output.record({"kind": "change", "type": wanted, "schema": schema, "table": table, "row": row})
        else:
            output.line(f"{wanted} {shown(f'{schema}.{table}')} ", shown(row))
    return 0


_decode: Final = msgspec.json.Decoder(float_hook=Decimal).decode


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidArgumentError(f"--set must be COLUMN=VALUE, not {shown(text, 100)!r}")
    try:
        return name, _decode(value)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return name, value


def _database_url_of(connect: Connect) -> str | None:
    """Return the URL that `supawire serve` wrote, from the same file as the server's URL."""
    if connect.env_file is not None:
        return env_files.read_any(connect.env_file, "--env-file").get(env_files.DATABASE_URL)
    variables = (CONTEXT_NAME, env_files.URL, "SUPABASE_URL")
    elsewhere = connect.url or connect.context or any(map(os.environ.get, variables))
    if elsewhere or not DOTENV.is_file():
        return None
    return env_files.read_any(DOTENV).get(env_files.DATABASE_URL)


def _emit(
    target: Target,
    kind: str,
    schema: str,
    table: str,
    values: Row,
    types: dict[str, str],
    random: Random,
    now: datetime,
) -> Row:
    """Let a server without a database send a change, and return its row."""
    from supawire.cli.dev_api import post

    made = {name: value_for(name, column_type, now, random) for name, column_type in types.items()}
    row = {name: values.get(name, value) for name, value in made.items()}
    change: Row = {"type": kind, "schema": schema, "table": table, "columns": types}
    wire = {name: to_wire(value) for name, value in row.items()}
    key = next(iter(wire))
    if kind == "INSERT":
        change["record"] = wire
    elif kind == "UPDATE":
        change |= {"record": wire, "old_record": {key: wire[key]}}
    else:
        row = {key: row[key]}
        change["old_record"] = {key: wire[key]}
    asyncio.run(post(target, "/dev/emit", change))
    return row


def _types(values: Row, columns: str | None) -> dict[str, str]:
    """Return the type of each column: those given, those of the values, or some usual ones."""
    if columns is None:
        types = {name: inferred_type(value, name) for name, value in values.items()}
        return types or dict(DEFAULT_COLUMNS)
    types: dict[str, str] = {}
    for part in re.split(r",(?![^(]*\))", columns):
        name, colon, column_type = part.strip().partition(":")
        if not name or not colon or not column_type.strip():
            raise InvalidArgumentError(f"--columns must be like id:int8,email:text, not {shown(columns, 100)!r}")
        types[name] = type_name(column_type)
    unknown = [name for name in values if name not in types]
    if unknown:
        raise InvalidArgumentError(f"--set names {', '.join(unknown)}, which is not among --columns")
    return types
