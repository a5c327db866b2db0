"""A fresh database for each test, copied from one that was prepared once.

A copy takes a fifth of the time that preparing takes, and a test may do to its database what it likes.
"""

import asyncio
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import psycopg
from psycopg.sql import SQL, Identifier

from supawire.server.postgres.database import Database
from supawire.server.postgres.schema import prepare

COPY: Final = SQL("create database {} template {} strategy file_copy")
COPY_BEFORE_15: Final = SQL("create database {} template {}")

CLOSE: Final = SQL("alter database {} allow_connections false")
"""A server that still runs would come back at once."""
END_STREAMS: Final = (
    "select pg_terminate_backend(active_pid, %s) from pg_replication_slots where active and database = %s"
)
"""`with (force)` ends sessions, but a slot that is in use for a moment longer would still be in the way."""
PATIENCE: Final = 10_000
"""Milliseconds that such a session has to end."""


@dataclass(frozen=True, slots=True)
class Template:
    """A prepared database in the server of this URL."""

    url: str
    name: str


@contextmanager
def template_in(url: str, schema: str = "") -> Generator[Template]:
    """Have a database with what the local server wants and then this SQL; it is dropped at the end.

    `url` is any database of that server, with a role that may make databases and replicate.
    """
    template = Template(url, _new_name())
    _make(url, template.name, "template1")
    try:
        asyncio.run(_fill(_url_of(url, template.name)))
        if schema:
            with psycopg.connect(_url_of(url, template.name), autocommit=True) as connection:
                connection.execute(schema.encode())
        yield template
    finally:
        _drop(url, template.name)


@contextmanager
def copy_of(template: Template) -> Generator[str]:
    """The URL of a fresh copy; it is dropped at the end, whoever is still connected."""
    name = _new_name()
    _make(template.url, name, template.name)
    try:
        yield _url_of(template.url, name)
    finally:
        _drop(template.url, name)


async def _fill(url: str) -> None:
    database = Database(url)
    try:
        await prepare(database, ours=True)
    finally:
        await database.close()


def _new_name() -> str:
    return f"supawire_test_{secrets.token_hex(6)}"


def _url_of(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()


def _make(url: str, name: str, template: str) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        command = COPY if admin.info.server_version >= 150_000 else COPY_BEFORE_15
        admin.execute(command.format(Identifier(name), Identifier(template)))


def _drop(url: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(CLOSE.format(Identifier(name)))
        admin.execute(END_STREAMS, [PATIENCE, name])
        admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))
