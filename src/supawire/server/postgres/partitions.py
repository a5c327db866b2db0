"""One day after the other: the partitions of `realtime.messages` (protocol §6.3, §6.4)."""

import asyncio
import logging
from typing import Final

from supawire.server.postgres.database import DatabaseError
from supawire.server.postgres.ground import Answers, Ground

logger: Final = logging.getLogger("supawire.server")

EVERY: Final = 60.0
"""Seconds. Partitions are made two days ahead, but a machine may sleep longer, and this clock with it."""
_OURS: Final = """
    select exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                   where n.nspname = 'realtime' and proname = 'keep_partitions'
                   and pg_has_role(current_user, p.proowner, 'usage'))
"""
_KEEP: Final = "select realtime.keep_partitions()"


class Partitions:
    """Makes and drops them where the schema is ours; others are kept by their owner, as those of a real project."""

    def __init__(self, ground: Ground, every: float = EVERY) -> None:
        self._database = ground.database
        self._every = every
        self._ours = False

    @property
    def answers(self) -> Answers:
        """None."""
        return {}

    async def start(self) -> None:
        """Have those of today."""
        self._ours = bool((await self._database.query(_OURS))[0][0])
        if self._ours:
            await self._database.query(_KEEP)

    async def run(self) -> None:
        """Have those of tomorrow."""
        while True:
            await asyncio.sleep(self._every)
            try:
                if self._ours:
                    await self._database.query(_KEEP)
            except DatabaseError as error:  # the next time is early enough
                logger.warning("the partitions of realtime.messages could not be kept: %s", error)

    async def stop(self) -> None:
        """Nothing is held."""

    def unsubscribe(self, channel: int) -> None:
        """Nothing is bound."""
