"""What waits between the stream and the looks at rows."""

import asyncio
from typing import Any

from supawire.server.postgres.replication import MAX_BACKLOG_ROWS, MAX_BATCH_ROWS, Backlog, Batch


def batch(first: int, count: int, end_lsn: int = 0) -> Batch:
    rows: list[Any] = list(range(first, first + count))
    return Batch(rows, end_lsn)


async def test_everything_that_has_come_is_one_batch_in_order():
    """Up to the size of a batch, and with the position that belongs to its last row."""
    backlog = Backlog()
    backlog.add(batch(0, 3, 10))
    backlog.add(batch(3, MAX_BATCH_ROWS - 3, 20))
    backlog.add(batch(MAX_BATCH_ROWS, 1))
    assert await backlog.next() == batch(0, MAX_BATCH_ROWS, 20)
    assert await backlog.next() == batch(MAX_BATCH_ROWS, 1)


async def test_a_position_without_rows_moves_what_is_there():
    """However many come; alone, it is a batch of its own."""
    backlog = Backlog()
    for lsn in range(1, 1000):
        backlog.add(batch(0, 0, lsn))
    assert await backlog.next() == batch(0, 0, 999)
    backlog.add(batch(0, 2))
    backlog.add(batch(0, 0, 7))
    backlog.add(batch(0, 0))
    assert await backlog.next() == batch(0, 2, 7)


async def test_who_takes_waits_for_something_and_who_reads_for_room():
    """Rows are bounded: beyond the limit nothing more is read until some are taken."""
    backlog = Backlog()
    taking = asyncio.create_task(backlog.next())
    await asyncio.sleep(0)
    assert not taking.done()
    backlog.add(batch(0, 1, 1))
    assert await taking == batch(0, 1, 1)
    for first in range(0, MAX_BACKLOG_ROWS, MAX_BATCH_ROWS):
        await backlog.wait_for_space()
        backlog.add(batch(first, MAX_BATCH_ROWS, first))
    reading = asyncio.create_task(backlog.wait_for_space())
    await asyncio.sleep(0)
    assert not reading.done()
    await backlog.next()
    await reading
