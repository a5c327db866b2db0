"""Who may do what on a private topic: policies on `realtime.messages`, tried and undone (protocol §7.4).

Reading: rows of the topic are inserted as ourselves, and looked for as the role of the token. Writing: a row is
inserted as that role. Nothing of it stays, and each trial is one journey to the database. The rows have neither event
nor payload: policies go by `realtime.topic()`, the column `extension`, and the claims.
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
"""After which a policy that comes to no end is cancelled: just before the hub gives up."""
DENIED: Final = "42501"
CANCELED: Final = "57014"
NO_PARTITION: Final = "23514"
"""With this text; the same code is a check's that fails."""

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
    """The part that knows rights."""

    def __init__(self, ground: BackendContext) -> None:
        self._database = Database(ground.url)  # of its own: a slow policy keeps only others that ask for rights waiting

    @property
    def answers(self) -> Answers:
        """Permissions."""
        return {PermissionsQuery: self.permissions}

    async def start(self) -> None:
        """Nothing has to be ready."""

    async def run(self) -> None:
        """Nothing is done unasked."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Close the connections."""
        await self._database.close()

    def unsubscribe(self, channel: int) -> None:
        """Nothing is bound."""

    async def permissions(self, asked: PermissionsQuery) -> frozenset[Extension] | QueryError:
        """What is allowed. Raises: DatabaseError when the database cannot be reached."""
        try:
            return await self._answer(asked)
        except DatabaseError:  # a connection was lost while it was idle; another one is made
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
    """What policies may look at, in the order of `_BECOME`."""
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
    """Run statements in a transaction that is undone, in one journey; the rows of the last one that has any."""
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
    """What it means for who asked (protocol §6.7, §9.2); any other error is one of the policies."""
    if error.sqlstate == CANCELED:
        return QueryError.CANCELED
    no_partition = error.sqlstate == NO_PARTITION and error.text.startswith(_UNPLACED)
    return QueryError.NO_PARTITION if no_partition else QueryError.POLICY
