"""Mirrors that start with the rows of an earlier run, and mirrors that are verified, with both clients."""

import asyncio
import random
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from supawire import (
    LocalServer,
    MirrorState,
    Resynced,
    RowDeleted,
    RowInserted,
    RowUpdated,
    Summary,
    VerifiedTable,
    connect_async,
)
from supawire._mirror_events import Rows, RowView
from supawire.aio.mirror_support import MirrorCacheTask
from supawire.core.mirror import MirrorCore, MirrorSettings
from supawire.core.table_copy import KeyColumns
from supawire.core.verification import bucket_of, digest_of, key_text
from supawire.errors import CacheError, InvalidArgumentError
from supawire.events import Instant
from tests.clients.client_api import AwaitableProxy, ClientApi, until
from tests.clients.test_mirrors import mirror_of

pytestmark = pytest.mark.anyio

TABLE = {1: {"id": 1, "name": "alice", "v": 1}, 2: {"id": 2, "name": "bob", "v": 1}}


class NeverFetched:
    """A table whose fetch does not return."""

    def __iter__(self) -> Any:
        raise LookupError("the database is away")


async def cached(client: AwaitableProxy, path: Path, **options: Any) -> AwaitableProxy:
    """Return a mirror with a snapshot file whose fetch fails."""
    return await mirror_of(client, {}, fetch=lambda: iter(NeverFetched()), cache=path, **options)


async def test_a_mirror_starts_with_the_rows_of_the_last_run(api: ClientApi, server: LocalServer, tmp_path: Path):
    """The rows are shown at once, marked as not live and with their time; then the fetched ones replace them."""
    path = tmp_path / "users.db"
    async with api.client(server) as client:
        mirror = await mirror_of(client, TABLE, cache=path)
        await mirror.ready()
        assert mirror.cached_at is None
        events = await mirror.listen()
        await events.next()
        server.emit("UPDATE", "users", record={"id": 2, "name": "bert", "v": 2})
        await events.next()
        await mirror.close()
    async with api.client(server, on_error=lambda error: None) as client:
        mirror = await cached(client, path)
        events = await mirror.listen()
        first = await events.next()
        assert isinstance(first, Resynced) and first.reason in ("cache", "begin")
        assert first.rows == {1: TABLE[1], 2: {"id": 2, "name": "bert", "v": 2}} == await mirror.snapshot()
        assert not mirror.live and mirror.cached_at is not None
        await mirror.close()
        mirror = await mirror_of(client, {3: {"id": 3, "name": "carol", "v": 1}}, cache=path)
        await mirror.ready()
        assert list(await mirror.snapshot()) == [3] and mirror.cached_at is None
        await mirror.close()


async def saved_rows(api: ClientApi, server: LocalServer, path: Path, who: str, **options: Any) -> int:
    """Return how many rows a mirror of this user shows from the file."""
    token = server.token("authenticated", 200, sub=who)
    async with api.client(server, token=token, on_error=lambda error: None) as client:
        mirror = await cached(client, path, **options)
        cache: Any = getattr(mirror.inner, "_async", mirror.inner)._cache
        await until(cache._running.done)
        count = len(mirror.inner)
        await mirror.close()
        return count


async def test_another_user_does_not_see_the_rows(api: ClientApi, server: LocalServer, tmp_path: Path):
    """Rows are shown again to the same user with a newer token, and not to another user, nor for another selection."""
    path = tmp_path / "users.db"
    token = server.token("authenticated", 100, sub="alice")
    async with api.client(server, token=token) as client:
        mirror = await mirror_of(client, TABLE, cache=path)
        await mirror.ready()
        await mirror.close()
    assert not any(part.encode() in path.read_bytes() for part in (token, *token.split(".")))
    assert await saved_rows(api, server, path, "alice") == 2
    assert await saved_rows(api, server, path, "alice", filter="v=eq.1") == 0
    assert await saved_rows(api, server, path, "alice", select=["name"]) == 0
    assert await saved_rows(api, server, path, "bob") == 0


async def test_a_change_of_the_user_stops_saving(api: ClientApi, server: LocalServer, tmp_path: Path):
    """Rows that were fetched for one user are not saved for another one whose token the client has got meanwhile."""
    path = tmp_path / "users.db"
    async with api.client(server, token=server.token("authenticated", 100, sub="alice")) as client:
        mirror = await mirror_of(client, TABLE, cache=path, pause=60)
        await mirror.ready()
        await client.set_auth(server.token("authenticated", 100, sub="bob"))
        await mirror.close()
    assert await saved_rows(api, server, path, "bob") == 0


async def test_the_path_of_a_file_is_required(api: ClientApi, server: LocalServer):
    """Anything but the path of a file is refused at once."""
    async with api.client(server) as client:
        for wrong in (5, b"users.db", ""):
            with pytest.raises(InvalidArgumentError, match="cache must be the path of a file"):
                await mirror_of(client, TABLE, cache=wrong)


@pytest.mark.parametrize("damage", ["text", "cut", "other"])
async def test_a_damaged_file_is_reported_and_the_rows_are_fetched(
    api: ClientApi, server: LocalServer, tmp_path: Path, damage: str
):
    """A damaged file is reported and kept under another name; the file of something else is not touched."""
    path = tmp_path / "users.db"
    errors: list[Exception] = []
    async with api.client(server, on_error=errors.append) as client:
        if damage != "text":
            mirror = await mirror_of(client, TABLE, cache=path)
            await mirror.ready()
            await mirror.close()
        if damage == "other":
            path.unlink()
            with sqlite3.connect(path) as connection:
                connection.execute("create table mine (a)")
            connection.close()
        else:
            path.write_bytes(path.read_bytes()[:5000] + b"\xff" * 4000 if damage == "cut" else b"text " * 1000)
        before = path.read_bytes()
        mirror = await mirror_of(client, TABLE, cache=path)
        await mirror.ready()
        assert len(mirror.inner) == 2
        await mirror.close()
        assert any(isinstance(error, CacheError) for error in errors)
        if damage == "other":
            assert path.read_bytes() == before
        else:
            assert path.with_name("users.db.damaged").read_bytes() == before
            with sqlite3.connect(path) as connection:
                assert connection.execute("select count(*) from rows").fetchone() == (2,)
            connection.close()


class SlowToRead(MirrorCore):
    """A mirror that takes a file's rows only when it may."""

    may_read = threading.Event()
    read_whole = False

    def read(self, given: Iterable[Any]) -> Rows:
        self.may_read.wait(10)
        self.read_whole = True
        return super().read(given)


async def test_a_file_is_not_written_while_it_is_read(server: LocalServer, tmp_path: Path):
    """A save that begins while the file is being read waits for it."""
    settings = MirrorSettings("users", ("id",))
    async with connect_async(server.url, server.service_key) as client:
        machine = SlowToRead(settings, RowView(KeyColumns(("id",)).shown, dict), random.Random(1))
        task = MirrorCacheTask(client._driver, str(tmp_path / "users.db"), settings, machine, lambda: None)
        task.fetch_began()
        task.save({(1,): TABLE[1]}, whole=True)
        await task.finish(Instant(0.0, 0.0))
        task.load()
        task.save({(2,): TABLE[2]}, whole=True)
        asyncio.get_running_loop().call_later(0.1, machine.may_read.set)
        await task.finish(Instant(0.0, 0.0))
        assert machine.read_whole


class TableVerifier:
    """A verifier of a dict."""

    version: str | None = "v"

    def __init__(self, table: Mapping[int, dict[str, Any]]) -> None:
        self.table = table

    def summary(self, table: VerifiedTable, buckets: int) -> Summary:
        assert (table.schema, table.name, table.key) == ("public", "users", ("id",))
        found: dict[int, tuple[int, int]] = {}
        for row in self.table.values():
            text = key_text(row, table.key)
            count, total = found.get(bucket_of(text, buckets), (0, 0))
            found[bucket_of(text, buckets)] = count + 1, (total + digest_of(text, str(row["v"]))) % 2**64
        return Summary(found)

    def versions(
        self, table: VerifiedTable, buckets: int, chosen: Sequence[int]
    ) -> Iterable[tuple[Mapping[str, Any], str]]:
        return [
            ({"id": key}, str(row["v"])) for key, row in self.table.items() if bucket_of(str(key), buckets) in chosen
        ]


async def test_lost_changes_are_repaired(api: ClientApi, server: LocalServer):
    """An insert, an update and a delete of which no change arrived are found, and only these rows are fetched."""
    table: dict[int, dict[str, Any]] = {key: {"id": key, "name": "x", "v": 1} for key in range(1, 201)}
    async with api.client(server) as client:
        mirror = await mirror_of(
            client,
            table,
            fetch_row=lambda key: table.get(key["id"]),
            verify=0.05,
            verifier=TableVerifier(table),
            settle=0.01,
        )
        await mirror.ready()
        events = await mirror.listen()
        await events.next()
        table[1] = {"id": 1, "name": "y", "v": 2}
        assert isinstance(changed := await events.next(), RowUpdated) and changed.row == table[1]
        del table[2]
        assert isinstance(gone := await events.next(), RowDeleted) and gone.key == 2
        table[999] = {"id": 999, "name": "z", "v": 1}
        assert isinstance(added := await events.next(), RowInserted) and added.row == table[999]
        await until(lambda: mirror.state is MirrorState.LIVE)
        stats = await mirror.stats()
        assert (stats.fetches, stats.row_fetches, stats.differences) == (1, 3, 3)
        assert stats.verifications >= 3 and stats.verified_at is not None
        assert await mirror.snapshot() == table


async def test_without_fetch_row_all_rows_are_fetched(api: ClientApi, server: LocalServer):
    """Without `fetch_row` a difference makes the mirror fetch all rows, which is one `Resynced` with the reason."""
    table = {key: dict(row) for key, row in TABLE.items()}
    async with api.client(server) as client:
        mirror = await mirror_of(client, table, verify=0.05, verifier=TableVerifier(table), settle=0.01)
        await mirror.ready()
        events = await mirror.listen()
        await events.next()
        table[1]["v"] = 2
        repaired = await events.next()
        assert isinstance(repaired, Resynced) and repaired.reason == "verify: 1 rows differ"
        assert repaired.rows == table


async def test_verification_without_a_verifier_compares_by_fetching(api: ClientApi, server: LocalServer):
    """Without a verifier the rows are fetched and compared, and the mirror stays live."""
    table = {key: dict(row) for key, row in TABLE.items()}
    async with api.client(server) as client:
        mirror = await mirror_of(client, table, verify=0.05)
        await mirror.ready()
        events = await mirror.listen()
        await events.next()
        table[3] = {"id": 3, "name": "carol", "v": 1}
        repaired = await events.next()
        assert isinstance(repaired, Resynced) and repaired.reason == "compared"
        assert (await mirror.stats()).differences == 1


async def test_a_wrong_verifier_is_refused_or_reported(api: ClientApi, server: LocalServer):
    """An object that is not a verifier is refused at once; one that raises or returns something else is reported, and
    the mirror stays live."""
    errors: list[Exception] = []

    class Wrong(TableVerifier):
        def summary(self, table: VerifiedTable, buckets: int) -> Any:
            return {"rows": 2}

    async with api.client(server, on_error=errors.append) as client:
        for options in (
            {"verify": 1, "refresh_every": 1}, {"verifier": Wrong(TABLE)}, {"verify": 1, "verifier": Wrong},
            {"verify": 1, "verifier": "postgresql://…"}, {"verify": 0},
            {"verify": 1, "verifier": TableVerifier(TABLE), "select": ["name"]},
        ):  # fmt: skip
            with pytest.raises(InvalidArgumentError):
                await mirror_of(client, TABLE, **options)
        mirror = await mirror_of(client, TABLE, verify=0.01, verifier=Wrong(TABLE))
        await mirror.ready()
        await until(lambda: errors)
        assert "Summary" in str(errors[0]) and mirror.live
