"""Emulates the database for a local server without one.

The judge's scenarios (its `scenarios.json`) run a dozen statements between frames. Without a database each of them is
replaced by a call of the server: a row changes, or a message is stored. Other statements are refused, so that a new one
of the judge is reported as a difference.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from supawire.events import Instant
from supawire.server.bindings import Row, make_change
from supawire.server.hub import Hub

TODOS: Final = {
    "id": "int4",
    "details": "text",
    "user_id": "uuid",
    "done": "bool",
    "n": "int4",
    "price": "numeric",
    "tags": "_text",
    "meta": "jsonb",
    "created_at": "timestamptz",
}
TENANT: Final = {"id": "int4", "details": "text"}
COLUMNS: Final = {"todos": TODOS, "secret_todos": TENANT | {"user_id": "uuid"}, "test_tenant": TENANT}
"""The tables of the judge's `setup.sql`."""

_TRUNCATE: Final = re.compile(r"truncate public\.(\w+)")
_SETVAL: Final = re.compile(r"select setval\('public\.(\w+)_id_seq', (\d+), false\)")
_DELETE_MESSAGES: Final = re.compile(r"delete from realtime\.messages where .*")
_SEND: Final = re.compile(r"select realtime\.send\('(.*)'::jsonb, '([^']*)', '([^']*)', true\)")
_SEND_BINARY: Final = re.compile(r"select realtime\.send_binary\('\\x([0-9a-f]*)'::bytea, '([^']*)', '([^']*)', true\)")


def policy(claims: Mapping[str, Any], topic: str, extension: str, action: str) -> bool:
    """The policies of the judge's `setup.sql`: authenticated users read `room-…` and `ro-…` and write `room-…`."""
    del extension
    readable = topic.startswith("room-") or (action == "read" and topic.startswith("ro-"))
    return claims.get("role") == "authenticated" and readable


class Database:
    """The rows of the scenarios, and the statements that change them."""

    def __init__(self, hub: Hub, now: Callable[[], Instant]) -> None:
        self._hub = hub
        self._now = now
        self._next = dict.fromkeys(COLUMNS, 1)
        self._hit: dict[str, Any] = {}
        self._patterns: Final[dict[re.Pattern[str], Callable[..., None]]] = {
            _TRUNCATE: lambda table: None,
            _SETVAL: self._setval,
            _DELETE_MESSAGES: lambda: None,
            _SEND: self._send,
            _SEND_BINARY: self._send_binary,
        }
        self._statements: Final[dict[str, Callable[[], object]]] = {
            "insert into public.todos (details) values ('x')": lambda: self._insert("todos", details="x"),
            "insert into public.todos (details, n, price, tags, meta) values "
            "('hit', 5, 12.30, '{a,b}', '{\"k\": [1, 2]}'), ('miss', null, null, null, null)": self._two_rows,
            "update public.todos set n = 42, done = true where details = 'hit'": self._update,
            "delete from public.todos where details = 'hit'": self._delete,
            "insert into public.test_tenant (details) values ('other table')": lambda: self._insert(
                "test_tenant", details="other table"
            ),
        }

    def run(self, text: str) -> None:
        """Run these statements, one per line. Raises ValueError for an unknown statement."""
        for line in text.split(";\n"):
            if statement := line.strip():
                self._run(statement)

    def _run(self, statement: str) -> None:
        if (act := self._statements.get(statement)) is not None:
            act()
            return
        for pattern, do in self._patterns.items():
            if found := pattern.fullmatch(statement):
                do(*found.groups())
                return
        raise ValueError(f"unknown statement: {statement}")

    def _setval(self, table: str, number: str) -> None:
        self._next[table] = int(number)

    def _send(self, payload: str, event: str, topic: str) -> None:
        self._hub.send(topic, event, json.loads(payload), self._now())

    def _send_binary(self, payload: str, event: str, topic: str) -> None:
        self._hub.send(topic, event, bytes.fromhex(payload), self._now())

    def _insert(self, table: str, **values: Any) -> dict[str, Any]:
        row = dict.fromkeys(COLUMNS[table]) | {"id": self._next[table], **values}
        self._next[table] += 1
        if table == "todos":
            row |= {"done": False, "created_at": datetime.now(UTC)}
        self._emit("INSERT", table, record=row)
        return row

    def _two_rows(self) -> None:
        hit = {"n": 5, "price": Decimal("12.30"), "tags": ["a", "b"], "meta": {"k": [1, 2]}}
        self._hit = self._insert("todos", details="hit", **hit)
        self._insert("todos", details="miss")

    def _update(self) -> None:
        old, self._hit = self._hit, self._hit | {"n": 42, "done": True}
        self._emit("UPDATE", "todos", record=self._hit, old_record=old)

    def _delete(self) -> None:
        self._emit("DELETE", "todos", old_record=self._hit)

    def _emit(self, type: str, table: str, record: Row | None = None, old_record: Row | None = None) -> None:
        change = make_change(type, table, columns=COLUMNS[table], record=record, old_record=old_record)
        self._hub.emit(change, self._now())
