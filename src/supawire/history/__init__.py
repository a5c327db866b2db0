"""Readers of the stored messages, and stores of cursors. Each is loaded when it is first used.

`DatabaseHistory`, `PostgresCursors` need psycopg: `pip install 'supawire[history]'`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from supawire.cursors import Cursor, CursorStore, HistorySource, Page, PageQuery, Position, StoredBroadcast, StoredRow

if TYPE_CHECKING:
    from supawire.history.postgres import DatabaseHistory, PostgresCursors
    from supawire.history.rest import RestHistory
    from supawire.history.sqlite import SqliteCursors

__all__ = [
    "Cursor",
    "CursorStore",
    "DatabaseHistory",
    "HistorySource",
    "Page",
    "PageQuery",
    "Position",
    "PostgresCursors",
    "RestHistory",
    "SqliteCursors",
    "StoredBroadcast",
    "StoredRow",
]

_HOMES: Final = {
    "DatabaseHistory": "postgres",
    "PostgresCursors": "postgres",
    "RestHistory": "rest",
    "SqliteCursors": "sqlite",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a class when it is first used."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
