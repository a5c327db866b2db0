"""SQL that a person types in the inspector: limited in time and in rows, with texts as psql shows them."""

import re
import time
from contextlib import aclosing
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.types.string import TextLoader

from supawire._display import printable
from supawire.server.inspector.commands import SqlResult
from supawire.server.postgres.database import connect, error_of

MAX_ROWS: Final = 200
MAX_VALUE: Final = 2_000
"""Maximum characters of one value."""
MAX_COLUMNS: Final = 100
TIMEOUT: Final = "15s"
"""For all statements of one request together."""
_READS: Final = re.compile(r"\s*(select|table|values|with|show|explain)\b", re.IGNORECASE)
_MANY_COMMANDS: Final = "42601"
"""The code of a syntax error, also for several commands where only one is possible."""


async def run_sql(url: str, text: str) -> SqlResult:
    """Run SQL on a connection of its own, in autocommit mode; return the result of the last statement.

    Of a result only the first rows are read. Raises: DatabaseError, with the message and the hint of PostgreSQL.
    """
    connection = await connect(url, application_name="supawire inspector")
    try:
        await connection.execute("select set_config('statement_timeout', %s, false)", [TIMEOUT])
        for info in psycopg.adapters.types:
            for oid in filter(None, (info.oid, info.array_oid)):
                connection.adapters.register_loader(oid, TextLoader)
        started = time.monotonic()
        columns, rows, command = await _run(connection, text)
        seconds = time.monotonic() - started
    except psycopg.Error as error:
        raise error_of(error) from error
    finally:
        await connection.close()
    shown = [[_shown(value) for value in row[:MAX_COLUMNS]] for row in rows[:MAX_ROWS]]
    return SqlResult(columns[:MAX_COLUMNS], shown, len(rows) > MAX_ROWS, command, seconds)


async def _run(connection: AsyncConnection[TupleRow], text: str) -> tuple[list[str], list[TupleRow], str]:
    """Return columns, at most one row more than are shown, and the command."""
    typed = cast("LiteralString", text)  # by the person who runs the server
    async with connection.cursor() as cursor:
        if _READS.match(text):
            rows: list[TupleRow] = []
            try:
                async with aclosing(cast("Any", cursor.stream(typed))) as found:
                    async for row in found:
                        rows.append(row)
                        if len(rows) > MAX_ROWS:
                            break
            except psycopg.ProgrammingError as error:
                if error.sqlstate is None:  # WITH … INSERT, which has been executed and has no rows
                    return [], [], "done"
                if error.sqlstate != _MANY_COMMANDS or "multiple commands" not in str(error):
                    raise
            else:
                names = [column.name for column in cursor.description or ()]
                return names, rows, cursor.statusmessage or ""
        await cursor.execute(typed)
        while cursor.nextset():
            pass
        if cursor.description is None:
            return [], [], cursor.statusmessage or ""
        names = [column.name for column in cursor.description]
        return names, await cursor.fetchmany(MAX_ROWS + 1), cursor.statusmessage or ""


def _shown(value: Any) -> str | None:
    return None if value is None else printable(str(value), MAX_VALUE)
