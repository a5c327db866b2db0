"""What the server of the benchmarks sends: WebSocket frames, built beforehand."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Final

V1: Final = "1.0.0"
BLOCK: Final = 512
"""Frames that are sent again and again, no two alike."""

EVENT: Final = "cursor"
TABLE: Final = "todos"
BINDING_ID: Final = 53417607

COLUMNS: Final = {
    "id": "int8",
    "title": "text",
    "price": "numeric",
    "at": "timestamptz",
    "owner": "uuid",
    "meta": "jsonb",
    "done": "bool",
    "tags": "_text",
}


def table_of(binding: int) -> str:
    """Which table the binding of this number is for."""
    return TABLE if not binding else f"{TABLE}_{binding}"


def topic_of(topic: str, channel: int) -> str:
    """The topic of a client's channel of this number."""
    return topic if not channel else f"{topic}-{channel}"


def compact(value: Any) -> str:
    """JSON text without blanks."""
    return json.dumps(value, separators=(",", ":"))


def _text(vsn: str, topic: str, event: str, payload: str) -> str:
    """The payload is JSON text already: the server relays rows as PostgreSQL wrote them, with blanks."""
    if vsn == V1:
        return f'{{"ref":null,"topic":"{topic}","event":"{event}","payload":{payload}}}'
    return f'[null,null,"{topic}","{event}",{payload}]'


def message(number: int) -> dict[str, Any]:
    """What a user sends."""
    at = f"2026-11-24T05:47:{number % 60:02}.674Z"
    return {"user": f"user-{number:04}", "x": number * 1.5, "y": 77.25, "at": at, "tool": "pen", "down": True}


def broadcast(vsn: str, topic: str, number: int, _: int) -> bytes:
    """A user's broadcast in a text frame, 200 bytes with a short topic."""
    payload = compact(message(number))
    return _text(vsn, topic, "broadcast", f'{{"event":"{EVENT}","payload":{payload},"type":"broadcast"}}').encode()


def binary(vsn: str, topic: str, number: int, _: int) -> bytes:
    """The same message in a binary frame, as today's clients send it and the server relays it."""
    assert vsn != V1, "version 1.0.0 has no binary frames"
    head = bytes((4, len(topic), len(EVENT), 0, 1))
    return head + topic.encode() + EVENT.encode() + compact(message(number)).encode()


def change(vsn: str, topic: str, number: int, bindings: int) -> bytes:
    """A row that was inserted: eight columns of eight types, 600 bytes and some."""
    binding = number % max(1, bindings)
    record = {
        "id": 9007199254740993 + number,
        "title": f"water plant {number}",
        "price": 12.5 + number,
        "at": f"2026-11-24T05:47:30.{673000 + number}+00:00",
        "owner": f"5b1c8e2a-0c7d-4e57-9a35-{number:012x}",
        "meta": {"k": [1, number]},
        "done": number % 2 == 0,
        "tags": ["home", "green"],
    }
    columns = [{"name": name, "type": kind} for name, kind in COLUMNS.items()]
    data = (
        f'{{"table":"{table_of(binding)}","type":"INSERT","record":{json.dumps(record)},"columns":{json.dumps(columns)},'
        '"errors":null,"schema":"public","commit_timestamp":"2026-11-24T05:47:30.674Z"}'
    )
    return _text(vsn, topic, "postgres_changes", f'{{"data":{data},"ids":[{BINDING_ID + binding}]}}').encode()


def _meta(number: int) -> dict[str, Any]:
    """A member's payload, as the server shows it; 10,000 fit into the 1 MiB that the official Python client takes."""
    return {"phx_ref": f"F-{number:012}", "name": f"user {number}"}


def diff(vsn: str, topic: str, number: int, _: int) -> bytes:
    """Somebody comes, and with the next frame goes: after an even number all is as it was."""
    member = {f"guest-{number // 2}": {"metas": [_meta(1_000_000 + number // 2)]}}
    joins, leaves = (member, {}) if number % 2 == 0 else ({}, member)
    return _text(vsn, topic, "presence_diff", compact({"joins": joins, "leaves": leaves})).encode()


@cache
def state(vsn: str, topic: str, members: int) -> bytes:
    """Who is here."""
    everyone = {f"user-{number}": {"metas": [_meta(number)]} for number in range(members)}
    return _text(vsn, topic, "presence_state", compact(everyone)).encode()


KINDS: Final[dict[str, Callable[[str, str, int, int], bytes]]] = {
    "broadcast": broadcast, "binary": binary, "change": change, "diff": diff
}  # fmt: skip


def framed(payload: bytes, *, is_binary: bool = False) -> bytes:
    """A server's WebSocket frame: one piece, not masked."""
    opcode = 0x82 if is_binary else 0x81
    if len(payload) < 126:
        return bytes((opcode, len(payload))) + payload
    if len(payload) < 1 << 16:
        return bytes((opcode, 126)) + len(payload).to_bytes(2) + payload
    return bytes((opcode, 127)) + len(payload).to_bytes(8) + payload


def plain(kind: str, vsn: str, topic: str, *, channels: int = 1, bindings: int = 1) -> list[bytes]:
    """The frames of one kind, to the client's channels by turns, without WebSocket around them."""
    build = KINDS[kind]
    return [build(vsn, topic_of(topic, number % channels), number, bindings) for number in range(BLOCK)]
