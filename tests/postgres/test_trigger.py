"""`supawire trigger` with a database."""

import json
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection
from psycopg.rows import TupleRow

from supawire.cli import run

Capture = pytest.CaptureFixture[str]

SETUP = """
create type mood as enum ('happy', 'sad');
create table people (id bigint generated always as identity primary key, name text not null, email varchar(40));
create table orders (
    id uuid primary key default gen_random_uuid(), person bigint not null references people, total numeric(10, 2),
    mood mood not null, tags text[], info jsonb not null, data bytea, span interval, day date,
    doubled numeric generated always as (total * 2) stored, at timestamptz not null default now()
);
create table parts (id int, day date, primary key (id, day)) partition by range (day);
create table parts_old partition of parts for values from (minvalue) to ('2000-01-01');
create table parts_new partition of parts for values from ('2000-01-01') to (maxvalue);
"""


def trigger(database: str, *words: str) -> int:
    return run(["trigger", *words, "--database-url", database, "--json"])


def row(capsys: Capture) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)["row"]


def test_a_row_is_inserted_updated_and_deleted(database: str, sql: Connection[TupleRow], capsys: Capture):
    """Values fit types, enums and foreign keys; defaults and generated columns are left to the database."""
    sql.execute(SETUP)
    assert trigger(database, "INSERT", "people", "--seed", "1") == 0
    assert row(capsys)["email"].endswith("@example.com")
    assert trigger(database, "INSERT", "orders", "--set", "total=1.50", "--count", "1") == 0
    made = row(capsys)
    assert (made["person"], made["total"], made["doubled"], made["mood"]) == (1, "1.50", "3.00", "happy")
    assert len(made["tags"]) == 2 and isinstance(made["info"], dict)
    assert trigger(database, "UPDATE", "orders", "--set", "mood=sad") == 0
    assert row(capsys)["mood"] == "sad"
    assert trigger(database, "UPDATE", "people") == 0
    assert row(capsys)["id"] == 1
    assert trigger(database, "DELETE", "orders", "--set", f"id={made['id']}") == 0
    assert row(capsys)["id"] == made["id"]
    assert sql.execute("select count(*) from orders").fetchall() == [(0,)]


def test_one_row_of_a_partitioned_table_changes(database: str, sql: Connection[TupleRow], capsys: Capture):
    """Rows of two partitions have the same place in their files; only the newest one is deleted."""
    sql.execute(SETUP)
    sql.execute("insert into parts values (1, '1999-01-01'), (2, '2001-01-01')")
    assert trigger(database, "DELETE", "parts") == 0
    assert row(capsys)["id"] == 2
    assert sql.execute("select id from parts").fetchall() == [(1,)]


def test_one_of_the_rows_with_a_value_is_deleted(database: str, sql: Connection[TupleRow], capsys: Capture):
    """Of several rows that `--set` names, the newest one is deleted, and the others stay."""
    sql.execute(SETUP)
    sql.execute("insert into people (name) values ('Ada'), ('Ada'), ('Alan')")
    assert trigger(database, "DELETE", "people", "--set", "name=Ada") == 0
    assert row(capsys)["id"] == 2
    assert sql.execute("select id from people order by id").fetchall() == [(1,), (3,)]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["INSERT", "orders"], 1, "person refers to public.people, which is empty"),
        (["DELETE", "people"], 1, "public.people has no such row"),
        (["INSERT", "nope"], 2, "the database has no table public.nope"),
        (["INSERT", "people", "--set", "nope=1"], 2, "has no column nope"),
        (["INSERT", "people", "--set", "name=null"], 1, "null value in column"),
        (["INSERT", "people", "--columns", "id:int8"], 2, "--columns"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_changed_is_one_line(
    database: str, sql: Connection[TupleRow], words: list[str], code: int, expected: str, capsys: Capture
):
    """The line has PostgreSQL's reason, and no row is changed."""
    sql.execute(SETUP)
    assert trigger(database, *words) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@db.example.com/d",
        "postgresql:///d?host=db.example.com",
        "postgresql:///d?hostaddr=192.0.2.1",
        "postgresql://127.0.0.1,db.example.com/d",
        "postgresql://u:secret@x:y:z/d",
        "secret",
        "postgresql:///d?service=remote",
    ],
)
def test_a_database_of_another_machine_is_refused(url: str, capsys: Capture):
    """In every form of the URL, without the password in the error."""
    assert trigger(url, "INSERT", "people") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "secret" not in err


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGSERVICE"])
def test_a_database_that_the_environment_names_is_checked_too(
    name: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """libpq takes what the URL does not say from variables and service files; another machine is refused there too."""
    services = tmp_path / "services.conf"
    services.write_text("[192.0.2.1]\nhost=192.0.2.1\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv(name, "192.0.2.1")
    assert trigger("postgresql:///d", "INSERT", "people") == 2
    assert "on this machine only" in capsys.readouterr().err


def test_a_context_in_the_environment_is_not_mixed_with_the_database_of_a_file(
    database: str, sql: Connection[TupleRow], capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """With SUPAWIRE_CONTEXT the server is that of the context, so the database in `.env` is not changed."""
    sql.execute(SETUP)
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(f"SUPAWIRE_DATABASE_URL='{database}'\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SUPAWIRE_CONTEXT", "other")
    assert run(["trigger", "INSERT", "people"]) == 2
    assert "there is no context other" in capsys.readouterr().err
    assert sql.execute("select count(*) from people").fetchall() == [(0,)]
