"""Chat in the terminal: send each line that you type, and show the lines of others.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/chat.py alice

End it with Ctrl-D. While the connection is lost, lines are kept for up to ten seconds and sent when it is restored.
"""

import asyncio
import os
import sys

from supawire import (
    AsyncChannel,
    AsyncStream,
    Broadcast,
    PresenceEvent,
    PresenceJoin,
    PresenceLeave,
    RealtimeError,
    broadcast,
    connect_async,
    presence,
)


async def show(events: "AsyncStream[Broadcast[dict[str, str]] | PresenceEvent]") -> None:
    """Print the messages of others, and who joins and leaves. Returns when the channel is left."""
    async for event in events:
        match event:
            case Broadcast():
                print(f"{event.payload['name']}: {event.payload['text']}", flush=True)
            case PresenceJoin(previous=()):
                print(f"* {event.key} is here", flush=True)
            case PresenceLeave(current=()):
                print(f"* {event.key} has left", flush=True)
            case _:
                pass


async def read(room: AsyncChannel, name: str) -> None:
    """Send each line of standard input."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            await room.broadcast("line", {"name": name, "text": line.rstrip("\n")})
        except RealtimeError as error:
            print(f"! not sent: {error}", flush=True)


async def main(name: str) -> None:
    """Stay in the channel until the input ends."""
    async with connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"], offline="wait") as client:
        room = client.channel("room:chat", presence_key=name)
        events = room.listen(broadcast("line"), presence())
        await room.track({})
        async with room, asyncio.TaskGroup() as tasks:
            tasks.create_task(show(events))
            await read(room, name)
            await room.unsubscribe()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: chat.py NAME")
    asyncio.run(main(sys.argv[1]))
