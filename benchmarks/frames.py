"""What the server of the benchmarks sends: WebSocket frames, built beforehand."""

import json
from collections.abc import Callable
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


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _text(vsn: str, topic: str, event: str, payload: str) -> str:
    """The payload is JSON text already: the server relays rows as PostgreSQL wrote them, with blanks."""
    if vsn == V1:
        return f'{{"ref":null,"topic":"{topic}","event":"{event}","payload":{payload}}}'
    return f'[null,null,"{topic}","{event}",{payload}]'


def _message(number: int) -> str:
    at = f"2026-11-24T05:47:{number % 60:02}.674Z"
    return _compact({"user": f"user-{number:04}", "x": number * 1.5, "y": 77.25, "at": at, "tool": "pen", "down": True})


def broadcast(vsn: str, topic: str, number: int) -> bytes:
    """A user's broadcast in a text frame, 200 bytes with a short topic."""
    return _text(
        vsn, topic, "broadcast", f'{{"event":"{EVENT}","payload":{_message(number)},"type":"broadcast"}}'
    ).encode()


def binary(vsn: str, topic: str, number: int) -> bytes:
    """The same message in a binary frame, as today's clients send it and the server relays it."""
    assert vsn != V1, "version 1.0.0 has no binary frames"
    return bytes((4, len(topic), len(EVENT), 0, 1)) + topic.encode() + EVENT.encode() + _message(number).encode()


def change(vsn: str, topic: str, number: int) -> bytes:
    """A row that was inserted: eight columns of eight types, 600 bytes and some."""
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
        f'{{"table":"{TABLE}","type":"INSERT","record":{json.dumps(record)},"columns":{json.dumps(columns)},'
        '"errors":null,"schema":"public","commit_timestamp":"2026-11-24T05:47:30.674Z"}'
    )
    return _text(vsn, topic, "postgres_changes", f'{{"data":{data},"ids":[{BINDING_ID}]}}').encode()


KINDS: Final[dict[str, Callable[[str, str, int], bytes]]] = {
    "broadcast": broadcast, "binary": binary, "change": change
}  # fmt: skip


def framed(payload: bytes, *, is_binary: bool) -> bytes:
    """A server's WebSocket frame: one piece, not masked."""
    opcode = 0x82 if is_binary else 0x81
    if len(payload) < 126:
        return bytes((opcode, len(payload))) + payload
    return bytes((opcode, 126)) + len(payload).to_bytes(2) + payload


def block(kind: str, vsn: str, topic: str) -> list[bytes]:
    """The frames of one kind, ready for the socket."""
    return [framed(KINDS[kind](vsn, topic, number), is_binary=kind == "binary") for number in range(BLOCK)]
