"""SQL files are split where PostgreSQL ends a statement."""

import pytest

from supawire.server.postgres.migrations import Statement, split


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" ;; -- nothing\n/* at ; all */ ;", []),
        ("select 1", ["select 1"]),
        ("select 1; select 2;", ["select 1", "select 2"]),
        ("select ';'; select 'it''s;'; select 2", ["select ';'", "select 'it''s;'", "select 2"]),
        (r"select 'a\'; select 2", [r"select 'a\'", "select 2"]),
        (r"select E'a\';'; select e'\\'; select 2", [r"select E'a\';'", r"select e'\\'", "select 2"]),
        ("select type 'a'; select 2", ["select type 'a'", "select 2"]),
        ('select 1 as "a;""b"; select 2', ['select 1 as "a;""b"', "select 2"]),
        ("do $$ begin; end $$; select 2", ["do $$ begin; end $$", "select 2"]),
        ("do $a$ $b$; $$; $a$; select 2", ["do $a$ $b$; $$; $a$", "select 2"]),
        ("prepare p as select $1; select a$b$c; select 2", ["prepare p as select $1", "select a$b$c", "select 2"]),
        ("select 1 -- a ; b\n; select 2", ["select 1 -- a ; b", "select 2"]),
        ("select /* ; /* ; */ ; */ 1; select 2", ["select /* ; /* ; */ ; */ 1", "select 2"]),
        ("create rule r as on insert to t do also (select 1; select 2); select 3",
         ["create rule r as on insert to t do also (select 1; select 2)", "select 3"]),
        ("create function f() returns int begin atomic select case when true then 1 end; select 2; end; select 3",
         ["create function f() returns int begin atomic select case when true then 1 end; select 2; end", "select 3"]),
        ("begin; select 1; commit", ["begin", "select 1", "commit"]),
        ("select 'never closed; select 2", ["select 'never closed; select 2"]),
        ("select $x$ never; $y$", ["select $x$ never; $y$"]),
        ("select /* never; ", ["select /* never;"]),
        ("insert into größe values ('é;')", ["insert into größe values ('é;')"]),
    ],
)  # fmt: skip
def test_statements_end_where_postgresql_ends_them(text: str, statements: list[str]):
    """Semicolons in strings, names, comments, bodies and parentheses belong to the statement."""
    assert [statement.text for statement in split(text)] == statements


def test_each_statement_has_its_line():
    """The line of the first word after comments; positions in the statement are converted to lines of the file."""
    found = list(split("-- head\n\nselect 1;\n/* two\nlines */ select\n 2;\nselect 3"))
    assert [(statement.text, statement.line) for statement in found] == [
        ("select 1", 3),
        ("select\n 2", 5),
        ("select 3", 7),
    ]
    assert found[1].line_at(None) == 5
    assert found[1].line_at(9) == 6
    assert Statement("a", 1).line_at(1) == 1


def test_long_files_take_linear_time():
    """An unclosed construct is scanned once; scanning again from each beginning would exceed the time limit of the
    test.
    """
    for piece in ("'", "/*", "$$", "$a$ ", "$a", "e'\\", "begin atomic ", "(", "--", "\\", "-", "/"):
        assert list(split(piece * (300_000 // len(piece)))) is not None
