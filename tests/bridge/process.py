"""The process that is killed: it runs a bridge of a table and a topic."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final

from supawire.bridge import Bridge, JetStream, PostgresCheckpoint, RedisStreams, make_broker
from supawire.bridge.messages import BridgeMessage, Failure, Result
from supawire.options import Backoff

TOPIC: Final = "kills"


class Counting:
    """A broker that writes to a file, for each call which process has made it, and for each message the result."""

    def __init__(self, broker: RedisStreams | JetStream, path: str) -> None:
        self._broker = broker
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.name: str = broker.name
        self.ordered: bool = broker.ordered
        self.wave: int = broker.wave

    async def publish(self, messages: Sequence[BridgeMessage]) -> Sequence[Result]:
        os.write(self._file, f"leader {os.getpid()}\n".encode())
        results = await self._broker.publish(messages)
        names = ("failure" if isinstance(one, Failure) else one for one in results)
        os.write(self._file, "".join(f"{name}\n" for name in names).encode())
        return results

    async def close(self) -> None:
        await self._broker.close()


def work(settings: dict[str, str]) -> None:
    """Run the bridge until killed."""
    made: Any = make_broker(settings["broker"])
    bridge = Bridge(
        settings["url"],
        settings["key"],
        token=settings["token"],
        to=Counting(made, settings["log"]),
        checkpoint=PostgresCheckpoint(settings["database"]),
        database=settings["database"],
        poll=0.05,
        backoff=Backoff(initial=0.05, maximum=0.5),
        on_error=lambda _: None,
    )
    bridge.table("items")
    bridge.topic(TOPIC)
    asyncio.run(bridge.serve())
