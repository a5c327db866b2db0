"""Authorization on private topics: evaluates the policies on `realtime.messages` and rolls back.

Reading: rows of the topic are inserted as the owner and selected as the token's role. Writing: a row is inserted as
that role. Everything is rolled back, and each check takes one round trip. The rows have neither event nor payload:
policies use `realtime.topic()`, the column `extension`, and the claims. See docs/protocol.md, Authorization.
"""

import json
from collections.abc import Sequence
from typing import Any, Final, LiteralString, cast
from uuid import uuid4

from psycopg import AsyncClientCursor, Error
from psycopg.pq import TransactionStatus

from supawire.server.postgres.database import Database, DatabaseError
from supawire.server.queries import Extension, PermissionsQuery, QueryError

QUERY_TIMEOUT: Final = 9.5
"""Seconds after which a policy is cancelled; shorter than the hub's own timeout."""
DENIED: Final = "42501"
CANCELED: Final = "57014"
NO_PARTITION: Final = "23514"
"""Used together with the error's text; a failed check constraint has the same code."""

_SET_ROLE_DENIED: Final = "permission denied to set role"
_NO_PARTITION_TEXT: Final = "no partition of relation"
_SET_IDENTITY: Final = """
    select set_config('statement_timeout', %s, true),
           set_config('realtime.topic', %s, true),
           set_config('request.jwt.claims', %s, true),
           set_config('request.jwt.claim.sub', %s, true),
           set_config('request.jwt.claim.role', %s, true),
           set_config('request.headers', %s, true);
    select set_config('role', %s, true);
"""
_INSERT_PROBE: Final = "insert into realtime.messages (id, topic, extension) values (%s, %s, %s);"
_SELECT_PROBES: Final = "select extension from realtime.messages where topic = %s and id = any(%s);"
_INSERT_AS_ROLE: Final = "insert into realtime.messages (topic, extension) values (%s, %s);"


class Policies:
    """Answers permission queries, on connections of its own: a slow policy delays only other permission queries."""

    def __init__(self, url: str, timeout: float = QUERY_TIMEOUT) -> None:
        self.database: Final = Database(url)
        self._timeout = timeout

    async def close(self) -> None:
        """Close the connections."""
        await self.database.close()

    async def permissions(self, query: PermissionsQuery) -> frozenset[Extension] | QueryError:
        """Return the permitted extensions. Raises: DatabaseError when the database cannot be reached."""
        try:
            return await self._answer(query)
        except DatabaseError:  # an idle connection was lost; retry on a new one
            return await self._answer(query)

    async def _answer(self, query: PermissionsQuery) -> frozenset[Extension] | QueryError:
        try:
            return await self._check(query)
        except DatabaseError as error:
            if error.retryable and error.sqlstate != CANCELED:
                raise
            return _query_error_of(error)

    async def _check(self, query: PermissionsQuery) -> frozenset[Extension]:
        if query.action == "read":
            return await self._readable(query)
        writable: list[Extension] = [each for each in query.extensions if await self._writable(query, each)]
        return frozenset(writable)

    async def _readable(self, query: PermissionsQuery) -> frozenset[Extension]:
        rows = {uuid4(): extension for extension in query.extensions}
        probes = [value for row, extension in rows.items() for value in (row, query.topic, extension)]
        text = _INSERT_PROBE * len(rows) + _SET_IDENTITY + _SELECT_PROBES
        found = await _try_out(self.database, text, [*probes, *self._settings(query), query.topic, list(rows)])
        return frozenset(cast("Extension", extension) for (extension,) in found)

    async def _writable(self, query: PermissionsQuery, extension: Extension) -> bool:
        try:
            await _try_out(
                self.database, _SET_IDENTITY + _INSERT_AS_ROLE, [*self._settings(query), query.topic, extension]
            )
        except DatabaseError as error:
            if error.sqlstate != DENIED or error.text.startswith(_SET_ROLE_DENIED):
                raise
            return False
        return True

    def _settings(self, query: PermissionsQuery) -> list[str]:
        """Return the values that policies may read, in the order of `_SET_IDENTITY`."""
        claims, headers = query.requester.claims, query.requester.headers
        subject = claims.values.get("sub")
        return [
            f"{self._timeout * 1000:.0f}ms",
            query.topic,
            json.dumps(claims.values),
            subject if isinstance(subject, str) else "",
            claims.role,
            json.dumps(dict(headers)),
            claims.role,
        ]


async def _try_out(database: Database, text: LiteralString, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
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


def _query_error_of(error: DatabaseError) -> QueryError:
    """Convert an error to the one that the client receives; any other error is treated as one of the policies."""
    if error.sqlstate == CANCELED:
        return QueryError.CANCELED
    no_partition = error.sqlstate == NO_PARTITION and error.text.startswith(_NO_PARTITION_TEXT)
    return QueryError.NO_PARTITION if no_partition else QueryError.POLICY
