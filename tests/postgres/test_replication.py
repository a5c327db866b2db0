"""The backlog of batches between the stream and their processing."""

import asyncio
from typing import Any

from supawire.server.postgres.replication import MAX_BACKLOG_ROWS, MAX_BATCH_ROWS, Backlog, Batch


def batch(first: int, count: int, end_lsn: int = 0) -> Batch:
    rows: list[Any] = list(range(first, first + count))
    return Batch(rows, end_lsn)


async def test_waiting_batches_are_merged_in_order():
    """They are merged up to the maximum size of a batch, with the position of the last row."""
    backlog = Backlog()
    backlog.add(batch(0, 3, 10))
    backlog.add(batch(3, MAX_BATCH_ROWS - 3, 20))
    backlog.add(batch(MAX_BATCH_ROWS, 1))
    assert await backlog.next() == batch(0, MAX_BATCH_ROWS, 20)
    assert await backlog.next() == batch(MAX_BATCH_ROWS, 1)


async def test_a_position_without_rows_is_added_to_the_last_batch():
    """Any number of positions can be added; without a waiting batch a position is a separate batch."""
    backlog = Backlog()
    for lsn in range(1, 1000):
        backlog.add(batch(0, 0, lsn))
    assert await backlog.next() == batch(0, 0, 999)
    backlog.add(batch(0, 2))
    backlog.add(batch(0, 0, 7))
    backlog.add(batch(0, 0))
    assert await backlog.next() == batch(0, 2, 7)


async def test_next_waits_for_a_batch_and_reading_waits_for_space():
    """The number of waiting rows is limited: above the limit reading pauses until some are processed."""
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
