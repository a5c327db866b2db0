"""Our side: `python ours.py PROGRAM URL OPTIONS` runs a program like that of a user, and prints results as JSON."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from supawire import AsyncClient, Sent, broadcast, connect_async
from supawire.errors import RealtimeError
from tests import loops

KEY: Final = "key"


def report(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def handle(message: Any) -> None:
    report(got=message.payload["n"])


def fails(_: object) -> None:
    raise KeyError("a bug in the user's handler")


async def handle_async(message: Any) -> None:
    await asyncio.sleep(0)
    handle(message)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def client(url: str, **options: Any) -> Any:
    return connect_async(url, KEY, on_error=lambda _: None, **options)


async def listen(url: str, **options: Any) -> None:
    async with client(url, **options) as opened:
        room = opened.channel("room")
        room.on(broadcast("n"), handle)
        await room.subscribe()
        report(ready=True)
        await forever()


async def listen_patiently(url: str, **options: Any) -> None:
    async with client(url, **options) as opened:
        room = opened.channel("room")
        room.on(broadcast("n"), handle)
        await room.subscribe(timeout=None)
        report(ready=True)
        await forever()


async def listen_with_a_bug(url: str, **options: Any) -> None:
    async with client(url, **options) as opened:
        room = opened.channel("room")
        room.on(broadcast("bug"), fails)
        room.on(broadcast("n"), handle)
        await room.subscribe()
        report(ready=True)
        await forever()


async def listen_async(url: str, **options: Any) -> None:
    async with client(url, **options) as opened:
        room = opened.channel("room")
        room.on(broadcast("n"), handle_async)
        await room.subscribe()
        report(ready=True)
        await forever()


async def listen_with_tokens(url: str, **options: Any) -> None:
    calls = 0

    async def fresh() -> str:
        nonlocal calls
        calls += 1
        return f"token-{calls}"

    async with client(url, token=fresh, **options) as opened:
        room = opened.channel("room", private=True)
        room.on(broadcast("n"), handle)
        await room.subscribe()
        report(ready=True)
        await forever()


async def listen_slowly(url: str, **options: Any) -> None:
    async with client(url, **options) as opened:
        slow, quick = opened.channel("slow"), opened.channel("room")

        def works(_: object) -> None:
            time.sleep(1)
            report(slow="done")

        slow.on(broadcast("n"), works, thread=True)
        quick.on(broadcast("n"), handle)
        await slow.subscribe()
        await quick.subscribe()
        report(ready=True)
        await forever()


async def send(url: str, count: int, **options: Any) -> None:
    async with client(url, offline="wait", **options) as opened:
        room = opened.channel("room", ack=True)
        await room.subscribe()
        done: list[int] = []
        failed: list[int] = []
        for number in range(count):
            try:
                await room.broadcast("n", {"n": number})
            except RealtimeError:
                failed.append(number)
            else:
                done.append(number)
        report(done=done, failed=failed)


async def send_without_ack(url: str, count: int, **options: Any) -> None:
    async with client(url, **options) as opened:
        room = opened.channel("room")
        await room.subscribe()
        before = len(asyncio.all_tasks())
        for number in range(count):
            sent: Sent = await room.broadcast("n", {"n": number})
            assert sent.via == "socket"
        await asyncio.sleep(0.5)
        report(tasks=len(asyncio.all_tasks()) - before)


async def track(url: str, **options: Any) -> None:
    async with client(url, **options) as opened:
        room = opened.channel("room", presence_key="me")
        await room.subscribe()
        await room.track({"here": True})
        report(ready=True)
        await forever()


async def subscribe_again(url: str, **options: Any) -> None:
    async with client(url, **options) as opened:
        room = opened.channel("room")
        room.on(broadcast("n"), handle)
        await room.subscribe()
        await room.unsubscribe()
        try:
            await room.subscribe()
        except RealtimeError as error:
            report(raised=str(error))
        else:
            report(ready=True)
        await forever()


async def subscribe_denied(url: str, **options: Any) -> None:
    async with client(url, **options) as opened:
        try:
            await opened.channel("room").subscribe()
        except RealtimeError as error:
            report(raised=str(error))
        else:
            report(raised=None)
        await forever()


async def connect(url: str, **options: Any) -> None:
    try:
        opened: AsyncClient = await client(url, **options)
    except RealtimeError as error:
        report(raised=str(error))
    else:
        report(raised=None)
        await opened.close()


PROGRAMS: Final[dict[str, Callable[..., Coroutine[Any, Any, None]]]] = {
    program.__name__: program
    for program in (
        listen,
        listen_patiently,
        listen_with_a_bug,
        listen_async,
        listen_with_tokens,
        listen_slowly,
        send,
        send_without_ack,
        track,
        subscribe_again,
        subscribe_denied,
        connect,
    )
}

if __name__ == "__main__":
    loops.install()
    asyncio.run(PROGRAMS[sys.argv[1]](sys.argv[2], **json.loads(sys.argv[3])))
