"""Wait for something that happens elsewhere, such as in a worker or in PostgreSQL."""

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 30.0
"""Seconds for anything to happen on a machine that is busy."""


async def until(holds: Callable[[], bool]) -> None:
    """Return when the condition holds. Raises: TimeoutError when it takes too long."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.01)
