"""Messages in a topic of Kafka. Needs the package `aiokafka`."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]
from aiokafka.errors import (  # pyright: ignore[reportMissingTypeStubs]
    KafkaError,
    MessageSizeTooLargeError,
)

from supawire._display import printable
from supawire.bridge.messages import BridgeMessage, Failure, Result, subject_text
from supawire.options import check_count, check_text

TIMEOUT: Final = 10.0
"""Seconds for a connection."""


class Kafka:
    """Sends messages to a topic of Kafka, with the key of each, and its id and subject as headers.

    The producer is idempotent: Kafka removes duplicates that its own retries make. A message that is sent again by
    another process, or by the same after a restart, is stored again; readers tell it by the header `id`. Messages with
    the same key are in one partition, in order.

    Args: servers: `host:port`, several separated by commas. topic: all messages go there. options: further arguments
        of `aiokafka.AIOKafkaProducer`, such as `security_protocol`.
    """

    ordered: bool = True

    def __init__(
        self,
        servers: str,
        *,
        topic: str = "supawire",
        wave: int = 100,
        producer: Callable[..., Any] = AIOKafkaProducer,
        **options: Any,
    ) -> None:
        self.name: str = f"the Kafka topic {check_text('topic', topic)!r}"
        self.wave: int = check_count("wave", wave, maximum=1000)
        self._servers: Final = check_text("servers", servers).split(",")
        self._topic: Final = topic
        self._make: Final = producer
        self._options: Final = options
        self._producer: Any = None

    def __repr__(self) -> str:
        return f"<Kafka {self._topic!r}>"

    async def publish(self, messages: Sequence[BridgeMessage]) -> Sequence[Result]:
        """Send messages in order, and wait for all confirmations."""
        try:
            async with asyncio.timeout(TIMEOUT):
                producer = await self._open()
        except (KafkaError, OSError, TimeoutError) as error:
            return [_failure(error)]
        sent: list[Any] = []
        for message in messages:
            try:
                headers = [("id", message.id.encode()), ("subject", subject_text(message).encode())]
                sent.append(await producer.send(self._topic, message.body, key=message.key.encode(), headers=headers))
            except (KafkaError, OSError) as error:
                sent.append(error)
                if not isinstance(error, MessageSizeTooLargeError):
                    break
        results: list[Result] = [await _result(one) for one in sent]
        if any(isinstance(result, Failure) and result.kind == "away" for result in results):
            await self.close()  # an idempotent producer cannot go on after some errors; ids of the next one are new
        return results

    async def _open(self) -> Any:
        if self._producer is None:
            producer = self._make(
                **{"bootstrap_servers": self._servers, "enable_idempotence": True, "acks": "all", **self._options}
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def close(self) -> None:
        """Close the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError):  # what was not sent is known already
                await producer.stop()


async def _result(sent: Any) -> Result:
    if isinstance(sent, Exception):
        return _failure(sent)
    try:
        await sent
    except (KafkaError, OSError) as error:
        return _failure(error)
    return "stored"


def _failure(error: Exception) -> Failure:
    kind = "rejected" if isinstance(error, MessageSizeTooLargeError) else "away"
    return Failure(printable(f"{type(error).__name__}: {error}"), kind)
