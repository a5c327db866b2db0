"""supawire's sync client: `python -m benchmarks.clients.sync URL TOPIC TASK`."""

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

from benchmarks.clients.meter import Meter, say
from benchmarks.clients.ours import selectors
from benchmarks.clients.readers import READERS
from benchmarks.scenarios import Task
from supawire import Stream, connect
from supawire.transport.websocket import Reading, WebSocketTransport


def main(url: str, topic: str, text: str) -> None:
    """Join with the listener of this task, then count messages."""
    task, meter = Task(**json.loads(text)), Meter()
    with connect(url, "key", transport=WebSocketTransport(fast=task.fast, reading=Reading(task.reading))) as client:
        channel = client.channel(topic)
        reader = READERS[task.reads](meter)
        for selector in selectors(task):
            if task.by in ("iterator", "batches"):
                iterate = over_batches if task.by == "batches" else over_events
                threading.Thread(target=iterate, args=(channel.listen(selector), reader)).start()
            else:
                channel.on(selector, reader)
        channel.subscribe()
        say("joined")
        for line in sys.stdin:
            meter.start(int(line))
            say("ready")


def over_events(events: Stream[Any], reader: Callable[[Any], None]) -> None:
    """Read the events of the task with `for`."""
    for event in events:
        reader(event)


def over_batches(events: Stream[Any], reader: Callable[[Any], None]) -> None:
    """Read the events of the task in lists."""
    for batch in events.batches():
        for event in batch:
            reader(event)


if __name__ == "__main__":
    main(*sys.argv[1:])
