"""Authorization on private topics: evaluates the policies on `realtime.messages` and rolls back.

Reading: rows of the topic are inserted as the owner and selected as the token's role. Writing: a row is inserted as
that role. Everything is rolled back, and each check takes one round trip. The rows have neither event nor payload:
policies use `realtime.topic()`, the column `extension`, and the claims. See docs/protocol.md, Authorization.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final, LiteralString, cast
from uuid import uuid4

from psycopg import AsyncClientCursor, Error
from psycopg.pq import TransactionStatus

from supawire.server.postgres.component import Answers, BackendContext
from supawire.server.postgres.database import Database, DatabaseError
from supawire.server.queries import Extension, PermissionsQuery, QueryError

QUERY_TIMEOUT: Final = "9500ms"
"""A policy that takes longer is cancelled; shorter than the hub's own timeout."""
DENIED: Final = "42501"
CANCELED: Final = "57014"
NO_PARTITION: Final = "23514"
"""Used together with the error's text; a failed check constraint has the same code."""

_MAY_NOT_BECOME: Final = "permission denied to set role"
_UNPLACED: Final = "no partition of relation"
_BECOME: Final = """
    select set_config('statement_timeout', %s, true),
           set_config('realtime.topic', %s, true),
           set_config('request.jwt.claims', %s, true),
           set_config('request.jwt.claim.sub', %s, true),
           set_config('request.jwt.claim.role', %s, true),
           set_config('request.headers', %s, true);
    select set_config('role', %s, true);
"""
_PROBE: Final = "insert into realtime.messages (id, topic, extension) values (%s, %s, %s);"
_SEEN: Final = "select extension from realtime.messages where topic = %s and id = any(%s);"
_WRITE: Final = "insert into realtime.messages (topic, extension) values (%s, %s);"


class Policies:
    """Component that answers permission queries."""

    def __init__(self, ground: BackendContext) -> None:
        self._database = Database(ground.url)  # a separate pool: a slow policy delays only other permission queries

    @property
    def answers(self) -> Answers:
        return {PermissionsQuery: self.permissions}

    async def start(self) -> None:
        """Do nothing."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        await self._database.close()

    def unsubscribe(self, channel: int) -> None:
        """Do nothing."""

    async def permissions(self, asked: PermissionsQuery) -> frozenset[Extension] | QueryError:
        """Return the permitted extensions. Raises: DatabaseError when the database cannot be reached."""
        try:
            return await self._answer(asked)
        except DatabaseError:  # an idle connection was lost; retry on a new one
            return await self._answer(asked)

    async def _answer(self, asked: PermissionsQuery) -> frozenset[Extension] | QueryError:
        try:
            return await self._look(asked)
        except DatabaseError as error:
            if error.retryable and error.sqlstate != CANCELED:
                raise
            return _trouble(error)

    async def _look(self, asked: PermissionsQuery) -> frozenset[Extension]:
        if asked.action == "read":
            return await self._readable(asked)
        writable: list[Extension] = [each for each in asked.extensions if await self._writable(asked, each)]
        return frozenset(writable)

    async def _readable(self, asked: PermissionsQuery) -> frozenset[Extension]:
        rows = {uuid4(): extension for extension in asked.extensions}
        probes = [value for row, extension in rows.items() for value in (row, asked.topic, extension)]
        text = _PROBE * len(rows) + _BECOME + _SEEN
        found = await _try(self._database, text, [*probes, *_settings(asked), asked.topic, list(rows)])
        return frozenset(cast("Extension", extension) for (extension,) in found)

    async def _writable(self, asked: PermissionsQuery, extension: Extension) -> bool:
        try:
            await _try(self._database, _BECOME + _WRITE, [*_settings(asked), asked.topic, extension])
        except DatabaseError as error:
            if error.sqlstate != DENIED or error.text.startswith(_MAY_NOT_BECOME):
                raise
            return False
        return True


def _settings(asked: PermissionsQuery) -> list[str]:
    """Return the values that policies may read, in the order of `_BECOME`."""
    claims, headers = asked.who.claims, asked.who.headers
    subject = claims.values.get("sub")
    return [
        QUERY_TIMEOUT,
        asked.topic,
        json.dumps(claims.values),
        subject if isinstance(subject, str) else "",
        claims.role,
        json.dumps(dict(headers)),
        claims.role,
    ]


async def _try(database: Database, text: LiteralString, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run statements in a transaction that is rolled back, in one round trip; return the last result set."""
    async with database.connection() as connection:
        cursor = AsyncClientCursor(connection)
        try:
            await cursor.execute("begin;" + text + "rollback", parameters)
        except Error:
            if connection.info.transaction_status == TransactionStatus.INERROR:
                await connection.rollback()
            raise
        rows: list[tuple[Any, ...]] = []
        more: bool | None = True
        while more:
            if cursor.description is not None:
                rows = await cursor.fetchall()
            more = cursor.nextset()
        return rows


def _trouble(error: DatabaseError) -> QueryError:
    """Convert an error to the one that the client receives; any other error is treated as one of the policies."""
    if error.sqlstate == CANCELED:
        return QueryError.CANCELED
    no_partition = error.sqlstate == NO_PARTITION and error.text.startswith(_UNPLACED)
    return QueryError.NO_PARTITION if no_partition else QueryError.POLICY
