"""New databases for users' tests, copied from a template."""

from typing import TYPE_CHECKING

import pytest

from supawire import changes, connect
from supawire.server import LocalServer
from supawire.testing.databases import copy_of, template_in

if TYPE_CHECKING:
    from supawire.server.postgres.cluster import Cluster

SCHEMA = """
    create table notes (id int primary key);
    alter publication supabase_realtime add table notes;
"""


def databases(url: str) -> set[str]:
    import psycopg

    with psycopg.connect(url) as connection:
        rows = connection.execute("select datname from pg_database where datname like 'supawire_test%'").fetchall()
    return {name for (name,) in rows}


def test_copies_are_independent(cluster: "Cluster") -> None:
    """Each copy has the user's tables, empty, and a server that sends changes at once; at the end no copy is left."""
    before = databases(cluster.url)
    with template_in(cluster.url, SCHEMA) as template:
        for _ in range(2):
            with (
                copy_of(template) as url,
                LocalServer(database=url) as server,
                connect(server.url, server.anon_key) as client,
            ):
                rows = client.channel("notes").listen(changes("notes", event="INSERT"))
                client.channel("notes").subscribe(wait="ready")
                server.sql("insert into notes values (1)")
                assert next(rows).record == {"id": 1}
        assert databases(cluster.url) - before == {template.name}
    assert databases(cluster.url) == before


def test_a_copy_in_use_is_dropped(cluster: "Cluster") -> None:
    """A server that still streams from the copy neither keeps it nor reconnects to it."""
    before = databases(cluster.url)
    with template_in(cluster.url) as template:
        with copy_of(template) as url:
            server = LocalServer(database=url).start()
        assert databases(cluster.url) - before == {template.name}
        server.stop()
    assert databases(cluster.url) == before


def test_a_schema_with_an_error_leaves_no_database(cluster: "Cluster") -> None:
    """PostgreSQL's error is raised."""
    import psycopg

    before = databases(cluster.url)
    with pytest.raises(psycopg.errors.SyntaxError), template_in(cluster.url, "create tabel notes"):
        raise AssertionError
    assert databases(cluster.url) == before
