"""Mirrors of tables in PostgreSQL during writes and lost connections."""

import random
import threading
from collections.abc import Callable
from typing import Any, LiteralString, cast

import psycopg
import pytest
from psycopg.rows import dict_row

from supawire import LocalServer, col, connect
from supawire.options import Backoff

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"backoff": Backoff(0.01, 0.05), "rejoin_backoff": Backoff(0.01, 0.05)}
SCHEMA = """
    create table public.items (id uuid primary key default gen_random_uuid(), n int not null, price numeric(10, 2),
      at timestamptz default now(), body text);
    grant select on public.items to anon, authenticated;
    alter publication supabase_realtime add table public.items;
"""
WRITES = (
    "insert into items (n, price, body) select {n}, {n}.5, string_agg(md5(i::text), '') from generate_series(1, 400) i",
    "insert into items (n) values ({n})",
    "update items set n = {n}, at = clock_timestamp() where id = (select id from items order by random() limit 1)",
    "update items set n = {n} where n % 5 = {n} % 5",
    "update items set id = gen_random_uuid(), n = {n} where id = (select id from items order by random() limit 1)",
    "update items set body = repeat(md5(random()::text), 200) where n % 7 = {n} % 7",
    "delete from items where id = (select id from items order by random() limit 1)",
    "delete from items where n = {n}",
    "begin; insert into items (n) values ({n}), (7); update items set n = n + 1 where n < 9; commit",
    "begin; delete from items; rollback",
)


class Writer(threading.Thread):
    """Writes to the table until it is stopped."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.rng = random.Random(seed)
        self.over = threading.Event()
        self.writes = 0

    def run(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not self.over.wait(0.02):
                text = self.rng.choice(WRITES).format(n=self.rng.randrange(20))
                connection.execute(cast("LiteralString", text))
                self.writes += 1


def query(url: str, condition: LiteralString) -> Callable[[], list[dict[str, Any]]]:
    """Return a fetch of the matching rows."""

    def fetch() -> list[dict[str, Any]]:
        with psycopg.connect(url) as connection, connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute("select * from items where " + condition).fetchall()

    return fetch


@pytest.mark.parametrize("where", [None, col("n") >= 10], ids=["all", "filtered"])
def test_a_mirror_converges_to_its_table(database: str, where: Any) -> None:
    """With two writers, large values, rollbacks and lost connections, the mirror ends as the table (R42, R44)."""
    errors: list[Exception] = []
    fetch = query(database, "true" if where is None else "n >= 10")
    with LocalServer(database=database) as server:
        server.sql(SCHEMA)
        writers = [Writer(database, seed) for seed in range(2)]
        for writer in writers:
            writer.start()
        with (
            connect(server.url, server.anon_key, on_error=errors.append, **QUICK) as client,
            client.mirror("items", key="id", fetch=fetch, where=where, settle=0.3) as items,
        ):
            for _ in range(3):
                before = sum(writer.writes for writer in writers)
                while sum(writer.writes for writer in writers) < before + 40:
                    threading.Event().wait(0.01)
                server.drop_connections()
            for writer in writers:
                writer.over.set()
                writer.join()
            _until(lambda: items.live and items.snapshot() == {row["id"]: row for row in fetch()})
            assert errors == []
            assert len(items) > 0


def _until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail after a while."""
    for _ in range(600):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not happen")
