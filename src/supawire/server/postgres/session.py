"""SQL from any thread, a statement at a time: what `LocalServer.sql` runs on."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg.rows import TupleRow

from supawire.errors import StateError
from supawire.server.postgres.database import CONNECTING, NAME


class Session:
    """One connection for all threads, opened when it is first used, and again when it was lost.

    Args: where: the URL of the database, once it runs.
    """

    def __init__(self, where: Callable[[], str]) -> None:
        self._where: Final = where
        self._turn: Final = threading.Lock()
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._closed = False

    def run(self, text: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of the last statement that has any; each is committed when this returns.

        Raises: psycopg.Error; StateError once it is closed.
        """
        with self._turn:
            if self._closed:
                raise StateError("the local server has stopped")
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connection = psycopg.connect(
                    self._where(), autocommit=True, application_name=NAME, connect_timeout=CONNECTING
                )
            with connection.cursor() as cursor:
                cursor.execute(cast("LiteralString", text), parameters or None)  # whoever writes tests writes SQL
                rows: list[tuple[Any, ...]] = []
                more: bool | None = True
                while more:
                    if cursor.description is not None:
                        rows = cursor.fetchall()
                    more = cursor.nextset()
                return rows

    def close(self) -> None:
        """Close the connection for good, once the statement that is running is done."""
        with self._turn:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
