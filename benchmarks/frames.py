"""The prepared WebSocket frames that the benchmark server sends."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Final

V1: Final = "1.0.0"
BLOCK: Final = 512
"""Number of different frames that are sent repeatedly."""

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
    """Return the table of the binding with this number."""
    return TABLE if not binding else f"{TABLE}_{binding}"


def topic_of(topic: str, channel: int) -> str:
    """Return the topic of a client's channel with this number."""
    return topic if not channel else f"{topic}-{channel}"


def compact(value: Any) -> str:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def _text(vsn: str, topic: str, event: str, payload: str) -> str:
    """Return a text frame. The payload is JSON text: the server relays rows as PostgreSQL wrote them, with spaces."""
    if vsn == V1:
        return f'{{"ref":null,"topic":"{topic}","event":"{event}","payload":{payload}}}'
    return f'[null,null,"{topic}","{event}",{payload}]'


def message(number: int) -> dict[str, Any]:
    """Return the payload of a user's message."""
    at = f"2026-11-24T05:47:{number % 60:02}.674Z"
    return {"user": f"user-{number:04}", "x": number * 1.5, "y": 77.25, "at": at, "tool": "pen", "down": True}


def broadcast(vsn: str, topic: str, number: int, _: int) -> bytes:
    """Return a broadcast in a text frame, 200 bytes with a short topic."""
    payload = compact(message(number))
    return _text(vsn, topic, "broadcast", f'{{"event":"{EVENT}","payload":{payload},"type":"broadcast"}}').encode()


def binary(vsn: str, topic: str, number: int, _: int) -> bytes:
    """Return the same message in a binary frame, as current clients send it and the server relays it."""
    assert vsn != V1, "version 1.0.0 has no binary frames"
    head = bytes((4, len(topic), len(EVENT), 0, 1))
    return head + topic.encode() + EVENT.encode() + compact(message(number)).encode()


def change(vsn: str, topic: str, number: int, bindings: int) -> bytes:
    """Return the insert of a row: eight columns of eight types, slightly over 600 bytes."""
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
    """Return a member's payload as the server sends it; 10,000 fit into the official Python client's 1 MiB."""
    return {"phx_ref": f"F-{number:012}", "name": f"user {number}"}


def diff(vsn: str, topic: str, number: int, _: int) -> bytes:
    """Return a presence diff: a member joins and leaves with the next frame, so an even number changes nothing."""
    member = {f"guest-{number // 2}": {"metas": [_meta(1_000_000 + number // 2)]}}
    joins, leaves = (member, {}) if number % 2 == 0 else ({}, member)
    return _text(vsn, topic, "presence_diff", compact({"joins": joins, "leaves": leaves})).encode()


@cache
def state(vsn: str, topic: str, members: int) -> bytes:
    """Return the presence state."""
    everyone = {f"user-{number}": {"metas": [_meta(number)]} for number in range(members)}
    return _text(vsn, topic, "presence_state", compact(everyone)).encode()


KINDS: Final[dict[str, Callable[[str, str, int, int], bytes]]] = {
    "broadcast": broadcast, "binary": binary, "change": change, "diff": diff
}  # fmt: skip


def framed(payload: bytes, *, is_binary: bool = False) -> bytes:
    """Return a WebSocket frame of the server: unfragmented and not masked."""
    opcode = 0x82 if is_binary else 0x81
    if len(payload) < 126:
        return bytes((opcode, len(payload))) + payload
    if len(payload) < 1 << 16:
        return bytes((opcode, 126)) + len(payload).to_bytes(2) + payload
    return bytes((opcode, 127)) + len(payload).to_bytes(8) + payload


def plain(kind: str, vsn: str, topic: str, *, channels: int = 1, bindings: int = 1) -> list[bytes]:
    """Return the frames of one kind for the client's channels in turn, without the WebSocket framing."""
    build = KINDS[kind]
    return [build(vsn, topic_of(topic, number % channels), number, bindings) for number in range(BLOCK)]
