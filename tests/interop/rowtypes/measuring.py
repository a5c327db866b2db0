"""One row with every type, and what handlers of three clients get for it."""

import json
from decimal import Decimal
from typing import Any, Final, TypedDict, cast

import msgspec

from supawire import Insert, LocalServer, changes
from supawire._values.encode import to_wire
from supawire.aio.client import AsyncClient
from supawire.aio.stream import AsyncStream
from tests.interop.official import Process
from tests.interop.rowtypes.cases import CASES

TABLE: Final = "every_type"


class Got(TypedDict):
    """A value as its language prints it, and whether it equals the sent value exactly."""

    shown: str
    exact: bool


def emit(server: LocalServer) -> None:
    """Insert the row."""
    server.emit(
        "INSERT",
        TABLE,
        record={case.name: case.value for case in CASES},
        columns={case.name: case.kind for case in CASES},
    )


async def ours(server: LocalServer, client: AsyncClient) -> dict[str, Got]:
    """Return what our handlers receive."""
    room = client.channel("types")
    rows: AsyncStream[Insert[dict[str, Any]]] = room.listen(changes(TABLE, event="INSERT"))
    await room.subscribe(wait="ready")
    emit(server)
    record = (await anext(rows)).record
    await room.unsubscribe()
    back = {name: msgspec.json.encode(to_wire(value)) for name, value in record.items()}
    return {
        case.name: {
            "shown": repr(record[case.name]).replace("datetime.", ""),
            "exact": same(case.value, json.loads(back[case.name], parse_float=Decimal)),
        }
        for case in CASES
    }


async def official(server: LocalServer, process: Process, vsn: str) -> dict[str, Got]:
    """Return what handlers of an official client receive."""
    peer = process.client()
    await peer.open(server.url, server.token(), vsn)
    binding = {"event": "INSERT", "schema": "public", "table": TABLE}
    assert await peer.join("types", changes=(binding,)) == "SUBSCRIBED"
    await peer.next("system", lambda event: event["payload"]["extension"] == "postgres_changes")
    emit(server)
    change = await peer.next("change")
    await peer.request("close")
    return {
        case.name: {"shown": change["shown"][case.name], "exact": same(case.value, change["record"][case.name])}
        for case in CASES
    }


def same(sent: Any, got: Any) -> bool:
    """Return whether no digit was lost, including trailing zeros of decimals."""
    if isinstance(sent, list):
        items = cast("list[Any]", sent)
        return isinstance(got, list) and all(same(*pair) for pair in zip(items, got, strict=True))
    if isinstance(sent, dict):
        fields = cast("dict[str, Any]", sent)
        return sent.keys() == got.keys() and all(same(value, got[name]) for name, value in fields.items())
    if isinstance(sent, Decimal):
        return str(sent) == (str(got) if isinstance(got, Decimal) else str(Decimal(repr(got))))
    return type(sent) is type(got) and sent == got
