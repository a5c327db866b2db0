"""Changes, and a mirror whose fetches the test answers."""

import random
from collections.abc import Mapping
from typing import Any

from msgspec import Raw, json

from supawire._mirror_events import MirrorState, Row, RowView
from supawire.core.mirror import Abandon, Emit, Fetch, MirrorCore, MirrorSettings, ReportError, SaveCopy
from supawire.core.row_fetch import AbandonRow, FetchRow
from supawire.core.table_copy import KeyColumns
from supawire.errors import RowError
from supawire.events import NULL, ChangeData, Gap, Instant, type_of_change
from supawire.options import Backoff

COLUMNS = {"id": "int8", "a": "int4", "big": "text", "v": "int8"}
PLAIN = RowView(lambda row: row["id"], dict)


def change(
    kind: str,
    row: Mapping[str, Any],
    old: Mapping[str, Any] | None = None,
    *,
    table: str = "users",
    columns: Mapping[str, str] = COLUMNS,
    errors: str | None = None,
    committed: str = "2026-11-24T12:00:00.000Z",
) -> Any:
    """Return a change as it is received. Without `old`, the old row of an UPDATE is its key."""
    listed = [{"name": name, "type": kind} for name, kind in columns.items()]
    data = ChangeData("public", table, kind, committed, Raw(json.encode(listed)))
    if kind != "DELETE":
        data.record = Raw(json.encode(row))
    if kind != "INSERT":
        data.old_record = Raw(json.encode({"id": row["id"]} if old is None else old))
    data.errors = NULL if errors is None else Raw(json.encode([errors]))
    return type_of_change[kind]("users", data)


def row(key: int, a: int = 0, big: str = "x", v: int = 0) -> Row:
    """Return a row of the table that most tests use."""
    return {"id": key, "a": a, "big": big, "v": v}


def at(mono: float) -> Instant:
    """Return an instant."""
    return Instant(mono, 1_764_000_000.0 + mono)


def gap(*lost: str) -> Gap:
    """Return a gap."""
    return Gap("users", at(0).at(), at(1).at(), "connection_lost", lost=frozenset(lost))


class Driven:
    """A mirror whose fetches, changes and time the test controls."""

    def __init__(self, **settings: Any) -> None:
        settings = {"table": "users", "key": ("id",), "backoff": Backoff(initial=1, jitter=0), **settings}
        key = KeyColumns(settings["key"])
        self.mirror = MirrorCore(
            MirrorSettings(**settings),
            RowView(key.shown, dict),
            random.Random(1),
        )
        self.now = 1000.0
        self.fetches: list[int] = []
        self.abandoned: list[int] = []
        self.events: list[Any] = []
        self.errors: list[Exception] = []
        self.saves: list[SaveCopy] = []
        self.rows_fetched: dict[int, Row] = {}
        """The keys of the running fetches of single rows, by number."""
        self.rows_abandoned: list[int] = []

    def pump(self) -> None:
        while self.mirror.effects:
            match self.mirror.effects.popleft():
                case Fetch(generation):
                    self.fetches.append(generation)
                case Abandon(generation):
                    self.abandoned.append(generation)
                case FetchRow(number, key):
                    self.rows_fetched[number] = key
                case AbandonRow(number):
                    del self.rows_fetched[number]
                    self.rows_abandoned.append(number)
                case Emit(event):
                    self.events.append(event)
                case SaveCopy() as save:
                    self.saves.append(save)
                case ReportError(error):
                    self.errors.append(error)
                case _:
                    raise AssertionError("these mirrors have no verifier")

    def run(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while (deadline := self.mirror.next_deadline) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.mirror.tick(at(self.now))
            self.pump()
        self.now = end

    def ready(self) -> None:
        self.mirror.changes_live()
        self.run()

    def answer(self, *rows: Any) -> None:
        """Answer the fetch as the shell does."""
        try:
            self.mirror.fetched(self.fetches[-1], self.mirror.read(rows), at(self.now))
        except RowError as error:
            self.mirror.failed(self.fetches[-1], error, at(self.now))
        self.pump()

    def answer_row(self, given: Any, number: int | None = None) -> None:
        """Answer the newest fetch of a row, or the one with this number."""
        number = max(self.rows_fetched) if number is None else number
        key = self.rows_fetched.pop(number)
        try:
            self.mirror.row_fetched(number, self.mirror.read_row(key, given), at(self.now))
        except RowError as error:
            self.mirror.row_failed(number, error)
        self.pump()

    def receive(self, *changes: Any, inside: bool = True) -> None:
        for one in changes:
            self.mirror.row_changed(one, at(self.now), inside=inside)
            self.pump()

    def live(self, *rows: Any) -> "Driven":
        self.ready()
        self.answer(*rows)
        self.run(1)
        assert self.mirror.state is MirrorState.LIVE
        self.run(self.mirror.settings.pause)
        self.events.clear()
        return self

    @property
    def state(self) -> MirrorState:
        return self.mirror.state

    @property
    def rows(self) -> list[Any]:
        return list(self.mirror.rows.values())
