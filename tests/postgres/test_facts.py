"""What is known of tables when a batch is judged: never older than the batch."""

from collections.abc import Collection, Mapping
from typing import cast

import psycopg
import pytest

from supawire.server.postgres.catalog import Catalog, Facts, TransactionSnapshot
from supawire.server.postgres.visibility import CatalogCache

from .listening import Ear, of
from .test_changes import publish, run

OPEN = Facts("notes", False, frozenset({"id"}), (("id", "int4"),), frozenset({"id"}))
CLOSED = Facts("notes", True, frozenset({"id"}), (("id", "int4"),), frozenset({"id"}))
EARLY, LATE = TransactionSnapshot(7, frozenset()), TransactionSnapshot(9, frozenset())


class FakeCatalog:
    """Answers as the database would, with snapshots in the given order; the last one stays."""

    def __init__(self, *snapshots: TransactionSnapshot) -> None:
        self.snapshots = list(snapshots)
        self.looks = 0
        self.asked = 0

    async def versions(self, oids: Collection[int]) -> tuple[Mapping[int, str], TransactionSnapshot]:
        self.looks += 1
        snapshot = self.snapshots.pop(0) if len(self.snapshots) > 1 else self.snapshots[0]
        return {oid: str(snapshot.below) for oid in oids}, snapshot

    async def facts(self, oids: Collection[int], roles: Collection[str]) -> Mapping[tuple[int, str], Facts]:
        self.asked += 1
        return {(oid, role): OPEN if len(self.snapshots) > 1 else CLOSED for oid in oids for role in roles}


async def test_a_snapshot_without_the_batch_is_asked_for_again():
    """Row level security that the batch's own transaction switched on counts for the batch."""
    catalog = FakeCatalog(EARLY, EARLY, LATE)
    known = CatalogCache(cast("Catalog", catalog))
    assert await known.of([1], ["anon"], [8]) == {(1, "anon"): CLOSED}
    assert (catalog.looks, catalog.asked) == (3, 1)


async def test_a_snapshot_with_a_part_of_the_batch_is_asked_for_again():
    """Every transaction of the batch has to be in it, not any."""
    catalog = FakeCatalog(EARLY, TransactionSnapshot(9, frozenset({8})), LATE)
    assert await CatalogCache(cast("Catalog", catalog)).of([1], ["anon"], [6, 8]) == {(1, "anon"): CLOSED}
    assert catalog.looks == 3


async def test_what_is_known_is_kept_until_the_version_changes():
    """A batch costs one look when nothing changed; a new version asks for everything anew."""
    catalog = FakeCatalog(LATE)
    known = CatalogCache(cast("Catalog", catalog))
    await known.of([1], ["anon"], [8])
    await known.of([1], ["anon"], [8])
    assert (catalog.looks, catalog.asked) == (2, 1)
    catalog.snapshots = [TransactionSnapshot(10, frozenset())]
    await known.of([1], ["anon"], [9])
    assert catalog.asked == 2


@pytest.mark.slow
@pytest.mark.parametrize("hide", ["alter table notes enable row level security", "revoke all on notes from anon"])
@pytest.mark.parametrize("order", ["insert first", "hide first"])
def test_rights_that_end_with_the_transaction_of_the_row(
    ear: Ear, sql: psycopg.Connection[tuple[object, ...]], hide: str, order: str
):
    """Whichever comes first within the transaction: the row is judged by what holds after its commit.

    The real server judges when it polls, after the commit too.
    """
    publish(sql, "notes", "id int4 primary key, body text", "grant select on notes to anon")
    with ear.listen(of("notes"), role="anon") as anon, ear.listen(of("notes"), role="service_role") as service:
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
