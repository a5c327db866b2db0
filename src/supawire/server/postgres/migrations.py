"""Run the migrations and seeds of a Supabase project on a database of the local server.

Includes the parser that splits an SQL file into statements with their line numbers.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from supawire.errors import StateError
from supawire.server.postgres.database import connect, one_line
from supawire.server.postgres.project import MISSING_EXTENSIONS, Project, read_sql

_TOKEN: Final = re.compile(
    r"""--[^\n]*                                     # comment to the end of the line
      | /\*                                          # comment that may hold others
      | '
      | "
      | \$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$   # dollar quote
      | [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*
      | [;()]
      | [^\s]                                        # anything else
    """,
    re.VERBOSE | re.ASCII,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_ESCAPED_END: Final = re.compile(r"[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its text without leading comments, and its first line in the file."""

    text: str
    line: int

    def line_at(self, position: int | None) -> int:
        """Return the line of a position reported by PostgreSQL, which counts characters from 1."""
        return self.line if position is None else self.line + self.text.count("\n", 0, position - 1)


class _Nesting:
    """Nesting depth in parentheses and blocks; a semicolon inside them does not end a statement."""

    def __init__(self) -> None:
        self.previous = ""
        self._parentheses = 0
        self._blocks = 0

    def __bool__(self) -> bool:
        return bool(self._parentheses or self._blocks)

    def add(self, word: str) -> None:
        """Process one word or sign, in lower case."""
        if word == "(":
            self._parentheses += 1
        elif word == ")":
            self._parentheses = max(0, self._parentheses - 1)
        elif word == "atomic" and self.previous == "begin":
            self._blocks = 1
        elif self._blocks:
            self._blocks += (word == "case") - (word == "end")
        self.previous = word


def split(text: str) -> Iterator[Statement]:
    """Yield the statements of a text, without their semicolons.

    Understands strings, quoted names, dollar quotes, nested comments, parentheses, and function bodies in
    `begin atomic … end`. An unclosed construct extends to the end; PostgreSQL then reports the error.
    """
    begin, line, counted, position = -1, 1, 0, 0
    nesting = _Nesting()
    while (found := _TOKEN.search(text, position)) is not None:
        piece, position = found[0], found.end()
        if piece.startswith(("--", "/*")):
            position = _after_comment(text, position) if piece[0] == "/" else position
        elif piece == ";" and not nesting:
            if begin >= 0:
                yield Statement(text[begin : found.start()].rstrip(), line)
            begin, nesting = -1, _Nesting()
        else:
            if begin < 0:
                begin = found.start()
                line += text.count("\n", counted, begin)
                counted = begin
            position = _after_quoted(text, piece, position, nesting.previous)
            nesting.add(piece.lower())
    if begin >= 0:
        yield Statement(text[begin:].rstrip(), line)


def _after_comment(text: str, position: int) -> int:
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(text, position)) is not None:
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return len(text) if depth else position


def _after_quoted(text: str, sign: str, position: int, previous: str) -> int:
    """Return the end of the string or quoted name that begins with this sign, or the position if none begins here."""
    if sign == "'" and previous == "e" and text[position - 2 : position - 1] in ("e", "E"):
        found = _ESCAPED_END.match(text, position)
        return len(text) if found is None else found.end()
    if sign in ("'", '"') or (len(sign) > 1 and sign[0] == "$" == sign[-1]):
        end = text.find(sign, position)
        return len(text) if end < 0 else end + len(sign)
    return position


logger: Final = logging.getLogger("supawire.server")

SKIPPED: Final = re.compile(
    r'(?:create|drop|alter|comment\s+on)\s+extension\s+(?:if\s+(?:not\s+)?exists\s+)?"?([\w-]+)"?', re.IGNORECASE
)
RESTRICT: Final = re.compile(r"^\\(?:un)?restrict\b.*$", re.MULTILINE)
"""Lines that pg_dump writes for psql around a dump."""
COPY: Final = re.compile(r"copy\s.*\bfrom\s+stdin\b", re.IGNORECASE | re.DOTALL)
SHOWN: Final = re.compile(r"""[^\n'"$(]{1,60}""")
"""The start of a statement that errors show: its first words, without values, which may be secret."""
AVAILABLE: Final = "select name from pg_available_extensions"
MISSING_SCHEMAS: Final = "select name from unnest(%s::text[]) as name where to_regnamespace(quote_ident(name)) is null"
NOT_OURS: Final = frozenset({"graphql_public", "storage", "graphql"})
"""Schemas of other Supabase services, which a configuration may name and no migration creates."""
IN_TRANSACTION: Final = "25001"


async def migrate(url: str, project: Project) -> None:
    """Run the project's migrations and seeds, each file in its own transaction.

    Raises: StateError that names the file, the line and the statement.
    """
    connection = await connect(url)
    try:
        await _Run(connection, project).run()
    finally:
        await connection.close()


class _Run:
    """One run through the files of a project."""

    def __init__(self, connection: AsyncConnection[TupleRow], project: Project) -> None:
        self._connection: Final = connection
        self._project: Final = project
        self._skipped: Final[set[str]] = set()
        self._available: frozenset[str] = frozenset()

    async def run(self) -> None:
        project = self._project
        for file in project.ignored:
            logger.warning("%s is not run: a migration is named <number>_<name>.sql", project.name_of(file))
        rows = await (await self._connection.execute(AVAILABLE)).fetchall()
        self._available = frozenset(name for (name,) in rows)
        for file in (*project.migrations, *project.seeds):
            await self._file(file)
        missing = await (await self._connection.execute(MISSING_SCHEMAS, [list(project.schemas)])).fetchall()
        for (name,) in missing:
            if name not in NOT_OURS:
                logger.warning("config.toml: api.schemas names %s, which no migration creates", name)
        major = self._connection.info.server_version // 10_000
        if project.major is not None and project.major != major:
            logger.warning(
                "config.toml: db.major_version is %d; the migrations ran on PostgreSQL %d", project.major, major
            )

    async def _file(self, file: Path) -> None:
        text = RESTRICT.sub("", read_sql(self._project, file))
        await self._connection.execute("begin")
        for statement in split(text):
            await self._statement(file, statement)
        await self._connection.execute("commit")  # only logs a warning if the file has committed already
        await self._connection.execute("reset session authorization")
        await self._connection.execute("reset all")

    async def _statement(self, file: Path, statement: Statement) -> None:
        extension = SKIPPED.match(statement.text)
        if extension is not None and self._skip(file, statement, extension[1].lower()):
            return
        self._check_psql(file, statement)
        try:
            await self._connection.execute(cast("LiteralString", statement.text))  # SQL from the user's file
        except psycopg.Error as error:
            raise self._wrong(file, statement, error) from error

    def _skip(self, file: Path, statement: Statement, name: str) -> bool:
        if name in self._available or name not in MISSING_EXTENSIONS:
            return False
        if name not in self._skipped:
            self._skipped.add(name)
            place = f"{self._project.name_of(file)}, line {statement.line}"
            logger.warning(
                "%s: the extension %s is not available here and is skipped; missing: %s",
                place,
                name,
                MISSING_EXTENSIONS[name],
            )
        return True

    def _check_psql(self, file: Path, statement: Statement) -> None:
        place = f"{self._project.name_of(file)}, line {statement.line}"
        if statement.text.startswith("\\"):
            raise StateError(
                f"{place}: a command of psql ({SHOWN.findall(statement.text)[0].strip()}) is not SQL",
                hint="Remove it; supabase db reset does not accept it either.",
            )
        if COPY.match(statement.text.partition("\n")[0]):
            raise StateError(
                f"{place}: COPY … FROM stdin needs psql for its rows",
                hint="Dump with inserts: supabase db dump --data-only without --use-copy.",
            )

    def _wrong(self, file: Path, statement: Statement, error: psycopg.Error) -> StateError:
        position = error.diag.statement_position
        line = statement.line_at(int(position) if position is not None and position.isdecimal() else None)
        words = " ".join(SHOWN.findall(statement.text)[:1]).strip()
        said = error.diag.message_primary or one_line(error)
        return StateError(
            f"{self._project.name_of(file)}, line {line}: {said} (in: {words} …)", hint=self._hint(statement, error)
        )

    def _hint(self, statement: Statement, error: psycopg.Error) -> str | None:
        used = [name for name in sorted(self._skipped) if _needs(statement.text, name)]
        if used:
            return (
                f"It seems to need {', '.join(used)}, which is not available here; see the page about the local server."
            )
        if error.sqlstate == IN_TRANSACTION:
            return "Each file runs in one transaction; add `commit;` before this statement, or remove it."
        if error.sqlstate in ("3F000", "42883", "0A000", "58P01", "42704") and self._skipped:
            return f"These extensions were skipped: {', '.join(sorted(self._skipped))}."
        return error.diag.message_hint


def _needs(text: str, extension: str) -> bool:
    """Return whether a statement mentions the extension or the schema that it would create."""
    schema = re.search(r"\(schema (\w+)\)", MISSING_EXTENSIONS[extension])
    words: list[Any] = [extension, *([f"{schema[1]}."] if schema else [])]
    return any(word in text for word in words)
