"""Answers of the benchmark server to joins, heartbeats and broadcasts with ack.

A client requests a number of members by its presence key.
"""

import json
from typing import Any, Final

from benchmarks.frames import BINDING_ID, V1, state

_USER_PUSH: Final = 3
_OK: Final[dict[str, Any]] = {"status": "ok", "response": {}}


class Answers:
    """The server's end of one connection."""

    def __init__(self, vsn: str) -> None:
        self.vsn: Final = vsn
        self.topics: Final[set[str]] = set()
        """The joined topics."""
        self._acks: set[str] = set()

    def to_text(self, data: bytes) -> list[bytes]:
        """Return the text frames that answer a text frame."""
        frame: Any = json.loads(data)
        if self.vsn == V1:
            frame = [frame.get(name) for name in ("join_ref", "ref", "topic", "event", "payload")]
        join_ref, ref, topic, event, payload = frame
        match event:
            case "phx_join":
                return self._join(join_ref, ref, topic, payload.get("config", {}))
            case "broadcast" if topic not in self._acks:
                return []
            case _:
                return [self._frame(join_ref, ref, topic, "phx_reply", _OK)]

    def to_binary(self, data: bytes) -> list[bytes]:
        """Return the text frames that answer a broadcast in a binary frame."""
        if data[0] != _USER_PUSH or not self._acks:
            return []
        start = 7
        parts: list[str] = []
        for size in data[1:4]:
            parts.append(data[start : start + size].decode())
            start += size
        join_ref, ref, topic = parts
        return [self._frame(join_ref, ref, topic, "phx_reply", _OK)] if topic in self._acks else []

    def _join(self, join_ref: str, ref: str, topic: str, config: dict[str, Any]) -> list[bytes]:
        self.topics.add(topic)
        if config.get("broadcast", {}).get("ack"):
            self._acks.add(topic)
        wanted = config.get("postgres_changes") or []
        bindings = [{"id": BINDING_ID + place, **binding} for place, binding in enumerate(wanted)]
        ok = {"status": "ok", "response": {"postgres_changes": bindings}}
        answers = [self._frame(join_ref, ref, topic, "phx_reply", ok)]
        presence = config.get("presence") or {}
        if presence.get("enabled"):
            answers.append(state(self.vsn, topic, int(presence.get("key") or 0)))
        if bindings:
            ready = {"status": "ok", "extension": "postgres_changes", "message": "Subscribed to PostgreSQL"}
            answers.append(
                self._frame(join_ref, None, topic, "system", {**ready, "channel": topic.removeprefix("realtime:")})
            )
        return answers

    def _frame(self, join_ref: str | None, ref: str | None, topic: str, event: str, payload: Any) -> bytes:
        if self.vsn == V1:
            return json.dumps({"ref": ref, "topic": topic, "event": event, "payload": payload}).encode()
        return json.dumps([join_ref, ref, topic, event, payload]).encode()
