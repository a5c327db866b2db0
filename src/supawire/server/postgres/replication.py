"""The stream of committed row changes: `pgoutput` on a replication connection, read on the event loop.

The slot is temporary: it is dropped with its connection, so PostgreSQL keeps no log for a server that is gone. While
the slot exists, PostgreSQL keeps all unconfirmed log, so positions are confirmed as soon as a batch is processed, and
the end of the log whenever nothing is pending, even if no change concerned this server.

A transaction is sent after its commit; a large one arrives in several batches and is never in memory as a whole.

The backlog holds batches that were read and not processed yet. Reading continues while visibility queries take long,
for example because of a table lock, so that messages, which need no such query, are delivered without delay. The next
batch to process consists of everything that has arrived, up to the maximum batch size.
"""

import asyncio
import secrets
import struct
from collections import deque
from collections.abc import Callable, Sequence, Sized
from typing import Final, NamedTuple, NoReturn, Self

import psycopg
from psycopg import AsyncConnection, pq, sql
from psycopg.conninfo import conninfo_to_dict

from supawire.server.postgres.database import APPLICATION_NAME, CONNECT_TIMEOUT, one_line
from supawire.server.postgres.pgoutput import ChangeDecoder, CommittedChange, StreamError

OUTPUT_FORMAT: Final = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "client_encoding": "UTF8",
        "datestyle": "ISO",
        "intervalstyle": "postgres",
        "timezone": "UTC",
        "extra_float_digits": "1",
        "bytea_output": "hex",
        "xmlbinary": "base64",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
    }.items()
)
"""Options that fix the output format of values, independent of the database's settings."""
MAX_BATCH_ROWS: Final = 2_000
REPORT_INTERVAL: Final = 5.0
"""Seconds between two position reports; PostgreSQL ends a replication connection that is silent for a minute."""

_DATA: Final = struct.Struct(">cQQq")
_ALIVE: Final = struct.Struct(">cQqB")
_STATUS: Final = struct.Struct(">cQQQqB")


class StreamLost(Exception):
    """The replication connection has ended; the text is PostgreSQL's."""


class Batch(NamedTuple):
    """Changes in commit order. end_lsn: the position to confirm once they have been processed."""

    rows: list[CommittedChange]
    end_lsn: int


class ReplicationStream:
    """An open replication connection: call `read` in a loop, `confirm` each batch, and `close` at the end."""

    def __init__(self, connection: AsyncConnection, slot: str) -> None:
        self.slot: Final = slot
        self._connection: Final = connection
        self._pg: Final = connection.pgconn
        self._loop: Final = asyncio.get_running_loop()
        self._readable: Final = asyncio.Event()
        self._decoder: Final = ChangeDecoder()
        self._returned_lsn = 0
        self._confirmed_lsn = 0
        self._report_timer: asyncio.TimerHandle | None = None
        self._socket = -1
        self._abandoned: str | None = None

    @classmethod
    async def open(cls, conninfo: str, publications: Sequence[str]) -> Self:
        """Connect, create a slot and start streaming changes committed from now on. Raises: psycopg.Error."""
        given = conninfo_to_dict(conninfo).get("options")
        connection = await AsyncConnection.connect(
            conninfo,
            autocommit=True,
            replication="database",
            options=f"{given} {OUTPUT_FORMAT}" if given else OUTPUT_FORMAT,
            application_name=APPLICATION_NAME,
            connect_timeout=CONNECT_TIMEOUT,
        )
        stream = cls(connection, f"supawire_{secrets.token_hex(8)}")
        try:
            await stream._start(publications)
        except BaseException:
            await stream.close()
            raise
        return stream

    async def _start(self, publications: Sequence[str]) -> None:
        slot = sql.Identifier(self.slot).as_string(self._connection)
        create = f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT"
        await self._connection.execute(create.encode())
        names = sql.Literal(",".join(sql.Identifier(name).as_string(self._connection) for name in publications))
        options = f"proto_version '1', publication_names {names.as_string(self._connection)}"
        self._pg.send_query(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options})".encode())
        self._socket = self._pg.socket
        self._loop.add_reader(self._socket, self._readable.set)
        self._pg.flush()
        while self._pg.is_busy():
            await self._wait()
        result = self._pg.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise self._lost(_message_of(result))
        self._report_position()

    # --- reading ---

    async def read(self) -> Batch:
        """Return the next changes, at least one, or only a position. Raises: StreamLost, StreamError."""
        while True:
            rows: list[CommittedChange] = []
            messages: list[bytes] = []
            end_lsn = 0
            while len(messages) < MAX_BATCH_ROWS and (message := self._next()):
                if message[:1] == b"w" and len(message) > _DATA.size:
                    messages.append(message[_DATA.size :])
                else:
                    end_lsn = self._decode(messages, rows) or end_lsn
                    self._on_keepalive(message)
            end_lsn = self._decode(messages, rows) or end_lsn
            if end_lsn:
                self._returned_lsn = end_lsn
            if rows or end_lsn:
                return Batch(rows, end_lsn)
            await self._wait()

    def _next(self) -> bytes:
        """Return the next message that has arrived; empty if there is none."""
        try:
            size, data = self._pg.get_copy_data(1)
            result = None if size >= 0 else self._pg.get_result()
        except psycopg.Error as error:
            raise self._lost(one_line(error)) from error
        if size < 0:
            raise self._lost(_message_of(result))
        return bytes(data) if size else b""

    def _decode(self, messages: list[bytes], rows: list[CommittedChange]) -> int:
        """Move the row changes in these messages to `rows`; return the position to confirm, 0 if there is none."""
        end_lsn = self._decoder.decode(messages, rows) if messages else 0
        messages.clear()
        return end_lsn

    def abandon(self, why: str) -> None:
        """Make `read` raise StreamLost, because another stream is needed."""
        self._abandoned = why
        self._readable.set()

    async def _wait(self) -> None:
        await self._readable.wait()
        self._readable.clear()
        if self._abandoned is not None:
            raise self._lost(self._abandoned)
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            raise self._lost(one_line(error)) from error

    def _on_keepalive(self, message: bytes) -> None:
        """Process the end of the log, which PostgreSQL sends; answer if it asks for our position."""
        if message[:1] != b"k":
            raise StreamError(f"a message that begins with {message[:1]!r} is not part of a stream")
        _kind, end, _sent_at, wants_answer = _ALIVE.unpack(message)
        if self._decoder.transaction is None and self._confirmed_lsn >= self._returned_lsn:
            self._confirmed_lsn = max(self._confirmed_lsn, end)
        if wants_answer:
            self._report_position()

    # --- positions ---

    def confirm(self, lsn: int) -> None:
        """Confirm that all changes up to this position were processed; PostgreSQL may discard the log before it."""
        self._confirmed_lsn = max(self._confirmed_lsn, lsn)

    def _report_position(self, *, wants_answer: bool = False) -> None:
        """Send our position to PostgreSQL. Its reply has the end of the log, which also moves
        without changes for us.
        """
        lsn = self._confirmed_lsn
        self._pg.put_copy_data(_STATUS.pack(b"r", lsn, lsn, lsn, 0, wants_answer))
        self._pg.flush()
        if self._report_timer is not None:
            self._report_timer.cancel()
        self._report_timer = self._loop.call_later(REPORT_INTERVAL, self._on_report_due)

    def _on_report_due(self) -> None:
        try:
            self._report_position(wants_answer=True)
        except psycopg.Error:  # `read` raises the same error, with PostgreSQL's reason
            self._readable.set()

    # --- closing ---

    async def close(self) -> None:
        """Close the connection; the temporary slot is dropped with it."""
        self._stop_reading()
        await self._connection.close()

    def _stop_reading(self) -> None:
        """Remove the socket from the event loop: after it is closed, its number may be reused."""
        if self._report_timer is not None:
            self._report_timer.cancel()
        if self._socket >= 0:
            self._loop.remove_reader(self._socket)
            self._socket = -1

    def _lost(self, why: str) -> StreamLost:
        self._stop_reading()
        return StreamLost(why)


def _message_of(result: pq.abc.PGresult | None) -> str:
    """Return PostgreSQL's message for the end of the stream."""
    text = b"" if result is None else result.error_message
    return text.decode("utf-8", "replace").strip() or "the database ended the replication connection"


MAX_BACKLOG_ROWS: Final = 5 * MAX_BATCH_ROWS
"""Maximum rows in the backlog; further rows stay in the database's log."""


class RowConsumer(NamedTuple):
    """A receiver of committed rows of one schema, in commit order, and the publication that it needs."""

    publication: str
    schema: str
    take: Callable[[Sequence[CommittedChange]], None]


class Backlog:
    """Batches that were read and not processed yet, in order of arrival."""

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._rows = 0
        self._not_empty: Final = asyncio.Event()
        self._not_full: Final = asyncio.Event()
        self._not_full.set()

    def add(self, batch: Batch) -> None:
        """Add a batch. A batch without rows only advances the position of the previous one."""
        if self._batches and not batch.rows:
            self._batches[-1] = self._batches[-1]._replace(end_lsn=batch.end_lsn or self._batches[-1].end_lsn)
            return
        self._batches.append(batch)
        self._rows += len(batch.rows)
        self._not_empty.set()
        if self._rows >= MAX_BACKLOG_ROWS:
            self._not_full.clear()

    async def wait_for_space(self) -> None:
        """Wait until another batch may be read."""
        await self._not_full.wait()

    async def fill(self, stream: ReplicationStream, consumers: Sequence[RowConsumer], subscribed: Sized) -> NoReturn:
        """Read the stream: pass rows to their consumers at once, and store them if any channel is subscribed.

        Raises: StreamLost, StreamError.
        """
        while True:
            await self.wait_for_space()
            batch = await stream.read()
            for consumer in consumers:
                if rows := [row for row in batch.rows if row.relation.schema == consumer.schema]:
                    consumer.take(rows)
            self.add(batch if subscribed else batch._replace(rows=[]))

    async def next(self) -> Batch:
        """Return the oldest batches merged into one, with the last position."""
        await self._not_empty.wait()
        batch = self._batches.popleft()
        while self._batches and len(batch.rows) + len(self._batches[0].rows) <= MAX_BATCH_ROWS:
            more = self._batches.popleft()
            batch = Batch([*batch.rows, *more.rows], more.end_lsn or batch.end_lsn)
        self._rows -= len(batch.rows)
        if not self._batches:
            self._not_empty.clear()
        if self._rows < MAX_BACKLOG_ROWS:
            self._not_full.set()
        return batch
