"""Names in SQL text that also has parameters: there a percent sign has to be doubled, also within a name."""

from typing import LiteralString, cast

from psycopg import sql


def quoted(name: str) -> sql.SQL:
    """A name that PostgreSQL has quoted where needed, such as what `format_type` gives."""
    return sql.SQL(cast("LiteralString", name.replace("%", "%%")))


def identifier(name: str) -> sql.SQL:
    """A name as it is in the catalogue."""
    return quoted(sql.Identifier(name).as_string())
