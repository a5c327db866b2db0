"""supawire's blocking door: `python -m benchmarks.clients.blocking URL TOPIC SCENARIO`."""

import sys
import threading
from typing import Any

from benchmarks.clients.meter import Meter, say
from benchmarks.clients.ours import HANDLERS
from benchmarks.frames import EVENT, TABLE
from supawire import Selector, Stream, broadcast, changes, connect


def main(url: str, topic: str, scenario: str) -> None:
    """Join with the listener of this scenario, then let it count."""
    meter = Meter()
    with connect(url, "key") as client:
        channel = client.channel(topic)
        selector: Selector[Any] = changes(TABLE) if scenario.startswith("change") else broadcast(EVENT)
        if scenario.endswith("iterated"):
            threading.Thread(target=iterate, args=(channel.listen(selector), meter)).start()
        else:
            channel.on(selector, HANDLERS[scenario](meter))
        channel.subscribe()
        say("joined")
        for line in sys.stdin:
            meter.start(int(line))
            say("ready")


def iterate(messages: Stream[Any], meter: Meter) -> None:
    """`for` that reads what was sent."""
    for message in messages:
        _ = message.payload
        meter.left -= 1
        if not meter.left:
            meter.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
