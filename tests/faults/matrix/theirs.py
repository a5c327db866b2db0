"""The official client's side, in a separate virtual environment: the programs of `ours.py`, written for this client."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from realtime import AsyncRealtimeClient  # pyright: ignore[reportMissingImports]

KEY: Final = "key"


def report(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def handle(message: Any) -> None:
    report(got=message["payload"]["n"])


def fails(_: object) -> None:
    raise KeyError("a bug in the user's handler")


async def handle_async(message: Any) -> None:
    await asyncio.sleep(0)
    handle(message)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def client(url: str, heartbeat: int | None = None, timeout: int | None = None) -> Any:
    options: dict[str, Any] = {}
    if heartbeat is not None:
        options["hb_interval"] = heartbeat
    if timeout is not None:
        options["timeout"] = timeout
    return AsyncRealtimeClient(f"{url}/realtime/v1", token=KEY, **options)


def status(state: Any, error: Exception | None) -> None:
    if state.value == "SUBSCRIBED":
        report(ready=True)
    else:
        report(status=state.value, error=None if error is None else str(error))


async def listen(url: str, **options: Any) -> None:
    room = client(url, **options).channel("room")
    room.on_broadcast("n", handle)
    await room.subscribe(status)
    await forever()


async def listen_patiently(url: str, **options: Any) -> None:
    """Run `listen`: `subscribe` has no time limit and continues after TIMED_OUT."""
    await listen(url, **options)


async def listen_with_a_bug(url: str, **options: Any) -> None:
    room = client(url, **options).channel("room")
    room.on_broadcast("bug", fails)
    room.on_broadcast("n", handle)
    await room.subscribe(status)
    await forever()


async def listen_async(url: str, **options: Any) -> None:
    room = client(url, **options).channel("room")
    room.on_broadcast("n", handle_async)
    await room.subscribe(status)
    await forever()


async def listen_with_tokens(url: str, **options: Any) -> None:
    """Call `set_auth` once before the join; the client accepts no function as a token."""
    opened = client(url, **options)
    await opened.set_auth("token-1")
    room = opened.channel("room", {"config": {"broadcast": None, "presence": None, "private": True}})
    room.on_broadcast("n", handle)
    await room.subscribe(status)
    await forever()


async def listen_slowly(url: str, **options: Any) -> None:
    """Register plain functions; the client calls them in the task that reads the socket."""
    opened = client(url, **options)
    slow, quick = opened.channel("slow"), opened.channel("room")

    def works(_: object) -> None:
        time.sleep(1)
        report(slow="done")

    slow.on_broadcast("n", works)
    quick.on_broadcast("n", handle)
    await slow.subscribe()
    await quick.subscribe(status)
    await forever()


async def send(url: str, count: int, **options: Any) -> None:
    config = {"config": {"broadcast": {"ack": True, "self": False}, "presence": None, "private": False}}
    room = client(url, **options).channel("room", config)
    await room.subscribe()
    done: list[int] = []
    failed: list[int] = []
    for number in range(count):
        try:
            await room.send_broadcast("n", {"n": number})
        except Exception:  # noqa: BLE001  any exception is a result
            failed.append(number)
        else:
            done.append(number)
    await asyncio.sleep(3)  # queued messages may be sent later
    report(done=done, failed=failed)


async def send_without_ack(url: str, count: int, **options: Any) -> None:
    room = client(url, **options).channel("room")
    await room.subscribe()
    before = len(asyncio.all_tasks())
    for number in range(count):
        await room.send_broadcast("n", {"n": number})
    await asyncio.sleep(0.5)
    report(tasks=len(asyncio.all_tasks()) - before)


async def track(url: str, **options: Any) -> None:
    config = {"config": {"broadcast": None, "presence": {"key": "me", "enabled": True}, "private": False}}
    room = client(url, **options).channel("room", config)
    await room.subscribe()
    await room.track({"here": True})
    report(ready=True)
    await forever()


async def subscribe_again(url: str, **options: Any) -> None:
    room = client(url, **options).channel("room")
    room.on_broadcast("n", handle)
    await room.subscribe()
    await room.unsubscribe()
    await asyncio.sleep(0.5)  # the state CLOSED follows later
    try:
        await room.subscribe(status)
    except Exception as error:  # noqa: BLE001  any exception is a result
        report(raised=str(error))
    await forever()


async def subscribe_denied(url: str, **options: Any) -> None:
    room = client(url, **options).channel("room")
    try:
        await room.subscribe()
    except Exception as error:  # noqa: BLE001  any exception is a result
        report(raised=str(error))
    else:
        report(raised=None)
    await forever()


async def connect(url: str, **options: Any) -> None:
    opened = client(url, **options)
    try:
        await opened.connect()
    except Exception as error:  # noqa: BLE001  any exception is a result
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
    asyncio.run(PROGRAMS[sys.argv[1]](sys.argv[2], **json.loads(sys.argv[3])))
