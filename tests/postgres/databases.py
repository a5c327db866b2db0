"""Create and empty databases for tests.

Creating one takes ten times as long as emptying one, because it writes three hundred files.
"""

from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg.sql import SQL, Identifier

from supawire.server.postgres import preflight
from supawire.server.postgres.cluster import Cluster

EMPTY = b"""
do $$
declare
  name text;
begin
  for name in select pubname from pg_publication loop
    execute format('drop publication %I', name);
  end loop;
  for name in select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' loop
    execute format('drop schema %I cascade', name);
  end loop;
  execute format('alter database %I reset all', current_database());
end $$;
create schema public;
grant usage on schema public to public;
"""


@contextmanager
def database(cluster: Cluster, name: str, template: str = "template1") -> Generator[str]:
    """Provide the URL of a new database, which is dropped at the end of the block even if it is in use."""
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


def empty(url: str) -> None:
    """End all connections to the database, and make it like a prepared one in an embedded cluster."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        connection.execute(EMPTY)
        connection.execute(preflight.text("schema.sql"))
        connection.execute(preflight.text("open.sql"))
