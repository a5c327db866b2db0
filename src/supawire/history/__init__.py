"""Readers of the stored messages, and stores of cursors. Each is loaded when it is first used.

`DatabaseHistory`, `PostgresCursors` need psycopg: `pip install 'supawire[history]'`.
"""

from typing import TYPE_CHECKING, Final

from supawire._lazy import lazy_names
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
    __getattr__ = lazy_names(__name__, _HOMES)
