"""The official Python client in another virtual environment, controlled by lines of JSON; see `peer.mjs`."""

import asyncio
import json
import sys
from typing import Any

from realtime import AsyncRealtimeClient  # pyright: ignore[reportMissingImports]

clients: dict[int, Any] = {}
options_of: dict[tuple[int, str], dict[str, Any]] = {}


def emit(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def from_json(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) and set(value) == {"hex"} else value


def people(state: dict[str, Any]) -> dict[str, Any]:
    plain = {key: [dict(meta) for meta in metas] for key, metas in state.items()}
    for metas in plain.values():
        for meta in metas:
            meta.pop("presence_ref", None)
    return plain


def channel_of(client: int, topic: str) -> Any:
    return clients[client].channels[f"realtime:{topic}"]


async def open_(client: int, url: str, key: str, vsn: str) -> None:
    assert vsn == "1.0.0", "it supports no other version"
    clients[client] = AsyncRealtimeClient(url, token=key)


async def join(client: int, topic: str, options: dict[str, Any], changes: list[dict[str, Any]]) -> str:
    channel = clients[client].channel(topic, {"config": options})
    options_of[client, topic] = options

    def report(on: str, **rest: Any) -> None:
        emit(client=client, on=on, topic=topic, **rest)

    channel.on_broadcast(
        "*", lambda it: report("broadcast", event=it["event"], payload=it["payload"], meta=it.get("meta"))
    )
    channel.on_system(lambda it: report("system", payload=it.model_dump()))
    if options.get("presence", {}).get("enabled"):
        channel.on_presence_sync(lambda: report("sync", state=people(channel.presence_state())))
        channel.on_presence_join(lambda key, before, after: report("join", key=key))
        channel.on_presence_leave(lambda key, after, gone: report("leave", key=key))
    for number, binding in enumerate(changes):

        def changed(it: dict[str, Any], number: int = number) -> None:
            data = it["data"]
            rows = {"record": data.get("record") or {}, "old_record": data.get("old_record") or {}}
            shown = {name: repr(value) for name, value in rows["record"].items()}
            report("change", number=number, type=data["type"], table=data["table"], shown=shown, **rows)

        channel.on_postgres_changes(callback=changed, **binding)
    statuses: list[str] = []

    def status(state: Any, error: Exception | None) -> None:
        report("status", status=state.value, error=None if error is None else str(error))
        statuses.append(state.value if error is None else f"{state.value}: {error}")

    await channel.subscribe(status)
    return statuses[0]


async def send(client: int, topic: str, event: str, payload: Any) -> str:
    push = await channel_of(client, topic).push("broadcast", {"type": "broadcast", "event": event, "payload": payload})
    if not options_of[client, topic].get("broadcast", {}).get("ack"):
        return "ok"
    return await answer(push)


async def answer(push: Any) -> str:
    from realtime.types import RealtimeAcknowledgementStatus as Status  # pyright: ignore[reportMissingImports]

    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    push.receive(Status.Ok, lambda _: answered.set_result("ok"))
    push.receive(Status.Error, lambda _: answered.set_result("error"))
    push.receive(Status.Timeout, lambda *_: answered.set_result("timed out"))
    return await answered


async def http(client: int, topic: str, event: str, payload: Any) -> str:
    await channel_of(client, topic).http_send(event, from_json(payload))
    return "ok"


async def track(client: int, topic: str, payload: dict[str, Any]) -> str:
    return await answer(await channel_of(client, topic).push("presence", {"event": "track", "payload": payload}))


async def untrack(client: int, topic: str) -> str:
    return await answer(await channel_of(client, topic).push("presence", {"event": "untrack", "payload": {}}))


async def state(client: int, topic: str) -> dict[str, Any]:
    return people(channel_of(client, topic).presence_state())


async def set_auth(client: int, token: str) -> None:
    await clients[client].set_auth(token)


async def leave(client: int, topic: str) -> str:
    channel = channel_of(client, topic)
    await channel.unsubscribe()
    return "ok"


async def close(client: int) -> None:
    await clients.pop(client).remove_all_channels()


COMMANDS = {
    "open": open_,
    "join": join,
    "send": send,
    "http": http,
    "track": track,
    "untrack": untrack,
    "state": state,
    "set_auth": set_auth,
    "leave": leave,
    "close": close,
}


async def work(line: str) -> None:
    command = json.loads(line)
    number, name = command.pop("id"), command.pop("do")
    try:
        emit(id=number, ok=await COMMANDS[name](**command))
    except Exception as error:  # noqa: BLE001  the error is sent to the test
        emit(id=number, error=f"{type(error).__name__}: {error}")


async def main() -> None:
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = asyncio.create_task(work(line))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())
