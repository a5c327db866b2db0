"""SQL that is typed in the inspector."""

from typing import Any

import pytest

from supawire.server.postgres import console
from supawire.server.postgres.console import run_sql
from supawire.server.postgres.database import DatabaseError

pytestmark = pytest.mark.anyio


async def test_values_are_shown_as_psql_shows_them(database: str):
    """Each value is the text that PostgreSQL prints, and NULL is None."""
    text = """select 1::int8, 1.50::numeric, true, '{"a": [1]}'::jsonb, '{a,NULL}'::text[], '\\x00ff'::bytea,
              '2026-01-02 03:04:05+00'::timestamptz at time zone 'UTC', null::text, '[1,3)'::int4range"""
    result = await run_sql(database, text)
    assert result.rows == [
        ["1", "1.50", "t", '{"a": [1]}', "{a,NULL}", "\\x00ff", "2026-01-02 03:04:05", None, "[1,3)"]
    ]
    assert (result.columns[0], result.more) == ("int8", False)


async def test_an_endless_result_is_cut(database: str):
    """Only as many rows are read as are shown, however many there are."""
    result = await run_sql(database, "select generate_series(1, 1000000000000)")
    assert (len(result.rows), result.more, result.rows[-1]) == (console.MAX_ROWS, True, [str(console.MAX_ROWS)])


async def test_long_values_and_many_columns_are_cut(database: str):
    """A long text is cut, and so is a row with very many columns."""
    result = await run_sql(database, "select repeat('x', 1000000)")
    (value,) = result.rows[0]
    assert value is not None and len(value) < console.MAX_VALUE + 50
    result = await run_sql(database, f"select {', '.join(map(str, range(1000)))}")
    assert len(result.columns) == len(result.rows[0]) == console.MAX_COLUMNS


@pytest.mark.parametrize(
    ("text", "command", "rows"),
    [
        ("insert into notes values (1), (2)", "INSERT 0 2", []),
        ("insert into notes values (1) returning id", "INSERT 0 1", [["1"]]),
        ("insert into notes values (1); select id from notes", "SELECT 1", [["1"]]),
        ("select 5; select 6", "SELECT 1", [["6"]]),
        (
            "with new as (insert into notes values (1) returning id) insert into notes select id + 1 from new",
            "done",
            [],
        ),
        ("  -- nothing", "", []),
        ("explain select 1", "", [["Result  (cost=0.00..0.01 rows=1 width=4)"]]),
        ("begin; insert into notes values (9)", "INSERT 0 1", []),
    ],
)
async def test_statements_of_all_kinds(database: str, text: str, command: str, rows: list[Any]):
    """Rows of the last statement are returned, or what it did."""
    await run_sql(database, "create table notes (id int)")
    result = await run_sql(database, text)
    assert result.rows == rows
    assert command in ("", result.command) or result.rows
    stored = await run_sql(database, "select count(*) from notes where id = 9")
    assert stored.rows == [["0"]], "a transaction that was left open is rolled back"


async def test_an_error_has_the_text_and_the_hint_of_postgresql(database: str):
    """An error is raised with the text of PostgreSQL, and nothing of the connection string."""
    with pytest.raises(DatabaseError, match=r'column "idd" does not exist.*Perhaps you meant'):
        await run_sql(database, "select idd from (select 1 as id) t")
    with pytest.raises(DatabaseError, match="syntax error"):
        await run_sql(database, "selec 1")


async def test_a_statement_has_a_time_limit(database: str, monkeypatch: pytest.MonkeyPatch):
    """A statement that takes too long is cancelled."""
    monkeypatch.setattr(console, "TIMEOUT", "50ms")
    with pytest.raises(DatabaseError, match="statement timeout"):
        await run_sql(database, "select pg_sleep(60)")


async def test_tokens_in_rows_are_hidden(database: str):
    """A key that is stored in a table is not shown."""
    result = await run_sql(database, "select 'sb_secret_0123456789abcdef'")
    assert result.rows == [["***"]]
