"""What was read from the stream and not dealt with yet.

Reading goes on while a look at rows takes long, as when somebody has locked a table: messages, which nobody has to look
at, are delivered meanwhile. What is taken next is everything that has come, up to one batch.
"""

import asyncio
from collections import deque
from typing import Final

from supawire.server.postgres.replication import BATCH, Batch

LIMIT: Final = 5 * BATCH
"""Rows that may wait here; beyond that they wait at the database."""


class Backlog:
    """Batches in the order in which they came."""

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._rows = 0
        self._came: Final = asyncio.Event()
        self._room: Final = asyncio.Event()
        self._room.set()

    def add(self, batch: Batch) -> None:
        """One more. Without rows it only moves the position of the one before it."""
        if self._batches and not batch.rows:
            self._batches[-1] = self._batches[-1]._replace(end_lsn=batch.end_lsn or self._batches[-1].end_lsn)
            return
        self._batches.append(batch)
        self._rows += len(batch.rows)
        self._came.set()
        if self._rows >= LIMIT:
            self._room.clear()

    async def room(self) -> None:
        """Return when another batch may be read."""
        await self._room.wait()

    async def next(self) -> Batch:
        """The oldest batches as one, with the position up to which it goes."""
        await self._came.wait()
        batch = self._batches.popleft()
        while self._batches and len(batch.rows) + len(self._batches[0].rows) <= BATCH:
            more = self._batches.popleft()
            batch = Batch([*batch.rows, *more.rows], more.end_lsn or batch.end_lsn)
        self._rows -= len(batch.rows)
        if not self._batches:
            self._came.clear()
        if self._rows < LIMIT:
            self._room.set()
        return batch
