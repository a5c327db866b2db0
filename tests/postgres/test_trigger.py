"""`supawire trigger` with a database."""

import json
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
    ],
)
def test_a_database_of_another_machine_is_refused(url: str, capsys: Capture):
    """In every form of the URL, without the password in the error."""
    assert trigger(url, "INSERT", "people") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "secret" not in err
