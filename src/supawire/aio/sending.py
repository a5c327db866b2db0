"""How a broadcast goes out: handed to the socket, confirmed, or kept (R31, R32)."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from supawire.aio.driver import Driver
from supawire.core.effects import Ticket
from supawire.core.outbox import Message
from supawire.types import ChannelState, Sent

SOCKET: Final = Sent("socket")


@dataclass(frozen=True, slots=True)
class AsyncQueuedSent(Sent):
    """A broadcast that waits for the channel to be joined (`offline="queue"`); its failure also reaches `on_error`."""

    _outcome: "asyncio.Future[Sent] | None" = field(default=None, repr=False, compare=False)

    async def wait(self) -> Sent:
        """Wait until it is sent (with ack: confirmed), and say how. Raises why it was not."""
        assert self._outcome is not None
        return await asyncio.shield(self._outcome)


async def send(driver: Driver, topic: str, message: Message) -> Sent:
    """Send one broadcast, or do with it what `offline` says. Raises what became of it instead."""
    session = driver.session
    ticket = session.broadcast(topic, message, driver.now())
    if ticket is None:
        generation, sequence = session.generation, session.sequence
        driver.hand_over()
        if not driver.sockets.has_written(generation, sequence):
            await driver.written(generation, sequence, message.timeout)
        return SOCKET
    if driver.options.offline == "queue" and session.channels[topic].state is not ChannelState.JOINED:
        return _queue(driver, ticket)
    return await driver.outcome(ticket)


def _queue(driver: Driver, ticket: Ticket) -> AsyncQueuedSent:
    outcome = driver.promise(ticket)

    def failed(done: "asyncio.Future[Any]") -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, Exception):
            driver.reports.error(error, "channel")

    outcome.add_done_callback(failed)
    return AsyncQueuedSent("queue", _outcome=outcome)
