"""The orderly end: take nothing new, let what is under way finish, leave, close; within a deadline.

Only the door takes nothing new. The core goes on as ever, so a lost connection comes back and queued sends go out.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from supawire.errors import OperationTimeout, StateError
from supawire.types import LinkState

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

SENDS: Final = frozenset({"broadcast", "track", "publish"})
"""What callers are owed for sending; subscriptions that are still wanted end with the leave."""


def check_taking(driver: "Driver") -> None:
    """Before every call that begins something: refuse it while the client drains; when it is closed, that is said."""
    if driver.draining and driver.session.state is not LinkState.CLOSED:
        raise StateError("the client is draining: it finishes what it has, and takes nothing new")


async def drain(driver: "Driver", topics: Iterable[str], timeout: float | None) -> None:
    """Finish sends, leave the channels, close; see `AsyncClient.drain`."""
    driver.spare()
    driver.draining = True
    late: OperationTimeout | None = None
    try:
        async with asyncio.timeout(timeout):
            await _sends(driver)
            await _leave(driver, topics)
    except TimeoutError:
        owed = len(driver.owed(SENDS))
        what = f"{owed} sends were" if owed else "the leave of a channel was"
        late = OperationTimeout(f"{what} not finished in time; the client is closed")
    except asyncio.CancelledError:
        driver.abort(None)
        raise
    await driver.close()
    if late is not None:
        raise late


async def _sends(driver: "Driver") -> None:
    """Each has its own caller, who hears how it ended."""
    while owed := driver.owed(SENDS):
        await asyncio.wait(owed)


async def _leave(driver: "Driver", topics: Iterable[str]) -> None:
    """A leave is answered after all that was sent before, and takes our presence along (protocol §3.3, §5)."""
    session = driver.session
    wanted = [topic for topic in topics if session.channels[topic].wanted]
    leaves = [driver.promise(session.leave(topic, float("inf"), driver.now())) for topic in wanted]
    await asyncio.gather(*leaves, return_exceptions=True)  # what is lost with the connection has left as well
