"""Listen to rows, broadcasts and the state of the connection at the same time, until Ctrl-C.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/listener.py

Each stream is read by its own task in one group. If one of them raises, because the server refuses its channel
permanently, the group cancels the others, the client is closed, and the program prints the reason.
"""

import asyncio
import os

from supawire import AsyncClient, Gap, RealtimeError, Status, broadcast, changes, connect_async


async def follow_orders(client: AsyncClient) -> None:
    """Print the changes of the table `orders`."""
    channel = client.channel("orders")
    events = channel.listen(changes("orders"))
    await channel.subscribe(wait="ready")
    print("listening to orders", flush=True)
    async for change in events:
        row = change.old_record if change.type == "DELETE" else change.record
        print(change.type, row, flush=True)


async def follow_alarms(client: AsyncClient) -> None:
    """Print each alarm. Reading a stream subscribes its channel if it has never been subscribed."""
    async for message in client.channel("alarms").listen(broadcast("alarm")):
        print("ALARM", message.payload, flush=True)


async def follow_the_connection(client: AsyncClient) -> None:
    """Print when events may have been missed, and the state of the connection."""
    async for event in client.listen():
        match event:
            case Gap():
                print("fetch again:", event.topic, sorted(event.lost), flush=True)
            case Status(topic=None):
                print("the connection is", event.state, flush=True)
            case Status(topic="alarms", state="joined"):
                print("listening to alarms", flush=True)
            case _:
                pass


async def main() -> None:
    """Run until cancelled, or until a channel is refused permanently."""
    async with (
        connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(follow_the_connection(client))
        tasks.create_task(follow_orders(client))
        tasks.create_task(follow_alarms(client))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("stopped")
    except ExceptionGroup as group:
        refused, bugs = group.split(RealtimeError)
        if refused is None or bugs is not None:
            raise
        raise SystemExit("\n".join(str(error) for error in refused.exceptions)) from None
    except RealtimeError as error:
        raise SystemExit(str(error)) from None
