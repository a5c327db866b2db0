"""Databases that come and go with a test."""

from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg.sql import SQL, Identifier

from supawire.server.postgres.cluster import Cluster


@contextmanager
def database(cluster: Cluster, name: str, template: str = "template1") -> Generator[str]:
    """The URL of a new database, which goes at the end of the block, whoever is still in it."""
    with psycopg.connect(cluster.url, autocommit=True) as admin:
        admin.execute(SQL("create database {} template {}").format(Identifier(name), Identifier(template)))
        try:
            yield cluster.url_of(name)
        finally:
            # the process behind a connection that was closed ends a little later, and its temporary slot with it
            admin.execute(
                "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots "
                "where database = %s and active",
                [name],
            )
            admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))
