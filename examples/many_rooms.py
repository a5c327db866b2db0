"""Listen to more rooms than one connection may have: one client, several sockets.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/many_rooms.py 250

Prints each message with its room, until Ctrl-C. The sockets are printed once all rooms are joined.
"""

import asyncio
import os
import sys
from contextlib import suppress

from supawire import Broadcast, broadcast, connect_async


def show(message: Broadcast) -> None:
    """Print a message and its room."""
    print(f"{message.topic}: {message.payload}", flush=True)


async def main(count: int) -> None:
    """Subscribe to this many rooms and show their messages."""
    async with connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"], max_sockets=10) as client:
        rooms = [client.channel(f"room:{number}") for number in range(count)]
        for room in rooms:
            room.on(broadcast(), show)
        # The client keeps to the limit of joins per second, so the time for all of them grows with their number.
        await asyncio.gather(*(room.subscribe(timeout=None) for room in rooms))
        for socket in client.stats().sockets:
            print(f"socket {socket.number}: {socket.channels} rooms", flush=True)
        await client.wait_closed()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1])))
