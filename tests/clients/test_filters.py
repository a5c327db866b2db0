"""Filters with both clients: the server omits rows that do not match."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest

from supawire import LocalServer, Where, changes, col
from supawire.errors import InvalidArgumentError
from tests.clients.client_api import END, ClientApi

pytestmark = pytest.mark.anyio

ROWS: Final[tuple[dict[str, Any], ...]] = (
    {
        "id": 1,
        "total": Decimal("99.99"),
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "key": UUID(int=1),
        "note": 'say "hi", (loud)',
        "data": b"\xde\xad",
        "done": True,
    },
    {
        "id": 2**53 + 1,
        "total": Decimal("100.00"),
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "key": UUID(int=2),
        "note": "C:\\x",
        "data": b"",
        "done": False,
    },
    {"id": 3, "total": None, "at": None, "key": None, "note": None, "data": None, "done": None},
)
WANTED: Final[tuple[tuple[Where, set[int]], ...]] = (
    (col("total") >= Decimal("99.99"), {0, 1}),
    (col("total") > 99.99, {1}),
    (~(col("total") >= 100), {0}),
    (col("id") == 2**53, set()),
    (col("id") == 2**53 + 1, {1}),
    (col("at") < datetime(2026, 1, 2, tzinfo=UTC), {0}),
    (col("key").in_([UUID(int=2), UUID(int=3)]), {1}),
    (col("note") == 'say "hi", (loud)', {0}),
    (col("note").in_(["C:\\x", 'say "hi", (loud)']), {0, 1}),
    (col("note").like("C:\\\\%"), {1}),
    (col("note").imatch("HI.*[(]"), {0}),
    (col("data") == b"\xde\xad", {0}),
    (col("done").is_(False), {1}),
    (~col("done").is_(True), {1, 2}),
    (col("note").is_(None), {2}),
    (col("note").is_distinct_from("C:\\x") & ~col("note").is_(None), {0}),
    ((col("total") >= 1) & (col("id") < 10) & (col("done") == True), {0}),  # noqa: E712
)


async def test_exactly_the_matching_rows_arrive(api: ClientApi, server: LocalServer):
    """Each of many filters, with every type of value, lets through exactly the rows that match it (R43)."""
    async with api.client(server) as client:
        room = await client.channel("db")
        received = [await room.listen(changes("orders", where=where)) for where, _ in WANTED]
        await room.subscribe(wait="ready")
        for row in ROWS:
            server.emit("INSERT", "orders", record=row)
        got = [await each.take(len(wanted)) for each, (_, wanted) in zip(received, WANTED, strict=True)]
        assert [{ROWS.index(change.record) for change in came} for came in got] == [wanted for _, wanted in WANTED]
        await room.unsubscribe()
        assert [await each.next() for each in received] == [END] * len(received)  # no other event arrived


async def test_the_key_decides_about_a_delete(api: ClientApi, server: LocalServer):
    """A DELETE is matched by its old row, which contains only the key (R43)."""
    async with api.client(server) as client:
        room = await client.channel("db")
        by_key = await room.listen(changes("orders", event="DELETE", where=col("id") >= 2))
        by_total = await room.listen(changes("orders", event="DELETE", where=col("total") >= 0))
        await room.subscribe(wait="ready")
        for number in (1, 2):
            server.emit("DELETE", "orders", old_record={"id": number})
        assert (await by_key.next()).old_record == {"id": 2}
        await room.unsubscribe()
        assert await by_total.next() == END


async def test_a_wrong_filter_raises_before_anything_is_sent(api: ClientApi, server: LocalServer):
    """An expression that cannot be sent raises where it is written, and the channel is unchanged (R43)."""
    async with api.client(server) as client:
        room = await client.channel("db")
        with pytest.raises(InvalidArgumentError, match="an empty list never matches"):
            await room.listen(changes("orders", where=col("id").in_([])))
        with pytest.raises(InvalidArgumentError, match="filter= and where="):
            await room.listen(changes("orders", filter="id=eq.1", where=col("id") == 1))
        assert not any(frame.event == "phx_join" for frame in server.frames)
