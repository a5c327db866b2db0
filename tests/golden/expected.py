"""The events and states that a client must have for one recorded connection, computed from the recording alone.

None of the client's code is used: this module reads the frames as plain JSON, converts rows to typed values and
computes presence by itself. Only joins and leaves that were played are taken into account.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from .recordings import Record

UNREADABLE: Final = "a payload that is marked as JSON but is not JSON"

_TYPES: Final = {
    "int4": int,
    "text": str,
    "bool": bool,
    "uuid": UUID,
    "numeric": Decimal,
    "_text": list,
    "jsonb": lambda value: value,
    "timestamptz": datetime.fromisoformat,
}


class ServerFrame:
    """The parts of a frame of the server."""

    def __init__(self, record: Record) -> None:
        self.join_ref: str | None = None
        self.ref: str | None = None
        self.topic: str = ""
        self.event: str = ""
        self.payload: Any = None
        if record.kind == "binary":
            self._decode_binary(record.data)
            return
        value = json.loads(record.data, parse_float=Decimal)
        if isinstance(value, dict):
            self.ref, self.topic = value["ref"], value["topic"]
            self.event, self.payload = value["event"], value["payload"]
        else:
            self.join_ref, self.ref, self.topic, self.event, self.payload = value
        if self.event in ("phx_close", "phx_error") and self.join_ref is None:
            self.join_ref = self.ref  # version 1.0.0 has the join_ref in its position

    def _decode_binary(self, data: bytes) -> None:
        if data[0] != 4:
            self.event = f"kind {data[0]}"
            return
        topic, event, meta = data[1], data[2], data[3]
        content = data[5:]
        self.topic, self.event = content[:topic].decode(), "broadcast"
        body: Any = content[topic + event + meta :]
        if data[4]:
            try:
                body = json.loads(body)
            except ValueError:
                body = UNREADABLE
        self.payload = {"event": content[topic : topic + event].decode(), "payload": body}
        if meta:
            self.payload["meta"] = json.loads(content[topic + event : topic + event + meta])


class ExpectedTopic:
    """The expected events, presence and state of one topic."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.changes: list[list[Any]] = []
        self.presence: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self.joined = False
        self.presence_enabled = False
        self.end_reason: str | None = ""
        """The server's reason why the topic is not joined; empty before its first reply, None after a leave."""
        self._join_ref = ""
        self._ids: list[int] = []
        self._stored: set[str] = set()

    def receive(self, frame: ServerFrame, joins: Mapping[str, dict[str, Any]], leaves: set[str]) -> None:
        """Apply a frame of this topic."""
        payload = frame.payload
        match frame.event:
            case "phx_reply" if frame.ref is not None and frame.ref in joins:
                self._receive_join_reply(frame.ref, payload, joins[frame.ref])
            case "phx_reply" if frame.ref in leaves:
                self.joined, self.end_reason, self.presence = False, None, {}
            case "phx_close" | "phx_error" if frame.join_ref == self._join_ref and self.joined:
                self.joined = False
                self.end_reason = self._close_reason() if frame.event == "phx_close" else "crashed"
            case "broadcast" if self.joined and isinstance(payload, dict):
                self._broadcast(payload)
            case "broadcast" if self.joined:
                self.events.append(("broadcast", "", payload, None, False))
            case "system" if self.joined:
                self.events.append(("system", payload["extension"], payload["status"], payload["message"]))
            case "postgres_changes" if self.joined:
                self._change(payload)
            case "presence_state" | "presence_diff" if self.joined:
                self._presence(frame.event, payload)
            case _:
                pass

    def _receive_join_reply(self, ref: str, payload: dict[str, Any], config: dict[str, Any]) -> None:
        response = payload["response"]
        if payload["status"] != "ok":
            self.end_reason = response["reason"]
            return
        self.joined, self._join_ref, self.end_reason = True, ref, None
        self.presence_enabled = config["presence"]["enabled"]
        self._ids = [binding["id"] for binding in response["postgres_changes"]]
        self.changes = self.changes or [[] for _ in self._ids]

    def _close_reason(self) -> str | None:
        """Return the text of the last `system` message, which the server sends before the close."""
        return self.events[-1][3] if self.events and self.events[-1][0] == "system" else None

    def _broadcast(self, payload: dict[str, Any]) -> None:
        meta = payload.get("meta") or {}
        if meta.get("id") in self._stored:
            return
        self._stored |= {meta["id"]} if "id" in meta else set()
        body = payload.get("payload")
        self.events.append(("broadcast", payload["event"], body, meta.get("id"), meta.get("replayed", False)))

    def _change(self, payload: dict[str, Any]) -> None:
        data = payload["data"]
        columns = {column["name"]: column["type"] for column in data["columns"]}
        change = (
            data["type"],
            data["schema"],
            data["table"],
            tuple(columns.items()),
            typed(columns, data.get("record")),
            typed(columns, data.get("old_record")),
            datetime.fromisoformat(data["commit_timestamp"]),
            tuple(data["errors"] or ()),
        )
        for position, number in enumerate(self._ids):
            if number in payload["ids"]:
                self.changes[position].append(change)

    def _presence(self, event: str, payload: dict[str, Any]) -> None:
        before = self.presence
        if event == "presence_state":
            after = entries(payload)
        else:
            joins, leaves = entries(payload["joins"]), entries(payload["leaves"])
            after = {
                key: [meta for meta in (*before.get(key, ()), *joins.get(key, ())) if meta not in leaves.get(key, ())]
                for key in {**before, **joins}
            }
        self.presence = {key: metas for key, metas in after.items() if metas}
        if not self.presence_enabled:
            return
        for key in {**before, **self.presence}:
            added = [meta for meta in self.presence.get(key, ()) if meta not in before.get(key, ())]
            removed = [meta for meta in before.get(key, ()) if meta not in self.presence.get(key, ())]
            if added or removed:
                kind = "update" if added and removed else "join" if added else "leave"
                self.events.append((kind, key, shown(self.presence.get(key, [])), shown(before.get(key, []))))
        self.events.append(("sync", {key: shown(metas) for key, metas in self.presence.items()}))


def entries(state: dict[str, Any]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Return the ref and the payload of each meta, by key."""
    return {
        key: [
            (meta["phx_ref"], {name: value for name, value in meta.items() if not name.startswith("phx_")})
            for meta in entry["metas"]
        ]
        for key, entry in state.items()
    }


def shown(metas: Iterable[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    return list(metas)


def typed(columns: dict[str, str], row: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a row as Python values."""
    if row is None:
        return None
    return {name: None if value is None else _TYPES[columns[name]](value) for name, value in row.items()}


class Reply:
    """The reply to a push."""

    def __init__(self, payload: dict[str, Any]) -> None:
        self.ok = payload["status"] == "ok"
        response = payload["response"]
        self.reason = response if isinstance(response, str) else response.get("reason", "")


class Expected:
    """The expectations for one connection. Call its methods for every record and for the joins and leaves played."""

    def __init__(self) -> None:
        self.topics: dict[str, ExpectedTopic] = {}
        self.replies: dict[str, Reply] = {}
        self._joins: dict[str, dict[str, Any]] = {}
        self._leaves: set[str] = set()

    def add_join(self, topic: str, ref: str, config: dict[str, Any]) -> None:
        """Register a join that was played."""
        self.topics.setdefault(topic, ExpectedTopic())
        self._joins[ref] = config

    def add_leave(self, ref: str) -> None:
        """Register a leave that was played."""
        self._leaves.add(ref)

    def receive(self, record: Record) -> None:
        """Apply a frame of the server."""
        frame = ServerFrame(record)
        if frame.event == "phx_reply":
            self.replies.setdefault(str(frame.ref), Reply(frame.payload))
        if frame.topic in self.topics:
            self.topics[frame.topic].receive(frame, self._joins, self._leaves)
