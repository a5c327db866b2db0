"""Facts about tables are never older than the batch of changes that they are used for."""

from typing import Any, cast

import psycopg
import pytest

from supawire.server.postgres.catalog import Catalog, Facts
from supawire.server.postgres.database import Database

from .listening import Listeners, of
from .test_changes import publish, run

COLUMNS = [["id"], ["int4"], [True]]
CLOSED = Facts("notes", True, frozenset({"id"}), (("id", "int4"),), frozenset({"id"}))


class FakeDatabase:
    """Answers with these snapshots in turn, the last one again and again; row security is on from the last one on."""

    def __init__(self, *snapshots: str) -> None:
        self.snapshots = list(snapshots)
        self.version_queries = 0
        self.facts_queries = 0

    async def query(self, text: str, parameters: list[list[Any]]) -> list[Any]:
        if "pg_current_snapshot" in text:
            self.version_queries += 1
            snapshot = self.snapshots.pop(0) if len(self.snapshots) > 1 else self.snapshots[0]
            return [(snapshot, oid, snapshot) for oid in parameters[0]]
        self.facts_queries += 1
        secured = len(self.snapshots) == 1
        return [(oid, role, "notes", secured, ["id"], *COLUMNS) for oid in parameters[0] for role in parameters[1]]


async def test_a_snapshot_without_the_batch_is_queried_again():
    """Row level security that the batch's own transaction enabled applies to the batch."""
    database = FakeDatabase("7:7:", "7:7:", "9:9:")
    assert await Catalog(cast("Database", database)).facts([1], ["anon"], [8]) == {(1, "anon"): CLOSED}
    assert (database.version_queries, database.facts_queries) == (3, 1)


async def test_a_snapshot_with_a_part_of_the_batch_is_queried_again():
    """It must include every transaction of the batch."""
    database = FakeDatabase("7:7:", "7:9:8", "9:9:")
    assert await Catalog(cast("Database", database)).facts([1], ["anon"], [6, 8]) == {(1, "anon"): CLOSED}
    assert database.version_queries == 3


async def test_facts_are_cached_until_the_version_changes():
    """An unchanged table costs one query for its version; a new version loads the facts again."""
    database = FakeDatabase("9:9:")
    catalog = Catalog(cast("Database", database))
    await catalog.facts([1], ["anon"], [8])
    await catalog.facts([1], ["anon"], [8])
    assert (database.version_queries, database.facts_queries) == (2, 1)
    database.snapshots = ["10:10:"]
    await catalog.facts([1], ["anon"], [9])
    assert database.facts_queries == 2


@pytest.mark.slow
@pytest.mark.parametrize("hide", ["alter table notes enable row level security", "revoke all on notes from anon"])
@pytest.mark.parametrize("order", ["insert first", "hide first"])
def test_privileges_removed_in_the_transaction_of_a_row_apply_to_it(
    listeners: Listeners, sql: psycopg.Connection[tuple[object, ...]], hide: str, order: str
):
    """Whichever comes first in the transaction, the row is checked with the privileges after its commit.

    The real server also checks after the commit.
    """
    publish(sql, "notes", "id int4 primary key, body text", "grant select on notes to anon")
    with (
        listeners.listen(of("notes"), role="anon") as anon,
        listeners.listen(of("notes"), role="service_role") as service,
    ):
        for number in range(5):
            run(sql, f"insert into notes values ({number * 2}, 'open')")
            assert anon.change()["record"] == {"id": number * 2, "body": "open"}
            insert = f"insert into notes values ({number * 2 + 1}, 'hidden')"
            run(sql, "begin", *([insert, hide] if order == "insert first" else [hide, insert]), "commit")
            while service.change().get("record") != {"id": number * 2 + 1, "body": "hidden"}:
                pass  # now it is decided
            run(sql, "alter table notes disable row level security", "delete from notes")
            while (data := anon.change())["type"] != "DELETE":
                assert data["record"] == {}
            anon.change()
            run(sql, "grant select on notes to anon")
