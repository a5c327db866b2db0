"""What a client must have got out of one recorded connection, worked out from the recording alone.

Nothing of the client's code is used: frames are read as plain JSON, rows are typed and presence is kept by the few
lines here. `asked` are the recorded joins that were made, by topic and recorded ref.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from .recordings import Record

UNREADABLE: Final = "a payload that says JSON and is not"

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


class Parts:
    """A server's frame, taken apart."""

    def __init__(self, record: Record) -> None:
        self.join_ref: str | None = None
        self.ref: str | None = None
        self.topic: str = ""
        self.event: str = ""
        self.payload: Any = None
        if record.kind == "binary":
            self._take_binary(record.data)
            return
        value = json.loads(record.data, parse_float=Decimal)
        if isinstance(value, dict):
            self.ref, self.topic = value["ref"], value["topic"]
            self.event, self.payload = value["event"], value["payload"]
        else:
            self.join_ref, self.ref, self.topic, self.event, self.payload = value
        if self.event in ("phx_close", "phx_error") and self.join_ref is None:
            self.join_ref = self.ref  # in 1.0.0 it stands there

    def _take_binary(self, data: bytes) -> None:
        if data[0] != 4:
            self.event = f"kind {data[0]}"
            return
        topic, event, meta = data[1], data[2], data[3]
        rest = data[5:]
        self.topic, self.event = rest[:topic].decode(), "broadcast"
        body: Any = rest[topic + event + meta :]
        if data[4]:
            try:
                body = json.loads(body)
            except ValueError:
                body = UNREADABLE
        self.payload = {"event": rest[topic : topic + event].decode(), "payload": body}
        if meta:
            self.payload["meta"] = json.loads(rest[topic + event : topic + event + meta])


class Topic:
    """The ledger of one topic."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.changes: list[list[Any]] = []
        self.presence: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self.joined = False
        self.presence_asked = False
        self.end: str | None = ""
        """Why it is not joined, in the server's words; empty before it said anything, None when it was left."""
        self._join_ref = ""
        self._ids: list[int] = []
        self._stored: set[str] = set()

    def take(self, parts: Parts, joins: Mapping[str, dict[str, Any]], leaves: set[str]) -> None:
        """A frame of this topic."""
        payload = parts.payload
        match parts.event:
            case "phx_reply" if parts.ref is not None and parts.ref in joins:
                self._answered(parts.ref, payload, joins[parts.ref])
            case "phx_reply" if parts.ref in leaves:
                self.joined, self.end, self.presence = False, None, {}
            case "phx_close" | "phx_error" if parts.join_ref == self._join_ref and self.joined:
                self.joined = False
                self.end = self._last_words() if parts.event == "phx_close" else "crashed"
            case "broadcast" if self.joined and isinstance(payload, dict):
                self._broadcast(payload)
            case "broadcast" if self.joined:
                self.heard.append(("broadcast", "", payload, None, False))
            case "system" if self.joined:
                self.heard.append(("system", payload["extension"], payload["status"], payload["message"]))
            case "postgres_changes" if self.joined:
                self._change(payload)
            case "presence_state" | "presence_diff" if self.joined:
                self._presence(parts.event, payload)
            case _:
                pass

    def _answered(self, ref: str, payload: dict[str, Any], config: dict[str, Any]) -> None:
        response = payload["response"]
        if payload["status"] != "ok":
            self.end = response["reason"]
            return
        self.joined, self._join_ref, self.end = True, ref, None
        self.presence_asked = config["presence"]["enabled"]
        self._ids = [binding["id"] for binding in response["postgres_changes"]]
        self.changes = self.changes or [[] for _ in self._ids]

    def _last_words(self) -> str | None:
        """A `system` error comes before the close that it explains."""
        return self.heard[-1][3] if self.heard and self.heard[-1][0] == "system" else None

    def _broadcast(self, payload: dict[str, Any]) -> None:
        meta = payload.get("meta") or {}
        if meta.get("id") in self._stored:
            return
        self._stored |= {meta["id"]} if "id" in meta else set()
        body = payload.get("payload")
        self.heard.append(("broadcast", payload["event"], body, meta.get("id"), meta.get("replayed", False)))

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
        for place, number in enumerate(self._ids):
            if number in payload["ids"]:
                self.changes[place].append(change)

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
        if not self.presence_asked:
            return
        for key in {**before, **self.presence}:
            came = [meta for meta in self.presence.get(key, ()) if meta not in before.get(key, ())]
            gone = [meta for meta in before.get(key, ()) if meta not in self.presence.get(key, ())]
            if came or gone:
                kind = "update" if came and gone else "join" if came else "leave"
                self.heard.append((kind, key, shown(self.presence.get(key, [])), shown(before.get(key, []))))
        self.heard.append(("sync", {key: shown(metas) for key, metas in self.presence.items()}))


def entries(state: dict[str, Any]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """By key, ref and payload of each meta."""
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
    """A row as Python values."""
    if row is None:
        return None
    return {name: None if value is None else _TYPES[columns[name]](value) for name, value in row.items()}


class Reply:
    """The answer to a push."""

    def __init__(self, payload: dict[str, Any]) -> None:
        self.ok = payload["status"] == "ok"
        response = payload["response"]
        self.reason = response if isinstance(response, str) else response.get("reason", "")


class Checks:
    """The ledger of one connection. Feed it every record, and say which joins and leaves were made."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.replies: dict[str, Reply] = {}
        self._joins: dict[str, dict[str, Any]] = {}
        self._leaves: set[str] = set()

    def joined(self, topic: str, ref: str, config: dict[str, Any]) -> None:
        """A join was made."""
        self.topics.setdefault(topic, Topic())
        self._joins[ref] = config

    def left(self, ref: str) -> None:
        """A leave was made."""
        self._leaves.add(ref)

    def take(self, record: Record) -> None:
        """A frame of the server."""
        parts = Parts(record)
        if parts.event == "phx_reply":
            self.replies.setdefault(str(parts.ref), Reply(parts.payload))
        if parts.topic in self.topics:
            self.topics[parts.topic].take(parts, self._joins, self._leaves)
